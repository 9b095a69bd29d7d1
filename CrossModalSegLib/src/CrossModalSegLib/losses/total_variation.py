"""Total-variation regularisation (Javanmardi et al., 2016), in its two public forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.inside import inside_mean, neighbours_inside

DEFAULT_WEIGHT = 1e-2
Spacing = Sequence[float] | Sequence[Sequence[float]]


def total_variation(
    probabilities: Tensor,
    form: Literal["contour", "difference"] = "contour",
    spacing: Spacing | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """Length of the contours of soft segmentations, but for the background's.

    The public code means to drop the background, too, but drops the first sample.

    Args:
        probabilities: (N, C, k, j, i).
        form: "contour": mean of relu(dilate(erode p) - erode p), the soft inner contour, with 3-voxel pooling;
            "difference": mean of |p(x + 1) - p(x)| along each axis, summed over axes.
        spacing: (k, j, i) mm of all samples, or one such triple a sample, for "difference": differences become those
            per edge of the finest voxel, so that thick slices do not count like thin ones. None: an isotropic grid.
        inside: (N, k, j, i) bool, False where a patch was padded: such voxels are left out. None: all are inside.

    Returns:
        Scalar in the type of `probabilities`, fp32 at least. The compared method weighs it with `DEFAULT_WEIGHT`.

    Raises:
        InputError: Not (N, C, k, j, i), an unknown form, or a bad spacing.
    """
    if probabilities.ndim != 5:
        raise InputError(f"The total variation expected (N, C, k, j, i); got {tuple(probabilities.shape)}.")
    with torch.autocast(probabilities.device.type, enabled=False):
        p = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
        p = p[:, 1:]
        if form == "contour":
            return _contour_length(p, inside)
        if form == "difference":
            return absolute_differences(p, spacing, inside)
    raise InputError(f'The form of the total variation must be "contour" or "difference"; got {form!r}.')


def _contour_length(p: Tensor, inside: Tensor | None) -> Tensor:
    if inside is not None:
        p = p.masked_fill(~inside[:, None], 2.0)  # above every probability: it erodes nothing
    eroded = -functional.max_pool3d(-p, 3, 1, 1)
    if inside is not None:
        eroded = eroded.masked_fill(~inside[:, None], -1.0)
    opened = functional.max_pool3d(eroded, 3, 1, 1)
    return inside_mean(functional.relu(opened - eroded), inside)


def absolute_differences(p: Tensor, spacing: Spacing | None = None, inside: Tensor | None = None) -> Tensor:
    """Mean |difference| to the next voxel, summed over axes; axes of one voxel add nothing.

    Args:
        p: (N, C, k, j, i).
        spacing, inside: See `total_variation`.
    """
    scale = axis_scales(spacing, p)
    total = p.sum() * 0.0
    for axis in range(3):
        if p.shape[axis + 2] > 1:
            differences = scale[axis] * p.diff(dim=axis + 2).abs()
            total = total + inside_mean(differences, neighbours_inside(inside, axis))
    return total


def axis_scales(spacing: Spacing | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """min(spacing) / spacing of each axis, (N or 1, 1, 1, 1, 1) each; ones for None.

    Args:
        spacing: See `total_variation`.
        like: (N, C, k, j, i).
    """
    if spacing is None:
        spacing = (1.0, 1.0, 1.0)
    is_common = not isinstance(spacing[0], Sequence)
    rows = [tuple(float(s) for s in one) for one in ([spacing] if is_common else spacing)]
    bad = [row for row in rows if len(row) != 3 or not all(s > 0 for s in row)]
    if bad:
        raise InputError(f"A spacing is three positive numbers (k, j, i) in mm; got {bad[0]}.")
    if not is_common and len(rows) != like.shape[0]:
        raise InputError(f"Give one spacing for all samples or one a sample; got {len(rows)} for {like.shape[0]}.")
    first, second, third = like.new_tensor([[min(row) / s for s in row] for row in rows]).unbind(1)
    return first.view(-1, 1, 1, 1, 1), second.view(-1, 1, 1, 1, 1), third.view(-1, 1, 1, 1, 1)
