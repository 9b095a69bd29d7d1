"""An anatomy: solids of tissue painted one over the other, posed and warped as one body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels import LabelTable
from .fields import SmoothField, smooth_field
from .shapes import Point, Shape, rotation_matrix
from .tissues import tissue

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One painted solid.

    Attributes:
        shape: Where it is, in anatomy coordinates (mm).
        ct: Tissue that CT shows there.
        mr: Tissue that MR shows there; the same as `ct` for all but parts that one modality does not see.
        label: Class value in the mask, 0 for background.
    """

    shape: Shape
    ct: str
    mr: str
    label: int = 0

    def __post_init__(self) -> None:
        tissue(self.ct)
        tissue(self.mr)


def part(shape: Shape, name: str, label: int = 0) -> Part:
    """A part that both modalities see as the tissue `name`."""
    return Part(shape, name, name, label)


@dataclass(frozen=True)
class Bulge:
    """Mass effect: incompressible tissue pushed away from a centre.

    Material that lay r0 from the centre now lies (r0^3 + s^3)^(1/3) from it.
    """

    centre: Point
    strength_mm: float

    def pull_back(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Coordinates:
        """Where the material at x, y, z (mm) lay before the mass grew."""
        dx, dy, dz = x - np.float32(self.centre[0]), y - np.float32(self.centre[1]), z - np.float32(self.centre[2])
        radius = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-3)
        before = np.cbrt(np.maximum(radius**3 - np.float32(self.strength_mm**3), 0))
        # Material inside the bulge's own radius would collapse to one point; half of the radius keeps shapes smooth.
        ratio = np.maximum(before / radius, np.float32(0.5))
        cx, cy, cz = (np.float32(value) for value in self.centre)
        return cx + dx * ratio, cy + dy * ratio, cz + dz * ratio


@dataclass(frozen=True, eq=False)
class Warp:
    """From patient to anatomy coordinates: rotation and scaling, a smooth random displacement, a mass effect.

    Attributes:
        matrix: 3x3, patient (LPS mm, about the origin) to anatomy.
        shift: Added after the matrix, mm.
        fields: Random displacement components x, y, z, in units of `amplitude_mm`.
        amplitude_mm: Standard deviation of each displacement component.
        bulge: Mass effect, if any.
    """

    matrix: np.ndarray
    shift: Point
    fields: tuple[SmoothField, SmoothField, SmoothField]
    amplitude_mm: float
    bulge: Bulge | None = None

    def linear(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Coordinates:
        """The linear part alone."""
        rows = self.matrix.astype(np.float32)
        return tuple(
            row[0] * x + row[1] * y + row[2] * z + np.float32(offset)
            for row, offset in zip(rows, self.shift, strict=True)
        )

    def __call__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Coordinates:
        x, y, z = self.linear(x, y, z)
        amplitude = np.float32(self.amplitude_mm)
        dx, dy, dz = (field(x, y, z) for field in self.fields)
        x, y, z = x + amplitude * dx, y + amplitude * dy, z + amplitude * dz
        return self.bulge.pull_back(x, y, z) if self.bulge else (x, y, z)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is imaged.

    Attributes:
        parts: Painted in this order; later ones cover earlier ones.
        warp: Patient to anatomy coordinates.
        labels: Names of the label values that parts carry.
        metal: Positions (anatomy mm) of dense metal, where streaks start.
        dense: Pairs of positions (anatomy mm) of dense bone between which beam hardening darkens.
    """

    parts: tuple[Part, ...]
    warp: Warp
    labels: LabelTable
    metal: tuple[Point, ...] = ()
    dense: tuple[tuple[Point, Point], ...] = ()


def random_warp(
    rng: np.random.Generator,
    *,
    rotation_deg: float,
    shift_mm: float,
    scale: float,
    length_mm: float,
    amplitude_mm: float,
    bulge: Bulge | None = None,
) -> Warp:
    """Draw a pose and a smooth displacement.

    Args:
        rng: Source.
        rotation_deg: Standard deviation of the rotation about each axis.
        shift_mm: Standard deviation of the translation along each axis.
        scale: Standard deviation of the size of each axis, relative.
        length_mm: Length over which the displacement varies.
        amplitude_mm: Standard deviation of the displacement.
        bulge: Mass effect to add.
    """
    rotation = rotation_matrix(tuple(np.clip(rng.normal(0, rotation_deg, 3), -2 * rotation_deg, 2 * rotation_deg)))
    common = rng.normal(0, scale)
    sizes = np.exp(-np.clip(common + rng.normal(0, scale / 2, 3), -2 * scale, 2 * scale))
    shift = tuple(float(value) for value in np.clip(rng.normal(0, shift_mm, 3), -2 * shift_mm, 2 * shift_mm))
    fields = tuple(smooth_field(rng, length_mm) for _ in range(3))
    return Warp(np.diag(sizes) @ rotation, shift, fields, amplitude_mm, bulge)
