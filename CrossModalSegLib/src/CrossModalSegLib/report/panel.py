"""What pictures of results share: grey values, areas, outlines, strokes, and how they are explained."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from ..labels import BACKGROUND, LabelTable
from .patient_axes import Plane

CT_WINDOW_HU = (-160.0, 240.0)
PERCENTILES = (0.5, 99.5)
PAPER = "#14161a"
INK = "#e8eaed"
FAINT_INK = "#9aa0a6"
BACKGROUND_SCRIBBLE = (0.92, 0.92, 0.92)

_FILL_ALPHA = 0.32
_MAX_DOTS = 2500


def windowed(name: str, array: np.ndarray) -> np.ndarray:
    """Grey values 0..1 as float32."""
    low, high = CT_WINDOW_HU
    if not (name.lower().startswith("ct") and array.min() < 0):
        step = max(1, array.size // 1_000_000)
        low, high = np.percentile(array.ravel()[::step], PERCENTILES)
    if high <= low:
        high = low + 1.0
    return np.clip((array.astype(np.float32) - low) / (high - low), 0.0, 1.0)


def show_image(axes: Axes, image: np.ndarray, pixel: tuple[float, float]) -> None:
    """Draw grey values 0..1 (rows, columns) in mm: x from the left edge, y down from the top edge."""
    extent = _extent(image, pixel)
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear", aspect="auto")


def show_labels(axes: Axes, labels: np.ndarray, table: LabelTable, pixel: tuple[float, float]) -> None:
    """Draw a label map (rows, columns) over an image: translucent areas with an outline."""
    axes.imshow(filled(labels, table), extent=_extent(labels, pixel), interpolation="nearest", aspect="auto")
    for label in table.labels:
        outline(axes, labels == label.value, pixel, [{"colors": [rgb(label.color)], "linewidths": 1.0}])


def filled(labels: np.ndarray, table: LabelTable) -> np.ndarray:
    """RGBA (rows, columns, 4) float32 of translucent labels."""
    colors = np.zeros((256, 4), dtype=np.float32)
    for label in table.labels:
        colors[label.value] = (*rgb(label.color), _FILL_ALPHA)
    return colors[labels.astype(np.uint8)]


def outline(axes: Axes, region: np.ndarray, pixel: tuple[float, float], styles: list[dict[str, object]]) -> None:
    """Draw the outline of a region (rows, columns) in mm, once for each style."""
    if not region.any():
        return
    padded = np.pad(region.astype(np.float32), 1)
    rows, columns = ((np.arange(size) - 0.5) * mm for size, mm in zip(padded.shape, pixel, strict=True))
    for style in styles:
        axes.contour(columns, rows, padded, levels=[0.5], **style)


def dots(axes: Axes, scribbles: np.ndarray, table: LabelTable, pixel: tuple[float, float]) -> None:
    """Draw scribbled pixels as dots on a common dark rim; of very many only a regular choice."""
    colors = {BACKGROUND: BACKGROUND_SCRIBBLE, **{label.value: rgb(label.color) for label in table.labels}}
    for value, color in colors.items():
        points = np.argwhere(scribbles == value)
        points = points[:: max(1, len(points) // _MAX_DOTS)]
        if not len(points):
            continue
        y, x = ((points + 0.5) * pixel).T
        size = 2.0 if value == BACKGROUND else 4.0
        axes.scatter(x, y, s=2.6 * size, color="black", linewidths=0, alpha=0.6, zorder=4)
        axes.scatter(x, y, s=size, color=[vivid(color)], linewidths=0, zorder=5)


def frame(axes: Axes, plane: Plane, width: float, height: float) -> None:
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


def scale_bar(axes: Axes, height: float, width: float) -> None:
    """A bar of a round length, at most a third of the picture's width."""
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm <= width / 3), default=1)
    right, y = width * 0.965, height * 0.955
    axes.plot([right - length, right], [y, y], color=INK, linewidth=2.4, solid_capstyle="butt")
    text = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    axes.text(right - length / 2, y - 0.012 * height, text, color=INK, size=8.5, ha="center", va="bottom")


def row_by_row(handles: list[Patch | Line2D], columns: int) -> list[Patch | Line2D]:
    """Reorder for matplotlib, which fills legends column by column."""
    return [handle for column in range(columns) for handle in handles[column::columns]]


def label_handles(table: LabelTable) -> list[Patch | Line2D]:
    """The labels for a legend."""
    return [
        Patch(facecolor=(*rgb(label.color), 0.75), edgecolor=rgb(label.color), label=label.name)
        for label in table.labels
    ]


def segmentation_handle() -> Patch:
    """For a legend."""
    return Patch(facecolor=(1, 1, 1, _FILL_ALPHA), edgecolor="white", label="segmentation")


def scribble_handles() -> list[Patch | Line2D]:
    """For a legend: scribbles, and those of the background."""
    dot = {"linestyle": "none", "marker": "o", "markeredgecolor": "black", "markeredgewidth": 0.6}
    return [
        Line2D([], [], markersize=6, color="#ff8a65", label="scribbles", **dot),
        Line2D([], [], markersize=4.5, color=BACKGROUND_SCRIBBLE, label="background scribbles", **dot),
    ]


def rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """0..255 to 0..1."""
    red, green, blue = color
    return red / 255.0, green / 255.0, blue / 255.0


def lighter(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """Half-way to white."""
    red, green, blue = (0.5 + 0.5 * channel for channel in color)
    return red, green, blue


def vivid(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """The same hue as bright as it gets, to stand out from areas of the colour itself."""
    brightest = max(max(color), 1e-3)
    red, green, blue = (channel / brightest for channel in color)
    return red, green, blue


def _extent(picture: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float, float, float]:
    return 0.0, picture.shape[1] * pixel[1], picture.shape[0] * pixel[0], 0.0
