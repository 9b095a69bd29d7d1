from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from CrossModalSegLib.config import from_dict, parse_json, read_json, to_dict
from CrossModalSegLib.errors import CrossModalSegError, InputError, LabelError


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["max", "mean", 3] = "max"


@dataclass(frozen=True)
class Outer:
    rate: float = 0.5
    name: str = "x"
    on: bool = False
    inner: Inner = field(default_factory=lambda: Inner(3))
    maybe: Inner | None = None
    old_style: Optional[int] = None  # noqa: UP045
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    parts: tuple[Inner, ...] = ()
    words: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    path: Path | None = None
    either: int | str = 1
    derived: int = field(init=False, default=7)


@dataclass(frozen=True)
class Picky:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size == 0:
            raise ValueError("a size of 0 makes no sense")
        if self.size < 0:
            raise LabelError("negative")


sizes = st.integers(-(2**40), 2**40)
inners = st.builds(Inner, sizes, st.sampled_from(["max", "mean", 3]))
outers = st.builds(
    Outer,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(max_size=5),
    on=st.booleans(),
    inner=inners,
    maybe=inners | st.none(),
    old_style=sizes | st.none(),
    pair=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    many=st.lists(sizes, max_size=3).map(tuple),
    parts=st.lists(inners, max_size=3).map(tuple),
    words=st.lists(st.text(max_size=3), max_size=3),
    table=st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=3),
    path=st.sampled_from([None, Path("a") / "b"]),
    either=sizes | st.text(max_size=3),
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(outers)
def test_round_trip_through_json_text(config: Outer):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_defaults_fill_missing_keys():
    assert from_dict(Outer, {}) == Outer()
    assert "derived" not in to_dict(Outer())


def test_a_whole_number_may_stand_for_a_float():
    rate = from_dict(Outer, {"rate": 2}).rate
    assert (rate, type(rate)) == (2.0, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"The configuration should be an object with named values, got \[\]"),
        ({"ratte": 1}, "key 'ratte' is unknown; Outer has the keys rate, name"),
        ({"inner": {"size": 1, "knd": "max"}}, "key 'inner.knd' is unknown; Inner has"),
        ({"inner": {}}, "key 'inner.size' is missing; Inner needs it"),
        ({"derived": 7}, "key 'derived' is unknown"),
        ({"rate": "0.5"}, "'rate' should be a number, got '0.5'"),
        ({"rate": True}, "'rate' should be a number, got True"),
        ({"rate": float("inf")}, "'rate' should be finite"),
        ({"rate": 10**400}, "number at 'rate' is too large"),
        ({"inner": {"size": 1.0}}, "'inner.size' should be a whole number, got 1.0"),
        ({"inner": {"size": True}}, "'inner.size' should be a whole number, got True"),
        ({"inner": {"size": 1, "kind": "min"}}, "'inner.kind' should be one of 'max', 'mean', 3, got 'min'"),
        ({"on": 1}, "'on' should be true or false, got 1"),
        ({"name": None}, "'name' should be text, got None"),
        ({"pair": [1]}, "'pair' should be a list of 2 values"),
        ({"pair": 1}, "'pair' should be a list, got 1"),
        ({"many": [1, "2"]}, r"'many\[1\]' should be a whole number, got '2'"),
        ({"parts": [{"size": "1"}]}, r"'parts\[0\].size' should be a whole number"),
        ({"table": {"a": "b"}}, "'table.a' should be a number"),
        ({"maybe": {"size": "1"}}, "'maybe.size' should be a whole number"),
        ({"old_style": "1"}, "'old_style' should be a whole number"),
        ({"either": 1.5}, "'either' should be a whole number or text, got 1.5"),
        ({"path": 3}, "'path' should be a path, got 3"),
        ({"name": "y" * 0, "words": "abc"}, "'words' should be a list, got 'abc'"),
    ],
)
def test_wrong_configurations_name_the_key(data: object, message: str):
    with pytest.raises(InputError, match=message):
        from_dict(Outer, data)


def test_errors_of_the_class_itself():
    with pytest.raises(InputError, match="The configuration is not usable: a size of 0 makes no sense"):
        from_dict(Picky, {"size": 0})
    with pytest.raises(LabelError, match="negative"):
        from_dict(Picky, {"size": -1})


@given(junk | st.fixed_dictionaries({}, optional=dict.fromkeys(Outer.__dataclass_fields__, junk)))
def test_any_data_gives_a_config_or_our_error(data: object):
    try:
        config = from_dict(Outer, data)
    except CrossModalSegError:
        return
    assert isinstance(config, Outer)


def test_what_json_cannot_hold():
    with pytest.raises(InputError, match="instance of a dataclass was expected, got type"):
        to_dict(Outer)
    with pytest.raises(InputError, match=r"'Outer.rate' is nan, which JSON cannot hold"):
        to_dict(Outer(rate=float("nan")))
    with pytest.raises(InputError, match=r"'Outer.words\[0\]' is of the type object"):
        to_dict(Outer(words=[object()]))


# --- JSON text ---------------------------------------------------------------------------------------------------


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")) | junk.map(json.dumps))
def test_any_text_is_json_or_our_error(text: str):
    try:
        value = parse_json(text, "The text")
    except InputError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' appears twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[1e999]", "1e999 is too large"),
        ("[" * 100_000, "not valid JSON"),
        ("", "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
    ],
)
def test_bad_json(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_json(text, "The text")


def test_bad_json_files(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.json' does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_json(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_json(tmp_path / "latin.json")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "bom.json") == [1]
