"""From rendered layers to CT numbers and MR signals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import grid_noise
from .render import Layer
from .sequences import Contrast, tissue_signal
from .tissues import TISSUES

_LOW_CONTRAST = 0.35
_TUMOUR_TISSUES = ("npc", "npc_necrosis")
_TEXTURE_MM = (1.5, 3.5, 8.0)
MR_SCALE = 2200.0
AIR_HU = -1000.0


@dataclass(frozen=True)
class TissueValues:
    """Mean CT number (HU) and MR signal (0..1) of every tissue in one patient."""

    hu: dict[str, float]
    signal: dict[str, float]


def patient_values(
    rng: np.random.Generator, contrast: Contrast, field_strength: float, tumour_contrast: str
) -> TissueValues:
    """Draw one patient's tissue values about the table's means, at most two standard deviations away.

    These are 1.5 % of the CT number, or 15 % of the tissue's texture where that is more, and 4 % of the MR signal.
    """
    hu, signal = {}, {}
    for name, tissue in TISSUES.items():
        shift, factor = rng.normal(0, 1, 2).clip(-2, 2)
        spread = 0.0 if name == "air" else max(0.15 * tissue.hu_texture, 0.015 * abs(tissue.hu), 0.5)
        hu[name] = tissue.hu + spread * shift
        signal[name] = tissue_signal(tissue, contrast, field_strength) * float(np.exp(0.04 * factor))
    if tumour_contrast == "low":
        for name in _TUMOUR_TISSUES:
            for values in (hu, signal):
                values[name] = values["muscle"] + _LOW_CONTRAST * (values[name] - values["muscle"])
    return TissueValues(hu, signal)


def textures(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> list[np.ndarray]:
    """Unit noise volumes (k, j, i) of several correlation lengths, which all tissues mix in their own way."""
    sigmas = (tuple(min(length / size, 6.0) for size in spacing) for length in _TEXTURE_MM)
    return [grid_noise(rng, shape, sigma) for sigma in sigmas]


def _mixture(rng: np.random.Generator, count: int) -> np.ndarray:
    weights = rng.normal(0, 1, count)
    return (weights / max(np.linalg.norm(weights), 1e-6)).astype(np.float32)


def _paint(
    layers: list[Layer],
    parts: int,
    background: float,
    noise: list[np.ndarray],
    mean_and_sd: list[tuple[float, float]],
    rng: np.random.Generator,
) -> np.ndarray:
    mixtures = [_mixture(rng, len(noise)) for _ in range(parts)]
    shape = noise[0].shape
    image = np.full(shape, background, dtype=np.float32)
    for layer, (mean, sd) in zip(layers, mean_and_sd, strict=True):
        value: np.ndarray | np.float32 = np.float32(mean - background)
        if sd > 0:
            weights = mixtures[layer.index] * np.float32(sd)
            value = value + sum(weight * volume[layer.window] for weight, volume in zip(weights, noise, strict=True))
        image[layer.window] += layer.weight * value
    return image


def paint_ct(
    layers: list[Layer], parts: int, values: TissueValues, noise: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """CT numbers (k, j, i), float32 HU, without scanner noise; outside all parts lies air."""
    statistics = [(values.hu[layer.part.ct], TISSUES[layer.part.ct].hu_texture) for layer in layers]
    return _paint(layers, parts, AIR_HU, noise, statistics, rng)


def paint_mr(
    layers: list[Layer], parts: int, values: TissueValues, noise: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """MR signal (k, j, i), float32 relative to fully relaxed water, without noise and bias."""
    statistics = []
    for layer in layers:
        mean = values.signal[layer.part.mr]
        statistics.append((mean, mean * TISSUES[layer.part.mr].mr_texture))
    return np.maximum(_paint(layers, parts, 0.0, noise, statistics, rng), 0)
