"""The CMake lists equal the tree, and the extension has what the Extensions Index asks for."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "CrossModalSeg"
LIST = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
EXTENSION = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def listed(name: str) -> set[str]:
    return set(re.search(rf"set\({name}\s+(.*?)\)", LIST, re.DOTALL)[1].split())


def test_every_file_of_the_module_is_listed() -> None:
    files = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*") if path.is_file()}
    present = {each for each in files if not {"__pycache__", ".ruff_cache"} & set(each.split("/"))} - {
        "CMakeLists.txt",
        ".ruff.toml",
    }
    assert listed("MODULE_PYTHON_SCRIPTS") | listed("MODULE_PYTHON_RESOURCES") == present


def test_a_slicer_whose_python_is_too_old_can_open_the_panel_and_say_so() -> None:
    for path in MODULE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, feature_version=(3, 9))
        annotations = [node.annotation for node in ast.walk(tree) if isinstance(node, (ast.arg, ast.AnnAssign))]
        annotations += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        parts = [part for each in annotations if each is not None for part in ast.walk(each)]
        is_new = any(isinstance(part, ast.BitOr) for part in parts)
        assert not is_new or "from __future__ import annotations\n" in text, path.name


def test_the_library_goes_along_and_tests_in_slicer_exist() -> None:
    entries = re.search(r"set\(LIBRARY_FILES (.*?)\)", LIST)[1].split()
    assert all((ROOT / "CrossModalSegLib" / each).exists() for each in entries)
    scripts = {Path(each).name for each in re.findall(r"SCRIPT \S*/(\S+)\)", LIST)}
    assert scripts == {path.name for path in (ROOT / "Testing" / "in_slicer").glob("*.py")}


def test_what_the_extensions_index_asks_for() -> None:
    text = (ROOT / "Resources" / "CrossModalSeg.json").read_bytes()
    description = json.loads(text)
    assert b"\r" not in text and description["tier"] in (1, 3, 5)
    assert "project(CrossModalSeg)" in EXTENSION
    assert description["category"] == re.search(r'EXTENSION_CATEGORY "(.*)"', EXTENSION)[1]
    assert description["build_dependencies"] == re.search(r'EXTENSION_DEPENDS "(.*)"', EXTENSION)[1].split()
    assert description["scm_url"] == re.search(r'EXTENSION_HOMEPAGE "(.*)"', EXTENSION)[1] + ".git"
    assert "slicer" in description["scm_url"].rsplit("/", 1)[1].lower()
    assert (ROOT / "LICENSE").is_file()


@pytest.mark.parametrize("name", ["ICONURL", "SCREENSHOTURLS"])
def test_pictures_that_the_extensions_index_looks_for_are_in_the_repository(name: str) -> None:
    urls = re.search(rf'set\(EXTENSION_{name}\s*"([^"]+)"\)', EXTENSION)[1].split()
    homepage = re.search(r'EXTENSION_HOMEPAGE "https://github.com/(.*)"', EXTENSION)[1]
    for url in urls:
        start, _, path = url.partition("/main/")
        assert start == f"https://raw.githubusercontent.com/{homepage}" and path.endswith(".png")
        assert (ROOT / path).is_file(), url


def test_every_control_of_the_panel_explains_itself() -> None:
    kinds = r"Q(PushButton|ComboBox|LineEdit|SpinBox|CheckBox)|ctkPathLineEdit|qMRML(Checkable)?NodeComboBox"
    panel = ElementTree.parse(MODULE / "Resources" / "UI" / "CrossModalSeg.ui")
    controls = [each for each in panel.iter("widget") if re.fullmatch(kinds, each.get("class"))]
    named = {each.get("name"): {given.get("name") for given in each.findall("property")} for each in controls}
    assert len(named) > 40
    assert [name for name, given in named.items() if "toolTip" not in given] == []


def test_icons_have_the_size_that_slicer_shows() -> None:
    for path in (ROOT / "Resources" / "CrossModalSeg.png", MODULE / "Resources" / "Icons" / "CrossModalSeg.png"):
        header = path.read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert [int.from_bytes(header[start : start + 4], "big") for start in (16, 20)] == [128, 128]
