"""The volumes of a case, checked to fit together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import CrossModalSegError, GeometryError, InputError
from ..io import read_mask_segments, read_scribble_segments, read_volume
from ..io.segmentation_io import is_slicer_segmentation
from ..labels import UNLABELLED, LabelTable, check_mask
from ..placement import shared_share
from ..volume import (
    Volume,
    describe,
    place_on_grid,
    require_same_geometry,
    resample_like,
    resample_scribbles,
    same_geometry,
)
from .cohort import Case, Cohort


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """The volumes of one case, all on the grid of the first image.

    Attributes:
        name: of the case.
        images: by modality, in the order of the cohort.
        scribbles: uint8 in the internal convention, or None.
        mask: uint8 0..K, or None.
    """

    name: str
    images: dict[str, Volume]
    scribbles: Volume | None
    mask: Volume | None

    @property
    def grid(self) -> Volume:
        """The image whose grid all share: the first."""
        return next(iter(self.images.values()))


def load_case(case: Case, cohort: Cohort, resample: bool = False) -> LoadedCase:
    """Read the volumes of a case and check that they fit together.

    Args:
        case: one of the cohort.
        cohort: names the modalities, labels and the scribble convention.
        resample: whether to bring everything onto the grid of the first modality: images linearly, masks by nearest
            neighbour, scribbles without losing a voxel. Otherwise different grids are an error.

    Returns:
        The volumes. Segments that 3D Slicer stored as a cropped box are placed back in either case.

    Raises:
        InputError: a file is missing, damaged, 4D, in colour, or holds NaN or infinities, or an image is constant.
        GeometryError: grids differ and `resample` is false, or have no place in common.
        LabelError: scribbles or mask hold unknown values.
    """
    with _named(case.name):
        images = _load_images(case, cohort.modalities, resample)
        first = next(iter(images.items()))
        scribbles = None if case.scribbles is None else _load_scribbles(case.scribbles, cohort, first, resample)
        mask = None if case.mask is None else _load_mask(case.mask, cohort.labels, first, resample)
    return LoadedCase(case.name, images, scribbles, mask)


def _load_images(case: Case, modalities: tuple[str, ...], resample: bool) -> dict[str, Volume]:
    images = {modality: read_volume(case.images[modality]) for modality in modalities}
    _require_content(images)
    if resample:
        return on_first_grid(images)
    require_same_geometry(**images)
    return images


def _require_content(images: dict[str, Volume]) -> None:
    for name, volume in images.items():
        if volume.array.min() == volume.array.max():
            raise InputError(
                f"The image '{name}' is constant: all of its voxels are {volume.array.flat[0]:g}, so there is nothing "
                "to see in it. Is it the right file?"
            )


def on_first_grid(images: dict[str, Volume]) -> dict[str, Volume]:
    """The images on the grid of the first one; those that have it already are the same objects.

    Raises:
        GeometryError: one shares no place with the first.
    """
    first, grid = next(iter(images.items()))
    for name, each in images.items():
        _require_common_place(first, grid, name, each)
    return {name: each if same_geometry(grid, each) else resample_like(each, grid) for name, each in images.items()}


def _require_common_place(first: str, grid: Volume, name: str, other: Volume) -> None:
    """GeometryError where nothing of a volume would be left on the grid of another."""
    if not same_geometry(grid, other) and shared_share(grid, other) == 0:
        raise GeometryError(
            f"'{name}' lies outside of '{first}' in patient space, so nothing would be left of it there: '{first}' has "
            f"{describe(grid)}; '{name}' has {describe(other)}. Register it first, or check that both are of one "
            "patient."
        )


def _load_scribbles(path: Path, cohort: Cohort, first: tuple[str, Volume], resample: bool) -> Volume:
    name, grid = first
    if is_slicer_segmentation(path):
        scribbles = read_scribble_segments(path, cohort.labels)
        scribbles = place_on_grid(scribbles, grid, UNLABELLED) or scribbles
    else:
        scribbles = read_volume(path)
        scribbles = scribbles.with_array(cohort.convention.to_internal(scribbles.array, cohort.labels.num_classes))
    if same_geometry(grid, scribbles):
        return grid.with_array(scribbles.array)
    if not resample:
        require_same_geometry(**{name: grid, "scribbles": scribbles})
    _require_common_place(name, grid, "scribbles", scribbles)
    return resample_scribbles(scribbles, grid)


def _load_mask(path: Path, table: LabelTable, first: tuple[str, Volume], resample: bool) -> Volume:
    name, grid = first
    if is_slicer_segmentation(path):
        mask = read_mask_segments(path, table)
        mask = place_on_grid(mask, grid) or mask
    else:
        mask = read_volume(path)
        mask = mask.with_array(check_mask(mask.array, table))
    if same_geometry(grid, mask):
        return grid.with_array(mask.array)
    if not resample:
        require_same_geometry(**{name: grid, "mask": mask})
    _require_common_place(name, grid, "mask", mask)
    return resample_like(mask, grid, "nearest", fill=0)


@contextmanager
def _named(case: str) -> Iterator[None]:
    """Say which case an error is about, and keep its kind."""
    try:
        yield
    except CrossModalSegError as error:
        raise type(error)(f"In the case '{case}': {error}") from error
