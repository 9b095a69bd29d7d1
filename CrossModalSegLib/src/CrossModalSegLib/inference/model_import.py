"""Installing a model from a folder or a zip archive that may come from anywhere."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from CrossModalSegLib.errors import ModelError, TakenError
from CrossModalSegLib.inference.model_card import check_model_name
from CrossModalSegLib.inference.model_folder import (
    CARD_FILE,
    WEIGHTS_FILE,
    load_model,
    models_folder,
    read_card,
    shipped_models_folder,
)
from CrossModalSegLib.output import atomic_folder

ALLOWED_SUFFIXES = frozenset({".safetensors", ".json", ".txt"})
MAX_FILES = 64
MAX_TOTAL_BYTES = 4 * 2**30
COPY_BYTES = 2**20


def import_model(
    source: str | Path, into: str | Path | None = None, name: str | None = None, *, overwrite: bool = False
) -> Path:
    """Check a model and copy it to where models are found by name.

    Only safetensors, JSON and text files are taken, from the folder or archive itself or from its one top folder;
    nothing is written outside of the model's own new folder, and the model is loaded once before it appears.

    Args:
        source: A model folder or a zip archive of one.
        into: Folder of models; None takes the user's.
        name: Of the installed model; None takes the name in the card.
        overwrite: Whether an installed model of that name may be replaced, or one that ships be hidden.

    Returns:
        The installed model's folder.

    Raises:
        ModelError: The source is missing, too large, holds other files or unsafe paths, or is not a usable model.
        OutputError: A model of that name exists, or is the source itself; or the place cannot be written.
    """
    source = Path(source)
    base = models_folder() if into is None else Path(into)
    if name is not None:
        check_model_name(name)
    # The name may only be known from the card, which lies in the source: so read it before choosing the folder.
    if source.is_dir():
        members = _folder_members(source)
        target = name or read_card(source).name
        _require_not_shipped(base, target, overwrite)
        with atomic_folder(base / target, overwrite=overwrite, inputs=(source,)) as temporary:
            _copy_files(members, temporary)
            _check_loads(temporary, source)
        return base / target
    return _import_zip(source, base, name, overwrite)


def _require_not_shipped(base: Path, name: str, overwrite: bool) -> None:
    """Check that no model that ships is hidden by another one of its name, unless this was asked for."""
    shipped = shipped_models_folder() / name
    if base == models_folder() and shipped.is_dir() and not overwrite:
        raise TakenError(
            f"A model '{name}' comes with the library, and this one would be used in its place; import it under "
            "another name, or ask to overwrite.",
            shipped,
        )


def _folder_members(source: Path) -> dict[str, Path]:
    members = {}
    for path in sorted(source.iterdir()):
        is_wanted = path.name in (WEIGHTS_FILE, CARD_FILE) or path.suffix.lower() == ".txt"
        if is_wanted and path.is_file() and not path.is_symlink():
            members[path.name] = path
    _check_complete(set(members), source)
    _check_size(sum(path.stat().st_size for path in members.values()), len(members), source)
    return members


def _copy_files(members: dict[str, Path], folder: Path) -> None:
    for name, path in members.items():
        shutil.copyfile(path, folder / name)


def _import_zip(source: Path, base: Path, name: str | None, overwrite: bool) -> Path:
    if not source.is_file():
        raise ModelError(f"There is no model folder or zip archive '{source}'.")
    try:
        with zipfile.ZipFile(source) as archive:
            members = _zip_members(archive, source)
            target = name or _name_in(archive, members[CARD_FILE], source)
            _require_not_shipped(base, target, overwrite)
            with atomic_folder(base / target, overwrite=overwrite, inputs=(source,)) as temporary:
                _extract(archive, members, temporary, source)
                _check_loads(temporary, source)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelError(f"'{source}' is not a usable zip archive ({error}): download it again.") from error
    return base / target


def _check_loads(temporary: Path, source: Path) -> None:
    """ModelError, which names the source instead of the copy, unless a copied model is usable."""
    try:
        load_model(temporary)
    except ModelError as error:
        raise ModelError(str(error).replace(str(temporary), str(source))) from error


def _zip_members(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    """Files of the archive by their bare name."""
    infos = [info for info in archive.infolist() if not info.is_dir() and not _is_passed_over(info)]
    _check_size(sum(info.file_size for info in infos), len(infos), source)
    tops = {PurePosixPath(info.filename).parts[:-1] for info in infos}
    for info in infos:
        _check_member(info, source)
    if len(tops) != 1 or len(next(iter(tops))) > 1:
        raise ModelError(
            f"The archive '{source}' must hold {CARD_FILE} and {WEIGHTS_FILE} at its top or in one folder."
        )
    members = {PurePosixPath(info.filename).name: info for info in infos}
    _check_complete(set(members), source)
    return members


def _is_passed_over(info: zipfile.ZipInfo) -> bool:
    """Whether it may lie beside a model and is never taken: what macOS adds, and the curve of the training."""
    path = PurePosixPath(info.filename)
    is_of_finder = "__MACOSX" in path.parts[:1] or path.name == ".DS_Store"
    return is_of_finder or path.suffix.lower() == ".png"


def _check_member(info: zipfile.ZipInfo, source: Path) -> None:
    path = PurePosixPath(info.filename)
    is_unsafe = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    if is_unsafe or stat.S_ISLNK(info.external_attr >> 16):
        raise ModelError(f"The archive '{source}' holds the unsafe path '{info.filename}': nothing was taken from it.")
    if info.flag_bits & 0x1:
        raise ModelError(f"The archive '{source}' is encrypted: unpack it and import the folder.")
    if path.suffix.lower() not in ALLOWED_SUFFIXES:
        raise ModelError(
            f"The archive '{source}' holds '{info.filename}': a model has only safetensors, JSON and text files. "
            "Nothing was taken from it."
        )


def _check_complete(names: set[str], source: Path) -> None:
    missing = [name for name in (WEIGHTS_FILE, CARD_FILE) if name not in names]
    if missing:
        raise ModelError(f"'{source}' is not a model: it has no {' and no '.join(missing)}.")


def _check_size(total: int, count: int, source: Path) -> None:
    if total > MAX_TOTAL_BYTES or count > MAX_FILES:
        raise ModelError(
            f"'{source}' holds {count} files of {total / 1e9:.1f} GB in all; a model has at most {MAX_FILES} files "
            f"and {MAX_TOTAL_BYTES / 1e9:.1f} GB."
        )


def _name_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        _extract(archive, {CARD_FILE: info}, Path(folder), source)
        return read_card(folder).name


def _extract(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path, source: Path) -> None:
    """Copy members under their bare names, no further than the sizes they declare."""
    for name, info in members.items():
        left = info.file_size
        with archive.open(info) as stream, (folder / name).open("wb") as out:
            while block := _block(stream, name, source):
                left -= len(block)
                if left < 0:
                    raise ModelError(f"The file '{name}' in '{source}' is larger than the archive declares.")
                out.write(block)


def _block(stream: IO[bytes], name: str, source: Path) -> bytes:
    """The next bytes of a member; each way of compression has an error of its own where they are damaged."""
    try:
        return stream.read(COPY_BYTES)
    except (zlib.error, LZMAError, OSError) as error:
        raise ModelError(
            f"'{source}' is not a usable zip archive: '{name}' in it is damaged ({error}). Download it again."
        ) from error
