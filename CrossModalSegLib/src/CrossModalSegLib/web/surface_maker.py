"""Surfaces of the results: made beside the page, which goes on meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from CrossModalSegLib.scene.surfaces import Solids, Surfaces, remove_surfaces, set_surfaces, state

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


@dataclass(frozen=True, eq=False)
class _Making:
    """Surfaces that are being made.

    Attributes:
        node: whose.
        state: of its voxels when that began.
        future: the surfaces.
    """

    node: vtkMRMLSegmentationNode
    state: tuple[object, ...]
    future: Future[Surfaces]


class SurfaceMaker:
    """Gives segmentations their surfaces, one after another."""

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._thread = ThreadPoolExecutor(1, "surfaces")
        self._making: _Making | None = None
        self._made: dict[vtkMRMLSegmentationNode, tuple[object, ...]] = {}
        self._reduced: set[vtkMRMLSegmentationNode] = set()

    @property
    def is_making(self) -> bool:
        """Whether some are on the way."""
        return self._making is not None

    def is_reduced(self, nodes: Sequence[vtkMRMLSegmentationNode]) -> bool:
        """Whether the surfaces of any of these are coarser than its voxels."""
        return any(node in self._reduced for node in nodes)

    def follow(self, nodes: Sequence[vtkMRMLSegmentationNode]) -> bool:
        """Set what was made, and begin with what is missing; to be called again and again.

        Args:
            nodes: that shall have surfaces, of their present voxels; others are forgotten.

        Returns:
            Whether any got its surfaces, or they began to be made.

        Raises:
            Exception: whatever went wrong in the thread; that segmentation stays without.
        """
        self._made = {node: made for node, made in self._made.items() if node in nodes}
        self._reduced &= self._made.keys()
        is_news = self._take(nodes)
        if self._making is None:
            node = next((each for each in nodes if self._made.get(each) != state(each)), None)
            if node is not None:
                self._making = _Making(node, state(node), self._thread.submit(Solids(node).surfaces))
                is_news = True
        return is_news

    def remove(self, node: vtkMRMLSegmentationNode) -> None:
        """Take surfaces away, to be made anew."""
        self._made.pop(node, None)
        remove_surfaces(node)

    def _take(self, nodes: Sequence[vtkMRMLSegmentationNode]) -> bool:
        making = self._making
        if making is None or not making.future.done():
            return False
        self._making = None
        if making.node not in nodes or state(making.node) != making.state:
            return False
        self._made[making.node] = making.state
        surfaces = making.future.result()
        set_surfaces(making.node, surfaces)
        self._reduced.discard(making.node)
        if surfaces.is_reduced:
            self._reduced.add(making.node)
        return True
