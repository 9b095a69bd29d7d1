from __future__ import annotations

import time

import numpy as np
import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.scribbles import SCRIBBLE_METHODS, coverage, scribbled_slices, simulate_scribbles

SPACING = (3.0, 1.0, 1.0)


@pytest.fixture
def mask() -> np.ndarray:
    """Class 1 in slices 2..10, class 2 only in slice 7."""
    volume = np.zeros((12, 64, 64), dtype=np.uint8)
    volume[2:11, 15:40, 15:40] = 1
    volume[7, 45:52, 45:52] = 2
    return volume


def test_every_slice_is_scribbled_by_default(mask: np.ndarray) -> None:
    assert scribbled_slices(mask, 1).tolist() == list(range(12))


def test_the_offset_is_chosen_such_that_no_class_is_missed(mask: np.ndarray) -> None:
    assert scribbled_slices(mask, 4).tolist() == [3, 7, 11]


def test_a_missed_class_gets_an_extra_slice_where_it_is_largest(mask: np.ndarray) -> None:
    mask[8, 45:47, 45:47] = 2
    assert scribbled_slices(mask, 4, offset=1).tolist() == [1, 5, 7, 9]


def test_one_slice_far_apart_and_empty_masks(mask: np.ndarray) -> None:
    assert scribbled_slices(mask, 100).tolist() == [7]
    assert scribbled_slices(np.zeros((4, 8, 8), dtype=np.uint8), 2).tolist() == [1, 3]


@pytest.mark.parametrize("background", ["method", "erosion", "none"])
@pytest.mark.parametrize("method", sorted(SCRIBBLE_METHODS))
def test_scribbled_slices_hold_all_their_classes_and_background(mask: np.ndarray, method: str, background: str) -> None:
    scribbles = simulate_scribbles(mask, SPACING, method, seed=5, every=4, background=background)
    painted = scribbles != 255
    np.testing.assert_array_equal(scribbles[painted], mask[painted])
    for k in (3, 7):
        expected = set(np.unique(mask[k])) - (set() if background != "none" else {0})
        assert set(np.unique(scribbles[k])) - {255} == expected
    assert not painted[[0, 1, 2, 4, 5, 6, 8, 9, 10]].any()


def test_background_is_drawn_near_the_organs_and_far_from_them(mask: np.ndarray) -> None:
    scribbles = simulate_scribbles(mask, SPACING, every=4, thickness=1)
    drawn = np.argwhere(scribbles[3] == 0)
    distances = np.maximum(np.abs(drawn - 27) - 13, 0).max(axis=1)
    assert distances.min() <= 4
    assert distances.max() > 10


def test_random_walks_take_little_of_the_background(mask: np.ndarray) -> None:
    """A tenth of a class, as they do of others, would be a tenth of the image."""
    scribbles = simulate_scribbles(mask, SPACING, "random_walk", every=4)
    assert 0 < (scribbles[3] == 0).mean() < 0.02


@pytest.mark.parametrize("background", ["method", "erosion"])
def test_background_stays_in_the_body(mask: np.ndarray, background: str) -> None:
    body = np.zeros(mask.shape, dtype=bool)
    body[:, 8:58, 8:58] = True
    body[:, 8:28, 8:58] = False
    scribbles = simulate_scribbles(mask, SPACING, background=background, body=body)
    assert (scribbles[5] == 0).any()
    assert not (scribbles[~body] == 0).any()


def test_seed_decides(mask: np.ndarray) -> None:
    first, again, other = (simulate_scribbles(mask, SPACING, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_foreground_does_not_depend_on_the_background(mask: np.ndarray) -> None:
    with_background, without = (simulate_scribbles(mask, SPACING, background=b) for b in ("method", "none"))
    foreground = (with_background != 0) & (with_background != 255)
    np.testing.assert_array_equal(np.where(foreground, with_background, 255), without)


def test_coverage_counts_shares() -> None:
    scribbles = np.full((1, 2, 5), 255, dtype=np.uint8)
    scribbles[0, 0, :3] = 0
    scribbles[0, 1, 0] = 4
    assert coverage(scribbles) == {0: 0.3, 4: 0.1}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "magic"}, "no scribble method 'magic'. Choose one of contour"),
        ({"background": "sky"}, "no background method 'sky'"),
        ({"every": 0}, "n >= 1, got 0"),
        ({"every": 3, "offset": 3}, "must lie in 0..2, got 3"),
        ({"thickness": 0}, "at least 1 pixel"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive lengths"),
        ({"mask": np.zeros((4, 4), dtype=np.uint8)}, "3D uint8 mask, got 2D"),
        ({"mask": np.zeros((4, 4, 4), dtype=np.int64)}, "got 3D int64"),
        ({"body": np.zeros((1, 1, 1), dtype=bool)}, "body mask must have the shape"),
    ],
)
def test_bad_arguments_are_named(mask: np.ndarray, change: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        simulate_scribbles(**{"mask": mask, "spacing": SPACING, **change})


def test_large_slices_take_little_time() -> None:
    volume = np.zeros((4, 512, 512), dtype=np.uint8)
    rows, columns = np.indices((512, 512))
    for value, (row, column, radius) in enumerate([(200, 160, 110), (220, 380, 60), (340, 340, 40), (340, 160, 40)], 1):
        volume[:, np.hypot(rows - row, columns - column) < radius] = value
    start = time.process_time()
    simulate_scribbles(volume, SPACING)
    assert time.process_time() - start < 4.0
