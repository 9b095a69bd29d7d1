"""Where the voxels of a volume were when work on them began."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.volume import Volume, same_geometry

from .geometry import ijk_to_ras, to_lps
from .volumes import read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLVolumeNode


class Snapshot:
    """A volume's grid, and when its voxels were last changed, at one moment.

    What was computed belongs to the voxels, not to the place: where a transform above the volume was changed
    meanwhile, the result goes where the voxels are now.
    """

    def __init__(self, node: vtkMRMLVolumeNode) -> None:
        """Take it.

        Raises:
            InputError: the node is no volume, or is empty.
            GeometryError: a parent transform is not linear.
        """
        self.node = node
        self._grid = read_grid(node)
        self._own = Volume(self._grid.array, to_lps(ijk_to_ras(node)))
        self._changed = node.GetImageData().GetMTime()

    @property
    def has_same_voxels(self) -> bool:
        """Whether nobody has changed or replaced the volume's voxels since."""
        image = self.node.GetImageData()
        return image is not None and image.GetMTime() == self._changed

    def now(self, volume: Volume) -> Volume:
        """A result on the grid of then, on the grid of now.

        Raises:
            GeometryError: the result has another grid, or the volume's voxels are no longer those of then.
        """
        if not same_geometry(self._grid, volume):
            raise GeometryError(f"The result does not lie on the grid of '{self.node.GetName()}'. Start again.")
        return self._grid_now().with_array(volume.array)

    def movement(self) -> np.ndarray:
        """(4, 4), takes points of the volume from where they were then to where they are now, LPS mm.

        Raises:
            GeometryError: the volume's voxels are no longer those of then.
        """
        return self._grid_now().affine @ np.linalg.inv(self._grid.affine)

    def _grid_now(self) -> Volume:
        now = read_grid(self.node)
        own = Volume(now.array, to_lps(ijk_to_ras(self.node)))
        # A transform that was hardened changes the volume's own matrix, but not its place.
        if not (same_geometry(own, self._own) or same_geometry(now, self._grid)):
            raise GeometryError(
                f"'{self.node.GetName()}' got another grid while the work ran (it was cropped, resampled or replaced), "
                "so the result has no place on it. Start again."
            )
        return now


def require_same_voxels(snapshots: Iterable[Snapshot]) -> None:
    """Check that nobody has changed volumes since: to be asked once their voxels were read in the background.

    Raises:
        InputError: one was changed.
    """
    for each in snapshots:
        if not each.has_same_voxels:
            raise InputError(
                f"The voxels of '{each.node.GetName()}' were changed while they were being read, so that what was read "
                "may be half old and half new. Start again."
            )
