"""What the module needs beside 3D Slicer itself, and how it gets there. Python's standard library only.

The library is installed by pip from the copy that ships with the extension. What Slicer's own code is built on is
never replaced, and torch is never chosen here: the PyTorch extension picks the build that suits the computer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "CrossModalSegLib"
SLICERS_OWN = ("numpy", "SimpleITK", "vtk", "requests")
TORCH = "torch"
FIRST_SLICER = "5.10"  # with a Python that the library runs on
TAIL_LINES = 12

_SHIPPED = "Resources"  # where the library lies in the extension
_QUIET = ("--disable-pip-version-check", "--no-input", "--no-color")
_VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*[-_.a-z0-9]*(\+[a-z0-9._-]+)?", re.IGNORECASE)
_LIST_INSTALLED = """
import importlib.metadata, json
found = [(each.metadata["Name"], each.version) for each in importlib.metadata.distributions()]
# What an interrupted pip leaves has neither.
print(json.dumps({name: version for name, version in found if name and version}))
"""
# Which of two entries for one package pip goes by depends on their order in the folder.
_CLEAR_LEFT_BEHIND = """
import pathlib, shutil, sysconfig
for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
    for each in pathlib.Path(folder).glob("*.dist-info"):
        if not (each / "METADATA").exists():
            shutil.rmtree(each, ignore_errors=True)
"""


class SetupError(Exception):
    """The environment cannot be set up; the text is for the person."""


@dataclass(frozen=True)
class Requirement:
    """One package that the library asks for.

    Attributes:
        name: of the distribution.
        specifier: the versions that do, such as ">=2.8,<3".
    """

    name: str
    specifier: str

    @property
    def text(self) -> str:
        """As pip takes it."""
        return f"{self.name}{self.specifier}"

    def accepts(self, version: str) -> bool:
        """Whether a version does; only the leading numbers of both sides count."""
        return all(_compare(version, each.strip()) for each in self.specifier.split(",") if each.strip())


def library_source(module_folder: Path) -> Path:
    """The copy of the library that ships with the extension, or the one beside the module in a checkout.

    Raises:
        SetupError: there is none.
    """
    for folder in (module_folder / _SHIPPED / LIBRARY, module_folder.parent / LIBRARY):
        if (folder / "pyproject.toml").is_file():
            return folder
    raise SetupError(f"The extension is incomplete: {LIBRARY} is not beside it. Install the extension again.")


def requirements(source: Path) -> tuple[Requirement, ...]:
    """What the library needs, from its pyproject.toml."""
    found = re.search(r"^dependencies = \[\n(.*?)^\]", _project(source), re.MULTILINE | re.DOTALL)
    lines = re.findall(r'^\s*"([\w.-]+)([^";]*)', found[1] if found else "", re.MULTILINE)
    return tuple(Requirement(name, specifier.strip()) for name, specifier in lines)


def shipped_version(source: Path) -> str:
    """Of the copy of the library."""
    found = re.search(r'^version = "([^"]+)"', _project(source), re.MULTILINE)
    if not found:
        raise SetupError(f"{source / 'pyproject.toml'} names no version. Install the extension again.")
    return found[1]


def check_python(source: Path, version: str | None = None) -> None:
    """Whether the library can be installed at all.

    Args:
        source: the copy of the library.
        version: of Python; None is this one's.

    Raises:
        SetupError: this Slicer's Python is too old for it.
    """
    version = platform.python_version() if version is None else version
    found = re.search(r'^requires-python = "([^"]+)"', _project(source), re.MULTILINE)
    if found and not Requirement("Python", found[1]).accepts(version):
        raise SetupError(
            f"This 3D Slicer has Python {version}, but CrossModalSeg needs Python {found[1]}. Install 3D Slicer "
            f"{FIRST_SLICER} or newer; nothing can be installed into this one."
        )


def missing(source: Path, version_of: Callable[[str], str | None] | None = None) -> tuple[str, ...]:
    """What has to be installed, torch first and the library last, without importing any of it.

    Args:
        source: the copy of the library.
        version_of: version of an installed package by name, or None; by default of this Python's.
    """
    version_of = installed_version if version_of is None else version_of
    needed = [each for each in requirements(source) if not _is_met(each, version_of)]
    needed.sort(key=lambda each: each.name != TORCH)
    is_there = version_of(LIBRARY) == shipped_version(source) and _is_same_code(source)
    library = [] if is_there else [f"{LIBRARY} {shipped_version(source)}"]
    return (*(each.text for each in needed), *library)


def installed_version(name: str) -> str | None:
    """Of a package of this Python, or None."""
    importlib.invalidate_caches()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def python_command() -> str:
    """The Python that runs pip and the worker: PythonSlicer inside 3D Slicer, whose own program is no Python."""
    return shutil.which("PythonSlicer") or sys.executable


class Installation:
    """pip at work in the background; ask it from a timer.

    Attributes:
        has_ended: whether it is over.
        error: a sentence and the last lines of pip, or None.
    """

    def __init__(self, source: Path, wheels: Path | None = None, python: str | None = None) -> None:
        """Nothing is started yet.

        Args:
            source: the copy of the library.
            wheels: folder of wheels; with it nothing is fetched from the internet.
            python: the Python to install into; None is `python_command`.
        """
        self._source, self._wheels = source, wheels
        self._python = python_command() if python is None else python
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.has_ended, self.error = False, None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, daemon=True).start()

    def poll(self) -> list[str]:
        """The lines that have come since the last call."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def run(self) -> None:
        """Install, and wait for it.

        Raises:
            SetupError: it failed; what was added is removed again.
        """
        self._run()
        if self.error is not None:
            raise SetupError(self.error)

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="CrossModalSeg-") as folder:
                self._install(Path(folder))
        except (SetupError, OSError) as error:
            self.error = str(error)
        except Exception as error:  # noqa: BLE001 - in this thread nobody else hears of it
            self.error = f"The installation failed ({type(error).__name__}: {error})."
        finally:
            self.has_ended = True

    def _install(self, folder: Path) -> None:
        if self._wheels is not None and not self._wheels.is_dir():  # pip would miss the first package of all
            raise SetupError(f"There is no folder '{self._wheels}' to install from; choose another one.")
        self._clear_left_behind()
        before = self._installed()
        wanted = self._wanted(before)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{each}\n" for each in _kept(before, wanted)), encoding="utf-8")
        # pip builds inside of the source folder, which may belong to someone else.
        copy = folder / LIBRARY
        shutil.copytree(self._source, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
        self._pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(copy), *self._place())
        wheel = next(folder.glob("*.whl"))
        packages = [*(each.text for each in wanted), *self._place(), "-c", str(constraints)]
        if wanted:
            # Fetches everything and solves all versions first, so that most failures change nothing.
            self._pip("install", "--dry-run", *packages)
        try:
            if wanted:
                self._pip("install", *packages)
            self._pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
        except SetupError as error:
            raise SetupError(f"{error}\n{self._undo(before)}") from None

    def _wanted(self, before: dict[str, str]) -> list[Requirement]:
        """What pip is asked for; never what is Slicer's own, and torch only from the person's own folder."""
        installed = {name.lower(): version for name, version in before.items()}
        needed = {each.name: each for each in requirements(self._source)}
        torch = needed.get(TORCH)
        if torch is not None and self._wheels is None and not torch.accepts(installed.get(TORCH, "0")):
            raise SetupError(TORCH_ADVICE)
        own = {name.lower() for name in SLICERS_OWN}
        return [each for each in needed.values() if each.name.lower() not in own]

    def _place(self) -> list[str]:
        return [] if self._wheels is None else ["--no-index", "--find-links", str(self._wheels)]

    def _clear_left_behind(self) -> None:
        """Remove entries that an interrupted pip left without content: pip would take them for installed packages."""
        self._ask(_CLEAR_LEFT_BEHIND)

    def _installed(self) -> dict[str, str]:
        return json.loads(self._ask(_LIST_INSTALLED))

    def _ask(self, script: str) -> str:
        run = subprocess.run([self._python, "-c", script], capture_output=True, text=True, check=False, **no_window())
        if run.returncode != 0:
            raise SetupError(f"{self._python} does not work:\n{run.stderr[-2000:]}")
        return run.stdout

    def _pip(self, action: str, *arguments: str) -> None:
        command = [self._python, "-m", "pip", action, *_QUIET, *arguments]
        tail: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **no_window()
        ) as process:
            for line in process.stdout:
                tail = [*tail, line.rstrip()][-TAIL_LINES:]
                self._lines.put(line.rstrip())
        if process.returncode != 0:
            raise SetupError("The installation failed. The last lines of pip:\n" + "\n".join(tail))

    def _undo(self, before: dict[str, str]) -> str:
        after = self._installed()
        added = sorted(set(after) - set(before))
        changed = sorted(name for name in before if name in after and after[name] != before[name])
        try:
            if added:
                self._pip("uninstall", "--yes", *added)
        except SetupError:
            return f"What was added could not be removed again: {', '.join(added)}."
        try:
            if changed:
                former = [f"{name}=={before[name]}" for name in changed]
                self._pip("install", "--no-deps", *former, *self._place())
        except SetupError:
            named = ", ".join(f"{name} {before[name]} to {after[name]}" for name in changed)
            return f"What was added is removed again; these stay updated: {named}."
        return "What was added is removed again."


def _kept(installed: dict[str, str], wanted: list[Requirement]) -> list[str]:
    """Constraints that let pip add packages but change none, except those of `wanted` that are too old."""
    versions = {name.lower(): version for name, version in installed.items()}
    outdated = {each.name.lower() for each in wanted if not each.accepts(versions.get(each.name.lower(), "0"))}
    outdated.add(LIBRARY.lower())
    return [
        f"{name}=={version}"
        for name, version in installed.items()
        if name.lower() not in outdated and _VERSION.fullmatch(version)
    ]


TORCH_ADVICE = (
    "PyTorch is missing. Open the Extensions Manager of 3D Slicer, install the extension 'PyTorch', restart, and press "
    "the button again. Without internet, give a folder of wheels that holds torch."
)


def install_torch(source: Path) -> None:
    """Let the PyTorch extension install torch, which asks the person and picks the build for this computer.

    Raises:
        SetupError: the extension is not there, or did not install it.
    """
    wanted = next(each for each in requirements(source) if each.name == TORCH)
    if wanted.accepts(installed_version(TORCH) or "0"):
        return
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        raise SetupError(TORCH_ADVICE) from None
    reason = ""
    try:
        PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=wanted.specifier)
    except Exception as error:  # noqa: BLE001 - pip's failures come as they are, and those of importing torch
        reason = f" ({type(error).__name__}: {error})"
    if not wanted.accepts(installed_version(TORCH) or "0"):
        raise SetupError(
            f"The PyTorch extension did not install PyTorch{reason}. Look at its messages in the Python console, or "
            "use its module 'PyTorch Utils', and press the button again."
        )


def _is_met(requirement: Requirement, version_of: Callable[[str], str | None]) -> bool:
    version = version_of(requirement.name)
    if version is None:  # Slicer's own need not be known to pip
        return requirement.name in SLICERS_OWN and importlib.util.find_spec(requirement.name) is not None
    return requirement.accepts(version) or requirement.name in SLICERS_OWN


def _is_same_code(source: Path) -> bool:
    """Whether the installed library is the one that ships: builds of an extension differ under one version.

    In a checkout, where the library lies beside the module, its developer sees to that.
    """
    if source.parent.name != _SHIPPED:
        return True
    shipped, installed = source / "src" / LIBRARY, _installed_package()
    files = [path.relative_to(shipped) for path in shipped.rglob("*.py")]
    return installed is not None and all(
        (installed / each).is_file() and (installed / each).read_bytes() == (shipped / each).read_bytes()
        for each in files
    )


def _installed_package() -> Path | None:
    """The folder of the library, which is not imported."""
    found = importlib.util.find_spec(LIBRARY)
    return None if found is None or not found.submodule_search_locations else Path(found.submodule_search_locations[0])


def _project(source: Path) -> str:
    return (source / "pyproject.toml").read_text(encoding="utf-8")


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(each) for each in found[0].split(".")] if found else [0]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _compare(version: str, clause: str) -> bool:
    sign, bound = re.fullmatch(r"(>=|<=|==|!=|<|>)\s*(\S+)", clause).groups()
    have, limit = _numbers(version), _numbers(bound)
    results = {
        ">=": have >= limit,
        "<=": have <= limit,
        "==": have == limit,
        "!=": have != limit,
        "<": have < limit,
        ">": have > limit,
    }
    return results[sign]


def no_window() -> dict[str, int]:
    """On Windows a console window would open."""
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
