"""Smooth random functions of a position in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import InputError

_NODES = 48
_NODES_PER_LENGTH = 3
_SMOOTHING = 1.35


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A continuous random function with mean 0 and standard deviation 1, periodic over 16 of its lengths.

    Smoothed noise sits on a lattice and look-ups are linear between nodes. The same position always gives the same
    value, so two grids may sample one and the same field.

    Attributes:
        values: Lattice, axes (x, y, z), float32.
        step: Distance between two nodes, mm.
    """

    values: np.ndarray
    step: float

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Values at positions (mm), float32; the arrays broadcast."""
        coordinates = np.empty((3, *np.broadcast_shapes(np.shape(x), np.shape(y), np.shape(z))), dtype=np.float32)
        for axis, position in enumerate((x, y, z)):
            np.multiply(position, np.float32(1.0 / self.step), out=coordinates[axis])
        return ndimage.map_coordinates(self.values, coordinates, order=1, mode="grid-wrap", output=np.float32)


def smooth_field(rng: np.random.Generator, length_mm: float) -> SmoothField:
    """Draw a smooth random function.

    Args:
        rng: Source of the lattice values.
        length_mm: Distance over which the values become independent, about.

    Raises:
        InputError: The length is not positive.
    """
    if not length_mm > 0:
        raise InputError(f"The length of a smooth field must be positive, got {length_mm} mm.")
    noise = rng.standard_normal((_NODES,) * 3, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, _SMOOTHING, mode="wrap", truncate=3.0)
    noise -= noise.mean()
    noise /= noise.std()
    return SmoothField(noise, length_mm / _NODES_PER_LENGTH)


def grid_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, float, float]) -> np.ndarray:
    """Gaussian noise of unit standard deviation on a voxel grid, correlated over `sigma` voxels.

    Args:
        rng: Source of the values.
        shape: Grid shape (k, j, i).
        sigma: Standard deviation of the smoothing kernel in voxels (k, j, i); 0 leaves an axis white.

    Returns:
        Array (k, j, i), float32.
    """
    noise = rng.standard_normal(shape, dtype=np.float32)
    if any(value > 0 for value in sigma):
        noise = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=3.0)
        noise /= max(float(noise.std()), 1e-6)
    return noise
