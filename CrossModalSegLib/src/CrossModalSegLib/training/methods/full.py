"""Full supervision by dense masks: the upper bound of Tables I to III."""

from __future__ import annotations

from CrossModalSegLib.training.methods.pce import PartialCrossEntropy


class FullSupervision(PartialCrossEntropy):
    """Cross-entropy (+ Dice) over all voxels; the batches carry masks, 255 only beyond the volume."""
