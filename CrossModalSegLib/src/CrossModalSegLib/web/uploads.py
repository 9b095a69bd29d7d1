"""Files that come from a browser: kept apart from everything else, and gone as soon as they are read."""

from __future__ import annotations

import math
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from CrossModalSegLib.cohort import as_file_name
from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.io.dicom_series import without_warnings
from CrossModalSegLib.io.image_io import READABLE, split_suffix

_LONGEST_NAME = 80
_LONGEST_NAME_BYTES = 200  # file systems take 255 bytes, and a number may be added
_LONGEST_HEADER = 2**16
_MAX_VOXELS = 1024**3
_MAX_FILES = 5000
_DETACHED = (".nhdr", ".mhd")
_DICOM_FOLDER = "DICOM series"


def safe_name(name: str) -> str:
    """A file name without folders, control characters and all that a file system or a page could take amiss."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = as_file_name(re.sub(r"[^\w.\- ()]", "_", name), "file")
    stem, suffix = split_suffix(name)
    short = stem[: _LONGEST_NAME - len(suffix)].encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore")
    return f"{short}{suffix}"


@dataclass(frozen=True)
class Batch:
    """What came in one request.

    Attributes:
        folder: that holds it, and nothing else.
        paths: image files, and a folder of all DICOM files where there are any.
    """

    folder: Path
    paths: tuple[Path, ...]

    def discard(self) -> None:
        """Delete it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def problem(self, path: Path, error: CrossModalSegError) -> str:
        """What to say of one of the paths that could not be read; files go by their names only."""
        sentence = str(error)
        if path.is_dir() and not _holds_series(path):
            first = min(each.name for each in path.iterdir())
            sentence = (
                f"'{first}' is neither an image that can be read nor a slice of a DICOM series. Choose NIfTI, NRRD or "
                "MHA files, or all slices of one series."
            )
        return sentence.replace(f"{self.folder}/", "").replace(str(self.folder), "the files")


class Uploads:
    """Takes files into a private folder, up to a size in all."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Nothing is there yet.

        Args:
            folder: an existing private one.
            max_bytes: for all files of this page together.
        """
        self._folder, self._left, self._max = folder, max_bytes, max_bytes

    async def receive(self, request: web.Request) -> Batch:
        """Write the files of a multipart request; those of a refused one do not count.

        Raises:
            InputError: they are too large or too many, or there is none, or the request is malformed.
        """
        folder = self._folder / f"upload-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            count = 0
            with _well_formed():
                parts = await request.multipart()
            while (part := await _next_part(parts)) is not None:
                if part.filename:
                    count += 1
                    if count > _MAX_FILES:
                        raise InputError(f"At most {_MAX_FILES} files can be sent at a time.")
                    await self._write(part, _free(folder, safe_name(part.filename)))
            return Batch(folder, _sorted_out(folder))
        except BaseException:
            self._left += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def _write(self, part: BodyPartReader, path: Path) -> None:
        with _space_for(path), path.open("xb") as file:
            while chunk := await _next_chunk(part):
                if len(chunk) > self._left:
                    raise InputError(
                        f"The files are larger than the {self._max / 2**20:.0f} MB that this page takes. Crop them, or "
                        "start the program with a larger --max-upload-mb."
                    )
                file.write(chunk)
                self._left -= len(chunk)


async def _next_part(parts: MultipartReader) -> BodyPartReader | None:
    with _well_formed():
        part = await parts.next()
        if isinstance(part, MultipartReader):
            raise ValueError("parts within a part")
        return part


async def _next_chunk(part: BodyPartReader) -> bytes:
    with _well_formed():
        return await part.read_chunk(2**18)


@contextmanager
def _space_for(path: Path) -> Iterator[None]:
    """Turns what the system raises for a full disk into a sentence."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise InputError(
            f"There is no room for '{path.name}' where the page runs ({error.strerror or error}). Files are kept there "
            "only while they are read: free some space for temporary files, and send it again."
        ) from error


@contextmanager
def _well_formed() -> Iterator[None]:
    """Turns what aiohttp raises for a malformed request into a sentence."""
    try:
        yield
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as error:
        raise InputError("The files did not come as a browser sends them. Choose them again.") from error


def require_harmless(path: Path) -> None:
    """Check that a file holds its own voxels, rather than naming another file, and not far too many of them.

    Raises:
        InputError: it does not.
    """
    if path.is_dir():
        return
    if path.name.lower().endswith(_DETACHED) or _names_another_file(path):
        raise InputError(
            f"'{path.name}' keeps its voxels in another file, which a page cannot take. Save it as one file, such as "
            ".nrrd, .mha or .nii.gz."
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # whoever reads the voxels says what is wrong
    if math.prod(reader.GetSize()) > _MAX_VOXELS:
        raise InputError(f"'{path.name}' has more than {_MAX_VOXELS:,} voxels. Crop it or reduce its resolution.")


def _names_another_file(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith((".nrrd", ".mha")):
        return False
    with path.open("rb") as file:
        for line in file.read(_LONGEST_HEADER).split(b"\n"):
            if name.endswith(".nrrd"):
                if not line.strip():
                    return False
                if re.match(rb"data ?file\s*:", line, re.IGNORECASE):
                    return True
            elif line.lower().startswith(b"elementdatafile"):
                return line.split(b"=")[-1].strip().upper() != b"LOCAL"
    # A header without an end.
    return True


def _holds_series(folder: Path) -> bool:
    with without_warnings():
        return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _free(folder: Path, name: str) -> Path:
    stem, suffix = split_suffix(name)
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{stem} ({number}){suffix}"
    return path


def _sorted_out(folder: Path) -> tuple[Path, ...]:
    """Image files as they are, and all others as the slices of a DICOM series in a folder."""
    files = sorted(folder.iterdir())
    images = [path for path in files if path.name.lower().endswith(READABLE)]
    slices = [path for path in files if path not in images]
    if not files:
        raise InputError("No file came. Choose image files, or a folder with a DICOM series.")
    if slices:
        series = folder / _DICOM_FOLDER
        series.mkdir()
        for path in slices:
            path.rename(series / path.name)
        return (*images, series)
    return tuple(images)
