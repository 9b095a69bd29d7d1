"""Where the frames of an enhanced multi-frame DICOM file lie, which ITK takes to be equally spaced and in order.

The sequences that say so are no part of what ITK gives of a header, so they are looked up in the bytes of the file.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENHANCED = {  # CT, MR, PET, and the same converted from single frames
    f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("2.1", "2.2", "4.1", "4.4", "130", "128.1")
}

# Group and element, little-endian, as in every enhanced file that is not deflated.
_PLANE_POSITION, _POSITION = b"\x20\x00\x13\x91", b"\x20\x00\x32\x00"
_PLANE_ORIENTATION, _ORIENTATION = b"\x20\x00\x16\x91", b"\x20\x00\x37\x00"
_MEASURES, _PIXEL_SPACING = b"\x28\x00\x10\x91", b"\x28\x00\x30\x00"
_TRANSFORMATION, _INTERCEPT, _SLOPE = b"\x28\x00\x45\x91", b"\x28\x00\x52\x10", b"\x28\x00\x53\x10"
_ITEM = b"\xfe\xff\x00\xe0"
_MOST_ELEMENTS = 8  # of an item that are looked through


@dataclass(frozen=True)
class Frames:
    """What a file says of its frames, as text: of each one in their order, or once of all.

    Attributes:
        positions: of the first pixels.
        orientations: directions of i and of j.
        spacings: distances of rows and of columns.
        scalings: intercept and slope.
    """

    positions: list[str]
    orientations: list[str]
    spacings: list[str]
    scalings: list[tuple[str, str]]


def read_frames(file: Path) -> Frames:
    """Look up the functional groups of a multi-frame file; the lists are empty where it has none.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return Frames(
            [_text(data, at, _POSITION) for at in _items(data, _PLANE_POSITION)],
            [_text(data, at, _ORIENTATION) for at in _items(data, _PLANE_ORIENTATION)],
            [_text(data, at, _PIXEL_SPACING) for at in _items(data, _MEASURES)],
            [(_text(data, at, _INTERCEPT), _text(data, at, _SLOPE)) for at in _items(data, _TRANSFORMATION)],
        )


def _items(data: mmap.mmap, sequence: bytes) -> Iterator[int]:
    """Where the content of each sequence's first item begins; explicit or implicit type of value."""
    pattern = re.escape(sequence) + rb"(?:SQ\x00\x00)?.{4}" + re.escape(_ITEM) + rb".{4}"
    return (found.end() for found in re.finditer(pattern, data, re.DOTALL))


def _text(data: mmap.mmap, at: int, tag: bytes) -> str:
    """The text of an element of an item whose elements are short ones; empty where there is none."""
    for _ in range(_MOST_ELEMENTS):
        header = data[at : at + 8]
        if len(header) < 8 or header.startswith(b"\xfe\xff"):
            break
        is_explicit = header[4:6].isalpha() and header[4:6].isupper()
        begin, at = at + 8, at + 8 + struct.unpack("<xxxxxxH" if is_explicit else "<xxxxI", header)[0]
        if header.startswith(tag):
            return data[begin:at].decode("ascii", "replace").strip(" \0")
    return ""
