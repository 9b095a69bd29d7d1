"""Connected pieces of organs: which of them stay in an answer.

Slices are answered one by one, so an organ may be marked where there is none, apart from the organ itself.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

Pieces = Literal["all", "large", "largest"]

# Of an organ's largest piece, in voxels: "large" leaves pieces from there on. Chosen on contrasts simulated from two CT
# cases that the model that ships was not trained on, as was the least presence in its card.
LARGE_PIECE = 0.2

_LEAST_SHARES: dict[Pieces, float] = {"all": 0.0, "large": LARGE_PIECE, "largest": 1.0}
_CORNERS = np.ones((3, 3, 3), bool)


def without_small_pieces(
    labels: np.ndarray, organs: int, pieces: Pieces, strokes: np.ndarray | None = None
) -> np.ndarray:
    """Labels of which the small pieces of each organ are background.

    Args:
        labels: (k, j, i) uint8, 0 background and 1..K; voxels that share a corner belong to one piece.
        organs: K.
        pieces: "all" stay, the "large" ones, or the "largest" one of each organ.
        strokes: (k, j, i) uint8 on the same voxels: a piece under a stroke on its organ stays, whatever its size.
    """
    kept = labels.copy()
    if pieces == "all":
        return kept
    for value, box in enumerate(ndimage.find_objects(labels, organs), start=1):
        if box is not None:
            under = None if strokes is None else strokes[box] == value
            kept[box][_small(labels[box] == value, _LEAST_SHARES[pieces], under)] = 0
    return kept


def _small(organ: np.ndarray, least_share: float, strokes: np.ndarray | None) -> np.ndarray:
    """(k, j, i) bool: pieces of an organ below a share of its largest, without those that have a stroke."""
    found, _ = ndimage.label(organ, structure=_CORNERS)
    sizes = np.bincount(found.ravel())
    is_small = sizes < least_share * sizes[1:].max()
    if strokes is not None:
        is_small[found[strokes]] = False
    is_small[0] = False
    return is_small[found]
