"""The part of a case that a fit works on: the neighbourhood of the scribbles, at a resolution the network knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.intensity import value_range
from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing, prepare_case
from CrossModalSegLib.data.working_grid import grid_of
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.fitting.regions import Box, drawn_across, largest_stroke_mm, scribbled_box
from CrossModalSegLib.inference.segment import SegmentationResult, labels_from_probabilities
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.training.cases import branch_order
from CrossModalSegLib.volume import Volume

# The prior was trained on voxels of 1.1-3.2 mm in-plane and 2.5-8 mm between slices.
FINEST_IN_PLANE_MM = 1.4
FINEST_SLICE_MM = 2.5
# A small scribbled region keeps at least about this many voxels across, however fine they are.
VOXELS_ACROSS = 64
# Where even the strokes of the largest class span less, voxels become finer, down to half as long, unless the region is
# large: what is a few voxels wide would come back as a blob of twice its size.
STROKE_VOXELS = 14
MOST_FINER_VOXELS = 20_000_000
CROP_MARGIN_MM = 45.0


@dataclass(frozen=True, eq=False)
class WorkingCase:
    """A prepared crop of a case.

    Attributes:
        prepared: Images (M, k, j, i) in `branch_order` and scribbles on the working grid, whose axes may have another
            order.
        box: Where the crop lies in the case's own arrays.
        grid: The scribbles on the case's own grid.
    """

    prepared: PreparedCase
    box: Box
    grid: Volume

    def answer(
        self, probabilities: np.ndarray, *, with_probabilities: bool = False, with_uncertainty: bool = False
    ) -> SegmentationResult:
        """The answer on the case's own grid; scribbled voxels have the class the user said, with certainty.

        Args:
            probabilities: (K + 1, k, j, i) float32 on the working grid.
            with_probabilities, with_uncertainty: Whether the result holds them.
        """
        cropped = labels_from_probabilities(probabilities, self.prepared, with_probabilities, with_uncertainty)
        drawn = self.grid.array[self.box]
        is_drawn = drawn != UNLABELLED
        labels = np.where(is_drawn, drawn, cropped.labels.array)
        full, entropy = None, None
        if cropped.probabilities is not None:
            honour_scribbles(cropped.probabilities, drawn)
            full = self._place(cropped.probabilities)
            outside = np.ones(self.grid.shape, bool)
            outside[self.box] = False
            full[0, outside] = 1.0
        if cropped.uncertainty is not None:
            entropy = self.grid.with_array(self._place(np.where(is_drawn, 0, cropped.uncertainty.array)))
        return SegmentationResult(self.grid.with_array(self._place(labels)), full, entropy)

    def _place(self, array: np.ndarray) -> np.ndarray:
        """An array (..., k, j, i) of the crop in the case's own grid; 0 outside of the crop."""
        full = np.zeros((*array.shape[:-3], *self.grid.shape), array.dtype)
        full[(..., *self.box)] = array
        return full


def honour_scribbles(probabilities: np.ndarray, scribbles: np.ndarray) -> None:
    """Give every scribbled voxel of probabilities (K + 1, k, j, i) to the class that the user said, in place."""
    for value in np.unique(scribbles[scribbles != UNLABELLED]):
        probabilities[:, scribbles == value] = 0
        probabilities[value, scribbles == value] = 1


def working_case(loaded: LoadedCase, may_turn: bool = False) -> WorkingCase:
    """Crop a case to its scribbles and bring it to the working resolution.

    Args:
        loaded: The case.
        may_turn: Whether the axis across which the scribbles were drawn may become k.

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
    own = cropped.scribbles
    turned = _turned(cropped, drawn_across(own.array, own.spacing)) if may_turn else cropped
    drawn = turned.scribbles
    largest = largest_stroke_mm(drawn.array, drawn.spacing)
    prep = Preprocessing(spacing=working_spacing(drawn.spacing, drawn.shape, largest))
    # Of the whole images, as `segment` will see them, not of the crop.
    ranges = {n: value_range(v.array, n, prep.ct_window, prep.percentiles) for n, v in loaded.images.items()}
    prepared = prepare_case(turned, prep, modalities=branch_order(loaded.images), value_ranges=ranges)
    return WorkingCase(replace(prepared, source=grid_of(own).volume()), box, loaded.scribbles)


def _turned(case: LoadedCase, axis: int) -> LoadedCase:
    """The same voxels with an axis of (k, j, i) in the place of k; of the others, none is exchanged."""
    order = (axis, *(other for other in range(3) if other != axis))

    def turn(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        affine[:3, :3] = affine[:3, [2 - each for each in reversed(order)]]
        return Volume(volume.array.transpose(order), affine)

    images = {name: turn(volume) for name, volume in case.images.items()}
    return replace(case, images=images, scribbles=turn(case.scribbles))


def working_spacing(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], largest_mm: float = np.inf
) -> tuple[float, float, float]:
    """The working voxel size in mm, never finer than the case's own.

    Args:
        spacing: mm, (k, j, i), of the case.
        shape: (k, j, i) of the crop.
        largest_mm: Length in-plane of the strokes of the class that spans most.
    """
    across = min(n * mm for n, mm in zip(shape[1:], spacing[1:])) / VOXELS_ACROSS
    in_plane = min(FINEST_IN_PLANE_MM, across)
    finer = _voxel_size(spacing, min(in_plane, max(0.5 * in_plane, largest_mm / STROKE_VOXELS)))
    is_small = np.prod(np.multiply(shape, spacing) / finer) <= MOST_FINER_VOXELS
    return finer if is_small else _voxel_size(spacing, in_plane)


def _voxel_size(spacing: tuple[float, float, float], in_plane: float) -> tuple[float, float, float]:
    """Voxels (k, j, i) in mm of this length in-plane, as thick as goes with it, and none finer than the case's."""
    through = FINEST_SLICE_MM * min(1.0, in_plane / FINEST_IN_PLANE_MM)
    return max(spacing[0], through), max(spacing[1], in_plane), max(spacing[2], in_plane)


def _crop(volume: Volume, box: Box) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in reversed(box)])
    return Volume(volume.array[box], affine)
