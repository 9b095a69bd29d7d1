"""The crop that a fit works on, and the way of its answer back into the case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.fitting.class_view import class_view, shrink_scribbles
from CrossModalSegLib.fitting.regions import class_box, scribbled_box
from CrossModalSegLib.fitting.working_case import working_case
from CrossModalSegLib.volume import Volume, same_geometry


def long_case() -> LoadedCase:
    """A row of 200 mm with strokes at its 100th mm, which runs to P; its last 20 mm are very bright."""
    affine = np.array([[0.0, 0, 1, 5], [1, 0, 0, -3], [0, 1, 0, 7], [0, 0, 0, 1]])
    image = np.random.default_rng(0).random((4, 6, 200)).astype(np.float32)
    image[..., 180:] += 1000
    scribbles = np.full(image.shape, 255, np.uint8)
    scribbles[1, 2, 98:102], scribbles[2, 4, 95:105] = 1, 0
    grid = Volume(image, affine)
    return LoadedCase("case", {"mr": grid}, grid.with_array(scribbles), None)


def test_the_crop_lies_in_the_patient_where_it_was_cut():
    working = working_case(long_case())
    assert working.box == (slice(0, 4), slice(0, 6), slice(53, 147))
    np.testing.assert_allclose(working.prepared.source.affine[:3, 3], (5, -3 + 53, 7))
    assert working.prepared.source.shape == (4, 6, 94)


def test_the_crop_has_the_contrast_of_the_whole_image():
    loaded = long_case()
    low, high = np.percentile(loaded.images["mr"].array, (0.5, 99.5))
    assert high > 1000
    assert working_case(loaded).prepared.images.max() < 1.1 * (1 - low) / (high - low)


def test_the_ct_comes_first_whatever_the_order_of_the_images():
    loaded = long_case()
    mr = loaded.images["mr"]
    ct = mr.with_array(mr.array - 500)
    given, other = (
        working_case(replace(loaded, images=images)).prepared.images
        for images in ({"ct": ct, "mr": mr}, {"mr": mr, "ct": ct})
    )
    assert not np.array_equal(given[0], given[1])
    np.testing.assert_array_equal(given, other)


def test_an_answer_is_background_beyond_the_crop_and_certain_under_the_strokes():
    loaded = long_case()
    working = working_case(loaded)
    probabilities = np.full((3, *working.prepared.shape), 0.1, np.float32)
    probabilities[2] = 0.8
    answer = working.answer(probabilities, with_probabilities=True, with_uncertainty=True)
    inside = np.zeros(loaded.grid.shape, bool)
    inside[working.box] = True
    drawn = loaded.scribbles.array
    expected = np.where(drawn != 255, drawn, np.where(inside, 2, 0))
    assert same_geometry(answer.labels, loaded.grid)
    np.testing.assert_array_equal(answer.labels.array, expected)
    np.testing.assert_array_equal(answer.probabilities.argmax(axis=0), expected)
    np.testing.assert_allclose(answer.probabilities.sum(axis=0), 1, atol=1e-6)
    assert (answer.probabilities[0, ~inside] == 1).all()
    assert (answer.probabilities[1, drawn == 1] == 1).all()
    assert (answer.uncertainty.array > 0.5).sum() == (inside & (drawn == 255)).sum()
    assert not answer.uncertainty.array[~inside | (drawn != 255)].any()


def test_boxes_reach_over_the_largest_gap_between_scribbled_slices():
    scribbles = np.full((60, 200, 200), 255, np.uint8)
    scribbles[20, 100, 100], scribbles[32, 100, 100], scribbles[20, 100, 90] = 1, 1, 0
    assert scribbled_box(scribbles, (10.0, 1.0, 1.0))[0] == slice(8, 45)  # 35 mm are four slices
    assert class_box(scribbles, 1, (10.0, 1.0, 1.0))[0] == slice(8, 45)


def test_a_coarser_view_has_larger_voxels_and_keeps_every_class():
    scribbles = np.full((2, 120, 120), 255, np.uint8)
    scribbles[0, 4:116, 4:116:2], scribbles[0, 4:116, 5:116:2] = 1, 0
    view = class_view(np.zeros((2, 2, 120, 120), np.float32), scribbles, 1, (3.0, 1.0, 1.0))
    assert view.scribbles.shape == (2, 40, 40)  # strokes of 112 mm would span 28 voxels of 4 mm, but 3 mm is the most
    assert view.spacing == pytest.approx((3.0, 3.0, 3.0))
    assert set(np.unique(view.scribbles)) == {1, 255}


def test_a_class_wins_over_background_where_both_shrink_to_one_voxel():
    scribbles = np.array([[[0, 1, 0, 255], [0, 0, 0, 255]], [[255] * 4, [255] * 4]], np.uint8)
    assert shrink_scribbles(scribbles, (2, 1, 2)).tolist() == [[[1, 0]], [[255, 255]]]


def cord_case(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> LoadedCase:
    """A bright cord 8 voxels wide in a dark image, drawn along over 100 voxels, and dark strokes on both sides."""
    image = np.zeros((12, 120, 120), np.float32)
    image[:, :, 56:64] = 1
    scribbles = np.full(image.shape, 255, np.uint8)
    scribbles[::3, 10:110, 60], scribbles[::3, 10:110, 40], scribbles[::3, 10:110, 80] = 1, 0, 0
    grid = Volume(image, np.diag([*spacing[::-1], 1.0]))
    return LoadedCase("cord", {"mr": grid}, grid.with_array(scribbles), None)


def test_what_is_long_and_thin_is_worked_on_at_fine_voxels():
    working = working_case(cord_case())
    assert working.thicknesses[1] == pytest.approx(8, abs=2.0)
    assert working.prepared.spacing[1:] == (1.0, 1.0)
    without_edges = cord_case()
    without_edges.images["mr"].array[:] = 0
    assert working_case(without_edges).prepared.spacing[1:] == pytest.approx((1.4, 1.4))


def test_a_thin_class_is_seen_in_halved_voxels_with_its_strokes():
    working = working_case(cord_case(), for_prior=True)
    assert working.thin == {1}
    case = (working.prepared.images, working.prepared.scribbles, 1, working.prepared.spacing, 0.5, 16.0)
    plain, halved = class_view(*case), class_view(*case, is_thin=True)
    assert plain.spacing == (1.0, 1.0, 1.0) and halved.spacing == (1.0, 0.5, 0.5)
    np.testing.assert_array_equal(halved.scribbles[:, ::2, ::2], plain.scribbles)
    np.testing.assert_array_equal(halved.scribbles[:, 1::2, 1::2], plain.scribbles)
    row = halved.images[0, 0, 100]
    np.testing.assert_allclose(row[row > 0], [0.25, 0.75, *[1] * 14, 0.75, 0.25])
    np.testing.assert_allclose(halved.restore(halved.images[0])[0, 0], plain.images[0, 0, 0], atol=0.26)


def test_a_view_stays_as_it_is_where_halves_are_too_many_or_too_coarse_already(monkeypatch):
    working = working_case(cord_case(), for_prior=True)
    case = (working.prepared.images, working.prepared.scribbles, 1, working.prepared.spacing)
    coarse = class_view(*case, is_thin=True)
    assert coarse.spacing[1] > 2 and coarse.spacing == class_view(*case).spacing
    monkeypatch.setattr("CrossModalSegLib.fitting.class_view.MOST_HALVED_VOXELS", 1000)
    assert class_view(*case, 0.5, 16.0, is_thin=True).spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("mm", "thin"), [(13.9 / 8, {1}), (0.5, {1}), (3.0, set())])
def test_voxels_that_were_halved_are_not_halved_again(mm, thin):
    working = working_case(cord_case((4.0, mm, mm)), for_prior=True)
    assert working.thin == thin


def test_a_thick_class_is_not_thin():
    loaded = cord_case()
    loaded.images["mr"].array[:, :, 50:70] = 1
    assert working_case(loaded, for_prior=True).thin == set()


def test_coarse_voxels_are_halved_with_their_strokes():
    loaded = cord_case((4.0, 3.0, 3.0))
    assert working_case(loaded).prepared.spacing == (4.0, 3.0, 3.0)
    working = working_case(loaded, for_prior=True)
    assert working.prepared.spacing == (4.0, 1.5, 1.5)
    assert (working.prepared.scribbles == 1).sum() == 4 * (loaded.scribbles.array == 1).sum()
    row = working.prepared.images[0, 0, 100]
    np.testing.assert_allclose(row[row > 0], [0.25, 0.75, *[1] * 14, 0.75, 0.25])
    probabilities = np.stack([1 - working.prepared.images[0], working.prepared.images[0]])
    answer = working.answer(probabilities).labels
    assert same_geometry(answer, loaded.grid)
    np.testing.assert_array_equal(answer.array, loaded.images["mr"].array > 0)


def test_metal_is_no_larger_where_voxels_are_halved():
    loaded = cord_case((4.0, 3.0, 3.0))
    hounsfield = loaded.images["mr"].with_array(np.where(loaded.images["mr"].array > 0, 3000.0, -160.0))
    row = working_case(replace(loaded, images={"ct": hounsfield}), for_prior=True).prepared.images[0, 0, 100]
    np.testing.assert_allclose(row[row > 0], [0.25, 0.75, *[1] * 14, 0.75, 0.25], atol=1e-6)
