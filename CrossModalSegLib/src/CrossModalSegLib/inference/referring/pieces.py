"""Connected pieces of organs: which of them stay in an answer.

Slices are answered one by one, so an organ may be marked where there is none, apart from the organ itself.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

Pieces = Literal["all", "large", "largest"]

# Of an organ's largest piece, in voxels: "large" leaves pieces from there on. Chosen on contrasts simulated from two CT
# cases that the model that ships was not trained on, as was the least presence in its card.
LARGE_PIECE = 0.2

_LEAST_SHARES: dict[Pieces, float] = {"all": 0.0, "large": LARGE_PIECE, "largest": 1.0}


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
            drawn = None if strokes is None else strokes[box] == value
            kept[box][_small(labels[box] == value, _LEAST_SHARES[pieces], drawn)] = 0
    return kept


def _small(organ: np.ndarray, least_share: float, drawn: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Indices of the voxels in pieces below a share of the largest one, without pieces that hold a drawn voxel."""
    # Of the two libraries' functions ITK's takes half the time.
    image = sitk.ConnectedComponent(sitk.GetImageFromArray(organ.view(np.uint8)), True)
    found = sitk.GetArrayViewFromImage(image).ravel()
    places = np.flatnonzero(organ)
    piece = found[places]
    sizes = np.bincount(piece)
    is_small = sizes < least_share * sizes.max()
    if drawn is not None:
        is_small[piece[drawn.ravel()[places]]] = False
    return np.unravel_index(places[is_small[piece]], organ.shape)
