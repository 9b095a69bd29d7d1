"""Endless training samples for a prompted network, from a few labelled volumes.

A sample is a random oblique patch of a random case at a random resolution, seen in random contrasts, with one structure
as the target (an organ, or a lesion that is drawn into the images) and simulated scribbles on a few slices. The
contrast is remade from the labels and the tissue classes (as in SynthSeg), so that what the network learns does not
depend on the modality: it learns to follow scribbles.

Random choices come from one numpy Generator, so a seed decides the whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.fitting.prompts import prompt_maps
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.scribbles import SCRIBBLE_METHODS, simulate_scribbles

# Upper ends of fat, fluid, soft tissue and enhanced tissue on a [-160, 240] HU window scaled to [0, 1].
TISSUE_LIMITS = (0.12, 0.33, 0.43, 0.55, 0.72)
LESION = 250


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """A training case on its own grid.

    Attributes:
        image: (k, j, i) float32 in [0, 1].
        labels: (k, j, i) uint8, 0 where nothing is labelled.
        spacing: (k, j, i), mm.
    """

    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.image.shape != self.labels.shape or self.image.ndim != 3:
            raise InputError(
                "A labelled volume needs an image and labels of one 3D shape; "
                f"got {self.image.shape} and {self.labels.shape}."
            )


@dataclass(frozen=True)
class SynthesisConfig:
    """How samples vary.

    Attributes:
        patch: (k, j, i) voxels.
        in_plane_mm, slice_mm: Ranges of the patch's voxel size.
        every: Range of the distance between scribbled slices, in slices; each as often as any other.
        widest_gap_mm: Scribbled slices are not further apart than this, where slices are thick.
        lesion_probability: Share of samples whose target is a drawn lesion.
        plain_probability: Share of images that keep the contrast of the case.
    """

    patch: tuple[int, int, int] = (32, 64, 64)
    in_plane_mm: tuple[float, float] = (1.1, 3.2)
    slice_mm: tuple[float, float] = (2.5, 8.0)
    every: tuple[int, int] = (1, 12)
    widest_gap_mm: float = 60.0
    lesion_probability: float = 0.25
    plain_probability: float = 0.4


@dataclass(frozen=True, eq=False)
class Sample:
    """What a network learns from.

    Attributes:
        inputs: (2 + PROMPT_CHANNELS, k, j, i) float32.
        target: (k, j, i) uint8, 0 or 1.
        scribbles: (k, j, i) uint8, 0, 1 or 255: those the prompts were made of.
    """

    inputs: np.ndarray
    target: np.ndarray
    scribbles: np.ndarray


def synthesise(volumes: list[LabelledVolume], config: SynthesisConfig, rng: np.random.Generator) -> Sample:
    """One sample; retried with new choices while its target is empty."""
    while True:
        image, labels, spacing = _random_patch(volumes[rng.integers(len(volumes))], config, rng)
        images = _random_contrasts(image, labels, config, rng)
        if rng.random() < config.lesion_probability:
            images, labels = _draw_lesion(images, labels, rng)
            value = LESION
        else:
            value = _pick_value(labels, rng)
        if value is None or not (labels == value).any():
            continue
        images = np.stack([_degrade(image, rng) for image in images])
        scribbles = _scribble(labels, value, spacing, config, rng)
        if not (scribbles == 1).any() or not (scribbles != UNLABELLED).any():
            continue
        prompts = prompt_maps(images, scribbles, 1, spacing)
        return Sample(np.concatenate([images, prompts]), (labels == value).astype(np.uint8), scribbles)


def _random_patch(
    volume: LabelledVolume, config: SynthesisConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    in_plane = rng.uniform(*config.in_plane_mm)
    through = max(np.exp(rng.uniform(*np.log(config.slice_mm))), 0.9 * volume.spacing[0])
    spacing = np.array([through, in_plane, in_plane])
    angles = rng.normal(0, [12, 4, 4])
    flips = np.diag(rng.choice([-1.0, 1.0], 3))
    matrix = flips @ Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    centre = _random_centre(volume.labels, rng) + rng.normal(0, 6, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in config.patch), indexing="ij"), axis=-1)
    points = (grid * spacing) @ matrix.T / np.array(volume.spacing) + centre
    return (
        _sample(volume.image, points, "bilinear"),
        _sample(volume.labels, points, "nearest").round().astype(np.uint8),
        tuple(float(s) for s in spacing),
    )


def _random_centre(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random voxel of a random label, found by drawing voxels until one has that label."""
    while True:
        voxels = rng.integers(labels.shape, size=(4096, 3))
        values = labels[tuple(voxels.T)]
        present = np.unique(values[values > 0])
        if len(present):
            return voxels[rng.choice(np.flatnonzero(values == rng.choice(present)))].astype(float)


def _sample(array: np.ndarray, points: np.ndarray, mode: str) -> np.ndarray:
    """Values of `array` (k, j, i) at voxel positions `points` (..., 3); 0 outside."""
    low = np.maximum(np.floor(points.reshape(-1, 3).min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.reshape(-1, 3).max(0)).astype(int) + 2, array.shape)
    if (high - low < 2).any():
        return np.zeros(points.shape[:3], np.float32)
    box = array[tuple(slice(a, b) for a, b in zip(low, high))].astype(np.float32)
    scaled = (points - low) * 2 / (np.array(box.shape) - 1) - 1
    grid = torch.from_numpy(scaled[..., ::-1].astype(np.float32).copy())[None]
    return functional.grid_sample(torch.from_numpy(box)[None, None], grid, mode=mode, align_corners=True)[0, 0].numpy()


def _pick_value(labels: np.ndarray, rng: np.random.Generator) -> int | None:
    counts = np.bincount(labels.ravel(), minlength=2)
    values = np.flatnonzero(counts >= 40)
    values = values[values > 0]
    return int(rng.choice(values)) if len(values) else None


def _random_contrasts(
    image: np.ndarray, labels: np.ndarray, config: SynthesisConfig, rng: np.random.Generator
) -> np.ndarray:
    """Two images (2, k, j, i) of one anatomy: half of the time one contrast twice (single-modal use)."""
    first = _random_contrast(image, labels, config, rng)
    second = first if rng.random() < 0.5 else _random_contrast(image, labels, config, rng)
    return np.stack([first, second])


def _random_contrast(
    image: np.ndarray, labels: np.ndarray, config: SynthesisConfig, rng: np.random.Generator
) -> np.ndarray:
    kind = rng.random()
    if kind < config.plain_probability:
        low, high = rng.uniform(0, 0.25), rng.uniform(0.7, 1.0)
        return np.clip((image - low) / (high - low), 0, 1)
    if kind < config.plain_probability + 0.15:
        return _random_curve(image, rng)
    return _recontrast(image, labels, rng)


def _random_curve(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random piecewise linear remap of the intensities, not always monotone."""
    knots = rng.uniform(0, 1, 6)
    if rng.random() < 0.7:
        knots = np.sort(knots)[:: rng.choice([-1, 1])]
    return np.interp(image, np.linspace(0, 1, 6), knots).astype(np.float32)


def _recontrast(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """New mean and texture gain for each label and, elsewhere, each tissue class."""
    tissue = np.digitize(image, TISSUE_LIMITS)
    region = np.where(labels > 0, labels.astype(np.int32) + len(TISSUE_LIMITS), tissue)
    count = int(region.max()) + 1
    voxels = np.maximum(np.bincount(region.ravel(), minlength=count), 1)
    means = np.bincount(region.ravel(), image.ravel(), count) / voxels
    new_means = rng.uniform(0.05, 0.95, count)
    new_means[0] = rng.choice([0.0, 0.05, rng.uniform(0, 1)])
    gains = rng.choice([-1, 1], count) * rng.uniform(0.3, 1.5, count)
    made = new_means[region] + gains[region] * (image - means[region])
    blurred = ndimage.gaussian_filter(made, (0.3, 0.7, 0.7))
    return np.clip(blurred, 0, 1).astype(np.float32)


def _draw_lesion(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Add an irregular lesion that each image shows with its own strength; one of them may not show it at all."""
    shape = np.array(labels.shape)
    centre = shape * rng.uniform(0.3, 0.7, 3)
    radii = np.array([rng.uniform(0.10, 0.35), rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.3)]) * shape
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    distance = np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii)))
    distance = distance + _smooth_noise(labels.shape, rng.uniform(4, 9), rng) * rng.uniform(0.1, 0.35)
    softness = rng.uniform(0.03, 0.12)
    weight = (1 / (1 + np.exp(np.clip((distance - 1) / softness, -30, 30)))).astype(np.float32)
    inside = weight > 0.5
    strengths = rng.uniform(0.05, 0.45, len(images)) * rng.choice([-1, 1], len(images))
    if rng.random() < 0.3:
        strengths[rng.integers(len(images))] *= 0.15
    texture = _smooth_noise(labels.shape, rng.uniform(1.5, 4), rng)
    drawn = [
        np.clip(image + weight * strength * (1 + 0.3 * texture), 0, 1) for image, strength in zip(images, strengths)
    ]
    return np.stack(drawn).astype(np.float32), np.where(inside, LESION, labels).astype(np.uint8)


def _smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit deviation with a correlation length of about `scale` voxels, made on a coarse grid."""
    coarse = rng.normal(size=[max(3, int(np.ceil(n / scale)) + 2) for n in shape]).astype(np.float32)
    fine = functional.interpolate(
        torch.from_numpy(coarse)[None, None], size=shape, mode="trilinear", align_corners=True
    )[0, 0]
    return (fine / fine.std().clamp_min(1e-6)).numpy()


def _degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bias field, blur, noise, gamma: what scanners add."""
    if rng.random() < 0.4:
        image = image * np.exp(rng.uniform(0, 0.35) * _smooth_noise(image.shape, min(image.shape) * 0.6, rng))
    if rng.random() < 0.3:
        image = ndimage.gaussian_filter(image, (0.0, *(rng.uniform(0.3, 1.0),) * 2))
    if rng.random() < 0.3:
        image = np.clip(image, 0, 1) ** np.exp(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.7:
        image = image + rng.normal(0, rng.uniform(0.0, 0.08), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def _scribble(
    labels: np.ndarray,
    value: int,
    spacing: tuple[float, float, float],
    config: SynthesisConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Scribbles of the target (1), some of the other structures (as 0) and the background (0) on every n-th slice."""
    others = [int(v) for v in np.unique(labels) if v not in (0, value)]
    kept = [v for v in others if rng.random() < 0.7]
    lookup = np.zeros(256, np.uint8)
    lookup[value] = 1
    for position, other in enumerate(kept):
        lookup[other] = 2 + position
    widest = min(config.every[1], max(1, int(config.widest_gap_mm / spacing[0])))
    every = int(rng.integers(config.every[0], max(config.every[0], widest) + 1))
    drawn = simulate_scribbles(
        lookup[labels],
        spacing,
        method=str(rng.choice(sorted(SCRIBBLE_METHODS))),
        seed=int(rng.integers(2**31)),
        every=every,
        offset=int(rng.integers(every)),
        thickness=int(rng.choice([1, 2, 3])),
        background="method",
    )
    drawn = np.where((drawn != UNLABELLED) & (drawn > 1), 0, drawn).astype(np.uint8)
    return _thin_background(drawn, rng) if rng.random() < 0.6 else drawn


def _thin_background(scribbles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave background scribbles in random regions only: people draw a few strokes, not all of them."""
    dropped = _smooth_noise(scribbles.shape, rng.uniform(8, 24), rng) > rng.uniform(-1.0, 0.8)
    thinned = np.where((scribbles == 0) & dropped, UNLABELLED, scribbles).astype(np.uint8)
    return thinned if (thinned == 0).any() else scribbles
