"""Devices by the name a person gives."""

from __future__ import annotations

import torch

from CrossModalSegLib.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device to compute on.

    Args:
        name: "auto" (CUDA, then Apple's MPS, then the CPU), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        InputError: it is unknown or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"There is no device '{name}'. Choose auto, cpu, cuda, cuda:0, cuda:1, … or mps.") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise InputError(
            f"The device '{name}' is not there: this machine and this PyTorch ({torch.__version__}) offer "
            f"{', '.join(key for key, count in there.items() if count)}. Choose one of them; see also "
            "`crossmodalseg doctor`."
        )
    return device
