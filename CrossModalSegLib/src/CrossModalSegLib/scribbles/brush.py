"""Drawing curves on the pixels of one slice."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import splev, splprep

STEP_PX = 0.5


def polyline_length(points: np.ndarray) -> float:
    """Length in pixels of a polyline of points (n, 2)."""
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def resample_polyline(points: np.ndarray, step: float = STEP_PX) -> np.ndarray:
    """Points every `step` pixels along the polyline (n, 2), both ends included."""
    if len(points) < 2:
        return points
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], max(2, int(np.ceil(along[-1] / step)) + 1))
    return np.column_stack([np.interp(wanted, along, points[:, axis]) for axis in range(2)])


def spline_through(controls: np.ndarray, step: float = STEP_PX) -> np.ndarray:
    """Dense points (m, 2) on an interpolating spline through controls (n, 2); cubic from four controls on."""
    moved = np.concatenate([[True], np.linalg.norm(np.diff(controls, axis=0), axis=1) > 1e-6])
    controls = controls[moved]
    if len(controls) < 3:
        return resample_polyline(controls, step)
    knots, _ = splprep(controls.T, k=min(3, len(controls) - 1), s=0)
    count = max(2, int(np.ceil(polyline_length(controls) / step)))
    return resample_polyline(np.column_stack(splev(np.linspace(0.0, 1.0, count), knots)), step)


def draw_points(points: np.ndarray, shape: tuple[int, int], diameter: float = 1.0) -> np.ndarray:
    """Stamp a round brush at every point.

    Args:
        points: (n, 2) row and column in pixels, n may be 0; points outside of the canvas are allowed.
        shape: rows and columns of the canvas.
        diameter: of the brush, in pixels; the pixel nearest to a point is always painted.

    Returns:
        Boolean canvas (rows, columns).
    """
    reach = int(np.ceil(diameter / 2))
    # On a wider canvas a stamp never leaves the memory, so that nothing need be checked pixel by pixel.
    margin = 2 * reach
    width = shape[1] + 2 * margin
    canvas = np.zeros((shape[0] + 2 * margin, width), dtype=bool)
    nearest = np.rint(points)
    touches = ((nearest >= -reach) & (nearest < np.array(shape) + reach)).all(axis=1)
    points, nearest = points[touches], nearest[touches].astype(np.intp)
    steps = np.arange(-reach, reach + 1)
    # (steps, steps, n): all pixels around every point at once.
    squares = (nearest.T[:, None] + steps[:, None] - points.T[:, None]) ** 2
    near = squares[0, :, None] + squares[1] < (diameter / 2) ** 2
    near[reach, reach] = True
    middles = (nearest[:, 0] + margin) * width + nearest[:, 1] + margin
    around = steps[:, None] * width + steps
    canvas.ravel()[(around[..., None] + middles)[near]] = True
    return canvas[margin : margin + shape[0], margin : margin + shape[1]]
