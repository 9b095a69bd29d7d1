"""The fixed position encoding of DETR: sines and cosines of a pixel's row and column."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from CrossModalSegLib.errors import ModelError

TEMPERATURE = 10000.0


def sine_position(height: int, width: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Encode rows in the first half of the channels and columns in the second.

    Rows and columns are scaled so that the image always spans 2 pi: images of all sizes share one range.

    Args:
        height, width: Of the feature map.
        channels: A multiple of 4.
        device: Of the result.

    Returns:
        (height * width, channels) float32, pixels row by row.

    Raises:
        ModelError: `channels` is no multiple of 4.
    """
    if channels % 4:
        raise ModelError(f"A position is encoded in a multiple of 4 channels; got {channels}.")
    rows = _encode(height, channels // 2, device)[:, None].expand(-1, width, -1)
    columns = _encode(width, channels // 2, device)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def sine_places(places: Tensor, channels: int) -> Tensor:
    """Encode single places of an image like its pixels.

    Args:
        places: (..., 2) float32, row and column as shares of the image, 0 to 1.
        channels: A multiple of 4.

    Returns:
        (..., channels) float32.
    """
    return _waves(places, channels // 2).flatten(-2)


def _encode(length: int, channels: int, device: torch.device | str) -> Tensor:
    return _waves(torch.arange(1, length + 1, device=device, dtype=torch.float32) / length, channels)


def _waves(places: Tensor, channels: int) -> Tensor:
    # (..., channels): sines and cosines take turns, from the fastest to the slowest.
    exponents = torch.arange(channels // 2, device=places.device, dtype=torch.float32) * (2.0 / channels)
    angles = places[..., None] * (2.0 * math.pi) / TEMPERATURE**exponents
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
