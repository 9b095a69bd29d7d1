"""The labelled voxels of several predictions, taken out once for the losses that look at nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.losses.partial_cross_entropy import check_targets, partial_cross_entropy


@dataclass(frozen=True, eq=False)
class LabelledVoxels:
    """Predictions and labels where something is labelled, of a whole batch.

    Attributes:
        log_probabilities: (B, L, C), of B predictions of L voxels; fp32, or fp64.
        labels: (L,) int64, classes 0..C-1.
    """

    log_probabilities: Tensor
    labels: Tensor

    @classmethod
    def of(cls, predictions: Sequence[Tensor], scribbles: Tensor) -> LabelledVoxels:
        """Take them out.

        Args:
            predictions: B logits (N, C, k, j, i).
            scribbles: (N, k, j, i), any integer type: a class 0..C-1, or 255 where nothing is labelled.

        Raises:
            InputError: The shapes do not fit each other.
        """
        for logits in predictions:
            check_targets(logits, scribbles)
        labels, channels = scribbles.flatten(), predictions[0].shape[1]
        where = (labels != UNLABELLED).nonzero()  # asked once: a GPU is waited for at each such question
        voxels = scribbles[0].numel()
        first = where + where // voxels * ((channels - 1) * voxels)
        index = (first + voxels * torch.arange(channels, device=where.device)).flatten()
        with torch.autocast(scribbles.device.type, enabled=False):
            # Of flat numbers, since the gradient of an index in several dimensions is sorted first.
            values = torch.stack([each.flatten().index_select(0, index) for each in predictions])
            values = values.view(len(predictions), len(where), channels)
            values = values if values.dtype == torch.float64 else values.float()
            return cls(values.log_softmax(-1), labels[where[:, 0]].long())

    def cross_entropy(self) -> Tensor:
        """(B,): means of -log y; zero with a graph where nothing is labelled (Eq. 3)."""
        logs = self.log_probabilities
        own = logs.gather(-1, self.labels[None, :, None].expand(len(logs), -1, 1))
        return -own.sum((1, 2)) / max(1, len(self.labels))

    def dice(self, include_background: bool = False, smooth: float = 1e-5) -> Tensor:
        """(B,): 1 - soft Dice over the labelled voxels, averaged over the classes scribbled there.

        The partial Dice of ScribbleBench (Gotkowski et al., "Embarrassingly Simple Scribble Supervision for 3D Medical
        Segmentation", 2024). Classes without a scribble in the batch are left out: with nothing but other classes
        labelled their Dice would be 0 whatever the prediction. Zero with a graph when no class remains.

        Args:
            include_background: Whether class 0 counts.
            smooth: Added to the denominator.
        """
        probabilities = self.log_probabilities.exp()
        target = functional.one_hot(self.labels, probabilities.shape[-1]).to(probabilities.dtype)
        first = 0 if include_background else 1
        overlap = (probabilities * target).sum(1)[:, first:]
        size = (probabilities + target).sum(1)[:, first:]
        is_present = target.sum(0)[first:] > 0
        loss = (1.0 - 2.0 * overlap / (size + smooth)) * is_present
        return loss.sum(1) / is_present.sum().clamp(min=1)


def scribble_losses(predictions: Sequence[Tensor], scribbles: Tensor, with_dice: bool) -> tuple[Tensor, Tensor | None]:
    """Partial cross-entropy and, where it is asked for, partial Dice of several predictions: (B,) each.

    Args:
        predictions, scribbles: As in `LabelledVoxels.of`.
        with_dice: Without, there is None for it.
    """
    if not with_dice:  # where all voxels are labelled, taking them out would take longer than this
        return torch.stack([partial_cross_entropy(logits, scribbles) for logits in predictions]), None
    voxels = LabelledVoxels.of(predictions, scribbles)
    return voxels.cross_entropy(), voxels.dice()
