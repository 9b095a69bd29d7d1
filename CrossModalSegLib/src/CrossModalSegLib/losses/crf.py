"""The multi-view CRF regularisation of CmFNet (Eqs. 5 and 6), exact and without unfolding.

    L = 1 / (views * N * V) * sum_views sum_i sum_{j in W(i), j != i} K_ij * (1 - <y_i, y_j>)
    K_ij = sum_m lambda_m sum_n w_n exp(-|dx|^2 / (2 s_n^2) - (I_m(i) - I_m(j))^2 / (2 t_n^2))

Notable in this implementation:
- only half of the offsets is visited, since K is symmetric; offsets along an axis serve two views at once;
- an offset has one scalar spatial weight, which enters through the exponent;
- the kernels of all images are summed before the one message pass, sum_j K_ij y_j, which is also the gradient and is
  the only thing saved for the backward pass;
- for two classes 1 - <y_i, y_j> = (1 - q_i q_j) / 2 with q = 1 - 2 p, so that one channel is passed instead of two;
- a window ends at the border of the volume: no padded neighbours, which would add a constant without gradient;
- offsets are scaled by the voxel spacing, so that all views see the same physical window.

The energy is that of the gated CRF loss (Obukhov et al., "Gated CRF Loss for Weakly Supervised Semantic Image
Segmentation", 2019), applied in three views as in PA-Seg (Zhai et al., IEEE TMI 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from CrossModalSegLib.errors import InputError

AXIAL, CORONAL, SAGITTAL = (1, 2), (0, 2), (0, 1)
VIEW_AXES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
View = Literal["axial", "coronal", "sagittal"]
Shift = tuple[int, int, int]
Spacing = Sequence[float] | Sequence[Sequence[float]] | Tensor

# Larger slabs leave the processor's cache, smaller ones pay for more calls.
SLAB_VOXELS = 150_000
SLAB_NUMBERS = 300_000  # voxels times channels
# Numbers between channels, one cache line: at distances of a power of two they would share their places in the cache.
GAP = 16
# exp of less than about -87 takes a slow path on processors that is 60 times slower; e^-80 is zero beside any weight.
LOWEST_EXPONENT = -80.0


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


def half_offsets(config: CrfConfig, spacing: Sequence[float] | None = None) -> tuple[PairOffset, ...]:
    """The offsets of the windows of all views, each pair of voxels once.

    Args:
        config: The CRF.
        spacing: (k, j, i) mm; None: an isotropic grid.

    Raises:
        InputError: The spacing is not three positive numbers, or missing while the unit is mm.
    """
    step = _steps(config, spacing)
    reach = [max(1, int(config.radius / s + 1e-6)) for s in step]
    counts: dict[Shift, int] = {}
    for view in config.views:
        first, second = VIEW_AXES[view]
        for p in range(-reach[first], reach[first] + 1):
            for q in range(-reach[second], reach[second] + 1):
                shift = [0, 0, 0]
                shift[first], shift[second] = p, q
                key = (shift[0], shift[1], shift[2])
                if key > (0, 0, 0):
                    counts[key] = counts.get(key, 0) + 1
    return tuple(
        PairOffset(shift, views, sum((n * s) ** 2 for n, s in zip(shift, step, strict=True)))
        for shift, views in counts.items()
    )


def _steps(config: CrfConfig, spacing: Sequence[float] | None) -> tuple[float, ...]:
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
        is_two_class = y.shape[1] == 2
        # Gradients through the foreground alone equal those through both channels, as the two sum to 1.
        spins = 1.0 - 2.0 * y[:, 1:] if is_two_class else y
        total = y.new_zeros(())
        for samples, sample_spacing in _spacing_groups(spacing, y.shape[0]):
            terms = _kernel_terms(images[samples], image_weights, config)
            offsets = half_offsets(config, sample_spacing)
            total = total + _PairwiseEnergy.apply(spins[samples], terms, offsets, is_two_class)
        return total / (len(config.views) * y.shape[0] * y[0, 0].numel())


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


@dataclass(frozen=True, eq=False)
class _KernelTerms:
    """All kernels of all images, as exponents and constants.

    Attributes:
        features: (T, N, k, j, i): T (image, kernel) pairs, scaled so that the exponent is -(difference)^2.
        weights, decays: T each: lambda_m w_n and 1 / (2 s_n^2).
        spatial: (weight, decay) of every purely spatial kernel.
        largest_square: No squared difference of features is above this.
    """

    features: Tensor
    weights: tuple[float, ...]
    decays: tuple[float, ...]
    spatial: tuple[tuple[float, float], ...]
    largest_square: float

    def log_weights(self, offset: PairOffset) -> list[float]:
        """log(lambda_m w_n g_n(offset) * views) of each of the T terms."""
        return [
            math.log(w * offset.views) - d * offset.squared_distance
            for w, d in zip(self.weights, self.decays, strict=True)
        ]

    def constant(self, offset: PairOffset) -> float:
        """The sum of the purely spatial kernels at an offset."""
        return sum(w * offset.views * math.exp(-d * offset.squared_distance) for w, d in self.spatial)


def _kernel_terms(images: Tensor, image_weights: Sequence[float], config: CrfConfig) -> _KernelTerms:
    features, weights, decays = [], [], []
    spatial = []
    for kernel in config.kernels:
        decay = 0.5 / kernel.sigma_position**2
        if kernel.sigma_intensity is None:
            spatial.append((kernel.weight * float(sum(image_weights)), decay))
            continue
        for m, image_weight in enumerate(image_weights):
            if image_weight * kernel.weight > 0:
                features.append(images[:, m] * (math.sqrt(0.5) / kernel.sigma_intensity))
                weights.append(float(image_weight * kernel.weight))
                decays.append(decay)
    stacked = torch.stack(features) if features else images.new_zeros((0, images.shape[0], *images.shape[2:]))
    return _KernelTerms(
        features=stacked,
        weights=tuple(weights),
        decays=tuple(decays),
        spatial=tuple((w, d) for w, d in spatial if w > 0),
        largest_square=_largest_square(stacked),
    )


def _largest_square(features: Tensor) -> float:
    """Squared range of the features; 0 off the CPU, where it would cost a wait and exp has no slow path."""
    if features.device.type != "cpu" or features.numel() == 0:
        return 0.0
    low, high = features.aminmax()
    return float(high - low) ** 2


class _PairwiseEnergy(torch.autograd.Function):
    """sum over ordered pairs of K_ij (1 - <y_i, y_j>), or K_ij (1 - q_i q_j) / 2 for two classes."""

    @staticmethod
    def forward(
        ctx: Any, spins: Tensor, terms: _KernelTerms, offsets: tuple[PairOffset, ...], is_two_class: bool
    ) -> Tensor:
        message, kernel_sum = _pass_messages(spins.detach(), terms, offsets)
        agreement = _inner_product(message, spins.detach())
        ctx.save_for_backward(message)
        # Twice the sum over ordered pairs of the derivative, since K is symmetric.
        ctx.gradient_scale = -1.0 if is_two_class else -2.0
        energy = kernel_sum - 0.5 * agreement if is_two_class else 2.0 * kernel_sum - agreement
        return energy.to(spins.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (message,) = ctx.saved_tensors
        return message * (ctx.gradient_scale * gradient), None, None, None


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    """sum(a * b) in fp64 sums of one sample's channel each, so that no full-size temporary is made."""
    total = a.new_zeros((), dtype=torch.float64)
    for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True):
        total += (x * y).sum(dtype=torch.float64)
    return total


def _pass_messages(spins: Tensor, terms: _KernelTerms, offsets: tuple[PairOffset, ...]) -> tuple[Tensor, Tensor]:
    """sum_j K_ij y_j for every voxel, and the sum of K over unordered pairs.

    Args:
        spins: (N, C, k, j, i), what is passed.
        terms: The kernels.
        offsets: The half of the window.

    Returns:
        The messages, shaped as `spins`, and a scalar in fp64.
    """
    n, channels, *grid = spins.shape
    message = _empty(spins).zero_()
    spins = _empty(spins).copy_(spins)
    slab = min(SLAB_VOXELS, SLAB_NUMBERS // channels)
    thickness = min(grid[0], max(1, slab // (n * grid[1] * grid[2])))
    buffer = spins.new_empty(max(1, len(terms.weights)) * n * thickness * grid[1] * grid[2])
    weighted = _weighted_offsets(terms, offsets)
    source, target, features = _Boxes(spins), _Boxes(message), _Boxes(terms.features)
    sums = []
    for start in range(0, grid[0], thickness):
        for offset in weighted:
            size, here, there = _pair_region(offset.shift, grid, start, start + thickness)
            if min(size) <= 0:
                continue
            kernel = _kernel(features.at(size, here), features.at(size, there), offset, buffer)
            sums.append(kernel.sum())
            target.at(size, here).addcmul_(kernel, source.at(size, there))
            target.at(size, there).addcmul_(kernel, source.at(size, here))
    kernel_sum = torch.stack(sums).sum(dtype=torch.float64) if sums else spins.new_zeros((), dtype=torch.float64)
    return message, kernel_sum


def _empty(like: Tensor) -> Tensor:
    """Uninitialised (N, C, k, j, i); several channels lie GAP numbers apart, each is contiguous."""
    n, channels, *grid = like.shape
    voxels = math.prod(grid)
    room = like.new_empty((n, channels, voxels + (GAP if channels > 1 else 0)))
    return room[..., :voxels].unflatten(-1, grid)


@dataclass(frozen=True)
class _WeightedOffset:
    """An offset with the weights of its kernels.

    Attributes:
        shift: (k, j, i) voxels.
        log_weight: (T, 1), of the image kernels.
        constant: The sum of the purely spatial kernels.
        needs_floor: Exponents can go below LOWEST_EXPONENT.
    """

    shift: Shift
    log_weight: Tensor
    constant: float
    needs_floor: bool


def _weighted_offsets(terms: _KernelTerms, offsets: tuple[PairOffset, ...]) -> list[_WeightedOffset]:
    logs = [terms.log_weights(o) for o in offsets]
    columns = terms.features.new_tensor(logs).view(len(offsets), len(terms.weights), 1).unbind()
    return [
        _WeightedOffset(
            shift=o.shift,
            log_weight=column,
            constant=terms.constant(o),
            needs_floor=min(log, default=0.0) - terms.largest_square < LOWEST_EXPONENT,
        )
        for o, log, column in zip(offsets, logs, columns, strict=True)
    ]


class _Boxes:
    """Boxes of a (…, …, k, j, i) tensor, contiguous within each (k, j, i), as views.

    as_strided costs a third of indexing with slices, and a loss takes thousands of views.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._outer = tuple(tensor.shape[:2])
        self._strides = tensor.stride()
        self._offset = tensor.storage_offset()

    def at(self, size: Shift, start: int) -> Tensor:
        """The box of `size` (k, j, i) that begins at voxel `start` of the flattened grid."""
        return self._tensor.as_strided(self._outer + size, self._strides, self._offset + start)


def _pair_region(shift: Shift, grid: Sequence[int], first: int, last: int) -> tuple[Shift, int, int]:
    """Size of the box of voxels in the slab [first, last) that have a neighbour, its start, and that of the neighbours.

    The size is not positive where no voxel has one; the starts count voxels of the flattened grid.
    """
    dk, dj, di = shift
    depth, rows, columns = grid
    k, j, i = max(0, -dk, first), max(0, -dj), max(0, -di)
    size = (min(depth - max(0, dk), last) - k, rows - abs(dj), columns - abs(di))
    here = (k * rows + j) * columns + i
    return size, here, here + (dk * rows + dj) * columns + di


def _kernel(here: Tensor, there: Tensor, offset: _WeightedOffset, buffer: Tensor) -> Tensor:
    """K (N, 1, k, j, i) between the features (T, N, k, j, i) here and there, in `buffer`."""
    count, samples, *size = here.shape
    shape = (samples, 1, *size)
    if count == 0:
        return buffer[: math.prod(shape)].fill_(offset.constant).view(shape)
    flat = buffer[: here.numel()].view(count, -1)
    torch.sub(there, here, out=flat.view(here.shape))
    torch.addcmul(offset.log_weight, flat, flat, value=-1, out=flat)
    if offset.needs_floor:
        flat.clamp_(min=LOWEST_EXPONENT)
    kernel, *others = flat.exp_().unbind()
    for other in others:
        kernel.add_(other)
    if offset.constant:
        kernel.add_(offset.constant)
    return kernel.view(shape)
