"""Implicit shapes: functions of a position (mm) that are negative inside, with a gradient of length about one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .fields import SmoothField

Point = tuple[float, float, float]
_FIELD_REACH = 4.5  # standard deviations that a random field does not exceed
_GROWTH_REACH = 1.3  # distances are approximate, so a surface may move further than it was asked to
Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A solid given by an approximate signed distance.

    Attributes:
        distance: Maps x, y, z (mm, LPS; float32 arrays of one shape) to the signed distance in mm, negative inside.
        low: Lowest corner of a box that holds the solid, (x, y, z) mm; minus infinity where it is unbounded.
        high: Highest corner of that box.
        pieces: Solids that together are this one, where it is cheaper to render each in its own box.
    """

    distance: Distance
    low: Point = (-np.inf, -np.inf, -np.inf)
    high: Point = (np.inf, np.inf, np.inf)
    pieces: tuple[Shape, ...] = ()

    def grown(self, by_mm: float) -> Shape:
        """The solid with its surface moved outwards by `by_mm` (inwards where negative)."""
        reach = _GROWTH_REACH * max(by_mm, 0.0)
        low = tuple(value - reach for value in self.low)
        high = tuple(value + reach for value in self.high)
        pieces = tuple(piece.grown(by_mm) for piece in self.pieces)
        return Shape(lambda x, y, z: self.distance(x, y, z) - np.float32(by_mm), low, high, pieces)

    def roughened(self, field: SmoothField, amplitude_mm: float) -> Shape:
        """The solid with its surface moved by `amplitude_mm` times a random field."""
        reach = _FIELD_REACH * amplitude_mm
        low = tuple(value - reach for value in self.low)
        high = tuple(value + reach for value in self.high)
        pieces = tuple(piece.roughened(field, amplitude_mm) for piece in self.pieces)
        amplitude = np.float32(amplitude_mm)
        return Shape(lambda x, y, z: self.distance(x, y, z) - amplitude * field(x, y, z), low, high, pieces)

    def within(self, low: Point | None = None, high: Point | None = None) -> Shape:
        """The same solid with its box cut down to `low`..`high`; only for use with shapes known to end there."""
        low = self.low if low is None else tuple(max(a, b) for a, b in zip(self.low, low, strict=True))
        high = self.high if high is None else tuple(min(a, b) for a, b in zip(self.high, high, strict=True))
        return replace(self, low=low, high=high, pieces=())


def rotation_matrix(degrees: Point) -> np.ndarray:
    """3x3 rotation about the x, then y, then z axis."""
    cx, cy, cz = np.cos(np.deg2rad(degrees))
    sx, sy, sz = np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def ellipsoid(centre: Point, radii: Point, degrees: Point = (0.0, 0.0, 0.0)) -> Shape:
    """An ellipsoid; `degrees` rotates it about x, y and z. An infinite radius makes an elliptic cylinder."""
    matrix = rotation_matrix(degrees)
    rotated = any(degrees)
    axes = matrix.T.astype(np.float32)
    scale = [np.float32(1.0 / radius) for radius in radii]
    cx, cy, cz = (np.float32(value) for value in centre)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - cx, y - cy, z - cz
        if rotated:
            dx, dy, dz = (row[0] * dx + row[1] * dy + row[2] * dz for row in axes)
        # At the centre the two sums vanish; the floors make the distance that of the nearest pole.
        first, second = np.float32(1e-12), np.float32(1e-12) * max(scale) ** 2
        for offset, inverse in zip((dx, dy, dz), scale, strict=True):
            if inverse == 0:
                continue
            unit = offset * inverse
            first = first + unit * unit
            unit = unit * inverse
            second = second + unit * unit
        length = np.sqrt(first)
        return length * (length - np.float32(1.0)) / np.sqrt(second)

    finite = np.where(np.isfinite(radii), radii, 1e9)
    reach = np.sqrt((matrix**2) @ (finite**2))
    low = tuple(float(c - r) if r < 1e8 else -np.inf for c, r in zip(centre, reach, strict=True))
    high = tuple(float(c + r) if r < 1e8 else np.inf for c, r in zip(centre, reach, strict=True))
    return Shape(distance, low, high)


def tube(points: Sequence[Point], radii: Sequence[float] | float, flatten: float = 1.0) -> Shape:
    """A bent tube through `points` whose radius runs linearly between the points.

    Args:
        points: At least two positions, mm.
        radii: One radius a point, or one for all, mm.
        flatten: Extent along z relative to the radius (0.5 = half as high as wide).
    """
    stretch = np.array([1.0, 1.0, 1.0 / flatten])
    nodes = np.asarray(points, dtype=np.float64) * stretch
    radius = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(nodes),))

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        z = z * np.float32(stretch[2])
        result = None
        for start, end, r0, r1 in zip(nodes[:-1], nodes[1:], radius[:-1], radius[1:], strict=True):
            edge = end - start
            ex, ey, ez = edge.astype(np.float32)
            dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
            along = (dx * ex + dy * ey + dz * ez) * np.float32(1.0 / max(float(edge @ edge), 1e-9))
            np.clip(along, 0, 1, out=along)
            dx -= along * ex
            dy -= along * ey
            dz -= along * ez
            value = np.sqrt(dx * dx + dy * dy + dz * dz) - (np.float32(r0) + along * np.float32(r1 - r0))
            result = value if result is None else np.minimum(result, value)
        return result

    reach = np.array([1.0, 1.0, flatten]) * radius[:, None]
    original = np.asarray(points, dtype=np.float64)
    low = tuple(float(v) for v in (original - reach).min(0))
    return Shape(distance, low, tuple(float(v) for v in (original + reach).max(0)))


def half_space(normal: Point, offset_mm: float) -> Shape:
    """All positions p with normal . p < offset; `normal` is scaled to length one."""
    nx, ny, nz = (np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)).astype(np.float32)
    return Shape(lambda x, y, z: nx * x + ny * y + nz * z - np.float32(offset_mm))


def bands(normal: Point, period_mm: float, width_mm: float, phase_mm: float = 0.0) -> Shape:
    """Equal slabs of thickness `width_mm`, one every `period_mm` along `normal`."""
    nx, ny, nz = (np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)).astype(np.float32)
    period = np.float32(period_mm)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        along = (nx * x + ny * y + nz * z - np.float32(phase_mm)) / period
        return np.abs(along - np.round(along)) * period - np.float32(width_mm / 2)

    return Shape(distance)


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """All of the solids together; `blend_mm` rounds the creases where they meet."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            other = shape.distance(x, y, z)
            if blend_mm > 0:
                overlap = np.maximum(np.float32(blend_mm) - np.abs(result - other), 0)
                result = np.minimum(result, other) - overlap * overlap * np.float32(0.25 / blend_mm)
            else:
                result = np.minimum(result, other)
        return result

    low = tuple(min(shape.low[axis] for shape in shapes) - blend_mm / 4 for axis in range(3))
    high = tuple(max(shape.high[axis] for shape in shapes) + blend_mm / 4 for axis in range(3))
    pieces = () if blend_mm else tuple(piece for shape in shapes for piece in shape.pieces or (shape,))
    return Shape(distance, low, high, pieces)


def intersection(*shapes: Shape) -> Shape:
    """What the solids have in common."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            result = np.maximum(result, shape.distance(x, y, z))
        return result

    low = tuple(max(shape.low[axis] for shape in shapes) for axis in range(3))
    return Shape(distance, low, tuple(min(shape.high[axis] for shape in shapes) for axis in range(3)))


def difference(shape: Shape, *removed: Shape) -> Shape:
    """`shape` without the `removed` solids."""

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        result = shape.distance(x, y, z)
        for other in removed:
            result = np.maximum(result, -other.distance(x, y, z))
        return result

    return Shape(distance, shape.low, shape.high)


def complement(shape: Shape) -> Shape:
    """Everything outside `shape`."""
    return Shape(lambda x, y, z: -shape.distance(x, y, z))


def shell(shape: Shape, thickness_mm: float) -> Shape:
    """The layer of `thickness_mm` just inside the surface of `shape`."""
    thickness = np.float32(thickness_mm)

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        value = shape.distance(x, y, z)
        return np.maximum(value, -value - thickness)

    return Shape(distance, shape.low, shape.high)


def noise_solid(field: SmoothField, threshold: float, length_mm: float) -> Shape:
    """Where a random field lies above `threshold` (in its standard deviations); `length_mm` is the field's length."""
    scale = np.float32(length_mm)
    return Shape(lambda x, y, z: (np.float32(threshold) - field(x, y, z)) * scale)
