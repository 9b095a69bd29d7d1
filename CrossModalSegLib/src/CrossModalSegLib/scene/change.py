"""What one result does to the scene, so that it can be taken back in one step."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from .hierarchy import remove_with_item

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene


class Change:
    """One step: everything that is written under it can be taken back by one `undo`.

    Where the scene's own undo is on (Slicer has it off), the state before is saved there too, so that `scene.Undo()`
    takes the same step back. As a context it undoes itself when the block fails, so that nothing half-written stays::

        with Change(scene) as change:
            write_segmentation(scene, labels, table, ct, "Result", change=change)
            write_volume(scene, uncertainty, "Uncertainty", under=ct, change=change)
        change.undo()
    """

    def __init__(self, scene: vtkMRMLScene, part_of: Change | None = None) -> None:
        """Begin a step.

        Args:
            scene: what changes.
            part_of: a larger step that takes this one in once its block has ended well.
        """
        self._scene, self._part_of = scene, part_of
        self._steps: list[Callable[[], None]] = []
        self._nodes: list[vtkMRMLNode] = []
        if part_of is None and scene.GetUndoFlag():
            scene.SaveStateForUndo()

    def created(self, node: vtkMRMLNode, remove: Callable[[], None] | None = None) -> None:
        """Note a node that has just been added to the scene: undoing removes it.

        Args:
            node: the node.
            remove: how it is removed; None removes it whatever it holds by then.
        """
        if self._scene.GetUndoFlag():
            node.SetUndoEnabled(True)
        self._nodes.append(node)
        self._steps.append(remove or (lambda: remove_with_item(self._scene, node)))

    def changed(self, node: vtkMRMLNode, restore: Callable[[], None]) -> None:
        """Note how a node is brought back to what it was; skipped where it is gone by then."""
        self._nodes.append(node)
        self._steps.append(lambda: restore() if self._scene.IsNodePresent(node) else None)

    @property
    def is_moot(self) -> bool:
        """Whether all that changed is gone from the scene: it was deleted, or the scene was closed."""
        return not any(self._scene.IsNodePresent(node) for node in self._nodes)

    def undo(self) -> None:
        """Bring the scene back to what it was; a second call has no effect."""
        while self._steps:
            self._steps.pop()()

    def __enter__(self) -> Change:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.undo()
        elif self._part_of is not None:
            self._part_of._steps.append(self.undo)
            self._part_of._nodes += self._nodes
