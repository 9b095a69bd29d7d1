"""From the network's masks to label maps on a volume's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.inference.referring.pieces import Pieces, without_small_pieces
from CrossModalSegLib.inference.referring.referred_volume import ReferredVolume

# The logit of organs in slices that do not show them.
ABSENT_LOGIT = -20.0


@dataclass(frozen=True, eq=False)
class _CertainSlice:
    """The answer for a slice that shows organs for certain which the network did not see there.

    Attributes:
        index: Of the slice.
        labels: (rows, columns) uint8, these organs alone.
        probabilities: (K + 1, rows, columns) float32, or None.
    """

    index: int
    labels: np.ndarray
    probabilities: np.ndarray | None


class SliceAnswers:
    """Collects the answers for the slices of a volume.

    Attributes:
        labels: (S, rows, columns) uint8: 0 background, else the organ of the highest probability above one half.
        probabilities: (K + 1, S, rows, columns) float32, or None: they add to one, and the highest is that of `labels`.
    """

    def __init__(
        self,
        volume: ReferredVolume,
        organs: int,
        least_presence: float,
        with_probabilities: bool,
        device: torch.device,
        shown: np.ndarray | None = None,
    ) -> None:
        """Nothing is answered yet.

        Args:
            volume: The slices.
            organs: K.
            least_presence: From this probability on an organ counts as present in a slice.
            with_probabilities: Whether to keep the probabilities.
            device: Where the masks are.
            shown: (S, K) bool: the slice shows the organ for certain, since there is a stroke on it. None: not known.
        """
        self._volume, self._organs, self._least_presence = volume, organs, least_presence
        self._rows, self._columns = (torch.from_numpy(each).to(device) for each in volume.interpolation)
        shape = volume.frame.axial.shape
        self.labels = np.zeros(shape, np.uint8)
        self.probabilities = np.empty((organs + 1, *shape), np.float32) if with_probabilities else None
        self._shown = shown
        self._certain: list[_CertainSlice] = []

    def put(self, indices: list[int], masks: Tensor, presence: Tensor) -> None:
        """Take in the answers for some slices.

        Args:
            indices: B slices, neighbours in ascending order.
            masks: (B, K, h, w) float32 logits.
            presence: (B, K) probabilities that a slice shows an organ.
        """
        with torch.autocast(masks.device.type, enabled=False):
            logits = self._rows @ masks.float() @ self._columns.T
        is_absent = presence < self._least_presence
        if self._shown is not None:
            self._keep_certain(indices, logits, is_absent.cpu().numpy())
        logits.masked_fill_(is_absent[..., None, None], ABSENT_LOGIT)
        where = slice(indices[0], indices[-1] + 1)
        self.labels[where] = _labels(logits)
        if self.probabilities is not None:
            self.probabilities[:, where] = _exclusive(logits).transpose(0, 1).cpu().numpy()

    def _keep_certain(self, indices: list[int], masks: Tensor, is_absent: np.ndarray) -> None:
        for n, index in enumerate(indices):
            certain = self._shown[index] & is_absent[n]
            if not certain.any():
                continue
            left_out = torch.from_numpy(is_absent[n] & ~certain).to(masks.device)
            logits = masks[n : n + 1].masked_fill(left_out[None, :, None, None], ABSENT_LOGIT)
            labels = _labels(logits)[0]
            labels[~np.isin(labels, np.flatnonzero(certain) + 1)] = 0
            probabilities = None if self.probabilities is None else _exclusive(logits)[0].cpu().numpy()
            self._certain.append(_CertainSlice(index, labels, probabilities))

    def add_certain(self) -> None:
        """Mark organs in slices that show them for certain, where the network did not see them.

        After `drop_small_pieces`: what is added here says nothing about the pieces of other slices.
        """
        for each in self._certain:
            added = (each.labels > 0) & (self.labels[each.index] == 0)
            self.labels[each.index][added] = each.labels[added]
            if self.probabilities is not None:
                self.probabilities[:, each.index][:, added] = each.probabilities[:, added]

    def drop_small_pieces(self, pieces: Pieces, strokes: np.ndarray | None) -> None:
        """Make background of small pieces of the organs, and of their probabilities, once all slices are answered.

        Args:
            pieces: Which of them stay; see `without_small_pieces`.
            strokes: uint8 in the image's own storage order: pieces under a stroke stay. None where there are none.
        """
        drawn = None if strokes is None else self._volume.frame.to_axial(strokes)
        kept = without_small_pieces(self.labels, self._organs, pieces, drawn)
        if self.probabilities is not None:
            dropped = np.nonzero(kept != self.labels)
            organ = self.labels[dropped]
            self.probabilities[(0, *dropped)] += self.probabilities[(organ, *dropped)]
            self.probabilities[(organ, *dropped)] = 0.0
        self.labels = kept

    def source_labels(self) -> np.ndarray:
        """The labels in the image's own storage order."""
        return np.ascontiguousarray(self._volume.frame.from_axial(self.labels))

    def source_probabilities(self) -> np.ndarray | None:
        """The probabilities in the image's own storage order, (K + 1, k, j, i)."""
        if self.probabilities is None:
            return None
        return np.stack([self._volume.frame.from_axial(each) for each in self.probabilities])


def _labels(logits: Tensor) -> np.ndarray:
    """(B, rows, columns) uint8 from the logits (B, K, rows, columns): the highest above 0."""
    best, organ = logits.max(dim=1)
    return torch.where(best > 0, organ + 1, 0).to("cpu", torch.uint8).numpy()


def _exclusive(logits: Tensor) -> Tensor:
    """Probabilities of background and organs, (B, K + 1, ...), from the logits (B, K, ...) of each organ by itself."""
    organs = logits.sigmoid()
    background = 1.0 - organs.amax(dim=1, keepdim=True)
    both = torch.cat([background, organs], dim=1)
    return both / both.sum(dim=1, keepdim=True)
