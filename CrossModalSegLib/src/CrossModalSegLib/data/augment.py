"""Random changes of training patches, at the strength of nnU-Net, from MONAI transforms.

All choices follow from the seed that a patch carries: the same patch is changed the same way whenever, and in
whatever process, it is drawn. Rotation and scaling act in millimetres, so that thick slices are not sheared, and all
geometry is one resampling. Intensities change independently for each modality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandShiftIntensity,
    RandSimulateLowResolution,
    Resample,
)
from monai.transforms.transform import RandomizableTransform
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.data.patches import Patch, Shape3
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import UNLABELLED

AugmentationLevel = Literal["none", "light", "default"]

# Patches that are blurred for a low resolution keep their thick slices: only axes this close to the finest change.
THICK_SLICE_RATIO = 3.0
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class AugmentationConfig:
    """Strengths and probabilities.

    Attributes:
        rotation_deg: Largest angle about the (k, j, i) axes; about k is in-plane.
        rotation_prob, scaling_prob, elastic_prob: Probability of each geometric change.
        scaling: Range of the zoom.
        elastic_mm: Standard deviation of the displacement of elastic control points.
        elastic_spacing_mm: Distance of the control points.
        mirror_axes: Array axes (0 = k, 1 = j, 2 = i) that may be mirrored, each with probability 0.5. None by
            default: organs have sides.
        noise_std: Upper bound of the noise's standard deviation, in units of the [0, 1] range.
        blur_sigma: Range of the Gaussian's standard deviation, in-plane voxels.
        brightness, contrast: Largest relative change.
        shift: Largest additive change.
        gamma: Range of the exponent.
        zoom_out: Range of the factor of the simulated low resolution.
        noise_prob .. low_resolution_prob: Probabilities, each for each modality by itself.
    """

    rotation_deg: tuple[float, float, float] = (30.0, 10.0, 10.0)
    rotation_prob: float = 0.5
    scaling: tuple[float, float] = (0.7, 1.4)
    scaling_prob: float = 0.3
    elastic_mm: float = 4.0
    elastic_spacing_mm: float = 30.0
    elastic_prob: float = 0.0
    mirror_axes: tuple[int, ...] = ()
    noise_std: float = 0.1
    noise_prob: float = 0.15
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    blur_prob: float = 0.1
    brightness: float = 0.25
    brightness_prob: float = 0.15
    shift: float = 0.1
    shift_prob: float = 0.15
    contrast: float = 0.25
    contrast_prob: float = 0.15
    gamma: tuple[float, float] = (0.7, 1.5)
    gamma_prob: float = 0.3
    inverted_gamma_prob: float = 0.1
    zoom_out: tuple[float, float] = (0.5, 1.0)
    low_resolution_prob: float = 0.125

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_prob") and not 0.0 <= value <= 1.0:
                raise InputError(f"The augmentation's {name} is a probability within 0 and 1; got {value}.")
        if any(axis not in (0, 1, 2) for axis in self.mirror_axes):
            raise InputError(f"Axes to mirror are 0 (k), 1 (j) and 2 (i); got {self.mirror_axes}.")


LEVELS: dict[str, AugmentationConfig | None] = {
    "none": None,
    "light": AugmentationConfig(
        rotation_deg=(10.0, 0.0, 0.0),
        rotation_prob=0.3,
        scaling=(0.9, 1.1),
        scaling_prob=0.3,
        noise_std=0.03,
        noise_prob=0.2,
        blur_prob=0.0,
        brightness=0.1,
        shift=0.05,
        contrast=0.1,
        gamma=(0.9, 1.1),
        inverted_gamma_prob=0.0,
        low_resolution_prob=0.0,
    ),
    "default": AugmentationConfig(),
}


@dataclass(frozen=True, eq=False)
class SpatialChange:
    """The geometric choices for one patch.

    Attributes:
        matrix: (3, 3) float64: offset from the patch centre in the result -> in the input, voxels (k, j, i).
        displacement: (3, a, b, c) float32 voxels (k, j, i) at control points spread over the patch, or None.
        mirrored: Axes to mirror.
    """

    matrix: np.ndarray
    displacement: np.ndarray | None
    mirrored: tuple[int, ...]

    @property
    def is_resampling(self) -> bool:
        """Whether voxels have to be interpolated."""
        return self.displacement is not None or not np.array_equal(self.matrix, np.eye(3))


class Augmentation:
    """Changes patches by the seed they carry."""

    def __init__(self, config: AugmentationConfig | AugmentationLevel | None = "default", size: Shape3 | None = None):
        """Set the strength.

        Args:
            config: A level, a configuration, or None for no change.
            size: (k, j, i) of the result; None keeps the patch's. Patches cut with a margin keep real image data in
                the corners when they are rotated: the result is the part around their centre.
        """
        if isinstance(config, str):
            if config not in LEVELS:
                raise InputError(f'The augmentation is one of {", ".join(LEVELS)}; got "{config}".')
            config = LEVELS[config]
        self.config = config
        self.size = size
        thicknesses = () if config is None else (False, True)
        self._intensity = {is_thick: _intensity_transforms(config, is_thick) for is_thick in thicknesses}

    def __call__(self, patch: Patch) -> Patch:
        """The changed patch: images float32 within [0, 1] and 0 outside the volume, labels 255 outside."""
        size = self.size or patch.shape
        if self.config is None:
            return _centre_crop(patch, size)
        rng = np.random.RandomState(patch.seed)
        change = draw_spatial_change(self.config, patch.shape, patch.spacing, rng)
        patch = apply_spatial_change(patch, change, size)
        images = torch.from_numpy(patch.images)
        changed = torch.stack([self._change_intensity(image, patch.spacing, rng) for image in images])
        changed *= torch.from_numpy(patch.inside)
        return replace(patch, images=changed.clamp_(0.0, 1.0).numpy())

    def _change_intensity(
        self, image: Tensor, spacing: tuple[float, float, float], rng: np.random.RandomState
    ) -> Tensor:
        """One modality (k, j, i), changed by transforms that all take their seeds from `rng`."""
        is_thick = spacing[0] > THICK_SLICE_RATIO * min(spacing[1:])
        result = image[None]
        for transform in self._intensity[is_thick]:
            transform.set_random_state(seed=int(rng.randint(MAX_SEED)))
            result = _apply(transform, result, is_thick)
        return result[0]


def draw_spatial_change(
    config: AugmentationConfig, shape: Shape3, spacing: tuple[float, float, float], rng: np.random.RandomState
) -> SpatialChange:
    """Choose rotation, scaling, elastic displacement and mirroring."""
    matrix = np.eye(3)
    if rng.rand() < config.rotation_prob:
        angles = np.deg2rad([rng.uniform(-limit, limit) if limit else 0.0 for limit in config.rotation_deg])
        to_mm = np.diag(spacing)
        matrix = np.linalg.inv(to_mm) @ _rotation(angles) @ to_mm
    if rng.rand() < config.scaling_prob:
        matrix = matrix / rng.uniform(*config.scaling)
    displacement = None
    if rng.rand() < config.elastic_prob:
        points = [max(2, int(np.ceil(n * s / config.elastic_spacing_mm)) + 1) for n, s in zip(shape, spacing)]
        sigma = (config.elastic_mm / np.array(spacing))[:, None, None, None]
        displacement = (rng.standard_normal((3, *points)) * sigma).astype(np.float32)
    mirrored = tuple(axis for axis in config.mirror_axes if rng.rand() < 0.5)
    return SpatialChange(matrix, displacement, mirrored)


def apply_spatial_change(patch: Patch, change: SpatialChange, size: Shape3) -> Patch:
    """The patch rotated, scaled, displaced and mirrored about its centre, `size` (k, j, i) large.

    Images are interpolated linearly; labels take the nearest voxel; what comes from beyond the patch is 0 in images
    and 255 in labels.
    """
    if not change.is_resampling:
        return _mirror(_centre_crop(patch, size), change.mirrored)
    grid = _sampling_grid(change, size)
    resample = Resample(padding_mode="zeros", align_corners=False)
    images = resample(torch.from_numpy(patch.images), grid=grid, mode="bilinear")
    names = list(patch.extra)
    # Shifted by one, so that the zeros from beyond the border come back as 255 and not as background.
    maps = np.stack([patch.labels, *(patch.extra[name] for name in names)]) + np.uint8(1)
    stacked = np.concatenate([maps, patch.inside[None].astype(np.uint8)])
    nearest = resample(torch.from_numpy(stacked.astype(np.float32)), grid=grid, mode="nearest")
    nearest = _plain(nearest).numpy().astype(np.uint8)
    labels = nearest[:-1] - np.uint8(1)
    inside = nearest[-1].astype(bool)
    labels[:, ~inside] = UNLABELLED
    changed = replace(
        patch,
        images=_plain(images).contiguous().numpy(),
        labels=labels[0],
        inside=inside,
        extra=dict(zip(names, labels[1:])),
    )
    return _mirror(changed, change.mirrored)


def _sampling_grid(change: SpatialChange, size: Shape3) -> Tensor:
    """Positions (4, k, j, i), in voxels from the patch's centre, from which each voxel of the result is taken."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matrix = torch.from_numpy(change.matrix.astype(np.float32))
    grid = torch.ones((4, *size))
    grid[:3] = (matrix @ offsets.reshape(3, -1)).reshape(3, *size)
    if change.displacement is not None:
        control = torch.from_numpy(change.displacement)[None]
        grid[:3] += functional.interpolate(control, size=size, mode="trilinear", align_corners=True)[0]
    return grid


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix over (k, j, i) from angles in radians about the k, j and i axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _intensity_transforms(config: AugmentationConfig, is_thick: bool) -> list[RandomizableTransform]:
    """In the order of nnU-Net; those with probability 0 are left out."""
    c = config
    upsampling = "bilinear" if is_thick else "trilinear"
    transforms = [
        (c.noise_prob, RandGaussianNoise(prob=c.noise_prob, std=c.noise_std, sample_std=True)),
        (c.blur_prob, _blur(c)),
        (c.brightness_prob, RandScaleIntensity(prob=c.brightness_prob, factors=c.brightness)),
        (c.shift_prob, RandShiftIntensity(prob=c.shift_prob, offsets=c.shift)),
        (c.contrast_prob, RandScaleIntensityFixedMean(prob=c.contrast_prob, factors=c.contrast, preserve_range=True)),
        (
            c.low_resolution_prob,
            RandSimulateLowResolution(prob=c.low_resolution_prob, zoom_range=c.zoom_out, upsample_mode=upsampling),
        ),
        (
            c.inverted_gamma_prob,
            RandAdjustContrast(prob=c.inverted_gamma_prob, gamma=c.gamma, invert_image=True, retain_stats=True),
        ),
        (c.gamma_prob, RandAdjustContrast(prob=c.gamma_prob, gamma=c.gamma, retain_stats=True)),
    ]
    return [transform for probability, transform in transforms if probability > 0]


def _blur(config: AugmentationConfig) -> RandGaussianSmooth:
    return RandGaussianSmooth(
        sigma_x=config.blur_sigma, sigma_y=config.blur_sigma, sigma_z=config.blur_sigma, prob=config.blur_prob
    )


def _apply(transform: RandomizableTransform, image: Tensor, is_thick: bool) -> Tensor:
    """Blur and low resolution leave thick slices apart: these become the channels of a 2D image."""
    is_slicewise = is_thick and isinstance(transform, (RandGaussianSmooth, RandSimulateLowResolution))
    return _plain(transform(image[0]))[None] if is_slicewise else _plain(transform(image))


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's metadata, which would be copied at every operation."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _centre_crop(patch: Patch, size: Shape3) -> Patch:
    if size == patch.shape:
        return patch
    if any(n > m for n, m in zip(size, patch.shape)):
        raise InputError(f"A patch of {patch.shape} cannot be augmented to the larger size {size}.")
    low = tuple((m - n) // 2 for n, m in zip(size, patch.shape))
    block = tuple(slice(a, a + n) for a, n in zip(low, size))
    return replace(
        patch,
        images=np.ascontiguousarray(patch.images[(slice(None), *block)]),
        labels=np.ascontiguousarray(patch.labels[block]),
        inside=np.ascontiguousarray(patch.inside[block]),
        start=tuple(s + a for s, a in zip(patch.start, low)),
        extra={name: np.ascontiguousarray(array[block]) for name, array in patch.extra.items()},
    )


def _mirror(patch: Patch, axes: tuple[int, ...]) -> Patch:
    if not axes:
        return patch
    return replace(
        patch,
        images=np.ascontiguousarray(np.flip(patch.images, [axis + 1 for axis in axes])),
        labels=np.ascontiguousarray(np.flip(patch.labels, axes)),
        inside=np.ascontiguousarray(np.flip(patch.inside, axes)),
        extra={name: np.ascontiguousarray(np.flip(array, axes)) for name, array in patch.extra.items()},
    )
