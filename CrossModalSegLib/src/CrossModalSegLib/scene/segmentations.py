"""Label maps as segmentation nodes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import slicer

from CrossModalSegLib.errors import GeometryError, InputError, LabelError
from CrossModalSegLib.labels import BACKGROUND as BACKGROUND_VALUE
from CrossModalSegLib.labels import Label, LabelTable, check_mask
from CrossModalSegLib.volume import Volume, place_on_grid, resample_like, same_geometry

from .change import Change
from .geometry import affine_in, from_first_voxel, parent_to_world, to_lps
from .hierarchy import place_beside, remove_with_item
from .images import oriented_affine, oriented_image, voxels
from .layers import alone
from .nodes import RESULT, SCRIBBLES, drawn_on, require_present, require_segmentation, role, set_role, storable
from .segments import (
    LABELMAP,
    RESULT_TAG,
    SURFACE,
    apply_style,
    labelmap,
    mark,
    marked_class,
    new_identity,
    overlap_error,
    segment_ids,
    segments_of_classes,
    style_of,
)
from .volumes import read_grid, read_volume

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLVolumeNode, vtkOrientedImageData

_GEOMETRY_PARAMETER = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()


def write_segmentation(
    scene: vtkMRMLScene,
    labels: Volume,
    table: LabelTable,
    reference: vtkMRMLVolumeNode,
    name: str,
    into: vtkMRMLSegmentationNode | None = None,
    show_3d: bool = False,
    change: Change | None = None,
) -> vtkMRMLSegmentationNode:
    """Write a label map as a segmentation: all of it in one image, one segment for each class.

    A new segmentation gets the grid, the parent transform and the folder of the reference. In one that is there, only
    segments that this function wrote are replaced (and those of classes that are no longer there removed), even where
    they were renamed; their names and colours stay as the person chose them. It may lie under any transform.

    Args:
        scene: where to.
        labels: 0 background, 1..K, on the reference's grid.
        table: the classes.
        reference: the volume that was segmented.
        name: of a new segmentation.
        into: an earlier result, or any segmentation but scribbles.
        show_3d: whether surfaces are made. Where there are some already, they are made anew in any case.
        change: takes note, for undo.

    Raises:
        GeometryError: the labels have another grid than the reference, or a parent transform is not linear.
        LabelError: the labels hold a value that the table does not name.
        InputError: a node cannot be used, or is not in the scene any more.
    """
    has_surfaces = into is not None and has_3d(into)
    with Change(scene, part_of=change) as step:
        node = write_voxels(scene, labels, table, reference, name, into, step)
        make_surfaces(node, show_3d, has_surfaces)
    return node


def write_voxels(
    scene: vtkMRMLScene,
    labels: Volume,
    table: LabelTable,
    reference: vtkMRMLVolumeNode,
    name: str,
    into: vtkMRMLSegmentationNode | None,
    change: Change,
    room: vtkOrientedImageData | None = None,
) -> vtkMRMLSegmentationNode:
    """`write_segmentation` without surfaces, which take longer than all the rest; there are none afterwards.

    With `room`, an `images.empty_image` of the labels' shape, no new image is made.
    """
    array = labels_on_grid(labels, table, reference)
    require_present(scene, reference, into)
    with Change(scene, part_of=change) as step:
        node = _new(scene, reference, name, step) if into is None else _accepted(into, step)
        _replace(node, oriented_image(array, affine_in(node, reference), room), table)
        _set_reference_grid(node, reference)
    return node


def labels_on_grid(labels: Volume, table: LabelTable, reference: vtkMRMLVolumeNode) -> np.ndarray:
    """The array of a label map, (k, j, i) uint8, once it is known to lie on a volume's grid.

    Raises:
        GeometryError, LabelError, InputError: as `write_segmentation`.
    """
    require_on_grid(labels, reference)
    return check_mask(labels.array, table)


def require_on_grid(labels: Volume, reference: vtkMRMLVolumeNode) -> None:
    """Check that a label map lies on a volume's grid.

    Raises:
        GeometryError, InputError: as `write_segmentation`.
    """
    if not same_geometry(read_grid(reference), labels):
        raise GeometryError(
            f"The result does not lie on the grid of '{reference.GetName()}', so it would be shown in a wrong place. "
            "Was the volume changed or moved since? Start again."
        )


def require_writable(node: vtkMRMLSegmentationNode) -> None:
    """Check that a result can be written into a segmentation; to be asked before the work that it comes from.

    Raises:
        InputError: it is none, holds scribbles, or surfaces in place of voxels.
    """
    if role(require_segmentation(node)) == SCRIBBLES:
        raise InputError(
            f"'{node.GetName()}' holds scribbles, which are never overwritten; choose another segmentation."
        )
    if not node.GetSegmentation().IsSourceRepresentationImageData():
        raise InputError(
            f"'{node.GetName()}' holds surfaces; a segmentation of voxels is needed. Choose another one, or make its "
            "binary labelmap the source representation (module Segmentations)."
        )


def has_3d(node: vtkMRMLSegmentationNode) -> bool:
    """Whether a segmentation has surfaces."""
    return require_segmentation(node).GetSegmentation().ContainsRepresentation(SURFACE)


def make_surfaces(node: vtkMRMLSegmentationNode, show_3d: bool, had_surfaces: bool) -> None:
    """Make the surfaces of all segments, where they are asked for or were there before the voxels changed."""
    if show_3d or had_surfaces:
        node.CreateClosedSurfaceRepresentation()
    if show_3d:
        node.GetDisplayNode().SetVisibility(True)  # of a segmentation that is hidden as a whole nothing is seen in 3D
        node.GetDisplayNode().SetVisibility3D(True)


def shows_surfaces(node: vtkMRMLSegmentationNode) -> bool:
    """Whether surfaces of a segmentation are seen in 3D views."""
    display = node.GetDisplayNode()
    return display is not None and has_3d(node) and bool(display.GetVisibility() and display.GetVisibility3D())


def show_surfaces(node: vtkMRMLSegmentationNode, is_shown: bool) -> None:
    """Show surfaces of all segments in 3D views, made where there are none, or hide them."""
    if is_shown:
        make_surfaces(node, True, has_3d(node))
    else:
        node.GetDisplayNode().SetVisibility3D(False)


def result_image(node: vtkMRMLSegmentationNode, table: LabelTable) -> vtkOrientedImageData | None:
    """The image that holds all classes of a result by their values in the table.

    None where there is no such image: the result is of another table, or was taken apart by editing it.
    """
    owned = _owned(node)
    segments = [node.GetSegmentation().GetSegment(owned.get(label.name.casefold(), "")) for label in table.labels]
    if None in segments or [segment.GetLabelValue() for segment in segments] != [label.value for label in table.labels]:
        return None
    images = {segment.GetRepresentation(LABELMAP) for segment in segments}
    return images.pop() if len(images) == 1 and len(owned) == len(table) else None


def read_mask(node: vtkMRMLNode, reference: vtkMRMLVolumeNode, table: LabelTable) -> Volume:
    """Copy a dense label map out of the scene, onto the grid of a volume, by nearest neighbours where grids differ.

    Args:
        node: a segmentation, whose segments are found by their names, else by the mark that `write_segmentation` leaves
            on them, others being ignored; or a label map volume with the values 1..K.
        reference: the volume whose grid is wanted.
        table: the classes.

    Returns:
        uint8, 0 background, 1..K.

    Raises:
        LabelError: no segment stands for a class, two segments of different classes overlap (both are named), or a
            label map holds other values.
        GeometryError: a parent transform is not linear.
        InputError: a node cannot be used.
    """
    grid = read_grid(reference)
    if isinstance(node, slicer.vtkMRMLLabelMapVolumeNode):
        volume = read_volume(node)
        return _on_grid(volume.with_array(check_mask(volume.array, table)), grid)
    named_classes(node, table)
    result = np.zeros(grid.shape, dtype=np.uint8)
    owner: dict[int, str] = {}
    for names, own in _dense(node, table):
        new = _on_grid(own, grid).array
        if owner:
            _require_apart(result, owner, new, names, node)
        owner |= names
        result = np.where(new != 0, new, result) if result.any() else new
    return grid.with_array(result)


def named_classes(node: vtkMRMLSegmentationNode, table: LabelTable) -> tuple[str, ...]:
    """Names of the classes that a segmentation has a segment of.

    Raises:
        LabelError: it has none.
        InputError: the node is no segmentation.
    """
    found = {each.value for each in segments_of_classes(require_segmentation(node), table, RESULT_TAG)}
    names = tuple(label.name for label in table.labels if label.value in found)
    if not names:
        raise LabelError(
            f"No segment of '{node.GetName()}' has the name of a class; rename its segments to "
            f"{', '.join(table.names)}."
        )
    return names


# --- writing ---------------------------------------------------------------------------------------------------------


def _new(scene: vtkMRMLScene, reference: vtkMRMLVolumeNode, name: str, change: Change) -> vtkMRMLSegmentationNode:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", storable(name))
    change.created(node, lambda: _take_away(scene, node))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(reference.GetTransformNodeID())
    place_beside(scene, node, reference)
    set_role(node, RESULT)
    return node


def _take_away(scene: vtkMRMLScene, node: vtkMRMLSegmentationNode) -> None:
    """Remove a result; what the person drew beside it stays, in the same node."""
    owned = tuple(_owned(node).values())
    if not scene.IsNodePresent(node) or len(owned) == len(segment_ids(node)):
        remove_with_item(scene, node)
        return
    has_surfaces = has_3d(node)
    alone(node, owned)
    for identity in owned:
        _remove(node, identity)
    make_surfaces(node, show_3d=False, had_surfaces=has_surfaces)


def _accepted(node: vtkMRMLSegmentationNode, change: Change) -> vtkMRMLSegmentationNode:
    require_writable(node)
    node.CreateDefaultDisplayNodes()
    change.changed(node, _former(node))
    return node


def _owned(node: vtkMRMLSegmentationNode) -> dict[str, str]:
    """Ids of the segments that were written here, by the name of their class in small letters.

    Where the person exchanged the names of some, they are known by these.
    """
    segmentation = node.GetSegmentation()
    marked = {each: marked_class(segmentation.GetSegment(each), each, RESULT_TAG) for each in segment_ids(node)}
    classes = {each: class_name.casefold() for each, class_name in marked.items() if class_name is not None}
    names = {each: segmentation.GetSegment(each).GetName().strip().casefold() for each in classes}
    named = {each: name if name in classes.values() else classes[each] for each, name in names.items()}
    is_clear = len(set(named.values())) == len(named)
    return {class_name: each for each, class_name in (named if is_clear else classes).items()}


def _replace(node: vtkMRMLSegmentationNode, image: vtkOrientedImageData, table: LabelTable) -> None:
    owned = _owned(node)
    alone(node, tuple(owned.values()))
    wanted = {label.name.casefold() for label in table.labels}
    for class_name in owned.keys() - wanted:
        _remove(node, owned[class_name])
    for label in table.labels:
        identity = owned.get(label.name.casefold())
        if identity is None:
            _add(node, image, label)
        else:
            segment = node.GetSegmentation().GetSegment(identity)
            segment.SetLabelValue(label.value)
            segment.AddRepresentation(LABELMAP, image)
            mark(segment, identity, RESULT_TAG, label.name)
    # Displays and surfaces follow the image, not the segments.
    image.Modified()


def _add(node: vtkMRMLSegmentationNode, image: vtkOrientedImageData, label: Label) -> None:
    segmentation = node.GetSegmentation()
    identity = new_identity(node, label.name)
    segment = slicer.vtkSegment()
    apply_style(segment, style_of(label))
    segment.SetLabelValue(label.value)
    segment.AddRepresentation(LABELMAP, image)
    mark(segment, identity, RESULT_TAG, label.name)
    if not segmentation.AddSegment(segment, identity):
        raise InputError(f"'{node.GetName()}' does not take new segments; choose another segmentation.")


def _remove(node: vtkMRMLSegmentationNode, identity: str) -> None:
    """Take a segment out; the image that held its voxels, which undo may need, stays as it is."""
    # Slicer erases what it removes from an image that others share.
    node.GetSegmentation().GetSegment(identity).AddRepresentation(LABELMAP, slicer.vtkOrientedImageData())
    node.GetSegmentation().RemoveSegment(identity)


def _set_reference_grid(node: vtkMRMLSegmentationNode, reference: vtkMRMLVolumeNode) -> None:
    """Slicer resamples to this grid when it saves: one that other segments lie on is left alone."""
    if drawn_on(node) is None or len(_owned(node)) == len(segment_ids(node)):
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)


def _former(node: vtkMRMLSegmentationNode) -> Callable[[], None]:
    """How to bring the results in a segmentation back to what they are now; other segments stay as they are then."""
    segmentation = node.GetSegmentation()
    volume, grid = drawn_on(node), segmentation.GetConversionParameter(_GEOMETRY_PARAMETER)
    has_surfaces, display = has_3d(node), node.GetDisplayNode()
    is_shown, is_shown_3d = display.GetVisibility(), display.GetVisibility3D()
    alone(node, tuple(_owned(node).values()))
    kept = {identity: segmentation.GetSegment(identity) for identity in _owned(node).values()}
    places = {identity: segmentation.GetSegmentIndex(identity) for identity in kept}
    voxels_of = {
        identity: (segment.GetLabelValue(), segment.GetRepresentation(LABELMAP)) for identity, segment in kept.items()
    }

    def restore() -> None:
        alone(node, tuple(_owned(node).values()))
        for identity in set(_owned(node).values()) - kept.keys():
            _remove(node, identity)
        for identity, segment in kept.items():
            label, image = voxels_of[identity]
            segment.SetLabelValue(label)
            segment.AddRepresentation(LABELMAP, image)
            if segmentation.GetSegment(identity) is None:
                segmentation.AddSegment(segment, identity)
                segmentation.SetSegmentIndex(identity, min(places[identity], segmentation.GetNumberOfSegments() - 1))
            image.Modified()
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID() if volume else None)
        segmentation.SetConversionParameter(_GEOMETRY_PARAMETER, grid)
        make_surfaces(node, show_3d=False, had_surfaces=has_surfaces)
        display.SetVisibility(is_shown)
        display.SetVisibility3D(is_shown_3d)

    return restore


# --- reading ---------------------------------------------------------------------------------------------------------


def _dense(node: vtkMRMLSegmentationNode, table: LabelTable) -> list[tuple[dict[int, str], Volume]]:
    """The classes of each image with voxels: names of the segments by class, and the label map in the world."""
    groups: dict[tuple[vtkOrientedImageData, int], list] = {}
    seen: dict[tuple[vtkOrientedImageData, int], int] = {}
    for each in segments_of_classes(node, table, RESULT_TAG):
        image = labelmap(node, each.identity)
        if image is None or each.value in (None, BACKGROUND_VALUE):
            continue
        label = node.GetSegmentation().GetSegment(each.identity).GetLabelValue()
        seen[image, label] = seen.get((image, label), -1) + 1
        groups.setdefault((image, seen[image, label]), []).append((label, each))
    to_world = parent_to_world(node)
    result = []
    for (image, _), members in groups.items():
        classes = _classes(voxels(image), {label: each.value for label, each in members})
        affine = to_lps(to_world @ from_first_voxel(oriented_affine(image), image))
        result.append(({each.value: each.name for _, each in members}, Volume(classes, affine)))
    return result


def _classes(array: np.ndarray, class_of: dict[int, int]) -> np.ndarray:
    """The classes (k, j, i) uint8 of an image's label values; 0 where a value stands for none."""
    is_result = array.dtype == np.uint8 and all(label == value for label, value in class_of.items())
    if is_result and int(array.max()) <= len(class_of) == max(class_of):  # then all values up to there are of classes
        return array.copy()
    lookup = np.zeros(max(int(array.max()), *class_of) + 1, dtype=np.uint8)
    lookup[list(class_of)] = list(class_of.values())
    result = np.empty(array.shape, dtype=np.uint8)
    for plane, out in zip(array, result, strict=True):  # as indices, a whole volume would take eight times its memory
        np.take(lookup, plane, out=out, mode="clip")
    return result


def _require_apart(
    first: np.ndarray, first_names: dict[int, str], second: np.ndarray, second_names: dict[int, str], node: vtkMRMLNode
) -> None:
    clash = (first != 0) & (second != 0) & (first != second)
    if clash.any():
        names = first_names[int(first[clash][0])], second_names[int(second[clash][0])]
        raise overlap_error(*names, np.count_nonzero(clash), node)


def _on_grid(volume: Volume, grid: Volume) -> Volume:
    placed = place_on_grid(volume, grid)
    return resample_like(volume, grid, "nearest", fill=0) if placed is None else placed
