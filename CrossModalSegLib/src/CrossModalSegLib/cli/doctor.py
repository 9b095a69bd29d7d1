"""`crossmodalseg doctor`: what is installed and what works on this machine."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from CrossModalSegLib.cli.console import say
from CrossModalSegLib.versions import library_versions
from CrossModalSegLib.worker.messages import Finding

EXAMPLE = "crossmodalseg doctor --out doctor.json"

_GIB = 2**30
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16")
_LITTLE_MEMORY_GIB = 4.0
_LITTLE_DISK_GIB = 2.0


@dataclass(frozen=True)
class Arguments:
    """Show versions, devices, memory, and what works here; the exit code is 1 if something is wrong.

    Attributes:
        out: JSON file to write as well, for a report of a problem.
        overwrite: replace an existing file.
    """

    out: Path | None = None
    overwrite: bool = False


def run(args: Arguments) -> int:
    """Look, print, and say with the exit code whether anything is wrong."""
    from CrossModalSegLib.cli.outputs import check_new_file
    from CrossModalSegLib.output import write_json

    if args.out is not None:
        check_new_file(args.out, args.overwrite)
    findings = examine()
    say(report_text(findings))
    if args.out is not None:
        write_json({"findings": findings}, args.out)
    return int(any(finding.problem for finding in findings))


def examine() -> list[Finding]:
    """Look at everything; a look that fails is a finding of its own."""
    findings: list[Finding] = []
    looks: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("versions", _versions),
        ("machine", _machine),
        ("devices", _devices),
        ("places", _places),
        ("models", _models),
    )
    for topic, look in looks:
        try:
            findings += look()
        except (ImportError, OSError, RuntimeError) as error:
            findings.append(Finding(topic, topic, "failed", f"{type(error).__name__}: {error}"))
    return findings


def report_text(findings: list[Finding]) -> str:
    """The findings under their headings, problems last."""
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        lines.append(topic)
        lines += [f"  {each.name.ljust(width)}  {each.value}" for each in findings if each.topic == topic]
    problems = [f"  {finding.name}: {finding.problem}" for finding in findings if finding.problem]
    return "\n".join([*lines, "problems", *(problems or ["  none found"])])


def _versions() -> list[Finding]:
    missing = "It is not installed; install CrossModalSegLib again with pip."
    return [
        Finding("versions", name, version, missing if version == "missing" else None)
        for name, version in library_versions().items()
    ]


def _machine() -> list[Finding]:
    import torch

    from CrossModalSegLib.inference.memory import available_memory

    free = available_memory(torch.device("cpu")) / _GIB
    little = (
        f"Less than {_LITTLE_MEMORY_GIB:g} GiB are free: large images go through in small windows, which is slower."
    )
    return [
        Finding("machine", "system", platform.platform()),
        Finding("machine", "processors", f"{_usable_processors()} usable"),
        Finding("machine", "PyTorch threads", str(torch.get_num_threads())),
        Finding("machine", "instructions", ", ".join(_instructions()) or "not known"),
        Finding("machine", "free memory", f"{free:.1f} GiB", little if free < _LITTLE_MEMORY_GIB else None),
    ]


def _usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _instructions() -> list[str]:
    """Of those that networks profit from, the ones that the processor names."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    flags = set(next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split())
    return [name for name in _INSTRUCTIONS if name in flags]


def _devices() -> list[Finding]:
    import torch

    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.inference.predictor import native_bf16

    cpu = "bf16 natively" if native_bf16(torch.device("cpu")) else "fp32 (no native bf16)"
    findings = [Finding("devices", "cpu", cpu)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if native_bf16(torch.device("cuda", index)) else "fp32"
        findings.append(
            Finding("devices", f"cuda:{index}", f"{properties.name}, {properties.total_memory / _GIB:.0f} GiB, {bf16}")
        )
    if not torch.cuda.is_available():
        built = "this PyTorch has no CUDA" if torch.version.cuda is None else "no device or no driver"
        findings.append(Finding("devices", "cuda", f"none ({built})"))
    findings.append(Finding("devices", "mps", "there" if torch.backends.mps.is_available() else "none"))
    return [*findings, Finding("devices", "auto is", str(choose_device("auto")))]


def _places() -> list[Finding]:
    from CrossModalSegLib.inference.model_folder import models_folder

    places = {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir()), "models": models_folder()}
    return [_place(name, path) for name, path in places.items()]


def _place(name: str, path: Path) -> Finding:
    from CrossModalSegLib.cli.outputs import check_writable
    from CrossModalSegLib.errors import OutputError

    standing = path
    while not standing.exists() and standing != standing.parent:
        standing = standing.parent
    free = shutil.disk_usage(standing).free / _GIB
    try:
        check_writable(path)
    except OutputError as error:
        return Finding("places", name, f"{path} (not writable)", str(error))
    little = f"Less than {_LITTLE_DISK_GIB:g} GiB are free on its disk." if free < _LITTLE_DISK_GIB else None
    return Finding("places", name, f"{path} (writable, {free:.0f} GiB free)", little)


def _models() -> list[Finding]:
    from CrossModalSegLib.errors import ModelError
    from CrossModalSegLib.inference.model_folder import list_models, load_model

    findings = []
    for name, folder in list_models().items():
        try:
            card = load_model(folder).card
        except ModelError as error:
            findings.append(Finding("models", name, f"{folder} (not usable)", str(error)))
        else:
            findings.append(Finding("models", name, f"{', '.join(card.modalities)} -> {', '.join(card.labels.names)}"))
    return findings or [Finding("models", "installed", "none")]
