"""Colours that eyes can tell apart, for pictures in which labels lie side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..labels import LabelTable

# Distance in CIELAB below which two areas of an image are hard to tell apart.
LEAST_DISTANCE = 35.0
# Bright and far from each other, from grey, and from white, which is the colour of background scribbles.
PALETTE = (
    (255, 205, 40),
    (60, 150, 255),
    (60, 200, 90),
    (235, 70, 200),
    (60, 215, 220),
    (240, 60, 60),
    (150, 110, 255),
    (170, 230, 30),
)
_WHITE = (255, 255, 255)


def distinct_colors(table: LabelTable) -> LabelTable:
    """The table with other colours for labels that look like one before them; the standard gives organs like colours.

    Where the palette has nothing far enough, what is farthest is taken.
    """
    used = [_lab(_WHITE)]
    labels = []
    for label in table.labels:
        color = label.color
        if _nearest(color, used) < LEAST_DISTANCE:
            color = max(PALETTE, key=lambda each: _nearest(each, used))
        used.append(_lab(color))
        labels.append(replace(label, color=color))
    return LabelTable(tuple(labels))


def _nearest(color: tuple[int, int, int], used: list[np.ndarray]) -> float:
    lab = _lab(color)
    return min(float(np.linalg.norm(lab - other)) for other in used)


def _lab(color: tuple[int, int, int]) -> np.ndarray:
    """sRGB, 0..255, as CIELAB under daylight (D65)."""
    rgb = np.asarray(color) / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
