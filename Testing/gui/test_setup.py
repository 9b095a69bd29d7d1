"""The installer, on virtual environments and wheels made by hand; nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import types
import venv
import zipfile
from pathlib import Path

import pytest
from CrossModalSegPanel import installation as setup

ROOT = Path(__file__).resolve().parents[2]

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "CrossModalSegLib"
version = "0.3.0"
dependencies = [
    "numpy>=1.0,<3",     # Slicer's
    "SimpleITK>=2.3,<3", # Slicer's
    "torch>=2.8,<3",     # the PyTorch extension's
    "helper>=1",
]
"""
BACKEND = """
import zipfile, pathlib
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "CrossModalSegLib-0.3.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as file:
        info = "CrossModalSegLib-0.3.0.dist-info/"
        file.writestr("CrossModalSegLib/__init__.py", "")
        file.writestr(info + "METADATA",
            "Metadata-Version: 2.1\\nName: CrossModalSegLib\\nVersion: 0.3.0\\nRequires-Dist: SimpleITK>=2.3\\n")
        file.writestr(info + "WHEEL",
            "Wheel-Version: 1.0\\nGenerator: hand\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr(info + "RECORD", "")
    return name
"""


def write_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """A wheel that holds one empty module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": b"",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            + (f"Requires-Dist: {requires}\n" if requires else "")
        ).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        for path, data in files.items()
    }
    record = "".join(f"{path},sha256={digest},{len(files[path])}\n" for path, digest in digests.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, data in files.items():
            file.writestr(path, data)
        file.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True, symlinks=True)
    return folder


@pytest.fixture
def slicer_like(bare: Path, tmp_path: Path):
    """A Python with numpy 1.0 and torch 2.8, and a SimpleITK that pip does not know; the library's source; wheels."""
    python = str(bare / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    wheels, source = tmp_path / "wheels", tmp_path / "ship" / "CrossModalSegLib"
    site = next(bare.rglob("site-packages"))
    before = set(site.iterdir())
    wheels.mkdir()
    source.mkdir(parents=True)
    for name, version in (("numpy", "1.0"), ("torch", "2.8")):
        write_wheel(tmp_path, name, version)
        with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl") as file:
            file.extractall(site)
    write_wheel(wheels, "numpy", "2.0")
    write_wheel(wheels, "torch", "2.9")
    write_wheel(wheels, "SimpleITK", "2.5")
    write_wheel(wheels, "helper", "1.0", requires="numpy>=1.0")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "backend.py").write_text(BACKEND)
    yield python, source, wheels
    for path in set(site.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def installed(python: str) -> dict[str, str]:
    found = setup.Installation(Path(), python=python)._installed()
    return {name: version for name, version in found.items() if name not in ("pip", "setuptools")}


def test_slicers_own_packages_stay_as_they_are(slicer_like) -> None:
    python, source, wheels = slicer_like
    setup.Installation(source, wheels, python).run()
    assert installed(python) == {"numpy": "1.0", "torch": "2.8", "helper": "1.0", "CrossModalSegLib": "0.3.0"}
    assert sorted(path.name for path in source.iterdir()) == ["backend.py", "pyproject.toml"]


def test_a_package_that_cannot_be_had_changes_nothing_and_pip_is_quoted(slicer_like) -> None:
    python, source, wheels = slicer_like
    (wheels / "helper-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        setup.SetupError, match="The last lines of pip:\n(.|\n)*No matching distribution found for helper"
    ):
        setup.Installation(source, wheels, python).run()
    assert installed(python) == {"numpy": "1.0", "torch": "2.8"}


class FullDisk(setup.Installation):
    """pip works until the library itself is installed; a packages' table instead of an environment."""

    def __init__(self, source: Path) -> None:
        super().__init__(source)
        self.packages = {"numpy": "1.0", "torch": "2.8", "tqdm": "4.0"}
        self.calls: list[tuple[str, ...]] = []
        self.constraints = ""

    def _clear_left_behind(self) -> None:
        """There is no environment."""

    def _installed(self) -> dict[str, str]:
        return dict(self.packages)

    def _pip(self, action: str, *arguments: str) -> None:
        self.calls.append((action, *arguments))
        if action == "wheel":
            (Path(arguments[2]) / "CrossModalSegLib-0.3.0-py3-none-any.whl").touch()
        elif action == "uninstall":
            self.packages = {name: version for name, version in self.packages.items() if name not in arguments}
        elif "--dry-run" in arguments:
            self.constraints = Path(arguments[-1]).read_text()
        elif "--force-reinstall" in arguments:
            raise setup.SetupError("No space left on device")
        elif arguments[0] == "--no-deps":
            self._set_back(arguments[1])
        else:
            self.packages |= {"helper": "1.0", "tqdm": "4.1"}

    def _set_back(self, package: str) -> None:
        name, version = package.split("==")
        self.packages[name] = version


def test_a_failure_leaves_all_packages_as_they_were(slicer_like) -> None:
    installation = FullDisk(slicer_like[1])
    with pytest.raises(setup.SetupError, match="No space left on device\nWhat was added is removed again.$"):
        installation.run()
    assert installation.packages == {"numpy": "1.0", "torch": "2.8", "tqdm": "4.0"}
    assert installation.constraints == "numpy==1.0\ntorch==2.8\ntqdm==4.0\n"
    assert [call[0] for call in installation.calls] == ["wheel", *["install"] * 3, "uninstall", "install"]


def test_what_cannot_be_set_back_is_named(slicer_like) -> None:
    installation = FullDisk(slicer_like[1])

    def refuse(package: str) -> None:
        raise setup.SetupError(f"No matching distribution found for {package}")

    installation._set_back = refuse
    with pytest.raises(setup.SetupError, match="these stay updated: tqdm 4.0 to 4.1.$"):
        installation.run()


def test_what_cannot_be_removed_again_is_named_beside_the_first_failure(slicer_like) -> None:
    installation = FullDisk(slicer_like[1])
    pip = installation._pip

    def refuse(action: str, *arguments: str) -> None:
        if action == "uninstall":
            raise setup.SetupError("Access is denied")
        pip(action, *arguments)

    installation._pip = refuse
    with pytest.raises(setup.SetupError, match="No space left on device\nWhat was added could not be .*: helper.$"):
        installation.run()


def test_what_an_interrupted_pip_left_behind_is_no_package(slicer_like) -> None:
    python, source, wheels = slicer_like
    site = next(Path(python).parents[1].rglob("site-packages"))
    left = site / "torch-2.7.dist-info"
    left.mkdir()
    setup.Installation(source, wheels, python).run()
    assert not left.exists(), "pip may take it for what is installed"
    assert installed(python) == {"numpy": "1.0", "torch": "2.8", "helper": "1.0", "CrossModalSegLib": "0.3.0"}


def test_a_folder_of_wheels_that_is_not_there_is_named(slicer_like) -> None:
    python, source, wheels = slicer_like
    with pytest.raises(setup.SetupError, match="There is no folder '.*none' to install from"):
        setup.Installation(source, wheels / "none", python).run()


def test_whatever_goes_wrong_is_told(slicer_like, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = FullDisk(slicer_like[1])
    monkeypatch.setattr(installation, "_wanted", lambda _: [][0])
    installation._run()
    assert (
        installation.has_ended
        and installation.error == "The installation failed (IndexError: list index out of range)."
    )


def test_only_what_is_too_old_may_be_changed() -> None:
    installed = {"numpy": "1.0", "Helper": "0.9", "tqdm": "4.0", "torch": "2.8+cpu", "odd": "unknown"}
    wanted = [setup.Requirement("helper", ">=1"), setup.Requirement("tqdm", ">=4")]
    assert setup._kept(installed, wanted) == ["numpy==1.0", "tqdm==4.0", "torch==2.8+cpu"]


def test_torch_is_never_fetched_from_the_internet(slicer_like) -> None:
    installation = FullDisk(slicer_like[1])
    del installation.packages["torch"]
    with pytest.raises(setup.SetupError, match="install the extension 'PyTorch'"):
        installation.run()
    assert installation.calls == []


def test_missing_names_torch_first_and_the_library_last(slicer_like) -> None:
    _, source, _ = slicer_like
    have = {"numpy": "1.5", "SimpleITK": "2.5.0.dev12"}
    assert setup.missing(source, have.get) == ("torch>=2.8,<3", "helper>=1", "CrossModalSegLib 0.3.0")
    have |= {"torch": "2.13.0+cpu", "helper": "1.2", "CrossModalSegLib": "0.3.0"}
    assert setup.missing(source, have.get) == ()
    assert setup.missing(source, (have | {"torch": "2.7.1"}).get) == ("torch>=2.8,<3",)


def test_a_library_of_another_build_is_missing_though_its_version_is_the_same(tmp_path: Path, monkeypatch) -> None:
    source, installed = tmp_path / "Resources" / "CrossModalSegLib", tmp_path / "site" / "CrossModalSegLib"
    for folder in (source / "src" / "CrossModalSegLib", installed):
        (folder / "scene").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "scene" / "task.py").write_text("old = 1\n")
    (source / "pyproject.toml").write_text(PROJECT)
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.delitem(sys.modules, "CrossModalSegLib", raising=False)
    have = {"numpy": "1.5", "SimpleITK": "2.5", "torch": "2.9", "helper": "1", "CrossModalSegLib": "0.3.0"}
    assert setup.missing(source, have.get) == ()
    for text in ("new = 2\n", None):
        path = installed / "scene" / "task.py"
        path.unlink() if text is None else path.write_text(text)
        assert setup.missing(source, have.get) == ("CrossModalSegLib 0.3.0",)


def test_nothing_is_missing_for_the_library_that_the_tests_run_on() -> None:
    source = setup.library_source(ROOT / "CrossModalSeg")
    assert source == ROOT / "CrossModalSegLib"
    assert setup.missing(source) == ()
    assert {"numpy", "torch", "psutil"} <= {each.name for each in setup.requirements(source)}


def test_a_python_that_is_too_old_is_told_before_anything_is_tried() -> None:
    source = setup.library_source(ROOT / "CrossModalSeg")
    setup.check_python(source)
    setup.check_python(source, "3.12.10")
    with pytest.raises(setup.SetupError, match=r"has Python 3\.9\.10, but .* Install 3D Slicer 5\.10 or newer"):
        setup.check_python(source, "3.9.10")


def test_an_extension_without_its_library_says_so(tmp_path: Path) -> None:
    with pytest.raises(setup.SetupError, match="Install the extension again"):
        setup.library_source(tmp_path / "CrossModalSeg")


def test_without_the_pytorch_extension_the_advice_is_given(slicer_like, monkeypatch: pytest.MonkeyPatch) -> None:
    _, source, _ = slicer_like
    monkeypatch.setattr(setup, "installed_version", lambda name: None)
    with pytest.raises(setup.SetupError, match="Extensions Manager"):
        setup.install_torch(source)


@pytest.mark.parametrize("is_installed", [False, True])
def test_what_the_pytorch_extension_stumbles_over_is_told(slicer_like, monkeypatch, is_installed) -> None:
    """It raises what pip and the import of torch raise; that Slicer cannot import torch does not matter here."""
    _, source, _ = slicer_like

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
            assert (askConfirmation, torchVersionRequirement) == (True, ">=2.8,<3")
            if is_installed:
                versions["torch"] = "2.8.0+cpu"
            raise subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "light_the_torch"])

    versions = {}
    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    monkeypatch.setattr(setup, "installed_version", versions.get)
    if is_installed:
        setup.install_torch(source)
        return
    with pytest.raises(setup.SetupError, match=r"did not install PyTorch \(CalledProcessError: .*light_the_torch"):
        setup.install_torch(source)
