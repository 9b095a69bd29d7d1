"""What `crossmodalseg web` is asked, before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import run

from CrossModalSegLib.cli import web
from CrossModalSegLib.cli.main import main
from CrossModalSegLib.cli.web import Arguments
from CrossModalSegLib.errors import InputError


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ct.nii.gz"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ct": Path("missing.nii.gz")}, "There is no '.*missing.nii.gz'"),
        ({"mask": Path("mask.nii.gz")}, "--mask needs the image"),
        ({"targets": ((Path("a"),),)}, "--targets need a --reference"),
        ({"reference": Path("a"), "mr": Path("b")}, "either --ct and --mr, or --reference and --targets"),
        ({"image": Path("a"), "mr": Path("b")}, "either --image, or --ct and --mr"),
        ({"labels": ("GTV", "gtv")}, "these appear twice: gtv"),
        ({"max_upload_mb": 0}, "--max-upload-mb should be 1 or above"),
        ({"device": "gpu"}, "There is no device 'gpu'"),
    ],
)
def test_pages_that_cannot_be_are_refused(image: Path, changes: dict[str, object], message: str) -> None:
    if changes.get("mask") is not None:
        changes = {"mask": image}
    with pytest.raises(InputError, match=message):
        web._page_options(Arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pages": 0}, "--pages should be 1 or above"),
        ({"port": 70000}, "--port should be from 0 to 65535"),
        ({"idle_minutes": 0.0}, "--idle-minutes should be above 0"),
    ],
)
def test_fronts_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        web._front_options(Arguments(**changes))


def test_images_keep_their_roles_and_order(image: Path) -> None:
    options = web._page_options(Arguments(mr=image, ct=image, labels=("GTV",)))
    assert [start.role for start in options.images] == ["ct", "mr"]
    options = web._page_options(Arguments(reference=image, targets=((image,), (image,))))
    assert [start.role for start in options.images] == ["reference", "target", "target"]
    assert all(start.path.is_absolute() for start in options.images)


@pytest.mark.parametrize("written", ["--targets a b", "--target a --target b", "--targets a --targets b"])
def test_targets_are_given_together_or_one_by_one(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(web, "run", asked.append)
    assert main(["web", "--reference", "r", *written.split(), "--labels", "liver", "spleen"]) == 0
    (args,) = asked
    assert [path for group in args.targets for path in group] == [Path("a"), Path("b")]
    assert args.labels == ("liver", "spleen") and args.reference == Path("r")


def test_only_other_addresses_need_a_token() -> None:
    assert web._front_options(Arguments()).token is None
    assert web._front_options(Arguments()).host == "127.0.0.1"
    tokens = {web._front_options(Arguments(host="0.0.0.0")).token for _ in range(3)}
    assert len(tokens) == 3 and all(len(token) >= 32 for token in tokens)


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trame_slicer" else object())
    result = run(capsys, "web")
    assert result.code == 2
    assert "not installed (trame_slicer): install 'CrossModalSegLib[web]'" in result.err
