"""Images on their way to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from CrossModalSegLib.volume import Volume

from .snapshot import Snapshot, require_same_voxels
from .volumes import lend_volume

if TYPE_CHECKING:
    from slicer import vtkMRMLVolumeNode


class LentImages:
    """The voxels of volumes, read by another thread while the application goes on.

    Attributes:
        snapshots: the volumes as they were when they were lent, by name.
    """

    def __init__(self, nodes: Mapping[str, vtkMRMLVolumeNode]) -> None:
        """Lend volumes, by any names.

        Raises:
            InputError, GeometryError: as `lend_volume`.
        """
        self.snapshots = {name: Snapshot(node) for name, node in nodes.items()}
        self._lent = {name: lend_volume(node) for name, node in nodes.items()}

    def volumes(self) -> dict[str, Volume]:
        """The images by name, checked; in any thread.

        Raises:
            InputError: one holds values that are not finite.
        """
        return {name: lent() for name, lent in self._lent.items()}

    def require_same_voxels(self) -> None:
        """Check, once they were read, that they did not change meanwhile.

        Raises:
            InputError: one did.
        """
        require_same_voxels(self.snapshots.values())
