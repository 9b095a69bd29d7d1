"""A folder of DICOM slices as one volume; a tilted gantry keeps its shear, and missing slices are an error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from ..volume import Volume, volume_from_itk

_POSITION = "0020|0032"
_ORIENTATION = "0020|0037"
_SERIES_DESCRIPTION = "0008|103e"
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
        GeometryError: slices are missing, doubled, or not parallel.
    """
    files = _only_series(folder)
    if len(files) == 1:
        return volume_from_itk(_read(files[0]))
    positions, orientation = _slice_positions(files)
    order, step = _slice_order(folder, positions, orientation)
    slices = [_read(files[index]) for index in order]
    return _stack(folder, slices, positions[order[0]], step)


def _only_series(folder: Path) -> list[Path]:
    reader = sitk.ImageSeriesReader()
    with _without_warnings():
        ids = reader.GetGDCMSeriesIDs(str(folder))
    if not ids:
        raise InputError(f"The folder '{folder}' holds no DICOM series; name a folder of DICOM files, or a file.")
    series = {each: [Path(name) for name in reader.GetGDCMSeriesFileNames(str(folder), each)] for each in ids}
    if len(series) > 1:
        listed = "; ".join(f"{_description(files[0])} ({len(files)} files)" for files in series.values())
        raise InputError(f"The folder '{folder}' holds {len(series)} series: {listed}. Put one series into a folder.")
    return next(iter(series.values()))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """ITK prints what it finds strange to standard error; that there is no series is said by an error here."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _description(file: Path) -> str:
    header = _header(file)
    text = header.GetMetaData(_SERIES_DESCRIPTION).strip() if header.HasMetaDataKey(_SERIES_DESCRIPTION) else ""
    return f"'{text}'" if text else "without a description"


def _header(file: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"The DICOM file '{file}' is damaged or of an unknown kind; copy it again.") from error
    return reader


def _read(file: Path) -> sitk.Image:
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError as error:
        raise InputError(f"The DICOM file '{file}' is damaged or of an unknown kind; copy it again.") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"The DICOM file '{file}' is a colour image; one value per voxel was expected.")
    return image


def _slice_positions(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Positions (N, 3) of the first pixels, LPS mm, and the common orientation (6,): directions of i and of j."""
    headers = [_header(file) for file in files]
    positions = [_numbers(file, header, _POSITION, 3) for file, header in zip(files, headers, strict=True)]
    orientations = [_numbers(file, header, _ORIENTATION, 6) for file, header in zip(files, headers, strict=True)]
    if np.ptp(orientations, axis=0).max() > 1e-3:
        raise GeometryError(
            f"The slices in '{files[0].parent}' are not parallel; a localiser or a radial scan is no volume."
        )
    return np.array(positions), np.array(orientations[0])


def _numbers(file: Path, header: sitk.ImageFileReader, key: str, count: int) -> list[float]:
    text = header.GetMetaData(key) if header.HasMetaDataKey(key) else ""
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise GeometryError(f"The DICOM file '{file}' does not say where its slice lies (tag {key}).")
    return numbers


def _slice_order(folder: Path, positions: np.ndarray, orientation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of the slices, and the step (3,) from one to the next, mm."""
    normal = np.cross(orientation[:3], orientation[3:])
    depth = positions @ normal
    order = np.argsort(depth, kind="stable")
    step = (positions[order[-1]] - positions[order[0]]) / (len(positions) - 1)
    gaps = np.diff(depth[order])
    typical = float(np.median(gaps))
    if gaps.min() <= 1e-3:
        raise GeometryError(
            f"Several slices in '{folder}' lie at the same place; the series seems to hold several phases or echoes. "
            "Put one of them into a folder of its own."
        )
    expected = positions[order[0]] + np.arange(len(positions))[:, None] * step
    error = np.abs(positions[order] - expected).max()
    if error > max(_SPACING_TOLERANCE_MM, _SPACING_TOLERANCE * typical):
        raise GeometryError(
            f"The slices in '{folder}' are not equally spaced: the distances run from {gaps.min():.3g} to "
            f"{gaps.max():.3g} mm. Are files missing?"
        )
    return order, step


def _stack(folder: Path, slices: list[sitk.Image], origin: np.ndarray, step: np.ndarray) -> Volume:
    sizes = Counter(image.GetSize()[:2] for image in slices)
    if len(sizes) > 1:
        listed = ", ".join(f"{width} by {height} pixels ({count})" for (width, height), count in sizes.items())
        raise InputError(f"The slices in '{folder}' differ in size: {listed}.")
    first = slices[0]
    affine = np.eye(4)
    affine[:3, :2] = np.reshape(first.GetDirection(), (3, 3))[:, :2] * np.asarray(first.GetSpacing()[:2])
    affine[:3, 2] = step
    affine[:3, 3] = origin
    arrays = [sitk.GetArrayViewFromImage(image) for image in slices]
    return Volume(np.concatenate([array.reshape(1, *array.shape[-2:]) for array in arrays]), affine)
