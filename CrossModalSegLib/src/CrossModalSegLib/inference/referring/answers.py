"""From the network's masks to label maps on a volume's own grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from CrossModalSegLib.inference.referring.pieces import Pieces, without_small_pieces
from CrossModalSegLib.inference.referring.referred_volume import ReferredVolume

# The logit of organs in slices that do not show them.
ABSENT_LOGIT = -20.0


class SliceAnswers:
    """Collects the answers for the slices of a volume.

    Attributes:
        labels: (S, rows, columns) uint8: 0 background, else the organ of the highest probability above one half.
        probabilities: (K + 1, S, rows, columns) float32, or None: they add to one, and the highest is that of `labels`.
    """

    def __init__(
        self, volume: ReferredVolume, organs: int, least_presence: float, with_probabilities: bool, device: torch.device
    ) -> None:
        """Nothing is answered yet.

        Args:
            volume: The slices.
            organs: K.
            least_presence: From this probability on an organ counts as present in a slice.
            with_probabilities: Whether to keep the probabilities.
            device: Where the masks are.
        """
        self._volume, self._organs, self._least_presence = volume, organs, least_presence
        self._rows, self._columns = (torch.from_numpy(each).to(device) for each in volume.interpolation)
        shape = volume.frame.axial.shape
        self.labels = np.zeros(shape, np.uint8)
        self.probabilities = np.empty((organs + 1, *shape), np.float32) if with_probabilities else None

    def put(self, indices: list[int], masks: Tensor, presence: Tensor) -> None:
        """Take in the answers for some slices.

        Args:
            indices: B slices, neighbours in ascending order.
            masks: (B, K, h, w) float32 logits.
            presence: (B, K) probabilities that a slice shows an organ.
        """
        with torch.autocast(masks.device.type, enabled=False):
            logits = self._rows @ masks.float() @ self._columns.T
        logits = logits.masked_fill(presence[..., None, None] < self._least_presence, ABSENT_LOGIT)
        best, organ = logits.max(dim=1)
        where = slice(indices[0], indices[-1] + 1)
        self.labels[where] = torch.where(best > 0, organ + 1, 0).to("cpu", torch.uint8).numpy()
        if self.probabilities is not None:
            self.probabilities[:, where] = _exclusive(logits).transpose(0, 1).cpu().numpy()

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


def _exclusive(logits: Tensor) -> Tensor:
    """Probabilities of background and organs, (B, K + 1, ...), from the logits (B, K, ...) of each organ by itself."""
    organs = logits.sigmoid()
    background = 1.0 - organs.amax(dim=1, keepdim=True)
    both = torch.cat([background, organs], dim=1)
    return both / both.sum(dim=1, keepdim=True)
