"""The files that every fit leaves: labels in two formats, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from CrossModalSegLib.cli.segmentation_files import write_on_grid
from CrossModalSegLib.io import write_segmentation
from CrossModalSegLib.report import write_curve, write_overlay

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.fitting.fit_case import FitResult
    from CrossModalSegLib.labels import LabelTable
    from CrossModalSegLib.volume import Volume


def write_fit(
    result: FitResult, loaded: LoadedCase, table: LabelTable, folder: Path, reference: Volume | None = None
) -> None:
    """Write segmentation.nii.gz (.nrrd on a sheared grid), segmentation.seg.nrrd, overlay.png and curve.png.

    Args:
        result: of the fit.
        loaded: the images and scribbles it was made from.
        table: the classes.
        folder: an existing folder.
        reference: true mask, outlined in the overlay.
    """
    write_on_grid(result.labels, folder, "segmentation")
    write_segmentation(result.labels, table, folder / "segmentation.seg.nrrd")
    write_overlay(
        folder / "overlay.png", loaded.images, result.labels, table, mask=reference, scribbles=loaded.scribbles
    )
    write_curve(result.history, folder / "curve.png")
