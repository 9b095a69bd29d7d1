"""Where a class can be, given where it was scribbled."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import UNLABELLED

MARGIN_MM = 35.0

Box = tuple[slice, slice, slice]


def class_box(scribbles: np.ndarray, value: int, spacing: tuple[float, float, float]) -> Box:
    """The box in which a class is looked for: its scribbles and a margin.

    The margin is 35 mm in-plane; along the slices half of that, and at least the largest gap between scribbled slices.

    Args:
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
        spacing: mm, (k, j, i).

    Raises:
        LabelError: The class has no scribble.
    """
    voxels = np.argwhere(scribbles == value)
    if len(voxels) == 0:
        raise LabelError(f"Class {value} has no scribble: draw a stroke on it, or remove it from the labels.")
    margin = np.ceil(MARGIN_MM / np.array(spacing)).astype(int)
    margin[0] = max(margin[0] // 2, _largest_gap(scribbles))
    return _box(voxels, margin, scribbles.shape)


def scribbled_box(scribbles: np.ndarray, spacing: tuple[float, float, float], margin_mm: float = MARGIN_MM) -> Box:
    """The box around all class scribbles and a margin in mm; background scribbles do not count."""
    voxels = np.argwhere((scribbles != UNLABELLED) & (scribbles != 0))
    if len(voxels) == 0:
        raise LabelError("There is no scribble on any class: draw at least one stroke on each structure.")
    margin = np.ceil(margin_mm / np.array(spacing)).astype(int)
    margin[0] = max(margin[0], _largest_gap(scribbles))
    return _box(voxels, margin, scribbles.shape)


def scribbled_slices(scribbles: np.ndarray, value: int | None = None) -> np.ndarray:
    """Indices along k of the slices that hold scribbles (of one class)."""
    drawn = scribbles != UNLABELLED if value is None else scribbles == value
    return np.flatnonzero(drawn.any(axis=(1, 2)))


def _largest_gap(scribbles: np.ndarray) -> int:
    slices = scribbled_slices(scribbles)
    return int(np.diff(slices).max()) if len(slices) > 1 else 1


def _box(voxels: np.ndarray, margin: np.ndarray, shape: tuple[int, ...]) -> Box:
    low = np.maximum(voxels.min(axis=0) - margin, 0)
    high = np.minimum(voxels.max(axis=0) + 1 + margin, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high))
