"""Enhanced multi-frame DICOM: each frame lies where its own functional group says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.io import read_volume
from CrossModalSegLib.volume import Volume, same_geometry
from grids import grid_affine

SHAPE = (7, 6, 5)
AFFINE = grid_affine((1.25, 0.5, 3.0), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
VOLUME = Volume(np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int32), AFFINE)
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@dataclass
class Enhanced:
    """What a test writes; the frames are those of a volume, in an order of their own."""

    volume: Volume = VOLUME
    order: Sequence[int] = range(SHAPE[0])
    syntax: str = EXPLICIT
    slopes: Sequence[float] | None = None
    positions: list[str] | None = None
    orientations: list[str] | None = None
    spacing: str = ""
    last_spacing: str = ""
    has_groups: bool = True

    number: int = 4

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"frames{self.number}").write_bytes(self._meta() + self._header() + self._pixels())
        return folder

    def _element(self, tag: int, kind: str, value: object, syntax: str = "") -> bytes:
        data = {"US": lambda: struct.pack("<H", value), "OW": lambda: value, "SQ": lambda: self._items(value)}.get(
            kind, lambda: str(value).encode("ascii")
        )()
        data += (b"\0" if kind == "UI" else b" ") * (len(data) % 2)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if (syntax or self.syntax) == IMPLICIT:
            return head + struct.pack("<I", len(data)) + data
        length = struct.pack("<xxI" if kind in ("OW", "SQ") else "<H", len(data))
        return head + kind.encode() + length + data

    @staticmethod
    def _items(items: list[bytes]) -> bytes:
        return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)

    def _meta(self) -> bytes:
        inner = b"".join(
            self._element(tag, "UI", value, EXPLICIT)
            for tag, value in (
                (0x00020002, ENHANCED_CT),
                (0x00020003, f"1.2.3.{self.number}"),
                (0x00020010, self.syntax),
            )
        )
        return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(inner)) + inner

    def _header(self) -> bytes:
        _, rows, columns = self.volume.shape
        elements = [
            (0x00080016, "UI", ENHANCED_CT),
            (0x00080018, "UI", f"1.2.3.{self.number}"),
            (0x00080060, "CS", "CT"),
            (0x0020000D, "UI", "1.2.3"),
            (0x0020000E, "UI", "1.2.3.5"),
            (0x00280002, "US", 1),
            (0x00280004, "CS", "MONOCHROME2"),
            (0x00280008, "IS", len(self.order)),
            (0x00280010, "US", rows),
            (0x00280011, "US", columns),
            *(
                (tag, "US", value)
                for tag, value in ((0x00280100, 16), (0x00280101, 16), (0x00280102, 15), (0x00280103, 0))
            ),
        ]
        if self.has_groups:
            elements += [(0x52009229, "SQ", [self._shared()]), (0x52009230, "SQ", self._frames())]
        return b"".join(self._element(*each) for each in elements)

    def _shared(self) -> bytes:
        spacing = self.spacing or f"{self.volume.spacing[1]:.8g}\\{self.volume.spacing[2]:.8g}"
        return self._measures(spacing) + (b"" if self.slopes else self._scaling(1))

    def _measures(self, spacing: str) -> bytes:
        numbers = self._element(0x00180050, "DS", "9") + self._element(0x00280030, "DS", spacing)
        return self._element(0x00289110, "SQ", [numbers])

    def _scaling(self, slope: float) -> bytes:
        numbers = self._element(0x00281052, "DS", "-1024") + self._element(0x00281053, "DS", slope)
        return self._element(0x00289145, "SQ", [numbers + self._element(0x00281054, "LO", "HU")])

    def _frames(self) -> list[bytes]:
        direction = self.volume.direction
        same = "\\".join(f"{x:.9g}" for x in (*direction[:, 0], *direction[:, 1]))
        places = ["\\".join(f"{x:.8g}" for x in (self.volume.affine @ [0, 0, k, 1])[:3]) for k in self.order]
        frames = []
        for number, place in enumerate(self.positions or places):
            frame = self._element(0x00209113, "SQ", [self._element(0x00200032, "DS", place)])
            orientation = self.orientations[number] if self.orientations else same
            frame += self._element(0x00209116, "SQ", [self._element(0x00200037, "DS", orientation)])
            frames.append(frame + (self._scaling(self.slopes[number]) if self.slopes else b""))
        if self.last_spacing:
            frames[-1] += self._measures(self.last_spacing)
        return frames

    def _pixels(self) -> bytes:
        stored = (self.volume.array[list(self.order)] + 1024).astype("<u2")
        return self._element(0x7FE00010, "OW", stored.tobytes())


def check(folder: Path, volume: Volume = VOLUME) -> None:
    back = read_volume(folder)
    assert np.array_equal(back.array, volume.array)
    assert same_geometry(back, volume, 1e-3)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), (3, 0, 6, 1, 5, 2, 4)])
def test_frames_in_any_order(tmp_path: Path, order: Sequence[int], syntax: str):
    check(Enhanced(order=order, syntax=syntax).write(tmp_path))


def test_frames_of_a_tilted_gantry_keep_their_shear(tmp_path: Path):
    affine = AFFINE.copy()
    affine[:3, 2] += affine[:3, 1] / 0.5 * 3.0 * np.tan(np.radians(20))
    sheared = Volume(VOLUME.array, affine)
    check(Enhanced(sheared).write(tmp_path), sheared)


def test_frames_of_one_scaling_that_each_tells(tmp_path: Path):
    check(Enhanced(slopes=[1] * 7).write(tmp_path))


def test_frames_of_different_scalings_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="scaled by different numbers"):
        read_volume(Enhanced(slopes=[1] * 6 + [2]).write(tmp_path))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_file_for_each_frame(tmp_path: Path, syntax: str):
    for number in range(7):
        Enhanced(order=[(3 * number) % 7], syntax=syntax, number=number).write(tmp_path)
    check(tmp_path)


def test_several_files_of_many_frames(tmp_path: Path):
    for number in (4, 5):
        Enhanced(number=number).write(tmp_path)
    with pytest.raises(GeometryError, match="several files with many slices each, such as 'frames[45]'; put one"):
        read_volume(tmp_path)


def test_a_missing_frame(tmp_path: Path):
    with pytest.raises(GeometryError, match="distances run from 3 to 6 mm"):
        read_volume(Enhanced(order=(0, 1, 2, 4, 5, 6)).write(tmp_path))


def test_frames_of_several_phases(tmp_path: Path):
    with pytest.raises(GeometryError, match="several phases or echoes"):
        read_volume(Enhanced(order=(0, 1, 2, 0, 1, 2)).write(tmp_path))


def test_frames_that_are_not_parallel(tmp_path: Path):
    axes = ["1\\0\\0\\0\\1\\0"] * 6 + ["1\\0\\0\\0\\0\\1"]
    with pytest.raises(GeometryError, match="not parallel"):
        read_volume(Enhanced(orientations=axes).write(tmp_path))


def test_frames_whose_pixels_differ_in_size(tmp_path: Path):
    with pytest.raises(GeometryError, match="differ in the distance of their pixels: it runs from 0.5 to 9 mm"):
        read_volume(Enhanced(last_spacing="9\\9").write(tmp_path))


@pytest.mark.parametrize("changes", [{"has_groups": False}, {"positions": ["0\\0\\0"]}])
def test_frames_that_do_not_say_where_they_lie(tmp_path: Path, changes: dict[str, object]):
    with pytest.raises(GeometryError, match="7 frames, but does not say of each where it lies"):
        read_volume(Enhanced(**changes).write(tmp_path))


@pytest.mark.parametrize(
    "changes", [{"positions": ["nowhere"] * 7}, {"orientations": [""] * 7}, {"spacing": "1"}, {"spacing": "\\"}]
)
def test_numbers_that_are_none(tmp_path: Path, changes: dict[str, object]):
    with pytest.raises(InputError, match="does not say where its slice lies|damaged or of an unknown kind"):
        read_volume(Enhanced(**changes).write(tmp_path))
