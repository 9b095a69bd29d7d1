"""CrossMR: segment organs in target images from scribbles on a reference image (2D, Fig. 2).

Notable in this network:
- one FocalNet encoder and one pixel decoder for references and targets; a training step encodes both in one batch;
- the reference acts on the target through visual tokens alone: features under the scribbles, by organ;
- queries are duplicated for each organ asked for, so any number of organs, in any order, can be asked for;
- encoding, sampling and decoding are separate, so that features are kept and a new stroke runs the last two only;
- neighbour slices can enter as further channels (2.5D);
- each ablation of Table 2 that concerns the network is a field of the configuration.

It is 2D, as in the paper. In 3D the encoder and the pixel decoder would need kernels over slices too, with strides that
spare the few thick slices of an MR, and public weights inflated to them; positions of three coordinates; points of
scribbles and losses sampled in volumes. Tokens, queries, matching and the choice of a mask would stay. At 1/8 a query
would look at 32 x 32 places in each of, say, 40 slices instead of in one, all features of both volumes would be in
memory at once for a training step, and a case would be one pair instead of as many as it has slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.focalnet import FOCALNET, FocalNet, FocalNetConfig
from CrossModalSegLib.models.fpn_pixel_decoder import FpnPixelDecoder
from CrossModalSegLib.models.masked_decoder import MaskedDecoder, Prediction, choose, chosen
from CrossModalSegLib.models.visual_sampler import VisualSampler, VisualTokens

__all__ = ["PRESETS", "CrossMR", "CrossMRConfig", "Features", "Prediction", "VisualTokens", "choose", "chosen"]

# ImageNet's, averaged over the colours: what public weights of the encoder were trained with.
MEAN, STANDARD_DEVIATION = 0.449, 0.226


@dataclass(frozen=True)
class CrossMRConfig:
    """CrossMR and its ablations.

    Attributes:
        encoder: Of the images; its in_channels are 1 + 2 * context.
        context: Neighbour slices on each side that enter as channels.
        image_size: Rows and columns of the canvas that slices are brought to; the network itself takes any size.
        channels, heads, feedforward: Of the pixel decoder and the decoder.
        decoder_layers, encoder_layers: Of the decoder, and of the transformer on the coarsest level.
        dropout: In the latter; SEEM's settings have none.
        queries: N, of each organ.
        max_points: Visual tokens of an image and a level, at most.
        visual_tokens: False: the ablation without visual tokens; scribbles then only choose among the queries.
        across_batch: The ablation whose tokens come, in training, from all images of the batch with that organ.
        sample_queries: SEEM draws this many of the queries in each training step; None uses all.
        seed_queries: Ours: an organ's queries start from its mean visual token.
        token_positions: Ours: a token knows its place on the slice. Slices are all turned the same way, so this tells
            left from right; the paper's tokens hold no position.
        prototype_masks: Ours: an organ's mask embeddings start from its prototype, so that masks begin as what looks
            like the scribbled tissue. Small networks learn much faster with it.
        presence_by_mask: Ours: what a mask covers, not its query alone, tells whether the organ is in the target.
    """

    encoder: FocalNetConfig = FOCALNET["tiny"]
    context: int = 0
    image_size: int = 256
    channels: int = 512
    heads: int = 8
    feedforward: int = 2048
    decoder_layers: int = 9
    encoder_layers: int = 6
    dropout: float = 0.0
    queries: int = 11
    max_points: int = 512
    visual_tokens: bool = True
    across_batch: bool = False
    sample_queries: int | None = None
    seed_queries: bool = False
    prototype_masks: bool = False
    token_positions: bool = False
    presence_by_mask: bool = False

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.encoder.in_channels != 1 + 2 * self.context:
            raise ModelError(
                f"With {self.context} neighbour slices on each side the encoder of CrossMR needs "
                f"{1 + 2 * self.context} in_channels; it has {self.encoder.in_channels}."
            )
        if self.channels % self.heads or self.channels % 4:
            raise ModelError(
                f"The channels of CrossMR are a multiple of 4 and of its heads; got {self.channels} channels and "
                f"{self.heads} heads."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"The dropout of CrossMR lies within 0 and 1, 1 excluded; got {self.dropout}.")
        if self.sample_queries is not None and not 1 <= self.sample_queries <= self.queries:
            raise ModelError(
                f"sample_queries of CrossMR draws 1 to {self.queries} of its queries; got {self.sample_queries}."
            )
        for name in ("across_batch", "seed_queries", "prototype_masks", "token_positions"):
            if getattr(self, name) and not self.visual_tokens:
                raise ModelError(f"{name} of CrossMR needs visual tokens: switch visual_tokens on or {name} off.")

    def _check_sizes(self) -> None:
        least = {"context": 0, "encoder_layers": 0, "image_size": 32}
        names = ("channels", "heads", "feedforward", "decoder_layers", "queries", "max_points", *least)
        for name in names:
            if getattr(self, name) < least.get(name, 1):
                raise ModelError(f"CrossMR needs {name} of at least {least.get(name, 1)}; got {getattr(self, name)}.")


PRESETS: dict[str, CrossMRConfig] = {
    "paper": CrossMRConfig(),
    "compact": CrossMRConfig(
        encoder=FOCALNET["compact"],
        channels=96,
        heads=6,
        feedforward=384,
        decoder_layers=6,
        encoder_layers=2,
        seed_queries=True,
        prototype_masks=True,
        token_positions=True,
        presence_by_mask=True,
    ),
}


@dataclass(frozen=True, eq=False)
class Features:
    """What the network knows of a batch of images.

    Attributes:
        levels: (B, C, h, w) at 1/32, 1/16 and 1/8.
        mask_features: (B, C, H/4, W/4).
    """

    levels: tuple[Tensor, Tensor, Tensor]
    mask_features: Tensor

    def index(self, items: Tensor | Sequence[int] | slice) -> Features:
        """Some images of the batch, in the order of `items`; an image may be named more than once."""
        one, two, three = (level[items] for level in self.levels)
        return Features((one, two, three), self.mask_features[items])

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Several batches as one."""
        one, two, three = (torch.cat(levels) for levels in zip(*(part.levels for part in parts)))
        return Features((one, two, three), torch.cat([part.mask_features for part in parts]))

    def to(self, device: torch.device | str) -> Features:
        """The features on a device."""
        one, two, three = (level.to(device) for level in self.levels)
        return Features((one, two, three), self.mask_features.to(device))


class CrossMR(nn.Module):
    """The referring segmentation network."""

    def __init__(self, config: CrossMRConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.encoder = FocalNet(c.encoder)
        self.pixel_decoder = FpnPixelDecoder(
            c.encoder.channels, c.channels, c.heads, c.feedforward, c.encoder_layers, c.dropout
        )
        self.sampler = VisualSampler(c.channels, c.max_points, c.visual_tokens, c.across_batch, c.token_positions)
        self.decoder = MaskedDecoder(
            c.channels,
            c.heads,
            c.feedforward,
            c.decoder_layers,
            c.queries,
            c.sample_queries,
            c.seed_queries,
            c.prototype_masks,
            c.presence_by_mask,
        )

    def encode(self, images: Tensor) -> Features:
        """Features of references or targets.

        Args:
            images: (B, 1 + 2 * context, H, W) float32 in [0, 1], the slice itself in the middle.
        """
        maps = self.encoder((images - MEAN) / STANDARD_DEVIATION)
        (one, two, three), mask_features = self.pixel_decoder(maps)
        return Features((one, two, three), mask_features)

    def sample(
        self,
        features: Features,
        scribbles: Tensor,
        organ_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VisualTokens:
        """Visual tokens of references.

        Args:
            features: Of the references.
            scribbles: (B, K, H, W) bool; an organ without a stroke counts as not asked for.
            organ_ids: (B, K) integers: which organs of the batch are the same; for the ablation across the batch.
            generator: Of the pixels drawn in training; None takes the global one. Evaluation draws nothing.
        """
        return self.sampler(features.levels, features.mask_features, scribbles, organ_ids, generator)

    def decode(self, features: Features, tokens: VisualTokens) -> list[Prediction]:
        """The predictions for targets: the first before any layer, the last the result.

        Args:
            features: Of the targets.
            tokens: Of their references, for the same B; `VisualTokens.expand` gives one reference to all.

        Raises:
            ModelError: There are other numbers of targets than of references.
        """
        _check_pairs(features, tokens)
        return self.decoder(features.levels, features.mask_features, tokens)

    def decode_last(self, features: Features, tokens: VisualTokens) -> Prediction:
        """The last prediction of `decode` alone, in about two thirds of the time: all that an answer needs.

        Args:
            features, tokens: As in `decode`.

        Raises:
            ModelError: There are other numbers of targets than of references.
        """
        _check_pairs(features, tokens)
        return self.decoder.last(features.levels, features.mask_features, tokens)

    def forward(
        self, reference: Tensor, scribbles: Tensor, target: Tensor, organ_ids: Tensor | None = None
    ) -> list[Prediction]:
        """The predictions of `decode` for pairs of images.

        Args:
            reference, target: (B, 1 + 2 * context, H, W) float32 in [0, 1].
            scribbles: (B, K, H, W) bool on the references.
            organ_ids: As in `sample`.
        """
        features = self.encode(torch.cat([reference, target]))
        n = len(reference)
        tokens = self.sample(features.index(slice(0, n)), scribbles, organ_ids)
        return self.decode(features.index(slice(n, None)), tokens)


def _check_pairs(features: Features, tokens: VisualTokens) -> None:
    targets, references = len(features.mask_features), len(tokens.organs)
    if targets != references:
        raise ModelError(
            f"Each target needs the tokens of one reference; got {targets} targets and {references} references."
        )
