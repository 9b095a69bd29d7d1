"""Drawing scribbles by hand where there is no Segment Editor, with undo and redo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED, LabelTable

from .layers import add_voxels, remove_voxels
from .scribbles import read_scribbles
from .segments import SCRIBBLE_TAG, segments_of_classes

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkMRMLVolumeNode


@dataclass(frozen=True, eq=False)
class _Step:
    """What one stroke changed.

    Attributes:
        flat: (N,) places in the raveled (k, j, i) array.
        before: (N,) uint8 values there.
        after: the value since.
    """

    flat: np.ndarray
    before: np.ndarray
    after: int


class Drawing:
    """The strokes on one volume. A voxel belongs to one class at most: drawing takes it from others."""

    def __init__(self, segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable) -> None:
        """Begin with what is drawn.

        Args:
            segmentation: scribbles on the reference's grid, as `prepare_scribbles` makes them.
            reference: the volume that is drawn on.
            table: the classes.

        Raises:
            CrossModalSegError: the scribbles cannot be read.
        """
        self.segmentation, self.reference, self.table = segmentation, reference, table
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self._open: list[_Step] | None = None
        self.refresh()

    @property
    def can_undo(self) -> bool:
        """Whether there is a stroke to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a stroke that was taken back."""
        return bool(self._undone)

    def refresh(self) -> None:
        """Take note of strokes that others drew.

        Raises:
            CrossModalSegError: the scribbles cannot be read.
        """
        self._values = read_scribbles(self.segmentation, self.reference, self.table).array.ravel().copy()
        self._counts = _counted(self._values[self._values != UNLABELLED])

    def adopt(self) -> None:
        """Take note of strokes that others drew, each class as a step of undo.

        Raises:
            CrossModalSegError: the scribbles cannot be read.
        """
        self.end_stroke()
        before = self._values
        self.refresh()
        changed = np.flatnonzero(before != self._values)
        for value in np.unique(self._values[changed]):
            flat = changed[self._values[changed] == value]
            self._done.append(_Step(flat, before[flat], int(value)))
            self._undone.clear()

    def follow(self, table: LabelTable, values: Mapping[int, int]) -> None:
        """Go on with another table, and with the steps of undo.

        Args:
            table: the classes from now on; segments of these are there.
            values: of classes before, by those now. What was drawn of any other class is gone; it counts as erased.

        Raises:
            CrossModalSegError: the scribbles cannot be read.
        """
        self.end_stroke()
        now = np.full(UNLABELLED + 1, UNLABELLED, dtype=np.uint8)
        now[BACKGROUND] = BACKGROUND
        now[list(values)] = list(values.values())
        self.table = table
        self._done, self._undone = (_moved(steps, now) for steps in (self._done, self._undone))
        self.refresh()

    def counts(self) -> np.ndarray:
        """(256,) how many voxels there are of each value; none of 255."""
        return self._counts.copy()

    def draw(self, value: int, flat: np.ndarray) -> int:
        """Draw a part of a stroke; another value begins another stroke.

        Args:
            value: 0 for background, 1..K for a class, 255 to erase.
            flat: (N,) places in the raveled (k, j, i) array.

        Returns:
            How many voxels changed.

        Raises:
            LabelError: there is no segment for the value.
            GeometryError: the segmentation has another grid than the reference.
        """
        if self._open and self._open[0].after != value:
            self.end_stroke()
        flat = flat[self._values[flat] != value]
        if flat.size:
            step = _Step(flat, self._values[flat].copy(), value)
            self._set(flat, np.full(flat.size, value, dtype=np.uint8))
            if self._open is None:
                self._open = []
            self._open.append(step)
        return int(flat.size)

    def clear(self) -> None:
        """Erase all, in one step."""
        self.end_stroke()
        self.draw(UNLABELLED, np.flatnonzero(self._values != UNLABELLED))
        self.end_stroke()

    def end_stroke(self) -> bool:
        """Close the stroke, which is one step of undo; whether it changed anything."""
        parts, self._open = self._open, None
        if not parts:
            return False
        self._done.append(
            _Step(
                np.concatenate([part.flat for part in parts]),
                np.concatenate([part.before for part in parts]),
                parts[0].after,
            )
        )
        self._undone.clear()
        return True

    def undo(self) -> bool:
        """Take the last stroke back; whether there was one. What others drew since stays."""
        self.end_stroke()
        if not self._done:
            return False
        step = self._done.pop()
        is_ours = self._values[step.flat] == step.after
        self._set(step.flat[is_ours], step.before[is_ours])
        self._undone.append(step)
        return True

    def redo(self) -> bool:
        """Draw again what was taken back last; whether there was something."""
        if not self._undone:
            return False
        step = self._undone.pop()
        flat = step.flat[self._values[step.flat] == step.before]
        self._set(flat, np.full(flat.size, step.after, dtype=np.uint8))
        self._done.append(step)
        return True

    def _set(self, flat: np.ndarray, values: np.ndarray) -> None:
        before = self._values[flat]
        segment_of = {
            each.value: each.identity
            for each in reversed(segments_of_classes(self.segmentation, self.table, SCRIBBLE_TAG))
        }
        missing = set(np.unique(values).tolist()) - segment_of.keys() - {UNLABELLED}
        if missing:
            raise LabelError(
                f"'{self.segmentation.GetName()}' has no segment for the class {missing.pop()}; prepare the scribbles "
                "again to add it."
            )
        # Erase first: no voxel is ever in two segments.
        for value in np.unique(before):
            if value != UNLABELLED:
                remove_voxels(self.segmentation, segment_of[int(value)], self.reference, flat[before == value])
        for value in np.unique(values):
            if value != UNLABELLED:
                add_voxels(self.segmentation, segment_of[int(value)], self.reference, flat[values == value])
        self._values[flat] = values
        self._counts += _counted(values) - _counted(before)


def _moved(steps: list[_Step], now: np.ndarray) -> list[_Step]:
    """The same steps with other values, `now` (256,); those that changed nothing but what is gone are left out."""
    moved = []
    for step in steps:
        before, after = now[step.before], int(now[step.after])
        is_change = before != after
        if is_change.any():
            moved.append(_Step(step.flat[is_change], before[is_change], after))
    return moved


def _counted(values: np.ndarray) -> np.ndarray:
    """(256,) how many there are of each value, but for 255."""
    counts = np.bincount(values, minlength=UNLABELLED + 1)
    counts[UNLABELLED] = 0
    return counts
