"""The loop that every method of scribbling shares: each class of each axial slice, in a crop."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from ..labels import UNLABELLED

_CROP_MARGIN_PX = 6


class DrawRegion(Protocol):
    """Draws a scribble for one region of one slice."""

    def __call__(self, region: np.ndarray, ignored: np.ndarray, rng: np.random.Generator, /) -> np.ndarray:
        """Return a boolean scribble (rows, columns).

        Args:
            region: boolean (rows, columns), the class in a crop of a slice.
            ignored: boolean, pixels of the mask with the value 255: their border with the region is no outline.
            rng: source of all random choices.
        """


def deepest_pixel(region: np.ndarray) -> np.ndarray:
    """Boolean image with the one pixel that is farthest from the border of the region."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    dot = np.zeros(region.shape, dtype=bool)
    dot[np.unravel_index(np.argmax(depth), region.shape)] = True
    return dot


def scribble_slices(mask: np.ndarray, rng: np.random.Generator, draw: DrawRegion) -> np.ndarray:
    """Scribble every class of every axial slice.

    A scribble is clipped to its class; where nothing is left (a region of a few pixels), the deepest pixel is taken.
    Each (slice, class) has a random stream of its own, so that a scribble does not depend on the other classes.

    Args:
        mask: uint8 (k, j, i); 0 = nothing to scribble, 1..254 = classes, 255 = ignored.
        rng: numpy generator; the same state gives the same scribbles.
        draw: draws one region.

    Returns:
        uint8 (k, j, i): the class on its scribbles, 255 elsewhere.
    """
    scribbles = np.full(mask.shape, UNLABELLED, dtype=np.uint8)
    stream = int(rng.integers(2**32))
    for k, labels in enumerate(mask):
        for value, box in enumerate(find_objects(labels), start=1):
            if box is None or value == UNLABELLED:
                continue
            crop = tuple(slice(max(0, s.start - _CROP_MARGIN_PX), s.stop + _CROP_MARGIN_PX) for s in box)
            part = labels[crop]
            region = part == value
            drawn = draw(region, part == UNLABELLED, np.random.default_rng((stream, k, value))) & region
            if not drawn.any():
                drawn = deepest_pixel(region)
            scribbles[k][crop][drawn] = value
    return scribbles
