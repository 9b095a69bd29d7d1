"""The decoder of CrossMR: queries of each organ look at the target, then at the organ's visual tokens.

Notable in this decoder (Fig. 2, on the masked attention of Mask2Former and SEEM):
- a layer is cross-attention, self-attention, feed-forward; the levels take turns: 1/32, 1/16, 1/8, 1/32, ...;
- cross-attention goes to the target alone, and only where the mask predicted before is above one half; a query whose
  mask is empty looks everywhere;
- self-attention is closed within an organ: its queries see each other and the organ's tokens of the layer's level.
  Tokens are keys and values only. Nothing passes from one organ to another, so an organ's answer does not depend on
  which others are asked for, or in which order;
- heads after 0, 1, ..., L layers, all of which are trained: a mask embedding whose dot products with the target's mask
  features are the mask; its similarity to the mean mask feature under the scribble, which decides among an organ's
  queries; and whether the organ is in the target at all, which may be judged by what the query's mask covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.models.attention import AttentionBlock, FeedForwardBlock, initialize_linear
from CrossModalSegLib.models.sine_position import sine_position
from CrossModalSegLib.models.visual_sampler import LEVEL_STRIDES, VisualTokens

LEVELS = len(LEVEL_STRIDES)
# Similarities are cosines times a learned factor: it starts at CLIP's 1 / 0.07 and stays below 100.
SIMILARITY_SCALE, MAX_SIMILARITY_SCALE = 1.0 / 0.07, 100.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one head says.

    Attributes:
        masks: (B, K, N, H/4, W/4) logits.
        similarity: (B, K, N) float32, scaled similarity of a query's mask embedding and its organ's prototype.
        presence: (B, K, N) logits of "the organ is in this target".
        level: How many layers lie before the head.
    """

    masks: Tensor
    similarity: Tensor
    presence: Tensor
    level: int


class DecoderLayer(nn.Module):
    """Cross-attention, self-attention and feed-forward, each normalised behind its addition."""

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.cross = AttentionBlock(channels, heads)
        self.within = AttentionBlock(channels, heads)
        self.feedforward = FeedForwardBlock(channels, feedforward)


class PresenceByMask(nn.Module):
    """Whether an organ is in the target, from a query, from what its mask covers, and from how sure the mask is.

    A query alone has to remember what it saw; here the mean target feature within its mask meets the prototype. Masks
    are not trained through it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.covered = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.wanted, self.sureness = nn.Linear(channels, channels), nn.Linear(3, channels)
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, 1)

    def forward(self, queries: Tensor, masks: Tensor, mask_features: Tensor, prototype: Tensor) -> Tensor:
        """(B, K, N) logits.

        Args:
            queries: (B, K, N, C), normalised.
            masks: (B, K, N, h, w) logits.
            mask_features: Of the targets, (B, C, h, w).
            prototype: (B, K, C).
        """
        with torch.autocast(masks.device.type, enabled=False):
            logits = masks.detach().float()
            weights = logits.sigmoid()
            total = weights.flatten(3).sum(-1)
            covered = torch.einsum("bknhw,bchw->bknc", weights, mask_features.float()) / (total[..., None] + 1e-3)
            share = (total / logits[0, 0, 0].numel() + 1e-4).log()
            surest = logits.flatten(3).amax(-1).clamp(-10.0, 10.0)
            mean = (weights * weights).flatten(3).sum(-1) / (total + 1e-3)
            sureness = torch.stack([share, surest, mean], -1)
        x = self.query(queries) + self.covered(covered) * self.wanted(prototype)[:, :, None] + self.sureness(sureness)
        return self.out(functional.relu(self.norm(x)))[..., 0]


class MaskedDecoder(nn.Module):
    """Target features and tokens to the predictions of all heads."""

    def __init__(
        self,
        channels: int,
        heads: int,
        feedforward: int,
        layers: int,
        queries: int,
        sample_queries: int | None = None,
        seed_queries: bool = False,
        prototype_masks: bool = False,
        presence_by_mask: bool = False,
    ) -> None:
        """A decoder.

        Args:
            channels, heads, feedforward, layers: Of the transformer.
            queries: N, of each organ.
            sample_queries: Draw this many of them at random in training; None uses all.
            seed_queries: Add a projection of the organ's mean token to its queries before the first layer.
            prototype_masks: Add a projection of the organ's prototype to its mask embeddings.
            presence_by_mask: Judge the presence by what a query's mask covers as well, against the prototype.
        """
        super().__init__()
        self.sample_queries = sample_queries
        self.query_features = nn.Parameter(torch.randn(queries, channels))
        self.query_positions = nn.Parameter(torch.randn(queries, channels))
        self.level_embeddings = nn.Parameter(torch.randn(LEVELS, channels))
        self.seed = nn.Linear(channels, channels) if seed_queries else None
        self.prototype: nn.Sequential | None = None
        if prototype_masks:
            # It begins as the prototype itself: a mask is first of all what resembles the scribbled tissue.
            self.prototype = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels))
            nn.init.eye_(self.prototype[0].weight)
            # Of length one at first, so that the first masks are not all certainty.
            nn.init.constant_(self.prototype[1].weight, channels**-0.5)
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.mask_embedding = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )
        self.presence = PresenceByMask(channels) if presence_by_mask else nn.Linear(channels, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SIMILARITY_SCALE)))
        if self.seed is not None:
            initialize_linear(self.seed)

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, tokens: VisualTokens) -> list[Prediction]:
        """The predictions after 0..L layers.

        Args:
            levels: Of the targets, (B, C, h, w) at 1/32, 1/16 and 1/8.
            mask_features: Of the targets, (B, C, H/4, W/4).
            tokens: Of the references, for the same B.
        """
        memories = [self._memory(level, i) for i, level in enumerate(levels)]
        queries, positions = self._start(tokens)
        predictions = [self._heads(queries, mask_features, tokens.prototype, 0)]
        for i, layer in enumerate(self.layers):
            at = i % LEVELS
            allowed = attention_mask(predictions[-1].masks, levels[at].shape[-2:])
            queries = self._layer(layer, queries, positions, memories[at], allowed, tokens, at)
            predictions.append(self._heads(queries, mask_features, tokens.prototype, i + 1))
        return predictions

    def last(self, levels: Sequence[Tensor], mask_features: Tensor, tokens: VisualTokens) -> Prediction:
        """The last prediction of `forward` alone, in about two thirds of the time.

        The masks that guide the attention are computed at the size of its levels: it makes no difference whether the
        mask features are interpolated before the dot product, or the masks after it.

        Args:
            levels, mask_features, tokens: As in `forward`.
        """
        memories = [self._memory(level, i) for i, level in enumerate(levels)]
        guides = [_interpolated(mask_features, level.shape[-2:]) for level in levels]
        queries, positions = self._start(tokens)
        for i, layer in enumerate(self.layers):
            at = i % LEVELS
            embedding = self._embedding(self.norm(queries), tokens.prototype)
            allowed = within_masks(torch.einsum("bknc,bchw->bknhw", embedding, guides[at]))
            queries = self._layer(layer, queries, positions, memories[at], allowed, tokens, at)
        return self._heads(queries, mask_features, tokens.prototype, len(self.layers))

    def _memory(self, level: Tensor, index: int) -> tuple[Tensor, Tensor]:
        # Keys and values, (B, h * w, C): positions are only in the keys.
        h, w = level.shape[-2:]
        value = level.flatten(2).transpose(1, 2) + self.level_embeddings[index]
        return value + sine_position(h, w, level.shape[1], level.device), value

    def _start(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        # Queries (B, K, N, C) and their positions (N, C).
        features, positions = self.query_features, self.query_positions
        if self.training and self.sample_queries is not None:
            drawn = torch.randperm(len(features), device=features.device)[: self.sample_queries]
            features, positions = features[drawn], positions[drawn]
        queries = features.expand(*tokens.organs.shape, -1, -1)
        if self.seed is not None:
            queries = queries + self.seed(mean_token(tokens))[:, :, None] * tokens.organs[..., None, None]
        return queries, positions

    def _layer(
        self,
        layer: DecoderLayer,
        queries: Tensor,
        positions: Tensor,
        memory: tuple[Tensor, Tensor],
        allowed: Tensor,
        tokens: VisualTokens,
        at: int,
    ) -> Tensor:
        b, k, n, _ = queries.shape
        key, value = memory
        x = layer.cross(queries.flatten(1, 2), positions.repeat(k, 1), key, value, allowed)
        x = x.view(b * k, n, -1)
        key, value, is_key = x + positions, x, None
        if tokens.levels:
            of_organ = tokens.levels[at].flatten(0, 1).to(x.dtype)
            key, value = torch.cat([key, of_organ], 1), torch.cat([value, of_organ], 1)
            is_key = functional.pad(tokens.valid.flatten(0, 1), (n, 0), value=True)[:, None]
        x = layer.feedforward(layer.within(x, positions, key, value, is_key))
        return x.view(b, k, n, -1)

    def _heads(self, queries: Tensor, mask_features: Tensor, prototype: Tensor, level: int) -> Prediction:
        x = self.norm(queries)
        embedding = self._embedding(x, prototype)
        masks = torch.einsum("bknc,bchw->bknhw", embedding, mask_features)
        with torch.autocast(x.device.type, enabled=False):
            cosine = torch.einsum(
                "bknc,bkc->bkn",
                functional.normalize(embedding.float(), dim=-1),
                functional.normalize(prototype.float(), dim=-1),
            )
            similarity = cosine * self.log_scale.exp().clamp(max=MAX_SIMILARITY_SCALE)
        if isinstance(self.presence, PresenceByMask):
            presence = self.presence(x, masks, mask_features, prototype)
        else:
            presence = self.presence(x)[..., 0]
        return Prediction(masks, similarity, presence, level)

    def _embedding(self, x: Tensor, prototype: Tensor) -> Tensor:
        # Of masks, (B, K, N, C), from normalised queries and the prototypes (B, K, C).
        embedding = self.mask_embedding(x)
        return embedding if self.prototype is None else embedding + self.prototype(prototype)[:, :, None]


def mean_token(tokens: VisualTokens) -> Tensor:
    """(B, K, C): the mean of an organ's tokens over all levels; 0 where it has none."""
    valid = tokens.valid[..., None]
    total = sum((level * valid).sum(2) for level in tokens.levels)
    return total / (LEVELS * valid.sum(2).clamp(min=1))


def attention_mask(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Where the queries may look at a level, (B, K * N, h * w) bool: within their masks, or everywhere if one is empty.

    Args:
        masks: (B, K, N, H/4, W/4) logits.
        size: (h, w) of the level.
    """
    logits = _interpolated(masks.detach().flatten(1, 2), size)
    return within_masks(logits.view(*masks.shape[:3], *size))


def within_masks(logits: Tensor) -> Tensor:
    """Where the queries may look, (B, K * N, h * w) bool, from masks (B, K, N, h, w) of the size of the level."""
    allowed = logits.flatten(1, 2).flatten(2) >= 0.0
    return allowed | ~allowed.any(-1, keepdim=True)


def _interpolated(maps: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def chosen(prediction: Prediction) -> Prediction:
    """What each organ's most similar query says, alone: N is 1."""
    best = prediction.similarity.argmax(-1, keepdim=True)
    index = best[..., None, None].expand(-1, -1, -1, *prediction.masks.shape[-2:])
    return Prediction(
        prediction.masks.gather(2, index),
        prediction.similarity.gather(2, best),
        prediction.presence.gather(2, best),
        prediction.level,
    )


def choose(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """The mask of each organ's most similar query.

    Returns:
        (B, K, H/4, W/4) float32 mask logits, and (B, K) float32 probabilities that the organ is in the target.
    """
    only = chosen(prediction)
    return only.masks[:, :, 0].float(), only.presence[..., 0].float().sigmoid()
