"""Means over the voxels within a volume: what was padded to fill a patch is not regularised."""

from __future__ import annotations

import torch
from torch import Tensor


def inside_count(values: Tensor, inside: Tensor | None) -> Tensor | int:
    """Number of voxels inside, one at least.

    Args:
        values: (N, C, k, j, i).
        inside: (N, k, j, i) bool; None: all voxels.
    """
    return values.shape[0] * values[0, 0].numel() if inside is None else inside.sum().clamp(min=1)


def inside_mean(values: Tensor, inside: Tensor | None) -> Tensor:
    """Mean over channels and the voxels inside; zero with a graph where there are none.

    Args:
        values: (N, C, k, j, i).
        inside: (N, k, j, i) bool; None: all voxels.
    """
    if inside is None:
        return values.mean()
    return values.masked_fill(~inside[:, None], 0.0).sum() / (values.shape[1] * inside_count(values, inside))


def neighbours_inside(inside: Tensor | None, axis: int) -> Tensor | None:
    """Where a voxel and the next one along an axis (0..2 for k, j, i) are both inside."""
    if inside is None:
        return None
    count = inside.shape[axis + 1] - 1
    return torch.logical_and(inside.narrow(axis + 1, 0, count), inside.narrow(axis + 1, 1, count))
