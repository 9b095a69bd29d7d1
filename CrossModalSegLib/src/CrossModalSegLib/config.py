"""Frozen dataclasses from and to JSON, strictly: an unknown key or a wrong type is an error that names the key."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import CrossModalSegError, InputError

Config = TypeVar("Config")


def to_dict(obj: object) -> dict[str, Any]:
    """Turn a dataclass into what JSON can hold: nested objects, lists, text and numbers.

    Args:
        obj: an instance of a dataclass.

    Raises:
        InputError: it is none, or holds something that JSON cannot (an array, NaN, a function).
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise InputError(f"An instance of a dataclass was expected, got {type(obj).__name__}.")
    return _plain(obj, type(obj).__name__)


def from_dict(cls: type[Config], data: object) -> Config:
    """Build a dataclass from what JSON gave.

    Types are taken at their word: no text becomes a number, true is no number, a whole number may stand for a float.

    Args:
        cls: a dataclass; fields may be bool, int, float, str, Path, None, Literal, Optional, unions, lists, tuples,
            dicts by text, and other dataclasses.
        data: nested dicts and lists.

    Returns:
        An instance of `cls`; missing keys take their defaults.

    Raises:
        InputError: a key is unknown or missing, or a value has another type; the key is named.
    """
    return _dataclass(cls, data, "")


def read_json(path: str | Path) -> object:
    """Read a JSON file strictly: UTF-8, no NaN or infinities, no key twice.

    Raises:
        InputError: the file is missing, unreadable, or not such JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"The file '{path}' does not exist.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as UTF-8 text ({error}).") from error
    return parse_json(text, f"'{path}'")


def parse_json(text: str, what: str) -> object:
    """Parse JSON text strictly: no NaN or infinities, no key twice.

    Args:
        text: the JSON.
        what: how a sentence about it begins.

    Raises:
        InputError: it is not such JSON.
    """
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=_unique_keys
        )
    except RecursionError as error:
        raise InputError(f"{what} is not valid JSON: it is nested too deeply.") from error
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON: {error}.") from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return result


def _plain(value: object, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init]
        return {field.name: _plain(getattr(value, field.name), f"{where}.{field.name}") for field in fields}
    if isinstance(value, dict):
        return {_text_key(key, where): _plain(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, f"{where}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"'{where}' is {value}, which JSON cannot hold.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"'{where}' is of the type {type(value).__name__}, which JSON cannot hold.")


def _text_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"'{where}' has the key {key!r}; JSON keys are text.")
    return key


def _dataclass(cls: type[Config], data: object, where: str) -> Config:
    if not isinstance(data, dict):
        raise _wrong(where, "an object with named values", data)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    _check_keys(fields, data, where, cls.__name__)
    values = {name: _value(hints[name], data[name], _join(where, name)) for name in fields if name in data}
    try:
        return cls(**values)
    except CrossModalSegError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{_quoted(where)} is not usable: {error}") from error


def _check_keys(fields: dict[str, dataclasses.Field], data: dict[str, object], where: str, name: str) -> None:
    unknown = [key for key in data if key not in fields]
    if unknown:
        raise InputError(
            f"The key '{_join(where, str(unknown[0]))}' is unknown; {name} has the keys {', '.join(fields)}."
        )
    missing = [
        key
        for key, field in fields.items()
        if key not in data and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"The key '{_join(where, missing[0])}' is missing; {name} needs it.")


def _value(kind: Any, data: object, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return data
    if kind is None or kind is type(None):
        if data is not None:
            raise _wrong(where, "null", data)
        return None
    if origin is Literal:
        return _literal(kind, data, where)
    if origin in (Union, types.UnionType):
        return _union(kind, data, where)
    if origin in (list, tuple) or kind in (list, tuple):
        return _sequence(kind, origin or kind, data, where)
    if origin is dict or kind is dict:
        return _mapping(kind, data, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    return _scalar(kind, data, where)


def _literal(kind: Any, data: object, where: str) -> Any:
    for choice in get_args(kind):
        if type(choice) is type(data) and choice == data:
            return choice
    raise _wrong(where, f"one of {', '.join(repr(choice) for choice in get_args(kind))}", data)


def _union(kind: Any, data: object, where: str) -> Any:
    members = get_args(kind)
    if data is None and type(None) in members:
        return None
    errors = []
    for member in members:
        if member is type(None):
            continue
        try:
            return _value(member, data, where)
        except CrossModalSegError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise _wrong(where, " or ".join(_kind_name(member) for member in members), data)


def _sequence(kind: Any, container: type, data: object, where: str) -> Any:
    if not isinstance(data, (list, tuple)):
        raise _wrong(where, "a list", data)
    kinds = get_args(kind)
    if not kinds:
        return container(data)
    if container is list or (len(kinds) == 2 and kinds[1] is Ellipsis):
        kinds = (kinds[0],) * len(data)
    elif kinds == ((),):
        kinds = ()
    if len(kinds) != len(data):
        raise _wrong(where, f"a list of {len(kinds)} values", data)
    pairs = enumerate(zip(kinds, data, strict=True))
    return container(_value(each, item, f"{where}[{index}]") for index, (each, item) in pairs)


def _mapping(kind: Any, data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _wrong(where, "an object with named values", data)
    value_kind = get_args(kind)[1] if get_args(kind) else Any
    return {key: _value(value_kind, each, _join(where, key)) for key, each in data.items()}


def _scalar(kind: Any, data: object, where: str) -> Any:
    if kind is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return _float(data, where)
    if kind is Path and isinstance(data, (str, Path)):
        return Path(data)
    if kind in (bool, int, str) and type(data) is kind:
        return data
    if kind in (bool, int, str, float, Path):
        raise _wrong(where, _kind_name(kind), data)
    raise InputError(f"'{where}' has the type {_kind_name(kind)}, which a configuration cannot hold.")


def _float(data: float, where: str) -> float:
    try:
        value = float(data)
    except OverflowError as error:
        raise InputError(f"The number at '{where}' is too large.") from error
    if not math.isfinite(value):
        raise InputError(f"The number at '{where}' should be finite, got {value}.")
    return value


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _kind_name(kind: Any) -> str:
    if kind is type(None):
        return "null"
    return _KIND_NAMES.get(kind) or getattr(kind, "__name__", str(kind))


def _wrong(where: str, expected: str, data: object) -> InputError:
    got = repr(data)
    return InputError(f"{_quoted(where)} should be {expected}, got {got if len(got) <= 80 else got[:77] + '...'}.")


def _quoted(where: str) -> str:
    return f"'{where}'" if where else "The configuration"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
