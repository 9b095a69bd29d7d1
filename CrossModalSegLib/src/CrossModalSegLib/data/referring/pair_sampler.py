"""Endless pairs of a scribbled reference slice and a target slice, drawn from labelled slices.

A plan is a single number from which everything about a pair follows, so that pairs can be made in any process and a
sampler continues from the state of its generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.data.referring.paired_augmentation import PairedAugmentation, PairedAugmentationConfig, Slice
from CrossModalSegLib.data.referring.pairing import reference_positions
from CrossModalSegLib.data.referring.slices import SliceStack, slice_window
from CrossModalSegLib.errors import InputError, LabelError
from CrossModalSegLib.scribbles.contour import contour_scribbles
from CrossModalSegLib.scribbles.freeform import SEEM_BRUSH, SMALL_BRUSH, FreeformBrush, freeform_scribbles
from CrossModalSegLib.scribbles.skeleton import skeleton_scribbles

SHORT_BRUSH = FreeformBrush(vertices=(2, 4), diameter=(1.5, 4.0), jitter=0.5)
MAX_PLAN = 2**63 - 1
NUM_LABELS = 256  # of uint8


@dataclass(frozen=True)
class PairKinds:
    """How often a target is which slice; weights that need not add to one.

    Attributes:
        same_slice: The reference slice itself; the only kind in the paper.
        other_slice: Another slice of the same patient.
        other_contrast: The same or a near slice in another contrast of the patient.
        other_patient: A slice of another patient.
        anywhere: Any slice of any patient: most organs of the reference are absent from it.
        reach_mm: Largest distance of another slice.
        near_mm: Largest distance of a slice in another contrast.
        mixed_contrasts: Whether all but the same slice may be shown in another contrast, too.
    """

    same_slice: float = 1.0
    other_slice: float = 0.0
    other_contrast: float = 0.0
    other_patient: float = 0.0
    anywhere: float = 0.0
    reach_mm: float = 40.0
    near_mm: float = 6.0
    mixed_contrasts: bool = False

    def __post_init__(self) -> None:
        if min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0 or self.reach_mm < 0 or self.near_mm < 0:
            raise InputError(f"Weights of pair kinds and distances are 0 or more, one weight above 0; got {self}.")

    @property
    def weights(self) -> dict[str, float]:
        """By name of the kind."""
        names = ("same_slice", "other_slice", "other_contrast", "other_patient", "anywhere")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ScribbleStyles:
    """How often a reference is scribbled in which style; weights that need not add to one.

    Attributes:
        freeform: SEEM's zigzag of the paper.
        small: The same with a thin brush.
        short: One or two short strokes.
        contour: A curve inside and an arc along the outline.
        line: The middle line.
    """

    freeform: float = 1.0
    small: float = 0.0
    short: float = 0.0
    contour: float = 0.0
    line: float = 0.0

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or sum(vars(self).values()) <= 0:
            raise InputError(f"Weights of scribble styles are 0 or more, one above 0; got {self}.")


@dataclass(frozen=True)
class PairConfig:
    """How pairs are drawn.

    Attributes:
        kinds, styles: Weights of pair kinds and scribble styles.
        augmentation: Changes of both slices; None leaves them as they are.
        max_organs: K, organs of a pair.
        min_pixels: A slice holds an organ from so many pixels on.
        context: Neighbour slices on either side.
        both_ways: Whether the target is scribbled as well, so that each pair serves twice.
    """

    kinds: PairKinds = field(default_factory=PairKinds)
    styles: ScribbleStyles = field(default_factory=ScribbleStyles)
    augmentation: PairedAugmentationConfig | None = field(default_factory=PairedAugmentationConfig)
    max_organs: int = 6
    min_pixels: int = 12
    context: int = 0
    both_ways: bool = False

    def __post_init__(self) -> None:
        if self.max_organs < 1 or self.min_pixels < 1 or self.context < 0:
            raise InputError(
                f"Pairs need at least 1 organ of at least 1 pixel, and 0 or more neighbour slices; got {self}."
            )


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B pairs; index 0 of the first axis is the reference, index 1 the target.

    Attributes:
        images: (2, B, I, H, W) float32 in [0, 1].
        masks: (2, B, K, H, W) bool, the organs asked for.
        scribbles: (2, B, K, H, W) bool; the target's are empty unless pairs are used both ways.
        labels: (2, B, H, W) uint8, all that is labelled on either side.
        organ_ids: (B, K) int64 label values, 0 where fewer organs are asked for.
        annotated: (2, B, 256) bool, the label values that the labels of a side tell.
    """

    images: Tensor
    masks: Tensor
    scribbles: Tensor
    labels: Tensor
    organ_ids: Tensor
    annotated: Tensor

    @property
    def size(self) -> int:
        """B."""
        return self.images.shape[1]

    @property
    def organs(self) -> Tensor:
        """(2, B, K) bool: the organ is scribbled on the side."""
        return _any_pixel(self.scribbles)

    @property
    def present(self) -> Tensor:
        """(2, B, K) bool: the side holds the organ."""
        return _any_pixel(self.masks)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All of it, in the order in which a batch is made."""
        return self.images, self.masks, self.scribbles, self.labels, self.organ_ids, self.annotated

    def to(self, device: torch.device) -> PairBatch:
        """The batch on a device."""
        return PairBatch(*(each.to(device, non_blocking=True) for each in self.tensors))

    def pin_memory(self) -> PairBatch:
        """The batch in page-locked memory."""
        return PairBatch(*(each.pin_memory() for each in self.tensors))


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair, as in `PairBatch` without B.

    Attributes:
        images: (2, I, H, W).
        masks, scribbles: (2, K, H, W).
        labels: (2, H, W).
        organ_ids: (K,).
        annotated: (2, 256).
    """

    images: np.ndarray
    masks: np.ndarray
    scribbles: np.ndarray
    labels: np.ndarray
    organ_ids: np.ndarray
    annotated: np.ndarray


def collate_pairs(pairs: Sequence[Pair]) -> PairBatch:
    """Pairs as a batch."""
    return PairBatch(
        images=torch.from_numpy(np.stack([pair.images for pair in pairs], axis=1)),
        masks=torch.from_numpy(np.stack([pair.masks for pair in pairs], axis=1)),
        scribbles=torch.from_numpy(np.stack([pair.scribbles for pair in pairs], axis=1)),
        labels=torch.from_numpy(np.stack([pair.labels for pair in pairs], axis=1)),
        organ_ids=torch.from_numpy(np.stack([pair.organ_ids for pair in pairs])),
        annotated=torch.from_numpy(np.stack([pair.annotated for pair in pairs], axis=1)),
    )


@dataclass(frozen=True)
class _Place:
    """A slice: of which stack, in which contrast, at which index."""

    stack: int
    contrast: str
    index: int


class PairSampler:
    """Draws plans in order, and makes pairs of them; in any process, but not in two threads at once.

    An organ is asked for only where both sides of a pair are annotated for it: in a target that is not, it would seem
    to be absent.

    Attributes:
        stacks: The labelled slices.
        config: How pairs are drawn.
    """

    def __init__(
        self,
        stacks: Sequence[SliceStack],
        config: PairConfig,
        *,
        seed: int,
        reference_contrasts: Sequence[str] | None = None,
        target_contrasts: Sequence[str] | None = None,
    ) -> None:
        """Take in the slices.

        Args:
            stacks: With labels.
            config: How pairs are drawn.
            seed: Of all draws.
            reference_contrasts: Contrasts that references are taken from; None takes all.
            target_contrasts: Contrasts that targets are taken from; None takes all. A pair whose target keeps the
                contrast of the reference is not bound to them.

        Raises:
            LabelError: A stack has no labels, or no slice holds an organ.
            InputError: A stack has none of the contrasts.
        """
        self.stacks = tuple(stacks)
        self.config = config
        self._rng = np.random.default_rng(seed)
        self._augment = PairedAugmentation(config.augmentation)
        self._areas = [_areas(stack, config.min_pixels) for stack in self.stacks]
        self._annotated = np.stack([_annotated(stack) for stack in self.stacks])
        self._references = [_contrasts(stack, reference_contrasts) for stack in self.stacks]
        self._targets = [_contrasts(stack, target_contrasts) for stack in self.stacks]
        self._usable = [number for number, areas in enumerate(self._areas) if areas.any()]
        if not self._usable:
            raise LabelError(
                f"No slice holds {config.min_pixels} pixels of an organ, so no pair can be drawn: check the masks."
            )

    @property
    def num_slices(self) -> int:
        """Slices that hold an organ."""
        return int(sum(areas.any(axis=1).sum() for areas in self._areas))

    def plan(self) -> int:
        """The number of the next pair."""
        return int(self._rng.integers(MAX_PLAN))

    def make(self, plan: int) -> Pair:
        """The pair of a plan."""
        rng = np.random.default_rng(plan)
        organ, reference = self._draw_reference(rng)
        target = self._draw_target(reference, organ, rng)
        chosen = self._draw_organs(reference, target, organ, rng)
        sides = self._augment(self._slice(reference), self._slice(target), rng)
        middle = self.config.context
        maps = np.stack([side.labels[middle] for side in sides])
        masks = np.stack([_masks(labels, chosen, self.config.min_pixels) for labels in maps])
        scribbles = np.zeros_like(masks)
        for side in (0, 1) if self.config.both_ways else (0,):
            scribbles[side] = draw_scribbles(masks[side], self.config.styles, rng)
        annotated = self._annotated[[reference.stack, target.stack]]
        return Pair(np.stack([side.image for side in sides]), masks, scribbles, maps, chosen, annotated)

    def make_batch(self, plans: Sequence[int]) -> PairBatch:
        """The pairs of plans, as a batch."""
        return collate_pairs([self.make(plan) for plan in plans])

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler is in its draws."""
        return dict(self._rng.bit_generator.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self._rng.bit_generator.state = dict(state)

    def _draw_reference(self, rng: np.random.Generator) -> tuple[int, _Place]:
        """A patient, an organ of it, and a slice that holds the organ: small organs come as often as large ones."""
        stack = int(rng.choice(self._usable))
        areas = self._areas[stack]
        organ = int(rng.choice(np.flatnonzero(areas.any(axis=0))))
        index = int(rng.choice(np.flatnonzero(areas[:, organ])))
        return organ, _Place(stack, str(rng.choice(self._references[stack])), index)

    def _draw_target(self, reference: _Place, organ: int, rng: np.random.Generator) -> _Place:
        kinds = self.config.kinds
        weights = np.array(list(kinds.weights.values()))
        kind = list(kinds.weights)[int(rng.choice(len(weights), p=weights / weights.sum()))]
        if kind == "same_slice":
            return reference
        stack, index = reference.stack, reference.index
        is_told = self._annotated[:, organ]
        patients = [each for each in self._usable if each != stack and is_told[each]]
        if kind == "other_patient" and patients:
            stack = int(rng.choice(patients))
            index = self._similar_slice(reference, stack, organ, rng)
        elif kind == "anywhere":
            told = np.flatnonzero(is_told)
            stack = int(told[rng.integers(len(told))])
            index = int(rng.integers(self.stacks[stack].count))
        else:
            index = self._near_slice(reference, kinds.near_mm if kind == "other_contrast" else kinds.reach_mm, rng)
        others = [each for each in self._targets[stack] if each != reference.contrast]
        may_change = kind == "other_contrast" or kinds.mixed_contrasts
        pool = others if kind == "other_contrast" else self._targets[stack]
        if may_change and pool:
            return _Place(stack, str(rng.choice(pool)), index)
        kept = reference.contrast in self.stacks[stack].images
        return _Place(stack, reference.contrast if kept else str(rng.choice(self._targets[stack])), index)

    def _near_slice(self, place: _Place, reach_mm: float, rng: np.random.Generator) -> int:
        """A slice at most so far away, each distance equally often."""
        stack = self.stacks[place.stack]
        reach = max(1, round(reach_mm / stack.frame.slice_mm)) if reach_mm > 0 else 0
        return int(np.clip(place.index + rng.integers(-reach, reach + 1), 0, stack.count - 1))

    def _similar_slice(self, place: _Place, stack: int, organ: int, rng: np.random.Generator) -> int:
        """A slice of another patient: mostly one with the organ, else one at the same share of the stack."""
        holding = np.flatnonzero(self._areas[stack][:, organ]) if organ < self._areas[stack].shape[1] else []
        if len(holding) and rng.random() < 0.75:
            return int(rng.choice(holding))
        other = self.stacks[stack]
        positions, _ = reference_positions(self.stacks[place.stack].frame, other.frame, "order")
        position = round(positions[place.index])
        reach = max(1, round(self.config.kinds.reach_mm / other.frame.slice_mm))
        return int(np.clip(position + rng.integers(-reach, reach + 1), 0, other.count - 1))

    def _draw_organs(self, reference: _Place, target: _Place, organ: int, rng: np.random.Generator) -> np.ndarray:
        """(K,) int64: the organ, then others of the reference slice, then, both ways, some of the target slice."""
        both = self._annotated[reference.stack] & self._annotated[target.stack]
        here = np.flatnonzero(self._areas[reference.stack][reference.index] & both)
        rest = rng.permutation(here[here != organ])
        chosen = [organ, *rest.tolist()][: self.config.max_organs]
        if self.config.both_ways:
            there = np.flatnonzero(self._areas[target.stack][target.index] & both)
            chosen += rng.permutation(np.setdiff1d(there, here)).tolist()
        ids = np.zeros(self.config.max_organs, np.int64)
        ids[: len(chosen)] = chosen[: self.config.max_organs]
        return ids

    def _slice(self, place: _Place) -> Slice:
        stack, context = self.stacks[place.stack], self.config.context
        return Slice(
            stack.window(place.contrast, place.index, context), slice_window(stack.labels, place.index, context)
        )


def draw_scribbles(masks: np.ndarray, styles: ScribbleStyles, rng: np.random.Generator) -> np.ndarray:
    """A scribble in each mask, all in one style.

    Args:
        masks: (K, H, W) bool; an empty one gets no scribble.
        styles: Weights of the styles.
        rng: Source of all choices.

    Returns:
        (K, H, W) bool.
    """
    names = list(vars(styles))
    weights = np.array([getattr(styles, name) for name in names])
    style = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
    labels = np.zeros((1, *masks.shape[1:]), np.uint8)
    for number, mask in zip(numbers, masks):  # organs do not overlap
        labels[0][mask] = number
    if style == "contour":
        drawn = contour_scribbles(labels, (1.0, 1.0, 1.0), rng, thickness=int(rng.integers(1, 4)))
    elif style == "line":
        drawn = skeleton_scribbles(labels, (1.0, 1.0, 1.0), rng)
    else:
        brush = {"freeform": SEEM_BRUSH, "small": SMALL_BRUSH, "short": SHORT_BRUSH}[style]
        drawn = freeform_scribbles(labels, (1.0, 1.0, 1.0), rng, brush=brush)
    return drawn == numbers[:, None, None]


def _any_pixel(masks: Tensor) -> Tensor:
    """Whether masks (..., H, W) bool hold a pixel; the largest of bytes is found much sooner than any of bools."""
    return masks.view(torch.uint8).flatten(-2).amax(-1) > 0


def _areas(stack: SliceStack, min_pixels: int) -> np.ndarray:
    """(S, L) bool: whether each slice holds each label value; value 0 never."""
    if stack.labels is None:
        raise LabelError(f"Pairs are drawn from masks, but the case {stack.name} has none; add one or leave it out.")
    counts = np.stack([np.bincount(labels.ravel(), minlength=NUM_LABELS) for labels in stack.labels])
    holds = counts >= min_pixels
    holds[:, 0] = False
    return holds


def _annotated(stack: SliceStack) -> np.ndarray:
    """(256,) bool: whether the labels of a stack tell each label value."""
    if stack.annotated is None:
        return np.ones(NUM_LABELS, bool)
    return np.isin(np.arange(NUM_LABELS), stack.annotated)


def _contrasts(stack: SliceStack, wanted: Sequence[str] | None) -> list[str]:
    names = [name for name in stack.images if wanted is None or name in wanted]
    if not names:
        raise InputError(
            f"The case {stack.name} has none of the contrasts {', '.join(wanted)}; it has {', '.join(stack.images)}."
        )
    return names


def _masks(labels: np.ndarray, organs: np.ndarray, min_pixels: int) -> np.ndarray:
    """(K, H, W) bool; crumbs that a zoom left at the border of the image are no organ."""
    masks = labels[None] == organs.astype(labels.dtype)[:, None, None]
    pixels = np.bincount(labels.ravel(), minlength=NUM_LABELS)[organs]
    masks[(organs == 0) | (pixels < max(1, min_pixels // 2))] = False
    return masks
