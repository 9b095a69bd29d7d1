"""Names of classes: as the person gave them, as a file holds them, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import BACKGROUND_NAME, LabelTable, check_no_background


def named_table(names: Sequence[str]) -> LabelTable:
    """The table of the classes 1..K, by their names from the command line.

    Raises:
        LabelError: a name is not usable, appears twice or is "background", or there is none.
    """
    table = LabelTable.from_names(list(names))
    check_no_background(table)
    return table


def table_for(names: Sequence[str], stored: LabelTable | None, classes: int) -> LabelTable:
    """The table of a label map.

    Args:
        names: from the command line; where there are none, `stored` counts, or else "label 1", "label 2", …
        stored: from the file, or None.
        classes: highest class value that occurs.

    Raises:
        LabelError: there are fewer names than classes, or no class at all, or one is called "background".
    """
    if names:
        if len(names) < classes:
            raise LabelError(
                f"The file holds the classes 1 to {classes}, but --labels names {len(names)} "
                f"({', '.join(names)}). Name all of them, in the order of their values."
            )
        return _named(names, stored)
    if stored is not None:
        return stored
    if classes < 1:
        raise LabelError("The file holds no class: there is no value from 1 up in it.")
    return LabelTable.from_names([f"label {value}" for value in range(1, classes + 1)])


def without_background(table: LabelTable) -> LabelTable:
    """The classes of a table that lists the background scribbles as well, numbered from 1.

    Raises:
        LabelError: nothing but background is left.
    """
    kept = [label for label in table.labels if label.name.casefold() != BACKGROUND_NAME]
    if not kept:
        raise LabelError("The scribbles hold nothing but background; draw a segment for each class as well.")
    return LabelTable(tuple(replace(label, value=value) for value, label in enumerate(kept, start=1)))


def _named(names: Sequence[str], stored: LabelTable | None) -> LabelTable:
    table = named_table(names)
    if stored is None:
        return table
    by_name = {label.name.casefold(): label for label in stored.labels}
    known = (by_name.get(label.name.casefold(), label) for label in table.labels)
    return LabelTable(tuple(replace(each, value=value) for value, each in enumerate(known, start=1)))
