"""Prepared arrays kept on disk under a hash of what they were made from; nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.output import atomic_path
from CrossModalSegLib.volume import Volume

if TYPE_CHECKING:
    from CrossModalSegLib.data.preprocess import Preprocessing
    from CrossModalSegLib.data.referring.slices import SlicePreprocessing

logger = logging.getLogger(__name__)

# Raised whenever the same input would be prepared differently.
CACHE_VERSION = 1
# The hash in the name of a cached case, and of its unfinished file.
_ENTRY = re.compile(r"[0-9a-f]{40}")


def case_key(images: dict[str, Volume], scribbles: Volume | None, mask: Volume | None, prep: Preprocessing) -> str:
    """Hash of the content of a case (voxels, affines, modality names) and of its preprocessing."""
    return content_key([*images.items(), ("scribbles", scribbles), ("mask", mask)], prep)


def content_key(volumes: Iterable[tuple[str, Volume | None]], prep: Preprocessing | SlicePreprocessing) -> str:
    """Hash of volumes (names, voxels, affines) and of how they are prepared."""
    digest = hashlib.blake2b(digest_size=20)
    digest.update(json.dumps({"version": CACHE_VERSION, "prep": asdict(prep)}, sort_keys=True).encode())
    for name, volume in volumes:
        digest.update(f"|{name}|".encode())
        if volume is not None:
            array = np.ascontiguousarray(volume.array)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(volume.affine, np.float64).tobytes())
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()


def load_arrays(
    folder: Path, key: str, expected: dict[str, tuple[tuple[int, ...], str]]
) -> dict[str, np.ndarray] | None:
    """The arrays stored under `key`, or None where there are none or not those with the expected shape and dtype."""
    path = _entry(folder, key)
    if not path.is_file():
        return None
    try:
        # Opened here, because np.load leaves a file open that it finds corrupt.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("The cached case %s cannot be read (%s): it is prepared again.", path, error)
        return None
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    if found != expected:
        logger.warning("The cached case %s holds something else than expected: it is prepared again.", path)
        return None
    return arrays


def store_arrays(folder: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Keep the arrays under `key`; the entry appears at once or not at all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    # An open file, because np.savez appends ".npz" to a path that does not end so.
    with atomic_path(_entry(folder, key)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def is_cache(folder: Path) -> bool:
    """Whether a folder holds prepared cases, or what is left of them, and nothing else."""
    return Path(folder).is_dir() and all(_ENTRY.search(path.name) for path in Path(folder).iterdir())


def remove_cache(folder: Path) -> None:
    """Remove the prepared cases in a folder, and the folder unless something else is in it."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _ENTRY.search(path.name) and path.is_file():
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _entry(folder: Path, key: str) -> Path:
    return Path(folder) / f"{key}.npz"
