"""Total-variation regularisation (Javanmardi et al., 2016), in its two public forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError

DEFAULT_WEIGHT = 1e-2


def total_variation(
    probabilities: Tensor,
    form: Literal["contour", "difference"] = "contour",
    include_background: bool = False,
    planar: bool = False,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Length of the contours of soft segmentations.

    Args:
        probabilities: (N, C, k, j, i).
        form: "contour": mean of relu(dilate(erode p) - erode p), the soft inner contour, with 3-voxel pooling;
            "difference": mean of |p(x + 1) - p(x)| along each axis, summed over axes.
        include_background: Whether class 0 counts; the public code means to drop it but drops the first sample.
        planar: Within axial slices (j, i) only, as for 2D networks.
        spacing: (k, j, i) mm, for "difference": differences become those per edge of the finest voxel, so that thick
            slices do not count like thin ones. None: an isotropic grid.

    Returns:
        Scalar in the type of `probabilities`, fp32 at least. The compared method weighs it with `DEFAULT_WEIGHT`.

    Raises:
        InputError: Not (N, C, k, j, i), an unknown form, or a bad spacing.
    """
    if probabilities.ndim != 5:
        raise InputError(f"The total variation expected (N, C, k, j, i); got {tuple(probabilities.shape)}.")
    with torch.autocast(probabilities.device.type, enabled=False):
        p = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
        p = p if include_background else p[:, 1:]
        if form == "contour":
            return _contour_length(p, planar)
        if form == "difference":
            return absolute_differences(p, planar, spacing)
    raise InputError(f'The form of the total variation must be "contour" or "difference"; got {form!r}.')


def _contour_length(p: Tensor, planar: bool) -> Tensor:
    kernel, padding = ((1, 3, 3), (0, 1, 1)) if planar else ((3, 3, 3), (1, 1, 1))
    eroded = -functional.max_pool3d(-p, kernel, 1, padding)
    opened = functional.max_pool3d(eroded, kernel, 1, padding)
    return functional.relu(opened - eroded).mean()


def absolute_differences(p: Tensor, planar: bool = False, spacing: Sequence[float] | None = None) -> Tensor:
    """Mean |difference| to the next voxel, summed over axes; axes of one voxel add nothing.

    Args:
        p: (N, C, k, j, i).
        planar: Leave out the k axis.
        spacing: (k, j, i) mm; see `total_variation`.
    """
    scale = axis_scales(spacing)
    total = p.sum() * 0.0
    for axis in (1, 2) if planar else (0, 1, 2):
        if p.shape[axis + 2] > 1:
            total = total + scale[axis] * p.diff(dim=axis + 2).abs().mean()
    return total


def axis_scales(spacing: Sequence[float] | None) -> tuple[float, ...]:
    """min(spacing) / spacing of each axis; ones for None."""
    if spacing is None:
        return (1.0, 1.0, 1.0)
    values = tuple(float(s) for s in spacing)
    if len(values) != 3 or not all(s > 0 for s in values):
        raise InputError(f"A spacing is three positive numbers (k, j, i) in mm; got {values}.")
    return tuple(min(values) / s for s in values)
