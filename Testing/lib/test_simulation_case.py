"""Whole simulated patients."""

from __future__ import annotations

import time

import numpy as np
import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.simulation import SimulatedCase, SimulationOptions, simulate_case
from CrossModalSegLib.simulation.artefacts import add_ct_noise, add_rician_noise, bias_field, misregistration

SMALL_HEAD = {"shape": (24, 56, 56), "spacing": (5.0, 3.6, 3.6)}
SMALL_ABDOMEN = {"shape": (24, 60, 60), "spacing": (8.0, 5.6, 5.6)}


@pytest.fixture(scope="module")
def head() -> SimulatedCase:
    return simulate_case("head", 1, SimulationOptions(**SMALL_HEAD))


@pytest.fixture(scope="module")
def abdomen() -> SimulatedCase:
    return simulate_case("abdomen", 1, SimulationOptions(**SMALL_ABDOMEN))


def test_types_and_labels(head: SimulatedCase, abdomen: SimulatedCase) -> None:
    for case in (head, abdomen):
        assert (case.ct.array.dtype, case.mr.array.dtype, case.mask.array.dtype) == (np.int16, np.int16, np.uint8)
        assert case.mr.array.min() >= 0
        assert case.ct.array.min() >= -1024
    assert head.labels.names == ("GTV",)
    assert abdomen.labels.names[0] == "liver"
    assert len(abdomen.labels) == 7


def test_same_seed_same_bits_and_other_seed_other_patient(head: SimulatedCase) -> None:
    again = simulate_case("head", 1, SimulationOptions(**SMALL_HEAD))
    for name in ("ct", "mr", "mask"):
        np.testing.assert_array_equal(getattr(again, name).array, getattr(head, name).array)
    other = simulate_case("head", 2, SimulationOptions(**SMALL_HEAD))
    assert (other.mask.array != head.mask.array).any()


def test_noise_leaves_the_patient_as_he_was(head: SimulatedCase) -> None:
    options = SimulationOptions(**SMALL_HEAD, ct_noise=0.0, mr_noise=0.0, streaks=0.0, bias_field=0.0)
    clean = simulate_case("head", 1, options)
    np.testing.assert_array_equal(clean.mask.array, head.mask.array)
    assert (clean.mr.array == 0).any()


def test_tumour_differs_from_muscle_less_at_low_contrast(head: SimulatedCase) -> None:
    low = simulate_case("head", 1, SimulationOptions(**SMALL_HEAD, tumour_contrast="low"))
    tumour = head.mask.array == 1
    np.testing.assert_array_equal(low.mask.array == 1, tumour)
    assert 3 < tumour.sum() * head.mask.voxel_ml < 70
    assert low.mr.array[tumour].mean() < 0.85 * head.mr.array[tumour].mean()
    assert 30 < np.median(head.ct.array[tumour]) < 90


def test_every_organ_is_there_with_its_ct_number(abdomen: SimulatedCase) -> None:
    sizes = {
        label.name: (abdomen.mask.array == label.value).sum() * abdomen.mask.voxel_ml for label in abdomen.labels.labels
    }
    assert 700 < sizes["liver"] < 2400
    assert all(60 < sizes[name] < 260 for name in ("left kidney", "right kidney"))
    assert 25 < sizes["spleen"] < 450
    assert sizes["gallbladder"] > 4
    assert sizes["pancreas"] > 25
    assert sizes["stomach"] > 120
    medians = {
        label.name: np.median(abdomen.ct.array[abdomen.mask.array == label.value]) for label in abdomen.labels.labels
    }
    assert 90 < medians["liver"] < 135
    assert medians["left kidney"] > medians["liver"] > medians["gallbladder"]


def test_oblique_anisotropic_grid_shows_the_same_patient(head: SimulatedCase) -> None:
    options = SimulationOptions(shape=(30, 60, 64), spacing=(4.0, 3.4, 3.2), rotation_deg=(12.0, -8.0, 20.0))
    turned = simulate_case("head", 1, options)
    assert not np.allclose(np.abs(turned.ct.direction), np.eye(3), atol=0.05)
    centres = [
        case.mask.affine @ (*np.argwhere(case.mask.array == 1).mean(axis=0)[::-1], 1.0) for case in (head, turned)
    ]
    np.testing.assert_allclose(centres[0], centres[1], atol=1.5)


def test_misregistration_moves_the_mr_only(head: SimulatedCase) -> None:
    moved = simulate_case("head", 1, SimulationOptions(**SMALL_HEAD, misregistration_mm=5.0))
    np.testing.assert_array_equal(moved.mask.array, head.mask.array)
    np.testing.assert_array_equal(moved.ct.array, head.ct.array)
    assert np.corrcoef(moved.mr.array.ravel(), head.mr.array.ravel())[0, 1] < 0.97


@pytest.mark.parametrize("rms", [0.5, 4.0])
def test_misregistration_has_the_length_that_was_asked_for(rms: float) -> None:
    move = misregistration(rms, 100.0, np.random.default_rng(0))
    grid = np.linspace(-60, 60, 9, dtype=np.float32)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    lengths = np.sqrt(sum((a - b) ** 2 for a, b in zip(move(x, y, z), (x, y, z), strict=True)))
    assert np.sqrt((lengths**2).mean()) == pytest.approx(rms, rel=0.15)


def test_artefacts_have_the_strength_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    flat = np.zeros((20, 40, 40), dtype=np.float32)
    assert add_ct_noise(flat, 10.0, rng).std() == pytest.approx(10, rel=0.03)
    # The mean of Rayleigh noise is sqrt(pi / 2) sigma.
    assert add_rician_noise(flat, 2.0, rng).mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.02)
    field = bias_field((10, 20, 20), (3.0, 2.0, 2.0), 0.2, rng)
    assert np.log(field).std() == pytest.approx(0.2, rel=1e-3)


def test_default_sizes_are_quick() -> None:
    # CPU time, as other work may share the processor; about 2 s where nothing does.
    start = time.process_time()
    simulate_case("head", 0)
    assert time.process_time() - start < 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 5, 5)}, "at least 4 voxels"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive numbers"),
        ({"mr_noise": -1.0}, "mr_noise must be a finite number"),
        ({"ct_noise": float("nan")}, "ct_noise must be a finite number"),
        ({"mr_contrast": "swi"}, "MR contrast must be one of"),
        ({"field_strength": 7.0}, "1.5 or 3 tesla"),
        ({"tumour_contrast": "none"}, "'normal' or 'low'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SimulationOptions(**options)


def test_bad_anatomy_and_seed_are_refused() -> None:
    with pytest.raises(InputError, match="head, abdomen, got 'foot'"):
        simulate_case("foot", 0)
    with pytest.raises(InputError, match="must not be negative"):
        simulate_case("head", -1)
