"""The part of a case that a fit works on: the neighbourhood of the scribbles, at a resolution the network knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing, prepare_case, restore_probabilities
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.fitting.regions import Box, scribbled_box
from CrossModalSegLib.volume import Volume

# The prior was trained on voxels of 1.1-2.4 mm in-plane and 2.5-8 mm between slices.
FINEST_IN_PLANE_MM = 1.4
FINEST_SLICE_MM = 2.5
# A small scribbled region keeps at least about this many voxels across, however fine they are.
VOXELS_ACROSS = 64
CROP_MARGIN_MM = 45.0


@dataclass(frozen=True, eq=False)
class WorkingCase:
    """A prepared crop of a case.

    Attributes:
        prepared: Images (M, k, j, i) and scribbles on the working grid.
        box: Where the crop lies in the case's own arrays.
        grid: The case's own grid.
    """

    prepared: PreparedCase
    box: Box
    grid: Volume

    def restore(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (K + 1, k, j, i) of the working grid on the voxels of the case's own grid within `box`."""
        return restore_probabilities(probabilities, self.prepared)

    def place(self, array: np.ndarray, fill: float = 0) -> np.ndarray:
        """An array (..., k, j, i) of the crop in the case's own grid; `fill` outside of the crop."""
        full = np.full((*array.shape[:-3], *self.grid.shape), fill, array.dtype)
        full[(..., *self.box)] = array
        return full


def working_case(loaded: LoadedCase) -> WorkingCase:
    """Crop a case to its scribbles and bring it to the working resolution.

    Raises:
        InputError: The case has no scribbles.
    """
    if loaded.scribbles is None:
        raise InputError(f"The case {loaded.name} has no scribbles to fit: give a scribble file.")
    box = scribbled_box(loaded.scribbles.array, loaded.scribbles.spacing, CROP_MARGIN_MM)
    cropped = replace(
        loaded,
        images={name: _crop(volume, box) for name, volume in loaded.images.items()},
        scribbles=_crop(loaded.scribbles, box),
        mask=None,
    )
    grid = loaded.scribbles
    spacing = working_spacing(grid.spacing, tuple(s.stop - s.start for s in box))
    return WorkingCase(prepare_case(cropped, Preprocessing(spacing=spacing)), box, grid)


def working_spacing(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> tuple[float, float, float]:
    """The working voxel size in mm, never finer than the case's own.

    Args:
        spacing: mm, (k, j, i), of the case.
        shape: (k, j, i) of the crop.
    """
    across = min(n * mm for n, mm in zip(shape[1:], spacing[1:])) / VOXELS_ACROSS
    in_plane = min(FINEST_IN_PLANE_MM, across)
    through = min(FINEST_SLICE_MM, FINEST_SLICE_MM * in_plane / FINEST_IN_PLANE_MM)
    return max(spacing[0], through), max(spacing[1], in_plane), max(spacing[2], in_plane)


def _crop(volume: Volume, box: Box) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in reversed(box)])
    return Volume(volume.array[box], affine)
