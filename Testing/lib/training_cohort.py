"""A cohort of tiny CT and MR volumes on disk, and settings to train on it within seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from CrossModalSegLib.cohort import Case, Cohort, write_cohort
from CrossModalSegLib.io import write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.volume import Volume

SHAPE = (16, 32, 32)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def make_case(folder: Path, number: int, *, scribbled: bool = True, masked: bool = True) -> Case:
    """A bright ball on noise; scribbles on every other slice of ball and background."""
    rng = np.random.default_rng(number)
    k, j, i = np.indices(SHAPE)
    mask = ((k - 8) * 2) ** 2 + (j - 14 - number) ** 2 + (i - 16) ** 2 < 64
    ct = (100 * mask + rng.normal(0, 20, SHAPE)).astype(np.float32)
    mr = (300 - 200 * mask + rng.normal(0, 20, SHAPE)).astype(np.float32)
    scribbles = np.full(SHAPE, 255, np.uint8)
    scribbles[5:12:2, 13 + number : 15 + number, 14:18] = 1
    scribbles[1::2, 2, 4:28] = 0
    arrays = {"ct": ct, "mr": mr, "scribbles": scribbles, "mask": mask.astype(np.uint8)}
    paths = {name: folder / f"case{number}" / f"{name}.nii.gz" for name in arrays}
    for name, path in paths.items():
        write_volume(Volume(arrays[name], AFFINE), path)
    return Case(
        name=f"case{number}",
        images={"ct": paths["ct"], "mr": paths["mr"]},
        scribbles=paths["scribbles"] if scribbled else None,
        mask=paths["mask"] if masked else None,
        fold=number % 2,
    )


def make_cohort(folder: Path, count: int = 3, **kwargs: bool) -> Cohort:
    """`count` cases, also written to cohort.json."""
    cases = tuple(make_case(folder, number, **kwargs) for number in range(count))
    cohort = Cohort(("ct", "mr"), LabelTable.from_names(["tumour"]), ScribbleConvention(255, 0), cases, folder)
    write_cohort(cohort, folder / "cohort.json")
    return cohort


def tiny_config(**changes: object) -> TrainingConfig:
    """Four steps of partial cross-entropy with a network of two channels, in fp32."""
    settings: dict[str, object] = {
        "method": "pce",
        "network_options": {"base_channels": 2, "normalization": "none"},
        "patch_size": (16, 16, 16),
        "batch_size": 2,
        "steps": 4,
        "augmentation": "light",
        "precision": "fp32",
        "validation_share": 0.34,
        "validate_every": 2,
    }
    return TrainingConfig(**{**settings, **changes})
