"""Visual tokens: features of the reference under the scribbles (SEEM's visual sampler).

Notable here:
- at most `max_points` scribbled pixels of an image are used, shared fairly among its organs: an organ with fewer pixels
  than its share leaves the rest to the others;
- training draws pixels at random; evaluation takes every so manieth, so that the same scribble gives the same answer;
- as in the paper a token holds no position: it can serve another slice, another contrast and another patient. Ours may
  hold one: slices are turned the same way, so that the place on the slice tells left from right and organ from organ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.sine_position import sine_places

LEVEL_STRIDES = (32, 16, 8)
MASK_STRIDE = 4


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """What the scribbles say, for a batch of references.

    Attributes:
        levels: Tokens at 1/32, 1/16 and 1/8, each (B, K, P, C); none at all where the network uses no tokens.
        valid: (B, K, P) bool; the other tokens are padding.
        prototype: (B, K, C) float32, mean mask feature under the scribble; 0 for an organ without one.
        organs: (B, K) bool, whether the organ has a scribble.
    """

    levels: tuple[Tensor, ...]
    valid: Tensor
    prototype: Tensor
    organs: Tensor

    def index(self, items: Tensor | Sequence[int] | slice) -> VisualTokens:
        """Some references of the batch, in the order of `items`; an item may be named more than once."""
        return VisualTokens(
            tuple(level[items] for level in self.levels), self.valid[items], self.prototype[items], self.organs[items]
        )

    def expand(self, batch: int) -> VisualTokens:
        """The tokens of one reference for a batch of targets, without copying them.

        Raises:
            ModelError: There is not exactly one reference.
        """
        if self.valid.shape[0] != 1:
            raise ModelError(
                f"Only the tokens of one reference can be given to a batch of targets; there are {self.valid.shape[0]}."
            )
        return VisualTokens(
            tuple(level.expand(batch, -1, -1, -1) for level in self.levels),
            self.valid.expand(batch, -1, -1),
            self.prototype.expand(batch, -1, -1),
            self.organs.expand(batch, -1),
        )

    def to(self, device: torch.device | str) -> VisualTokens:
        """The tokens on a device."""
        return VisualTokens(
            tuple(level.to(device) for level in self.levels),
            self.valid.to(device),
            self.prototype.to(device),
            self.organs.to(device),
        )

    @staticmethod
    def merge(references: Sequence[VisualTokens]) -> VisualTokens:
        """The tokens of several references of one organ list as those of one reference.

        Tokens are joined along P. The prototypes are averaged, each weighted by the number of its points.

        Args:
            references: At least one; all with the same B and K.

        Raises:
            ModelError: There is none, or their B, K or number of levels differ.
        """
        shapes = {(*each.valid.shape[:2], len(each.levels)) for each in references}
        if len(shapes) != 1:
            raise ModelError(
                "Tokens are merged of one or more references with the same batch and organs; got the sizes "
                f"(B, K, levels) {sorted(shapes)}."
            )
        points = torch.stack([each.valid.sum(-1) for each in references])[..., None]
        sums = (points * torch.stack([each.prototype for each in references])).sum(0)
        return VisualTokens(
            tuple(torch.cat(parts, dim=2) for parts in zip(*(each.levels for each in references))),
            torch.cat([each.valid for each in references], dim=2),
            sums / points.sum(0).clamp(min=1),
            torch.stack([each.organs for each in references]).any(0),
        )


class VisualSampler(nn.Module):
    """Scribbles and the features below them to tokens."""

    def __init__(
        self,
        channels: int,
        max_points: int,
        visual_tokens: bool = True,
        across_batch: bool = False,
        token_positions: bool = False,
    ) -> None:
        """A sampler.

        Args:
            channels: Of the features and the tokens.
            max_points: Of an image and a level; with `across_batch`, of an organ.
            visual_tokens: False: only prototypes, no tokens.
            across_batch: In training an organ's tokens come from all images of the batch that hold it.
            token_positions: Tokens know their place on the slice.
        """
        super().__init__()
        self.max_points = max_points
        self.across_batch = across_batch
        self.projections = nn.ModuleList()
        self.embeddings: nn.Parameter | None = None
        self.places = nn.Linear(channels, channels, bias=False) if token_positions else None
        if self.places is not None:
            nn.init.trunc_normal_(self.places.weight, std=0.02)
        if visual_tokens:
            self.projections.extend(nn.Linear(channels, channels, bias=False) for _ in LEVEL_STRIDES)
            self.embeddings = nn.Parameter(torch.randn(len(LEVEL_STRIDES), channels))
            for projection in self.projections:
                nn.init.trunc_normal_(projection.weight, std=0.02)

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        scribbles: Tensor,
        organ_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> VisualTokens:
        """Sample.

        Args:
            levels: (B, C, h, w) at 1/32, 1/16 and 1/8.
            mask_features: (B, C, h, w) at 1/4.
            scribbles: (B, K, H, W) bool on the grid of the images.
            organ_ids: (B, K) integers that say which organs of the batch are the same; only `across_batch` needs them.
            generator: Of the pixels drawn in training; None takes the global one.

        Raises:
            ModelError: The scribbles lie on another grid, or the organs' ids are missing.
        """
        _check_scribbles(scribbles, mask_features)
        points, valid = choose_points(scribbles, self.max_points, self.training, generator)
        counts = valid.sum(-1, keepdim=True)
        under = sample_features(mask_features, points, MASK_STRIDE)
        prototype = (under * valid[..., None]).sum(2) / counts.clamp(min=1)
        place = self._places(points, mask_features)
        tokens = tuple(
            projection(sample_features(level, points, stride)) + embedding + place
            for level, stride, projection, embedding in zip(
                levels, LEVEL_STRIDES, self.projections, () if self.embeddings is None else self.embeddings
            )
        )
        organs = counts[..., 0] > 0
        if self.across_batch and self.training and tokens:
            if organ_ids is None:
                raise ModelError("Tokens across the batch need the organ_ids (B, K): which organs are the same.")
            tokens, valid = share_across_batch(tokens, valid, organ_ids, self.max_points, generator)
        return VisualTokens(tokens, valid, prototype, organs)

    def _places(self, points: Tensor, mask_features: Tensor) -> Tensor | float:
        """What tokens at points (B, K, P, 2) know of their place, (B, K, P, C)."""
        if self.places is None:
            return 0.0
        h, w = mask_features.shape[-2:]
        extent = torch.tensor([w * MASK_STRIDE, h * MASK_STRIDE], dtype=points.dtype, device=points.device)
        return self.places(sine_places((points / extent).flip(-1), mask_features.shape[1]))


def choose_points(
    scribbles: Tensor, max_points: int, at_random: bool, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Scribbled pixels, at most `max_points` of an image.

    Args:
        scribbles: (B, K, H, W) bool.
        max_points: Shared fairly among the organs of an image.
        at_random: Draw them; else take every so manieth of an organ, row by row.
        generator: Of the draw; None takes the global one.

    Returns:
        (B, K, P, 2) float32, x and y of the pixels' centres, where the first pixel spans 0 to 1; and (B, K, P) bool,
        which of them exist. P is 1 at least.
    """
    b, k = scribbles.shape[:2]
    found = scribbles.nonzero()
    organ = found[:, 0] * k + found[:, 1]
    if at_random:
        place = torch.device("cpu") if found.device.type == "mps" else found.device  # Apple's GPUs have no fp64
        device = place if generator is None else generator.device
        keys = torch.rand(len(found), generator=generator, device=device, dtype=torch.float64).to(place)
        found = found[(organ.to(place) + keys).argsort().to(found.device)]
    counts = torch.bincount(organ, minlength=b * k)
    first = counts.cumsum(0) - counts
    quota = fair_shares(counts.view(b, k), max_points).flatten()
    slots = torch.arange(max(1, int(quota.max())), device=found.device)
    valid = slots < quota[:, None]
    chosen = first[:, None] + (2 * slots + 1) * counts[:, None] // (2 * quota[:, None]).clamp(min=1)
    centres = functional.pad(found[:, [3, 2]].float() + 0.5, (0, 0, 0, 1))
    points = centres[torch.where(valid, chosen, len(found))]
    return points.view(b, k, -1, 2), valid.view(b, k, -1)


def fair_shares(counts: Tensor, total: int) -> Tensor:
    """How many of each row's counts (B, K) are taken: all of the small ones, the same number of the others.

    The sum of a row stays within `total`, unless there are more organs than that: each keeps one.
    """
    ordered, _ = counts.sort(-1)
    before = ordered.cumsum(-1) - ordered
    others = torch.arange(counts.shape[-1], 0, -1, device=counts.device)
    # The share is largest where all smaller organs have been served in full and no larger one has.
    share = ((total - before) // others).amax(-1, keepdim=True).clamp(min=1)
    return counts.minimum(share)


def sample_features(features: Tensor, points: Tensor, stride: int) -> Tensor:
    """Bilinear samples (B, K, P, C), fp32, of features (B, C, h, w) at points (B, K, P, 2) of the image's pixels."""
    h, w = features.shape[-2:]
    extent = torch.tensor([w * stride, h * stride], dtype=points.dtype, device=points.device)
    grid = 2.0 * points / extent - 1.0
    with torch.autocast(features.device.type, enabled=False):
        sampled = functional.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def share_across_batch(
    tokens: Sequence[Tensor], valid: Tensor, organ_ids: Tensor, max_points: int, generator: torch.Generator | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Give each organ the tokens of the same organ in all images, at most `max_points` drawn at random.

    Args:
        tokens: (B, K, P, C) of each level.
        valid: (B, K, P) bool.
        organ_ids: (B, K) integers.
        max_points: Of an organ.
        generator: Of the draw; None takes the global one.

    Returns:
        Tokens (B, K, P', C) of each level and their validity (B, K, P').
    """
    b, k, p = valid.shape
    pool_ids = organ_ids[..., None].expand(-1, -1, p)
    drawn: dict[int, Tensor] = {}
    for each in organ_ids.unique().tolist():
        found = (valid & (pool_ids == each)).flatten().nonzero()[:, 0]
        device = found.device if generator is None else generator.device
        order = torch.randperm(len(found), generator=generator, device=device).to(found.device)
        drawn[each] = found[order[:max_points]]
    chosen = [drawn[each] for each in organ_ids.flatten().tolist()]
    lengths = torch.tensor([len(each) for each in chosen], device=valid.device)
    width = max(1, int(lengths.max()))
    places = torch.stack([functional.pad(each, (0, width - len(each))) for each in chosen])
    shared = tuple(level.flatten(0, 2)[places].view(b, k, width, -1) for level in tokens)
    return shared, (torch.arange(width, device=valid.device) < lengths[:, None]).view(b, k, width)


def _check_scribbles(scribbles: Tensor, mask_features: Tensor) -> None:
    b, _, h, w = mask_features.shape
    shape = tuple(scribbles.shape)
    fits = len(shape) == 4 and shape[0] == b and [-(-n // MASK_STRIDE) for n in shape[2:]] == [h, w]
    if not fits or scribbles.dtype != torch.bool:
        raise ModelError(
            f"The scribbles expected are bool of shape ({b}, K, H, W) on the images' grid, about {MASK_STRIDE * h} x "
            f"{MASK_STRIDE * w} pixels; got {scribbles.dtype} of shape {shape}."
        )
