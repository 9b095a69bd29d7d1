"""Noise, bias field, streaks and misregistration."""

from __future__ import annotations

import numpy as np

from .anatomy import Coordinates
from .fields import grid_noise, smooth_field
from .render import Displacement
from .shapes import Point, rotation_matrix

_CORRELATED_SHARE = 0.6
_STREAK_WAVES = (3, 5, 8, 13, 21, 34)


def add_ct_noise(image: np.ndarray, sd_hu: float, rng: np.random.Generator) -> np.ndarray:
    """CT with Gaussian noise: a white part and one correlated within the slice by the reconstruction kernel.

    Args:
        image: CT numbers (k, j, i), HU.
        sd_hu: Standard deviation of the sum, HU.
        rng: Source.
    """
    if sd_hu == 0:
        return image
    white = grid_noise(rng, image.shape, (0, 0, 0))
    smooth = grid_noise(rng, image.shape, (0, 0.8, 0.8))
    share = np.float32(_CORRELATED_SHARE)
    return image + np.float32(sd_hu) * (np.sqrt(1 - share) * white + np.sqrt(share) * smooth)


def add_rician_noise(signal: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude |signal + complex Gaussian noise| with standard deviation `sd` in each channel."""
    if sd == 0:
        return signal
    real = signal + np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def bias_field(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], sd: float, rng: np.random.Generator
) -> np.ndarray:
    """Smooth coil sensitivity (k, j, i), float32, of geometric mean one; `sd` is that of its logarithm."""
    if sd == 0:
        return np.ones(shape, dtype=np.float32)
    z, y, x = (np.arange(n, dtype=np.float32) * np.float32(s) for n, s in zip(shape, spacing, strict=True))
    length = max(0.45 * max(float(axis[-1]) for axis in (x, y, z)), 1.0)
    field = smooth_field(rng, length)
    values = field(x[None, None, :], y[None, :, None], z[:, None, None])
    values -= values.mean()
    values /= max(float(values.std()), 1e-6)
    return np.exp(np.float32(sd) * values)


def metal_streaks(points: Coordinates, metal: tuple[Point, ...], rng: np.random.Generator) -> np.ndarray:
    """Bright and dark rays around metal in its slices, HU for strength one.

    Args:
        points: Anatomy coordinates x, y, z of the voxels, mm.
        metal: Positions of metal.
        rng: Source of the rays' angles.
    """
    x, y, z = points
    result = np.zeros(x.shape, dtype=np.float32)
    for cx, cy, cz in metal:
        phases = rng.uniform(0, 2 * np.pi, len(_STREAK_WAVES))
        gains = rng.normal(0, 1, len(_STREAK_WAVES)) / np.sqrt(len(_STREAK_WAVES))
        rows = np.abs(z - np.float32(cz)).reshape(len(z), -1).min(axis=1) < 12
        dx, dy, dz = (v[rows] - np.float32(c) for v, c in ((x, cx), (y, cy), (z, cz)))
        angle = np.arctan2(dy, dx)
        waves = zip(_STREAK_WAVES, gains, phases, strict=True)
        rays = sum(gain * np.cos(wave * angle + phase) for wave, gain, phase in waves)
        radius = np.hypot(dx, dy)
        strength = np.exp(-0.5 * (dz / np.float32(3.5)) ** 2) * 900 / (radius + 5)
        result[rows] += (rays * strength * np.clip(radius / 8, 0, 1)).astype(np.float32)
    return np.clip(result, -250, 250)


def beam_hardening(points: Coordinates, pairs: tuple[tuple[Point, Point], ...]) -> np.ndarray:
    """Dark bands between dense bones, HU for strength one; `points` are anatomy coordinates, mm."""
    x, y, z = points
    result = np.zeros(x.shape, dtype=np.float32)
    for start, end in pairs:
        edge = np.subtract(end, start)
        length = float(np.linalg.norm(edge))
        ux, uy, uz = (edge / length).astype(np.float32)
        dx, dy, dz = (v - np.float32(c) for v, c in zip((x, y, z), start, strict=True))
        along = dx * ux + dy * uy + dz * uz
        away = dx * dx + dy * dy + dz * dz - along * along
        inside = np.clip(np.minimum(along, length - along) / 10, 0, 1)
        result -= 45 * inside * np.exp(-away / np.float32(2 * 7.0**2))
    return result


def misregistration(rms_mm: float, reach: float, rng: np.random.Generator) -> Displacement | None:
    """A small rotation, shift and smooth warp whose root mean square length within the patient is `rms_mm`.

    Args:
        rms_mm: Root mean square displacement, mm; 0 gives None.
        reach: Half the size of the field of view, mm.
        rng: Source.
    """
    if rms_mm == 0:
        return None
    turn = rng.normal(0, 1, 3)
    shift = rng.normal(0, 1, 3)
    fields = [smooth_field(rng, 45.0) for _ in range(3)]
    probes = np.linspace(-0.6 * reach, 0.6 * reach, 7)
    z, y, x = (grid.astype(np.float32) for grid in np.meshgrid(probes, probes, probes, indexing="ij"))

    def moved(scale: float, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Coordinates:
        # 1 degree at 60 mm is about 1 mm, so that turn, shift and warp weigh alike.
        matrix = rotation_matrix(tuple(scale * turn)).astype(np.float32)
        rotated = (row[0] * x + row[1] * y + row[2] * z for row in matrix)
        return tuple(
            value + np.float32(scale * offset) + np.float32(0.7 * scale) * field(x, y, z)
            for value, offset, field in zip(rotated, shift, fields, strict=True)
        )

    def rms(scale: float) -> float:
        squares = sum((a - b) ** 2 for a, b in zip(moved(scale, x, y, z), (x, y, z), strict=True))
        return float(np.sqrt(squares.mean()))

    scale = rms_mm / rms(1.0)
    scale *= rms_mm / rms(scale)
    return lambda x, y, z: moved(scale, x, y, z)
