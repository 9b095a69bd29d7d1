"""One step of a referring training as a module: a batch of pairs in, loss terms out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.data.referring.pair_sampler import NUM_LABELS, PairBatch
from CrossModalSegLib.inference.model_card import LEAST_PRESENCE
from CrossModalSegLib.losses.dense_guidance import DenseGuidance
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.losses.point_sampling import as_floats
from CrossModalSegLib.losses.referring import ReferringLoss
from CrossModalSegLib.losses.unannotated import joined_with_background
from CrossModalSegLib.models.crossmr import CrossMR, choose, chosen
from CrossModalSegLib.models.unet2d import UNet2d
from CrossModalSegLib.training.methods.method import with_total


class CrossMRStep(nn.Module):
    """CrossMR on pairs, in one direction or in both.

    All images of a batch are encoded once. Both ways, each side is the reference of the other, which doubles what is
    learned from an encoding.
    """

    def __init__(
        self, network: CrossMR, loss: ReferringLoss, both_ways: bool, guidance: DenseGuidance | None = None
    ) -> None:
        """A step.

        Args:
            network: CrossMR.
            loss: Of its predictions.
            both_ways: Whether the targets are references, too.
            guidance: Losses of the mask features; None for none.
        """
        super().__init__()
        self.network, self.loss, self.both_ways, self.guidance = network, loss, both_ways, guidance

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Loss terms, "total" among them, of `PairBatch.tensors`: Fabric converts tensors, but no frozen batch."""
        batch = PairBatch(*tensors)
        size = batch.size
        features = self.network.encode(batch.images.flatten(0, 1))
        if self.both_ways:
            sources, targets = list(range(2 * size)), [*range(size, 2 * size), *range(size)]
            masks, present = batch.masks.flip(0).flatten(0, 1), batch.present.flip(0).flatten(0, 1)
            scribbles, organs = batch.scribbles.flatten(0, 1), batch.organs.flatten(0, 1)
            # Tokens across the batch stay within a direction: else a target's own strokes would be among them.
            ids = torch.cat([batch.organ_ids, batch.organ_ids + NUM_LABELS])
        else:
            sources, targets = list(range(size)), list(range(size, 2 * size))
            masks, present = batch.masks[1], batch.present[1]
            scribbles, organs, ids = batch.scribbles[0], batch.organs[0], batch.organ_ids
        masks = as_floats(masks)  # once for all losses
        tokens = self.network.sample(features.index(sources), scribbles, ids)
        aims = features.index(targets)
        terms = self.loss(self.network.decode(aims, tokens), masks, present, organs)
        if self.guidance is not None:
            terms["classes"] = self.guidance.classes(
                features.mask_features, batch.labels.flatten(0, 1), batch.annotated.flatten(0, 1)
            )
            terms["resemblance"] = self.guidance.resemblance(
                aims.mask_features, tokens.prototype, masks, present & organs
            )
        return with_total(terms)

    def judge(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The loss from references to targets, and (B, K, H, W) bool: what is found of each organ in the targets.

        The loss is that of the answers, the last head's chosen queries. The term of the choice among queries is left
        out: it grows in compact networks while their masks get better, and would outweigh them. A bad choice shows in
        the masks.
        """
        size = batch.size
        features = self.network.encode(batch.images.flatten(0, 1))
        tokens = self.network.sample(features.index(slice(0, size)), batch.scribbles[0])
        answers = chosen(self.network.decode_last(features.index(slice(size, None)), tokens))
        loss = replace(self.loss, within_organ=True)
        terms = loss([answers], batch.masks[1], batch.present[1], batch.organs[0])
        logits, presence = choose(answers)
        logits = functional.interpolate(logits, batch.images.shape[-2:], mode="bilinear", align_corners=False)
        return sum(terms.values()), (logits > 0) & (presence >= LEAST_PRESENCE)[..., None, None]


class UNetStep(nn.Module):
    """A 2D U-Net on the targets of pairs."""

    def __init__(self, network: UNet2d) -> None:
        super().__init__()
        self.network = network

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """As that of `CrossMRStep`."""
        batch = PairBatch(*tensors)
        return with_total({"dice_ce": self._loss(self.network(batch.images[1]), batch)})

    def judge(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """As that of `CrossMRStep`."""
        logits = self.network(batch.images[1])
        return self._loss(logits, batch), logits.argmax(1)[:, None] == batch.organ_ids[..., None, None]

    @staticmethod
    def _loss(logits: Tensor, batch: PairBatch) -> Tensor:
        logits = joined_with_background(logits, batch.annotated[1, :, : logits.shape[1]])
        # The loss is one of volumes: each slice is one of a single layer.
        return full_supervision(logits[:, :, None], batch.labels[1].long()[:, None], "dice_ce")
