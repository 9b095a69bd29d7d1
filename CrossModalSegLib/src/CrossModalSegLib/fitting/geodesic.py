"""Geodesic distances from scribbles: how far it is to walk through the image without crossing edges.

The length of a step between neighbouring voxels is the change of intensity and a little of its length in mm, as in Grow
from seeds. Distances are found by raster sweeps, six a round (Criminisi et al., "GeoS", ECCV 2008), on a grid that is
half as fine in-plane: they guide a network, which sees the fine image itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.labels import UNLABELLED

ROUNDS = 2
COST_PER_MM = 0.0005
FAR = 1e3


def geodesic_posterior(
    images: np.ndarray, scribbles: np.ndarray, value: int, spacing: tuple[float, float, float]
) -> np.ndarray:
    """How much nearer each voxel is to the class's scribbles than to all others.

    Args:
        images: (M, k, j, i) float32 in [0, 1].
        scribbles: (k, j, i) uint8, internal convention.
        value: The class.
        spacing: mm, (k, j, i).

    Returns:
        (k, j, i) float32: d_other / (d_class + d_other), 1 on the class's scribbles and 0 on others; 0.5 where
        neither kind of scribble can be reached, and everywhere when one kind is missing.
    """
    shape = scribbles.shape
    seeds = np.stack([scribbles == value, (scribbles != UNLABELLED) & (scribbles != value)])
    if not seeds.any(axis=(1, 2, 3)).all():
        return np.full(shape, 0.5, np.float32)
    coarse = functional.avg_pool3d(_even(torch.from_numpy(images)), (1, 2, 2))
    coarse_seeds = functional.max_pool3d(_even(torch.from_numpy(seeds.astype(np.float32))), (1, 2, 2)) > 0
    mm = (spacing[0], 2 * spacing[1], 2 * spacing[2])
    inside, outside = geodesic_distances(coarse, coarse_seeds, mm)
    posterior = (outside + 1e-6) / (inside + outside + 2e-6)
    fine = functional.interpolate(posterior[None, None], scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
    return fine[0, 0, : shape[0], : shape[1], : shape[2]].numpy()


@torch.no_grad()
def geodesic_distances(images: Tensor, seeds: Tensor, spacing: tuple[float, float, float]) -> Tensor:
    """Geodesic distances to several sets of seeds at once.

    Args:
        images: (M, k, j, i) float32.
        seeds: (C, k, j, i) bool.
        spacing: mm, (k, j, i).

    Returns:
        (C, k, j, i) float32; `FAR` at most.
    """
    distances = torch.where(seeds, 0.0, FAR).to(torch.float32)
    costs = [_step_costs(images, axis, spacing) for axis in (0, 1, 2)]
    for _ in range(ROUNDS):
        for axis, (forward, backward) in enumerate(costs):
            _sweep(distances.movedim(axis + 1, 1), forward, reverse=False)
            _sweep(distances.movedim(axis + 1, 1), backward, reverse=True)
    return distances


def _sweep(distances: Tensor, costs: Tensor, reverse: bool) -> None:
    """Pass distances (C, n, p, q) on from plane to plane, in place; costs (3, 3, n - 1, p, q) of plane t and t + 1."""
    planes = range(distances.shape[1] - 2, -1, -1) if reverse else range(1, distances.shape[1])
    # The nine ways lie on the first axes: a minimum along the last ones, of three, takes several times as long.
    ways = torch.empty((3, 3, *distances[:, 0].shape))
    for t in planes:
        before, cost = (distances[:, t + 1], costs[:, :, t]) if reverse else (distances[:, t - 1], costs[:, :, t - 1])
        neighbours = functional.pad(before, (1, 1, 1, 1), value=FAR).unfold(1, 3, 1).unfold(2, 3, 1)
        torch.add(neighbours.permute(3, 4, 0, 1, 2), cost[:, :, None], out=ways)
        torch.minimum(distances[:, t], ways.amin(dim=(0, 1)), out=distances[:, t])


def _step_costs(images: Tensor, axis: int, spacing: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Costs (3, 3, n - 1, p, q) of entering plane t + 1 from the neighbours in plane t, and t from those in t + 1."""
    planes = images.movedim(axis + 1, 1).contiguous()
    along = spacing[axis]
    p_mm, q_mm = (mm for other, mm in enumerate(spacing) if other != axis)
    padded = functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    count, (p, q) = planes.shape[1] - 1, planes.shape[2:]
    forward, backward = torch.empty((2, 3, 3, count, p, q))
    for u in range(3):
        for v in range(3):
            length = (along**2 + ((u - 1) * p_mm) ** 2 + ((v - 1) * q_mm) ** 2) ** 0.5
            neighbour = padded[:, :, u : u + p, v : v + q]
            torch.mean((planes[:, 1:] - neighbour[:, :-1]).abs(), dim=0, out=forward[u, v])
            torch.mean((planes[:, :-1] - neighbour[:, 1:]).abs(), dim=0, out=backward[u, v])
            forward[u, v] += COST_PER_MM * length
            backward[u, v] += COST_PER_MM * length
    return forward, backward


def _even(volume: Tensor) -> Tensor:
    """(C, k, j, i) with j and i repeated at the end where they are odd."""
    return functional.pad(volume, (0, volume.shape[-1] % 2, 0, volume.shape[-2] % 2, 0, 0), mode="replicate")
