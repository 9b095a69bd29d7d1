"""Scribbles as they were at one moment, taken quickly and painted later."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from CrossModalSegLib.volume import Volume


class ScribbleCopy:
    """A copy of scribbles that is no volume yet: taking it holds an application up for a few milliseconds only.

    Attributes:
        missing: names of what is not scribbled, in the order of the table, then "Background".
    """

    def __init__(self, missing: list[str], grid: Volume, paint: Callable[[], np.ndarray]) -> None:
        """Take it.

        Args:
            missing: see above.
            grid: of the volume that was drawn on.
            paint: gives the array on this grid; has no part in the scene.
        """
        self.missing = missing
        self._grid, self._paint = grid, paint

    def volume(self) -> Volume:
        """uint8: 0 background, 1..K classes, 255 unlabelled. Takes its time; may be called in any thread."""
        return self._grid.with_array(self._paint())
