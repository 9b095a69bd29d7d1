"""The axial slices of a volume on the square canvas that a 2D network sees, and the way back.

Slices are those along the axis closest to the patient's S; within them rows run to P and columns to L. The canvas is a
grid in space like any other, with the axes of the volume, so that both ways are one interpolation by the two affines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from CrossModalSegLib.data.intensity import scale_to_unit, value_range
from CrossModalSegLib.data.working_grid import Grid, Interpolation, grid_of, reordered, resample_aligned, working_grid
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.volume import Volume, require_same_geometry, resample_scribbles

Resize = Literal["pad", "stretch"]

# Directions that differ by less, as cosines, are equally close.
_CLOSER = 1e-6


@dataclass(frozen=True)
class SlicePreprocessing:
    """How the slices of a volume become network input.

    Attributes:
        image_size: Rows and columns of the canvas.
        resize: "pad" keeps the aspect in mm and centres the slice, with zeros beside it; "stretch" fills the canvas.
        percentiles: Of the whole volume; they become 0 and 1.
    """

    image_size: int = 192
    resize: Resize = "pad"
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise InputError(f"The image size is at least 32 pixels; got {self.image_size}.")
        if self.resize not in ("pad", "stretch"):
            raise InputError(f'Slices are brought to their size by "pad" or "stretch"; got "{self.resize}".')
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"The percentiles are two ascending values within 0 to 100; got {self.percentiles}.")


@dataclass(frozen=True, eq=False)
class SliceFrame:
    """Where the slices of a volume lie, in the volume and on the canvas.

    Attributes:
        source: The volume's own grid.
        axial: The same voxels as a stack of slices: along k for thick slices, whatever way they lie (short-axis slices
            of a heart, for instance), else axial, with k towards S, j towards P and i towards L; see `turned_like`.
        canvas: (S, H, W): the slices of `axial` on the square that the network sees.
    """

    source: Grid
    axial: Grid
    canvas: Grid

    @property
    def count(self) -> int:
        """S, the number of slices."""
        return self.canvas.shape[0]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Size of a canvas pixel, (row, column)."""
        return self.canvas.spacing[1:]

    @property
    def slice_mm(self) -> float:
        """Distance of neighbouring slices along their axis."""
        return self.canvas.spacing[0]

    @cached_property
    def centres(self) -> np.ndarray:
        """(S, 3) LPS mm: the middle of each slice."""
        k, j, i = self.axial.shape
        index = np.stack([np.full(k, (i - 1) / 2), np.full(k, (j - 1) / 2), np.arange(k)], axis=1)
        return index @ self.axial.affine[:3, :3].T + self.axial.affine[:3, 3]

    @cached_property
    def inside(self) -> np.ndarray:
        """(H, W) bool: canvas pixels whose centre lies on the slice."""
        rows, columns = (self._positions(axis) for axis in (1, 2))
        return rows[:, None] & columns[None]

    def turned_like(self, other: SliceFrame) -> SliceFrame:
        """The same slices with rows, columns and order along the directions closest to those of another frame.

        The axes of askew slices, such as short axes of a heart, may be closest to other sides of the patient than those
        of slices that are askew a little more: a network would see the one mirrored, or turned by 90 degrees, against
        the other. Itself where no other way is closer.
        """
        own, others = (_directions(frame.axial) for frame in (self, other))
        cosines = own.T @ others
        kept, swapped = (sum(abs(cosines[axis, new]) for new, axis in enumerate(axes)) for axes in ((0, 1), (1, 0)))
        order = (1, 0, 2) if swapped > kept + _CLOSER else (0, 1, 2)
        is_reversed = tuple(bool(cosines[axis, new] < -_CLOSER) for new, axis in enumerate(order))
        if order == (0, 1, 2) and not any(is_reversed):
            return self
        axial, canvas = (reordered(grid, order, is_reversed) for grid in (self.axial, self.canvas))
        return SliceFrame(self.source, axial, canvas)

    def to_axial(self, array: np.ndarray) -> np.ndarray:
        """An array (k, j, i) of the volume as axial slices (S, rows, columns); a view, no voxel is changed."""
        return resample_aligned(array, self.source, self.axial, "nearest")

    def from_axial(self, slices: np.ndarray) -> np.ndarray:
        """Axial slices (S, rows, columns) in the volume's own storage order (k, j, i); a view, no voxel is changed."""
        return resample_aligned(slices, self.axial, self.source, "nearest")

    def to_canvas(self, array: np.ndarray, interpolation: Interpolation, fill: float = 0) -> np.ndarray:
        """An array (k, j, i) of the volume as slices (S, H, W), `fill` beside them; see `resample_aligned`."""
        slices = np.array(resample_aligned(array, self.source, self.canvas, interpolation))
        slices[:, ~self.inside] = fill
        return slices

    def from_canvas(self, slices: np.ndarray, interpolation: Interpolation) -> np.ndarray:
        """Slices (S, H, W) on the volume's own grid (k, j, i): "linear" gives float32, "nearest" their dtype."""
        return resample_aligned(slices, self.canvas, self.source, interpolation)

    def scribbles_to_canvas(self, scribbles: Volume) -> np.ndarray:
        """Scribbles of the volume as slices (S, H, W) uint8; no stroke is lost, 255 is unlabelled.

        Raises:
            GeometryError: They are on another grid than the volume.
        """
        require_same_geometry(image=self.source.volume(), scribbles=scribbles)
        if not (scribbles.array != UNLABELLED).any():
            return np.full(self.canvas.shape, UNLABELLED, np.uint8)
        return resample_scribbles(scribbles, self.canvas.volume()).array

    def _positions(self, axis: int) -> np.ndarray:
        """Whether each canvas row (axis 1) or column (axis 2) lies on the slice."""
        step = self.canvas.spacing[axis] / self.axial.spacing[axis]
        size = self.axial.shape[axis]
        positions = (np.arange(self.canvas.shape[axis]) + 0.5) * step + (size - step * self.canvas.shape[axis]) / 2
        return (positions > 0) & (positions < size)


@dataclass(frozen=True, eq=False)
class SliceStack:
    """All axial slices of a case.

    Attributes:
        name: Of the case.
        images: By contrast, (S, H, W) float32 in [0, 1].
        labels: (S, H, W) uint8, 0 where nothing is labelled; or None.
        frame: Where the slices lie.
        annotated: Label values that the labels tell: another one may be in the patient all the same. None: all.
        key: Hash of what they were made from; None where it is not known.
    """

    name: str
    images: dict[str, np.ndarray]
    labels: np.ndarray | None
    frame: SliceFrame
    annotated: tuple[int, ...] | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for what, array in {**self.images, "labels": self.labels}.items():
            if array is not None and array.shape != self.frame.canvas.shape:
                raise InputError(
                    f"The slices of {what} must have the shape {self.frame.canvas.shape}; got {array.shape}."
                )

    @property
    def count(self) -> int:
        """S, the number of slices."""
        return self.frame.count

    def window(self, contrast: str, index: int, context: int = 0) -> np.ndarray:
        """A slice with its `context` neighbours on either side, (1 + 2 * context, H, W); the ends repeat."""
        return slice_window(self.images[contrast], index, context)


def slice_window(slices: np.ndarray, index: int, context: int) -> np.ndarray:
    """Slice `index` of (S, H, W) with its neighbours, (1 + 2 * context, H, W); the outermost slices repeat."""
    return slices[np.clip(np.arange(index - context, index + context + 1), 0, len(slices) - 1)]


def slice_frame(volume: Volume, prep: SlicePreprocessing) -> SliceFrame:
    """Lay the slices of a volume on the canvas."""
    source = grid_of(volume)
    axial = working_grid(source, None, "slices")
    size = prep.image_size
    rows, columns = axial.shape[1:]
    if prep.resize == "stretch":
        step = (rows / size, columns / size)
    else:
        _, row_mm, column_mm = axial.spacing
        pixel = max(rows * row_mm, columns * column_mm) / size
        step = (pixel / row_mm, pixel / column_mm)
    to_axial = np.diag([step[1], step[0], 1.0, 1.0])
    # Both squares share their middle.
    to_axial[0, 3] = (columns - 1) / 2 - step[1] * (size - 1) / 2
    to_axial[1, 3] = (rows - 1) / 2 - step[0] * (size - 1) / 2
    return SliceFrame(source, axial, Grid((axial.shape[0], size, size), axial.affine @ to_axial))


def _directions(grid: Grid) -> np.ndarray:
    """(3, 3): unit vectors of the axes i, j, k in the patient, as columns."""
    columns = grid.affine[:3, :3]
    return columns / np.linalg.norm(columns, axis=0)


def image_range(volume: Volume, prep: SlicePreprocessing) -> tuple[float, float]:
    """The values of an image that become 0 and 1; equal for a constant image."""
    # No name of a modality: CT numbers, too, are scaled by percentiles, as nothing else is known of a reference.
    return value_range(volume.array, "image", (0.0, 1.0), prep.percentiles)


def image_slices(
    volume: Volume, frame: SliceFrame, prep: SlicePreprocessing, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """An image as network input, (S, H, W) float32 in [0, 1]; zeros for a constant image.

    Args:
        volume: The image.
        frame: Where its slices lie.
        prep: How slices become network input.
        limits: Its `image_range`, where that is known already.
    """
    scaled = scale_to_unit(volume.array, *(limits or image_range(volume, prep)))
    return np.clip(frame.to_canvas(scaled, "linear"), 0.0, 1.0)


def slice_stack(
    name: str,
    images: Mapping[str, Volume],
    labels: Volume | None = None,
    prep: SlicePreprocessing | None = None,
    like: SliceFrame | None = None,
) -> SliceStack:
    """The slices of a case.

    Args:
        name: Of the case.
        images: By contrast, on one grid.
        labels: uint8 on the same grid, or None.
        prep: How slices become network input.
        like: The frame of another case, which askew slices are turned like; see `SliceFrame.turned_like`.

    Raises:
        InputError: There is no image.
        GeometryError: Grids differ.
    """
    prep = prep or SlicePreprocessing()
    if not images:
        raise InputError(f"The case {name} has no image to take slices of; give it at least one.")
    volumes = dict(images) if labels is None else {**images, "labels": labels}
    require_same_geometry(**volumes)
    frame = slice_frame(next(iter(images.values())), prep)
    frame = frame if like is None else frame.turned_like(like)
    return SliceStack(
        name=name,
        images={contrast: image_slices(volume, frame, prep) for contrast, volume in images.items()},
        labels=None if labels is None else frame.to_canvas(labels.array, "nearest").astype(np.uint8),
        frame=frame,
    )
