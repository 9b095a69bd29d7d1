from __future__ import annotations

import gzip
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from CrossModalSegLib.errors import CrossModalSegError, GeometryError, InputError, OutputError
from CrossModalSegLib.io import image_io, integrity, read_volume, write_volume
from CrossModalSegLib.io.dicom_series import is_cut_short
from CrossModalSegLib.volume import Volume, resample_orthogonal, same_geometry, volume_to_itk
from grids import grid_affine

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def noise(shape: tuple[int, int, int] = (12, 20, 16), dtype: type = np.int16) -> Volume:
    array = np.random.default_rng(1).integers(-1000, 1000, size=shape).astype(dtype)
    return Volume(array, grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0)))


# --- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [True, False])
def test_round_trip_of_an_oblique_anisotropic_volume(
    tmp_path: Path, oblique_volume: Volume, suffix: str, compress: bool
):
    path = tmp_path / "Bilder von Jürgen 图像" / f"a b{suffix}"
    write_volume(oblique_volume, path, compress)
    back = read_volume(path)
    assert np.array_equal(back.array, oblique_volume.array)
    assert same_geometry(back, oblique_volume, 1e-3)
    assert back.spacing == pytest.approx((4.5, 1.1, 0.8), abs=1e-5)
    assert names(path.parent) == [path.name]


@settings(max_examples=25)
@given(
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    angles=st.tuples(*[st.floats(-np.pi, np.pi)] * 3),
    origin=st.tuples(*[st.floats(-1500, 1500)] * 3),
    mirrored=st.booleans(),
    suffix=st.sampled_from(SUFFIXES),
)
def test_round_trip_of_any_rotation(tmp_path: Path, spacing, angles, origin, mirrored, suffix):
    affine = grid_affine(spacing, angles, origin)
    affine[:3, 2] *= -1 if mirrored else 1
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    path = tmp_path / f"x{suffix}"
    write_volume(volume, path)
    back = read_volume(path)
    assert np.array_equal(back.array, volume.array)
    assert same_geometry(back, volume)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_number_types_stay(tmp_path: Path, suffix: str, dtype: type):
    volume = Volume(np.arange(24).reshape(2, 3, 4).astype(dtype), np.eye(4))
    write_volume(volume, tmp_path / f"x{suffix}")
    back = read_volume(tmp_path / f"x{suffix}")
    assert back.array.dtype == dtype
    assert np.array_equal(back.array, volume.array)


def test_bool_and_half_are_widened(tmp_path: Path):
    write_volume(Volume(np.ones((2, 2, 2), bool), np.eye(4)), tmp_path / "b.nii.gz")
    assert read_volume(tmp_path / "b.nii.gz").array.dtype == np.uint8
    write_volume(Volume(np.ones((2, 2, 2), np.float16), np.eye(4)), tmp_path / "h.nii.gz")
    assert read_volume(tmp_path / "h.nii.gz").array.dtype == np.float32


def test_detached_headers_can_be_read(tmp_path: Path):
    volume = noise()
    for name in ("x.mhd", "x.nhdr"):
        sitk.WriteImage(volume_to_itk(volume), str(tmp_path / name), True)
        assert np.array_equal(read_volume(tmp_path / name).array, volume.array)
    (tmp_path / "x.zraw").unlink()
    with pytest.raises(InputError, match="names 'x.zraw' as its data file, which does not exist"):
        read_volume(tmp_path / "x.mhd")


@pytest.mark.parametrize(("name", "data"), [("x.mhd", "x.raw"), ("x.nhdr", "x.raw"), ("x.nhdr", "x.raw.gz")])
def test_a_header_without_its_data_file(tmp_path: Path, name: str, data: str):
    sitk.WriteImage(volume_to_itk(noise()), str(tmp_path / name), data.endswith("gz"))
    (tmp_path / data).unlink()
    with pytest.raises(InputError, match=f"names '{data}' as its data file, which does not exist beside it. Copy both"):
        read_volume(tmp_path / name)


def test_nifti_rescaling_is_applied(tmp_path: Path):
    write_volume(Volume(np.full((2, 2, 2), 10, np.int16), np.eye(4)), tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    struct.pack_into("<2f", data, 112, 0.5, -3.0)
    (tmp_path / "x.nii").write_bytes(data)
    assert read_volume(tmp_path / "x.nii").array[0, 0, 0] == 2.0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_with_a_slope_of_zero_is_not_rescaled(tmp_path: Path, suffix: str):
    """As the standard has it; ITK by itself adds the intercept."""
    volume = noise()
    write_volume(volume, tmp_path / "plain.nii")
    data = bytearray((tmp_path / "plain.nii").read_bytes())
    struct.pack_into("<2f", data, 112, 0.0, -1024.0)
    path = tmp_path / f"intercept{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)


def test_real_images_keep_their_place(real_data: Path, tmp_path: Path):
    path = real_data / "chaos_mr" / "chaos01_T2.nii.gz"
    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    last = [n - 1 for n in image.GetSize()]
    assert (volume.affine @ [*last, 1])[:3] == pytest.approx(image.TransformIndexToPhysicalPoint(last), abs=1e-3)
    write_volume(volume, tmp_path / "x.nrrd")
    assert same_geometry(read_volume(tmp_path / "x.nrrd"), volume)


# --- a tilted gantry ---------------------------------------------------------------------------------------------


def sheared() -> Volume:
    affine = np.diag([0.9, 0.9, 5.0, 1.0])
    affine[1, 2] = 5.0 * np.tan(np.radians(15))
    return Volume(np.arange(2 * 30 * 20, dtype=np.int16).reshape(2, 30, 20), affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_sheared_grids_survive_where_the_format_can(tmp_path: Path, suffix: str):
    write_volume(sheared(), tmp_path / f"x{suffix}")
    assert same_geometry(read_volume(tmp_path / f"x{suffix}"), sheared())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_sheared_grids_are_refused_where_nifti_would_bend_them(tmp_path: Path, suffix: str):
    with pytest.raises(GeometryError, match=r"cannot hold this image: its axes are sheared.*\.nrrd or \.mha"):
        write_volume(sheared(), tmp_path / f"x{suffix}")
    assert names(tmp_path) == []
    write_volume(resample_orthogonal(sheared()), tmp_path / f"x{suffix}")


# --- bad input ---------------------------------------------------------------------------------------------------


def test_missing_files_and_unknown_kinds(tmp_path: Path):
    with pytest.raises(InputError, match=r"The file '.*no such ä\.nii\.gz' does not exist"):
        read_volume(tmp_path / "no such ä.nii.gz")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match=r"unknown kind; \.nii, .* files can be read"):
        read_volume(tmp_path / "a.txt")
    (tmp_path / "a.dcm").write_text("hello")
    with pytest.raises(InputError, match="For DICOM, name the folder of the series"):
        read_volume(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="no usable path|does not exist"):
        read_volume("a\0.nii")
    with pytest.raises(InputError, match="no usable path"):
        read_volume("a" * 5000 + ".nii")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, suffix: str, compress: bool, share: float):
    path = tmp_path / f"x{suffix}"
    write_volume(noise(), path, compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="truncated|corrupt|not a|cannot be read as an image"):
        read_volume(path)
    if share == 0.5:
        with pytest.raises(InputError, match="is truncated"):
            read_volume(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compressed_files(tmp_path: Path, suffix: str):
    path = tmp_path / f"x{suffix}"
    write_volume(noise(), path)
    data = bytearray(path.read_bytes())
    middle = len(data) * 2 // 3
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(InputError, match="corrupt"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".mhd", ".nhdr"])
@pytest.mark.parametrize("content", [b"", b"\0" * 4000, b"hello", b"\x1f\x8b" + b"x" * 500, gzip.compress(b"x" * 4000)])
def test_foreign_files(tmp_path: Path, suffix: str, content: bytes):
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(InputError, match="truncated|corrupt|not a|cannot be read as an image"):
        read_volume(tmp_path / f"x{suffix}")


@settings(max_examples=60)
@given(st.sampled_from(SUFFIXES), st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_headers_give_a_volume_or_our_error(tmp_path: Path, suffix: str, changes: list[tuple[int, int]]):
    path = tmp_path / f"x{suffix}"
    write_volume(Volume(np.zeros((2, 3, 4), np.int16), np.eye(4)), path, compress=False)
    data = bytearray(gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
    try:
        read_volume(path)
    except CrossModalSegError:
        return


def test_bgzip_style_files_of_several_members(tmp_path: Path):
    write_volume(noise(), tmp_path / "x.nii")
    data = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + gzip.compress(b""))
    assert np.array_equal(read_volume(tmp_path / "x.nii.gz").array, noise().array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_and_infinities(tmp_path: Path, value: float, dtype: type, suffix: str):
    """ITK reads them as zeros from NIfTI files, which would hide them."""
    array = np.zeros((2, 3, 4), dtype)
    array[1, 1, 1:3] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"x{suffix}"))
    with pytest.raises(InputError, match="holds 2 voxels that are NaN or infinite"):
        read_volume(tmp_path / f"x{suffix}")


def nifti(order: str, version: int, array: np.ndarray) -> bytes:
    """A file of NIfTI-1 or 2 with voxels of 2 by 3 by 4 mm; what its text holds would be NaN as a number."""
    header = bytearray(348 if version == 1 else 540)
    dims = (3, *array.shape[::-1], 1, 1, 1, 1)
    rows = (2, 0, 0, 5, 0, 3, 0, 6, 0, 0, 4, 7)
    if version == 1:
        fields = [(0, "i", 348), (40, "8h", *dims), (70, "2h", 16, 32), (76, "8f", 1, 2, 3, 4, 0, 0, 0, 0)]
        fields += [(108, "3f", 352, 1, 0), (123, "b", 2), (148, "8s", b"\xff" * 8), (252, "2h", 0, 1)]
        fields += [(280, "12f", *rows), (344, "4s", b"n+1\0")]
    else:
        fields = [(0, "i", 540), (4, "8s", b"n+2\0\r\n\x1a\n"), (12, "2h", 16, 32), (16, "8q", *dims)]
        fields += [(104, "8d", 1, 2, 3, 4, 0, 0, 0, 0), (168, "q2d", 544, 1, 0), (240, "8s", b"\xff" * 8)]
        fields += [(344, "2i", 0, 1), (400, "12d", *rows), (500, "i", 2)]
    for at, kind, *numbers in fields:
        struct.pack_into(order + kind, header, at, *numbers)
    return bytes(header) + bytes(4) + array.astype(order + "f4").tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes_are_read_and_checked(tmp_path: Path, order: str):
    array, path = np.arange(60, dtype=np.float32).reshape(3, 4, 5), tmp_path / "x.nii"
    path.write_bytes(nifti(order, 1, array))
    volume = read_volume(path)
    assert np.array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine[:3], [[-2, 0, 0, -5], [0, -3, 0, -6], [0, 0, 4, 7]])
    path.write_bytes(nifti(order, 1, array)[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)
    array[2, 3, 4] = np.nan
    path.write_bytes(nifti(order, 1, array))
    with pytest.raises(InputError, match="holds 1 voxels that are NaN"):
        read_volume(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_second_version_of_nifti_is_told_and_not_called_corrupt(tmp_path: Path, order: str):
    array, path = np.arange(60, dtype=np.float32).reshape(3, 4, 5), tmp_path / "x.nii"
    path.write_bytes(nifti(order, 2, array))
    with pytest.raises(InputError, match="is a NIfTI-2 file, which ITK does not read; save it as NIfTI-1"):
        read_volume(path)
    path.write_bytes(nifti(order, 2, array)[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


def test_nan_between_two_parts_of_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Parts of 541 bytes: the first ends within the 48th voxel."""
    monkeypatch.setattr(integrity, "_CHUNK", 541)
    array = np.zeros((3, 4, 5), np.float32)
    array.ravel()[47] = np.nan
    (tmp_path / "x.nii").write_bytes(nifti("<", 1, array))
    with pytest.raises(InputError, match="holds 1 voxels that are NaN"):
        read_volume(tmp_path / "x.nii")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_is_not_written_silently(tmp_path: Path, suffix: str):
    array = np.full((2, 2, 2), np.nan, np.float32)
    with pytest.raises(OutputError, match="8 voxels that are NaN or infinite"):
        write_volume(Volume(array, np.eye(4)), tmp_path / f"x{suffix}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_4d_images(tmp_path: Path, suffix: str):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.float32), isVector=False)
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"))
    with pytest.raises(InputError, match="is 4D with 5 by 4 by 3 by 2 voxels; a 3D image was expected"):
        read_volume(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_length_one_is_dropped(tmp_path: Path, suffix: str):
    array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(tmp_path / f"x{suffix}"))
    assert np.array_equal(read_volume(tmp_path / f"x{suffix}").array, array[0])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_of_length_one_does_not_turn_the_image(tmp_path: Path, suffix: str):
    volume = noise(dtype=np.float32)
    image = sitk.JoinSeries([volume_to_itk(volume)])
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"))
    back = read_volume(tmp_path / f"x{suffix}")
    assert same_geometry(back, volume)
    assert np.array_equal(back.array, volume.array)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_2d_and_colour_images(tmp_path: Path, suffix: str):
    sitk.WriteImage(sitk.Image([4, 5], sitk.sitkInt16), str(tmp_path / f"flat{suffix}"))
    with pytest.raises(InputError, match="is 2D"):
        read_volume(tmp_path / f"flat{suffix}")
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), str(tmp_path / f"rgb{suffix}"))
    with pytest.raises(InputError, match="3 values per voxel .* one was expected. Convert it to grey"):
        read_volume(tmp_path / f"rgb{suffix}")


def test_an_sform_that_is_not_orthonormal(tmp_path: Path):
    write_volume(noise(), tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    struct.pack_into("<2h", data, 252, 0, 1)
    struct.pack_into("<12f", data, 280, -1, 0.01, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0)
    (tmp_path / "x.nii").write_bytes(data)
    with pytest.raises(GeometryError, match=r"axes of '.*x\.nii' are not orthogonal.*correct its sform and qform"):
        read_volume(tmp_path / "x.nii")


def sform_only(path: Path, steps: tuple[float, float, float], unit: int = 2) -> None:
    """A NIfTI file with an sform and no qform, whose other fields tell voxels of 1 mm."""
    write_volume(Volume(noise().array, np.eye(4)), path)
    data = bytearray(path.read_bytes())
    data[123] = unit
    struct.pack_into("<2h", data, 252, 0, 1)
    i, j, k = steps
    struct.pack_into("<12f", data, 280, 0, -j, 0, 5, i, 0, 0, 6, 0, 0, k, 7)
    path.write_bytes(data)


@pytest.mark.parametrize("unit", [0, 2, 10])
def test_an_sform_alone_tells_the_size_of_voxels(tmp_path: Path, unit: int, capfd: pytest.CaptureFixture[str]):
    """As the standard has it; ITK by itself takes their directions from it, but not their size."""
    sform_only(tmp_path / "x.nii", (0.8, 1.5, 4.5), unit)
    volume = read_volume(tmp_path / "x.nii")
    np.testing.assert_allclose(volume.affine[:3], [[0, 1.5, 0, -5], [-0.8, 0, 0, -6], [0, 0, 4.5, 7]], atol=1e-6)
    assert capfd.readouterr().err == ""


def test_a_qform_beside_an_sform_keeps_its_size_of_voxels(tmp_path: Path):
    sform_only(tmp_path / "x.nii", (0.8, 1.5, 4.5))
    data = bytearray((tmp_path / "x.nii").read_bytes())
    struct.pack_into("<2h", data, 252, 1, 4)
    (tmp_path / "x.nii").write_bytes(data)
    assert read_volume(tmp_path / "x.nii").spacing == (1, 1, 1)


def two_places(path: Path, codes: tuple[int, int], shift_mm: float) -> None:
    """A NIfTI file whose sform is moved along x against its qform."""
    write_volume(noise(), path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2h", data, 252, *codes)
    struct.pack_into("<f", data, 292, struct.unpack_from("<f", data, 292)[0] + shift_mm)
    path.write_bytes(data)


@pytest.mark.parametrize(("codes", "used", "other"), [((1, 2), "qform", "sform"), ((2, 1), "sform", "qform")])
def test_a_file_that_tells_two_places_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codes: tuple[int, int], used: str, other: str
):
    two_places(tmp_path / "x.nii", codes, 30.0)
    moved = read_volume(tmp_path / "x.nii").origin[0] - noise().origin[0]
    assert moved == pytest.approx({"qform": 0.0, "sform": -30.0}[used], abs=1e-4)
    assert f"up to 30 mm apart: that of its {used} counts here, not that of its {other}" in caplog.text


def test_a_single_slice_that_tells_two_places_is_refused_as_a_slice(tmp_path: Path):
    sitk.WriteImage(sitk.Image([6, 5], sitk.sitkInt16), str(tmp_path / "x.nii"))
    data = bytearray((tmp_path / "x.nii").read_bytes())
    struct.pack_into("<2h", data, 252, 1, 2)
    struct.pack_into("<f", data, 292, 77.0)
    (tmp_path / "x.nii").write_bytes(data)
    with pytest.raises(InputError, match="is 2D"):
        read_volume(tmp_path / "x.nii")


@pytest.mark.parametrize(("codes", "shift_mm"), [((1, 1), 0.0), ((1, 2), 0.01), ((0, 1), 30.0), ((1, 0), 30.0)])
def test_one_place_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codes: tuple[int, int], shift_mm: float
):
    two_places(tmp_path / "x.nii", codes, shift_mm)
    read_volume(tmp_path / "x.nii")
    assert not caplog.text


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_sform_that_is_no_number_is_refused(tmp_path: Path, value: float):
    """ITK would never come back."""
    sform_only(tmp_path / "x.nii", (1.0, 1.0, value))
    with pytest.raises(InputError, match="sform holds NaN or infinite numbers"):
        read_volume(tmp_path / "x.nii")


def test_an_sform_of_zeros_is_refused(tmp_path: Path):
    sform_only(tmp_path / "x.nii", (0, 0, 0))
    with pytest.raises(CrossModalSegError):
        read_volume(tmp_path / "x.nii")


def test_names_that_are_no_text(tmp_path: Path):
    """ITK would end the process."""
    name = os.fsdecode(b"M\xfcller")
    write_volume(noise(), tmp_path / "x.nii")
    (tmp_path / "x.nii").rename(tmp_path / f"{name}.nii")
    for path in (tmp_path / f"{name}.nii", tmp_path / name / "x.nii"):
        with pytest.raises(InputError, match=r"'.*M.*ller.*' holds bytes that are no text in UTF-8; rename this file"):
            read_volume(path)
    with pytest.raises(OutputError, match="Nothing can be written to"):
        write_volume(noise(), tmp_path / f"{name}.nrrd")
    for file in write_series(tmp_path / "d", noise()):
        file.rename(file.with_name(name + file.name))
    with pytest.raises(InputError, match="names of the files in '.*d' hold bytes"):
        read_volume(tmp_path / "d")
    (tmp_path / "d").rename(tmp_path / name)
    with pytest.raises(InputError, match="rename this file or folder"):
        read_volume(tmp_path / name)


# --- bad output --------------------------------------------------------------------------------------------------


def test_unknown_suffix(tmp_path: Path):
    for name in ("x.png", "x.mhd", "x", "x.NII", "x.nii.GZ"):
        with pytest.raises(OutputError, match=r"in one of \.nii, \.nii\.gz, \.nrrd, \.mha, in small letters"):
            write_volume(noise(), tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "is_read"), [(".NII", True), (".NII.GZ", True), (".NRRD", True), (".MHA", False), (".Nii.gz", False)]
)
def test_a_suffix_in_capitals_is_read_or_named(tmp_path: Path, suffix: str, is_read: bool):
    """ITK reads some of them, and does not know others."""
    write_volume(noise(), tmp_path / f"x{suffix.lower()}")
    (tmp_path / f"x{suffix.lower()}").rename(tmp_path / f"X{suffix}")
    if is_read:
        assert np.array_equal(read_volume(tmp_path / f"X{suffix}").array, noise().array)
    else:
        with pytest.raises(InputError, match=rf"let it end in \{suffix.lower()}, in small letters"):
            read_volume(tmp_path / f"X{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_space_left(tmp_path: Path, suffix: str):
    """A limit on the size of files stands in for a full disk; ITK itself writes half a NIfTI file and says nothing."""
    pytest.importorskip("resource", reason="POSIX limits")
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from CrossModalSegLib.io import write_volume\n"
        "from CrossModalSegLib.volume import Volume\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "array = np.random.default_rng(0).integers(0, 30000, (20, 40, 40)).astype(np.int16)\n"
        "write_volume(Volume(array, np.eye(4)), sys.argv[1])\n"
    )
    (tmp_path / f"x{suffix}").write_text("old")
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / f"x{suffix}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "could not be written completely; is the disk full" in result.stderr
    assert names(tmp_path) == [f"x{suffix}"]
    assert (tmp_path / f"x{suffix}").read_text() == "old"


def test_a_failing_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(image: sitk.Image, name: str, compress: bool) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("boom")

    monkeypatch.setattr(image_io.sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match="could not be written completely"):
        write_volume(noise(), tmp_path / "x.nrrd")
    assert names(tmp_path) == []


# --- DICOM -------------------------------------------------------------------------------------------------------


def write_series(
    folder: Path,
    volume: Volume,
    uid: str = "1.2.826.0.1.3680043.2.1125.1",
    skip: tuple[int, ...] = (),
    description: str = "abdomen",
) -> list[Path]:
    """Write slices under random names with positions of the volume's own affine, sheared or not."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = random.Random(3).sample(range(10_000), volume.shape[0])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    direction, spacing = volume.direction, volume.spacing
    for k in range(volume.shape[0]):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(volume.array[k : k + 1])
        image.SetSpacing((spacing[2], spacing[1], spacing[0]))
        tags = {
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000e": uid,
            "0020|000d": "1.2.826.0.1.3680043.2.1125",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|0013": str(shuffled[k]),
            "0020|0032": "\\".join(f"{x:.8g}" for x in (volume.affine @ [0, 0, k, 1])[:3]),
            "0020|0037": "\\".join(f"{x:.8g}" for x in (*direction[:, 0], *direction[:, 1])),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        files.append(folder / f"IM{shuffled[k]:05d}.dcm")
        writer.SetFileName(str(files[-1]))
        writer.Execute(image)
    return files


def check_series(folder: Path, volume: Volume) -> None:
    """Slices may come back in either order along k, at the same places."""
    back = read_volume(folder)
    affine = volume.affine.copy()
    array = volume.array
    if back.affine[:3, 2] @ affine[:3, 2] < 0:
        affine[:3, 3] += affine[:3, 2] * (len(array) - 1)
        affine[:3, 2] *= -1
        array = array[::-1]
    assert np.array_equal(back.array, array)
    assert same_geometry(back, Volume(array, affine))


def test_dicom_folder_with_files_named_in_random_order(tmp_path: Path):
    volume = Volume(noise().array, np.diag([0.8, 1.1, 4.5, 1.0]))
    folder = tmp_path / "Scan vom 3. März"
    write_series(folder, volume)
    (folder / "notes.txt").write_text("not DICOM")
    check_series(folder, volume)


def test_oblique_dicom(tmp_path: Path):
    write_series(tmp_path / "d", noise())
    check_series(tmp_path / "d", noise())


def test_dicom_in_descending_order(tmp_path: Path):
    affine = noise().affine.copy()
    affine[:3, 2] *= -1
    write_series(tmp_path / "d", Volume(noise().array, affine))
    check_series(tmp_path / "d", Volume(noise().array, affine))


def test_dicom_of_a_tilted_gantry_keeps_its_shear(tmp_path: Path):
    affine = noise().affine.copy()
    affine[:3, 2] += affine[:3, 1] / 1.1 * 4.5 * np.tan(np.radians(20))
    write_series(tmp_path / "d", Volume(noise().array, affine))
    check_series(tmp_path / "d", Volume(noise().array, affine))


def test_dicom_survives_nifti(tmp_path: Path):
    write_series(tmp_path / "d", noise())
    volume = read_volume(tmp_path / "d")
    write_volume(volume, tmp_path / "x.nii.gz")
    assert same_geometry(read_volume(tmp_path / "x.nii.gz"), volume)


def test_dicom_with_a_missing_slice(tmp_path: Path):
    write_series(tmp_path / "d", noise(), skip=(5,))
    with pytest.raises(
        GeometryError, match="not equally spaced: the distances run from 4.5 to 9 mm. Are slices missing"
    ):
        read_volume(tmp_path / "d")


def test_dicom_with_two_series(tmp_path: Path):
    write_series(tmp_path / "d", noise())
    (tmp_path / "d").rename(tmp_path / "e")
    write_series(tmp_path / "d", noise(), uid="1.2.826.0.1.3680043.2.1125.2", description="localiser")
    for file in (tmp_path / "e").iterdir():
        file.rename(tmp_path / "d" / f"e{file.name}")
    with pytest.raises(InputError, match=r"holds 2 series: '.*' \(12 files\); '.*' \(12 files\). Put one series"):
        read_volume(tmp_path / "d")


def test_dicom_with_a_description_that_is_not_ascii(tmp_path: Path):
    for number in (1, 2):
        for file in write_series(tmp_path / f"{number}", noise(), uid=f"1.2.826.0.1.3680043.2.1125.{number}"):
            file.write_bytes(file.read_bytes().replace(b"abdomen", b"Sch\xe4del"))
            file.rename(tmp_path / f"{number}{file.name}")
    with pytest.raises(InputError, match=r"holds 2 series: 'Schädel' \(12 files\); 'Schädel'"):
        read_volume(tmp_path)


def test_dicom_with_doubled_slices(tmp_path: Path):
    files = write_series(tmp_path / "d", noise())
    (tmp_path / "d" / "again.dcm").write_bytes(files[0].read_bytes())
    with pytest.raises(GeometryError, match="Several slices .* lie at the same place.*or copies of its files"):
        read_volume(tmp_path / "d")


def test_dicom_with_a_damaged_file(tmp_path: Path):
    files = write_series(tmp_path / "d", noise())
    cuts = ((3, -300), (11, -300), (11, 172), (11, 190), (11, 100), (11, 0))
    for number, kept in cuts:  # without the last one the others are equally spaced
        data = files[number].read_bytes()
        files[number].write_bytes(data[:kept])
        with pytest.raises(InputError, match=rf"'{re.escape(str(files[number]))}' is damaged"):
            read_volume(tmp_path / "d")
        files[number].write_bytes(data)
    check_series(tmp_path / "d", noise())


@pytest.mark.parametrize(("kept", "is_short"), [(None, False), (-1, True), (-300, True)])
def test_dicom_that_ends_before_its_pixels_is_noticed_whatever_itk_makes_of_it(
    tmp_path: Path, kept: int | None, is_short: bool
):
    file = write_series(tmp_path / "d", noise())[3]
    image = sitk.ReadImage(str(file))
    file.write_bytes(file.read_bytes()[:kept])
    assert is_cut_short(file, image) == is_short


def test_dicom_of_other_kinds_in_the_folder(tmp_path: Path):
    files = write_series(tmp_path / "d", noise())
    start = files[0].read_bytes()
    kind = start.find(b"1.2.840.10008.5.1.4.1.1.")  # the same length, but not the same kind
    report = start[:kind] + b"1.2.840.10008.5.1.4.1.1.88" + start[kind + 26 : 400]
    (tmp_path / "d" / "report.dcm").write_bytes(report)
    (tmp_path / "d" / "DONE").touch()
    (tmp_path / "d" / f"._{files[0].name}").write_bytes(b"\0\5\x16\7" * 100)
    check_series(tmp_path / "d", noise())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (rb"(\x28\x00\x30\x00.{4})\d", rb"\g<1>9", "differ in the distance of their pixels: it runs from"),
        (rb"\x28\x00\x30\x00(?=.{4}\d)", b"\x28\0\x31\0", r"does not say where its slice lies \(tag 0028|0030\)"),
        (rb"\x20\x00\x32\x00(?=.{4}[-\d])", b"\x20\0\x33\0", r"does not say where its slice lies \(tag 0020|0032\)"),
        (
            rb"(\x20\x00\x32\x00.{4})([-\d.]+)\\",
            lambda found: found[1] + b"nan".ljust(len(found[2])) + b"\\",
            r"does not say where its slice lies \(tag 0020|0032\)",
        ),
    ],
)
def test_dicom_that_does_not_tell_one_place(tmp_path: Path, old: bytes, new: object, message: str):
    for file in write_series(tmp_path / "d", noise())[6:]:
        content = file.read_bytes()
        file.write_bytes(re.sub(old, new, content, flags=re.DOTALL))
        assert file.read_bytes() != content
    with pytest.raises(GeometryError, match=message):
        read_volume(tmp_path / "d")


def test_dicom_slices_of_two_sizes(tmp_path: Path):
    files = write_series(tmp_path / "d", noise())
    other = write_series(tmp_path / "other", Volume(noise().array[:, :10], noise().affine))
    os.replace(other[5], files[5])
    with pytest.raises(InputError, match=r"differ in size: 16 by 20 pixels \(11\), 16 by 10 pixels \(1\)"):
        read_volume(tmp_path / "d")


def test_dicom_of_a_ct_for_inverted_display(tmp_path: Path):
    files = write_series(tmp_path / "d", noise())
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    with pytest.raises(InputError, match=r"inverted display \(MONOCHROME1\)"):
        read_volume(tmp_path / "d")


def test_dicom_in_a_folder_below(tmp_path: Path):
    write_series(tmp_path / "d" / "study" / "series", noise())
    with pytest.raises(InputError, match="itself holds no DICOM series; name the one of its folders"):
        read_volume(tmp_path / "d")


def test_empty_and_foreign_folders(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(InputError, match="holds no DICOM series"):
        read_volume(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="holds no DICOM series"):
        read_volume(tmp_path)
    assert capfd.readouterr().err == ""  # ITK has nothing to add


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd", "a.nii.gz", "a.nii", "a.mha"])
@pytest.mark.parametrize("room", [0, 40])
def test_small_files_on_a_full_disk_are_not_taken_for_written(tmp_path: Path, name: str, room: int):
    """ITK says nothing where the buffers of a small file cannot be emptied."""
    code = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from CrossModalSegLib.io import write_segmentation\n"
        "from CrossModalSegLib.labels import LabelTable\n"
        "from CrossModalSegLib.volume import Volume\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "labels = Volume(np.ones((2, 3, 4), np.uint8), np.eye(4))\n"
        "write_segmentation(labels, LabelTable.from_names(['liver']), sys.argv[1])\n"
    )
    command = [sys.executable, "-c", code, tmp_path / name, str(room)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "could not be written completely; is the disk full" in result.stderr
    assert list(tmp_path.iterdir()) == []
