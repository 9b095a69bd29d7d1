"""Arrays turned so that their axes run with the patient's, for display."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..volume import Volume


@dataclass(frozen=True)
class PatientAxes:
    """How to turn arrays of one grid so that axis 0 runs to superior, axis 1 to posterior and axis 2 to left.

    Oblique grids are turned by the assignment of axes that is closest to the patient's; nothing is resampled.

    Attributes:
        order: array axis (of k, j, i) that becomes axis 0, 1, 2.
        flips: whether that axis is reversed.
        spacing: mm along the turned axes.
        tilt_degrees: largest angle between a turned axis and the patient's axis.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    tilt_degrees: float

    @classmethod
    def of(cls, volume: Volume) -> PatientAxes:
        """The axes of a volume's grid."""
        columns = volume.direction[:, ::-1]  # of k, j, i in LPS
        along = columns[[2, 1, 0], :]  # rows: superior, posterior, left
        order = max(
            itertools.permutations(range(3)), key=lambda axes: sum(abs(along[row, axes[row]]) for row in range(3))
        )
        cosines = [along[row, order[row]] for row in range(3)]
        return cls(
            order=order,
            flips=tuple(bool(cosine < 0) for cosine in cosines),
            spacing=tuple(volume.spacing[axis] for axis in order),
            tilt_degrees=float(np.degrees(np.arccos(np.clip(np.min(np.abs(cosines)), 0.0, 1.0)))),
        )

    def turn(self, array: np.ndarray) -> np.ndarray:
        """View of an array (k, j, i) with the axes (superior, posterior, left)."""
        return np.transpose(array, self.order)[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]


@dataclass(frozen=True)
class Plane:
    """A display plane of arrays with the axes (superior, posterior, left).

    Attributes:
        name: of the plane.
        axis: the axis that it cuts.
        left, right, top, bottom: letters of the patient's sides at the edges of the picture.
    """

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    def cut(self, array: np.ndarray, index: int) -> np.ndarray:
        """The picture (rows from top to bottom, columns from left to right) at an index of the axis."""
        picture = np.take(array, index, axis=self.axis)
        return picture if self.name == "axial" else picture[::-1]

    def pixel(self, spacing: tuple[float, float, float]) -> tuple[float, float]:
        """Height and width of a pixel in mm."""
        height, width = (mm for axis, mm in enumerate(spacing) if axis != self.axis)
        return height, width


# Radiological view: the patient's left is on the right of the picture; sagittal pictures look to the left of the page.
PLANES = (
    Plane("axial", 0, "R", "L", "A", "P"),
    Plane("coronal", 1, "R", "L", "S", "I"),
    Plane("sagittal", 2, "A", "P", "S", "I"),
)


def best_slices(
    labels: np.ndarray, scribbled: np.ndarray | None = None, preference: float = 1.25
) -> tuple[int, int, int]:
    """Slices through the largest label where it is largest, for each axis.

    Args:
        labels: (superior, posterior, left); 0 is background.
        scribbled: boolean, same shape; a slice that holds scribbles on the label counts as `preference` times as large.
        preference: see above.

    Returns:
        An index for each axis; the middle where there is no label.
    """
    counts = np.bincount(labels.ravel(), minlength=2)[1:]
    if not counts.any():
        return tuple(size // 2 for size in labels.shape)
    chosen = labels == 1 + int(np.argmax(counts))
    marked = None if scribbled is None else chosen & scribbled
    indices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        areas = chosen.sum(axis=others).astype(float)
        if marked is not None:
            areas[marked.any(axis=others)] *= preference
        peak = np.flatnonzero(areas == areas.max())
        indices.append(int(peak[len(peak) // 2]))
    return tuple(indices)
