"""A result that is shown while it is still being worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.labels import LabelTable, check_mask
from CrossModalSegLib.volume import Volume

from .change import Change
from .geometry import affine_in
from .images import WHOLE, differing_box, empty_image, oriented_affine, set_voxels, voxels
from .layers import sharing
from .nodes import require_present
from .segmentations import has_3d, labels_on_grid, make_surfaces, require_on_grid, result_image, write_voxels
from .volumes import read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLVolumeNode, vtkOrientedImageData

_SAME_MM = 1e-6


@dataclass(frozen=True, eq=False)
class Compared:
    """An answer beside what was shown when it came.

    Attributes:
        labels: with values of the table only.
        box: where it differs from what was shown then; None where nowhere.
        state: of the image that was shown; None where there was none.
    """

    labels: Volume
    box: tuple[slice, slice, slice] | None
    state: int | None


class Preview:
    """Shows one answer after another in one segmentation; all of them together are one step of undo.

    After the first, only voxels are copied, and of answers that were compared before only those that changed. Surfaces
    are left out until `finish`. Everything that takes long in a large volume can be done in other threads, by
    `make_room` and `compare`; all else belongs to the thread of the scene.

    Attributes:
        node: what is shown; None before the first answer.
        step: all that was done to the scene; its `undo` brings back what was there before.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        table: LabelTable,
        reference: vtkMRMLVolumeNode,
        name: str,
        into: vtkMRMLSegmentationNode | None = None,
    ) -> None:
        """Nothing is shown yet; the arguments are those of `write_segmentation`."""
        self._scene, self._table, self._reference, self._name = scene, table, reference, name
        self._into = into
        self._had_surfaces = into is not None and has_3d(into)
        self._room: vtkOrientedImageData | None = empty_image(read_grid(reference).shape)
        self._unused: np.ndarray | None = voxels(self._room)
        self._image = None
        # What other threads may look at: the voxels that are shown, and in which state they were compared.
        self._shown: tuple[np.ndarray, int] | None = None
        self.node: vtkMRMLSegmentationNode | None = None
        self.step: Change | None = None

    def make_room(self) -> None:
        """Have the memory for the first answer ready; in any thread, but before the first answer."""
        unused, self._unused = self._unused, None
        if unused is not None:
            unused.fill(0)

    def compare(self, labels: Volume) -> Compared:
        """Check an answer and see where it differs from what is shown; in any thread, while that may change.

        Raises:
            LabelError: it holds a value that the table does not name.
        """
        labels, shown = labels.with_array(check_mask(labels.array, self._table)), self._shown
        if shown is None or shown[0].shape != labels.shape:
            return Compared(labels, WHOLE, None)
        return Compared(labels, differing_box(shown[0], labels.array), shown[1])

    def show(self, labels: Volume, compared: Compared | None = None) -> vtkMRMLSegmentationNode:
        """Show an answer in place of the one before.

        A segmentation that the person deleted in the meantime is made anew.

        Args:
            labels: the answer.
            compared: what `compare` said of it.

        Raises:
            GeometryError, LabelError, InputError: as `write_segmentation`; what is shown stays as it is.
        """
        require_present(self._scene, self._reference)
        if compared is None:
            labels = labels.with_array(labels_on_grid(labels, self._table, self._reference))
        require_on_grid(labels, self._reference)
        if not self._is_shown():
            self._write(labels)
        elif compared is None or compared.state != self._image.GetMTime():  # someone drew in it
            set_voxels(self._image, labels.array)
        elif compared.box is not None:
            set_voxels(self._image, labels.array, compared.box)
        self._shown = voxels(self._image), self._image.GetMTime()
        return self.node

    def finish(self, labels: Volume, show_3d: bool = False) -> vtkMRMLSegmentationNode:
        """Show the last answer, with surfaces where they are asked for or were there before.

        Raises:
            GeometryError, LabelError, InputError: as `show`.
        """
        node = self.show(labels)
        self._room = self._unused = self._shown = None
        make_surfaces(node, show_3d, self._had_surfaces)
        return node

    def cancel(self) -> None:
        """Bring back what was there before the first answer."""
        if self.step is not None:
            self.step.undo()
        self._room = self._unused = self._shown = None
        self._image = self.node = self.step = None

    def _is_shown(self) -> bool:
        """Whether the segmentation shows our image and nothing else, on the volume's voxels."""
        if self._image is None or not self._scene.IsNodePresent(self.node):
            return False
        return (
            result_image(self.node, self._table) is self._image
            and len(sharing(self.node, self._image)) == len(self._table)
            and voxels(self._image).shape == read_grid(self._reference).shape
            and np.allclose(oriented_affine(self._image), affine_in(self.node, self._reference), rtol=0, atol=_SAME_MM)
        )

    def _write(self, labels: Volume) -> None:
        if self.step is None:
            self.step = Change(self._scene)
        candidates = (self.node, self._into)
        into = next((each for each in candidates if each is not None and self._scene.IsNodePresent(each)), None)
        room, self._room = self._room, None
        if room is not None and voxels(room).shape != labels.shape:
            room = None
        node = write_voxels(self._scene, labels, self._table, self._reference, self._name, into, self.step, room)
        self.node, self._image = node, result_image(node, self._table)
