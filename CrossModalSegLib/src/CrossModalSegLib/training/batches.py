"""Batches, made in the background while the network trains: of patches, or of whatever a sampler plans."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from CrossModalSegLib.data.augment import LEVELS, Augmentation, AugmentationConfig, AugmentationLevel
from CrossModalSegLib.data.patches import Patch, PatchPlan, PatchSampler, Shape3, stack_patches
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.interrupt import STOPPING

# More processes than this compete for the memory.
MOST_WORKERS = 8
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

    def pin_memory(self) -> Batch:
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

    def pin_memory(self) -> MovableBatch:
        """The batch in page-locked memory, from which copies to a GPU overlap with computing."""


BatchMaker = Callable[[Sequence[Any]], MovableBatch]


def batch_workers(asked: int | None, device: torch.device) -> int:
    """Processes that make batches: those asked for, or as many as suit the device.

    A GPU would wait for batches that one thread makes. On a CPU, processes would take its cores from the network; and
    only on Linux they share the images with the program that starts them.

    Raises:
        InputError: Fewer than none were asked for.
    """
    if asked is not None and asked < 0:
        raise InputError(f"The number of processes that make batches should be 0 or above, got {asked}.")
    if asked is not None:
        return asked
    if device.type != "cuda" or sys.platform != "linux":
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MOST_WORKERS, cores - 1))


class PlannedStream:
    """An endless stream of batches, prepared while the network trains.

    Plans are drawn in the caller's process, in order; making the batches follows from the plans alone. So the stream is
    the same for any number of workers, and `state_dict` is the sampler's state right after the batch that was handed
    out last, however far the workers are ahead.
    """

    def __init__(
        self,
        sampler: PlanSource,
        make: BatchMaker,
        batch_size: int,
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """A stream; nothing is prepared before the first batch is asked for.

        Args:
            sampler: Draws the plans.
            make: Makes a batch of plans; it is sent to the processes where they do not share memory.
            batch_size: Plans in a batch.
            workers: Processes that make the batches; with 0 a thread of this process does.
            pin_memory: For a GPU.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self.make = make
        self.workers, self._pin_memory = workers, pin_memory
        self._batches: _ThreadBatches | _ProcessBatches | None = None
        self._states: deque[dict[str, Any]] = deque()
        self._state = sampler.state_dict()

    def next(self) -> MovableBatch:
        """The next batch."""
        if self._batches is None:
            self._batches = self._begin()
        batch = self._batches.next()
        self._state = self._states.popleft()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state after the batch that was handed out last."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which `state_dict` was called."""
        self.close()
        self._state = state
        self.sampler.load_state_dict(state)

    def close(self) -> None:
        """End the workers; batches that are ready are dropped."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None
        self._states.clear()

    def _begin(self) -> _ThreadBatches | _ProcessBatches:
        if self.workers == 0:
            return _ThreadBatches(self.make, self._plans(), self._pin_memory)
        return _ProcessBatches(self.make, self._plans(), self._pin_memory, self.workers)

    def _plans(self) -> Iterator[list[Any]]:
        while True:
            plans = [self.sampler.plan() for _ in range(self.batch_size)]
            self._states.append(self.sampler.state_dict())
            yield plans


class _ThreadBatches:
    """Batches made in a thread, one ahead: works in every program, also where processes cannot be started."""

    def __init__(self, make: BatchMaker, plans: Iterator[list[Any]], pin_memory: bool) -> None:
        self._make, self._plans, self._pin = make, plans, pin_memory
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._pending: deque[Future[MovableBatch]] = deque()
        self._submit()

    def next(self) -> MovableBatch:
        self._submit()
        return self._pending.popleft().result()

    def close(self) -> None:
        # Waits for a batch in the making: it reads the sampler's label maps.
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._made, next(self._plans)))

    def _made(self, plans: list[Any]) -> MovableBatch:
        batch = self._make(plans)
        return batch.pin_memory() if self._pin else batch


class _ProcessBatches:
    """Batches made in processes, where Python's lock does not hold the network back."""

    def __init__(self, make: BatchMaker, plans: Iterator[list[Any]], pin_memory: bool, workers: int) -> None:
        loader = DataLoader(
            _Batches(make),
            batch_size=None,
            sampler=_Drawn(plans),
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_leave_signals_alone,
            generator=torch.Generator(),  # else it draws from the one that the training uses
            pin_memory=pin_memory,
        )
        self._iterator = iter(loader)

    def next(self) -> MovableBatch:
        return next(self._iterator)

    def close(self) -> None:
        # Deleting it is not enough: an error on its way out would hold it, and the processes with it.
        self._iterator._shutdown_workers()


def _leave_signals_alone(_worker: int) -> None:
    """Terminals and job schedulers signal all processes of a program: the training decides for these ones, too."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class _Batches(Dataset):
    """Batches by their plans."""

    def __init__(self, make: BatchMaker) -> None:
        self._make = make

    def __getitem__(self, plans: list[Any]) -> MovableBatch:
        return self._make(plans)


class _Drawn(Sampler):
    """Plans without end, as a sampler of `DataLoader`."""

    def __init__(self, plans: Iterator[list[Any]]) -> None:
        self._plans = plans

    def __iter__(self) -> Iterator[list[Any]]:
        return self._plans


def _unchanged(batch: MovableBatch) -> MovableBatch:
    return batch


class BatchStream(PlannedStream):
    """An endless stream of batches of patches."""

    def __init__(
        self,
        sampler: PatchSampler,
        augmentation: AugmentationConfig | AugmentationLevel | None,
        batch_size: int,
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """A stream of patches.

        Args:
            sampler: Draws the patches.
            augmentation: Its strength.
            batch_size: Patches in a batch.
            workers: Processes that make the batches; with 0 a thread of this process does.
            pin_memory: For a GPU.
        """
        make = PatchMaker(sampler, augmentation)
        super().__init__(sampler, make, batch_size, workers=workers, pin_memory=pin_memory)

    def set_extra(self, name: str, maps: Sequence[np.ndarray]) -> None:
        """Give, or replace, a further label map; batches already prepared with the old ones are made again."""
        self.load_state_dict(self._state)
        self.sampler.set_extra(name, maps)


class PatchMaker:
    """Cuts and augments the patches of a batch."""

    def __init__(self, sampler: PatchSampler, augmentation: AugmentationConfig | AugmentationLevel | None) -> None:
        self._sampler = sampler
        self._margin = patch_margin(sampler.size, augmentation)
        self._augment = Augmentation(augmentation, size=sampler.size)

    def __call__(self, plans: Sequence[PatchPlan]) -> Batch:
        """The batch."""
        return collate([self._augment(self._sampler.cut(plan, self._margin)) for plan in plans])


def patch_margin(size: Shape3, augmentation: AugmentationConfig | AugmentationLevel | None) -> Shape3:
    """Voxels (k, j, i) by which patches are cut larger, so that rotated ones show image and not padding."""
    config = LEVELS.get(augmentation) if isinstance(augmentation, str) else augmentation
    if config is None or not (config.rotation_prob or config.scaling_prob or config.elastic_prob):
        return (0, 0, 0)
    return tuple(round(MARGIN_SHARE * n) for n in size)


def _stack_labels(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.int64))
