"""How large the segmented structures are."""

from __future__ import annotations

import numpy as np

from ..labels import LabelTable
from ..volume import Volume


def milliliters(labels: Volume, table: LabelTable) -> dict[str, float]:
    """The volume of each class in ml, by name."""
    counts = np.bincount(labels.array.ravel(), minlength=table.num_classes)
    return {label.name: float(counts[label.value]) * labels.voxel_ml for label in table.labels}
