"""Patches of prepared cases, centred near labelled voxels.

A scribble covers well below 1 % of a volume, so patches at random places would mostly hold no label. Here a labelled
voxel is drawn first (the class, then one of its voxels), and the patch is laid so that this voxel is anywhere in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import InputError, LabelError
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED

Shape3 = tuple[int, int, int]

# Of a class with more voxels than this (the background of a dense mask), an even share is kept to draw from.
MAX_VOXELS_PER_CLASS = 200_000
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class PatchPlan:
    """All random choices about one patch.

    Attributes:
        case: Index of the case.
        start: First voxel (k, j, i) of the patch; negative where the volume is smaller than the patch.
        seed: For the augmentation of this patch.
    """

    case: int
    start: Shape3
    seed: int


@dataclass(frozen=True, eq=False)
class Patch:
    """A part of a prepared case.

    Attributes:
        images: (M, k, j, i) float32 in [0, 1]; 0 outside the volume.
        labels: (k, j, i) uint8; 255 where unlabelled and outside the volume.
        inside: (k, j, i) bool; False outside the volume.
        spacing: mm, (k, j, i).
        case: Index of the case in the sampler.
        start: First voxel (k, j, i) in the case, may be negative.
        seed: For the augmentation of this patch.
        extra: Further label maps of the same shape and convention, such as pseudo-labels.
    """

    images: np.ndarray
    labels: np.ndarray
    inside: np.ndarray
    spacing: tuple[float, float, float]
    case: int
    start: Shape3
    seed: int
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> Shape3:
        """(k, j, i)."""
        return tuple(self.labels.shape)


def crop(array: np.ndarray, start: Shape3, size: Shape3, fill: float) -> np.ndarray:
    """The block [start, start + size) of the last three axes; voxels beyond the array are `fill`."""
    slices, inside = overlap_slices(array.shape[-3:], start, size)
    if all(s.stop - s.start == n for s, n in zip(inside, size)):
        return np.ascontiguousarray(array[(..., *slices)])
    block = np.full((*array.shape[:-3], *size), fill, array.dtype)
    block[(..., *inside)] = array[(..., *slices)]
    return block


def overlap_slices(shape: Shape3, start: Shape3, size: Shape3) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a block and a volume overlap: slices into the volume and slices into the block."""
    low = [min(max(s, 0), n) for s, n in zip(start, shape)]
    high = [max(min(s + p, n), a) for s, p, n, a in zip(start, size, shape, low)]
    in_volume = tuple(slice(a, b) for a, b in zip(low, high))
    in_block = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start))
    return in_volume, in_block


class PatchSampler:
    """Draws patches from cases, reproducibly.

    A case is drawn uniformly; then, with probability `foreground`, a class among those labelled in that case, all
    with equal chance, otherwise the background; then a voxel of that class; then the voxel's place in the patch.
    A patch is moved as little as needed to lie within the volume; along an axis on which the volume is smaller, it
    is centred and padded. A case without labels gives patches at uniformly random places.

    All choices come from one generator, whose state `state_dict` saves.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        size: Shape3,
        *,
        seed: int,
        target: Literal["scribbles", "mask"] = "scribbles",
        foreground: float = 0.75,
        extra: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> None:
        """Index the labelled voxels of all cases.

        Args:
            cases: On their working grids.
            size: Patch size (k, j, i).
            seed: Of the generator.
            target: Which label map the patches carry and are centred on.
            foreground: Probability of a patch around a voxel of a class other than the background.
            extra: Further label maps by name, one (k, j, i) uint8 array a case, cut out alongside.

        Raises:
            InputError: No cases, or a size that is not three positive numbers.
            LabelError: A case lacks the target.
        """
        if not cases:
            raise InputError("A patch sampler needs at least one case; got none.")
        if len(size) != 3 or any(int(n) != n or n < 1 for n in size):
            raise InputError(f"The patch size is three positive whole numbers (k, j, i); got {size}.")
        if not 0.0 <= foreground <= 1.0:
            raise InputError(f"The foreground fraction lies within 0 and 1; got {foreground}.")
        self.cases = tuple(cases)
        self.size: Shape3 = tuple(int(n) for n in size)
        self.foreground = foreground
        self.labels = [_target_of(case, target) for case in self.cases]
        self.extra: dict[str, list[np.ndarray]] = {}
        for name, maps in (extra or {}).items():
            self.set_extra(name, maps)
        self._voxels = [_voxels_by_class(labels) for labels in self.labels]
        self._generator = np.random.default_rng(seed)

    def set_extra(self, name: str, maps: Sequence[np.ndarray]) -> None:
        """Give, or replace, a further label map: one (k, j, i) uint8 array a case."""
        for case, array in zip(self.cases, maps, strict=True):
            if array.shape != case.shape or array.dtype != np.uint8:
                raise LabelError(
                    f'The label map "{name}" of the case {case.name} must be uint8 of shape {case.shape}; '
                    f"got {array.dtype} {array.shape}."
                )
        self.extra[name] = list(maps)

    def plan(self) -> PatchPlan:
        """Draw the next patch without cutting it out."""
        rng = self._generator
        case = int(rng.integers(len(self.cases)))
        shape = self.cases[case].shape
        voxel = self._draw_voxel(case, shape)
        offset = rng.integers(self.size)
        start = tuple(_place(int(v), int(o), n, p) for v, o, n, p in zip(voxel, offset, shape, self.size))
        return PatchPlan(case=case, start=start, seed=int(rng.integers(MAX_SEED)))

    def cut(self, plan: PatchPlan, margin: Shape3 = (0, 0, 0)) -> Patch:
        """The patch of a plan, larger by `margin` (k, j, i) voxels on each side."""
        case = self.cases[plan.case]
        start = tuple(s - m for s, m in zip(plan.start, margin))
        size = tuple(n + 2 * m for n, m in zip(self.size, margin))
        _, in_block = overlap_slices(case.shape, start, size)
        inside = np.zeros(size, bool)
        inside[in_block] = True
        return Patch(
            images=crop(case.images, start, size, 0.0),
            labels=crop(self.labels[plan.case], start, size, UNLABELLED),
            inside=inside,
            spacing=case.spacing,
            case=plan.case,
            start=start,
            seed=plan.seed,
            extra={name: crop(maps[plan.case], start, size, UNLABELLED) for name, maps in self.extra.items()},
        )

    def sample(self, margin: Shape3 = (0, 0, 0)) -> Patch:
        """Draw and cut out the next patch."""
        return self.cut(self.plan(), margin)

    def state_dict(self) -> dict[str, Any]:
        """State of the generator; plain numbers and strings, so that JSON can hold it."""
        return dict(self._generator.bit_generator.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` gave."""
        self._generator.bit_generator.state = dict(state)

    def _draw_voxel(self, case: int, shape: Shape3) -> np.ndarray:
        rng = self._generator
        voxels = self._voxels[case]
        wants_foreground = rng.random() < self.foreground
        classes = [value for value in voxels if (value != BACKGROUND) == wants_foreground] or list(voxels)
        if not classes:
            return rng.integers(shape)
        candidates = voxels[classes[int(rng.integers(len(classes)))]]
        return np.array(np.unravel_index(candidates[int(rng.integers(candidates.size))], shape))


def stack_patches(patches: Sequence[Patch]) -> tuple[Tensor, Tensor]:
    """A batch: images (N, M, k, j, i) float32 and labels (N, k, j, i) int64."""
    images = torch.from_numpy(np.stack([patch.images for patch in patches]))
    labels = torch.from_numpy(np.stack([patch.labels for patch in patches]).astype(np.int64))
    return images, labels


def _target_of(case: PreparedCase, target: Literal["scribbles", "mask"]) -> np.ndarray:
    labels = case.scribbles if target == "scribbles" else case.mask
    if labels is None:
        raise LabelError(f"The case {case.name} has no {target}: give it one in the cohort, or leave the case out.")
    return labels


def _voxels_by_class(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Flat indices of the voxels of each class that is labelled, background included."""
    flat = np.ascontiguousarray(labels).reshape(-1)
    counts = np.bincount(flat, minlength=UNLABELLED + 1)[:UNLABELLED]
    voxels: dict[int, np.ndarray] = {}
    for value in np.flatnonzero(counts):
        indices = np.flatnonzero(flat == value)
        if indices.size > MAX_VOXELS_PER_CLASS:
            # A fixed seed, because the index belongs to the case and not to the sequence of draws.
            chosen = np.random.default_rng(0).choice(indices.size, MAX_VOXELS_PER_CLASS, replace=False)
            indices = indices[np.sort(chosen)]
        voxels[int(value)] = indices
    return voxels


def _place(voxel: int, offset: int, length: int, size: int) -> int:
    if length <= size:
        return -((size - length) // 2)
    return min(max(voxel - offset, 0), length - size)
