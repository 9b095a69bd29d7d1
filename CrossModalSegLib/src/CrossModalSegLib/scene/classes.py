"""The classes of scribbles and results: which there are; adding, renaming and removing them while strokes are there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vtkmodules.vtkCommonCore import reference as vtk_reference

from CrossModalSegLib import terminology as known
from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.labels import BACKGROUND as BACKGROUND_VALUE
from CrossModalSegLib.labels import Label, LabelTable, is_terminology_entry

from .layers import alone
from .nodes import require_segmentation
from .segments import (
    BACKGROUND,
    RESULT_TAG,
    SCRIBBLE_TAG,
    mark,
    marked_class,
    require_no_background_class,
    segment_ids,
    segments_of_classes,
)

if TYPE_CHECKING:
    from slicer import vtkMRMLSegmentationNode, vtkSegment


def classes_of(scribbles: vtkMRMLSegmentationNode) -> LabelTable:
    """The classes that the segments of scribbles stand for, in their order, with their colours and terminology.

    Raises:
        LabelError: there is none, or two segments stand for one class.
        InputError: the node is no segmentation.
    """
    segmentation, named = require_segmentation(scribbles).GetSegmentation(), {}
    for identity in segment_ids(scribbles):
        segment = segmentation.GetSegment(identity)
        name = (marked_class(segment, identity, SCRIBBLE_TAG) or segment.GetName() or identity).strip()
        if name.casefold() == BACKGROUND.casefold():
            continue
        if name.casefold() in (each.casefold() for each in named):
            raise LabelError(f"Two segments of '{scribbles.GetName()}' stand for '{name}'; remove one of them.")
        named[name] = segment
    if not named:
        raise LabelError(f"'{scribbles.GetName()}' has no segment but background; prepare the scribbles with classes.")
    return LabelTable(tuple(_label(value, *each) for value, each in enumerate(named.items(), start=1)))


def classes_of_result(node: vtkMRMLSegmentationNode) -> LabelTable:
    """The classes that `segmentations.write_segmentation` wrote last, by their values, with the colours that are shown.

    Raises:
        LabelError: it wrote none.
        InputError: the node is no segmentation.
    """
    segmentation, named = require_segmentation(node).GetSegmentation(), []
    for identity in segment_ids(node):
        segment = segmentation.GetSegment(identity)
        name = marked_class(segment, identity, RESULT_TAG)
        if name is not None:
            named.append((segment.GetLabelValue(), name, segment))
    if not named:
        raise LabelError(f"'{node.GetName()}' has no segment that was computed; segment again.")
    # Not in the order of the segments: of a class that came later, such as a renamed one, it is the last.
    named.sort(key=lambda each: each[0])
    return LabelTable(tuple(_label(value, *each[1:]) for value, each in enumerate(named, start=1)))


def _label(value: int, name: str, segment: vtkSegment) -> Label:
    entry = vtk_reference("")
    has_entry = segment.GetTag(segment.GetTerminologyEntryTagName(), entry) and is_terminology_entry(str(entry))
    color = tuple(round(255 * part) for part in segment.GetColor())
    return Label(value, name, color, str(entry) if has_entry else known.GENERIC_TISSUE)


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
