"""A folder of DICOM slices as one volume; a tilted gantry keeps its shear, and missing slices are an error.

So it is with the frames of one file.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from ..output import is_text
from ..volume import Volume, volume_from_itk
from .dicom_frames import ENHANCED, Frames, read_frames

_KIND = "0008|0016"
_MODALITY = "0008|0060"
_SERIES_DESCRIPTION = "0008|103e"
_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_PHOTOMETRIC = "0028|0004"
_BITS_ALLOCATED = "0028|0100"
_PIXEL_SPACING = "0028|0030"
_SPACING_TOLERANCE = 0.02  # of the spacing: positions are stored with few digits
_SPACING_TOLERANCE_MM = 0.05


def read_dicom_series(folder: Path) -> Volume:
    """Read the only series of a folder; the names and the order of its files do not matter.

    Slices are ordered by their position along the slice normal. The k axis runs through the real slice positions, so
    that a tilted gantry gives a sheared affine rather than shifted slices.

    Args:
        folder: holds the files of one series.

    Returns:
        The volume, with rescaled values (HU for CT).

    Raises:
        InputError: there is no series, there are several, a file is damaged, or the slices are not single-valued.
        GeometryError: slices are missing, doubled, or not parallel, or their places are not told.
    """
    files = _only_series(folder)
    if len(files) == 1:
        return _single_file(files[0])
    positions, orientation = _slice_positions(files)
    order, step = _slice_order(folder, positions, orientation)
    slices = [_read(files[index]) for index in order]
    return _stack(folder, slices, positions[order[0]], step)


def _single_file(file: Path) -> Volume:
    """One slice, or all slices as frames of one file."""
    image = _read(file)
    count = image.GetSize()[2]
    frames = read_frames(file)
    if count == 1 or not (frames.positions or _tag(image, _KIND) in ENHANCED):
        return volume_from_itk(image)
    if len(frames.positions) != count:
        raise GeometryError(
            f"The DICOM file '{file}' holds {count} frames, but does not say of each where it lies. Export them as one "
            "file each."
        )
    if len(set(frames.scalings)) > 1:
        raise InputError(
            f"The frames of the DICOM file '{file}' are scaled by different numbers. Export them as one file each."
        )
    positions, orientation, spacing = _frame_positions(file, frames)
    order, step = _slice_order(file, positions, orientation)
    slices = np.split(sitk.GetArrayViewFromImage(image), count)
    plane = np.reshape(orientation, (2, 3)).T * spacing[::-1]
    return _volume([slices[index] for index in order], plane, positions[order[0]], step)


def _frame_positions(file: Path, frames: Frames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_slice_positions`, and the common distances (2,) of rows and of columns, mm."""
    positions = [_parsed(file, text, _POSITION, 3) for text in frames.positions]
    orientations = [_parsed(file, text, _ORIENTATION, 6) for text in frames.orientations or [""]]
    spacings = [_parsed(file, text, _PIXEL_SPACING, 2) for text in frames.spacings or [""]]
    _require_parallel(file, orientations)
    _require_one_spacing(file, spacings)
    return np.array(positions), np.array(orientations[0]), np.array(spacings[0])


def _only_series(folder: Path) -> list[Path]:
    reader = sitk.ImageSeriesReader()
    with without_warnings():
        ids = reader.GetGDCMSeriesIDs(str(folder))
    if not ids:
        inner = any(each.is_dir() for each in folder.iterdir())
        raise InputError(
            f"The folder '{folder}' {'itself ' if inner else ''}holds no DICOM series; name "
            f"{'the one of its folders that does' if inner else 'a folder of DICOM files'}, or a file."
        )
    series = {each: [Path(name) for name in reader.GetGDCMSeriesFileNames(str(folder), each)] for each in ids}
    if len(series) > 1:
        listed = "; ".join(f"{_description(files[0])} ({len(files)} files)" for files in series.values())
        raise InputError(f"The folder '{folder}' holds {len(series)} series: {listed}. Put one series into a folder.")
    files = next(iter(series.values()))
    if not all(map(is_text, files)):
        raise InputError(
            f"The names of the files in '{folder}' hold bytes that are no text in UTF-8; rename the files."
        )
    _require_all(folder, files)
    return files


def _require_all(folder: Path, files: list[Path]) -> None:
    """InputError where the folder holds another file of this kind, which GDCM could not read and passes over."""
    kind, known = _tag(_header(files[0]), _KIND), {file.name for file in files}
    for path in sorted(folder.iterdir()):
        if path.name not in known and path.is_file() and _is_slice(path, kind):
            raise _damaged(path)


def _is_slice(path: Path, kind: str) -> bool:
    """Whether a file says in its meta information that it is of a kind, or ends before it says so."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start[128:132] == b"DICM":
        found = re.search(rb"\x02\x00\x02\x00UI..([0-9.]*)", start, re.DOTALL)
        return found is None or found.end() == len(start) or found[1].decode() == kind
    return len(start) < 132 and path.suffix.lower() in (".dcm", ".ima")


@contextmanager
def without_warnings() -> Iterator[None]:
    """ITK prints what it finds strange to standard error; what matters of it is said by errors here."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _description(file: Path) -> str:
    text = _tag(_header(file), _SERIES_DESCRIPTION)
    return f"'{text}'" if text else "without a description"


def _tag(header: sitk.ImageFileReader | sitk.Image, key: str) -> str:
    """The text of an element, empty where there is none."""
    text = header.GetMetaData(key) if header.HasMetaDataKey(key) else ""
    try:
        text.encode()
    except UnicodeEncodeError:  # other than UTF-8: most likely Western European
        text = text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text.strip(" \0")


def _damaged(file: Path) -> InputError:
    return InputError(f"The DICOM file '{file}' is damaged or of an unknown kind; copy it again.")


def _header(file: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(file) from error
    return reader


def _read(file: Path) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise _damaged(file) from error
    if is_cut_short(file, image):
        raise _damaged(file)
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The DICOM file '{file}' is a colour image; one value per voxel was expected.")
    if _tag(image, _MODALITY) == "CT" and _tag(image, _PHOTOMETRIC) == "MONOCHROME1":
        raise InputError(
            f"The DICOM file '{file}' is a CT for inverted display (MONOCHROME1), of which CT numbers would be read "
            "inverted as well. Export it as MONOCHROME2."
        )
    return image


def is_cut_short(file: Path, image: sitk.Image) -> bool:
    """Whether a file that was read ends before its pixels do, which SimpleITK before 2.5.7 fills up in silence.

    Files with compressed pixels, whose decoder finds that, are not looked at.
    """
    bits = _tag(image, _BITS_ALLOCATED)
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * int(bits or 0) // 8
    content = file.read_bytes()
    for found in re.finditer(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?(.{4})", content, re.DOTALL):
        length = int.from_bytes(found[1], "little")
        if length in (size, size + size % 2):  # of the pixels, not of a preview of them
            return found.end() + size > len(content)
    return False


def _slice_positions(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) of the first pixels, LPS mm, and the common orientation (6,): directions of i and of j."""
    texts = list(zip(*map(_place_of_slice, files), strict=True))
    positions, orientations, spacings = (
        [_parsed(file, text, key, count) for file, text in zip(files, each, strict=True)]
        for each, (key, count) in zip(texts, ((_POSITION, 3), (_ORIENTATION, 6), (_PIXEL_SPACING, 2)), strict=True)
    )
    _require_parallel(files[0].parent, orientations)
    _require_one_spacing(files[0].parent, spacings)
    return np.array(positions), np.array(orientations[0])


def _place_of_slice(file: Path) -> tuple[str, str, str]:
    """What a file says of position, orientation and pixel spacing; empty where it says nothing."""
    header = _header(file)
    if header.GetSize()[2:] not in ((), (1,)):
        raise GeometryError(
            f"The folder '{file.parent}' holds several files with many slices each, such as '{file.name}'; put one of "
            "them into a folder of its own."
        )
    if _tag(header, _POSITION):
        return _tag(header, _POSITION), _tag(header, _ORIENTATION), _tag(header, _PIXEL_SPACING)
    frames = read_frames(file)
    return tuple((each or [""])[0] for each in (frames.positions, frames.orientations, frames.spacings))


def _require_parallel(place: Path, orientations: list[list[float]]) -> None:
    if np.ptp(orientations, axis=0).max() > 1e-3:
        raise GeometryError(f"The slices in '{place}' are not parallel; a localiser or a radial scan is no volume.")


def _require_one_spacing(place: Path, spacings: list[list[float]]) -> None:
    if np.ptp(spacings, axis=0).max() > 1e-3 * np.max(spacings):
        raise GeometryError(
            f"The slices in '{place}' differ in the distance of their pixels: it runs from {np.min(spacings):.4g} to "
            f"{np.max(spacings):.4g} mm. Put those of one series into a folder of their own."
        )


def _parsed(file: Path, text: str, key: str, count: int) -> list[float]:
    """The numbers of an element that says where a slice lies."""
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise GeometryError(f"The DICOM file '{file}' does not say where its slice lies (tag {key}).")
    return numbers


def _slice_order(place: Path, positions: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of the slices, and the step (3,) from one to the next, mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    step = (positions[order[-1]] - positions[order[0]]) / (len(positions) - 1)
    gaps = np.diff(depth[order])
    typical = float(np.median(gaps))
    if gaps.min() <= 1e-3:
        raise GeometryError(
            f"Several slices in '{place}' lie at the same place; the series seems to hold several phases or echoes, "
            "or copies of its files. Keep one of each place."
        )
    expected = positions[order[0]] + np.arange(len(positions))[:, None] * step
    error = np.abs(positions[order] - expected).max()
    if error > max(_SPACING_TOLERANCE_MM, _SPACING_TOLERANCE * typical):
        raise GeometryError(
            f"The slices in '{place}' are not equally spaced: the distances run from {gaps.min():.3g} to "
            f"{gaps.max():.3g} mm. Are slices missing?"
        )
    return order, step


def _stack(folder: Path, slices: list[sitk.Image], origin: np.ndarray, step: np.ndarray) -> Volume:
    sizes = Counter(image.GetSize()[:2] for image in slices)
    if len(sizes) > 1:
        listed = ", ".join(f"{width} by {height} pixels ({count})" for (width, height), count in sizes.items())
        raise InputError(f"The slices in '{folder}' differ in size: {listed}.")
    arrays = [sitk.GetArrayViewFromImage(image) for image in slices]
    plane = np.reshape(slices[0].GetDirection(), (3, 3))[:, :2] * np.asarray(slices[0].GetSpacing()[:2])
    return _volume([array.reshape(1, *array.shape[-2:]) for array in arrays], plane, origin, step)


def _volume(slices: list[np.ndarray], plane: np.ndarray, origin: np.ndarray, step: np.ndarray) -> Volume:
    """Slices (1, j, i) in their order, and the steps (3, 2) along i and j, mm."""
    affine = np.eye(4)
    affine[:3, :2] = plane
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return Volume(np.concatenate(slices), affine)
