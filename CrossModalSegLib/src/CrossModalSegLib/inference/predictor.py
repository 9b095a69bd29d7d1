"""Probabilities of a whole volume from a network, within the memory there is.

Notable in this predictor:
- the whole volume goes through the network at once where an estimate says that it fits, else windows of the largest
  size that fits; running out of memory all the same leads to smaller windows, and a warning says so;
- windows of one range of slices are blended by MONAI's sliding window; ranges are blended with each other as they are
  finished, and finished slices are handed out at once. So the memory does not grow with the number of slices;
- Gaussian weights, the product of one curve per axis, make both steps together one weighted mean of all windows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.inference.memory import MemoryProfile, available_memory, is_out_of_memory, profile_memory
from CrossModalSegLib.progress import CancelToken, Progress, SilentProgress

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]
Shape3 = tuple[int, int, int]

# Share of the free memory that a prediction may take, and its bound on the CPU, where other programs live.
CPU_SHARE, CUDA_SHARE = 0.6, 0.85
CPU_BOUND_BYTES = 3 * 2**30
# Small windows share a pass on a GPU, up to so many voxels and windows.
BATCH_VOXELS, MAX_BATCH = 2**20, 8
# As in MONAI: standard deviation of the weights in window lengths, and the smallest weight.
SIGMA_SCALE = 0.125
SMALLEST_WEIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished slices.

    Attributes:
        start, stop: Range of slices (axis k).
        probabilities: (K + 1, stop - start, j, i) float32, on the CPU.
    """

    start: int
    stop: int
    probabilities: Tensor


def predict(
    network: nn.Module,
    images: np.ndarray | Tensor,
    *,
    device: torch.device | str | None = None,
    patch: Shape3 | None = None,
    overlap: float = 0.25,
    precision: Precision = "bf16",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> np.ndarray:
    """Class probabilities of a volume.

    Args:
        network: Takes (N, C, k, j, i); see `models`. Window sizes are multiples of its `divisor`; where it has a
            `fixed_patch`, all windows have that size.
        images: (C, k, j, i), values as from Preprocessing.
        device: Where the network runs; None takes the device of its weights.
        patch: Window size (k, j, i), rounded up to the divisor, and to two of them along one axis at least; None takes
            the whole volume or the largest window that fits into memory.
        overlap: Share of a window that its neighbour repeats.
        precision: "bf16" uses bfloat16 where the device computes with it natively, float32 elsewhere.
        memory_limit: Bytes the network's pass may take at most, beyond its weights; None decides by what is free.
        progress: Called after each window.
        cancel: Looked at before each window.

    Returns:
        (K + 1, k, j, i) float32; adds to one over the classes.

    Raises:
        InputError: `images` is not (C, k, j, i), or an option is out of range.
        CrossModalSegError: Even the smallest window does not fit into memory.
        Cancelled: The cancel token was set.
    """
    result: np.ndarray | None = None
    for slab in predict_slabs(
        network,
        images,
        device=device,
        patch=patch,
        overlap=overlap,
        precision=precision,
        memory_limit=memory_limit,
        progress=progress,
        cancel=cancel,
    ):
        block = slab.probabilities.numpy()
        if result is None:
            if block.shape[1] == images.shape[1]:
                return np.ascontiguousarray(block)
            result = np.empty((block.shape[0], *images.shape[1:]), np.float32)
        result[:, slab.start : slab.stop] = block
        del slab, block
    if result is None:
        raise InputError("The images have no slice to predict.")
    return result


def predict_slabs(
    network: nn.Module,
    images: np.ndarray | Tensor,
    *,
    device: torch.device | str | None = None,
    patch: Shape3 | None = None,
    overlap: float = 0.25,
    precision: Precision = "bf16",
    memory_limit: int | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Iterator[Slab]:
    """The prediction of `predict`, in finished ranges of slices from first to last; arguments as there."""
    volume = _checked_images(images)
    if not 0.0 <= overlap < 1.0:
        raise InputError(f"The overlap of windows lies within 0 and 1, 1 excluded; got {overlap}.")
    target = torch.device(device) if device is not None else _device_of(network)
    network.to(target)
    passes = _Passes(network, target, usable_precision(precision, target), progress or SilentProgress(), cancel)
    with _evaluation_mode(network):
        yield from _with_fallback(passes, volume, patch, overlap, memory_limit)


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the device is made for it; elsewhere it would be slower than float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=native_bf16(device))


def native_bf16(device: torch.device) -> bool:
    """Whether a device computes with bfloat16 faster than with float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # A PyTorch without oneDNN, as that for Macs with Apple's processors, does not have the function either.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Passes:
    """Runs windows through the network: precision, softmax, progress, cancellation."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: Precision,
        progress: Progress,
        cancel: CancelToken | None,
    ) -> None:
        self.network = network
        self.device = device
        self.precision = precision
        self.divisor = int(getattr(network, "divisor", 1))
        # Some networks, such as UNETR, take inputs of one size only.
        self.fixed_window: Shape3 | None = getattr(network, "fixed_patch", None)
        self._segment = getattr(network, "segment", None)
        self._progress = progress
        self._cancel = cancel
        self._done = self._total = 0

    def begin(self, total: int) -> None:
        """Announce the number of windows to come."""
        self._done, self._total = 0, total
        self._progress(0, total, "segmenting")

    def forward(self, windows: Tensor) -> Tensor:
        """Probabilities (N, K + 1, k, j, i) float32 of windows (N, C, k, j, i)."""
        is_half = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            logits = self._segment(windows) if self._segment is not None else self.network(windows)["out"]
            return torch.softmax(logits, dim=1, dtype=torch.float32)

    def __call__(self, windows: Tensor) -> Tensor:
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        probabilities = self.forward(windows)
        self._done += windows.shape[0]
        self._progress(self._done, self._total, "segmenting")
        return probabilities

    def profile(self, channels: int) -> MemoryProfile:
        """The network's need of memory, measured on small windows."""
        return profile_memory(self.network, self.forward, channels, self.divisor, self.device, self.precision)


def _with_fallback(
    passes: _Passes, volume: Tensor, patch: Shape3 | None, overlap: float, memory_limit: int | None
) -> Iterator[Slab]:
    window = _first_window(passes, volume, patch, overlap, memory_limit)
    finished = 0
    while True:
        try:
            for slab in _slabs(passes, volume, window, overlap, finished):
                finished = slab.stop
                yield slab
                del slab
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = None if passes.fixed_window is not None else _smaller_window(window, passes.divisor)
            if smaller is None:
                raise CrossModalSegError(
                    f"A window of {window} voxels does not fit into the memory of the device {passes.device}, and it "
                    "cannot be made smaller. Close other programs, use another device, or use a smaller network."
                ) from error
        # Outside of the handler, whose error would keep the failed pass's tensors alive.
        logger.warning(
            "The device %s ran out of memory with windows of %s voxels: going on with windows of %s.",
            passes.device,
            window,
            smaller,
        )
        if passes.device.type == "cuda":
            torch.cuda.empty_cache()
        window = smaller


def _first_window(
    passes: _Passes, volume: Tensor, patch: Shape3 | None, overlap: float, memory_limit: int | None
) -> Shape3:
    if passes.fixed_window is not None:
        return tuple(passes.fixed_window)
    if patch is not None:
        if len(patch) != 3 or min(patch) < 1:
            raise InputError(f"A window size is three positive numbers (k, j, i); got {patch}.")
        return _normalisable(_window_within(tuple(volume.shape[1:]), patch, passes.divisor), passes.divisor)
    profile = passes.profile(volume.shape[0])
    budget = memory_budget(passes.device, memory_limit, 4 * profile.num_classes * prod(volume.shape[1:]))
    window = fitting_window(tuple(volume.shape[1:]), passes.divisor, profile, budget, overlap)
    logger.info(
        "Windows of %s voxels need about %.0f MB of the %.0f MB set aside.",
        window,
        profile.need(prod(window)) / 1e6,
        budget / 1e6,
    )
    return _normalisable(window, passes.divisor)


def memory_budget(device: torch.device, memory_limit: int | None, result_bytes: int) -> int:
    """Bytes that the network's passes may take.

    Args:
        device: Where the network runs.
        memory_limit: The caller's bound, or None.
        result_bytes: What the whole result may take beside it in the CPU's memory.
    """
    free = available_memory(device)
    if device.type == "cuda":
        allowed = int(CUDA_SHARE * free)
        return allowed if memory_limit is None else min(allowed, memory_limit)
    allowed = int(CPU_SHARE * max(free - result_bytes, 0))
    return min(allowed, CPU_BOUND_BYTES if memory_limit is None else memory_limit)


def fitting_window(shape: Shape3, divisor: int, profile: MemoryProfile, budget: int, overlap: float = 0.25) -> Shape3:
    """The whole volume, rounded up to the divisor, or else the largest evenly tiling window within the budget.

    One more window at a time is put along the longest axis, or across slices where blending takes most of the memory.
    The result is never less than the smallest window, two divisors long.
    """
    window = [_round_up(n, divisor) for n in shape]
    while True:
        passing, blending = _estimate(tuple(window), shape, profile)
        axes = [axis for axis in range(3) if window[axis] > 2 * divisor]
        if passing + blending <= budget or not axes:
            return tuple(window)
        axis = 0 if blending > passing and 0 in axes else max(axes, key=lambda a: window[a])
        window[axis] = _next_tiling(shape[axis], divisor, window[axis], overlap)


def _estimate(window: Shape3, shape: Shape3, profile: MemoryProfile) -> tuple[int, int]:
    """Bytes for the network's pass, and for blending one range of slices with the one before."""
    is_whole = all(w >= n for w, n in zip(window, shape))
    blended = window[0] * max(shape[1], window[1]) * max(shape[2], window[2])
    return profile.need(prod(window)), 0 if is_whole else 4 * blended * (2 * profile.num_classes + 2)


def _next_tiling(length: int, divisor: int, below: int, overlap: float) -> int:
    """The largest window below a length of which some number tiles the axis with about the overlap."""
    count, window = 1, below
    while window >= below:
        count += 1
        window = max(2 * divisor, _round_up(ceil(length / (1 + (count - 1) * (1 - overlap))), divisor))
    return window


def _smaller_window(window: Shape3, divisor: int) -> Shape3 | None:
    smallest = 2 * divisor
    axes = [axis for axis in range(3) if window[axis] > smallest]
    if not axes:
        return None
    axis = max(axes, key=lambda a: window[a])
    halved = max(smallest, _round_up(ceil(window[axis] / 2), divisor))
    return tuple(halved if a == axis else n for a, n in enumerate(window))


def _normalisable(window: Shape3, divisor: int) -> Shape3:
    """A window of which the deepest features are more than a single voxel, which instance normalisation refuses."""
    return (divisor, divisor, 2 * divisor) if window == (divisor,) * 3 else window


def _window_within(shape: Shape3, patch: Shape3, divisor: int) -> Shape3:
    return tuple(_round_up(min(p, _round_up(n, divisor)), divisor) for p, n in zip(patch, shape))


def _slabs(passes: _Passes, volume: Tensor, window: Shape3, overlap: float, finished: int) -> Iterator[Slab]:
    """Slices from `finished` on, by windows of one size."""
    slices = volume.shape[1]
    # Slices before those still wanted give the first windows their surroundings.
    first = max(0, finished - window[0] // 2)
    starts = _starts(slices - first, window[0], overlap)
    in_plane = prod(len(_starts(n, w, overlap)) for n, w in zip(volume.shape[2:], window[1:]))
    passes.begin(len(starts) * in_plane)
    blend = _SliceBlend(window[0])
    for start, next_start in zip(starts, [*starts[1:], None]):
        row = _row(passes, volume, window, overlap, first + start)
        slab = blend.add(row, first + start, slices if next_start is None else first + next_start)
        # Neither may live on while the next range is computed, which needs as much memory again.
        del row
        if slab.stop > finished:
            skipped = max(0, finished - slab.start)
            yield Slab(slab.start + skipped, slab.stop, slab.probabilities[:, skipped:])
        del slab


def _row(passes: _Passes, volume: Tensor, window: Shape3, overlap: float, start: int) -> Tensor:
    """Probabilities (K + 1, n, j, i) of the n slices from `start` on that a window covers, blended in-plane."""
    block = volume[None, :, start : start + window[0]]
    shape = block.shape[2:]
    margins = [(max(w - n, 0) // 2, max(w - n, 0) - max(w - n, 0) // 2) for n, w in zip(shape, window)]
    padded = functional.pad(block, [m for pair in reversed(margins) for m in pair]) if np.any(margins) else block
    if tuple(padded.shape[2:]) == window:
        probabilities = passes(padded.to(passes.device))
    else:
        probabilities = _sliding_window(passes, padded, window, overlap)
    probabilities = probabilities.cpu()
    inner = tuple(slice(low, low + n) for (low, _), n in zip(margins, shape))
    return probabilities[0][(slice(None), *inner)]


def _sliding_window(passes: _Passes, padded: Tensor, window: Shape3, overlap: float) -> Tensor:
    weights = _weights(window[1])[:, None] * _weights(window[2])[None, :]
    is_cpu = passes.device.type == "cpu"
    with torch.no_grad():
        return sliding_window_inference(
            padded,
            window,
            sw_batch_size=1 if is_cpu else max(1, min(MAX_BATCH, BATCH_VOXELS // prod(window))),
            predictor=passes,
            overlap=(0.0, overlap, overlap),
            roi_weight_map=weights.expand(window).to(passes.device),
            sw_device=passes.device,
            device=passes.device,
        )


class _SliceBlend:
    """Weighted mean of ranges of slices that come in ascending order."""

    def __init__(self, length: int) -> None:
        self._weights = _weights(length)
        self._sum: Tensor | None = None
        self._weight = torch.zeros(0)
        self._start = 0

    def add(self, row: Tensor, start: int, final_until: int) -> Slab:
        """Take in the slices `start` .. `start` + n and hand out those below `final_until`, which nothing more covers.

        Overwrites `row`.
        """
        count = row.shape[1]
        if self._sum is None and start + count <= final_until:
            return Slab(start, start + count, row)
        weights = self._weights[:count]
        row.mul_(weights[:, None, None])
        self._extend(row, start)
        self._sum[:, start - self._start : start - self._start + count] += row
        self._weight[start - self._start : start - self._start + count] += weights
        done = min(final_until, start + count) - self._start
        finished = self._sum[:, :done].div_(self._weight[:done, None, None])
        slab = Slab(self._start, self._start + done, finished)
        self._sum = self._sum[:, done:].clone() if done < self._weight.numel() else None
        self._weight = self._weight[done:]
        self._start += done
        return slab

    def _extend(self, row: Tensor, start: int) -> None:
        if self._sum is None:
            self._sum, self._weight, self._start = torch.zeros_like(row), torch.zeros(row.shape[1]), start
            return
        missing = start + row.shape[1] - self._start - self._sum.shape[1]
        if missing > 0:
            self._sum = functional.pad(self._sum, (0, 0, 0, 0, 0, missing))
            self._weight = functional.pad(self._weight, (0, missing))


def _weights(length: int) -> Tensor:
    """One axis of the Gaussian weights of a window."""
    position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
    return torch.exp(-0.5 * (position / (SIGMA_SCALE * length)) ** 2).clamp_min(SMALLEST_WEIGHT)


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis; the last window ends with the axis."""
    if length <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    return [min(i * step, length - window) for i in range(ceil((length - window) / step) + 1)]


def _round_up(number: int, divisor: int) -> int:
    return ceil(number / divisor) * divisor


def _checked_images(images: np.ndarray | Tensor) -> Tensor:
    volume = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    if volume.ndim != 4 or 0 in volume.shape:
        raise InputError(f"Images for a prediction have the shape (C, k, j, i); got {tuple(volume.shape)}.")
    return volume.to("cpu", torch.float32)


def _device_of(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision asked for, or float32 where the device has no native bfloat16.

    Raises:
        InputError: It is neither "bf16" nor "fp32".
    """
    if precision not in ("bf16", "fp32"):
        raise InputError(f'The precision is "bf16" or "fp32"; got "{precision}".')
    if precision == "bf16" and not native_bf16(device):
        logger.info("The device %s has no native bfloat16: float32 is used.", device)
        return "fp32"
    return precision


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
