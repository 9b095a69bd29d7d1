"""Losses on the mask features themselves, beside those on the masks of queries.

Queries learn slowly at first, since a mask needs a good embedding and good features at once. Two losses on all pixels
give the features a direct signal: which organ a pixel belongs to, told by a layer that is thrown away after the
training; and whether a pixel of the target resembles the mean feature under the reference's scribble, which holds for
any organ. Ours; the paper has neither.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.losses.point_sampling import as_floats
from CrossModalSegLib.losses.referring import dice_term
from CrossModalSegLib.losses.unannotated import joined_with_background

# Cosines become logits as SCALE * cosine + OFFSET, both learned from here.
SCALE, OFFSET = 10.0, -5.0


class DenseGuidance(nn.Module):
    """Both losses, with the few weights that they need.

    Attributes:
        semantic: Mask features to classes.
        scale, offset: Of the resemblance.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        """New weights.

        Args:
            channels: Of the mask features.
            num_classes: Background included.
        """
        super().__init__()
        self.semantic = nn.Conv2d(channels, num_classes, 1)
        self.scale = nn.Parameter(torch.tensor(SCALE))
        self.offset = nn.Parameter(torch.tensor(OFFSET))

    def classes(self, mask_features: Tensor, labels: Tensor, annotated: Tensor | None = None) -> Tensor:
        """Dice plus cross-entropy of the organ of each pixel.

        Args:
            mask_features: (B, C, h, w).
            labels: (B, H, W) class values; H and W are multiples of h and w.
            annotated: (B, at least the number of classes) bool, the values that the labels tell; None: all.

        Returns:
            Scalar, fp32.
        """
        logits = self.semantic(mask_features)
        if annotated is not None:
            logits = joined_with_background(logits, annotated[:, : logits.shape[1]])
        # The loss is one of volumes: each slice is one of a single layer.
        return full_supervision(logits[:, :, None], _thinned(labels, logits.shape[-2:]).long()[:, None], "dice_ce")

    def resemblance(self, mask_features: Tensor, prototype: Tensor, masks: Tensor, wanted: Tensor) -> Tensor:
        """BCE plus Dice of the resemblance to the prototype as a mask.

        Args:
            mask_features: (B, C, h, w) of the targets.
            prototype: (B, K, C) of the references.
            masks: (B, K, H, W) of the targets, 1 or True in the organ; H and W are multiples of h and w.
            wanted: (B, K) bool, which of them count.

        Returns:
            Scalar, fp32; zero with a graph where none counts.
        """
        with torch.autocast(mask_features.device.type, enabled=False):
            cosine = _cosine(mask_features.float(), prototype.float())
            logits = (self.scale * cosine + self.offset)[wanted].flatten(1)
            if len(logits) == 0:
                return logits.sum()
            shares = _shares(as_floats(masks), cosine.shape[-2:])[wanted].flatten(1)
            return functional.binary_cross_entropy_with_logits(logits, shares) + dice_term(logits, shares)


def _cosine(features: Tensor, vectors: Tensor) -> Tensor:
    """Of features (B, C, h, w) with vectors (B, K, C): (B, K, h, w)."""
    products = torch.einsum("bkc,bchw->bkhw", functional.normalize(vectors, dim=-1), features)
    # The few products are divided instead of all channels, and squares are summed, whose gradient takes fewer passes
    # than that of a norm.
    return products / features.square().sum(1, keepdim=True).clamp_min(1e-24).sqrt()


def _shares(masks: Tensor, size: torch.Size) -> Tensor:
    """Masks (..., H, W) on a grid (h, w) that divides theirs: what they cover of each coarse pixel.

    The mean of blocks, as of `avg_pool2d`, in a third of the time.
    """
    rows, columns = masks.shape[-2] // size[0], masks.shape[-1] // size[1]
    of_rows = masks.unflatten(-2, (size[0], rows)).sum(-2)
    return sum(of_rows[..., column::columns] for column in range(columns)) / (rows * columns)


def _thinned(labels: Tensor, size: torch.Size) -> Tensor:
    """Every so manieth label, from the middle of each coarse pixel."""
    rows, columns = labels.shape[-2] // size[0], labels.shape[-1] // size[1]
    if (rows * size[0], columns * size[1]) != tuple(labels.shape[-2:]):
        raise InputError(
            f"Labels are compared with features on a grid that divides theirs; got {tuple(labels.shape[-2:])} labels "
            f"and {tuple(size)} features. Use an image size that is a multiple of 32."
        )
    return labels[..., rows // 2 :: rows, columns // 2 :: columns]
