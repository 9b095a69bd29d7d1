"""Tuning at test time: a copy of the network learns from the user's strokes on the reference.

Notable here:
- only the sampler and the decoder are tuned, on features that are known already, so a step takes a fraction of a
  second; the encoder is shared with the network itself;
- the task of a step is the one of the session: some of the strokes are shown, and the network is asked for all strokes
  of a slice. Strokes of one organ are counter-examples of the others, background strokes of all;
- strokes say where an organ is and where it is not, but nothing of all the rest. So the answers there, and whether a
  slice shows an organ at all, are held where they were, on the scribbled slices and on all others;
- the weights that answer are half-way between the start and the tuned ones, and the answer that agrees best with
  held-out strokes is taken. That may be the start;
- an organ that is not even found under its own strokes is new to the network: there is nothing to hold, and that a
  slice with a stroke on it shows it is learnt as well. Steps are larger then, and the tuned weights answer.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.fitting.judge import Judge
from CrossModalSegLib.fitting.tuning import optimise
from CrossModalSegLib.inference.referring.reference_tokens import organ_masks
from CrossModalSegLib.inference.referring.stroke_split import random_stretch, split_strokes, strokes
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED
from CrossModalSegLib.models.crossmr import CrossMR, Features, Prediction, VisualTokens, choose
from CrossModalSegLib.models.visual_sampler import MASK_STRIDE, sample_features
from CrossModalSegLib.progress import CancelToken, Progress

logger = logging.getLogger(__name__)

TUNED_PARTS = ("sampler", "decoder")
# Weight of staying with the first answers where nothing was drawn.
KEPT_ANSWERS = 1.0
# An organ is new to the network below this agreement of the first answer with its held-out strokes, and with all of its
# strokes: of the model that ships, organs it was trained on had 0.57 and more on real MR, the parts of a heart 0.43 and
# less.
NEW_BELOW = 0.5
# Strokes are easy voxels, so that small differences in agreement say nothing: to be taken, tuned weights have to gain
# this much.
LEAST_GAIN = 0.03
HELD_OUT = 0.25
STEPS_PER_JUDGEMENT = 10
# Without a better answer for so many judgements, there will be none.
PATIENCE = 5
# Scribbled slices that are learnt from, evenly spread: their features are held in float32.
MOST_SLICES = 16


@dataclass(frozen=True)
class Pace:
    """How far tuning goes.

    Attributes:
        learning_rate: Of AdamW.
        kept_start: Share of the start in the weights that answer.
        counter_examples: Their weight; the examples have the rest. Strokes lie amid organs, where masks of organs that
            the network knows are right most often: with equal weights they would grow.
    """

    learning_rate: float
    kept_start: float
    counter_examples: float


CAUTIOUS = Pace(learning_rate=2e-4, kept_start=0.5, counter_examples=0.9)
BOLD = Pace(learning_rate=1e-3, kept_start=0.0, counter_examples=0.5)


@dataclass(frozen=True)
class TuningReport:
    """What tuning brought.

    Attributes:
        steps: Optimiser steps that were taken.
        before, after: Mean over the organs of the soft Dice with the held-out strokes, at the start and of the weights
            that were taken; None where nothing could be judged.
        is_better: Whether tuned weights answer; else those of the start do.
        new: Values of the organs that were new to the network.
        note: Why there was nothing to tune, else empty.
    """

    steps: int
    before: float | None
    after: float | None
    is_better: bool
    new: tuple[int, ...] = ()
    note: str = ""


def tune(
    network: CrossMR,
    features_of: Callable[[Sequence[int]], Features],
    scribbles: np.ndarray,
    organs: int,
    seconds: float,
    autocast: Callable[[], AbstractContextManager[object]],
    progress: Progress,
    cancel: CancelToken,
    seed: int = 0,
) -> tuple[CrossMR, TuningReport]:
    """Tune on the strokes of a reference.

    Args:
        network: Is not changed; the copy shares its encoder.
        features_of: Gives the features of slices of the reference.
        scribbles: (S, H, W) uint8 on the network's canvas.
        organs: K.
        seconds: Time for steps.
        autocast: Enters the precision of the network's passes.
        progress: Called with whole seconds done and in all.
        cancel: Looked at before each step.
        seed: Of every random choice.

    Returns:
        The network that agrees best with held-out strokes, and what happened.

    Raises:
        Cancelled: The cancel token was set.
    """
    rng = np.random.default_rng(seed)
    judge = split_strokes(_some_slices(scribbles), HELD_OUT, rng)
    note = _why_not(judge)
    if note:
        logger.warning("Nothing is tuned: %s", note)
        return network, TuningReport(0, None, None, False, note=note)
    tuner = _Tuner(network, features_of, judge, organs, autocast, rng)
    best = _Best(tuner.before)
    total = max(1, round(seconds))
    steps = _take_steps(tuner, best, seconds, total, progress, cancel)
    progress(total, total, "tune")
    if best.weights is None or best.agreement < tuner.before + LEAST_GAIN:
        return network, TuningReport(steps, tuner.before, tuner.before, False, tuner.new)
    tuner.restore(best.weights)
    return tuner.answering, TuningReport(steps, tuner.before, best.agreement, True, tuner.new)


def _take_steps(tuner: _Tuner, best: _Best, seconds: float, total: int, progress: Progress, cancel: CancelToken) -> int:
    """Steps until the time is over or the patience is spent, all of them judged; how many there were."""
    steps, begun = 0, cancel.clock()
    try:
        while cancel.clock() - begun < seconds and best.worse < PATIENCE:
            cancel.raise_if_cancelled()
            loss = tuner.step()
            steps += 1
            progress(min(total, round(cancel.clock() - begun)), total, "tune", {"loss": loss})
            if steps % STEPS_PER_JUDGEMENT == 0:
                best.judge(tuner)
    except FloatingPointError as error:
        logger.warning("The tuning stopped early (%s); the best answer so far is kept.", error)
    if steps % STEPS_PER_JUDGEMENT:  # the last ones; in a short time there are no others
        best.judge(tuner)
    return steps


@dataclass
class _Best:
    """The best answer so far.

    Attributes:
        agreement: With the held-out strokes.
        weights: None where it is that of the start.
        worse: Judgements since then.
    """

    agreement: float
    weights: dict[str, dict[str, Tensor]] | None = None
    worse: int = 0

    def judge(self, tuner: _Tuner) -> None:
        """Look at the weights that answer now."""
        agreement = tuner.agreement()
        self.worse += 1
        if agreement > self.agreement:
            self.agreement, self.weights, self.worse = agreement, tuner.weights(), 0


class _Tuner:
    """Learns from the strokes that are shown.

    Attributes:
        answering: The network with the weights that answer.
        new: Values of the organs that are new to it.
        before: Agreement at the start.
    """

    def __init__(
        self,
        network: CrossMR,
        features_of: Callable[[Sequence[int]], Features],
        judge: Judge,
        organs: int,
        autocast: Callable[[], AbstractContextManager[object]],
        rng: np.random.Generator,
    ) -> None:
        self._start, self.answering, self._tuned = network, _copy(network), _copy(network)
        self._judge, self._organs, self._autocast, self._rng = judge, organs, autocast, rng
        drawn = (judge.shown != UNLABELLED) | (judge.held_out != UNLABELLED)
        slices = np.flatnonzero(drawn.any(axis=(1, 2))).tolist()
        self._features_of = features_of
        self._features = {index: features_of([index]) for index in slices}
        self._strokes = strokes(judge.shown)
        self._learnt = [index for index in slices if (judge.shown[index] != UNLABELLED).any()]
        agreements, of_all = self._agreements(judge.held_out), self._agreements(_all_strokes(judge))
        self.before = float(np.mean(list(agreements.values())))
        # A stretch of a single stroke may lie where a mask has a gap.
        self.new = tuple(value for value, score in agreements.items() if max(score, of_all[value]) < NEW_BELOW)
        self._known = [index for index in range(organs) if index + 1 not in self.new]
        self._pace = BOLD if self.new else CAUTIOUS
        parameters = _tuned_parameters(self._tuned)
        self._optimizer = torch.optim.AdamW(parameters, lr=self._pace.learning_rate, weight_decay=1e-4)

    def step(self) -> float:
        """One optimiser step; the loss."""
        index = self._learnt[self._rng.integers(len(self._learnt))]
        other = int(self._rng.integers(len(self._judge.shown)))
        prompts = self._random_prompts()
        features = self._features[index]
        if self._known:  # which are held on another slice as well
            features = Features.cat([features, self._features_of([other])])
        after = self._answer(self._tuned, features, prompts)
        scribbles = torch.from_numpy(self._judge.shown[index])
        loss = stroke_loss(after, scribbles, self._pace.counter_examples) + presence_loss(after, scribbles, self.new)
        if self._known:
            with torch.no_grad():
                before = self._answer(self._start, features, prompts)
            loss = loss + KEPT_ANSWERS * change(after, before, self._known)
        terms = optimise(self._tuned, self._optimizer, {"total": loss})
        self._interpolate()
        return terms["total"]

    def agreement(self) -> float:
        """Of the answering weights with the held-out strokes, a mean over the organs."""
        return float(np.mean(list(self._agreements(self._judge.held_out).values())))

    def _answer(self, network: CrossMR, features: Features, prompts: np.ndarray) -> Prediction:
        # Entered anew each time: it remembers the weights as they were cast.
        with self._autocast():
            return network.decode_last(features, self._tokens(network, prompts).expand(len(features.mask_features)))

    @torch.no_grad()
    def _agreements(self, drawn: np.ndarray) -> dict[int, float]:
        """Of the answers to the strokes that are shown with other ones (S, H, W), by organ."""
        slices = np.flatnonzero((drawn != UNLABELLED).any(axis=(1, 2)))
        answers = []
        with self._autocast():
            tokens = self._tokens(self.answering, self._judge.shown)
            predictions = [self.answering.decode_last(self._features[index], tokens) for index in slices.tolist()]
        for prediction in predictions:
            masks, _ = choose(prediction)
            answers.append(_canvas_probabilities(masks, drawn.shape[1:])[0].cpu().numpy())
        return Judge(self._judge.shown[slices], drawn[slices]).agreements(np.stack(answers, axis=1))

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Of the parts of the answering network that are tuned, to be kept while it goes on."""
        states = {name: getattr(self.answering, name).state_dict() for name in TUNED_PARTS}
        return {name: {key: value.clone() for key, value in state.items()} for name, state in states.items()}

    def restore(self, weights: dict[str, dict[str, Tensor]]) -> None:
        """Let the answering network have weights again."""
        for name, state in weights.items():
            getattr(self.answering, name).load_state_dict(state)

    def _tokens(self, network: CrossMR, prompts: np.ndarray) -> VisualTokens:
        """Tokens of all strokes of the prompts (S, H, W), as of one reference."""
        parts = []
        for index, features in self._features.items():
            masks = organ_masks(prompts[index : index + 1], self._organs)
            if masks.any():
                parts.append(network.sample(features, torch.from_numpy(masks).to(features.mask_features.device)))
        return VisualTokens.merge(parts)

    def _random_prompts(self) -> np.ndarray:
        """A stretch of some of the strokes that are shown; each organ keeps one at least."""
        prompts = np.full_like(self._judge.shown, UNLABELLED)
        shown = [where for where in self._strokes if self._judge.shown[tuple(where[0])] != BACKGROUND]
        values = np.array([self._judge.shown[tuple(where[0])] for where in shown])
        kept = self._rng.random(len(shown)) < 0.5
        for value in np.unique(values):
            kept[self._rng.choice(np.flatnonzero(values == value))] = True
        for number in np.flatnonzero(kept):
            stretch = random_stretch(shown[number], float(self._rng.uniform(0.3, 1.0)), self._rng)
            prompts[tuple(stretch.T)] = values[number]
        return prompts

    @torch.no_grad()
    def _interpolate(self) -> None:
        answers = _tuned_parameters(self.answering)
        torch._foreach_copy_(answers, _tuned_parameters(self._tuned))
        torch._foreach_lerp_(answers, _tuned_parameters(self._start), self._pace.kept_start)


def stroke_loss(prediction: Prediction, scribbles: Tensor, counter_examples: float) -> Tensor:
    """Partial binary cross-entropy of the masks on the strokes of one slice.

    Examples and counter-examples have fixed shares, however many they are. The mask that would be shown is trained, and
    the similarities towards the mask that fits best.

    Args:
        prediction: For the slice, which is the first of the batch.
        scribbles: (H, W) uint8.
        counter_examples: Their share.
    """
    drawn = (scribbles != UNLABELLED).nonzero()
    drawn = drawn.to(prediction.masks.device)
    labels = scribbles.to(prediction.masks.device)[drawn[:, 0], drawn[:, 1]]
    points = drawn[:, [1, 0]].float()[None, None] + 0.5
    _, organs, queries = prediction.similarity.shape
    logits = sample_features(prediction.masks[:1].flatten(1, 2), points, MASK_STRIDE)[0, 0]
    logits = logits.view(len(drawn), organs, queries).permute(1, 2, 0)  # (K, N, points)
    is_organ = labels == torch.arange(1, organs + 1, device=labels.device)[:, None]
    errors = functional.binary_cross_entropy_with_logits(
        logits, is_organ[:, None].expand_as(logits).float(), reduction="none"
    )
    by_query = _balanced(errors, is_organ, counter_examples)
    similarity = prediction.similarity[0].float()
    shown = similarity.argmax(-1, keepdim=True)
    masks = by_query.gather(1, shown).mean()
    has_stroke = is_organ.any(-1)
    if not has_stroke.any():
        return masks
    return masks + functional.cross_entropy(similarity[has_stroke], by_query.detach().argmin(-1)[has_stroke])


def presence_loss(prediction: Prediction, scribbles: Tensor, organs: Collection[int]) -> Tensor:
    """Binary cross-entropy of what is certain: a slice with a stroke on an organ shows it.

    Args:
        prediction: For the slice, which is the first of the batch.
        scribbles: (H, W) uint8.
        organs: Values of those that it is asked of.

    Returns:
        A scalar, a mean over all queries; 0 where none of the organs has a stroke.
    """
    drawn = [value - 1 for value in organs if (scribbles == value).any()]
    logits = prediction.presence[0, drawn].float()
    return functional.softplus(-logits).sum() / max(1, logits.numel())


def change(after: Prediction, before: Prediction, organs: Sequence[int]) -> Tensor:
    """How far the answers for some slices are from those before: masks, and whether an organ is there at all.

    Args:
        after, before: For the same slices.
        organs: Indices of those that are compared.
    """
    (masks, _), (masks_before, _) = choose(after), choose(before)
    kept = functional.binary_cross_entropy_with_logits(masks[:, organs], masks_before[:, organs].sigmoid())
    presence, presence_before = (each.presence[:, organs].float().sigmoid() for each in (after, before))
    return kept + functional.mse_loss(presence, presence_before)


def _balanced(errors: Tensor, is_organ: Tensor, counter_examples: float) -> Tensor:
    """(K, N): the mean error of the examples and that of the counter-examples, weighted.

    Args:
        errors: (K, N, points).
        is_organ: (K, points), the examples.
        counter_examples: Weight of those; the examples have the rest.
    """
    parts = []
    for chosen in (is_organ, ~is_organ):
        weight = chosen[:, None].float()
        parts.append((errors * weight).sum(-1) / weight.sum(-1).clamp(min=1))
    return (1.0 - counter_examples) * parts[0] + counter_examples * parts[1]


def _canvas_probabilities(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K + 1, H, W): background and organs, from logits (B, K, h, w) of the organs."""
    height, width = (MASK_STRIDE * n for n in masks.shape[-2:])
    logits = functional.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False)
    organs = logits[..., : size[0], : size[1]].sigmoid()
    return torch.cat([1.0 - organs.amax(1, keepdim=True), organs], dim=1)


def _tuned_parameters(network: CrossMR) -> list[torch.nn.Parameter]:
    """Of all parts together: without visual tokens the sampler has none."""
    return [parameter for name in TUNED_PARTS for parameter in getattr(network, name).parameters()]


def _copy(network: CrossMR) -> CrossMR:
    """A copy with its own sampler and decoder; what makes the features is shared."""
    shared = {id(module): module for module in (network.encoder, network.pixel_decoder)}
    return copy.deepcopy(network, shared)


def _all_strokes(judge: Judge) -> np.ndarray:
    """Those that are shown and those that are held out, (S, H, W)."""
    return np.where(judge.shown != UNLABELLED, judge.shown, judge.held_out)


def _some_slices(scribbles: np.ndarray) -> np.ndarray:
    """The scribbles of at most `MOST_SLICES` slices; each class keeps a slice."""
    slices = np.flatnonzero((scribbles != UNLABELLED).any(axis=(1, 2)))
    if len(slices) <= MOST_SLICES:
        return scribbles
    chosen = set(slices[np.linspace(0, len(slices) - 1, MOST_SLICES).round().astype(int)].tolist())
    for value in np.unique(scribbles[scribbles != UNLABELLED]):
        with_value = np.flatnonzero((scribbles == value).any(axis=(1, 2))).tolist()
        if not chosen.intersection(with_value):
            chosen.add(with_value[len(with_value) // 2])
    result = np.full_like(scribbles, UNLABELLED)
    keep = sorted(chosen)
    result[keep] = scribbles[keep]
    return result


def _why_not(judge: Judge) -> str:
    """Why there is nothing to tune on, as a sentence; empty where there is."""
    if len(np.unique(judge.shown[judge.shown != UNLABELLED])) < 2:
        return "strokes of a single organ say nothing about where it ends; draw some background as well."
    if not judge.can_judge:
        return "the strokes are too short to hold a part of them out; draw longer ones."
    if len(np.unique(judge.held_out[judge.held_out != UNLABELLED])) < 2:
        return "no counter-examples could be held out; draw longer strokes on the background or another organ."
    return ""
