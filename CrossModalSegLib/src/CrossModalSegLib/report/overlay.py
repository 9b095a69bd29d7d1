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
from matplotlib.patheffects import withStroke

from ..errors import InputError
from ..labels import BACKGROUND, UNLABELLED, LabelTable
from ..volume import Volume, require_same_geometry
from .figures import new_figure, save_png
from .patient_axes import PLANES, PatientAxes, Plane, best_slices

CT_WINDOW_HU = (-160.0, 240.0)
PERCENTILES = (0.5, 99.5)
PAPER = "#14161a"
INK = "#e8eaed"
FAINT_INK = "#9aa0a6"
BACKGROUND_SCRIBBLE = (0.92, 0.92, 0.92)
MAX_MODALITIES = 6

_DPI = 110
_PANEL_WIDTH_IN, _PANEL_HEIGHT_IN, _LEAST_WIDTH_IN = 11.4, 5.2, 8.0
_LEFT_IN, _RIGHT_IN, _TOP_IN, _TITLE_IN, _GAP_IN = 0.42, 0.14, 0.38, 0.34, 0.1
_LEGEND_ROW_IN, _NOTE_IN = 0.25, 0.32
_LEGEND_COLUMNS = 7
_FILL_ALPHA = 0.32
_DASHES = (0, (3.2, 2.2))
_MAX_DOTS = 2500


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
        images={name: axes.turn(_windowed(name, volume.array)) for name, volume in images.items()},
        labels=turned,
        mask=turned_mask,
        scribbles=turned_scribbles,
        axes=axes,
        slices=best_slices(shown.astype(np.uint8), painted),
        table=table,
    )


def _windowed(name: str, array: np.ndarray) -> np.ndarray:
    """Grey values 0..1 as float32."""
    low, high = CT_WINDOW_HU
    if not (name.lower().startswith("ct") and array.min() < 0):
        step = max(1, array.size // 1_000_000)
        low, high = np.percentile(array.ravel()[::step], PERCENTILES)
    if high <= low:
        high = low + 1.0
    return np.clip((array.astype(np.float32) - low) / (high - low), 0.0, 1.0)


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
    _scale_bar(figure.axes[0], *_extent_mm(scene, PLANES[0]))
    if title is not None:
        place = layout.left / layout.width, 1 - 0.12 / layout.height
        figure.text(*place, title, color=INK, size=14, weight="bold", va="top")
    _draw_legends(figure, layout, scene)
    return figure


def _draw_legends(figure: Figure, layout: _Layout, scene: _Scene) -> None:
    """Rows of the labels, a row of the ways of drawing, and a note, from top to bottom."""
    style = {"loc": "lower center", "frameon": False, "labelcolor": INK, "fontsize": 10, "borderaxespad": 0.0}
    for handles, bottom in (
        (_label_handles(scene), _NOTE_IN + _LEGEND_ROW_IN),
        (_style_handles(scene), _NOTE_IN),
    ):
        columns = min(_LEGEND_COLUMNS, len(handles))
        figure.legend(
            handles=_row_by_row(handles, columns),
            ncols=columns,
            bbox_to_anchor=(0.5, bottom / layout.height),
            handlelength=1.8,
            columnspacing=1.6,
            **style,
        )
    figure.text(0.5, 0.09 / layout.height, _note(scene), color=FAINT_INK, size=8.5, ha="center", va="bottom")


def _row_by_row(handles: list[Patch | Line2D], columns: int) -> list[Patch | Line2D]:
    """Reorder for matplotlib, which fills legends column by column."""
    return [handle for column in range(columns) for handle in handles[column::columns]]


def _extent_mm(scene: _Scene, plane: Plane) -> tuple[float, float]:
    """Height and width of a plane's pictures in mm."""
    counts = [count for axis, count in enumerate(scene.labels.shape) if axis != plane.axis]
    pixel = plane.pixel(scene.axes.spacing)
    return counts[0] * pixel[0], counts[1] * pixel[1]


def _draw_panel(axes: Axes, scene: _Scene, image: np.ndarray, plane: Plane) -> None:
    """One picture in mm: x from the left edge, y down from the top edge."""
    index = scene.slices[plane.axis]
    height, width = _extent_mm(scene, plane)
    extent = (0.0, width, height, 0.0)
    axes.imshow(
        plane.cut(image, index), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear", aspect="auto"
    )
    labels = plane.cut(scene.labels, index)
    axes.imshow(_filled(labels, scene.table), extent=extent, interpolation="nearest", aspect="auto")
    pixel = plane.pixel(scene.axes.spacing)
    for label in scene.table.labels:
        color = _rgb(label.color)
        _outline(axes, labels == label.value, pixel, [{"colors": [color], "linewidths": 1.0}])
        if scene.mask is not None:
            dashed = {"colors": [_lighter(color)], "linewidths": 1.5, "linestyles": [_DASHES]}
            under = {"colors": ["black"], "linewidths": 2.6, "alpha": 0.55}
            _outline(axes, plane.cut(scene.mask, index) == label.value, pixel, [under, dashed])
    if scene.scribbles is not None:
        _dots(axes, plane.cut(scene.scribbles, index), scene.table, pixel)
    _frame(axes, plane, width, height)


def _filled(labels: np.ndarray, table: LabelTable) -> np.ndarray:
    """RGBA (rows, columns, 4) float32 of translucent labels."""
    colors = np.zeros((256, 4), dtype=np.float32)
    for label in table.labels:
        colors[label.value] = (*_rgb(label.color), _FILL_ALPHA)
    return colors[labels.astype(np.uint8)]


def _outline(axes: Axes, region: np.ndarray, pixel: tuple[float, float], styles: list[dict[str, object]]) -> None:
    """Draw the outline of a region (rows, columns) in mm, once for each style."""
    if not region.any():
        return
    padded = np.pad(region.astype(np.float32), 1)
    rows, columns = ((np.arange(size) - 0.5) * mm for size, mm in zip(padded.shape, pixel, strict=True))
    for style in styles:
        axes.contour(columns, rows, padded, levels=[0.5], **style)


def _dots(axes: Axes, scribbles: np.ndarray, table: LabelTable, pixel: tuple[float, float]) -> None:
    """Draw scribbled pixels as dots on a common dark rim; of very many only a regular choice."""
    colors = {BACKGROUND: BACKGROUND_SCRIBBLE, **{label.value: _rgb(label.color) for label in table.labels}}
    for value, color in colors.items():
        points = np.argwhere(scribbles == value)
        points = points[:: max(1, len(points) // _MAX_DOTS)]
        if not len(points):
            continue
        y, x = ((points + 0.5) * pixel).T
        size = 2.0 if value == BACKGROUND else 4.0
        axes.scatter(x, y, s=2.6 * size, color="black", linewidths=0, alpha=0.6, zorder=4)
        axes.scatter(x, y, s=size, color=[_vivid(color)], linewidths=0, zorder=5)


def _frame(axes: Axes, plane: Plane, width: float, height: float) -> None:
    """Limits, no ticks, and the letters of the patient's sides."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor("#3c4043")
    letters = (
        (plane.left, 0.018, 0.5, "left", "center"),
        (plane.right, 0.982, 0.5, "right", "center"),
        (plane.top, 0.5, 0.982, "center", "top"),
        (plane.bottom, 0.5, 0.018, "center", "bottom"),
    )
    for text, x, y, horizontal, vertical in letters:
        style = {"color": "#ffd54f", "size": 10, "weight": "bold", "ha": horizontal, "va": vertical}
        drawn = axes.text(x, y, text, transform=axes.transAxes, zorder=6, **style)
        drawn.set_path_effects([withStroke(linewidth=2.0, foreground="black", alpha=0.7)])


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


def _scale_bar(axes: Axes, height: float, width: float) -> None:
    """A bar of a round length, at most a third of the picture's width."""
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= width / 3), default=1)
    right, y = width * 0.965, height * 0.955
    axes.plot([right - length, right], [y, y], color=INK, linewidth=2.4, solid_capstyle="butt")
    text = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    axes.text(right - length / 2, y - 0.012 * height, text, color=INK, size=8.5, ha="center", va="bottom")


def _label_handles(scene: _Scene) -> list[Patch | Line2D]:
    return [
        Patch(facecolor=(*_rgb(label.color), 0.75), edgecolor=_rgb(label.color), label=label.name)
        for label in scene.table.labels
    ]


def _style_handles(scene: _Scene) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [Patch(facecolor=(1, 1, 1, _FILL_ALPHA), edgecolor="white", label="segmentation")]
    if scene.mask is not None:
        handles.append(Line2D([], [], color="white", linewidth=1.5, linestyle=_DASHES, label="reference"))
    if scene.scribbles is not None:
        dot = {"linestyle": "none", "marker": "o", "markeredgecolor": "black", "markeredgewidth": 0.6}
        handles.append(Line2D([], [], markersize=6, color="#ff8a65", label="scribbles", **dot))
        handles.append(Line2D([], [], markersize=4.5, color=BACKGROUND_SCRIBBLE, label="background scribbles", **dot))
    return handles


def _note(scene: _Scene) -> str:
    """What the viewer has to know about the view."""
    spacing = " × ".join(f"{mm:.3g}" for mm in reversed(scene.axes.spacing))
    text = f"R, L, A, P, S, I: sides of the patient (left is on the right)  ·  voxel {spacing} mm"
    if scene.axes.tilt_degrees > 1.0:
        text += f"  ·  oblique grid, shown by its own axes (tilted by {scene.axes.tilt_degrees:.0f}°)"
    return text


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255.0, green / 255.0, blue / 255.0


def _lighter(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """Half-way to white."""
    red, green, blue = (0.5 + 0.5 * channel for channel in color)
    return red, green, blue


def _vivid(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """The same hue as bright as it gets, to stand out from areas of the colour itself."""
    brightest = max(max(color), 1e-3)
    red, green, blue = (channel / brightest for channel in color)
    return red, green, blue
