"""Scribble files: plain label maps in the internal convention, or segments with one named "Background"."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from CrossModalSegLib.cli.label_names import named_table, table_for, without_background
from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.io import read_segmentation, read_volume, write_segmentation, write_volume
from CrossModalSegLib.io.segmentation_io import is_slicer_segmentation
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED, Label, LabelTable, ScribbleConvention, whole_numbers
from CrossModalSegLib.volume import Volume

_BACKGROUND_COLOR = (128, 174, 128)


def write_scribbles(scribbles: Volume, table: LabelTable, path: Path) -> None:
    """Write internal scribbles.

    Args:
        scribbles: uint8: 0 background, 1..K, 255 unlabelled.
        table: the classes.
        path: a name that ends in .seg.nrrd gives segments with one named "Background"; other names give the values.

    Raises:
        OutputError: the file cannot be written.
    """
    if not is_slicer_segmentation(path):
        write_volume(scribbles, path)
        return
    last = len(table) + 1
    painted = np.where(scribbles.array == BACKGROUND, last, scribbles.array).astype(np.uint8)
    painted[scribbles.array == UNLABELLED] = 0
    background = Label(last, "Background", _BACKGROUND_COLOR)
    write_segmentation(scribbles.with_array(painted), LabelTable((*table.labels, background)), path)


def scribble_table(path: Path, names: tuple[str, ...], convention: ScribbleConvention) -> LabelTable:
    """The classes of a scribble file.

    Args:
        path: .seg.nrrd, whose segments have names, or a plain label map.
        names: from the command line; the first is value 1. Where there are none, the file's own, or numbers.
        convention: what the values of a plain label map mean.

    Raises:
        LabelError: there is no class, values are left out, or every voxel is drawn.
        InputError: the file cannot be read.
    """
    if is_slicer_segmentation(path):
        _, stored = read_segmentation(path)
        if stored is None:
            raise LabelError(f"'{path}' holds no segments. Paint one for each class, and one named 'Background'.")
        table = without_background(stored)
        return table_for(names, table, 0)
    values = [int(value) for value in np.unique(whole_numbers(read_volume(path).array, "The scribbles"))]
    _require_undrawn(path, values, convention)
    if names:
        return named_table(names)
    classes = [value for value in values if value > 0 and value not in (convention.unlabelled, convention.background)]
    if not classes:
        raise LabelError(f"The scribbles in '{path}' hold no class. Draw a stroke in each class, from value 1 up.")
    if classes != list(range(1, len(classes) + 1)):
        raise LabelError(
            f"The classes of the scribbles in '{path}' should be 1, 2, 3, …, but the file holds "
            f"{_first_few(classes)}. Say with --unlabelled and --background what other values mean, or name all "
            "classes with --labels."
        )
    return table_for((), None, len(classes))


def _require_undrawn(path: Path, values: list[int], convention: ScribbleConvention) -> None:
    """LabelError when every voxel counts as drawn: most likely the file has another convention."""
    if convention.unlabelled in values:
        return
    raise LabelError(
        f"In the scribbles '{path}' no voxel has the value {convention.unlabelled} for 'not drawn'; they hold "
        f"{_first_few(values)}. Say with --unlabelled which value means 'not drawn' and with --background "
        "which one is the background, for example --unlabelled 0 --background 9."
    )


def _first_few(values: list[int], most: int = 8) -> str:
    """Values in words; an image that was given as scribbles holds thousands."""
    return ", ".join(map(str, values[:most])) + (" and others" if len(values) > most else "")
