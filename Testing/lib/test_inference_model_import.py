from __future__ import annotations

import stat
import zipfile

import pytest
import torch

from CrossModalSegLib.errors import ModelError, OutputError, TakenError
from CrossModalSegLib.inference import model_import
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model, save_model
from CrossModalSegLib.inference.model_import import import_model
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.factory import build_network

CONFIG = {"num_classes": 2, "modalities": 1, "base_channels": 2}


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    card = ModelCard("tiny", "cmfnet", CONFIG, ("ct",), LabelTable.from_names(["liver"]))
    return save_model(tmp_path / "source", build_network("cmfnet", CONFIG), card)


def archive(source, path, prefix="", extra=()):
    with zipfile.ZipFile(path, "w") as out:
        for name in ("model.json", "model.safetensors"):
            out.write(source / name, prefix + name)
        for name, content in extra:
            out.writestr(name, content)
    return path


def test_from_a_folder(source, tmp_path):
    (source / "checkpoint.pt").write_bytes(b"pickle")
    installed = import_model(source, tmp_path / "models")
    assert installed == tmp_path / "models" / "tiny"
    assert sorted(path.name for path in installed.iterdir()) == ["model.json", "model.safetensors"]
    assert load_model(installed).card.name == "tiny"


@pytest.mark.parametrize("prefix", ["", "tiny/"])
def test_from_a_zip(source, tmp_path, prefix):
    path = archive(source, tmp_path / "modèle.zip", prefix, [(prefix + "LICENCE.txt", "CC BY 4.0")])
    installed = import_model(path, tmp_path / "models", name="other-name")
    assert installed.name == "other-name" and (installed / "LICENCE.txt").read_text() == "CC BY 4.0"
    load_model(installed)
    with pytest.raises(OutputError):
        import_model(path, tmp_path / "models", name="other-name")
    import_model(path, tmp_path / "models", name="other-name", overwrite=True)


def test_into_the_user_s_folder(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "mine"))
    assert import_model(source) == tmp_path / "mine" / "tiny"
    assert load_model("tiny").card.name == "tiny"


def test_a_model_that_ships_is_only_hidden_by_another_one_on_request(source, tmp_path, monkeypatch):
    """A fit begins with the one of this name, whoever made it."""
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "mine"))
    for path in (source, archive(source, tmp_path / "model.zip")):
        with pytest.raises(TakenError, match="'scribble-prior' comes with the library"):
            import_model(path, name="scribble-prior")
    assert not (tmp_path / "mine").exists()
    assert import_model(source, tmp_path / "others", name="scribble-prior").is_dir()
    assert import_model(source, name="scribble-prior", overwrite=True) == tmp_path / "mine" / "scribble-prior"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil.txt", "unsafe path"),
        ("/tmp/evil.txt", "unsafe path"),
        ("..\\evil.txt", "unsafe path"),
        ("C:evil.txt", "unsafe path"),
        ("a/../../evil.txt", "unsafe path"),
        ("model.pt", "safetensors, JSON and text"),
        ("run.py", "safetensors, JSON and text"),
        ("deep/er/notes.txt", "at its top or in one folder"),
    ],
)
def test_unsafe_archives_leave_nothing_behind(source, tmp_path, name, message):
    path = archive(source, tmp_path / "bad.zip", extra=[(name, "x")])
    before = {p for p in tmp_path.rglob("*") if p != path}
    with pytest.raises(ModelError, match=message):
        import_model(path, tmp_path / "models")
    assert {p for p in tmp_path.rglob("*") if p != path} == before


def test_what_macos_adds_to_an_archive_is_left_out(source, tmp_path):
    extra = [("heads/.DS_Store", "x"), ("__MACOSX/heads/._model.json", "x"), ("__MACOSX/._heads", "x")]
    path = archive(source, tmp_path / "heads.zip", prefix="heads/", extra=extra)
    folder = import_model(path, tmp_path / "models")
    assert {each.name for each in folder.iterdir()} == {each.name for each in source.iterdir()}


def test_the_zip_of_a_trained_model_with_its_curve(source, tmp_path):
    extra = [("heads/curve.png", "x"), ("heads/history.json", "{}"), ("heads/training.json", "{}")]
    folder = import_model(archive(source, tmp_path / "heads.zip", prefix="heads/", extra=extra), tmp_path / "models")
    assert load_model(folder).card.name == "tiny"
    assert not (folder / "curve.png").exists()


def test_links_are_refused(source, tmp_path):
    path = archive(source, tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as out:
        info = zipfile.ZipInfo("notes.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(info, "/etc/passwd")
    with pytest.raises(ModelError, match="unsafe path"):
        import_model(path, tmp_path / "models")


def test_limits(source, tmp_path, monkeypatch):
    path = archive(source, tmp_path / "big.zip")
    monkeypatch.setattr(model_import, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(ModelError, match="at most"):
        import_model(path, tmp_path / "models")
    with pytest.raises(ModelError, match="at most"):
        import_model(source, tmp_path / "models")


def test_what_is_no_model(source, tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ModelError, match="not a usable zip"):
        import_model(tmp_path / "text.zip", tmp_path / "models")
    with pytest.raises(ModelError, match="no model folder or zip"):
        import_model(tmp_path / "nothing", tmp_path / "models")
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as out:
        out.write(source / "model.json", "model.json")
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        import_model(tmp_path / "half.zip", tmp_path / "models")
    whole = archive(source, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a usable zip"):
        import_model(tmp_path / "cut.zip", tmp_path / "models")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_within_an_archive_is_told(source, tmp_path, compression):
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", compression) as out:
        out.write(source / "model.json", "model.json")
        out.write(source / "model.safetensors", "model.safetensors")
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"'model\.json' in it is damaged"):
        import_model(path, tmp_path / "models")
    assert not (tmp_path / "models").exists() or not any((tmp_path / "models").iterdir())


def test_damaged_weights_are_not_installed(source, tmp_path):
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"damaged.zip.* is damaged") as caught:
        import_model(archive(source, tmp_path / "damaged.zip"), tmp_path / "models")
    assert ".partial" not in str(caught.value)  # the copy is gone
    assert not (tmp_path / "models").exists()
