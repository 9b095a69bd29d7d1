"""Adding, renaming and removing classes while scribbles are there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from CrossModalSegLib.labels import BACKGROUND as BACKGROUND_VALUE
from CrossModalSegLib.labels import LabelTable

from .layers import alone
from .segments import SCRIBBLE_TAG, mark, require_no_background_class, segments_of_classes

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode


def with_class(table: LabelTable, name: str) -> LabelTable:
    """A table with one more class at its end; the others keep their colours.

    Raises:
        LabelError: the name is not usable, or there is one of that name.
    """
    fresh = LabelTable.from_names([*table.names, name]).labels[-1]
    used = {label.color for label in table.labels}
    others = LabelTable.from_names([f"class {number}" for number in range(len(table) + 1)]).labels
    if fresh.color in used:
        fresh = replace(fresh, color=next(each.color for each in others if each.color not in used))
    changed = LabelTable((*table.labels, replace(fresh, value=len(table) + 1)))
    require_no_background_class(changed)
    return changed


def rename_class(segmentations: list[vtkMRMLSegmentationNode], table: LabelTable, old: str, new: str) -> LabelTable:
    """A table in which a class has another name and the terminology that goes with it; its strokes go with it.

    Args:
        segmentations: scribbles of these classes.
        table: the classes.
        old, new: names.

    Raises:
        LabelError: the name is not usable, or another class has it.
    """
    label = table.label_by_name(old)
    known = LabelTable.from_names([new]).labels[0]
    fresh = replace(known, value=label.value, color=label.color)
    changed = LabelTable(tuple(fresh if each is label else each for each in table.labels))
    require_no_background_class(changed)
    for node in segmentations:
        for each in segments_of_classes(node, table, SCRIBBLE_TAG):
            if each.value == label.value:
                segment = node.GetSegmentation().GetSegment(each.identity)
                segment.SetName(fresh.name)
                segment.SetTag(segment.GetTerminologyEntryTagName(), fresh.terminology)
                mark(segment, each.identity, SCRIBBLE_TAG, fresh.name)
    return changed


def remove_class(segmentations: list[vtkMRMLSegmentationNode], table: LabelTable, name: str) -> LabelTable:
    """A table without a class; its strokes are gone.

    Raises:
        LabelError: it is the only one, or there is none of that name.
    """
    label = table.label_by_name(name)
    left = [each for each in table.labels if each is not label]
    changed = LabelTable(tuple(replace(each, value=number) for number, each in enumerate(left, start=1)))
    for node in segmentations:
        for each in segments_of_classes(node, table, SCRIBBLE_TAG):
            if each.value == label.value and each.value != BACKGROUND_VALUE:
                alone(node, (each.identity,))
                node.GetSegmentation().RemoveSegment(each.identity)
    return changed
