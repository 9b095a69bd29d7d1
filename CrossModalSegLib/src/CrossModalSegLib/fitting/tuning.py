"""What a network learns from the scribbles of one case.

A `PromptedTuner` starts from weights that already follow scribbles in any image. It hides some of the scribbled slices
from the prompts and asks the network for them: the very task it has between the slices that the user drew on. A
`ScratchTuner` trains a network on the scribbles alone, as the paper does with a cohort.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from CrossModalSegLib.data.augment import Augmentation, AugmentationLevel
from CrossModalSegLib.data.patches import PatchSampler, stack_patches
from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.fitting.class_view import ClassView, class_view
from CrossModalSegLib.fitting.prompted import (
    longest_views,
    pad_to_multiple,
    prompted_input,
    segment_prompted,
    two_images,
    view_scales,
)
from CrossModalSegLib.fitting.regions import slice_gap_mm
from CrossModalSegLib.inference.predictor import mixed_precision, predict
from CrossModalSegLib.labels import UNLABELLED
from CrossModalSegLib.models.cmfnet import CmFNet
from CrossModalSegLib.progress import CancelToken

# (logits by branch, images (N, M, k, j, i), scribbles (N, k, j, i) int64, spacing mm; where patches reach beyond the
# volume also inside, (N, k, j, i) bool) -> named terms with "total".
Loss = Callable[..., dict[str, Tensor]]
MAX_GRADIENT_NORM = 5.0
GAPS_MM = (10.0, 35.0)
SMALLEST_PATCH = (16, 32, 32)


@dataclass(frozen=True)
class PromptedTuning:
    """How a prompted network is tuned.

    Attributes:
        patch: Largest patch (k, j, i).
        learning_rate: Of AdamW, where scribbled slices are at most 10 mm apart and where they are 35 mm apart or more;
            in between it rises linearly. Where strokes are close the prior hardly has to learn, and can only forget.
        hidden_share: Probability that a scribbled slice is hidden from the prompts, for the same distances. A network
            that has to bridge wide gaps reaches further from the strokes, which harms where they are close.
        kept_prior: Share of the prior in the weights that answer: tuned weights alone forget, an interpolation keeps
            what both know (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """

    patch: tuple[int, int, int] = (32, 96, 96)
    learning_rate: tuple[float, float] = (2e-5, 2e-4)
    hidden_share: tuple[float, float] = (0.15, 0.5)
    kept_prior: float = 0.5


@dataclass(frozen=True)
class ScratchTuning:
    """How a network is trained on one case.

    Attributes:
        patch: Largest patch (k, j, i).
        batch_size: Patches a step.
        learning_rate: Of AdamW.
        augmentation: Its level.
    """

    patch: tuple[int, int, int] = (16, 96, 96)
    batch_size: int = 2
    learning_rate: float = 1e-3
    augmentation: AugmentationLevel = "light"


class Tuner(Protocol):
    """A network that learns from one case and can segment it at any time.

    Attributes:
        network: With the weights that answer.
        answers_at_once: Whether it has an answer before the first step.
        can_forget: Whether it tunes a prior, which too many steps on one case would wear away.
    """

    network: nn.Module
    answers_at_once: bool
    can_forget: bool

    def step(self) -> dict[str, float]:
        """One optimiser step; the loss terms by name."""

    def shrink(self) -> bool:
        """Take smaller steps from now on, for want of memory; false where they are the smallest already."""

    def predict(self, shown: np.ndarray, cancel: CancelToken | None = None) -> np.ndarray:
        """Probabilities (K + 1, k, j, i) float32 of the working case.

        Args:
            shown: (k, j, i) uint8, the scribbles that a prompted network may see.
        """


class PromptedTuner:
    """Tunes a class-agnostic prompted network on the slices it was not shown."""

    answers_at_once = True
    can_forget = True

    def __init__(
        self,
        network: CmFNet,
        case: PreparedCase,
        scribbles: np.ndarray,
        num_classes: int,
        loss: Loss,
        config: PromptedTuning,
        seed: int,
        device: torch.device,
        start: nn.Module | None = None,
        thicknesses: Mapping[int, float] | None = None,
        thin: Collection[int] = (),
    ) -> None:
        """Prepare the views of each class.

        Args:
            network: Two classes, `PROMPT_CHANNELS` prompt channels; is changed in place, to the weights that answer.
            case: Images and spacing.
            scribbles: (k, j, i) uint8 to learn from: the case's, or a part of them.
            start: The same network with the weights that an earlier tuning of `network` ended with, to go on from.
            thicknesses: mm by class, of those that are known.
            thin: Classes that are looked at in halved voxels.
        """
        self.network = network.to(device)
        self._tuned = copy.deepcopy(self.network)
        self._prior = [parameter.detach().clone() for parameter in self.network.parameters()]
        if start is not None:
            self._go_on_from(start, config.kept_prior)
        self._case, self._scribbles, self._num_classes = case, scribbles, num_classes
        images = two_images(case.images)
        values = [value for value in range(1, num_classes) if (scribbles == value).any()]
        scales = view_scales(scribbles, case.spacing)
        self._thicknesses, self._thin = thicknesses or {}, thin
        longest = longest_views(scribbles, case.spacing, self._thicknesses)
        self._views = [
            class_view(images, scribbles, value, case.spacing, scale, longest.get(value, np.inf), value in thin)
            for value in values
            for scale in scales
        ]
        self._loss, self._config, self._device = loss, config, device
        gap = slice_gap_mm(scribbles, case.spacing)
        self._hidden_share = float(np.interp(gap, GAPS_MM, config.hidden_share))
        self._rng = np.random.default_rng(seed)
        rate = float(np.interp(gap, GAPS_MM, config.learning_rate))
        self._optimizer = torch.optim.AdamW(self._tuned.parameters(), lr=rate, weight_decay=1e-4)

    def step(self) -> dict[str, float]:
        view = self._views[self._rng.integers(len(self._views))]
        patch = self._random_patch(view)
        divisor = self.network.divisor
        inputs = prompted_input(patch, self._hide_slices(patch.scribbles, view.value), divisor)
        target = np.where(patch.scribbles == UNLABELLED, UNLABELLED, patch.scribbles == view.value).astype(np.int64)
        inputs, target = self._flip(inputs, pad_to_multiple(target, divisor, UNLABELLED))
        self._tuned.train()
        x, y = torch.from_numpy(inputs)[None].to(self._device), torch.from_numpy(target)[None].to(self._device)
        with mixed_precision(self._device):
            logits = self._tuned(x)
        terms = optimise(self._tuned, self._optimizer, self._loss(logits, x[:, :2], y, view.spacing))
        self._interpolate()
        return terms

    def shrink(self) -> bool:
        smaller = _halved(self._config.patch)
        if smaller is None:
            return False
        self._config = replace(self._config, patch=smaller)
        return True

    @torch.no_grad()
    def _go_on_from(self, start: nn.Module, kept_prior: float) -> None:
        """Take over answering weights, and from them the tuned ones: those which the prior was mixed into."""
        self.network.load_state_dict(start.state_dict())
        self._tuned.load_state_dict(start.state_dict())
        if kept_prior < 1:
            torch._foreach_lerp_(list(self._tuned.parameters()), self._prior, -kept_prior / (1 - kept_prior))

    @torch.no_grad()
    def _interpolate(self) -> None:
        answers = list(self.network.parameters())
        torch._foreach_copy_(answers, list(self._tuned.parameters()))
        torch._foreach_lerp_(answers, self._prior, self._config.kept_prior)

    def predict(self, shown: np.ndarray, cancel: CancelToken | None = None) -> np.ndarray:
        case = self._case
        return segment_prompted(
            self.network,
            case.images,
            shown,
            self._num_classes,
            case.spacing,
            self._device,
            cancel,
            self._thicknesses,
            self._thin,
        )

    def _random_patch(self, view: ClassView) -> ClassView:
        """A part of a view that holds one of the class's scribbled voxels."""
        voxels = np.argwhere(view.scribbles == view.value)
        voxel = voxels[self._rng.integers(len(voxels))]
        sides = []
        for at, length, size in zip(voxel, view.scribbles.shape, self._config.patch):
            low, high = max(0, at - size + 1), min(at, max(0, length - size))
            start = int(self._rng.integers(low, max(low, high) + 1))
            sides.append(slice(start, min(start + size, length)))
        box = tuple(sides)
        return replace(view, images=view.images[(slice(None), *box)], scribbles=view.scribbles[box], box=box)

    def _hide_slices(self, scribbles: np.ndarray, value: int) -> np.ndarray:
        """The scribbles without those of random slices; at least one slice keeps the class."""
        slices = np.flatnonzero((scribbles != UNLABELLED).any(axis=(1, 2)))
        hidden = slices[self._rng.random(len(slices)) < self._hidden_share]
        with_class = np.flatnonzero((scribbles == value).any(axis=(1, 2)))
        hidden = np.setdiff1d(hidden, [self._rng.choice(with_class)])
        shown = scribbles.copy()
        shown[hidden] = UNLABELLED
        return shown

    def _flip(self, inputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axes = [axis for axis in (-1, -2, -3) if self._rng.random() < 0.5]
        return np.flip(inputs, axes).copy(), np.flip(target, axes).copy()


class ScratchTuner:
    """Trains any network of the calling convention on patches around the scribbles of one case."""

    can_forget = False

    def __init__(
        self,
        network: nn.Module,
        case: PreparedCase,
        loss: Loss,
        config: ScratchTuning,
        seed: int,
        device: torch.device,
        start: nn.Module | None = None,
    ) -> None:
        """Prepare.

        Args:
            network: Is trained in place.
            case: Images and the scribbles to learn from.
            start: The same network with the weights of an earlier training, to go on from.
        """
        self.answers_at_once = start is not None
        if start is not None:
            network.load_state_dict(start.state_dict())
        self.network = network.to(device)
        self._case, self._loss, self._device, self._batch_size = case, loss, device, config.batch_size
        self._seed = seed
        self._sampler = PatchSampler([case], _patch_within(case.shape, config.patch), seed=seed)
        self._augment = Augmentation(config.augmentation)
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)

    def step(self) -> dict[str, float]:
        patches = [self._augment(self._sampler.sample()) for _ in range(self._batch_size)]
        inside = torch.from_numpy(np.stack([patch.inside for patch in patches]))
        images, labels, inside = (each.to(self._device) for each in (*stack_patches(patches), inside))
        self.network.train()
        with mixed_precision(self._device):
            logits = self.network(images)
        terms = self._loss(logits, images, labels, self._case.spacing, inside)
        return optimise(self.network, self._optimizer, terms)

    def shrink(self) -> bool:
        if self._batch_size > 1:
            self._batch_size //= 2
            return True
        smaller = _halved(self._sampler.size)
        if smaller is None:
            return False
        self._sampler = PatchSampler([self._case], smaller, seed=self._seed)
        return True

    def predict(self, shown: np.ndarray, cancel: CancelToken | None = None) -> np.ndarray:  # noqa: ARG002
        return predict(self.network, self._case.images, device=self._device, cancel=cancel)


def _patch_within(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """The patch, no larger than a volume needs it to be: padding would take most of the time in a small one."""
    needed = [max(least, -(-n // 16) * 16) for n, least in zip(shape, SMALLEST_PATCH, strict=True)]
    return tuple(min(n, size) for n, size in zip(needed, patch, strict=True))


def _halved(patch: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Half as long along the longest axis that can be halved; None where there is none."""
    axes = [axis for axis in range(3) if patch[axis] >= 2 * SMALLEST_PATCH[axis]]
    if not axes:
        return None
    longest = max(axes, key=lambda axis: patch[axis])
    return tuple(n // 32 * 16 if axis == longest else n for axis, n in enumerate(patch))


def optimise(network: nn.Module, optimizer: torch.optim.Optimizer, terms: dict[str, Tensor]) -> dict[str, float]:
    """One step down the gradient of terms["total"]; the terms as numbers.

    Raises:
        FloatingPointError: The loss is not finite; the network still has the weights of before the step.
    """
    total = terms["total"]
    if not torch.isfinite(total):
        raise FloatingPointError("the loss is no longer a finite number")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    return {name: float(term.detach()) for name, term in terms.items()}
