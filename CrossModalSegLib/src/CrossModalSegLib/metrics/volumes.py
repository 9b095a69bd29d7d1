"""How large the segmented structures are."""

from __future__ import annotations

import numpy as np

from ..labels import LabelTable
from ..volume import Volume


def milliliters(labels: Volume, table: LabelTable) -> dict[str, float]:
    """The volume of each class in ml, by name."""
    # A slice at a time: as it counts, numpy holds 8 bytes for each voxel.
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in labels.array)
    return {label.name: float(counts[label.value]) * labels.voxel_ml for label in table.labels}
