"""The energy of the multi-view CRF as one kernel, for GPUs that Triton compiles for.

Each voxel gathers from its whole windows, so that nothing is written twice: the result does not depend on the order in
which the GPU works. PyTorch's CUDA builds bring Triton along on Linux; where it is missing, or cannot compile here,
`crf` goes on with PyTorch's own operations.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

if TYPE_CHECKING:
    from CrossModalSegLib.losses.crf import KernelTerms, KernelWeights, Windows

BLOCK, WARPS = 256, 2  # voxels and warps of one program
VIEWS = ("axial", "coronal", "sagittal")


class FusedPairwiseEnergy(torch.autograd.Function):
    """sum over ordered pairs of K_ij (1 - <y_i, y_j>), for y (N, C, k, j, i) float32 on a GPU that sums to 1 over C."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, terms: KernelTerms, windows: Windows) -> Tensor:
        y, features = y.detach().contiguous(), terms.features.contiguous()
        samples, channels, *grid = y.shape
        derivative = torch.empty_like(y)
        programs = triton.cdiv(y[0, 0].numel(), BLOCK)
        energies = y.new_empty((samples, programs))
        _gather[(programs, samples)](
            y, features, *_tables(terms.kernels, y.device), derivative, energies, *grid, *windows.steps, *windows.reach,
            *(view in windows.views for view in VIEWS),
            terms=len(terms.kernels.weights), spatials=len(terms.kernels.spatial),
            channels=channels, padded=triton.next_power_of_2(channels - 1), block=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        ctx.save_for_backward(derivative)
        return energies.sum(dtype=torch.float64).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (derivative,) = ctx.saved_tensors
        return derivative * gradient, None, None


@lru_cache(maxsize=64)
def _tables(kernels: KernelWeights, device: torch.device) -> tuple[Tensor, ...]:
    """log2 of the weights and decays per squared step of the (image, kernel) pairs, and of the spatial kernels."""
    spatial_weights, spatial_decays = zip(*kernels.spatial, strict=True) if kernels.spatial else ((), ())
    rows = (
        [math.log2(weight) for weight in kernels.weights],
        [decay / math.log(2) for decay in kernels.decays],
        [math.log2(weight) for weight in spatial_weights],
        [decay / math.log(2) for decay in spatial_decays],
    )
    return tuple(torch.tensor(row, dtype=torch.float32, device=device) for row in rows)


@triton.jit
def _gather(
    y, features, weights, decays, spatial_weights, spatial_decays, derivative, energies,
    depth, rows, columns, step_k, step_j, step_i,
    reach_k: tl.constexpr, reach_j: tl.constexpr, reach_i: tl.constexpr,
    axial: tl.constexpr, coronal: tl.constexpr, sagittal: tl.constexpr,
    terms: tl.constexpr, spatials: tl.constexpr, channels: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The energy of `block` voxels i of one sample, and its derivative, -2 sum_j K_ij y_j, as K is symmetric.

    Less their mean, 1 / C, the channels of a voxel sum to 0, so that the last one need not be gathered; and what is
    summed stays small.
    """
    sample = tl.program_id(1).to(tl.int64)
    samples = tl.num_programs(1)
    voxels = depth * rows * columns
    here = tl.program_id(0) * block + tl.arange(0, block)
    is_voxel = here < voxels
    channel = tl.arange(0, padded)
    planes = (channel * voxels)[:, None]
    is_gathered = (channel < channels - 1)[:, None]
    mean = 1.0 / channels
    y += sample * channels * voxels
    derivative += sample * channels * voxels
    received = tl.zeros((padded, block), tl.float32)
    total = tl.zeros((block,), tl.float32)
    for view in tl.static_range(3):
        if (view == 0 and axial) or (view == 1 and coronal) or (view == 2 and sagittal):
            # The axes of its plane: (j, i), (k, i) or (k, j).
            if view == 0:
                p, p_size, p_stride, p_step, p_reach = here // columns % rows, rows, columns, step_j, reach_j
            else:
                p, p_size, p_stride, p_step, p_reach = here // (rows * columns), depth, rows * columns, step_k, reach_k
            if view == 2:
                q, q_size, q_stride, q_step, q_reach = here // columns % rows, rows, columns, step_j, reach_j
            else:
                q, q_size, q_stride, q_step, q_reach = here % columns, columns, 1, step_i, reach_i
            for dp in range(-p_reach, p_reach + 1):
                is_row = is_voxel & (p + dp >= 0) & (p + dp < p_size)
                for dq in range(-q_reach, q_reach + 1):
                    is_other = is_row & (q + dq >= 0) & (q + dq < q_size) & ((dp != 0) | (dq != 0))
                    there = here + dp * p_stride + dq * q_stride
                    squared = (dp * p_step) * (dp * p_step) + (dq * q_step) * (dq * q_step)
                    kernel = tl.zeros((block,), tl.float32)
                    for term in tl.static_range(terms):
                        image = features + (term * samples + sample) * voxels
                        difference = tl.load(image + there, mask=is_other, other=0.0)
                        difference -= tl.load(image + here, mask=is_voxel, other=0.0)
                        exponent = tl.load(weights + term) - tl.load(decays + term) * squared
                        kernel += tl.exp2(exponent - difference * difference)
                    for term in tl.static_range(spatials):
                        kernel += tl.exp2(tl.load(spatial_weights + term) - tl.load(spatial_decays + term) * squared)
                    kernel = tl.where(is_other, kernel, 0.0)
                    total += kernel
                    theirs = tl.load(y + planes + there[None, :], mask=is_gathered & is_other[None, :], other=mean)
                    received += kernel[None, :] * (theirs - mean)
    is_mine = is_gathered & is_voxel[None, :]
    mine = tl.load(y + planes + here[None, :], mask=is_mine, other=mean) - mean
    received_last, mine_last = -tl.sum(received, 0), -tl.sum(mine, 0)
    tl.store(derivative + planes + here[None, :], -2.0 * received, mask=is_mine)
    tl.store(derivative + (channels - 1) * voxels + here, -2.0 * received_last, mask=is_voxel)
    energy = tl.sum((1.0 - mean) * total - tl.sum(received * mine, 0) - received_last * mine_last, 0)
    tl.store(energies + sample * tl.num_programs(0) + tl.program_id(0), energy)
