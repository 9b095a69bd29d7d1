"""Image features that are computed once and kept, within a bound of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import torch

from CrossModalSegLib.inference.referring.referred_volume import ReferredVolume
from CrossModalSegLib.models.crossmr import Features
from CrossModalSegLib.progress import CancelToken, Progress

logger = logging.getLogger(__name__)

# A slice of 256 by 256 has 5440 feature vectors. With the 512 channels of the paper that are 5.6 MB in bfloat16, so
# five volumes of 40 slices take 1.1 GB; with the 96 channels of the compact network 0.2 GB.
FEATURE_BYTES = 2 * 2**30

Encode = Callable[[ReferredVolume, Sequence[int]], Features]


class FeatureStore:
    """Features of slices, by the content of the volumes.

    They are kept in bfloat16, and given as float32. Slices beyond the bound are encoded anew each time they are asked
    for: answers stay the same, new strokes take longer.
    """

    def __init__(self, encode: Encode, limit_bytes: int = FEATURE_BYTES) -> None:
        """An empty store.

        Args:
            encode: Slices of a volume to features.
            limit_bytes: What features may take.
        """
        self._encode, self._limit = encode, limit_bytes
        self._kept: dict[str, list[Features | None]] = {}
        self._bytes = self._slice_bytes = 0
        self.encoded = 0

    @property
    def bytes(self) -> int:
        """What the kept features take."""
        return self._bytes

    def add(
        self,
        volume: ReferredVolume,
        batch: int,
        progress: Progress,
        cancel: CancelToken,
        needed: Collection[str] = (),
        indices: Sequence[int] | None = None,
    ) -> None:
        """Encode the slices of a volume that are not known yet.

        Args:
            volume: The slices.
            batch: Slices that are encoded at once.
            progress: Called with slices done and in all.
            cancel: Looked at before each batch.
            needed: Keys of other volumes that stay; those of all others make room where the bound is met.
            indices: Slices that are wanted; None for all.

        Raises:
            Cancelled: The cancel token was set; slices encoded so far are kept until `retain`.
        """
        kept = self._kept.setdefault(volume.key, [None] * volume.count)
        wanted = range(volume.count) if indices is None else indices
        missing = [index for index in wanted if kept[index] is None]
        done, message = volume.count - len(missing), f"look at {volume.name}"
        progress(done, volume.count, message)
        for start in range(0, len(missing), batch):
            cancel.raise_if_cancelled()
            some = missing[start : start + batch]
            if self._is_full(len(some)):
                self.retain({*needed, volume.key})
            if self._is_full(len(some)):
                logger.warning(
                    "The features of %s slices of %s do not fit into the %d MB set aside: new strokes will take longer "
                    "there.",
                    len(missing) - start,
                    volume.name,
                    self._limit >> 20,
                )
                progress(volume.count, volume.count, message)
                return
            self._keep(kept, some, self._compute(volume, some))
            for _ in some:
                done += 1
                progress(done, volume.count, message)

    def get(self, volume: ReferredVolume, indices: Sequence[int]) -> Features:
        """Features of some slices, float32."""
        kept = self._kept.get(volume.key, [None] * volume.count)
        missing = [index for index in indices if kept[index] is None]
        fresh = dict(zip(missing, _split(self._compute(volume, missing)))) if missing else {}
        return _cast(Features.cat([fresh.get(index) or kept[index] for index in indices]), torch.float32)

    def retain(self, keys: Collection[str]) -> None:
        """Free the features of all other volumes."""
        for key in [key for key in self._kept if key not in keys]:
            self._bytes -= sum(_bytes(features) for features in self._kept.pop(key) if features is not None)

    def _compute(self, volume: ReferredVolume, indices: Sequence[int]) -> Features:
        self.encoded += len(indices)
        # Rounded here, so that it makes no difference whether features were kept.
        return _cast(self._encode(volume, indices), torch.bfloat16)

    def _keep(self, kept: list[Features | None], indices: Sequence[int], features: Features) -> None:
        for index, each in zip(indices, _split(features)):
            kept[index] = each
            self._slice_bytes = _bytes(each)
            self._bytes += self._slice_bytes

    def _is_full(self, slices: int) -> bool:
        """Whether so many further slices would not fit; all slices take the same, since all have the canvas's size."""
        return self._bytes + slices * self._slice_bytes > self._limit


def _split(features: Features) -> list[Features]:
    """One by one, each with memory of its own."""
    count = len(features.mask_features)
    parts = (features.index(slice(index, index + 1)) for index in range(count))
    return [Features(tuple(level.clone() for level in part.levels), part.mask_features.clone()) for part in parts]


def _cast(features: Features, dtype: torch.dtype) -> Features:
    return Features(tuple(level.to(dtype) for level in features.levels), features.mask_features.to(dtype))


def _bytes(features: Features) -> int:
    return sum(each.numel() * each.element_size() for each in (*features.levels, features.mask_features))
