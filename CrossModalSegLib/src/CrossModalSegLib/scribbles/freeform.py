"""Free-form brush strokes of Yu et al. 2019 (Free-form image inpainting with gated convolution), as SEEM uses them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .brush import draw_points, resample_polyline
from .slices import scribble_slices


@dataclass(frozen=True)
class FreeformBrush:
    """Ranges that a stroke is drawn from.

    Attributes:
        vertices: fewest and most corners of a stroke.
        diameter: thinnest and thickest brush, px.
        jitter: half of the corners are moved by up to this many px.
    """

    vertices: tuple[int, int]
    diameter: tuple[float, float]
    jitter: float

    def __post_init__(self) -> None:
        if not 2 <= self.vertices[0] <= self.vertices[1]:
            raise ValueError(f"A stroke needs at least 2 vertices and an ordered range, got {self.vertices}.")
        if not 0 < self.diameter[0] <= self.diameter[1] or self.jitter < 0:
            raise ValueError(f"The brush needs a positive, ordered diameter range and a jitter >= 0, got {self}.")


SEEM_BRUSH = FreeformBrush(vertices=(10, 30), diameter=(3.0, 10.0), jitter=3.0)
SMALL_BRUSH = FreeformBrush(vertices=(6, 22), diameter=(2.5, 5.0), jitter=1.5)

_MEAN_TURN = 2.0 * np.pi / 5.0
_TURN_RANGE = 2.0 * np.pi / 15.0


def _stroke(region: np.ndarray, brush: FreeformBrush, rng: np.random.Generator) -> np.ndarray:
    """Corners (n, 2) of a zigzag that starts inside of the region and has steps in proportion to its size."""
    pixels = np.flatnonzero(region)
    count = int(rng.integers(brush.vertices[0], brush.vertices[1] + 1))
    angles = _MEAN_TURN + rng.uniform(-_TURN_RANGE, _TURN_RANGE, count)
    angles[::2] = 2.0 * np.pi - angles[::2]
    radius = np.sqrt(len(pixels)) / 2.0
    lengths = np.clip(rng.normal(radius / 2.0, radius / 4.0, count), 1.0, 2.0 * radius)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    steps = lengths[:, None] * np.column_stack([np.sin(angles + turn), np.cos(angles + turn)])
    return _reflected(divmod(int(pixels[rng.integers(len(pixels))]), region.shape[1]), steps, region)


def _reflected(start: tuple[int, int], steps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Walk the steps from `start`; a step that would leave the region is turned back, or else stays away."""
    row, column = float(start[0]), float(start[1])
    corners = [(row, column)]
    for down, across in steps.tolist():  # Python numbers are faster one by one
        for candidate in ((row + down, column + across), (row - down, column - across)):
            i, j = round(candidate[0]), round(candidate[1])
            if 0 <= i < region.shape[0] and 0 <= j < region.shape[1] and region[i, j]:
                row, column = candidate
                corners.append(candidate)
                break
    return np.array(corners)


def _draw(
    region: np.ndarray, _ignored: np.ndarray, rng: np.random.Generator, brush: FreeformBrush, thickness: int | None
) -> np.ndarray:
    corners = _stroke(region, brush, rng)
    moved = rng.random(len(corners)) < 0.5
    corners[moved] += rng.uniform(-brush.jitter, brush.jitter, (int(moved.sum()), 2))
    diameter = rng.uniform(*brush.diameter) if thickness is None else thickness
    return draw_points(resample_polyline(corners), region.shape, diameter)


def freeform_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],  # noqa: ARG001 - all methods share one signature
    rng: np.random.Generator,
    *,
    thickness: int | None = None,
    brush: FreeformBrush = SMALL_BRUSH,
) -> np.ndarray:
    """One free-form stroke for each class in each axial slice, clipped to the class.

    Args:
        mask: uint8 (k, j, i), 0 = nothing, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm; not used, the method counts pixels.
        rng: numpy generator.
        thickness: width of the stroke in pixels; None draws it from the brush's range.
        brush: SMALL_BRUSH, or SEEM_BRUSH for SEEM's own ranges.

    Returns:
        uint8 (k, j, i): class on scribbles, 255 elsewhere.
    """
    return scribble_slices(mask, rng, partial(_draw, brush=brush, thickness=thickness))
