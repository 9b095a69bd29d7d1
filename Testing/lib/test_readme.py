"""What the README promises exists: its commands, options, files, pins and Python names."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from CrossModalSegLib.cli.commands import COMMANDS
from CrossModalSegLib.versions import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "CrossModalSegLib"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The fenced block after an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)\n```", README, re.DOTALL)
    assert found, marker
    return found[1]


def shown_commands() -> list[str]:
    """Every `crossmodalseg …` of the README with something after it."""
    lines = re.findall(r"`(crossmodalseg [^`]+)`", README) + re.findall(
        r"^(?:\S*/)?(crossmodalseg .+)$", README, re.MULTILINE
    )
    return [line for line in lines if not line.startswith("crossmodalseg COMMAND")]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_and_options_exist(line: str) -> None:
    words = line.split()[1:]
    command = next((each for each in COMMANDS if tuple(words[: len(each.words)]) == each.words), None)
    assert command is not None, line
    module = importlib.import_module(f"CrossModalSegLib.cli.{command.module}")
    known = {field.name.replace("_", "-") for field in dataclasses.fields(module.Arguments)}
    assert set(re.findall(r"--([a-z-]+)", line)) <= known


def test_every_command_is_in_the_table() -> None:
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `crossmodalseg"))
    assert [command.name for command in COMMANDS if command.name not in table] == []


def test_ci_runs_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "<!-- test command -->" in script
    assert block("test command").splitlines()[-1] == ".venv-test/bin/python -m pytest Testing"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 or sys.platform == "win32"


def test_both_commands_install_with_the_cpu_constraints() -> None:
    for marker in ("demo command", "test command"):
        lines = [line for line in block(marker).splitlines() if "pip install" in line]
        assert all("-c CrossModalSegLib/constraints.txt" in line for line in lines)


def test_file_tree_is_complete() -> None:
    tree = block("file tree").splitlines()
    folders: list[str] = []
    named: set[str] = set()
    for line in tree:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        path = "".join(folders)
        assert (ROOT / path).exists(), path
        named.add(path.rstrip("/"))
    package = "CrossModalSegLib/src/CrossModalSegLib"
    present = {path.name for path in (ROOT / package).iterdir() if not path.name.startswith((".", "__init__", "__pyc"))}
    assert present - {Path(path).name for path in named if path.startswith(package + "/")} == set()


def test_python_example_uses_names_that_exist() -> None:
    code = block("python example")
    compile(code, "README.md", "exec")
    for module, names in re.findall(r"^from (CrossModalSegLib\S*) import (.+)$", code, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli_support import affine, scribble_array, write_case

    from CrossModalSegLib.fitting import fit_case as fitting
    from CrossModalSegLib.io import write_volume
    from CrossModalSegLib.volume import Volume

    def quick(loaded: object, table: object, config: object) -> fitting.FitResult:
        assert loaded.scribbles is not None
        labels = loaded.mask or loaded.grid.with_array(1 * (loaded.grid.array > 30))
        return fitting.FitResult(labels, None, None, None, None)

    paths = write_case(tmp_path)
    scribbles = scribble_array()
    scribbles[scribbles == 2] = 255
    write_volume(Volume(scribbles, affine()), paths["scribbles"])
    monkeypatch.setattr(fitting, "fit_case", quick)
    monkeypatch.chdir(paths["ct"].parent)
    exec(compile(block("python example"), "README.md", "exec"), {})
    assert Path("segmentation.seg.nrrd").is_file()
    assert Path("overlay.png").is_file()


def requirements(extras: bool = True) -> list[Requirement]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"].values() if extras else ()
    return [Requirement(text) for group in (project["dependencies"], *groups) for text in group]


def test_every_dependency_is_in_the_table_and_its_version_is_kept() -> None:
    table = README.split("## Dependencies")[1]
    for requirement in requirements():
        assert requirement.name.lower() in table.lower(), requirement.name
    assert {each.name for each in requirements(extras=False)} == set(PACKAGES)


def pins(name: str) -> dict[str, list[Requirement]]:
    """Pinned versions of a constraints file and those it includes, by lower-case name."""
    found: dict[str, list[Requirement]] = {}
    for line in (PROJECT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-c "):
            found |= pins(line.removeprefix("-c "))
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(requirement.name.lower(), []).append(requirement)
    return found


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-cuda.txt"])
def test_every_dependency_is_pinned_within_its_range(name: str) -> None:
    pinned = pins(name)
    for requirement in requirements():
        for pin in pinned[requirement.name.lower()]:
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert requirement.specifier.contains(specifier.version), str(pin)


def test_cpu_constraints_cannot_give_cuda() -> None:
    linux = [pin for pin in pins("constraints.txt")["torch"] if pin.marker.evaluate({"sys_platform": "linux"})]
    assert [str(pin.specifier) for pin in linux] == [f"{pins('constraints-cuda.txt')['torch'][0].specifier!s}+cpu"]


def test_licence_travels_with_the_wheel() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert text == (PROJECT / "LICENSE").read_text(encoding="utf-8")


def test_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("crossmodalseg")
    if not script.is_file():
        pytest.skip("the package is not installed into this environment")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("crossmodalseg ")
