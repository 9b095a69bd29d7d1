"""The multi-view CRF regularisation of CmFNet (Eqs. 5 and 6), exact and without unfolding.

    L = 1 / (views * N * V) * sum_views sum_i sum_{j in W(i), j != i} K_ij * (1 - <y_i, y_j>)
    K_ij = sum_m lambda_m sum_n w_n exp(-|dx|^2 / (2 s_n^2) - (I_m(i) - I_m(j))^2 / (2 t_n^2))

Notable in this implementation:
- only half of the offsets is visited, since K is symmetric; offsets along an axis serve two views at once;
- an offset has one scalar spatial weight, which enters through the exponent; powers are those of 2, which PyTorch
  computes several times faster than exp, on the CPU that was measured, and without a slow path for small ones;
- the kernels of all images are summed before the one message pass, sum_j K_ij y_j, which is also the gradient and is
  the only thing saved for the backward pass;
- probabilities sum to 1, so that C - 1 channels hold them: with z, their coordinates in an orthonormal basis of that
  hyperplane, <y_i, y_j> = 1 / C + <z_i, z_j>;
- a window ends at the border of the volume: no padded neighbours, which would add a constant without gradient;
- rows and slices end with numbers that belong to no voxel, where K is 0: so a slice is one run of numbers, which
  processors like, and offsets that lie next to each other share their steps;
- offsets are scaled by the voxel spacing, so that all views see the same physical window.

The energy is that of the gated CRF loss (Obukhov et al., "Gated CRF Loss for Weakly Supervised Semantic Image
Segmentation", 2019), applied in three views as in PA-Seg (Zhai et al., IEEE TMI 2023).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from CrossModalSegLib.errors import InputError

logger = logging.getLogger(__name__)

AXIAL, CORONAL, SAGITTAL = (1, 2), (0, 2), (0, 1)
VIEW_AXES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
View = Literal["axial", "coronal", "sagittal"]
Shift = tuple[int, int, int]
Spacing = Sequence[float] | Sequence[Sequence[float]] | Tensor
Energy = Callable[[Tensor, "KernelTerms", "Windows"], Tensor]


@dataclass(frozen=True)
class _Slabs:
    """How much is done at once.

    Attributes:
        voxels, numbers: Of a slab of slices; numbers are voxels times channels.
        kernel_numbers: Voxels times offsets times pairs of image and kernel.
    """

    voxels: int
    numbers: int
    kernel_numbers: int

    def times(self, factor: int) -> _Slabs:
        """Slabs so many times as large."""
        return _Slabs(*(factor * each for each in (self.voxels, self.numbers, self.kernel_numbers)))


# Larger slabs leave a processor's cache, smaller ones pay for more calls; a GPU has more room, and its calls cost more.
# Those of a CPU are for one thread; each has a cache of its own.
CPU_SLABS = _Slabs(150_000, 300_000, 400_000)
GPU_SLABS = _Slabs(4_000_000, 16_000_000, 8_000_000)
MOST_CACHES = 4  # beyond two it was not measured
# Numbers between channels, one cache line: at distances of a power of two they would share their places in the cache.
GAP = 16
# What belongs to no voxel is so far from all features, scaled as in `KernelTerms`: 2^-(20^2) is zero.
FAR = 20.0
# Powers of 2 below -126 are denormal, which makes processors slow; 2^-115 is zero beside any weight.
LOWEST_EXPONENT = -115.0


@dataclass(frozen=True)
class CrfKernel:
    """One Gaussian kernel k_n of Eq. 5.

    Attributes:
        weight: Its weight w_n.
        sigma_position: Standard deviation of the distance, in the unit of `CrfConfig.unit`.
        sigma_intensity: Standard deviation of the intensity difference, in the unit of the images ([0, 1]);
            None for a kernel of the distance alone.
    """

    weight: float = 1.0
    sigma_position: float = 6.0
    sigma_intensity: float | None = 0.1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"The weight of a CRF kernel must be 0 or more; got {self.weight}.")
        if not self.sigma_position > 0:
            raise InputError(f"sigma_position of a CRF kernel must be above 0; got {self.sigma_position}.")
        if self.sigma_intensity is not None and not self.sigma_intensity > 0:
            raise InputError(
                f"sigma_intensity of a CRF kernel must be above 0, or None for a purely spatial kernel; "
                f"got {self.sigma_intensity}."
            )


@dataclass(frozen=True)
class CrfConfig:
    """The multi-view CRF.

    Attributes:
        kernels: The kernels, the same for every image.
        radius: Half width of the window in each view, in `unit`; along each axis it is rounded down to whole voxels,
            one voxel at least.
        unit: Of `radius` and `sigma_position`. "voxel": the edge of a voxel along the finest axis, which is the
            published form on isotropic grids. "mm": millimetres, which asks for a spacing.
        views: The planes whose windows are summed: "axial" spans (j, i), "coronal" (k, i), "sagittal" (k, j).
    """

    kernels: tuple[CrfKernel, ...] = (CrfKernel(),)
    radius: float = 5.0
    unit: Literal["voxel", "mm"] = "voxel"
    views: tuple[View, ...] = ("axial", "coronal", "sagittal")

    def __post_init__(self) -> None:
        if not self.kernels:
            raise InputError("The CRF needs at least one kernel; got none.")
        if not self.radius > 0:
            raise InputError(f"The radius of the CRF window must be above 0; got {self.radius}.")
        if self.unit not in ("voxel", "mm"):
            raise InputError(f'The unit of the CRF must be "voxel" or "mm"; got {self.unit!r}.')
        if not self.views or len(set(self.views)) < len(self.views) or not set(self.views) <= set(VIEW_AXES):
            raise InputError(f"The views of the CRF must be different ones of {list(VIEW_AXES)}; got {self.views}.")


@dataclass(frozen=True)
class PairOffset:
    """One offset of the lexicographically positive half of the windows.

    Attributes:
        shift: (k, j, i) voxels from a voxel to its neighbour; the first entry that is not 0 is positive.
        views: In how many views the pair is seen (2 along an axis that two views share).
        squared_distance: |dx|^2 in the squared unit of the configuration.
    """

    shift: Shift
    views: int
    squared_distance: float


@dataclass(frozen=True)
class Windows:
    """The windows around a voxel in all views.

    Attributes:
        views: The planes.
        steps: Edge lengths of a voxel along (k, j, i), in the unit of the configuration.
        reach: Voxels to either side along (k, j, i).
    """

    views: tuple[View, ...]
    steps: tuple[float, float, float]
    reach: tuple[int, int, int]

    @cached_property
    def half_offsets(self) -> tuple[PairOffset, ...]:
        """The offsets of all windows, each pair of voxels once."""
        counts: dict[Shift, int] = {}
        for view in self.views:
            first, second = VIEW_AXES[view]
            for p in range(-self.reach[first], self.reach[first] + 1):
                for q in range(-self.reach[second], self.reach[second] + 1):
                    shift = [0, 0, 0]
                    shift[first], shift[second] = p, q
                    key = (shift[0], shift[1], shift[2])
                    if key > (0, 0, 0):
                        counts[key] = counts.get(key, 0) + 1
        return tuple(
            PairOffset(shift, views, sum((n * s) ** 2 for n, s in zip(shift, self.steps, strict=True)))
            for shift, views in counts.items()
        )


def crf_windows(config: CrfConfig, spacing: Sequence[float] | None = None) -> Windows:
    """The windows of a CRF.

    Args:
        config: The CRF.
        spacing: (k, j, i) mm; None: an isotropic grid.

    Raises:
        InputError: The spacing is not three positive numbers, or missing while the unit is mm.
    """
    return _windows(config, _steps(config, spacing))


@lru_cache(maxsize=64)
def _windows(config: CrfConfig, steps: tuple[float, float, float]) -> Windows:
    k, j, i = (max(1, int(config.radius / step + 1e-6)) for step in steps)
    return Windows(config.views, steps, (k, j, i))


def _steps(config: CrfConfig, spacing: Sequence[float] | None) -> tuple[float, float, float]:
    """Edge lengths of a voxel along (k, j, i) in the unit of `config`."""
    if spacing is None:
        if config.unit == "mm":
            raise InputError('The CRF is configured in mm: give the spacing (k, j, i) in mm, or use unit="voxel".')
        return (1.0, 1.0, 1.0)
    values = tuple(float(s) for s in spacing)
    if len(values) != 3 or not all(math.isfinite(s) and s > 0 for s in values):
        raise InputError(f"A spacing is three positive numbers (k, j, i) in mm; got {values}.")
    return values if config.unit == "mm" else tuple(s / min(values) for s in values)


def multi_view_crf(
    probabilities: Tensor,
    images: Tensor,
    image_weights: Sequence[float],
    config: CrfConfig | None = None,
    spacing: Spacing | None = None,
) -> Tensor:
    """Multi-view CRF loss, Eqs. 5 to 7, for all images in one pass.

    Computed in fp32 (fp64 for fp64 probabilities), under autocast too. The images get no gradient.

    Args:
        probabilities: (N, C, k, j, i), summing to 1 over C.
        images: (N, M, k, j, i), each in [0, 1].
        image_weights: The lambda of each of the M images.
        config: Kernels, window and views; None: the published ones.
        spacing: (k, j, i) mm of all samples, or (N, 3), one a sample; None: an isotropic grid.

    Returns:
        Scalar, sum_m lambda_m * L_mcrf(y; I_m): the mean over views, samples and voxels.

    Raises:
        InputError: Shapes, weights or spacing do not fit each other.
    """
    config = config or CrfConfig()
    _check(probabilities, images, image_weights)
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    with torch.autocast(probabilities.device.type, enabled=False):
        y, images = probabilities.to(dtype), images.detach().to(dtype)
        energy = _energy_on(y)
        count = len(config.views) * y.shape[0] * y[0, 0].numel()
        shares = [weight / count for weight in image_weights]  # a mean at no further operation
        energies = [
            energy(y[samples], _kernel_terms(images[samples], shares, config), crf_windows(config, own_spacing))
            for samples, own_spacing in _spacing_groups(spacing, y.shape[0])
        ]
        return sum(energies[1:], energies[0])


def _check(probabilities: Tensor, images: Tensor, image_weights: Sequence[float]) -> None:
    p, m = tuple(probabilities.shape), tuple(images.shape)
    if len(p) != 5 or len(m) != 5 or p[0] != m[0] or p[2:] != m[2:]:
        raise InputError(
            f"The CRF expected probabilities (N, C, k, j, i) and images (N, M, k, j, i) of one grid; got {p} and {m}."
        )
    if p[1] < 2:
        raise InputError(f"The CRF needs probabilities of at least 2 classes, background included; got {p[1]}.")
    if len(image_weights) != m[1]:
        raise InputError(f"The CRF needs one weight an image: {m[1]} images, but {len(image_weights)} weights.")
    if any(not w >= 0 for w in image_weights):
        raise InputError(f"The weights of the CRF must be 0 or more; got {tuple(image_weights)}.")


def _spacing_groups(spacing: Spacing | None, count: int) -> Iterator[tuple[slice | list[int], Sequence[float] | None]]:
    """Samples that share a spacing, with it."""
    if isinstance(spacing, Tensor):
        spacing = spacing.tolist()
    if spacing is None or not len(spacing) or not isinstance(spacing[0], (Sequence, Tensor)):
        yield slice(None), spacing
        return
    if len(spacing) != count:
        raise InputError(f"Give one spacing for all samples or one a sample: {count} samples, {len(spacing)} spacings.")
    groups: dict[tuple[float, ...], list[int]] = {}
    for n, one in enumerate(spacing):
        groups.setdefault(tuple(float(s) for s in one), []).append(n)
    for one, samples in groups.items():
        yield (slice(None) if len(samples) == count else samples), one


@dataclass(frozen=True)
class KernelWeights:
    """What all kernels of all images are beside the images.

    Attributes:
        weights, decays: T each, of the (image, kernel) pairs: lambda_m w_n and 1 / (2 s_n^2).
        spatial: (weight, decay) of every purely spatial kernel.
    """

    weights: tuple[float, ...]
    decays: tuple[float, ...]
    spatial: tuple[tuple[float, float], ...]

    def logarithms(self, offset: PairOffset) -> list[float]:
        """log2(lambda_m w_n g_n(offset) * views) of each of the T pairs."""
        return [
            math.log2(w * offset.views) - d * offset.squared_distance / math.log(2)
            for w, d in zip(self.weights, self.decays, strict=True)
        ]

    def constant(self, offset: PairOffset) -> float:
        """The sum of the purely spatial kernels at an offset."""
        return sum(w * offset.views * math.exp(-d * offset.squared_distance) for w, d in self.spatial)


@dataclass(frozen=True, eq=False)
class KernelTerms:
    """All kernels of all images, as exponents and constants.

    Attributes:
        features: (T, N, k, j, i): T (image, kernel) pairs, scaled so that the exponent of 2 is -(difference)^2.
        kernels: Of the T pairs, and the purely spatial ones.
        largest_square: No squared difference of features is above this.
    """

    features: Tensor
    kernels: KernelWeights
    largest_square: float


def _kernel_terms(images: Tensor, image_weights: Sequence[float], config: CrfConfig) -> KernelTerms:
    used = [m for m, weight in enumerate(image_weights) if weight > 0]
    weights, decays, scales, spatial = [], [], [], []
    for kernel in config.kernels:
        decay = 0.5 / kernel.sigma_position**2
        if kernel.sigma_intensity is None:
            spatial.append((kernel.weight * float(sum(image_weights)), decay))
        elif kernel.weight > 0:
            weights += [float(image_weights[m] * kernel.weight) for m in used]
            decays += [decay] * len(used)
            scales.append(math.sqrt(0.5 / math.log(2)) / kernel.sigma_intensity)
    by_image = (images if len(used) == images.shape[1] else images[:, used]).transpose(0, 1)
    features = images.new_empty((len(scales), *by_image.shape))
    for scale, scaled in zip(scales, features, strict=True):
        torch.mul(by_image, scale, out=scaled)
    features = features.flatten(0, 1)
    return KernelTerms(
        features=features,
        kernels=KernelWeights(tuple(weights), tuple(decays), tuple((w, d) for w, d in spatial if w > 0)),
        largest_square=_largest_square(features),
    )


def _largest_square(features: Tensor) -> float:
    """Squared range of the features; 0 off the CPU, where it would cost a wait and no power is slow."""
    if features.device.type != "cpu" or features.numel() == 0:
        return 0.0
    low, high = features.aminmax()
    return float(high - low) ** 2


def _energy_on(y: Tensor) -> Energy:
    """The way to the energy that is fastest for y."""
    is_fused = y.is_cuda and y.dtype == torch.float32
    return (is_fused and _fused_energy(y.device)) or _PairwiseEnergy.apply


@cache
def _fused_energy(device: torch.device) -> Energy | None:
    """That of Triton, tried on two voxels; None where it does not work: it needs a compiler, and a recent GPU."""
    config = CrfConfig()
    try:
        from CrossModalSegLib.losses.crf_triton import FusedPairwiseEnergy

        y = torch.full((1, 2, 1, 1, 2), 0.5, device=device)
        FusedPairwiseEnergy.apply(y, _kernel_terms(y[:, :1], (1.0,), config), crf_windows(config))
    except Exception as error:  # noqa: BLE001 - of many kinds: the import's, the compiler's, the driver's
        logger.info("The CRF runs without Triton: %s: %s", type(error).__name__, error)
        return None
    return FusedPairwiseEnergy.apply


class _PairwiseEnergy(torch.autograd.Function):
    """sum over ordered pairs of K_ij (1 - <y_i, y_j>), for y (N, C, k, j, i) that sums to 1 over C."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, terms: KernelTerms, windows: Windows) -> Tensor:
        z = _coordinates(y.detach())
        message, kernel_sum = _pass_messages(z, terms, windows.half_offsets)
        ctx.save_for_backward(message)
        # Each pair of voxels is two ordered ones.
        return (2.0 * (1.0 - 1.0 / y.shape[1]) * kernel_sum - _inner_product(message, z)).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (message,) = ctx.saved_tensors
        # Twice the sum over ordered pairs of the derivative, since K is symmetric.
        return _from_coordinates(message, -2.0 * gradient), None, None


def _coordinates(y: Tensor) -> Tensor:
    """z (N, C - 1, k, j, i) of probabilities (N, C, k, j, i) in an orthonormal basis of sum(y) = 1.

    They are what the reflection that takes (1, ..., 1) / sqrt(C) to the first axis makes of all but the first entry.
    """
    root = math.sqrt(y.shape[1])
    return y[:, 1:] + (y[:, :1] - 1.0 / root) / (root - 1.0)


def _from_coordinates(message: Tensor, scale: Tensor) -> Tensor:
    """scale times the gradient (N, C, k, j, i) that `_coordinates` passes back of a message (N, C - 1, k, j, i)."""
    n, channels, *grid = message.shape
    gradient = message.new_empty((n, channels + 1, *grid))
    torch.mul(message, scale, out=gradient[:, 1:])
    torch.sum(gradient[:, 1:], 1, out=gradient[:, 0])
    gradient[:, 0] /= math.sqrt(channels + 1) - 1.0
    return gradient


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """sum(a * b) in fp64 sums of one sample's channel each, so that no full-size temporary is made."""
    dtype = _type_of_sums(a.device)
    total = a.new_zeros((), dtype=dtype)
    for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True):
        total += (x * y).sum(dtype=dtype)
    return total


def _type_of_sums(device: torch.device) -> torch.dtype:
    """fp64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def _pass_messages(z: Tensor, terms: KernelTerms, offsets: tuple[PairOffset, ...]) -> tuple[Tensor, Tensor]:
    """sum_j K_ij z_j for every voxel, and the sum of K over unordered pairs.

    Args:
        z: (N, C, k, j, i), what is passed.
        terms: The kernels.
        offsets: The half of the window.

    Returns:
        The messages, shaped as `z`, and a scalar in fp64.
    """
    n, channels, *grid = z.shape
    margins = _Margins(*(max(abs(offset.shift[axis]) for offset in offsets) for axis in (1, 2)))
    message = margins.zeros(z)
    source, target = _Runs(margins.zeros(z).copy_(z)), _Runs(message)
    features = _Runs(margins.far_around(terms.features))
    in_slice = n * source.length
    slabs = CPU_SLABS.times(min(torch.get_num_threads(), MOST_CACHES)) if z.device.type == "cpu" else GPU_SLABS
    thickness = min(grid[0], max(1, min(slabs.voxels, slabs.numbers // channels) // in_slice))
    room = max(1, len(terms.kernels.weights)) * thickness * in_slice
    groups = _offset_groups(terms, offsets, max(1, slabs.kernel_numbers // room))
    buffer = z.new_empty(room * max(group.count for group in groups))
    sums = []
    for start in range(0, grid[0], thickness):
        for group in groups:
            slices = min(grid[0] - group.shift[0], start + thickness) - start
            if slices <= 0:
                continue
            kernels = _kernels(features.here(start, slices), features.there(start, slices, group), group, buffer)
            sums.append(kernels.sum())
            if group.constants is not None:
                kernels.add_(group.constants)
            here, message_here = source.here(start, slices), target.here(start, slices)
            theirs = source.there(start, slices, group), target.there(start, slices, group)
            for kernel, there, message_there in zip(kernels.unsqueeze(2), *theirs, strict=True):
                message_here.addcmul_(kernel, there)
                message_there.addcmul_(kernel, here)
    dtype = _type_of_sums(z.device)
    kernel_sum = torch.stack(sums).sum(dtype=dtype) if sums else z.new_zeros((), dtype=dtype)
    return message, kernel_sum + n * _sum_of_constants(terms, offsets, grid)


def _sum_of_constants(terms: KernelTerms, offsets: tuple[PairOffset, ...], grid: Sequence[int]) -> float:
    """The purely spatial kernels over all unordered pairs of one sample."""
    pairs = (math.prod(max(0, size - abs(s)) for size, s in zip(grid, offset.shift, strict=True)) for offset in offsets)
    return sum(terms.kernels.constant(offset) * count for offset, count in zip(offsets, pairs, strict=True))


@dataclass(frozen=True)
class _Margins:
    """Numbers in memory that belong to no voxel, so that a neighbour of a voxel beyond its slice is one of them.

    Attributes:
        rows: After the last row of each slice.
        columns: After the last column of each row.
    """

    rows: int
    columns: int

    def zeros(self, like: Tensor) -> Tensor:
        """(…, …, k, j, i), with margins of zeros that are no part of it."""
        return self._inside(self._room(like), like)

    def far_around(self, features: Tensor) -> Tensor:
        """A copy (…, …, k, j, i), with margins no number of which is within FAR of a feature, or of another."""
        room = self._room(features)
        if features.numel():
            numbers = math.prod(room.shape[2:])
            steps = torch.arange(1, numbers + 1, device=features.device, dtype=features.dtype)
            room.copy_((features.amax() + FAR * steps).view(room.shape[2:]))
        return self._inside(room, features).copy_(features)

    def _room(self, like: Tensor) -> Tensor:
        # Channels lie GAP numbers apart.
        *outer, depth, rows, columns = like.shape
        grid = (depth, rows + self.rows, columns + self.columns)
        numbers = math.prod(grid)
        return like.new_zeros((*outer, numbers + GAP))[..., :numbers].unflatten(-1, grid)

    @staticmethod
    def _inside(room: Tensor, like: Tensor) -> Tensor:
        return room[..., : like.shape[-2], : like.shape[-1]]


@dataclass(frozen=True, eq=False)
class _OffsetGroup:
    """Offsets that lie in a row or a column, next to each other, with the weights of their kernels.

    Attributes:
        shift: (k, j, i) voxels of the first.
        count: G.
        axis: 1 where the others follow along j, 2 where they follow along i.
        log_weights: (G, T, 1), of the image kernels, to base 2.
        constants: (G, 1, 1, 1), the sums of the purely spatial kernels; None where there are none.
        needs_floor: Exponents can go below LOWEST_EXPONENT.
    """

    shift: Shift
    count: int
    axis: int
    log_weights: Tensor
    constants: Tensor | None
    needs_floor: bool


def _offset_groups(terms: KernelTerms, offsets: tuple[PairOffset, ...], largest: int) -> list[_OffsetGroup]:
    """The offsets in groups of at most `largest`."""
    sagittal_alone = [offset for offset in offsets if offset.shift[0] and offset.shift[1]]  # the only ones without i
    others = [offset for offset in offsets if not (offset.shift[0] and offset.shift[1])]
    return [
        _offset_group(terms, members, axis)
        for axis, of_axis in ((1, sagittal_alone), (2, others))
        for members in _neighbours_along(axis, of_axis, largest)
    ]


def _neighbours_along(axis: int, offsets: Sequence[PairOffset], largest: int) -> list[list[PairOffset]]:
    """The offsets in lists of at most `largest`, in which each is one voxel further along an axis."""
    lists: list[list[PairOffset]] = []
    before = None
    for offset in sorted(offsets, key=lambda each: (each.shift[0], each.shift[3 - axis], each.shift[axis])):
        here = list(offset.shift)
        if lists and len(lists[-1]) < largest and here == before:
            lists[-1].append(offset)
        else:
            lists.append([offset])
        before = [*here[:axis], here[axis] + 1, *here[axis + 1 :]]
    return lists


def _offset_group(terms: KernelTerms, offsets: Sequence[PairOffset], axis: int) -> _OffsetGroup:
    logs = [terms.kernels.logarithms(each) for each in offsets]
    lowest = min((value for each in logs for value in each), default=0.0)
    constants = terms.features.new_tensor([terms.kernels.constant(each) for each in offsets]).view(-1, 1, 1, 1)
    return _OffsetGroup(
        shift=offsets[0].shift,
        count=len(offsets),
        axis=axis,
        log_weights=terms.features.new_tensor(logs).view(len(offsets), len(terms.kernels.weights), 1),
        constants=constants if terms.kernels.spatial else None,
        needs_floor=lowest - terms.largest_square < LOWEST_EXPONENT,
    )


class _Runs:
    """Slices of a tensor (A, B, k, j, i) with margins as views in which all rows of a slice are one run of numbers.

    as_strided costs a third of indexing with slices, and a loss takes thousands of views.

    Attributes:
        length: Of a run, from the first voxel of a slice to the last, margins between them included.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._outer = tuple(tensor.shape[:2])
        self._strides = tensor.stride()
        self.length = (tensor.shape[3] - 1) * tensor.stride(3) + tensor.shape[4]

    def here(self, first: int, slices: int) -> Tensor:
        """(A, B, slices, length) from the slice `first` on."""
        size = (*self._outer, slices, self.length)
        return self._tensor.as_strided(size, (*self._strides[:3], 1), first * self._strides[2])

    def there(self, first: int, slices: int, group: _OffsetGroup) -> Tensor:
        """(G, A, B, slices, length), the neighbours at the offsets of a group."""
        size = (group.count, *self._outer, slices, self.length)
        strides = (self._strides[group.axis + 2], *self._strides[:3], 1)
        start = sum(n * stride for n, stride in zip(group.shift, self._strides[2:], strict=True))
        return self._tensor.as_strided(size, strides, first * self._strides[2] + start)


def _kernels(here: Tensor, there: Tensor, group: _OffsetGroup, buffer: Tensor) -> Tensor:
    """The images' K (G, N, slices, length) of features (T, N, …) here and (G, T, N, …) there, in `buffer`."""
    count, terms, *rest = there.shape
    if terms == 0:
        return buffer[: count * math.prod(rest)].zero_().view(count, *rest)
    flat = buffer[: there.numel()].view(count, terms, -1)
    torch.sub(there, here, out=flat.view(there.shape))
    torch.addcmul(group.log_weights, flat, flat, value=-1, out=flat)
    if group.needs_floor:
        flat.clamp_(min=LOWEST_EXPONENT)
    kernels, *others = flat.exp2_().unbind(1)
    for other in others:
        kernels.add_(other)
    return kernels.unflatten(1, rest)
