"""The message pass of the multi-view CRF as one kernel, for GPUs that Triton compiles for.

Each voxel gathers from the whole window, so that nothing is written twice: the result does not depend on the order in
which the GPU works. PyTorch's CUDA builds bring Triton along on Linux; where it is missing, or cannot compile here,
`crf` goes on with PyTorch's own operations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from triton import language as tl

if TYPE_CHECKING:
    from CrossModalSegLib.losses.crf import KernelTerms, KernelWeights, PairOffset

BLOCK = 128  # voxels of one program


def pass_messages(z: Tensor, terms: KernelTerms, offsets: tuple[PairOffset, ...]) -> tuple[Tensor, Tensor]:
    """sum_j K_ij z_j for every voxel, and the sum of K over unordered pairs.

    Args:
        z: (N, C, k, j, i) float32 on a GPU, what is passed.
        terms: The kernels.
        offsets: The half of the window.

    Returns:
        The messages, shaped as `z`, and a scalar in fp64.
    """
    z, features = z.contiguous(), terms.features.contiguous()
    samples, channels, *grid = z.shape
    shifts, log_weights, constants = _tables(offsets, terms.kernels, z.device)
    message = torch.empty_like(z)
    programs = triton.cdiv(z[0, 0].numel(), BLOCK)
    sums = z.new_empty((samples, programs))
    _gather[(programs, samples)](
        z, features, shifts, log_weights, constants, message, sums, len(shifts), *grid,
        terms=len(terms.kernels.weights), channels=channels, padded=triton.next_power_of_2(channels), block=BLOCK,
    )  # fmt: skip
    return message, sums.sum(dtype=torch.float64) / 2.0


@lru_cache(maxsize=64)
def _tables(
    offsets: tuple[PairOffset, ...], kernels: KernelWeights, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of all offsets, both ways: shifts (O, 3) int32, weights (O, T) to base 2, and purely spatial kernels (O,)."""
    half = torch.tensor([offset.shift for offset in offsets], dtype=torch.int32, device=device)
    log_weights = torch.tensor([kernels.logarithms(offset) for offset in offsets], device=device)
    constants = torch.tensor([kernels.constant(offset) for offset in offsets], device=device)
    return torch.cat((half, -half)), log_weights.repeat(2, 1), constants.repeat(2)


@triton.jit
def _gather(
    z, features, shifts, log_weights, constants, message, sums, offsets, depth, rows, columns,
    terms: tl.constexpr, channels: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The messages to `block` voxels of one sample, and the sum of their kernels."""
    sample = tl.program_id(1).to(tl.int64)
    samples = tl.num_programs(1)
    voxels = depth * rows * columns
    here = tl.program_id(0) * block + tl.arange(0, block)
    is_voxel = here < voxels
    k, j, i = here // (rows * columns), here // columns % rows, here % columns
    channel = tl.arange(0, padded)
    planes = ((sample * channels + channel) * voxels)[:, None]
    is_channel = (channel < channels)[:, None]
    received = tl.zeros((padded, block), tl.float32)
    weights = tl.zeros((block,), tl.float32)
    for number in range(offsets):
        dk = tl.load(shifts + 3 * number)
        dj = tl.load(shifts + 3 * number + 1)
        di = tl.load(shifts + 3 * number + 2)
        is_inside = is_voxel & (k + dk >= 0) & (k + dk < depth) & (j + dj >= 0) & (j + dj < rows)
        is_inside = is_inside & (i + di >= 0) & (i + di < columns)
        there = here + (dk * rows + dj) * columns + di
        weight = tl.zeros((block,), tl.float32) + tl.load(constants + number)
        for term in tl.static_range(terms):
            image = features + (term * samples + sample) * voxels
            difference = tl.load(image + there, mask=is_inside, other=0.0)
            difference -= tl.load(image + here, mask=is_voxel, other=0.0)
            weight += tl.exp2(tl.load(log_weights + number * terms + term) - difference * difference)
        weight = tl.where(is_inside, weight, 0.0)
        weights += weight
        theirs = tl.load(z + planes + there[None, :], mask=is_channel & is_inside[None, :], other=0.0)
        received += weight[None, :] * theirs
    tl.store(message + planes + here[None, :], received, mask=is_channel & is_voxel[None, :])
    tl.store(sums + sample * tl.num_programs(0) + tl.program_id(0), tl.sum(weights, 0))
