"""Changes that make of one slice, or of two, a reference and a target of different looks.

As in the paper, two independent sets of MONAI transforms are used: the reference stays as it is or changes slightly,
the target changes strongly in contrast. On top, each by a switch of its own: remaps that a gamma cannot do (piecewise
monotone and non-monotone curves, and new intensities for every organ and tissue class), and changes of geometry.

All choices come from the generator that a call is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import (
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGibbsNoise,
    RandHistogramShift,
    RandRicianNoise,
    RandScaleIntensity,
    RandSimulateLowResolution,
)
from monai.transforms.transform import RandomizableTransform
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError

Spatial = Literal["none", "shared", "independent"]

MAX_SEED = 2**31 - 1
# Below this a pixel of an image in [0, 1] is taken for air.
AIR = 0.03
NUM_VALUES = 256


@dataclass(frozen=True)
class ContrastConfig:
    """Probabilities and ranges of one set of changes.

    Attributes:
        gibbs_prob, gibbs_alpha: Gibbs ringing and its range.
        noise_prob, noise_std: Gaussian noise and the upper bound of its standard deviation.
        gamma_prob, gamma: Gamma curve and the range of its exponent; the mean and deviation are kept.
        invert_prob: Share of the gamma curves that are applied to the inverted image.
        scale_prob, scale: Brightness and its largest relative change.
        histogram_prob: Shift of the histogram's control points.
        curve_prob: A piecewise linear curve through random points, monotone or not.
        tissue_prob: New intensities for each organ and tissue class.
        bias_prob, bias: Bias field and the largest coefficient of its polynomial.
        rician_prob, rician_std: Rician noise.
        low_resolution_prob, zoom_out: Low resolution and the range of its factor.
        dark_air: Share of the curves and redraws that leave air dark, as it is in nearly all images.
    """

    gibbs_prob: float = 0.0
    gibbs_alpha: tuple[float, float] = (0.2, 0.7)
    noise_prob: float = 0.0
    noise_std: float = 0.1
    gamma_prob: float = 0.0
    gamma: tuple[float, float] = (0.5, 4.5)
    invert_prob: float = 0.0
    scale_prob: float = 0.0
    scale: float = 0.3
    histogram_prob: float = 0.0
    curve_prob: float = 0.0
    tissue_prob: float = 0.0
    bias_prob: float = 0.0
    bias: float = 0.25
    rician_prob: float = 0.0
    rician_std: float = 0.08
    low_resolution_prob: float = 0.0
    zoom_out: tuple[float, float] = (0.4, 0.9)
    dark_air: float = 0.85

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if (name.endswith("_prob") or name == "dark_air") and not 0.0 <= value <= 1.0:
                raise InputError(f"The {name} of an augmentation is a probability within 0 and 1; got {value}.")

    def without_remaps(self) -> ContrastConfig:
        """Only what the paper's transforms do."""
        names = ("histogram", "curve", "tissue", "bias", "rician", "low_resolution")
        return replace(self, **{f"{name}_prob": 0.0 for name in names})


SLIGHT = ContrastConfig(noise_prob=0.15, noise_std=0.03, gamma_prob=0.2, gamma=(0.8, 1.25), scale_prob=0.2, scale=0.1)
STRONG = ContrastConfig(
    gibbs_prob=0.1,
    noise_prob=0.2,
    gamma_prob=0.4,
    invert_prob=0.4,
    scale_prob=0.3,
    histogram_prob=0.1,
    curve_prob=0.3,
    tissue_prob=0.4,
    bias_prob=0.2,
    rician_prob=0.1,
    low_resolution_prob=0.15,
)
PAPER_TARGET = ContrastConfig(gibbs_prob=0.3, noise_prob=0.3, gamma_prob=0.8, invert_prob=0.5, scale_prob=0.5)


@dataclass(frozen=True)
class SpatialConfig:
    """Ranges of the changes of geometry; nothing is mirrored, as organs have sides.

    Attributes:
        probability: Share of the slices that change.
        rotation_deg: Largest angle.
        scale: Range of the zoom.
        aspect: Largest relative difference of the zoom along rows and columns.
        shift: Largest shift, as a share of the side.
        elastic: Standard deviation of the displacement of elastic control points, as a share of the side.
        points: Elastic control points along each side.
    """

    probability: float = 0.8
    rotation_deg: float = 12.0
    scale: tuple[float, float] = (0.75, 1.35)
    aspect: float = 0.1
    shift: float = 0.08
    elastic: float = 0.012
    points: int = 7

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0 or not 0 < self.scale[0] <= self.scale[1] or self.points < 2:
            raise InputError(
                "Changes of geometry need a probability within 0 and 1, ascending positive scales and at least 2 "
                f"control points; got {self}."
            )


@dataclass(frozen=True)
class PairedAugmentationConfig:
    """What happens to a reference and its target.

    Attributes:
        reference, target: The two sets of changes.
        strong_reference: Share of the references that change like a target; the paper has none.
        paired: Whether the sets are independent. Otherwise both slices get the target's set with the same choices,
            so that a same-slice pair is one image twice (the ablation "without paired augmentation").
        contrast_remaps: Whether changes beyond the paper's transforms are used.
        spatial: Geometry: "none", one change "shared" by both slices, or "independent" ones.
        geometry: Its ranges.
    """

    reference: ContrastConfig = SLIGHT
    target: ContrastConfig = STRONG
    strong_reference: float = 0.0
    paired: bool = True
    contrast_remaps: bool = True
    spatial: Spatial = "independent"
    geometry: SpatialConfig = SpatialConfig()

    def __post_init__(self) -> None:
        if self.spatial not in ("none", "shared", "independent"):
            raise InputError(f'Geometry changes are "none", "shared" or "independent"; got "{self.spatial}".')
        if not 0.0 <= self.strong_reference <= 1.0:
            raise InputError(f"strong_reference is a share within 0 and 1; got {self.strong_reference}.")


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice with its neighbours.

    Attributes:
        image: (I, H, W) float32 in [0, 1].
        labels: (I, H, W) uint8, 0 where nothing is labelled.
    """

    image: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape != self.labels.shape:
            raise InputError(
                "A slice needs an image and labels of one shape (I, H, W); "
                f"got {self.image.shape} and {self.labels.shape}."
            )


class PairedAugmentation:
    """Changes pairs of slices. Its transforms hold random states while they work: one for each thread."""

    def __init__(self, config: PairedAugmentationConfig | None = None) -> None:
        """Build the transforms.

        Args:
            config: What happens; None changes nothing.
        """
        self.config = config
        if config is None:
            return
        keep = (lambda each: each) if config.contrast_remaps else ContrastConfig.without_remaps
        self._reference, self._target = ContrastChange(keep(config.reference)), ContrastChange(keep(config.target))

    def __call__(self, reference: Slice, target: Slice, rng: np.random.Generator) -> tuple[Slice, Slice]:
        """The changed pair."""
        config = self.config
        if config is None:
            return reference, target
        first, second = self._geometry(rng, reference.image.shape[-1])
        reference, target = _moved(reference, first), _moved(target, second)
        strong = rng.random() < config.strong_reference
        own, other = (np.random.default_rng(int(seed)) for seed in rng.integers(MAX_SEED, size=2))
        if not config.paired:
            seed = int(rng.integers(MAX_SEED))
            own, other, strong = np.random.default_rng(seed), np.random.default_rng(seed), True
        change = self._target if strong else self._reference
        return change(reference, own), self._target(target, other)

    def _geometry(self, rng: np.random.Generator, size: int) -> tuple[Tensor | None, Tensor | None]:
        geometry, kind = self.config.geometry, self.config.spatial
        if kind == "none":
            return None, None
        first, second = draw_geometry(geometry, size, rng), draw_geometry(geometry, size, rng)
        return (first, first) if kind == "shared" or not self.config.paired else (first, second)


class ContrastChange:
    """One set of contrast changes."""

    def __init__(self, config: ContrastConfig) -> None:
        self.config = c = config
        gamma = {"prob": 1.0, "gamma": c.gamma, "retain_stats": True}
        self._gamma = (RandAdjustContrast(**gamma), RandAdjustContrast(**gamma, invert_image=True))
        self._early = [(c.histogram_prob, _HistogramShift(prob=1.0))]
        self._late: list[tuple[float, RandomizableTransform]] = [
            (c.bias_prob, RandBiasField(prob=1.0, coeff_range=(0.0, c.bias))),
            (c.scale_prob, RandScaleIntensity(prob=1.0, factors=c.scale)),
            (
                c.low_resolution_prob,
                RandSimulateLowResolution(prob=1.0, zoom_range=c.zoom_out, upsample_mode="bilinear"),
            ),
            (c.gibbs_prob, RandGibbsNoise(prob=1.0, alpha=c.gibbs_alpha)),
            (c.noise_prob, RandGaussianNoise(prob=1.0, std=c.noise_std, sample_std=True)),
            (c.rician_prob, RandRicianNoise(prob=1.0, std=c.rician_std, sample_std=True)),
        ]
        for transform in (*self._gamma, *(each for _, each in (*self._early, *self._late))):
            transform.set_random_state(seed=0)  # one of its own, which is seeded anew each time

    def __call__(self, item: Slice, rng: np.random.Generator) -> Slice:
        """The slice with another contrast, within [0, 1]."""
        c = self.config
        image = item.image
        if rng.random() < c.tissue_prob:
            image = _with_air(redraw_tissues(image, item.labels, rng), item.image, c.dark_air, rng)
        if rng.random() < c.curve_prob:
            image = _with_air(remap(image, rng), item.image, c.dark_air, rng)
        tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))
        tensor = self._apply(self._early, tensor, rng)
        if rng.random() < c.gamma_prob:
            tensor = _seeded(self._gamma[int(rng.random() < c.invert_prob)], tensor, rng)
        tensor = self._apply(self._late, tensor, rng)
        return replace(item, image=tensor.clamp(0.0, 1.0).numpy())

    def _apply(
        self, transforms: list[tuple[float, RandomizableTransform]], image: Tensor, rng: np.random.Generator
    ) -> Tensor:
        for probability, transform in transforms:
            if rng.random() < probability:
                image = _seeded(transform, image.clamp(0.0, 1.0), rng)
        return image


class _HistogramShift(RandHistogramShift):
    """MONAI's, which warns of a constant image before it leaves it as it is; slices beside the body are constant."""

    def __call__(self, img: Tensor, randomize: bool = True) -> Tensor:
        """The image with another histogram."""
        return super().__call__(img, randomize) if img.min() < img.max() else img


def remap(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image through a piecewise linear curve on 3 to 7 random points: rising, falling, or neither."""
    count = int(rng.integers(3, 8))
    inner = np.sort(rng.random(count - 2))
    positions = np.concatenate([[0.0], inner, [1.0]])
    values = rng.random(count)
    kind = rng.random()
    if kind < 0.35:
        values = np.sort(values)
    elif kind < 0.6:
        values = np.sort(values)[::-1]
    # Whatever the points, the curve uses the whole range.
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    return np.interp(image, positions, values).astype(np.float32)


def redraw_tissues(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New intensities for each organ and each class of similar intensity elsewhere; their texture stays, scaled.

    Args:
        image: (I, H, W) in [0, 1].
        labels: (I, H, W) uint8, 1.. organs.
        rng: Source of all choices.

    Returns:
        As `image`, within [0, 1].
    """
    keeps_rest = rng.random() < 0.3  # organs alone change, in an image that otherwise stays
    count = int(rng.integers(2, 7))
    limits = np.sort(rng.uniform(AIR, 0.95, count - 1))
    exact = image.astype(np.float64)
    tissue = sum((exact > limit).view(np.uint8) for limit in limits)
    tissue[image < AIR] = count
    classes = np.where(labels > 0, labels, NUM_VALUES - 1 - tissue)
    flat = classes.ravel()
    sizes = np.maximum(np.bincount(flat, minlength=NUM_VALUES), 1)
    means = np.bincount(flat, exact.ravel(), NUM_VALUES) / sizes
    levels = rng.random(NUM_VALUES)
    gains = rng.choice((-1.0, 1.0), NUM_VALUES) * rng.uniform(0.1, 1.0, NUM_VALUES)
    if keeps_rest:
        rest = slice(NUM_VALUES - 1 - count, NUM_VALUES)
        levels[rest], gains[rest] = means[rest], 1.0
    offsets = (levels - gains * means).astype(np.float32)
    drawn = offsets[classes] + gains.astype(np.float32)[classes] * image
    return np.clip(_softened(drawn, float(rng.uniform(0.0, 0.8))), 0.0, 1.0)


def draw_geometry(config: SpatialConfig, size: int, rng: np.random.Generator) -> Tensor | None:
    """A sampling grid (1, H, W, 2) of `functional.grid_sample`, or None for no change."""
    if rng.random() >= config.probability:
        return None
    angle = np.deg2rad(rng.uniform(-config.rotation_deg, config.rotation_deg))
    zoom = np.exp(rng.uniform(*np.log(config.scale)))
    stretch = np.exp(rng.uniform(-config.aspect, config.aspect) / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.zeros((2, 3), np.float32)
    matrix[:, :2] = turn @ np.diag([stretch, 1 / stretch]) / zoom
    matrix[:, 2] = rng.uniform(-2 * config.shift, 2 * config.shift, 2)
    planes = _affine_planes(matrix, size)
    if config.elastic > 0:
        control = 2 * config.elastic * rng.standard_normal((2, config.points, config.points))
        spread = _spread(config.points, size)
        planes += spread @ torch.from_numpy(control.astype(np.float32)) @ spread.T
    return planes.permute(1, 2, 0)[None]


def _affine_planes(matrix: np.ndarray, size: int) -> Tensor:
    """x and y (2, H, W) of `functional.affine_grid` of one (2, 3) matrix, as an outer sum, which takes less time."""
    middles = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    across = matrix[:, :1] * middles
    down = matrix[:, 1:2] * middles + matrix[:, 2:]
    return torch.from_numpy(down[:, :, None] + across[:, None])


@lru_cache(maxsize=8)
def _spread(points: int, size: int) -> Tensor:
    """(size, points): bicubic interpolation of `points` values, the first and the last of them at the ends."""
    units = torch.eye(points)[None, :, :, None]
    return functional.interpolate(units, size=(size, 1), mode="bicubic", align_corners=True)[0, :, :, 0].T


def _moved(item: Slice, grid: Tensor | None) -> Slice:
    if grid is None:
        return item
    image = torch.from_numpy(np.ascontiguousarray(item.image))[None]
    labels = torch.from_numpy(item.labels.astype(np.float32))[None]
    image = functional.grid_sample(image, grid, mode="bilinear", align_corners=False)[0]
    labels = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)[0]
    return Slice(image.clamp(0.0, 1.0).numpy(), labels.to(torch.uint8).numpy())


def _with_air(changed: np.ndarray, original: np.ndarray, dark: float, rng: np.random.Generator) -> np.ndarray:
    """Air as dark as it was, in a share of the cases."""
    if rng.random() >= dark:
        return changed
    return np.where(original < AIR, original, changed)


def _softened(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred within the slice, so that new intensities do not begin with a step."""
    if sigma < 0.2:
        return image
    weight = float(np.exp(-0.5 / sigma**2))
    kernel = torch.tensor([weight, 1.0, weight]) / (1 + 2 * weight)
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[:, None]
    tensor = functional.pad(tensor, (1, 1, 1, 1), mode="replicate")
    tensor = functional.conv2d(functional.conv2d(tensor, kernel.view(1, 1, 3, 1)), kernel.view(1, 1, 1, 3))
    return tensor[:, 0].numpy()


def _seeded(transform: RandomizableTransform, image: Tensor, rng: np.random.Generator) -> Tensor:
    transform.R.seed(int(rng.integers(MAX_SEED)))
    # Metadata, which nobody reads here, would be copied with each operation.
    with torch._C.DisableTorchFunctionSubclass():
        result = transform(image)
    return result.as_tensor() if isinstance(result, MetaTensor) else torch.as_tensor(result)
