"""Batches, made in background threads while the network trains: of patches, or of whatever a sampler plans."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.data.augment import LEVELS, Augmentation, AugmentationConfig, AugmentationLevel
from CrossModalSegLib.data.patches import Patch, PatchPlan, PatchSampler, Shape3, stack_patches

# Patches are cut this much larger, as a share of their size and on each side, where the augmentation rotates or scales.
MARGIN_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Batch:
    """What a training step sees.

    Attributes:
        images: (N, M, k, j, i) float32 in [0, 1].
        labels: (N, k, j, i) int64: 0 background, 1..K classes, 255 unlabelled.
        inside: (N, k, j, i) bool; False beyond the volume.
        spacing: mm, (k, j, i) of each sample.
        cases: Index of each sample's case.
        extra: Further label maps, as `labels`.
    """

    images: Tensor
    labels: Tensor
    inside: Tensor
    spacing: tuple[tuple[float, float, float], ...]
    cases: tuple[int, ...]
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        move = {name: tensor.to(device, non_blocking=True) for name, tensor in self.extra.items()}
        images, labels, inside = (t.to(device, non_blocking=True) for t in (self.images, self.labels, self.inside))
        return replace(self, images=images, labels=labels, inside=inside, extra=move)

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU overlap with computing."""
        extra = {name: tensor.pin_memory() for name, tensor in self.extra.items()}
        images, labels, inside = (t.pin_memory() for t in (self.images, self.labels, self.inside))
        return replace(self, images=images, labels=labels, inside=inside, extra=extra)


def collate(patches: Sequence[Patch]) -> Batch:
    """Patches of one size as a batch."""
    images, labels = stack_patches(patches)
    names = patches[0].extra
    return Batch(
        images=images,
        labels=labels,
        inside=torch.from_numpy(np.stack([patch.inside for patch in patches])),
        spacing=tuple(patch.spacing for patch in patches),
        cases=tuple(patch.case for patch in patches),
        extra={name: _stack_labels([patch.extra[name] for patch in patches]) for name in names},
    )


class PlanSource(Protocol):
    """Draws plans in order; what is made of a plan follows from the plan alone."""

    def plan(self) -> Any:
        """The next plan."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is in its draws."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from there."""


class MovableBatch(Protocol):
    """A batch that can be brought to a device."""

    def to(self, device: torch.device) -> MovableBatch:
        """The batch on a device."""

    def pinned(self) -> MovableBatch:
        """The batch in page-locked memory, from which copies to a GPU overlap with computing."""


class PlannedStream:
    """An endless stream of batches.

    Plans are drawn in the caller's thread, in order; making the batches follows from the plans alone. So the stream is
    the same for any number of threads, and `state_dict` is the sampler's state right after the batch that was handed
    out last, however far the threads are ahead.
    """

    def __init__(
        self,
        sampler: PlanSource,
        make: Callable[[Sequence[Any]], MovableBatch],
        batch_size: int,
        *,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Begin to prepare batches.

        Args:
            sampler: Draws the plans.
            make: A batch of plans; called in the threads.
            batch_size: Plans in a batch.
            threads: Number of background threads.
            pin_memory: For a GPU.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self._make_batch = make
        self._pin = pin_memory
        self._depth = threads + 1
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._pending: deque[tuple[Future[MovableBatch], dict[str, Any]]] = deque()
        self._state = sampler.state_dict()

    def next(self) -> MovableBatch:
        """The next batch."""
        while len(self._pending) < self._depth:
            self._submit()
        future, state = self._pending.popleft()
        batch = future.result()
        self._state = state
        self._submit()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state after the batch that was handed out last."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which `state_dict` was called."""
        self._rewind(state)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _rewind(self, state: dict[str, Any]) -> None:
        for future, _ in self._pending:
            future.cancel()
        for future, _ in self._pending:
            if not future.cancelled():
                future.exception()  # waits: a running thread reads the sampler's label maps
        self._pending.clear()
        self._state = state
        self.sampler.load_state_dict(state)

    def _submit(self) -> None:
        plans = [self.sampler.plan() for _ in range(self.batch_size)]
        self._pending.append((self._pool.submit(self._make, plans), self.sampler.state_dict()))

    def _make(self, plans: Sequence[Any]) -> MovableBatch:
        batch = self._make_batch(plans)
        return batch.pinned() if self._pin else batch


class BatchStream(PlannedStream):
    """An endless stream of batches of patches."""

    def __init__(
        self,
        sampler: PatchSampler,
        augmentation: AugmentationConfig | AugmentationLevel | None,
        batch_size: int,
        *,
        threads: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Begin to prepare batches.

        Args:
            sampler: Draws the patches.
            augmentation: Its strength.
            batch_size: Patches in a batch.
            threads: Number of background threads.
            pin_memory: For a GPU.
        """
        self._margin = patch_margin(sampler.size, augmentation)
        self._make_augmentation: Callable[[], Augmentation] = lambda: Augmentation(augmentation, size=sampler.size)
        self._local = threading.local()
        super().__init__(sampler, self._cut, batch_size, threads=threads, pin_memory=pin_memory)

    def set_extra(self, name: str, maps: Sequence[np.ndarray]) -> None:
        """Give, or replace, a further label map; batches already prepared with the old ones are made again."""
        self._rewind(self._state)
        self.sampler.set_extra(name, maps)

    def _cut(self, plans: Sequence[PatchPlan]) -> Batch:
        if not hasattr(self._local, "augmentation"):
            # One each thread: its transforms hold random states while they work.
            self._local.augmentation = self._make_augmentation()
        return collate([self._local.augmentation(self.sampler.cut(plan, self._margin)) for plan in plans])


def patch_margin(size: Shape3, augmentation: AugmentationConfig | AugmentationLevel | None) -> Shape3:
    """Voxels (k, j, i) by which patches are cut larger, so that rotated ones show image and not padding."""
    config = LEVELS.get(augmentation) if isinstance(augmentation, str) else augmentation
    if config is None or not (config.rotation_prob or config.scaling_prob or config.elastic_prob):
        return (0, 0, 0)
    return tuple(round(MARGIN_SHARE * n) for n in size)


def _stack_labels(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.int64))
