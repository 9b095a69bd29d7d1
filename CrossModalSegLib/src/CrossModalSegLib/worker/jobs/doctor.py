"""What is installed, and what there is to compute on."""

from __future__ import annotations

import platform

from CrossModalSegLib.cli.doctor import examine
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import Device, DoctorRequest, DoctorResult


def run(request: DoctorRequest, context: Context) -> DoctorResult:  # noqa: ARG001 - every job has the same form
    """Look at everything."""
    context.progress(0, 0, "looking around")
    return DoctorResult(tuple(examine()), tuple(_devices()))


def _devices() -> list[Device]:
    """The devices, the default one first; none where torch is missing, which the findings say."""
    try:
        import torch
    except ImportError:
        return []
    import psutil

    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_properties(index).name
        found.append(Device(f"cuda:{index}", name, free, total, not found))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", None, int(torch.mps.recommended_max_memory()), not found))
    memory = psutil.virtual_memory()
    found.append(Device("cpu", platform.processor() or "CPU", memory.available, memory.total, not found))
    return found
