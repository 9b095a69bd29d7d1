"""Masks from the command line: label maps, whose classes have numbers, or segments of 3D Slicer, which have names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from CrossModalSegLib.cli.label_names import table_for, without_background
from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.io import read_mask_segments, read_segmentation
from CrossModalSegLib.labels import MAX_CLASSES, LabelTable, check_mask
from CrossModalSegLib.volume import Volume, place_on_grid


def read_mask(path: Path, names: Sequence[str], grid: Volume | None = None) -> tuple[Volume, LabelTable]:
    """Read a mask and its classes.

    Args:
        path: a label map, or .seg.nrrd, in which a segment called "background" is none of the classes.
        names: from the command line. They number the classes of a label map. Segments are found by these names,
            whatever values they have; where none of them is in the file, they rename the segments in their order.
        grid: where a box that Slicer cut out is put back.

    Returns:
        uint8 mask 0..K, and the table of its classes.

    Raises:
        LabelError: there is no class, names are missing or not usable, or the file holds segments of other names.
        InputError: the file cannot be read.
    """
    mask, stored = read_segmentation(path)
    if stored is None:
        highest = int(mask.array.max())
        if highest > MAX_CLASSES:
            raise LabelError(
                f"The mask '{path}' holds values up to {highest}, but classes are numbered from 1 to {MAX_CLASSES} at "
                "most. Number them anew."
            )
        table = table_for(names, None, highest)
        return mask.with_array(check_mask(mask.array, table)), table
    own = without_background(stored)
    table = table_for(names, own, len(own))
    are_found = {name.casefold() for name in table.names} & {name.casefold() for name in own.names}
    mask = read_mask_segments(path, table if are_found else own)
    placed = None if grid is None else place_on_grid(mask, grid)
    return mask if placed is None else placed, table
