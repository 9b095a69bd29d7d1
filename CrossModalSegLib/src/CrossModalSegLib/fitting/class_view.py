"""One class as a network sees it: the box it can lie in, at a resolution that suits its size.

The prior was trained on patches of 64 x 64 voxels in-plane. A liver at the resolution that a gallbladder needs would
fill more than that, and scribbles at its other end would be out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from CrossModalSegLib.fitting.regions import Box, class_box, span_mm
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED

# A class's scribbles span about this many voxels in-plane.
VOXELS_ACROSS = 28
COARSEST_IN_PLANE_MM = 3.0
# A view with halved voxels has no more than this many, which take some seconds.
MOST_HALVED_VOXELS = 4_000_000


@dataclass(frozen=True, eq=False)
class ClassView:
    """Images and scribbles around a class.

    Attributes:
        value: The class.
        images: (M, k, j, i) float32.
        scribbles: (k, j, i) uint8.
        spacing: mm, (k, j, i).
        box: Where it lies in the arrays it was cut from.
    """

    value: int
    images: np.ndarray
    scribbles: np.ndarray
    spacing: tuple[float, float, float]
    box: Box

    def restore(self, values: np.ndarray) -> np.ndarray:
        """An array (k, j, i) float32 of the view on the voxels of its box, interpolated linearly."""
        shape = tuple(side.stop - side.start for side in self.box)
        if values.shape == shape:
            return values
        tensor = torch.from_numpy(values)[None, None]
        return functional.interpolate(tensor, size=shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def class_view(
    images: np.ndarray,
    scribbles: np.ndarray,
    value: int,
    spacing: tuple[float, float, float],
    scale: float = 1.0,
    longest_mm: float = np.inf,
    is_thin: bool = False,
) -> ClassView:
    """Cut out, and coarsen; or make finer, where the class is thin.

    Args:
        images: (M, k, j, i) float32.
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
        spacing: mm, (k, j, i).
        scale: Factor on the in-plane voxel size that suits the class.
        longest_mm: A class whose strokes span more counts as that long.
        is_thin: Whether voxels that need not become coarser are halved in-plane.

    Raises:
        LabelError: The class has no scribble.
    """
    box = class_box(scribbles, value, spacing)
    cropped, drawn = images[(slice(None), *box)], scribbles[box]
    wanted = scale * suitable_spacing(drawn == value, spacing, longest_mm)
    shape = drawn.shape
    seen = (shape[0], *(max(1, round(n * min(1.0, mm / wanted))) for n, mm in zip(shape[1:], spacing[1:])))
    if seen != shape:
        cropped, drawn = _resized(cropped, seen), shrink_scribbles(drawn, seen)
    elif is_thin and 4 * drawn.size <= MOST_HALVED_VOXELS:
        seen = (shape[0], 2 * shape[1], 2 * shape[2])
        cropped, drawn = _resized(cropped, seen), drawn.repeat(2, axis=1).repeat(2, axis=2)
    mm = tuple(s * n / m for s, n, m in zip(spacing, shape, seen))
    return ClassView(value, np.ascontiguousarray(cropped), drawn, mm, box)


def suitable_spacing(inside: np.ndarray, spacing: tuple[float, float, float], longest_mm: float = np.inf) -> float:
    """The in-plane voxel size in mm at which a class spans `VOXELS_ACROSS` voxels; see `class_view`.

    Args:
        inside: (k, j, i) bool, its scribbles.
        spacing: mm, (k, j, i).
        longest_mm: What is longer counts as that long.
    """
    extent = min(span_mm(inside.any(axis=0), spacing[1:]), longest_mm)
    return min(extent / VOXELS_ACROSS, max(COARSEST_IN_PLANE_MM, *spacing[1:]))


def _resized(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images (M, k, j, i) with other voxels in-plane over the same field of view, smoothed against aliasing."""
    slices = torch.from_numpy(np.ascontiguousarray(images))
    return functional.interpolate(slices, size=shape[1:], mode="bilinear", antialias=True, align_corners=False).numpy()


def shrink_scribbles(scribbles: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Scribbles on a coarser grid over the same field of view; no stroke is lost, classes win over background."""
    shrunk = np.full(shape, UNLABELLED, np.uint8)
    voxels = np.argwhere(scribbles != UNLABELLED)
    values = scribbles[tuple(voxels.T)]
    places = (voxels * np.array(shape) // np.array(scribbles.shape)).T
    is_background = values == BACKGROUND
    for kind in (is_background, ~is_background):
        shrunk[tuple(places[:, kind])] = values[kind]
    return shrunk
