"""A picture of a referring segmentation: the scribbled reference, and what its strokes found in every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..data.referring.pairing import Matching, reference_positions
from ..data.referring.slices import SliceFrame, SlicePreprocessing, slice_frame
from ..errors import InputError
from ..labels import UNLABELLED, LabelTable
from ..volume import Volume, require_same_geometry
from .distinct_colors import distinct_colors
from .figures import new_figure, save_png
from .panel import (
    FAINT_INK,
    INK,
    PAPER,
    dots,
    frame,
    label_handles,
    row_by_row,
    scale_bar,
    scribble_handles,
    segmentation_handle,
    show_image,
    show_labels,
    windowed,
)
from .patient_axes import Plane

MOST_ROWS = 3
# Pictures beside each other: the strokes, the reference's result, and so many targets; further targets go below.
TARGETS_BESIDE = 4
MOST_TARGETS = 12

_DPI = 110
_PANEL_IN = 2.9
_LEFT_IN, _TOP_IN, _HEAD_IN, _GAP_IN = 0.2, 0.14, 0.52, 0.1
_LEGEND_ROW_IN, _NOTE_IN = 0.25, 0.32
_LEGEND_COLUMNS = 7
_LEAST_WIDTH_IN = 8.0
_LETTER_IN = 0.105
# Grey value below which a picture shows air.
_AIR, _MARGIN_MM = 0.08, 8.0
# Ends of the LPS axes, negative and positive.
_SIDES = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class ReferredImage:
    """One of the images of the picture.

    Attributes:
        image: As it was given.
        labels: Its segmentation 0..K, on its grid.
        matching: How its slices were matched with those of the reference.
    """

    image: Volume
    labels: Volume
    matching: Matching


@dataclass(frozen=True, eq=False)
class _Column:
    """An image with all arrays as slices (S, rows, columns), and what is shown of it.

    Attributes:
        labels, scribbles: What lies on the image, or None.
        indices: Slice of each row of the picture; None where the image has none there.
        pixel: Height and width, mm.
        plane: Of the slices, with the sides of the patient.
    """

    title: str
    note: str
    image: np.ndarray
    labels: np.ndarray | None
    scribbles: np.ndarray | None
    indices: tuple[int | None, ...]
    pixel: tuple[float, float]
    plane: Plane


def write_refer_overlay(
    path: str | Path,
    reference: tuple[str, ReferredImage],
    scribbles: Volume,
    targets: Mapping[str, ReferredImage],
    table: LabelTable,
) -> None:
    """Write a PNG with slices as rows and, as columns, the strokes, the reference's segmentation and the targets.

    The rows are scribbled slices that hold strokes of all organs between them, and labelled slices far from them. A
    target shows the slice that belongs to the row, by position in the patient or by order among the slices, as its head
    says. Lengths are true to scale, the same for all images, and the patient's left is on the right. Labels whose
    colours look alike get others in this picture.

    Args:
        path: PNG file.
        reference: Its name and what it holds.
        scribbles: On the reference's grid: 0 background, 1..K, 255 not drawn.
        targets: By name; the first twelve are shown.
        table: Names and colours of the labels.

    Raises:
        InputError: Nothing is scribbled.
        GeometryError: An image and its labels, or the reference and its scribbles, are not on one grid.
        OutputError: The file cannot be written.
    """
    name, given = reference
    require_same_geometry(reference=given.image, scribbles=scribbles, labels=given.labels)
    placed = _frame_of(given.image)
    strokes, labels = _turned(placed, scribbles.array), _turned(placed, given.labels.array)
    rows = shown_slices(strokes, labels, MOST_ROWS)
    image = _turned(placed, windowed(name, given.image.array))
    pixel, plane = placed.axial.spacing[1:], plane_of(placed)
    box = (slice(None), *_content(rows, (image > _AIR, labels > 0, strokes != UNLABELLED), pixel))
    leading = [
        _Column(name, "reference, as scribbled", image[box], None, strokes[box], rows, pixel, plane),
        _Column(name, "reference, segmented", image[box], labels[box], None, rows, pixel, plane),
    ]
    shown = list(targets.items())[:MOST_TARGETS]
    others = [_target_column(target, each, placed, rows) for target, each in shown]
    save_png(_draw(leading, others, distinct_colors(table), len(targets) - len(shown)), path, _DPI)


def shown_slices(strokes: np.ndarray, labels: np.ndarray, most: int) -> tuple[int, ...]:
    """Slices worth showing, the highest first.

    Args:
        strokes: (S, rows, columns) uint8 scribbles.
        labels: (S, rows, columns) uint8 segmentation.
        most: How many.

    Raises:
        InputError: Nothing is scribbled.
    """
    drawn = [set(np.unique(plane).tolist()) - {0, UNLABELLED} for plane in strokes]
    area = (labels > 0).sum(axis=(1, 2))
    scribbled = [index for index, values in enumerate(drawn) if values]
    if not scribbled:
        raise InputError("A picture of a referring segmentation needs scribbles on its reference; there are none.")
    chosen: list[int] = []
    seen: set[int] = set()
    while len(chosen) < most and any(drawn[index] - seen for index in scribbled):
        best = max(scribbled, key=lambda index: (len(drawn[index] - seen), area[index]))
        chosen.append(best)
        seen |= drawn[best]
    candidates = [index for index in np.flatnonzero(area) if index not in chosen]
    while len(chosen) < most and candidates:
        # Far away, but not where an organ just begins.
        other = max(candidates, key=lambda index: min(abs(index - each) for each in chosen) * area[index])
        chosen.append(int(other))
        candidates.remove(other)
    return tuple(sorted(chosen, reverse=True))


def plane_of(placed: SliceFrame) -> Plane:
    """The plane of the slices with the sides of the patient that are closest to the pictures' edges."""
    across, down, _ = placed.axial.affine[:3, :3].T
    (left, right), (top, bottom) = _ends(across), _ends(-down if _is_head_down(placed) else down)
    return Plane("slices", 0, left, right, top, bottom)


def _turned(placed: SliceFrame, array: np.ndarray) -> np.ndarray:
    """An array (k, j, i) of a volume as pictures (S, rows, columns); a view, the head is never below."""
    slices = placed.to_axial(array)
    return slices[:, ::-1] if _is_head_down(placed) else slices


def _is_head_down(placed: SliceFrame) -> bool:
    """Whether rows run to the head, as in slices that are not axial."""
    return _ends(placed.axial.affine[:3, 1]) == ("I", "S")


def _ends(direction: np.ndarray) -> tuple[str, str]:
    """Letters of the sides that an LPS direction comes from and goes to."""
    axis = int(np.abs(direction).argmax())
    return _SIDES[axis] if direction[axis] > 0 else _SIDES[axis][::-1]


def _frame_of(volume: Volume) -> SliceFrame:
    return slice_frame(volume, SlicePreprocessing())


def _target_column(name: str, each: ReferredImage, reference: SliceFrame, rows: tuple[int, ...]) -> _Column:
    require_same_geometry(target=each.image, labels=each.labels)
    placed = _frame_of(each.image).turned_like(reference)
    positions, _ = reference_positions(placed, reference, each.matching)
    indices = tuple(_nearest(positions, row, placed, reference, each.matching) for row in rows)
    image, labels = _turned(placed, windowed(name, each.image.array)), _turned(placed, each.labels.array)
    pixel = placed.axial.spacing[1:]
    box = (slice(None), *_content(indices, (image > _AIR, labels > 0), pixel))
    note = f"slices matched by {each.matching}"
    return _Column(name, note, image[box], labels[box], None, indices, pixel, plane_of(placed))


def _content(
    indices: tuple[int | None, ...], shown: tuple[np.ndarray, ...], pixel: tuple[float, float]
) -> tuple[slice, slice]:
    """Rows and columns that hold all of what is shown in some slices, without the air around.

    Args:
        indices: Of the slices.
        shown: Each (S, rows, columns) bool.
        pixel: Height and width, mm.
    """
    chosen = [index for index in indices if index is not None]
    found = np.any([each[chosen].any(axis=0) for each in shown], axis=0)
    if not found.any():
        return slice(None), slice(None)
    sides = []
    for axis, mm in enumerate(pixel):
        at = np.flatnonzero(found.any(axis=1 - axis))
        margin = round(_MARGIN_MM / mm)
        sides.append(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin))
    return sides[0], sides[1]


def _nearest(
    positions: np.ndarray, row: int, target: SliceFrame, reference: SliceFrame, matching: Matching
) -> int | None:
    """The target's slice for a slice of the reference; None where the target does not reach in the patient."""
    distances = np.abs(positions - row) * reference.slice_mm
    index = int(distances.argmin())
    is_reached = matching == "order" or distances[index] <= max(target.slice_mm, reference.slice_mm)
    return index if is_reached else None


@dataclass(frozen=True)
class _Layout:
    """Sizes of the figure's parts in inches.

    Attributes:
        per_mm: Of all pictures.
        cell: Height and width of the room for a picture.
        rows, columns, blocks: Of cells; a block holds all rows.
        bottom: Room for legends.
        width, height: Of the figure.
    """

    per_mm: float
    cell: tuple[float, float]
    rows: int
    columns: int
    blocks: int
    bottom: float
    width: float
    height: float

    @classmethod
    def of(cls, blocks: list[list[_Column]], labels: int) -> _Layout:
        """Pictures as large as their cells, all at one scale."""
        sizes = [_extent_mm(column) for block in blocks for column in block]
        tallest, widest = max(height for height, _ in sizes), max(width for _, width in sizes)
        per_mm = _PANEL_IN / max(tallest, widest)
        cell = tallest * per_mm, widest * per_mm
        rows, columns = len(blocks[0][0].indices), max(len(block) for block in blocks)
        bottom = (-(-labels // _LEGEND_COLUMNS) + 1) * _LEGEND_ROW_IN + _NOTE_IN
        width = 2 * _LEFT_IN + columns * (cell[1] + _GAP_IN) - _GAP_IN
        height = _TOP_IN + len(blocks) * (_HEAD_IN + rows * (cell[0] + _GAP_IN)) + bottom
        return cls(per_mm, cell, rows, columns, len(blocks), bottom, max(width, _LEAST_WIDTH_IN), height)

    def head(self, block: int, column: int) -> tuple[float, float]:
        """Middle of a column and top of its head, in inches from the upper left corner."""
        content = self.columns * (self.cell[1] + _GAP_IN) - _GAP_IN
        left = (self.width - content) / 2 + column * (self.cell[1] + _GAP_IN)
        top = _TOP_IN + block * (_HEAD_IN + self.rows * (self.cell[0] + _GAP_IN))
        return left + self.cell[1] / 2, top

    def panel(
        self, block: int, row: int, column: int, size_mm: tuple[float, float]
    ) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a picture in the middle of its cell, as shares of the figure."""
        height, width = (mm * self.per_mm for mm in size_mm)
        middle, top = self.head(block, column)
        centre = top + _HEAD_IN + row * (self.cell[0] + _GAP_IN) + self.cell[0] / 2
        bottom = self.height - centre - height / 2
        return (middle - width / 2) / self.width, bottom / self.height, width / self.width, height / self.height


def _draw(leading: list[_Column], targets: list[_Column], table: LabelTable, left_out: int) -> Figure:
    blocks = _blocks(leading, targets)
    layout = _Layout.of(blocks, len(table))
    figure = new_figure(layout.width, layout.height, PAPER)
    for number, block in enumerate(blocks):
        for at, column in enumerate(block):
            _head(figure, layout, number, at, column)
            for row, index in enumerate(column.indices):
                axes = figure.add_axes(layout.panel(number, row, at, _extent_mm(column)))
                _panel(axes, column, index, table)
    scale_bar(figure.axes[0], *_extent_mm(leading[0]))
    _legends(figure, layout, table, (leading[0].scribbles == 0).any(), left_out)
    return figure


def _blocks(leading: list[_Column], targets: list[_Column]) -> list[list[_Column]]:
    """Both pictures of the reference and some targets; below, the strokes again and further targets."""
    blocks = [leading + targets[:TARGETS_BESIDE]]
    rest = targets[TARGETS_BESIDE:]
    beside = TARGETS_BESIDE + 1
    return blocks + [leading[:1] + rest[start : start + beside] for start in range(0, len(rest), beside)]


def _extent_mm(column: _Column) -> tuple[float, float]:
    """Height and width."""
    _, rows, columns = column.image.shape
    return rows * column.pixel[0], columns * column.pixel[1]


def _head(figure: Figure, layout: _Layout, block: int, at: int, column: _Column) -> None:
    middle, top = layout.head(block, at)
    most = max(6, int(layout.cell[1] / _LETTER_IN))
    title = column.title if len(column.title) <= most else f"{column.title[: most - 1]}…"
    place = {"x": middle / layout.width, "ha": "center", "va": "top"}
    figure.text(y=1 - top / layout.height, s=title, color=INK, size=11.5, weight="bold", **place)
    figure.text(y=1 - (top + 0.23) / layout.height, s=column.note, color=FAINT_INK, size=9, **place)


def _panel(axes: Axes, column: _Column, index: int | None, table: LabelTable) -> None:
    height, width = _extent_mm(column)
    axes.set_facecolor("black")
    if index is not None:
        show_image(axes, column.image[index], column.pixel)
    if index is not None and column.labels is not None:
        show_labels(axes, column.labels[index], table, column.pixel)
    if index is not None and column.scribbles is not None:
        dots(axes, column.scribbles[index], table, column.pixel)
    frame(axes, column.plane, width, height)
    if index is None:
        axes.text(width / 2, height / 2, "not in this image", color=FAINT_INK, size=10, ha="center", va="center")
        return
    number = f"slice {index + 1} of {len(column.image)}"
    drawn = axes.text(0.02, 0.98, number, color=INK, size=8, ha="left", va="top", transform=axes.transAxes, zorder=6)
    drawn.set_path_effects([withStroke(linewidth=2.0, foreground="black", alpha=0.7)])


def _legends(figure: Figure, layout: _Layout, table: LabelTable, has_background: bool, left_out: int) -> None:
    """Rows of the labels, a row of the ways of drawing, and a note, from top to bottom."""
    styles = [segmentation_handle(), *scribble_handles()[: 2 if has_background else 1]]
    style = {"loc": "lower center", "frameon": False, "labelcolor": INK, "fontsize": 10, "borderaxespad": 0.0}
    for handles, bottom in ((label_handles(table), _NOTE_IN + _LEGEND_ROW_IN), (styles, _NOTE_IN)):
        columns = min(_LEGEND_COLUMNS, len(handles))
        figure.legend(
            handles=row_by_row(handles, columns),
            ncols=columns,
            bbox_to_anchor=(0.5, bottom / layout.height),
            handlelength=1.8,
            columnspacing=1.6,
            **style,
        )
    note = (
        "R, L, A, P, S, I: sides of the patient (in axial slices left is on the right, and the lowest one is slice 1)"
    )
    if left_out:
        note += f"  ·  {left_out} further targets are not shown"
    figure.text(0.5, 0.09 / layout.height, note, color=FAINT_INK, size=8.5, ha="center", va="bottom")
