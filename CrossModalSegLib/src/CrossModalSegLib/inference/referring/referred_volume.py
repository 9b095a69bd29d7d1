"""A reference or target as the network sees it, and the way of its answers back to the volume's own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from CrossModalSegLib.data.cache import content_key
from CrossModalSegLib.data.referring.slices import (
    SliceFrame,
    SlicePreprocessing,
    image_range,
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
        content: Hash of the image's content and of how it was prepared.
        frame: Where the slices lie.
        slices: (S, H, W) float32 in [0, 1].
    """

    name: str
    content: str
    frame: SliceFrame
    slices: np.ndarray

    @property
    def count(self) -> int:
        """S, the number of slices."""
        return self.frame.count

    @cached_property
    def key(self) -> str:
        """Tells apart whatever gives other features: other contents, or slices that are turned another way."""
        to_source = np.linalg.inv(self.frame.source.affine) @ self.frame.axial.affine
        return f"{self.content} {np.rint(to_source[:3, :3]).astype(int).ravel().tolist()}"

    def turned_like(self, reference: ReferredVolume) -> ReferredVolume:
        """The same image with the rows and columns of a reference, as far as its slices allow; often itself."""
        frame = self.frame.turned_like(reference.frame)
        if frame is self.frame:
            return self
        slices = resample_aligned(self.slices, self.frame.canvas, frame.canvas, "nearest")
        return replace(self, frame=frame, slices=np.ascontiguousarray(slices))

    def windows(self, indices: Sequence[int], context: int) -> np.ndarray:
        """Network input for some slices, (B, 1 + 2 * context, H, W) float32."""
        return np.stack([slice_window(self.slices, index, context) for index in indices])

    @cached_property
    def mask_grid(self) -> Grid:
        """The network's masks, (S, h, w): each pixel stands for a square of canvas pixels."""
        count, height, width = self.frame.canvas.shape
        to_canvas = np.diag([MASK_STRIDE, MASK_STRIDE, 1.0, 1.0])
        to_canvas[:2, 3] = (MASK_STRIDE - 1) / 2
        shape = (count, -(-height // MASK_STRIDE), -(-width // MASK_STRIDE))
        return Grid(shape, self.frame.canvas.affine @ to_canvas)

    @cached_property
    def interpolation(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrices (rows, h) and (columns, w) float32 that bring masks (h, w) of the network to the slice's voxels.

        They are those of `resample_aligned`; as products they also run where the network runs, slice by slice.
        """
        _, height, width = self.mask_grid.shape
        _, rows, columns = self.frame.axial.shape
        masks, axial = self.mask_grid.affine, self.frame.axial.affine
        # Each slice of these volumes holds one unit vector.
        along_rows, along_columns = (np.eye(n, dtype=np.float32) for n in (height, width))
        by_row = resample_aligned(
            along_rows[:, :, None], Grid((height, height, 1), masks), Grid((height, rows, 1), axial), "linear"
        )
        by_column = resample_aligned(
            along_columns[:, None, :], Grid((width, 1, width), masks), Grid((width, 1, columns), axial), "linear"
        )
        return np.ascontiguousarray(by_row[:, :, 0].T), np.ascontiguousarray(by_column[:, 0, :].T)


def refer_volume(name: str, image: Volume, prep: SlicePreprocessing) -> ReferredVolume:
    """Prepare an image.

    Raises:
        InputError: It shows nothing (constant, or NaN or infinities), or its slices are too small.
    """
    frame = slice_frame(image, prep)
    _check_size(name, frame)
    limits = _limits(name, image, prep)
    content = content_key([("image", image)], prep)
    return ReferredVolume(name, content, frame, image_slices(image, frame, prep, limits))


def _check_size(name: str, frame: SliceFrame) -> None:
    _, rows, columns = frame.axial.shape
    if min(rows, columns) < FEWEST_ROWS:
        raise InputError(
            f"The slices of '{name}' have {rows} by {columns} voxels, and at least {FEWEST_ROWS} by {FEWEST_ROWS} are "
            "needed to recognise an organ. An image of few slices has to have "
            "thick ones, or be axial."
        )


def _limits(name: str, image: Volume, prep: SlicePreprocessing) -> tuple[float, float]:
    """The values that become 0 and 1; InputError where there is nothing to see."""
    if not np.isfinite(image.array).all():
        raise InputError(f"The image '{name}' holds NaN or infinite voxels; replace them by a number first.")
    low, high = image_range(image, prep)
    if not high > low:
        raise InputError(
            f"The image '{name}' is constant: all but a few of its voxels are {low:g}, so there is nothing to see in "
            "it. Is it the right file?"
        )
    return low, high
