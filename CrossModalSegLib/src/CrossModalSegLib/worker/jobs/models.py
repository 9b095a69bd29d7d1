"""The models that are installed: list, look at, install, write out, delete."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from pathlib import Path

from CrossModalSegLib.errors import ModelError, OutputError, TakenError
from CrossModalSegLib.inference.model_folder import (
    CARD_FILE,
    WEIGHTS_FILE,
    find_model,
    list_models,
    load_model,
    models_folder,
    read_card,
    shipped_models_folder,
)
from CrossModalSegLib.inference.model_import import import_model
from CrossModalSegLib.output import atomic_path, check_spares
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import (
    DeleteModelRequest,
    ExportModelRequest,
    ExportModelResult,
    ImportModelRequest,
    Model,
    ModelInfoRequest,
    ModelInfoResult,
    ModelsRequest,
    ModelsResult,
)


def run(request: ModelsRequest, context: Context) -> ModelsResult:  # noqa: ARG001 - every job has the same form
    """The models that are found by name; damaged ones are listed with what is wrong."""
    return _listed()


def info(request: ModelInfoRequest, context: Context) -> ModelInfoResult:
    """Load a model, so that damage shows.

    Raises:
        ModelError: there is none, or it is not usable.
    """
    context.progress(0, 0, "loading the model")
    return model_info(find_model(request.model), request.model)


def install(request: ImportModelRequest, context: Context) -> ModelInfoResult:
    """Install a model.

    Raises:
        ModelError: the source is not a usable model.
        TakenError: one of that name exists.
        OutputError: it cannot be written.
    """
    context.progress(0, 0, "installing the model")
    try:
        folder = import_model(request.source, None, request.name, overwrite=request.overwrite)
    except TakenError as error:
        raise TakenError(
            f"A model '{error.path.name}' is installed already. Replace it, or import this one under another name.",
            error.path,
        ) from error
    return model_info(folder, folder.name)


def export(request: ExportModelRequest, context: Context) -> ExportModelResult:
    """Write a model as a zip archive or a MONAI bundle.

    Raises:
        ModelError: there is none, or it is not usable.
        OutputError: the place exists or cannot be written.
    """
    context.progress(0, 0, "writing the model")
    if request.form == "bundle":
        from CrossModalSegLib.inference.bundle import export_bundle

        return ExportModelResult(export_bundle(request.model, request.out, overwrite=request.overwrite))
    _write_zip(find_model(request.model), request.out, request.overwrite)
    return ExportModelResult(request.out)


def delete(request: DeleteModelRequest, context: Context) -> ModelsResult:
    """Delete an installed model.

    Raises:
        ModelError: there is none of that name, or it ships with the library.
    """
    folder = list_models().get(request.name)
    if folder is None:
        raise ModelError(f"There is no installed model '{request.name}'.")
    if _is_shipped(folder):
        raise ModelError(f"The model '{request.name}' comes with the library and stays.")
    doomed = folder.with_name(f".old-{secrets.token_hex(4)}-{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
    context.store.models.clear()
    return _listed()


def _listed() -> ModelsResult:
    found = sorted(list_models().items())
    return ModelsResult(tuple(_model(name, folder) for name, folder in found), models_folder())


def _model(name: str, folder: Path) -> Model:
    size = sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
    try:
        card = read_card(folder)
    except ModelError as error:
        return Model(name, folder, _is_shipped(folder), size, str(error))
    return Model(
        name=name,
        folder=folder,
        is_shipped=_is_shipped(folder),
        bytes=size,
        problem=None
        if card.task
        else f"It is a {card.architecture} of single slices, for comparisons; nothing here uses it.",
        task=card.task,
        architecture=card.architecture,
        modalities=card.modalities,
        labels=card.labels,
        licence=card.licence,
        provenance=card.provenance,
        metrics=card.metrics,
    )


def model_info(folder: Path, name: str) -> ModelInfoResult:
    """A model, loaded and checked.

    Raises:
        ModelError: it is not usable.
    """
    network = load_model(folder).network
    return ModelInfoResult(_model(name, folder), sum(parameter.numel() for parameter in network.parameters()))


def _is_shipped(folder: Path) -> bool:
    return folder.parent == shipped_models_folder()


def _write_zip(folder: Path, out: Path, overwrite: bool) -> None:
    load_model(folder)  # nobody shall be given a damaged one
    if out.suffix.lower() != ".zip":
        raise OutputError(f"A model is written to a .zip file, got '{out.name}'; rename it.")
    if out.exists() and not overwrite:
        raise OutputError(f"The file '{out}' exists; name another one, or ask to overwrite it.")
    check_spares(out, (folder,))
    files = [folder / CARD_FILE, folder / WEIGHTS_FILE, *sorted(folder.glob("*.txt"))]
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for path in files:
            archive.write(path, f"{folder.name}/{path.name}")
