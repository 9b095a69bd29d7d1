from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scribbles import background_from_scribbles, body_mask, erosion_background, simulate_scribbles
from CrossModalSegLib.scribbles.background import _convex_hull

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


def test_eroded_background_of_a_mask_that_fills_the_slice_is_empty() -> None:
    lines = erosion_background(np.ones((1, 20, 20), dtype=np.uint8), SPACING, np.random.default_rng(0))
    assert (lines == 255).all()


def test_proposed_background_keeps_away_from_scribbles_in_all_directions(mask: np.ndarray) -> None:
    given = simulate_scribbles(mask, SPACING, every=2, background="none")
    proposed = background_from_scribbles(given, SPACING, np.random.default_rng(0), margin_mm=25.0)
    foreground = given != 255
    np.testing.assert_array_equal(proposed[foreground], given[foreground])
    drawn = proposed == 0
    assert drawn.any(axis=(1, 2)).tolist() == foreground.any(axis=(1, 2)).tolist()
    assert distance_transform_edt(~foreground, SPACING)[drawn].min() >= 25.0


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
    np.testing.assert_array_equal(body_mask(image), expected)


def test_body_of_a_constant_image_is_everything() -> None:
    assert body_mask(np.zeros((2, 8, 8))).all()
