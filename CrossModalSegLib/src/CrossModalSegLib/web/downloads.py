"""What can be downloaded, written to a private file first."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from CrossModalSegLib.errors import InputError, OutputError
from CrossModalSegLib.io import write_segmentation
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume

from .uploads import safe_name

if TYPE_CHECKING:
    from .session import Session

_RESULT = re.compile(r"(\d{1,4})\.(nii\.gz|seg\.nrrd)")


@dataclass(frozen=True, eq=False)
class Download:
    """A label map on its way to a browser.

    Attributes:
        labels: on the grid of its image.
        table: its classes.
        suffix: of the file.
        name: that the file shall have for the person.
    """

    labels: Volume
    table: LabelTable
    suffix: str
    name: str

    @property
    def disposition(self) -> str:
        """The header that names the file, in any script."""
        plain = self.name.encode("ascii", "replace").decode().replace("?", "_")
        return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(self.name)}"

    def content(self, folder: Path) -> bytes:
        """The bytes of the file, which is in a private folder for a moment; in any thread.

        Raises:
            OutputError: it cannot be written.
        """
        path = folder / f"download-{secrets.token_hex(8)}{self.suffix}"
        try:
            write_segmentation(self.labels, self.table, path)
            return path.read_bytes()
        except OutputError as error:
            raise OutputError(str(error).replace(str(path), self.name)) from error
        finally:
            path.unlink(missing_ok=True)


def download_of(session: Session, wanted: str) -> Download:
    """Copy out of the scene what a browser asks for.

    Args:
        session: what of.
        wanted: "scribbles.seg.nrrd", or the number of an image with ".nii.gz" or ".seg.nrrd": addresses name nobody.

    Raises:
        InputError: there is none.
        CrossModalSegError: it cannot be read.
    """
    if wanted == "scribbles.seg.nrrd":
        return Download(*session.stroke_labels(), ".seg.nrrd", safe_name(f"{session.primary.name} scribbles.seg.nrrd"))
    match = _RESULT.fullmatch(wanted)
    if match is None or int(match[1]) >= len(session.images):
        raise InputError("There is no such file.")
    image, suffix = session.images[int(match[1])], f".{match[2]}"
    name = safe_name(f"{image.name} segmentation{suffix}")
    return Download(*session.result_labels(image.identity), suffix, name)
