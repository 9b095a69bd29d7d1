"""Geodesic distances and class views: answers found by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from CrossModalSegLib.fitting.class_view import class_view, shrink_scribbles, suitable_spacing
from CrossModalSegLib.fitting.geodesic import COST_PER_MM, FAR, geodesic_distances, geodesic_posterior


def distances(image: np.ndarray, seed: tuple[int, int, int], spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    seeds = np.zeros(image.shape, bool)
    seeds[seed] = True
    return geodesic_distances(torch.from_numpy(image)[None], torch.from_numpy(seeds)[None], spacing)[0].numpy()


def test_in_a_flat_image_distance_is_the_length_of_the_way():
    flat = np.zeros((1, 1, 5), np.float32)
    assert distances(flat, (0, 0, 0), (1, 1, 2.0))[0, 0] == pytest.approx(COST_PER_MM * np.array([0, 2, 4, 6, 8]))


def test_a_diagonal_step_in_anisotropic_voxels():
    found = distances(np.zeros((2, 2, 1), np.float32), (0, 0, 0), (4.0, 3.0, 1.0))
    assert found[1, 1, 0] == pytest.approx(COST_PER_MM * 5)


def test_an_edge_costs_its_height():
    image = np.array([[[0.0, 0.0, 0.7, 0.7]]], np.float32)
    found = distances(image, (0, 0, 0))[0, 0]
    assert found == pytest.approx([0, COST_PER_MM, 0.7 + 2 * COST_PER_MM, 0.7 + 3 * COST_PER_MM], abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_diagonal_step_back_costs_what_lies_at_its_ends(axis):
    image = np.array([[0.0, 1.0], [0.5, 0.0]], np.float32)
    image = image[None] if axis else image[:, None]
    end = (0, 1, 1) if axis else (1, 0, 1)
    assert distances(image, end)[0, 0, 0] == pytest.approx(COST_PER_MM * 2**0.5)


def test_the_way_around_a_wall_is_found():
    image = np.zeros((1, 5, 5), np.float32)
    image[0, :4, 2] = 1.0  # open at the bottom
    found = distances(image, (0, 0, 0))
    assert found[0, 0, 4] < 0.1


def test_without_seeds_everything_is_far():
    image = torch.zeros(1, 2, 3, 4)
    assert (geodesic_distances(image, torch.zeros(1, 2, 3, 4, dtype=torch.bool), (1, 1, 1)) == FAR).all()


def test_the_posterior_is_one_on_the_class_and_zero_on_the_rest():
    scribbles = np.full((1, 4, 12), 255, np.uint8)
    scribbles[0, :2, :2], scribbles[0, :2, 10:] = 3, 0
    posterior = geodesic_posterior(np.zeros((1, 1, 4, 12), np.float32), scribbles, 3, (1, 1, 1))
    assert posterior.shape == (1, 4, 12)
    assert posterior[0, 0, 0] == pytest.approx(1, abs=1e-3) and posterior[0, 0, 11] == pytest.approx(0, abs=1e-3)
    assert 0.45 < posterior[0, 0, 5:7].mean() < 0.55


@given(arrays.arrays(np.uint8, (3, 9, 11), elements=st.sampled_from([255, 255, 255, 0, 1, 2])))
def test_shrinking_loses_no_class(scribbles):
    shrunk = shrink_scribbles(scribbles, (3, 4, 5))
    for k in range(3):
        drawn = set(np.unique(scribbles[k])) & {1, 2}
        kept = set(np.unique(shrunk[k])) & {1, 2}
        assert kept <= drawn and bool(kept) == bool(drawn)


def test_large_classes_are_seen_coarsely_and_small_ones_finely():
    scribbles = np.full((4, 200, 200), 255, np.uint8)
    scribbles[1, 10:190, 100], scribbles[2, 50:70, 20] = 1, 2
    images = np.random.default_rng(0).random((2, 4, 200, 200), np.float32)
    large, small = (class_view(images, scribbles, value, (3.0, 1.0, 1.0)) for value in (1, 2))
    assert large.spacing == pytest.approx((3.0, 3.0, 3.0), rel=0.02)
    assert small.spacing == (3.0, 1.0, 1.0)
    assert (large.scribbles == 1).any() and (small.scribbles == 2).any()


def test_a_view_restores_a_ramp_onto_its_box():
    scribbles = np.full((3, 120, 120), 255, np.uint8)
    scribbles[1, 5:115, 60] = 1
    ramp = np.broadcast_to(np.arange(120, dtype=np.float32)[:, None], (3, 120, 120))[None]
    view = class_view(np.ascontiguousarray(ramp), scribbles, 1, (3.0, 1.0, 1.0))
    restored = view.restore(view.images[0])
    expected = ramp[0][view.box]
    assert restored.shape == expected.shape
    np.testing.assert_allclose(restored[:, 4:-4], expected[:, 4:-4], atol=0.05)


def test_suitable_spacing_follows_the_extent():
    inside = np.zeros((1, 100, 100), bool)
    inside[0, 10:58, 50] = True
    assert suitable_spacing(inside, (3.0, 1.0, 1.0)) == pytest.approx(48 / 28)


def test_nearness_counts_millimetres_on_the_coarser_grid_too():
    """Without edges: the class 4 mm away in the next slice is nearer than the other stroke 6 mm away in this one."""
    scribbles = np.full((2, 16, 16), 255, np.uint8)
    scribbles[1, 8:10, 4:6], scribbles[0, 8:10, 10:12] = 1, 0
    posterior = geodesic_posterior(np.zeros((1, 2, 16, 16), np.float32), scribbles, 1, (4.0, 1.0, 1.0))
    assert posterior[0, 8:10, 4:6].mean() == pytest.approx(6 / (4 + 6), abs=0.03)
