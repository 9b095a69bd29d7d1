"""Checks of image files that ITK does not make: it reads a truncated NIfTI file, and NaN in one, as zeros."""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError

_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20
_NIFTI_HEADER = 540
_MILLIMETRES = 2
_SAME_PLACE = 0.1  # of a voxel: both forms are stored in single precision
_FLOAT_TYPES = {16: "f4", 64: "f8"}


def check_complete(path: Path) -> None:
    """Check that an image file holds all the bytes that its header announces, and that compressed bytes are intact.

    NIfTI, MetaImage and NRRD files are checked. Voxels that are NaN or infinite are looked for in NIfTI files only,
    where ITK would read them as zeros.

    Args:
        path: an existing file.

    Raises:
        InputError: the file is truncated, corrupt, not of the kind that its name says, or a NIfTI file with NaN.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            _check_nifti(path)
        elif name.endswith((".mha", ".mhd")):
            _check_meta(path)
        elif name.endswith((".nrrd", ".nhdr")):
            _check_nrrd(path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror or error}).") from error


def unused_intercept(path: Path) -> float:
    """The intercept of a NIfTI file whose slope is 0, which says that neither counts; ITK adds it all the same.

    Args:
        path: a file that `check_complete` found to be whole.

    Returns:
        0 where the intercept counts, or there is none.
    """
    header = _header_of(path)
    return 0.0 if header is None else header.unused_intercept


def spacing_of_sform(path: Path) -> tuple[float, float, float] | None:
    """Distances of voxels along (i, j, k) in the sform of a NIfTI file without a qform, mm.

    They are those that count, while ITK takes them from the fields that belong to the qform.

    Args:
        path: a file that `check_complete` found to be whole.

    Returns:
        None where a qform counts, or nothing is told.
    """
    header = _header_of(path)
    return None if header is None else header.sform_spacing


def sform_elsewhere(path: Path) -> tuple[np.ndarray, float] | None:
    """The sform of a NIfTI file whose qform, of which both count, tells another place.

    Args:
        path: a file that `check_complete` found to be whole.

    Returns:
        (3, 4) from an index (i, j, k, 1) to RAS mm, and the largest distance between the two places of a corner, mm.
        None where both forms agree, or one of them does not count.
    """
    header = _header_of(path)
    return None if header is None else header.sform_elsewhere


def is_nifti_2(path: Path) -> bool:
    """Whether a NIfTI file is of version 2.

    Args:
        path: a file that `check_complete` found to be whole.
    """
    header = _header_of(path)
    return header is not None and header.version == 2


def _header_of(path: Path) -> _NiftiHeader | None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return None
    with path.open("rb") as file:
        return _nifti_header(path, _nifti_chunks(file, path)[0])


def _nifti_chunks(file: BinaryIO, path: Path) -> tuple[bytes, Iterator[bytes]]:
    """The beginning of a NIfTI file, with its header, and what follows."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    chunks = _inflated(file, path) if zipped else iter(lambda: file.read(_CHUNK), b"")
    start = b""
    while len(start) < _NIFTI_HEADER and (chunk := next(chunks, b"")):
        start += chunk
    return start, chunks


def _check_nifti(path: Path) -> None:
    with path.open("rb") as file:
        start, chunks = _nifti_chunks(file, path)
        header = _nifti_header(path, start)
        present, strange = _count(itertools.chain([start], chunks), header)
    if present < header.offset + header.length:
        raise _truncated(path)
    if strange:
        raise InputError(f"'{path}' holds {strange} voxels that are NaN or infinite; replace them by a number first.")


@dataclass(frozen=True)
class _NiftiHeader:
    """What matters here of a header: its version, where voxels begin, their bytes in all, their type if it is a float,
    an intercept that does not count, the spacing of an sform that stands alone, and an sform that contradicts the qform
    with the distance between the two."""

    version: int
    offset: int
    length: int
    float_type: np.dtype | None
    unused_intercept: float
    sform_spacing: tuple[float, float, float] | None
    sform_elsewhere: tuple[np.ndarray, float] | None


def _count(chunks: Iterator[bytes], header: _NiftiHeader) -> tuple[int, int]:
    """Bytes in all, and voxels that are NaN or infinite, which ITK would read as zeros."""
    present = strange = 0
    rest = b""
    for chunk in chunks:
        begin, end = header.offset - present, header.offset + header.length - present
        present += len(chunk)
        if header.float_type is None:
            continue
        rest += chunk[max(0, begin) : max(0, end)]
        whole = len(rest) - len(rest) % header.float_type.itemsize
        values = np.frombuffer(rest[:whole], header.float_type)
        strange += len(values) - int(np.count_nonzero(np.isfinite(values)))
        rest = rest[whole:]
    return present, strange


def _inflated(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """What a gzip file holds, from here to its end; its checksums are verified on the way."""
    inflater = zlib.decompressobj(wbits=31)
    data = file.read(_CHUNK)
    while data:
        try:
            part = inflater.decompress(data)
        except zlib.error as error:
            raise _damaged(path) from error
        if part:
            yield part
        data = inflater.unused_data or file.read(_CHUNK)
        if inflater.eof and data:
            if not data.startswith(b"\x1f\x8b"):
                return  # padding after the last member is harmless
            inflater = zlib.decompressobj(wbits=31)
    if not inflater.eof:
        raise _truncated(path)


def _nifti_header(path: Path, start: bytes) -> _NiftiHeader:
    """Read a NIfTI-1 or NIfTI-2 header."""
    if len(start) < 348:
        raise _truncated(path)
    for order in "<>":
        size = struct.unpack_from(order + "i", start)[0]
        if size == 348:
            dims = struct.unpack_from(order + "8h", start, 40)
            code, bits = struct.unpack_from(order + "2h", start, 70)
            offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
            forms, unit = struct.unpack_from(order + "2h", start, 252), start[123]
            steps, turn = struct.unpack_from(order + "4f", start, 76), struct.unpack_from(order + "6f", start, 256)
            rows = struct.unpack_from(order + "12f", start, 280)
            break
        if size == 540 and len(start) >= _NIFTI_HEADER:
            code, bits = struct.unpack_from(order + "2h", start, 12)
            dims = struct.unpack_from(order + "8q", start, 16)
            offset, slope, intercept = struct.unpack_from(order + "q2d", start, 168)
            forms, unit = struct.unpack_from(order + "2i", start, 344), struct.unpack_from(order + "i", start, 500)[0]
            steps, turn = struct.unpack_from(order + "4d", start, 104), struct.unpack_from(order + "6d", start, 352)
            rows = struct.unpack_from(order + "12d", start, 400)
            break
    else:
        raise InputError(f"'{path}' is not a NIfTI file, though its name says so; rename or convert it.")
    if not 1 <= dims[0] <= 7 or any(n < 1 for n in dims[1 : dims[0] + 1]) or bits < 1:
        raise InputError(f"'{path}' has a corrupt NIfTI header: its dimensions are {dims[1:]}.")
    if forms[1] > 0 and not all(map(math.isfinite, rows)):  # ITK would look for its axes without end
        raise InputError(f"'{path}' has a corrupt NIfTI header: its sform holds NaN or infinite numbers.")
    length = math.prod(dims[1 : dims[0] + 1]) * bits // 8
    float_type = _FLOAT_TYPES.get(code)
    return _NiftiHeader(
        1 if size == 348 else 2,
        max(int(_finite(offset)), 0),
        length,
        np.dtype(order + float_type) if float_type else None,
        _finite(intercept) if slope == 0 else 0.0,
        _sform_spacing(forms, unit, rows),
        _sform_elsewhere(forms, unit, dims[1:4], (steps, turn), rows),
    )


def _sform_spacing(forms: tuple[int, int], unit: int, rows: tuple[float, ...]) -> tuple[float, float, float] | None:
    """Of the codes of qform and sform, the unit of length, and the three rows of the sform."""
    qform, sform = forms
    if qform > 0 or sform <= 0 or unit & 7 not in (0, _MILLIMETRES):
        return None
    i, j, k = np.linalg.norm(np.reshape(rows, (3, 4))[:, :3], axis=0).tolist()
    return (i, j, k) if all(0 < each < math.inf for each in (i, j, k)) else None


def _qform(steps: tuple[float, ...], turn: tuple[float, ...]) -> np.ndarray:
    """(3, 4) from an index to RAS, by the handedness and the voxel size, and the quaternion and the origin."""
    b, c, d = turn[:3]
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = -1 if steps[0] < 0 else 1
    return np.column_stack([rotation * (steps[1], steps[2], handed * steps[3]), turn[3:]])


def _sform_elsewhere(
    forms: tuple[int, int],
    unit: int,
    size: tuple[int, ...],
    parts: tuple[tuple[float, ...], tuple[float, ...]],
    rows: tuple[float, ...],
) -> tuple[np.ndarray, float] | None:
    """Of the codes of qform and sform, the unit of length, the voxels along i, j, k, the parts of the qform, and the
    three rows of the sform."""
    if min(forms) <= 0 or unit & 7 not in (0, _MILLIMETRES):
        return None
    with np.errstate(all="ignore"):
        qform, sform = _qform(*parts), np.reshape(rows, (3, 4))
        corners = np.array([(*index, 1) for index in itertools.product(*((0, n - 1) for n in size))])
        gap = float(np.linalg.norm(corners @ (qform - sform).T, axis=1).max())
        voxel = np.linalg.norm(qform[:, :3], axis=0).min()
    return (sform, gap) if _SAME_PLACE * voxel < gap < math.inf else None


def _finite(value: float) -> float:
    return value if abs(value) < 1e15 else 0.0


def _check_meta(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    fields, length = _meta_header(start)
    if "elementdatafile" not in fields:
        raise InputError(f"'{path}' is not a MetaImage file, though its name says so; rename or convert it.")
    named = fields["elementdatafile"]
    local = named.lower() == "local"
    if not local:
        _require_data(named, path)
    if fields.get("compresseddata", "").lower() == "true":
        _check_zlib(path if local else path.parent / named, length if local else 0, path)


def _meta_header(start: bytes) -> tuple[dict[str, str], int]:
    """Fields by lower-case key, and the length of the header in bytes."""
    fields: dict[str, str] = {}
    length = 0
    for line in start.split(b"\n"):
        length += len(line) + 1
        key, _, value = line.decode("utf-8", "replace").partition("=")
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    return fields, length


def _require_data(named: str, path: Path) -> None:
    """InputError where a header names one file that holds its voxels, and it is missing."""
    is_one = named and "%" not in named and not named.upper().startswith("LIST")
    if is_one and not (path.parent / named).is_file():
        raise InputError(f"'{path}' names '{named}' as its data file, which does not exist beside it. Copy both.")


def _check_zlib(data_path: Path, offset: int, path: Path) -> None:
    inflater = zlib.decompressobj(wbits=47)
    with data_path.open("rb") as file:
        file.seek(offset)
        while not inflater.eof:
            data = file.read(_CHUNK)
            if not data:
                raise _truncated(path)
            try:
                inflater.decompress(data)
            except zlib.error as error:
                raise _damaged(path) from error


def _check_nrrd(path: Path) -> None:
    """Look for the data file, or verify the checksum of gzip content; ITK checks the length, and the magic."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        end = start.find(b"\n\n")
        header = start[: max(end, 0)].lower()
        named = re.search(
            rb"^data ?file: *([^\r\n]*)", start[:end] if end >= 0 else start, re.IGNORECASE | re.MULTILINE
        )
        # A header ends with an empty line; one that keeps its voxels in another file may end with the file.
        if not start or (start.startswith(b"NRRD") and named is None and not re.search(rb"\n\r?\n", start)):
            raise _truncated(path)
        if start.startswith(b"NRRD") and named is not None:
            _require_data(named[1].decode("utf-8", "replace").strip(), path)
        if not header.startswith(b"nrrd") or b"\nencoding: gz" not in header or b"\ndata file" in header:
            return
        file.seek(end + 2)
        for _ in _inflated(file, path):
            pass


def _damaged(path: Path) -> InputError:
    return InputError(f"'{path}' is corrupt: its compressed content is damaged; copy it again.")


def _truncated(path: Path) -> InputError:
    return InputError(f"'{path}' is truncated: it holds fewer bytes than its header announces; copy it again.")
