"""A result that is shown while it is still being worked out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume

from .change import Change
from .geometry import affine_in
from .images import oriented_affine, set_voxels, voxels
from .nodes import require_present
from .segmentations import has_3d, labels_on_grid, make_surfaces, result_image, write_voxels
from .volumes import read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLVolumeNode

_SAME_MM = 1e-6


class Preview:
    """Shows one answer after another in one segmentation; all of them together are one step of undo.

    After the first, only voxels are copied. Surfaces are left out until `finish`.

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
        self._image = None
        self.node: vtkMRMLSegmentationNode | None = None
        self.step: Change | None = None

    def show(self, labels: Volume) -> vtkMRMLSegmentationNode:
        """Show an answer in place of the one before.

        A segmentation that the person deleted in the meantime is made anew.

        Raises:
            GeometryError, LabelError, InputError: as `write_segmentation`; what is shown stays as it is.
        """
        require_present(self._scene, self._reference)
        array = labels_on_grid(labels, self._table, self._reference)
        if self._is_shown():
            set_voxels(self._image, array)
        else:
            self._write(labels)
        return self.node

    def finish(self, labels: Volume, show_3d: bool = False) -> vtkMRMLSegmentationNode:
        """Show the last answer, with surfaces where they are asked for or were there before.

        Raises:
            GeometryError, LabelError, InputError: as `show`.
        """
        node = self.show(labels)
        make_surfaces(node, show_3d, self._had_surfaces)
        return node

    def cancel(self) -> None:
        """Bring back what was there before the first answer."""
        if self.step is not None:
            self.step.undo()
        self._image = self.node = self.step = None

    def _is_shown(self) -> bool:
        """Whether the segmentation shows our image and nothing else, on the volume's voxels."""
        if self._image is None or not self._scene.IsNodePresent(self.node):
            return False
        return (
            result_image(self.node, self._table) is self._image
            and voxels(self._image).shape == read_grid(self._reference).shape
            and np.allclose(oriented_affine(self._image), affine_in(self.node, self._reference), rtol=0, atol=_SAME_MM)
        )

    def _write(self, labels: Volume) -> None:
        if self.step is None:
            self.step = Change(self._scene)
        candidates = (self.node, self._into)
        into = next((each for each in candidates if each is not None and self._scene.IsNodePresent(each)), None)
        node = write_voxels(self._scene, labels, self._table, self._reference, self._name, into, self.step)
        self.node, self._image = node, result_image(node, self._table)
