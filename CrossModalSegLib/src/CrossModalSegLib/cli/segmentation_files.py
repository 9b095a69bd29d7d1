"""The files of a segmentation: labels, and on request probabilities and uncertainty."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from CrossModalSegLib.io import write_volume
from CrossModalSegLib.io.image_io import fits_nifti
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume

SHEARED_NOTE = (
    "the image is sheared (a tilted gantry), which NIfTI cannot hold: .nrrd files are written instead of .nii.gz."
)


def write_on_grid(volume: Volume, folder: Path, name: str) -> Path:
    """Write `name`.nii.gz, or `name`.nrrd where the grid is sheared, which NIfTI cannot hold.

    Returns:
        The file.
    """
    path = folder / f"{name}{'.nii.gz' if fits_nifti(volume) else '.nrrd'}"
    write_volume(volume, path)
    return path


def write_probabilities(probabilities: np.ndarray, grid: Volume, table: LabelTable, folder: Path) -> list[Path]:
    """Write one image a class.

    Args:
        probabilities: (K + 1, k, j, i) float32 on the grid.
        grid: gives the place of the voxels.
        table: the classes.
        folder: where `probability_<value>_<name>.nii.gz` go (.nrrd on a sheared grid), background as value 0.

    Returns:
        The files.
    """
    paths = []
    for value, (name, array) in enumerate(zip(("background", *table.names), probabilities, strict=True)):
        volume = grid.with_array(np.asarray(array, dtype=np.float32))
        paths.append(write_on_grid(volume, folder, f"probability_{value}_{file_name_part(name)}"))
    return paths


def file_name_part(name: str) -> str:
    """A label name with everything that file names should not hold replaced by "_"."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "label"
