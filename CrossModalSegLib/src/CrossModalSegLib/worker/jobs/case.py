"""From the volumes of a request to a case, and from labels to what a result says of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from CrossModalSegLib.cohort import LoadedCase, on_first_grid
from CrossModalSegLib.errors import GeometryError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.placement import placement
from CrossModalSegLib.volume import Volume, resample_scribbles, same_geometry

CASE_NAME = "case"  # patients' names stay with the client


def case_of(images: Mapping[str, Volume], scribbles: Volume | None = None) -> LoadedCase:
    """The images, and scribbles if there are any, on the grid of the first image.

    Raises:
        GeometryError: an image hardly overlaps the first one, or no scribble lies inside of it.
    """
    (first, grid), *others = images.items()
    for name, image in others:
        if placement(grid, image).state == "apart":
            raise GeometryError(
                f"The images '{first}' and '{name}' hardly overlap in space, so they cannot be used together. Register "
                "them first, or choose images of the same body part."
            )
    if scribbles is not None:
        is_same = same_geometry(grid, scribbles)
        scribbles = grid.with_array(scribbles.array) if is_same else resample_scribbles(scribbles, grid)
    return LoadedCase(CASE_NAME, on_first_grid(dict(images)), scribbles, None)


def by_class(probabilities: np.ndarray | None, grid: Volume, table: LabelTable) -> dict[str, Volume]:
    """Probabilities (K + 1, k, j, i) as one volume a class, without the background; nothing for None."""
    if probabilities is None:
        return {}
    return {label.name: grid.with_array(probabilities[label.value]) for label in table.labels}
