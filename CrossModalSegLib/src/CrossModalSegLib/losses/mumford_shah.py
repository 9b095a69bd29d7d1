"""Mumford-Shah functional as a loss (Kim and Ye, IEEE TIP 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.inside import inside_count, neighbours_inside
from CrossModalSegLib.losses.total_variation import Spacing, absolute_differences, axis_scales

DEFAULT_WEIGHT_MEAN = 0.05


def mumford_shah(
    probabilities: Tensor,
    images: Tensor,
    contour_weight: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    spacing: Spacing | None = None,
    inside: Tensor | None = None,
) -> Tensor:
    """Piecewise-constant Mumford-Shah energy: sum_m sum_c y_c (I_m - mean_c I_m)^2, plus the length of the contours.

    The contour term acts on the probabilities (one public implementation applies it to the image, which has no
    gradient). The means are those of each sample's soft regions and get gradients too.

    Args:
        probabilities: (N, C, k, j, i).
        images: (N, M, k, j, i).
        contour_weight: Of the total variation beside the level-set term.
        reduction: "mean" over voxels (and, in the level-set term, a sum over classes and images), to be weighed with
            `DEFAULT_WEIGHT_MEAN`; "sum" over everything, as in the public code, with 1e-6.
        spacing: (k, j, i) mm of all samples, or one such triple a sample, for the contour term; None: an isotropic
            grid.
        inside: (N, k, j, i) bool, False where a patch was padded: such voxels are left out. None: all are inside.

    Returns:
        Scalar, fp32 (fp64 for fp64 probabilities).

    Raises:
        InputError: The shapes do not fit each other, or an unknown reduction.
    """
    p, m = tuple(probabilities.shape), tuple(images.shape)
    if len(p) != 5 or len(m) != 5 or p[0] != m[0] or p[2:] != m[2:]:
        raise InputError(
            "Mumford-Shah expected probabilities (N, C, k, j, i) and images (N, M, k, j, i) of one grid; "
            f"got {p} and {m}."
        )
    if reduction not in ("mean", "sum"):
        raise InputError(f'The reduction of Mumford-Shah must be "mean" or "sum"; got {reduction!r}.')
    with torch.autocast(probabilities.device.type, enabled=False):
        y = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
        level_set = _level_set(y if inside is None else y.masked_fill(~inside[:, None], 0.0), images.to(y.dtype))
        if reduction == "mean":
            contour = absolute_differences(y, spacing=spacing, inside=inside) * y.shape[1]
            return level_set / inside_count(y, inside) + contour_weight * contour
        scale, contour = axis_scales(spacing, y), y.new_zeros(())
        for axis in range(3):
            steps = scale[axis] * y.diff(dim=axis + 2).abs()
            pairs = neighbours_inside(inside, axis)
            contour = contour + (steps if pairs is None else steps.masked_fill(~pairs[:, None], 0.0)).sum()
        return level_set + contour_weight * contour


def _level_set(y: Tensor, images: Tensor) -> Tensor:
    """Sum over samples, classes, images and voxels of y_c (I_m - mean_c I_m)^2.

    With weighted means this equals sum y I^2 - (sum y I)^2 / sum y; the centred form below is kept since the difference
    of two large sums loses digits in fp32.
    """
    weights = y.flatten(2)
    total = y.new_zeros(())
    for image in images.flatten(2).unbind(1):
        values = image[:, None]
        mean = (weights * values).sum(2, keepdim=True) / weights.sum(2, keepdim=True).clamp(min=1e-6)
        total = total + (weights * (values - mean) ** 2).sum()
    return total
