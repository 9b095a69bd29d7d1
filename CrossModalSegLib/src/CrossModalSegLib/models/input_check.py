"""What every compared network checks before it runs."""

from __future__ import annotations

from torch import Tensor

from CrossModalSegLib.errors import ModelError


def require_images(images: Tensor, channels: int, divisor: int, network: str) -> None:
    """Raise ModelError unless `images` is (N, channels, k, j, i) with k, j, i multiples of `divisor`."""
    shape = tuple(images.shape)
    if len(shape) != 5 or shape[1] != channels:
        raise ModelError(
            f"{network} expected images of shape (N, {channels}, k, j, i); got {shape}. "
            "Give the modalities the model was made for, in its order."
        )
    if any(size % divisor for size in shape[2:]):
        raise ModelError(
            f"{network} expected k, j and i to be multiples of {divisor}; got {shape[2:]}. Pad the images before."
        )


def require_sizes(network: str, **sizes: int) -> None:
    """Raise ModelError unless there are 2 classes at least and every other size is at least 1."""
    for name, value in sizes.items():
        least = 2 if name == "num_classes" else 1
        if value < least:
            note = ", background included" if name == "num_classes" else ""
            raise ModelError(f"{network} needs {name} of at least {least}{note}; got {value}.")
