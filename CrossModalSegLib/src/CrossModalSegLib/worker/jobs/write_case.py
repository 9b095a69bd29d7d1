"""A scribbled case written to files, for a cohort."""

from __future__ import annotations

from CrossModalSegLib.io import write_volume
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import WriteCaseRequest, WriteCaseResult


def run(request: WriteCaseRequest, context: Context) -> WriteCaseResult:
    """Write images and scribbles as .nrrd.

    Raises:
        OutputError: a file cannot be written.
        Cancelled: on request; whoever made the folder removes it.
    """
    folder, name = request.folder, request.name
    images = {modality: folder / f"{name}_{modality}.nrrd" for modality in request.images}
    for modality, path in images.items():
        context.progress(request.number - 1, request.total, f"writing case {request.number} of {request.total}")
        write_volume(request.images[modality], path, compress=False)
    context.cancel.raise_if_cancelled()
    scribbles = folder / f"{name}_scribbles.nrrd"
    write_volume(request.scribbles, scribbles)
    return WriteCaseResult(images, scribbles)
