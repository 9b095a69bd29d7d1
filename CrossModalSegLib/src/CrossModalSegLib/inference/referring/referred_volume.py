"""A reference or target as the network sees it, and the way of its answers back to the volume's own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from CrossModalSegLib.data.cache import content_key
from CrossModalSegLib.data.intensity import value_range
from CrossModalSegLib.data.referring.slices import (
    SliceFrame,
    SlicePreprocessing,
    image_slices,
    slice_frame,
    slice_window,
)
from CrossModalSegLib.data.working_grid import Grid, resample_aligned
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.models.visual_sampler import MASK_STRIDE
from CrossModalSegLib.volume import Volume

# Less than this shows no anatomy.
FEWEST_ROWS = 16


@dataclass(frozen=True, eq=False)
class ReferredVolume:
    """The slices of an image.

    Attributes:
        name: How messages call it.
        key: Hash of the image's content and of how it was prepared.
        frame: Where the slices lie.
        slices: (S, H, W) float32 in [0, 1].
    """

    name: str
    key: str
    frame: SliceFrame
    slices: np.ndarray

    @property
    def count(self) -> int:
        """S, the number of slices."""
        return self.frame.count

    def windows(self, indices: Sequence[int], context: int) -> np.ndarray:
        """Network input for some slices, (B, 1 + 2 * context, H, W) float32."""
        return np.stack([slice_window(self.slices, index, context) for index in indices])

    @cached_property
    def interpolation(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (rows, h) and (columns, w) float32 that bring masks (h, w) of the network to the slice's voxels.

        They are those of `resample_aligned`; as a product they also run where the network runs, slice by slice.
        """
        stride = np.diag([MASK_STRIDE, MASK_STRIDE, 1.0, 1.0])
        stride[:2, 3] = (MASK_STRIDE - 1) / 2
        masks = self.frame.canvas.affine @ stride
        _, height, width = (-(-n // MASK_STRIDE) for n in self.frame.canvas.shape)
        _, rows, columns = self.frame.axial.shape
        # Each slice of these volumes holds one unit vector.
        along_rows, along_columns = np.eye(height, dtype=np.float32), np.eye(width, dtype=np.float32)
        by_row = resample_aligned(
            along_rows[:, :, None],
            Grid((height, height, 1), masks),
            Grid((height, rows, 1), self.frame.axial.affine),
            "linear",
        )
        by_column = resample_aligned(
            along_columns[:, None, :],
            Grid((width, 1, width), masks),
            Grid((width, 1, columns), self.frame.axial.affine),
            "linear",
        )
        return np.ascontiguousarray(by_row[:, :, 0].T), np.ascontiguousarray(by_column[:, 0, :].T)


def refer_volume(name: str, image: Volume, prep: SlicePreprocessing) -> ReferredVolume:
    """Prepare an image.

    Raises:
        InputError: It shows nothing (constant, or NaN or infinities), or its axial slices are too small.
    """
    frame = slice_frame(image, prep)
    _check_size(name, frame)
    _check_content(name, image, prep)
    key = content_key([("image", image)], prep)
    return ReferredVolume(name, key, frame, image_slices(image, frame, prep))


def _check_size(name: str, frame: SliceFrame) -> None:
    _, rows, columns = frame.axial.shape
    if min(rows, columns) < FEWEST_ROWS:
        raise InputError(
            f"The axial slices of '{name}' have {rows} by {columns} voxels, and at least {FEWEST_ROWS} by "
            f"{FEWEST_ROWS} are needed to recognise an organ. An image of few slices must be axial."
        )


def _check_content(name: str, image: Volume, prep: SlicePreprocessing) -> None:
    if not np.isfinite(image.array).all():
        raise InputError(f"The image '{name}' holds NaN or infinite voxels; replace them by a number first.")
    low, high = value_range(image.array, "image", (0.0, 1.0), prep.percentiles)
    if not high > low:
        raise InputError(
            f"The image '{name}' is constant: all but a few of its voxels are {low:g}, so there is nothing to see in "
            "it. Is it the right file?"
        )
