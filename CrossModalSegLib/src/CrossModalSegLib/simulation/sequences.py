"""Signal equations of the simulated MR sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from ..errors import InputError
from .tissues import FAT_T1, FAT_T2, FIELD_STRENGTHS, Tissue

Contrast = Literal["t1", "t2", "t2_spir", "flair", "in_phase", "opposed_phase", "dwi"]


def spin_echo(density: float, t1: float, t2: float, tr: float, te: float) -> float:
    """Spin-echo signal rho (1 - 2 exp(-(TR - TE/2)/T1) + exp(-TR/T1)) exp(-TE/T2); times in ms."""
    recovery = 1 - 2 * np.exp(-(tr - te / 2) / t1) + np.exp(-tr / t1)
    return float(density * recovery * np.exp(-te / t2))


def inversion_recovery(density: float, t1: float, t2: float, tr: float, te: float, ti: float) -> float:
    """Inversion-recovery spin-echo signal, signed; times in ms.

    rho (1 - 2 exp(-TI/T1) + 2 exp(-(TR - TE/2)/T1) - exp(-TR/T1)) exp(-TE/T2).
    """
    recovery = 1 - 2 * np.exp(-ti / t1) + 2 * np.exp(-(tr - te / 2) / t1) - np.exp(-tr / t1)
    return float(density * recovery * np.exp(-te / t2))


def spoiled_gradient_echo(density: float, t1: float, t2_star: float, tr: float, te: float, flip_deg: float) -> float:
    """Spoiled gradient-echo (Ernst) signal rho sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2*); times in ms."""
    flip = np.deg2rad(flip_deg)
    decay = np.exp(-tr / t1)
    return float(density * np.sin(flip) * (1 - decay) / (1 - np.cos(flip) * decay) * np.exp(-te / t2_star))


@dataclass(frozen=True)
class Sequence:
    """Settings of one MR sequence.

    Attributes:
        kind: Which signal equation holds.
        tr: Repetition time, ms.
        te: Echo time, ms.
        ti: Inversion time, ms (inversion recovery only).
        flip_deg: Flip angle, degrees (gradient echo only).
        fat_sign: Weight of the fat signal against the water signal: 1 in phase, -1 opposed, near 0 suppressed.
        b_value: Diffusion weighting, s/mm^2.
        fat_t2_factor: Factor on the T2 of fat: refocusing trains decouple its J-coupled spins, so fat stays bright.
    """

    kind: Literal["spin_echo", "inversion_recovery", "gradient_echo"]
    tr: float
    te: float
    ti: float = 0.0
    flip_deg: float = 90.0
    fat_sign: float = 1.0
    b_value: float = 0.0
    fat_t2_factor: float = 1.0


SEQUENCES: Mapping[str, Sequence] = MappingProxyType(
    {
        "t1": Sequence("spin_echo", tr=600, te=11),
        "t2": Sequence("spin_echo", tr=4200, te=88, fat_t2_factor=1.4),
        "t2_spir": Sequence("spin_echo", tr=3500, te=75, fat_sign=0.09, fat_t2_factor=1.4),
        "flair": Sequence("inversion_recovery", tr=9000, te=110, ti=2450, fat_t2_factor=1.4),
        "in_phase": Sequence("gradient_echo", tr=160, te=2.3, flip_deg=65),
        "opposed_phase": Sequence("gradient_echo", tr=160, te=1.15, flip_deg=65, fat_sign=-1.0),
        "dwi": Sequence("spin_echo", tr=5000, te=60, fat_sign=0.05, b_value=600),
    }
)

_SUSCEPTIBILITY_MS = 45.0


def _signed_signal(sequence: Sequence, density: float, t1: float, t2: float) -> float:
    if sequence.kind == "spin_echo":
        return spin_echo(density, t1, t2, sequence.tr, sequence.te)
    if sequence.kind == "inversion_recovery":
        return inversion_recovery(density, t1, t2, sequence.tr, sequence.te, sequence.ti)
    t2_star = 1.0 / (1.0 / t2 + 1.0 / _SUSCEPTIBILITY_MS)
    return spoiled_gradient_echo(density, t1, t2_star, sequence.tr, sequence.te, sequence.flip_deg)


def tissue_signal(tissue: Tissue, contrast: Contrast, field_strength: float) -> float:
    """Magnitude signal of a tissue, relative to fully relaxed water, 0..1.

    Water and fat protons each follow the sequence's equation with their own relaxation times; they add in phase,
    subtract when opposed, and fat is scaled down where it is suppressed.

    Raises:
        InputError: Unknown contrast or field strength.
    """
    if contrast not in SEQUENCES:
        raise InputError(f"There is no MR contrast {contrast!r}; choose one of {', '.join(SEQUENCES)}.")
    sequence = SEQUENCES[contrast]
    t1, t2 = tissue.relaxation(field_strength)
    index = FIELD_STRENGTHS.index(field_strength)
    diffusion = np.exp(-sequence.b_value * tissue.adc * 1e-3)
    water = _signed_signal(sequence, tissue.density * (1 - tissue.fat), t1, t2) * diffusion
    fat_t2 = FAT_T2[index] * sequence.fat_t2_factor
    fat = _signed_signal(sequence, tissue.density * tissue.fat, FAT_T1[index], fat_t2)
    return float(abs(water + sequence.fat_sign * fat))
