"""Segmentations from and to files: .seg.nrrd as 3D Slicer writes it, or plain label maps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .. import terminology as known
from ..errors import InputError, LabelError
from ..labels import (
    BACKGROUND,
    BACKGROUND_NAME,
    MAX_CLASSES,
    UNLABELLED,
    Label,
    LabelTable,
    check_mask,
    is_terminology_entry,
    whole_numbers,
)
from ..volume import Volume, volume_to_itk
from .image_io import read_itk, read_volume, write_itk, write_volume

_TERMINOLOGY_TAG = "TerminologyEntry:"


@dataclass(frozen=True)
class _Segment:
    """What the header of a .seg.nrrd file says of one segment."""

    name: str
    value: int
    layer: int
    color: tuple[int, int, int] | None
    terminology: str | None


def write_segmentation(volume: Volume, table: LabelTable, path: str | Path) -> None:
    """Write a label map; it appears complete or not at all.

    A name that ends in .seg.nrrd gives a file that 3D Slicer opens as a segmentation with names, colours and
    terminology; .nii, .nii.gz, .nrrd and .mha give a plain label map.

    Args:
        volume: values 0..K.
        table: the classes.
        path: the file.

    Raises:
        LabelError: the volume holds a value that the table does not name.
        GeometryError: the grid is sheared and the file is NIfTI.
        OutputError: the place is not writable, no space is left, or the suffix is unknown.
    """
    path = Path(path)
    volume = volume.with_array(check_mask(volume.array, table))
    if not path.name.lower().endswith(".seg.nrrd"):
        write_volume(volume, path)
        return
    image = volume_to_itk(volume)
    for key, value in _header(volume.array, table).items():
        image.SetMetaData(key, value)
    write_itk(image, path, compress=True)


def read_segmentation(path: str | Path) -> tuple[Volume, LabelTable | None]:
    """Read a label map.

    Of a file written by 3D Slicer, the segments are numbered 1..K: by their stored values where these are 1..K,
    else in the order of the file. Its grid may be a box around the painted voxels; `volume.place_on_grid` puts it back.

    Args:
        path: .seg.nrrd, or a plain label map in any format that `read_volume` takes.

    Returns:
        The label map, (k, j, i) uint8 (wider where a plain label map needs it), and its table (None for plain ones).

    Raises:
        LabelError: values are fractions or negative, or segments overlap (both are named).
        InputError: the file cannot be read.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nrrd", ".nhdr")):
        return _plain(read_volume(path), path), None
    image = read_itk(path)
    if not _segment_indices(image):
        return _plain(read_volume(path), path), None
    segments = _segments(image, path)
    table, values = _numbered(segments, path)
    return _collapsed(image, segments, values, path), table


def read_segment_table(path: str | Path) -> LabelTable | None:
    """The table that `read_segmentation` gives, also where segments overlap.

    Raises:
        LabelError: there are too many segments, or two have the same name.
        InputError: the file cannot be read.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nrrd", ".nhdr")):
        return None
    image = read_itk(path)
    return _numbered(_segments(image, path), path)[0] if _segment_indices(image) else None


def read_scribble_segments(path: str | Path, table: LabelTable) -> Volume:
    """Read scribbles that were painted as segments in 3D Slicer, by the names of the segments.

    Args:
        path: .seg.nrrd; a segment called "background" holds the background scribbles, the others are named as classes.
        table: the classes.

    Returns:
        uint8 internal scribbles on the grid of the file.

    Raises:
        LabelError: a segment has an unknown name, or two overlap.
        InputError: the file cannot be read, or holds no segments.
    """
    return _by_name(Path(path), {BACKGROUND_NAME: BACKGROUND}, table, UNLABELLED)


def read_mask_segments(path: str | Path, table: LabelTable, ignored: Sequence[str] = ()) -> Volume:
    """Read a segmentation of 3D Slicer by the names of its segments.

    Args:
        path: .seg.nrrd; its segments are named as classes ("background" may be there).
        table: the classes.
        ignored: names of segments that are left out.

    Returns:
        uint8 label map with the values of `table` on the grid of the file.

    Raises:
        LabelError: a segment has an unknown name, or two overlap.
        InputError: the file cannot be read, or holds no segments.
    """
    return _by_name(Path(path), {BACKGROUND_NAME: BACKGROUND}, table, BACKGROUND, ignored)


def is_slicer_segmentation(path: str | Path) -> bool:
    """Whether a file name is that of a 3D Slicer segmentation."""
    return Path(path).name.lower().endswith(".seg.nrrd")


def _plain(volume: Volume, path: Path) -> Volume:
    array = whole_numbers(volume.array, f"The label map '{path}'")
    if array.min() < 0:
        raise LabelError(f"The label map '{path}' holds negative values; labels are 0 and above.")
    if array.max() <= np.iinfo(np.uint8).max:
        array = array.astype(np.uint8)
    return volume.with_array(array)


def _header(array: np.ndarray, table: LabelTable) -> dict[str, str]:
    header = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    extents = _extents(array, len(table))
    for index, (label, extent) in enumerate(zip(table.labels, extents, strict=True)):
        color = " ".join(f"{part / 255:.6g}" for part in label.color)
        entry = label.terminology or known.GENERIC_TISSUE
        fields = {
            "ID": f"Segment_{label.value}",
            "Name": label.name,
            "NameAutoGenerated": "0",
            "Color": color,
            "ColorAutoGenerated": "0",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": " ".join(map(str, extent)),
            "Tags": f"{_TERMINOLOGY_TAG}{entry}|",
        }
        header.update({f"Segment{index}_{key}": value for key, value in fields.items()})
    return header


def _extents(array: np.ndarray, classes: int) -> list[tuple[int, ...]]:
    """Box of each class as (i0, i1, j0, j1, k0, k1), both ends included; (0, -1, 0, -1, 0, -1) when it is empty."""
    extents = []
    for value in range(1, classes + 1):
        mask = array == value
        extent: list[int] = []
        for axis in (2, 1, 0):
            others = tuple(each for each in range(3) if each != axis)
            found = np.flatnonzero(mask.any(axis=others))
            extent += [int(found[0]), int(found[-1])] if found.size else [0, -1]
        extents.append(tuple(extent))
    return extents


def _segments(image: sitk.Image, path: Path) -> list[_Segment]:
    return [_segment(image, index, place, path) for place, index in enumerate(_segment_indices(image))]


def _segment_indices(image: sitk.Image) -> list[int]:
    """The numbers of the segments in the header; programs that take one out may leave a gap."""
    found = (re.fullmatch(r"Segment(\d{1,9})_ID", key, re.ASCII) for key in image.GetMetaDataKeys())
    return sorted(int(each[1]) for each in found if each)


def _segment(image: sitk.Image, index: int, place: int, path: Path) -> _Segment:
    prefix, layers = f"Segment{index}_", image.GetNumberOfComponentsPerPixel()

    def field(key: str, default: str) -> str:
        return image.GetMetaData(prefix + key) if image.HasMetaDataKey(prefix + key) else default

    identity = field("ID", "")
    # Before segments could share a layer, Slicer named none: each segment had its own, in the order of the segments.
    own_layer = place if layers > 1 else 0
    try:
        value, layer = int(field("LabelValue", "1")), int(field("Layer", str(own_layer)))
    except ValueError as error:
        raise InputError(f"The header of '{path}' is damaged: the segment '{identity}' has no value.") from error
    if value < 1:
        raise InputError(f"The header of '{path}' is damaged: the segment '{identity}' has the value {value}.")
    if not 0 <= layer < layers:
        raise InputError(f"The header of '{path}' is damaged: the segment '{identity}' is in layer {layer}.")
    name = "".join(part for part in field("Name", identity) if part.isprintable()).strip() or f"segment {value}"
    return _Segment(name, value, layer, _color(field("Color", "")), _terminology(field("Tags", "")))


def _color(text: str) -> tuple[int, int, int] | None:
    try:
        parts = tuple(round(255 * float(part)) for part in text.split())
    except (ValueError, OverflowError):
        return None
    return parts if len(parts) == 3 and all(0 <= part <= 255 for part in parts) else None


def _terminology(tags: str) -> str | None:
    for tag in tags.split("|"):
        entry = tag.strip().removeprefix(_TERMINOLOGY_TAG)
        if entry != tag.strip() and is_terminology_entry(entry):
            return entry
    return None


def _numbered(segments: list[_Segment], path: Path) -> tuple[LabelTable, list[int]]:
    """A table, and the number of each segment in it."""
    if len(segments) > MAX_CLASSES:
        raise LabelError(f"'{path}' holds {len(segments)} segments; at most {MAX_CLASSES} are possible.")
    stored = [segment.value for segment in segments]
    keep = sorted(stored) == list(range(1, len(stored) + 1))
    values = stored if keep else list(range(1, len(stored) + 1))
    ordered = [segment for _, segment in sorted(zip(values, segments, strict=True), key=lambda pair: pair[0])]
    try:
        defaults = LabelTable.from_names([segment.name for segment in ordered])
    except LabelError as error:
        raise LabelError(f"The segments of '{path}' are not usable: {error}") from error
    labels = [_label(segment, default) for segment, default in zip(ordered, defaults.labels, strict=True)]
    return LabelTable(tuple(labels)), values


def _label(segment: _Segment, default: Label) -> Label:
    return replace(default, color=segment.color or default.color, terminology=segment.terminology)


def _by_name(path: Path, special: dict[str, int], table: LabelTable, fill: int, ignored: Sequence[str] = ()) -> Volume:
    image = read_itk(path)
    if not _segment_indices(image):
        raise InputError(f"'{path}' holds no segments; a segmentation saved by 3D Slicer was expected.")
    unused = {name.casefold() for name in ignored}
    segments = [segment for segment in _segments(image, path) if segment.name.casefold() not in unused]
    value_of = {label.name.casefold(): label.value for label in table.labels}
    value_of = {**special, **value_of}
    unknown = [segment.name for segment in segments if segment.name.casefold() not in value_of]
    if unknown:
        raise LabelError(
            f"'{path}' holds segments of unknown names: {', '.join(unknown)}; rename them to "
            f"{', '.join((*table.names, *special))}."
        )
    values = [value_of[segment.name.casefold()] for segment in segments]
    return _collapsed(image, segments, values, path, fill)


def _collapsed(
    image: sitk.Image, segments: list[_Segment], values: list[int], path: Path, fill: int = BACKGROUND
) -> Volume:
    """All layers in one array, (k, j, i) uint8."""
    layers = sitk.GetArrayFromImage(image)
    layer_of: Callable[[int], np.ndarray] = (lambda index: layers[..., index]) if layers.ndim == 4 else lambda _: layers
    if layers.ndim not in (3, 4) or image.GetDimension() != 3:
        raise InputError(f"'{path}' is not a 3D segmentation.")
    array = np.full(layers.shape[:3], fill, dtype=np.uint8)
    owner = np.full(layers.shape[:3], -1, dtype=np.int16)
    for index, (segment, value) in enumerate(zip(segments, values, strict=True)):
        mask = layer_of(segment.layer) == segment.value
        taken = owner[mask]
        if (taken >= 0).any():
            other = segments[int(taken.max())].name
            raise LabelError(
                f"The segments '{other}' and '{segment.name}' of '{path}' overlap in {int((taken >= 0).sum())} voxels; "
                "a voxel can belong to one only. Erase it in one of them."
            )
        array[mask] = value
        owner[mask] = index
    return _volume_like(image, array)


def _volume_like(image: sitk.Image, array: np.ndarray) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(array, affine)
