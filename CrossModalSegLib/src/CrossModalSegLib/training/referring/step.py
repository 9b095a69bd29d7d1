"""One step of a referring training as a module: a batch of pairs in, loss terms out."""

from __future__ import annotations

from torch import Tensor, nn

from CrossModalSegLib.data.referring.pair_sampler import PairBatch
from CrossModalSegLib.losses.full_supervision import full_supervision
from CrossModalSegLib.losses.referring import ReferringLoss
from CrossModalSegLib.models.crossmr import CrossMR
from CrossModalSegLib.models.masked_decoder import Prediction
from CrossModalSegLib.models.unet2d import UNet2d
from CrossModalSegLib.training.methods.method import with_total


class CrossMRStep(nn.Module):
    """CrossMR on pairs, in one direction or in both.

    All images of a batch are encoded once. Both ways, each side is the reference of the other, which doubles what is
    learned from an encoding.
    """

    def __init__(self, network: CrossMR, loss: ReferringLoss, both_ways: bool) -> None:
        super().__init__()
        self.network, self.loss, self.both_ways = network, loss, both_ways

    def predict(self, batch: PairBatch) -> tuple[list[Prediction], Tensor, Tensor, Tensor]:
        """Predictions of all heads, and what they should be: masks, presence, and which organs are asked for."""
        size = batch.size
        features = self.network.encode(batch.images.flatten(0, 1))
        if self.both_ways:
            ids = batch.organ_ids.repeat(2, 1)
            tokens = self.network.sample(features, batch.scribbles.flatten(0, 1), ids)
            others = [*range(size, 2 * size), *range(size)]
            masks, present = batch.masks.flip(0).flatten(0, 1), batch.present.flip(0).flatten(0, 1)
            return self.network.decode(features.index(others), tokens), masks, present, batch.organs.flatten(0, 1)
        tokens = self.network.sample(features.index(slice(0, size)), batch.scribbles[0], batch.organ_ids)
        predictions = self.network.decode(features.index(slice(size, None)), tokens)
        return predictions, batch.masks[1], batch.present[1], batch.organs[0]

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms, "total" among them."""
        return with_total(self.loss(*self.predict(batch)))


class UNetStep(nn.Module):
    """A 2D U-Net on the targets of pairs, all of whose organs are asked for."""

    def __init__(self, network: UNet2d) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms, "total" among them."""
        return self.loss(self.network(batch.images[1]), batch)

    @staticmethod
    def loss(logits: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of logits (B, num_classes, H, W)."""
        # The loss is one of volumes: each slice is one of a single layer.
        return with_total({"dice_ce": full_supervision(logits[:, :, None], label_map(batch)[:, None], "dice_ce")})


def label_map(batch: PairBatch) -> Tensor:
    """(B, H, W) int64 label values of the targets, 0 where there is no organ."""
    return (batch.masks[1] * batch.organ_ids[..., None, None]).amax(1)
