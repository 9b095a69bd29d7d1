"""Masks compared at sampled points instead of all pixels, as PointRend and Mask2Former do.

Points are (x, y) in [0, 1]² of the target's grid, whose first pixel spans 0 to 1 / W. Predicted masks may be coarser by
a whole stride; where that does not divide the target's size they reach beyond it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

POINTS = 12544  # 112²
OVERSAMPLE = 3
IMPORTANCE = 0.75


def sample_points(maps: Tensor, points: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Values of maps at points, bilinear, fp32.

    Args:
        maps: (M, C, h, w) of any real type or bool; all C maps of one m share its points.
        points: (M, P, 2).
        size: (H, W) of the target's grid.

    Returns:
        (M, C, P).
    """
    h, w = maps.shape[-2:]
    strides = (-(-size[1] // w), -(-size[0] // h))
    reach = torch.tensor([size[1] / (w * strides[0]), size[0] / (h * strides[1])], device=points.device)
    with torch.autocast(maps.device.type, enabled=False):
        grid = (points[:, None] * (2.0 * reach)).sub_(1.0)
        values = as_floats(maps)
        sampled = functional.grid_sample(values, grid.to(values.dtype), padding_mode="border", align_corners=False)
    return sampled[:, :, 0]


def as_floats(maps: Tensor) -> Tensor:
    """Maps of any real type or bool as fp32 (fp64 stays)."""
    if maps.dtype == torch.float64:
        return maps
    return (maps.view(torch.uint8) if maps.dtype == torch.bool else maps).float()  # of bool it is nine times slower


def random_points(
    count: int, points: int, device: torch.device | str, generator: torch.Generator | None = None
) -> Tensor:
    """(count, points, 2) uniform points; drawn where the generator lives, so that a seed means the same everywhere."""
    drawn_on = device if generator is None else generator.device
    return torch.rand(count, points, 2, device=drawn_on, generator=generator).to(device)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    size: tuple[int, int] | torch.Size,
    points: int = POINTS,
    oversample: int = OVERSAMPLE,
    importance: float = IMPORTANCE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points that lie mostly where the prediction is undecided.

    Args:
        logits: (M, ..., h, w); all maps of one m choose from the same points, which are drawn once.
        size: (H, W) of the target's grid.
        points: How many.
        oversample: So many times as many are drawn, and the most undecided of them are kept.
        importance: Share of the points that is found so; the others are uniform.
        generator: Of the draw; None takes the global one.

    Returns:
        (M, ..., points, 2).
    """
    m, wanted = len(logits), int(importance * points)
    maps = logits.reshape(m, -1, *logits.shape[-2:]) if m else logits.new_zeros(0, 1, *logits.shape[-2:])
    drawn = random_points(m, oversample * points, logits.device, generator)
    certainty = sample_points(maps, drawn, size).abs_().float()
    # Floats from 0 on are in the order of their bits, and integers are compared sooner.
    nearest = certainty.view(torch.int32).topk(wanted, dim=-1, largest=False, sorted=False).indices
    undecided = drawn.gather(1, nearest.flatten(1)[..., None].expand(-1, -1, 2)).unflatten(1, nearest.shape[1:])
    others = random_points(m, points - wanted, logits.device, generator)[:, None].expand(-1, maps.shape[1], -1, -1)
    return torch.cat([undecided, others], 2).view(*logits.shape[:-2], points, 2)
