"""Images from and to files: NIfTI, NRRD, MetaImage, and folders of DICOM slices."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, OutputError
from ..output import atomic_path, final_place, is_text
from ..volume import Volume, describe, same_geometry, volume_from_itk, volume_to_itk
from .dicom_series import read_dicom_series, without_warnings
from .integrity import check_complete, is_nifti_2, sform_elsewhere, spacing_of_sform, unused_intercept

logger = logging.getLogger(__name__)

READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")


def read_volume(path: str | Path) -> Volume:
    """Read a 3D image.

    Args:
        path: a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series.

    Returns:
        The image with the number type of its file (floats where the file asks for rescaling).

    Raises:
        InputError: the file is missing, truncated, corrupt, of another kind, 4D, in colour, or holds NaN or infinities.
        GeometryError: the image has no usable place in space.
    """
    path = Path(path)
    volume = read_dicom_series(path) if _is_folder(path) else volume_from_itk(_single_valued(read_itk(path), path))
    _check_finite(volume.array, path)
    return volume


def write_volume(volume: Volume, path: str | Path, compress: bool = True) -> None:
    """Write a 3D image; it appears complete or not at all.

    bool becomes uint8 and float16 becomes float32; other types stay.

    Args:
        volume: the image.
        path: ends in .nii, .nii.gz, .nrrd or .mha.
        compress: whether to compress (.nii.gz always is, .nii never).

    Raises:
        OutputError: the suffix is unknown, the place is not writable, no space is left, or the image holds NaN or
            infinities, which could not be read again.
        GeometryError: the image is sheared (a tilted gantry), which NIfTI readers cannot take.
    """
    path = Path(path)
    check_suffix(path)
    strange = _count_strange(volume.array)
    if strange:
        raise OutputError(
            f"'{final_place(path)}' is not written: {strange} voxels that are NaN or infinite could not be read again."
        )
    image = volume_to_itk(volume)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        image = _nifti_image(volume, image, path)
    write_itk(image, path, compress)


def fits_nifti(volume: Volume) -> bool:
    """Whether NIfTI can hold an image: its axes are orthogonal, so it is not sheared (a tilted gantry)."""
    return same_geometry(volume, Volume(volume.array, _orthonormal(volume)[1]))


def read_itk(path: Path) -> sitk.Image:
    """Read an image file of any dimension as it is, after checking that it is complete.

    Raises:
        InputError: the file is missing, truncated, corrupt, or of another kind.
        GeometryError: the axes of a NIfTI file are not orthogonal.
    """
    _check_is_file(path)
    check_complete(path)
    try:
        with without_warnings():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _read_error(path, str(error)) from error
    return _as_nifti_says(image, path)


def _as_nifti_says(image: sitk.Image, path: Path) -> sitk.Image:
    """The image with what ITK takes otherwise than the standard of NIfTI."""
    spacing = spacing_of_sform(path)
    if spacing is not None and not np.allclose(image.GetSpacing()[:3], spacing[: image.GetDimension()], rtol=1e-3):
        image.SetSpacing((*spacing, *image.GetSpacing()[3:])[: image.GetDimension()])
    _tell_of_two_places(image, path)
    added = unused_intercept(path)
    return image - added if added else image


def _tell_of_two_places(image: sitk.Image, path: Path) -> None:
    """Warn where a NIfTI file contradicts itself: ITK takes the qform or the sform, other programs the other one."""
    found = sform_elsewhere(path)
    if found is None or image.GetDimension() < 3:  # a single slice is refused anyway
        return
    sform, gap = found
    origin_ras = np.array(image.GetOrigin()[:3]) * (-1, -1, 1)
    directions = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:3, :3]
    matrix_ras = np.diag((-1, -1, 1)) @ directions * image.GetSpacing()[:3]
    is_sform = np.allclose(np.column_stack([matrix_ras, origin_ras]), sform, rtol=1e-3, atol=1e-3)
    logger.warning(
        "'%s' tells two places in space, up to %.3g mm apart: that of its %s counts here, not that of its %s. Where it "
        "is the wrong one, correct the file with the program that wrote it.",
        path,
        gap,
        *(("sform", "qform") if is_sform else ("qform", "sform")),
    )


def write_itk(image: sitk.Image, path: Path, compress: bool) -> None:
    """Write an image with its metadata; it appears complete or not at all.

    Raises:
        OutputError: the place is not writable, or no space is left.
    """
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), compress)
            check_complete(temporary)  # ITK writes half a NIfTI file on a full disk and says nothing
        except (RuntimeError, InputError) as error:
            raise OutputError(
                f"'{final_place(path)}' could not be written completely; is the disk full or the folder read-only?"
            ) from error


def _is_folder(path: Path) -> bool:
    _check_text(path)
    try:
        return path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is no usable path ({error}).") from error


def split_suffix(name: str) -> tuple[str, str]:
    """Stem and suffix of the name of an image file; .seg.nrrd and .nii.gz are one suffix, an unknown one is none."""
    for suffix in (".seg.nrrd", *sorted(READABLE, key=len, reverse=True)):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


def _check_text(path: Path) -> None:
    if not is_text(path):
        raise InputError(f"{str(path)!r} holds bytes that are no text in UTF-8; rename this file or folder.")


def _check_is_file(path: Path) -> None:
    _check_text(path)
    try:
        is_file, exists = path.is_file(), path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no usable path ({error}).") from error
    if not exists:
        raise InputError(f"The file '{path}' does not exist.")
    if not is_file:
        raise InputError(f"'{path}' is not a file.")
    if not path.name.lower().endswith(READABLE):
        hint = " For DICOM, name the folder of the series." if path.suffix.lower() in ("", ".dcm", ".ima") else ""
        raise InputError(f"'{path}' is of an unknown kind; {', '.join(READABLE)} files can be read.{hint}")
    if not os.access(path, os.R_OK):
        raise InputError(f"The file '{path}' may not be read; change its permissions.")


def check_suffix(path: Path) -> None:
    """Check that the name of a file says in which format an image is written.

    Raises:
        OutputError: it has no suffix of these, or one with capitals, which ITK does not write.
    """
    if not path.name.endswith(WRITABLE):
        raise OutputError(
            f"'{path}' should end in one of {', '.join(WRITABLE)}, in small letters, by which the format is chosen."
        )


def _read_error(path: Path, message: str) -> InputError:
    if "orthonormal" in message:
        return GeometryError(
            f"The axes of '{path}' are not orthogonal, so that its place in space cannot be read exactly. Resample it "
            "to an orthogonal grid, or correct its sform and qform, with the program that wrote it."
        )
    if is_nifti_2(path):
        return InputError(f"'{path}' is a NIfTI-2 file, which ITK does not read; save it as NIfTI-1 or .nrrd.")
    if "Error reading" in message or "cannot be read" in message:
        return InputError(f"'{path}' is truncated or corrupt; copy it again.")
    suffix = split_suffix(path.name)[1]
    if suffix != suffix.lower():
        return InputError(f"'{path}' cannot be read under this name; let it end in {suffix.lower()}, in small letters.")
    return InputError(f"'{path}' cannot be read as an image; it is corrupt or not of the kind that its name says.")


def _single_valued(image: sitk.Image, path: Path) -> sitk.Image:
    """The image as 3D with one value a voxel; a fourth axis of length 1 is dropped."""
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        raise InputError(
            f"'{path}' holds {components} values per voxel (colour or vectors); one was expected. Convert it to grey."
        )
    if image.GetDimension() > 3 and all(n == 1 for n in image.GetSize()[3:]):
        extractor = sitk.ExtractImageFilter()
        extractor.SetSize([*image.GetSize()[:3], *[0] * (image.GetDimension() - 3)])
        extractor.SetDirectionCollapseToStrategy(sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOSUBMATRIX)
        try:
            image = extractor.Execute(image)
        except RuntimeError as error:
            raise GeometryError(f"'{path}' has a fourth axis in space; extract the 3D image first.") from error
    if image.GetDimension() != 3:
        advice = "Extract one volume first." if image.GetDimension() > 3 else "Save all slices as one volume."
        raise InputError(
            f"'{path}' is {image.GetDimension()}D with {' by '.join(map(str, image.GetSize()))} voxels; a 3D image was "
            f"expected. {advice}"
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"'{path}' holds complex numbers; real ones were expected. Save its magnitude.")
    return image


def _check_finite(array: np.ndarray, path: Path) -> None:
    strange = _count_strange(array)
    if strange:
        raise InputError(f"'{path}' holds {strange} voxels that are NaN or infinite; replace them by a number first.")


def _count_strange(array: np.ndarray) -> int:
    return int(array.size - np.count_nonzero(np.isfinite(array))) if array.dtype.kind == "f" else 0


def _nifti_image(volume: Volume, image: sitk.Image, path: Path) -> sitk.Image:
    """The image with exactly orthonormal axes, since ITK coerces others in a NIfTI file without a word."""
    if not fits_nifti(volume):
        raise GeometryError(
            f"'{path.name}' cannot hold this image: its axes are sheared, as of a tilted gantry ({describe(volume)}). "
            "Write a .nrrd or .mha file, or resample it to an orthogonal grid."
        )
    image.SetDirection(_orthonormal(volume)[0].ravel().tolist())
    return image


def _orthonormal(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The orthonormal axes nearest to those of an image, (3, 3) columns i, j, k, and the affine with them."""
    left, _, right = np.linalg.svd(volume.direction)
    affine = volume.affine.copy()
    affine[:3, :3] = left @ right * np.asarray(volume.spacing[::-1])
    return left @ right, affine
