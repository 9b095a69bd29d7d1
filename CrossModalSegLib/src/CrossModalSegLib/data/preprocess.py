"""From a loaded case to the arrays a network sees, and from its probabilities back to the case's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.data.cache import case_key, load_arrays, store_arrays
from CrossModalSegLib.data.intensity import normalize_image, scale_to_unit
from CrossModalSegLib.data.working_grid import (
    Grid,
    Interpolation,
    Orientation,
    grid_of,
    is_reordering,
    resample_aligned,
    working_grid,
)
from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.volume import Volume, resample_scribbles

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase


@dataclass(frozen=True)
class Preprocessing:
    """How images become network input; part of every model.

    Attributes:
        spacing: mm, (k, j, i) of the working grid; None keeps each case's own grid.
        ct_window: HU that become 0 and 1 in modalities whose name begins with "ct".
        percentiles: Percentiles that become 0 and 1 in all other modalities.
        orientation: "flip" turns each axis towards L, P or S, so that left stays left whatever the storage order;
            "lps" also puts the axis closest to S first; "native" keeps the storage order.
    """

    spacing: tuple[float, float, float] | None = None
    ct_window: tuple[float, float] = (-160.0, 240.0)
    percentiles: tuple[float, float] = (0.5, 99.5)
    orientation: Orientation = "flip"

    def __post_init__(self) -> None:
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0 < s < np.inf for s in self.spacing)):
            raise InputError(f"The working spacing is three positive lengths in mm (k, j, i); got {self.spacing}.")
        if len(self.ct_window) != 2 or not self.ct_window[0] < self.ct_window[1]:
            raise InputError(f"The CT window is a lower and a higher value in HU; got {self.ct_window}.")
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"The percentiles are two ascending values within 0 to 100; got {self.percentiles}.")
        if self.orientation not in ("lps", "flip", "native"):
            raise InputError(f'The orientation is "lps", "flip" or "native"; got "{self.orientation}".')


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on its working grid.

    Attributes:
        name: The case's name.
        images: (M, k, j, i) float32 in [0, 1], modalities in the model's order.
        scribbles: (k, j, i) uint8: 0 background, 1..K classes, 255 unlabelled; or None.
        mask: (k, j, i) uint8: 0..K; or None.
        spacing: mm, (k, j, i).
        affine: (4, 4) of the working grid, index (i, j, k, 1) -> LPS mm.
        source: The case's own grid, as a Volume whose voxels mean nothing.
        key: Hash of what it was made from; None where it is not known.
    """

    name: str
    images: np.ndarray
    scribbles: np.ndarray | None
    mask: np.ndarray | None
    spacing: tuple[float, float, float]
    affine: np.ndarray
    source: Volume
    key: str | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.float32:
            raise InputError(
                f"Prepared images are float32 of shape (M, k, j, i); got {self.images.dtype} {self.images.shape}."
            )
        for what, array in (("scribbles", self.scribbles), ("mask", self.mask)):
            if array is not None and (array.shape != self.shape or array.dtype != np.uint8):
                raise InputError(f"The {what} must be uint8 of shape {self.shape}; got {array.dtype} {array.shape}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(k, j, i) of the working grid."""
        return tuple(self.images.shape[1:])

    @property
    def grid(self) -> Grid:
        """The working grid."""
        return Grid(self.shape, self.affine)

    @property
    def is_on_source_voxels(self) -> bool:
        """Whether working and source grid have the same voxels, up to flipped and permuted axes."""
        return is_reordering(grid_of(self.source), self.grid)


def prepare_case(
    loaded: LoadedCase,
    prep: Preprocessing,
    *,
    modalities: Sequence[str] | None = None,
    value_ranges: Mapping[str, tuple[float, float]] | None = None,
    cache_dir: Path | None = None,
) -> PreparedCase:
    """Images scaled to [0, 1] and everything resampled to the working grid.

    Images are interpolated linearly, masks by the nearest voxel, scribbles voxel by voxel, so that no scribbled
    voxel is lost.

    Args:
        loaded: Images, scribbles and mask on one grid.
        prep: The preprocessing.
        modalities: Names and order of the images to use; None takes all in the case's order.
        value_ranges: Values that become 0 and 1, by modality, where they are not to be taken from these images: those
            of the whole image, when the case is a crop. Such a case is not cached.
        cache_dir: Folder in which results are kept under a hash of the case's content and the preprocessing.

    Raises:
        InputError: A modality is missing.
    """
    images = _select_images(loaded, modalities)
    source = grid_of(next(iter(images.values())))
    grid = working_grid(source, prep.spacing, prep.orientation)
    if value_ranges is not None:
        cache_dir = None
    key = None if cache_dir is None else case_key(images, loaded.scribbles, loaded.mask, prep)
    arrays = None if key is None else load_arrays(cache_dir, key, _expected(len(images), grid.shape, loaded))
    if arrays is None:
        arrays = _compute(images, loaded, prep, source, grid, value_ranges or {})
        if key is not None:
            store_arrays(cache_dir, key, arrays)
    return PreparedCase(
        name=loaded.name,
        images=arrays["images"],
        scribbles=arrays.get("scribbles"),
        mask=arrays.get("mask"),
        spacing=grid.spacing,
        affine=grid.affine,
        source=source.volume(),
        key=key,
    )


def to_source_grid(array: np.ndarray, prepared: PreparedCase, interpolation: Interpolation) -> np.ndarray:
    """An array (k, j, i) of the working grid on the case's own grid: "linear" gives float32, "nearest" its dtype."""
    return resample_aligned(array, prepared.grid, grid_of(prepared.source), interpolation)


def restore_probabilities(prob: np.ndarray, prepared: PreparedCase) -> np.ndarray:
    """Probabilities on the case's own grid.

    Args:
        prob: (K + 1, k, j, i) float32 on the working grid.
        prepared: The case the probabilities belong to.

    Returns:
        (K + 1, k, j, i) float32 on the source grid, interpolated linearly, each class by itself: they still add
        to one. The array itself where both grids are the same.

    Raises:
        GeometryError: The probabilities have another shape than the working grid.
    """
    if prob.ndim != 4 or prob.shape[1:] != prepared.shape:
        raise GeometryError(
            f"Probabilities of the case {prepared.name} must have the shape (K + 1, {prepared.shape}); "
            f"got {prob.shape}."
        )
    if prepared.is_on_source_voxels and np.allclose(prepared.affine, prepared.source.affine, atol=1e-9):
        return prob
    restored = np.empty((prob.shape[0], *prepared.source.array.shape), np.float32)
    for values, target in zip(prob, restored):
        target[...] = to_source_grid(values, prepared, "linear")
    return restored


def _select_images(loaded: LoadedCase, modalities: Sequence[str] | None) -> dict[str, Volume]:
    names = list(loaded.images) if modalities is None else list(modalities)
    missing = [name for name in names if name not in loaded.images]
    if missing or not names:
        raise InputError(
            f"The case {loaded.name} needs the images {', '.join(names) or '(none named)'}; "
            f"it has {', '.join(loaded.images) or 'none'}. Add the missing one or choose other modalities."
        )
    return {name: loaded.images[name] for name in names}


def _expected(count: int, shape: tuple[int, int, int], loaded: LoadedCase) -> dict[str, tuple[tuple[int, ...], str]]:
    expected = {"images": ((count, *shape), "float32")}
    if loaded.scribbles is not None:
        expected["scribbles"] = (tuple(shape), "uint8")
    if loaded.mask is not None:
        expected["mask"] = (tuple(shape), "uint8")
    return expected


def _compute(
    images: dict[str, Volume],
    loaded: LoadedCase,
    prep: Preprocessing,
    source: Grid,
    grid: Grid,
    value_ranges: Mapping[str, tuple[float, float]],
) -> dict[str, np.ndarray]:
    stack = np.empty((len(images), *grid.shape), np.float32)
    for target, (modality, volume) in zip(stack, images.items()):
        if modality in value_ranges:
            scaled = scale_to_unit(volume.array, *value_ranges[modality])
        else:
            scaled = normalize_image(volume.array, modality, prep.ct_window, prep.percentiles)
        target[...] = resample_aligned(scaled, source, grid, "linear")
    arrays = {"images": stack}
    if loaded.scribbles is not None:
        arrays["scribbles"] = _working_scribbles(loaded.scribbles, source, grid)
    if loaded.mask is not None:
        mask = resample_aligned(loaded.mask.array, source, grid, "nearest")
        arrays["mask"] = np.ascontiguousarray(mask, np.uint8)
    return arrays


def _working_scribbles(scribbles: Volume, source: Grid, grid: Grid) -> np.ndarray:
    if is_reordering(source, grid):
        return np.ascontiguousarray(resample_aligned(scribbles.array, source, grid, "nearest"), np.uint8)
    return np.ascontiguousarray(resample_scribbles(scribbles, grid.volume()).array, np.uint8)
