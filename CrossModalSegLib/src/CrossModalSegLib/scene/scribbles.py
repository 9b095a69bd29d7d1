"""Segments to scribble in, and what is scribbled in them in the library's convention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.errors import InputError, LabelError
from CrossModalSegLib.labels import BACKGROUND as BACKGROUND_VALUE
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.volume import Volume, require_same_geometry

from .change import Change
from .hierarchy import place_beside
from .layers import add_voxels, own_voxels, remove_own_voxels
from .nodes import SCRIBBLES, drawn_on, nodes_of, require_present, require_segmentation, role, set_role, storable
from .scribble_copy import ScribbleCopy
from .segments import (
    BACKGROUND,
    BACKGROUND_STYLE,
    SCRIBBLE_TAG,
    SegmentOfClass,
    Style,
    apply_style,
    mark,
    marked_class,
    new_identity,
    require_no_background_class,
    segments_of_classes,
    style_of,
)
from .stroke_layer import find_layer
from .strokes import Marks, find_strokes, landed, marks
from .volumes import read_grid

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLVolumeNode


def prepare_scribbles(
    scene: vtkMRMLScene,
    reference: vtkMRMLVolumeNode,
    table: LabelTable,
    name: str = "Scribbles",
    into: vtkMRMLSegmentationNode | None = None,
) -> vtkMRMLSegmentationNode:
    """A segmentation with one empty segment for each class and one for background.

    Of a segmentation that is there, segments and strokes stay as they are, and only what is missing is added: `into`,
    or else the scribbles of this name that were prepared for this volume before.

    Args:
        scene: where to.
        reference: the volume that is drawn on; a new segmentation gets its grid, parent transform and folder.
        table: the classes, in the order of the segments, with names, colours and terminology.
        name: of a new segmentation.
        into: an existing segmentation.

    Raises:
        InputError: the reference is no volume of the scene, or holds no voxels; `into` is no segmentation.
        GeometryError: a parent transform of the reference is not linear.
        LabelError: a class is called "Background".
    """
    require_no_background_class(table)
    read_grid(reference)
    require_present(scene, reference, into)
    name = storable(name)
    node = _prepared_before(scene, reference, name) if into is None else require_segmentation(into)
    with Change(scene) as change:
        if node is None:
            node = _new_segmentation(scene, reference, name, change)
        _add_missing(node, table)
    if drawn_on(node) is None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    set_role(node, SCRIBBLES)
    return node


def read_scribbles(segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable) -> Volume:
    """Copy scribbles out of the scene, onto the grid of a volume.

    Segments are found by the mark that `prepare_scribbles` leaves on them, else by their names; hidden, renamed and
    reordered ones are read all the same. Segmentation and volume may lie under different parent transforms.

    Args:
        segmentation: one segment for each class, and maybe "Background".
        reference: the volume that was drawn on.
        table: the classes.

    Returns:
        uint8 on the reference's grid: 0 background, 1..K classes, 255 unlabelled.

    Raises:
        LabelError: two segments of different classes overlap (both are named), or a segment with strokes stands for no
            class.
        GeometryError: strokes lie outside of the volume, or a parent transform is not linear.
        InputError: one of the nodes cannot be used.
    """
    return copy_scribbles(segmentation, reference, table).volume()


def copy_scribbles(
    segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable
) -> ScribbleCopy:
    """`read_scribbles` without the part that takes long, which is left to `ScribbleCopy.volume`.

    Raises:
        LabelError, GeometryError, InputError: as `read_scribbles`.
    """
    grid = read_grid(reference)
    layer = find_layer(require_segmentation(segmentation), reference, table)
    if layer is None:
        found = _read(segmentation, reference, table)
        counts = np.bincount(found.values, minlength=UNLABELLED)
        return ScribbleCopy(
            _missing(table, set(np.flatnonzero(counts).tolist())), grid, lambda: _painted(grid.shape, found)
        )
    drawn = layer.drawn()
    for segment in drawn:
        _require_class(segment, segmentation, table)
    copy = layer.copy()
    return ScribbleCopy(_missing(table, {each.value for each in drawn}), grid, lambda: copy.painted(grid.shape))


def copy_complete_scribbles(
    segmentation: vtkMRMLSegmentationNode,
    reference: vtkMRMLVolumeNode,
    table: LabelTable,
    background: bool = True,
) -> ScribbleCopy:
    """`copy_scribbles` where each class has some.

    Args:
        segmentation, reference, table: as in `read_scribbles`.
        background: whether background has to have some, too.

    Raises:
        LabelError: one has none, or as `read_scribbles`.
        GeometryError, InputError: as `read_scribbles`.
    """
    copy = copy_scribbles(segmentation, reference, table)
    missing = [name for name in copy.missing if background or name != BACKGROUND]
    if missing:
        raise LabelError(
            f"There is no scribble of {', '.join(missing)} in '{segmentation.GetName()}' on '{reference.GetName()}'; "
            "draw at least one stroke of each."
        )
    return copy


def read_complete_scribbles(
    segmentation: vtkMRMLSegmentationNode,
    reference: vtkMRMLVolumeNode,
    table: LabelTable,
    background: bool = True,
) -> Volume:
    """The volume of `copy_complete_scribbles`, at once.

    Raises:
        LabelError, GeometryError, InputError: as `copy_complete_scribbles`.
    """
    return copy_complete_scribbles(segmentation, reference, table, background).volume()


def count_scribbles(
    segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable
) -> dict[str, int]:
    """How many voxels of the reference each class has, by name, and "Background"; quick enough to show while drawing.

    Overlaps, strokes outside of the volume and segments of no class are not complained about here.

    Raises:
        GeometryError: a parent transform is not linear.
        InputError: one of the nodes cannot be used.
    """
    read_grid(reference)
    layer = find_layer(require_segmentation(segmentation), reference, table)
    counts = _landed_counts(segmentation, reference, table) if layer is None else layer.counts()
    return {name: counts.get(value, 0) for name, value in _values(table).items()}


def add_auto_background(
    segmentation: vtkMRMLSegmentationNode,
    reference: vtkMRMLVolumeNode,
    table: LabelTable,
    proposal: Volume,
    change: Change | None = None,
) -> int:
    """Draw proposed voxels into the segment "Background", only where nothing is drawn.

    Args:
        segmentation: scribbles on the reference's grid, as `prepare_scribbles` makes them.
        reference: the volume that is drawn on.
        table: the classes.
        proposal: not 0 on proposed voxels, on the reference's grid.
        change: takes note, for undo.

    Returns:
        How many voxels were drawn.

    Raises:
        GeometryError: the proposal or the segmentation has another grid than the reference.
        LabelError: there is no segment "Background", or the scribbles cannot be read.
    """
    grid = read_grid(reference)
    require_same_geometry(**{reference.GetName(): grid, "the proposed background": proposal})
    scribbled = read_scribbles(segmentation, reference, table).array
    identity = _background_segment(segmentation, table)
    flat = np.flatnonzero((proposal.array != 0) & (scribbled == UNLABELLED))
    add_voxels(segmentation, identity, reference, flat)
    if change is not None:
        drawn = own_voxels(segmentation, identity, reference, flat)
        change.changed(segmentation, lambda: remove_own_voxels(segmentation, identity, drawn))
    return int(flat.size)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable) -> Marks:
    strokes = find_strokes(require_segmentation(segmentation), table)
    for stroke in strokes:
        _require_class(stroke.segment, segmentation, table)
    return marks(strokes, segmentation, reference)


def _landed_counts(
    segmentation: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode, table: LabelTable
) -> dict[int, int]:
    places: dict[int, list[np.ndarray]] = {}
    for stroke in find_strokes(segmentation, table):
        if stroke.segment.value is not None:
            flat, _ = landed(stroke, segmentation, reference)
            places.setdefault(stroke.segment.value, []).append(flat)
    return {value: _distinct(np.concatenate(each)) for value, each in places.items()}


def _values(table: LabelTable) -> dict[str, int]:
    """All that can be scribbled, by name."""
    return {label.name: label.value for label in table.labels} | {BACKGROUND: BACKGROUND_VALUE}


def _missing(table: LabelTable, drawn: set[int]) -> list[str]:
    return [name for name, value in _values(table).items() if value not in drawn]


def _painted(shape: tuple[int, int, int], found: Marks) -> np.ndarray:
    array = np.full(shape, UNLABELLED, dtype=np.uint8)
    array.ravel()[found.flat] = found.values
    return array


def _distinct(flat: np.ndarray) -> int:
    """How many different places there are; much quicker than np.unique where they are sorted, as they mostly are."""
    if (flat[1:] < flat[:-1]).any():
        flat = np.sort(flat)
    return int(flat.size > 0) + int(np.count_nonzero(flat[1:] != flat[:-1]))


# --- preparing -------------------------------------------------------------------------------------------------------


def _prepared_before(scene: vtkMRMLScene, reference: vtkMRMLVolumeNode, name: str) -> vtkMRMLSegmentationNode | None:
    for node in nodes_of(scene, "vtkMRMLSegmentationNode"):
        if role(node) == SCRIBBLES and node.GetName() == name and drawn_on(node) is reference:
            return node
    return None


def _new_segmentation(
    scene: vtkMRMLScene, reference: vtkMRMLVolumeNode, name: str, change: Change
) -> vtkMRMLSegmentationNode:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    change.created(node)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    place_beside(scene, node, reference)
    return node


def _add_missing(node: vtkMRMLSegmentationNode, table: LabelTable) -> None:
    present = {each.value: each for each in segments_of_classes(node, table, SCRIBBLE_TAG)}
    wanted = [(label.value, style_of(label)) for label in table.labels] + [(BACKGROUND_VALUE, BACKGROUND_STYLE)]
    names = {style.name.casefold() for _, style in wanted}
    for value, style in wanted:
        identity = present[value].identity if value in present else _add_empty(node, style)
        segment = node.GetSegmentation().GetSegment(identity)
        marked = marked_class(segment, identity, SCRIBBLE_TAG)
        if marked is None or marked.casefold() not in names:
            mark(segment, identity, SCRIBBLE_TAG, style.name)


def _add_empty(node: vtkMRMLSegmentationNode, style: Style) -> str:
    segmentation = node.GetSegmentation()
    identity = segmentation.AddEmptySegment(new_identity(node, style.name), style.name)
    if not identity:
        raise InputError(
            "A segment could not be added: the Segmentations logic of 3D Slicer is not there. Create it and give it "
            "the scene first."
        )
    apply_style(segmentation.GetSegment(identity), style)
    return identity


def _background_segment(node: vtkMRMLSegmentationNode, table: LabelTable) -> str:
    for segment in segments_of_classes(node, table, SCRIBBLE_TAG):
        if segment.value == BACKGROUND_VALUE:
            return segment.identity
    raise LabelError(f"'{node.GetName()}' has no segment '{BACKGROUND}'; prepare the scribbles again to add it.")


def _require_class(segment: SegmentOfClass, node: vtkMRMLSegmentationNode, table: LabelTable) -> None:
    """Check that a segment with strokes stands for one class, and that its name does not stand for another one."""
    name, names = segment.name, (*table.names, BACKGROUND)
    if segment.value is None:
        raise LabelError(
            f"The segment '{name}' of '{node.GetName()}' holds strokes but stands for no class; rename it to one of "
            f"{', '.join(names)}, or erase it."
        )
    class_name = BACKGROUND if segment.value == BACKGROUND_VALUE else table.names[segment.value - 1]
    others = {each.casefold() for each in names} - {class_name.casefold()}
    if name.strip().casefold() in others:
        raise LabelError(
            f"The segment '{name}' of '{node.GetName()}' was made for '{class_name}' but has the name of another class "
            f"now. Rename it to '{class_name}', or draw in the segment that was made for '{name}'."
        )
