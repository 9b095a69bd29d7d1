"""How much memory there is, and how much a network's forward pass needs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Where the system does not say what is free.
ASSUMED_FREE_BYTES = 4 * 2**30
# Convolution libraries keep copies of a layer's input and output that PyTorch does not see, reordered and padded to
# blocks of channels: 1.3 to 1.9 times the tensors' own memory was measured on CPU.
CONVOLUTION_OVERHEAD = 2.0
CGROUP_ROOT = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def available_memory(device: torch.device) -> int:
    """Free bytes on a device; on the CPU what programs can still get, within the limits of a container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [value for value in (_meminfo_available(), _cgroup_available(), _free_pages()) if value is not None]
    return min(known) if known else ASSUMED_FREE_BYTES


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OUT_OF_MEMORY_TEXTS)


def on_device_or_cpu(run: Callable[[torch.device], T], device: torch.device) -> T:
    """Run on a device, or on the CPU where the device has too little memory or cannot compute all, as a warning says.

    Args:
        run: What to do; begins anew on the CPU.
        device: Where to try first.
    """
    try:
        return run(device)
    except Exception as error:
        if device.type == "cpu":
            raise
        if is_out_of_memory(error) or is_out_of_memory(error.__cause__ or error):
            reason = f"The memory of {device} is too small for this case"
        elif is_beyond_mps(error, device):
            reason = f"The device {device} cannot compute all of this ({error})"
        else:
            raise
    # Outside of the handler, whose error would keep the failed tensors alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    logger.warning("%s: it is computed again on the CPU, slowly.", reason)
    return run(torch.device("cpu"))


def is_beyond_mps(error: Exception, device: torch.device) -> bool:
    """Whether Apple's GPU lacks an operation, one of its options, or fp64: PyTorch says so in errors of three kinds."""
    return device.type == "mps" and isinstance(error, (RuntimeError, TypeError)) and "MPS" in str(error)


@dataclass(frozen=True)
class MemoryProfile:
    """What a forward pass of a network needs beyond its weights.

    Attributes:
        bytes_per_voxel: Peak of the living tensors per voxel of the input window.
        fixed_bytes: Part of the peak that does not grow with the window.
        num_classes: Channels of the output.
    """

    bytes_per_voxel: float
    fixed_bytes: float
    num_classes: int

    def need(self, voxels: int) -> int:
        """Estimated bytes for a window of so many voxels."""
        return int(CONVOLUTION_OVERHEAD * (self.fixed_bytes + self.bytes_per_voxel * voxels))


_profiles: weakref.WeakKeyDictionary[nn.Module, dict[tuple, MemoryProfile]] = weakref.WeakKeyDictionary()


def profile_memory(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    channels: int,
    divisor: int,
    device: torch.device,
    mode: str,
) -> MemoryProfile:
    """Measure the peak of living tensors on two small windows and extrapolate linearly.

    Args:
        network: What results are remembered for.
        forward: Takes (1, channels, k, j, i) float32 to probabilities (1, K + 1, k, j, i).
        channels: Of the input.
        divisor: Each axis of a window is a multiple of it.
        device: Where to measure.
        mode: Tells measurements of one network apart, such as the precision.
    """
    key = (channels, device.type, mode)
    known = _profiles.setdefault(network, {})
    if key not in known:
        # Two voxels at the coarsest level: instance normalisation refuses a single one.
        edge = max(2 * divisor, 16)
        sizes = [(edge, edge, edge), (2 * edge, edge, edge)]
        peaks, classes = [], 0
        for size in sizes:
            images = torch.zeros((1, channels, *size), device=device)
            with _peak_bytes() as peak:
                classes = forward(images).shape[1]
            peaks.append(peak.bytes + images.numel() * images.element_size())
        slope = max((peaks[1] - peaks[0]) / edge**3, 4.0 * channels)
        known[key] = MemoryProfile(slope, max(peaks[0] - slope * edge**3, 0.0), classes)
        logger.debug("Memory of %s (%s): %s.", type(network).__name__, mode, known[key])
    return known[key]


class _PeakBytes(TorchDispatchMode):
    """Sums the storages that operations create, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._living: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._living:
            self._living[key] = storage.nbytes()
            weakref.finalize(storage, self._living.pop, key, None)
            self.bytes = max(self.bytes, sum(self._living.values()))


@contextmanager
def _peak_bytes() -> Iterator[_PeakBytes]:
    with _PeakBytes() as peak:
        yield peak


def _meminfo_available() -> int | None:
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _cgroup_available() -> int | None:
    """What a container's limit leaves; file caches, which the kernel gives back, do not count as used."""
    for limit_name, used_name, stat_name in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            limit = int((CGROUP_ROOT / limit_name).read_text())
            used = int((CGROUP_ROOT / used_name).read_text())
            stat = dict(line.split() for line in (CGROUP_ROOT / stat_name).read_text().splitlines())
            return max(0, limit - used + int(stat.get("inactive_file", stat.get("total_inactive_file", 0))))
        except (OSError, ValueError):
            continue
    return None


def _free_pages() -> int | None:
    """For systems without /proc."""
    return None if MEMINFO.exists() else int(psutil.virtual_memory().available)
