"""The part of a case that a fit works on: the neighbourhood of the scribbles, at a resolution the network knows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.intensity import scale_to_unit, value_range
from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing, prepare_case
from CrossModalSegLib.data.working_grid import Grid, Interpolation, grid_of, resample_aligned
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.fitting.regions import Box, drawn_across, largest_stroke_mm, scribbled_box
from CrossModalSegLib.fitting.thickness import thicknesses
from CrossModalSegLib.inference.segment import SegmentationResult, labels_from_probabilities
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.training.cases import branch_order
from CrossModalSegLib.volume import Volume

# The prior was trained on voxels of 1.1-3.2 mm in-plane and 2.5-8 mm between slices.
FINEST_IN_PLANE_MM = 1.4
FINEST_SLICE_MM = 2.5
# A small scribbled region keeps at least about this many voxels across, however fine they are.
VOXELS_ACROSS = 64
# Where even the largest class has fewer across, voxels become finer, down to a third as long, as far as the region has
# room for them: what is a few voxels wide would come back as a blob of twice its size.
STROKE_VOXELS = 14
FINEST_SHARE = 1 / 3
MOST_FINER_VOXELS = 8_000_000
SIZES_TRIED = 9
# Larger voxels in-plane are halved, unless they become too many: of them, thin structures are a blur to the prior.
COARSE_IN_PLANE_MM = 2.1
MOST_HALVED_VOXELS = 20_000_000
CROP_MARGIN_MM = 45.0


@dataclass(frozen=True, eq=False)
class WorkingCase:
    """A prepared crop of a case.

    Attributes:
        prepared: Images (M, k, j, i) in `branch_order` and scribbles on the working grid, whose axes may have another
            order.
        box: Where the crop lies in the case's own arrays.
        grid: The scribbles on the case's own grid.
        thicknesses: mm by class, of those that are known.
        thin: Classes with fewer than `STROKE_VOXELS` voxels across, to be looked at in halved ones.
    """

    prepared: PreparedCase
    box: Box
    grid: Volume
    thicknesses: dict[int, float] = field(default_factory=dict)
    thin: frozenset[int] = frozenset()

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


def working_case(loaded: LoadedCase, for_prior: bool = False) -> WorkingCase:
    """Crop a case to its scribbles and bring it to the working resolution.

    Args:
        loaded: The case.
        for_prior: Whether voxels are to be as the prior knows them: the axis across which the scribbles were drawn may
            become k, and coarse voxels are halved.

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
    turned = _turned(cropped, drawn_across(own.array, own.spacing)) if for_prior else cropped
    scaled = _scaled(turned, loaded.images)
    seen = _halved(scaled) if for_prior else scaled

    def prepare(spacing: tuple[float, float, float]) -> PreparedCase:
        ranges = dict.fromkeys(seen.images, (0.0, 1.0))
        return prepare_case(
            seen, Preprocessing(spacing=spacing), modalities=branch_order(seen.images), value_ranges=ranges
        )

    spacing = _spacing_for(seen.scribbles, {})
    prepared = prepare(spacing)
    thickness = thicknesses(prepared.images, prepared.scribbles, prepared.spacing)
    finer = _spacing_for(seen.scribbles, thickness)
    if finer != spacing:
        prepared = prepare(finer)
    thin = _thin(thickness, prepared.spacing, turned.scribbles.spacing)
    return WorkingCase(replace(prepared, source=grid_of(own).volume()), box, loaded.scribbles, thickness, thin)


def _thin(
    thickness: dict[int, float], spacing: tuple[float, float, float], own: tuple[float, float, float]
) -> frozenset[int]:
    """Classes with fewer than `STROKE_VOXELS` voxels across; none where voxels were halved already.

    Args:
        thickness: mm by class.
        spacing: mm, (k, j, i), of the working grid.
        own: mm, (k, j, i), of the image.
    """
    length = max(spacing[1:])
    is_halved = length < 0.99 * max(own[1:])
    return frozenset(value for value, mm in thickness.items() if mm < STROKE_VOXELS * length and not is_halved)


def _spacing_for(scribbles: Volume, thickness: dict[int, float]) -> tuple[float, float, float]:
    """The working voxel size in mm for cropped scribbles, where the thickness of some classes is known."""
    largest = largest_stroke_mm(scribbles.array, scribbles.spacing, thickness)
    return working_spacing(scribbles.spacing, scribbles.shape, largest)


def _turned(case: LoadedCase, axis: int) -> LoadedCase:
    """The same voxels with an axis of (k, j, i) in the place of k; of the others, none is exchanged."""
    order = (axis, *(other for other in range(3) if other != axis))

    def turn(volume: Volume) -> Volume:
        affine = volume.affine.copy()
        affine[:3, :3] = affine[:3, [2 - each for each in reversed(order)]]
        return Volume(volume.array.transpose(order), affine)

    images = {name: turn(volume) for name, volume in case.images.items()}
    return replace(case, images=images, scribbles=turn(case.scribbles))


def _scaled(case: LoadedCase, whole: dict[str, Volume]) -> LoadedCase:
    """The case with values in [0, 1]: those of the whole images, as `segment` will see them, not of a crop."""
    prep = Preprocessing()
    images = {}
    for name, volume in case.images.items():
        low, high = value_range(whole[name].array, name, prep.ct_window, prep.percentiles)
        images[name] = volume.with_array(scale_to_unit(volume.array, low, high))
    return replace(case, images=images)


def _halved(case: LoadedCase) -> LoadedCase:
    """The case with voxels half as long along j and i where they are coarse; strokes cover all of what they covered."""
    source = grid_of(case.scribbles)
    parts = np.array([1, *(1 + (mm > COARSE_IN_PLANE_MM) for mm in source.spacing[1:])])
    shape = parts * source.shape
    if parts.max() == 1 or np.prod(shape) > MOST_HALVED_VOXELS:
        return case
    to_source = np.diag([*(1 / parts[::-1]), 1.0])
    to_source[:3, 3] = (1 / parts[::-1] - 1) / 2
    finer = Grid(tuple(int(n) for n in shape), source.affine @ to_source)

    def on_finer(volume: Volume, interpolation: Interpolation) -> Volume:
        return finer.volume(resample_aligned(volume.array, source, finer, interpolation))

    images = {name: on_finer(volume, "linear") for name, volume in case.images.items()}
    return replace(case, images=images, scribbles=on_finer(case.scribbles, "nearest"))


def working_spacing(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], largest_mm: float = np.inf
) -> tuple[float, float, float]:
    """The working voxel size in mm, never finer than this one.

    Args:
        spacing: mm, (k, j, i), of the crop, where coarse voxels are halved already.
        shape: (k, j, i) of the crop.
        largest_mm: Size in-plane of the largest class.
    """
    across = min(n * mm for n, mm in zip(shape[1:], spacing[1:])) / VOXELS_ACROSS
    in_plane = min(FINEST_IN_PLANE_MM, across)
    finest = min(in_plane, max(FINEST_SHARE * in_plane, largest_mm / STROKE_VOXELS))
    sizes = [_voxel_size(spacing, length) for length in np.linspace(finest, in_plane, SIZES_TRIED)]
    return next((mm for mm in sizes if np.prod(np.multiply(shape, spacing) / mm) <= MOST_FINER_VOXELS), sizes[-1])


def _voxel_size(spacing: tuple[float, float, float], in_plane: float) -> tuple[float, float, float]:
    """Voxels (k, j, i) in mm of this length in-plane, as thick as goes with it, and none finer than the case's.

    What needs fine voxels in-plane needs them along k, too: slices become thinner sooner, until voxels are cubes.
    """
    through = max(in_plane, FINEST_SLICE_MM * min(1.0, in_plane / FINEST_IN_PLANE_MM) ** 2)
    return max(spacing[0], through), max(spacing[1], in_plane), max(spacing[2], in_plane)


def _crop(volume: Volume, box: Box) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in reversed(box)])
    return Volume(volume.array[box], affine)
