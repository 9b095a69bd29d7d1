"""How thick structures are where they were drawn.

The strokes alone do not tell: one along a spinal cord is as long as one across a liver, and those on many small lesions
span the whole brain.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from CrossModalSegLib.fitting.geodesic import geodesic_distances
from CrossModalSegLib.fitting.regions import drawn_classes
from CrossModalSegLib.labels import UNLABELLED

# Strokes along the outline lie in no deep place, and those in the middle of a structure do.
PERCENTILE = 90
# So far apart, no way leads from slice to slice.
APART_MM = 1e7
# The costs of all ways take 216 bytes a voxel.
SLICES_AT_ONCE = 8


def thicknesses(images: np.ndarray, scribbles: np.ndarray, spacing: tuple[float, float, float]) -> dict[int, float]:
    """The thickness of each class in the slices that were drawn on, in mm.

    In each slice every pixel goes to the strokes that are nearest without crossing edges, as with Grow from seeds. The
    thickness is twice the distance from strokes to where their class ends.

    Args:
        images: (M, k, j, i) float32 in [0, 1].
        scribbles: (k, j, i) uint8, internal convention.
        spacing: mm, (k, j, i).

    Returns:
        mm by class; without those that share no slice with strokes on anything else, of which nothing is known.
    """
    depths: dict[int, list[np.ndarray]] = {}
    shared = [k for k, drawn in enumerate(scribbles) if len(np.unique(drawn[drawn != UNLABELLED])) > 1]
    for first in range(0, len(shared), SLICES_AT_ONCE):
        some = shared[first : first + SLICES_AT_ONCE]
        for grown, drawn in zip(_grown(images[:, some], scribbles[some], spacing), scribbles[some], strict=True):
            for value in drawn_classes(drawn):
                inside = np.pad(grown == value, 1)
                depth = distance_transform_edt(inside, spacing[1:])[1:-1, 1:-1]
                depths.setdefault(value, []).append(depth[drawn == value])
    return {value: 2 * float(np.percentile(np.concatenate(found), PERCENTILE)) for value, found in depths.items()}


def _grown(images: np.ndarray, scribbles: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """The value (k, j, i) of the nearest strokes in the same slice."""
    values = np.unique(scribbles[scribbles != UNLABELLED])
    seeds = torch.from_numpy(scribbles == values[:, None, None, None])
    distances = geodesic_distances(torch.from_numpy(images), seeds, (APART_MM, *spacing[1:]))
    return values[distances.argmin(dim=0).numpy()]
