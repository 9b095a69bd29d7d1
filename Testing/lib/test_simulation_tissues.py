"""Tissue table and signal equations."""

from __future__ import annotations

import math

import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.simulation.sequences import (
    inversion_recovery,
    spin_echo,
    spoiled_gradient_echo,
    tissue_signal,
)
from CrossModalSegLib.simulation.tissues import TISSUES, Tissue, tissue


def test_spin_echo_of_fully_relaxed_water_decays_with_t2() -> None:
    assert spin_echo(1.0, t1=1.0, t2=100.0, tr=1e6, te=100.0) == pytest.approx(math.exp(-1))


def test_inversion_recovery_is_zero_at_the_null_point() -> None:
    t1 = 4000.0
    assert inversion_recovery(1.0, t1, 2000.0, tr=1e7, te=1.0, ti=t1 * math.log(2)) == pytest.approx(0, abs=1e-9)


def test_gradient_echo_at_ninety_degrees() -> None:
    assert spoiled_gradient_echo(0.5, 1000.0, 1e9, tr=1000.0, te=1.0, flip_deg=90.0) == pytest.approx(
        0.5 * (1 - math.exp(-1)), rel=1e-6
    )


@pytest.mark.parametrize("field_strength", [1.5, 3.0])
def test_contrasts_order_tissues_as_radiologists_know_them(field_strength: float) -> None:
    def signal(name: str, contrast: str) -> float:
        return tissue_signal(tissue(name), contrast, field_strength)

    assert signal("csf", "t2") > signal("grey_matter", "t2") > signal("white_matter", "t2") > signal("muscle", "t2")
    assert signal("white_matter", "t1") > signal("grey_matter", "t1") > signal("csf", "t1")
    assert signal("csf", "flair") < 0.3 * signal("grey_matter", "flair")
    assert signal("fat", "t2_spir") < 0.2 * signal("fat", "t2")
    assert signal("mucosa", "t2") > signal("npc", "t2") > 1.4 * signal("muscle", "t2")
    assert signal("spleen", "dwi") > signal("liver", "dwi") > signal("fat", "dwi")
    assert signal("vertebra", "opposed_phase") < 0.8 * signal("vertebra", "in_phase")
    assert signal("air", "t1") == 0


def test_every_tissue_names_its_source() -> None:
    assert all(len(row.source) > 10 for row in TISSUES.values())


def test_unknown_names_and_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no tissue called 'gold'"):
        tissue("gold")
    with pytest.raises(InputError, match="no MR contrast 'swi'"):
        tissue_signal(tissue("fat"), "swi", 3.0)
    with pytest.raises(InputError, match="1.5 T and 3 T, got 7"):
        tissue_signal(tissue("fat"), "t1", 7.0)
    with pytest.raises(InputError, match="must be positive"):
        Tissue("x", 0, 0, (0.0, 1.0), (1.0, 1.0), 1, 0, 0, 0, "test")
