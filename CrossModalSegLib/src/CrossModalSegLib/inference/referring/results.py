"""What a referring segmentation gives, and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from CrossModalSegLib.data.referring.pairing import Matching
from CrossModalSegLib.inference.referring.answers import SliceAnswers
from CrossModalSegLib.inference.referring.tuning import TuningReport
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.volume import Volume


@dataclass(frozen=True)
class VolumeReport:
    """How a volume was segmented.

    Attributes:
        matching: Which reference slices serve a slice of the volume: those nearest by "position" in the patient, or by
            relative "order" among the slices, where the volumes do not overlap in space.
        overlap: Share of the volume that lies within the reference, or of the reference within it, 0 to 1.
        slices: Axial slices of the volume.
        present: Names of the organs that were found.
        slices_with: In how many slices, by organ.
        milliliters: By organ.
        seconds: For its segmentation, without what was known of the image before.
    """

    matching: Matching
    overlap: float
    slices: int
    present: tuple[str, ...]
    slices_with: dict[str, int]
    milliliters: dict[str, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """The segmentation of one volume.

    Attributes:
        labels: uint8, 0 background and 1..K, on the volume's own grid.
        probabilities: (K + 1, k, j, i) float32 that add to one, or None.
        report: How it was made.
    """

    labels: Volume
    probabilities: np.ndarray | None
    report: VolumeReport


@dataclass(frozen=True, eq=False)
class ReferResult:
    """What the strokes on the reference say about every volume.

    Attributes:
        segmentations: uint8, 0 background and 1..K, each on its volume's own grid: "reference", then the targets.
        probabilities: By volume, (K + 1, k, j, i) float32 that add to one; empty where not asked for.
        reports: By volume.
        tuning: What tuning on the strokes brought; None where not asked for.
        unseen: Names of organs that the model was not trained on.
        seconds: In all.
    """

    segmentations: dict[str, Volume]
    probabilities: dict[str, np.ndarray]
    reports: dict[str, VolumeReport]
    tuning: TuningReport | None
    unseen: tuple[str, ...]
    seconds: float


def answered_labels(answers: SliceAnswers, scribbles: np.ndarray | None) -> np.ndarray:
    """The label map in the image's own storage order, uint8 (k, j, i).

    Args:
        answers: For all slices.
        scribbles: (k, j, i) uint8 of this image: scribbled voxels have what was drawn. None where it has no scribbles.
    """
    labels = answers.source_labels()
    if scribbles is not None:
        drawn = scribbles != UNLABELLED
        labels[drawn] = scribbles[drawn]
    return labels


def slices_with(axial: np.ndarray, table: LabelTable) -> dict[str, int]:
    """In how many of the slices (S, rows, columns) each organ is."""
    return {label.name: int((axial == label.value).any(axis=(1, 2)).sum()) for label in table.labels}
