from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scribbles import background_from_scribbles, body_mask, erosion_background, simulate_scribbles
from CrossModalSegLib.scribbles.background import _convex_hull, method_background

SPACING = (4.0, 1.0, 1.0)


@pytest.fixture
def mask() -> np.ndarray:
    volume = np.zeros((6, 160, 160), dtype=np.uint8)
    rows, columns = np.indices((160, 160))
    volume[1:5, np.hypot(rows - 70, columns - 60) < 22] = 1
    volume[2:4, np.hypot(rows - 90, columns - 110) < 12] = 2
    return volume


def test_eroded_background_keeps_its_margin_and_the_coverage_of_the_paper(mask: np.ndarray) -> None:
    lines = erosion_background(mask, SPACING, np.random.default_rng(0), margin_mm=8.0)
    drawn = lines == 0
    assert set(np.unique(lines)) == {0, 255}
    for k in range(1, 5):
        assert distance_transform_edt(mask[k] == 0)[drawn[k]].min() > 7.0
        assert 0.0003 < drawn[k].mean() < 0.0009
    assert not drawn[[0, 5]].any()


@pytest.mark.parametrize("pixels", [64, 96, 112, 128])
def test_eroded_background_begins_at_the_margin_in_small_images_too(pixels: int) -> None:
    mm = 300.0 / pixels
    rows, columns = np.indices((pixels, pixels))
    small = (np.hypot(rows - pixels / 2, columns - pixels / 2) * mm < 30).astype(np.uint8)[None]
    for seed in range(5):
        drawn = erosion_background(small, (3.0, mm, mm), np.random.default_rng(seed), margin_mm=12.0)[0] == 0
        distance = distance_transform_edt(small[0] == 0, (mm, mm))[drawn]
        assert 4 <= drawn.sum() <= 12
        assert distance.min() > 6.0
        assert np.median(distance) < 12.0 * 1.05 + 2 * mm


def test_eroded_background_on_chosen_slices_stays_in_the_body(mask: np.ndarray) -> None:
    body = np.zeros(mask.shape, dtype=bool)
    body[:, 20:140, 20:140] = True
    lines = erosion_background(mask, SPACING, np.random.default_rng(0), slices=np.array([0, 3]), body=body)
    assert (lines[0] == 0).any()
    assert (lines[3] == 0).any()
    assert not (lines[[1, 2, 4, 5]] == 0).any()
    assert not (lines[~body] == 0).any()


def test_eroded_background_lies_at_three_depths_where_there_is_much_of_it(mask: np.ndarray) -> None:
    lines = erosion_background(mask, SPACING, np.random.default_rng(0), margin_mm=8.0, coverage=0.01)[3] == 0
    distance = distance_transform_edt(mask[3] == 0)[lines]
    shares = [(np.abs(distance - 1.05 * depth * 8.0) < 1.5).mean() for depth in (1, 2, 4)]
    assert 0.4 < shares[0] < 0.6
    assert min(shares) > 0.1


def test_eroded_background_of_a_slice_without_foreground_keeps_away_from_the_nearest_one() -> None:
    volume = np.zeros((9, 60, 60), dtype=np.uint8)
    volume[2, 20:40, 5:25] = volume[8, 20:40, 35:55] = 1
    lines = erosion_background(volume, SPACING, np.random.default_rng(0), slices=np.array([0]), coverage=0.02)[0] == 0
    assert lines.any()
    assert distance_transform_edt(volume[2] == 0)[lines].min() > 7.0


def test_eroded_background_of_a_mask_that_fills_the_slice_is_empty() -> None:
    lines = erosion_background(np.ones((1, 20, 20), dtype=np.uint8), SPACING, np.random.default_rng(0))
    assert (lines == 255).all()


def test_eroded_background_is_none_where_all_is_within_half_the_margin() -> None:
    volume = np.ones((1, 20, 20), dtype=np.uint8)
    volume[0, :, 17:] = 0  # at most 3 mm away
    assert (erosion_background(volume, SPACING, np.random.default_rng(0), margin_mm=8.0) == 255).all()
    assert (erosion_background(volume, SPACING, np.random.default_rng(0), margin_mm=5.0) == 0).sum() == 1


def test_ignored_voxels_are_no_foreground() -> None:
    volume = np.zeros((2, 60, 60), dtype=np.uint8)
    volume[0, 20:40, 20:40] = 255
    volume[1, 20:40, 20:40] = 1
    lines = erosion_background(volume, SPACING, np.random.default_rng(0))
    assert (lines == 0).any(axis=(1, 2)).tolist() == [False, True]


def test_the_band_around_organs_is_as_wide_as_told_in_mm_and_within_the_body() -> None:
    """One row with voxels 2 mm apart: two on either side are within 4 mm, and one of these is outside of the body."""
    volume = np.zeros((1, 1, 9), dtype=np.uint8)
    volume[0, 0, 4] = 1
    body = np.ones(volume.shape, dtype=bool)
    body[0, 0, 6] = False

    def everything_near(classes: np.ndarray) -> np.ndarray:
        return np.where((classes == 1) & (classes == 0).any(), 1, 255).astype(np.uint8)

    lines = method_background(volume, (9.0, 5.0, 2.0), everything_near, np.array([0]), body, near_mm=4.0)
    assert lines[0, 0].tolist() == [255, 255, 0, 0, 255, 0, 255, 255, 255]


def test_proposed_background_keeps_away_from_scribbles_in_all_directions(mask: np.ndarray) -> None:
    given = simulate_scribbles(mask, SPACING, every=2, background="none")
    proposed = background_from_scribbles(given, SPACING, np.random.default_rng(0), margin_mm=25.0)
    foreground = given != 255
    np.testing.assert_array_equal(proposed[foreground], given[foreground])
    drawn = proposed == 0
    assert drawn.any(axis=(1, 2)).tolist() == foreground.any(axis=(1, 2)).tolist()
    assert distance_transform_edt(~foreground, SPACING)[drawn].min() >= 25.0


def test_proposed_background_is_not_between_the_strokes_of_neighbouring_slices() -> None:
    """Strokes left, in the middle and right on three slices: an organ may fill all of what lies between them."""
    strokes = np.full((3, 80, 160), 255, dtype=np.uint8)
    for k, column in enumerate((20, 80, 140)):
        strokes[k, 38:42, column - 2 : column + 2] = 1
    for mm in (1.0, 0.5):
        spacing = (30.0, mm, mm)
        given = background_from_scribbles(strokes, spacing, np.random.default_rng(0), margin_mm=10.0, coverage=0.02)
        drawn = given == 0
        assert drawn.any(axis=(1, 2)).all()
        assert distance_transform_edt(strokes == 255, spacing)[drawn].min() >= 10.0
        assert not drawn[0, 29:51, 20:80].any()
        assert not drawn[1, 29:51, 20:140].any()
        assert not drawn[2, 29:51, 80:140].any()


def test_proposed_background_stays_in_the_body(mask: np.ndarray) -> None:
    given = simulate_scribbles(mask, SPACING, every=2, background="none")
    body = np.zeros(mask.shape, dtype=bool)
    body[:, :, 80:] = True
    drawn = background_from_scribbles(given, SPACING, np.random.default_rng(0), body=body, margin_mm=20.0) == 0
    assert drawn.any()
    assert not drawn[~body].any()


def test_proposed_background_needs_foreground_and_room(mask: np.ndarray) -> None:
    empty = np.full(mask.shape, 255, dtype=np.uint8)
    with pytest.raises(InputError, match="Scribble at least one class"):
        background_from_scribbles(empty, SPACING, np.random.default_rng(0))
    given = simulate_scribbles(mask, SPACING, background="none")
    with pytest.raises(InputError, match="choose a smaller margin"):
        background_from_scribbles(given, SPACING, np.random.default_rng(0), margin_mm=500.0)
    with pytest.raises(InputError, match="positive number of mm"):
        background_from_scribbles(given, SPACING, np.random.default_rng(0), margin_mm=0.0)


def test_convex_hull_of_a_corner_and_of_a_line() -> None:
    corner = np.zeros((6, 6), dtype=bool)
    corner[1, 1:5] = corner[1:5, 1] = True
    hull = _convex_hull(corner)
    assert hull[2, 2]
    assert hull[2, 3]
    assert not hull[4, 4]
    diagonal = np.eye(5, dtype=bool)
    np.testing.assert_array_equal(_convex_hull(diagonal), diagonal)


@pytest.mark.parametrize(("air", "tissue"), [(-1000.0, 40.0), (0.0, 300.0)])
def test_body_is_the_filled_bright_object(air: float, tissue: float) -> None:
    rng = np.random.default_rng(0)
    image = np.full((3, 60, 60), air) + rng.normal(0, 5, (3, 60, 60))
    expected = np.zeros(image.shape, dtype=bool)
    expected[:, 10:50, 15:45] = True
    image[expected] += tissue - air
    image[:, 25:30, 25:30] = air
    image[:, 55:57, 5:55] = tissue
    image[:, 3:6, 5:55] = tissue
    np.testing.assert_array_equal(body_mask(image), expected)


def test_body_of_a_constant_image_is_everything() -> None:
    assert body_mask(np.zeros((2, 8, 8))).all()
