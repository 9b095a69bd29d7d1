"""A picture of a result: each modality in three planes, with the segmentation, the reference and the scribbles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..errors import InputError
from ..labels import UNLABELLED, LabelTable
from ..volume import Volume, require_same_geometry
from .figures import new_figure, save_png
from .panel import (
    FAINT_INK,
    INK,
    PAPER,
    dots,
    frame,
    label_handles,
    lighter,
    outline,
    rgb,
    row_by_row,
    scale_bar,
    scribble_handles,
    segmentation_handle,
    show_image,
    show_labels,
    windowed,
)
from .patient_axes import PLANES, PatientAxes, Plane, best_slices

MAX_MODALITIES = 6

_DPI = 110
_PANEL_WIDTH_IN, _PANEL_HEIGHT_IN, _LEAST_WIDTH_IN = 11.4, 5.2, 8.0
_LEFT_IN, _RIGHT_IN, _TOP_IN, _TITLE_IN, _GAP_IN = 0.42, 0.14, 0.38, 0.34, 0.1
_LEGEND_ROW_IN, _NOTE_IN = 0.25, 0.32
_LEGEND_COLUMNS = 7
_DASHES = (0, (3.2, 2.2))


@dataclass(frozen=True, eq=False)
class _Scene:
    """All arrays turned to the axes (superior, posterior, left)."""

    images: dict[str, np.ndarray]
    labels: np.ndarray
    mask: np.ndarray | None
    scribbles: np.ndarray | None
    axes: PatientAxes
    slices: tuple[int, int, int]
    table: LabelTable


def write_overlay(
    path: str | Path,
    images: Mapping[str, Volume],
    labels: Volume,
    table: LabelTable,
    mask: Volume | None = None,
    scribbles: Volume | None = None,
    title: str | None = None,
) -> None:
    """Write a PNG with a row for each modality and the axial, coronal and sagittal planes as columns.

    The planes go through the largest label (of the segmentation, else of the reference) where it is largest. Lengths
    are true to scale, and the patient's left is on the right. Oblique grids are shown by their own axes, named after
    the nearest axes of the patient.

    Args:
        path: PNG file.
        images: volumes by modality name; names that start with "ct" are shown in a window of -160..240 HU when they
            hold HU, all others between their percentiles 0.5 and 99.5.
        labels: segmentation 0..K: translucent areas.
        table: names and colours of the labels.
        mask: reference 0..K: dashed outlines.
        scribbles: 0 = background, 1..K, 255 = unlabelled: dots.
        title: headline; None has none.

    Raises:
        InputError: there is no image, or more than six.
        GeometryError: the volumes are not on one grid.
        OutputError: the file cannot be written.
    """
    if not 1 <= len(images) <= MAX_MODALITIES:
        raise InputError(f"An overlay shows 1 to {MAX_MODALITIES} images, got {len(images)}.")
    optional = {name: volume for name, volume in (("mask", mask), ("scribbles", scribbles)) if volume is not None}
    require_same_geometry(**{"labels": labels, **images, **optional})
    scene = _make_scene(images, labels, table, mask, scribbles)
    save_png(_draw(scene, title), path, _DPI)


def _make_scene(
    images: Mapping[str, Volume], labels: Volume, table: LabelTable, mask: Volume | None, scribbles: Volume | None
) -> _Scene:
    axes = PatientAxes.of(labels)
    turned = axes.turn(labels.array)
    turned_mask = None if mask is None else axes.turn(mask.array)
    turned_scribbles = None if scribbles is None else axes.turn(scribbles.array)
    shown = turned if turned.any() or turned_mask is None else turned_mask
    painted = None if turned_scribbles is None else turned_scribbles != UNLABELLED
    return _Scene(
        images={name: axes.turn(windowed(name, volume.array)) for name, volume in images.items()},
        labels=turned,
        mask=turned_mask,
        scribbles=turned_scribbles,
        axes=axes,
        slices=best_slices(shown.astype(np.uint8), painted),
        table=table,
    )


@dataclass(frozen=True)
class _Layout:
    """Sizes of the figure's parts in inches.

    Attributes:
        panels: height and width of the pictures of each plane.
        row: height of a row of pictures.
        left, top, bottom: room beside the pictures.
        width, height: of the figure.
    """

    panels: tuple[tuple[float, float], ...]
    row: float
    left: float
    top: float
    bottom: float
    width: float
    height: float

    @classmethod
    def of(cls, scene: _Scene, has_title: bool) -> _Layout:
        """Pictures as large as the page allows, all at one scale."""
        sizes = [_extent_mm(scene, plane) for plane in PLANES]
        per_mm = (_PANEL_WIDTH_IN - 2 * _GAP_IN) / sum(width for _, width in sizes)
        per_mm = min(per_mm, _PANEL_HEIGHT_IN / max(height for height, _ in sizes))
        panels = tuple((height * per_mm, width * per_mm) for height, width in sizes)
        row = max(height for height, _ in panels)
        content = sum(width for _, width in panels) + 2 * _GAP_IN
        width = max(_LEFT_IN + content + _RIGHT_IN, _LEAST_WIDTH_IN)
        top = _TOP_IN + (_TITLE_IN if has_title else 0.0)
        label_rows = -(-len(scene.table) // _LEGEND_COLUMNS)
        bottom = (label_rows + 1) * _LEGEND_ROW_IN + _NOTE_IN
        height = top + len(scene.images) * (row + _GAP_IN) + bottom
        left = _LEFT_IN + 0.5 * (width - _LEFT_IN - _RIGHT_IN - content)
        return cls(panels, row, left, top, bottom, width, height)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a picture, in the middle of its row, as shares of the figure."""
        height, width = self.panels[column]
        left = self.left + sum(other for _, other in self.panels[:column]) + column * _GAP_IN
        bottom = self.row_middle(row) * self.height - height / 2
        return left / self.width, bottom / self.height, width / self.width, height / self.height

    def row_middle(self, row: int) -> float:
        """Height of the middle of a row as a share of the figure."""
        return (self.height - self.top - row * (self.row + _GAP_IN) - self.row / 2) / self.height


def _draw(scene: _Scene, title: str | None) -> Figure:
    layout = _Layout.of(scene, title is not None)
    figure = new_figure(layout.width, layout.height, PAPER)
    for row, (name, image) in enumerate(scene.images.items()):
        _row_title(figure, layout, row, name)
        for column, plane in enumerate(PLANES):
            axes = figure.add_axes(layout.panel(row, column))
            _draw_panel(axes, scene, image, plane)
            if row == 0:
                _column_title(figure, layout, column, scene)
    scale_bar(figure.axes[0], *_extent_mm(scene, PLANES[0]))
    if title is not None:
        place = layout.left / layout.width, 1 - 0.12 / layout.height
        figure.text(*place, title, color=INK, size=14, weight="bold", va="top")
    _draw_legends(figure, layout, scene)
    return figure


def _draw_legends(figure: Figure, layout: _Layout, scene: _Scene) -> None:
    """Rows of the labels, a row of the ways of drawing, and a note, from top to bottom."""
    style = {"loc": "lower center", "frameon": False, "labelcolor": INK, "fontsize": 10, "borderaxespad": 0.0}
    for handles, bottom in (
        (label_handles(scene.table), _NOTE_IN + _LEGEND_ROW_IN),
        (_style_handles(scene), _NOTE_IN),
    ):
        columns = min(_LEGEND_COLUMNS, len(handles))
        figure.legend(
            handles=row_by_row(handles, columns),
            ncols=columns,
            bbox_to_anchor=(0.5, bottom / layout.height),
            handlelength=1.8,
            columnspacing=1.6,
            **style,
        )
    figure.text(0.5, 0.09 / layout.height, _note(scene), color=FAINT_INK, size=8.5, ha="center", va="bottom")


def _extent_mm(scene: _Scene, plane: Plane) -> tuple[float, float]:
    """Height and width of a plane's pictures in mm."""
    counts = [count for axis, count in enumerate(scene.labels.shape) if axis != plane.axis]
    pixel = plane.pixel(scene.axes.spacing)
    return counts[0] * pixel[0], counts[1] * pixel[1]


def _draw_panel(axes: Axes, scene: _Scene, image: np.ndarray, plane: Plane) -> None:
    """One picture."""
    index = scene.slices[plane.axis]
    height, width = _extent_mm(scene, plane)
    pixel = plane.pixel(scene.axes.spacing)
    show_image(axes, plane.cut(image, index), pixel)
    show_labels(axes, plane.cut(scene.labels, index), scene.table, pixel)
    if scene.mask is not None:
        for label in scene.table.labels:
            dashed = {"colors": [lighter(rgb(label.color))], "linewidths": 1.5, "linestyles": [_DASHES]}
            under = {"colors": ["black"], "linewidths": 2.6, "alpha": 0.55}
            outline(axes, plane.cut(scene.mask, index) == label.value, pixel, [under, dashed])
    if scene.scribbles is not None:
        dots(axes, plane.cut(scene.scribbles, index), scene.table, pixel)
    frame(axes, plane, width, height)


def _row_title(figure: Figure, layout: _Layout, row: int, name: str) -> None:
    text = name.upper() if len(name) <= 3 else name
    place = (layout.left - 0.2) / layout.width, layout.row_middle(row)
    figure.text(*place, text, color=INK, size=13, weight="bold", rotation=90, ha="center", va="center")


def _column_title(figure: Figure, layout: _Layout, column: int, scene: _Scene) -> None:
    plane = PLANES[column]
    left, _, width, _ = layout.panel(0, column)
    text = f"{plane.name}  {scene.slices[plane.axis] + 1}/{scene.labels.shape[plane.axis]}"
    y = 1 - (layout.top - 0.1) / layout.height
    figure.text(left + width / 2, y, text, color=INK, size=11, ha="center", va="bottom")


def _style_handles(scene: _Scene) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [segmentation_handle()]
    if scene.mask is not None:
        handles.append(Line2D([], [], color="white", linewidth=1.5, linestyle=_DASHES, label="reference"))
    return handles if scene.scribbles is None else handles + scribble_handles()


def _note(scene: _Scene) -> str:
    """What the viewer has to know about the view."""
    spacing = " × ".join(f"{mm:.3g}" for mm in reversed(scene.axes.spacing))
    text = f"R, L, A, P, S, I: sides of the patient (left is on the right)  ·  voxel {spacing} mm"
    if scene.axes.tilt_degrees > 1.0:
        text += f"  ·  oblique grid, shown by its own axes (tilted by {scene.axes.tilt_degrees:.0f}°)"
    return text
