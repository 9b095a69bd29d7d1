"""What can be downloaded, written to a private file first."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from CrossModalSegLib.errors import InputError

from .uploads import safe_name

if TYPE_CHECKING:
    from .session import Session

_RESULT = re.compile(r"(\d{1,4})\.(nii\.gz|seg\.nrrd)")


def written(session: Session, wanted: str, folder: Path) -> tuple[Path, str]:
    """Write a file for a download.

    Args:
        session: what of.
        wanted: "scribbles.seg.nrrd", or the number of an image with ".nii.gz" or ".seg.nrrd": addresses name nobody.
        folder: a private one.

    Returns:
        The file, which the caller deletes, and the name it shall have.

    Raises:
        InputError: there is none.
        CrossModalSegError: it cannot be written.
    """
    if wanted == "scribbles.seg.nrrd":
        path = folder / f"download-{secrets.token_hex(8)}.seg.nrrd"
        session.write_scribbles(path)
        return path, _ascii(f"{session.primary.name} scribbles.seg.nrrd")
    match = _RESULT.fullmatch(wanted)
    if match is None or int(match[1]) >= len(session.images):
        raise InputError("There is no such file.")
    image = session.images[int(match[1])]
    path = folder / f"download-{secrets.token_hex(8)}.{match[2]}"
    session.write_result(image.identity, path)
    return path, _ascii(f"{image.name} segmentation.{match[2]}")


def _ascii(name: str) -> str:
    return safe_name(name).encode("ascii", "replace").decode().replace("?", "_")
