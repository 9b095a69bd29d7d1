from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, distance_transform_edt, label

from CrossModalSegLib.scribbles import SCRIBBLE_METHODS, SEEM_BRUSH, FreeformBrush, freeform_scribbles
from CrossModalSegLib.scribbles.contour import ARC_DEPTH_PX, contour_scribbles, level_lines, random_arc
from CrossModalSegLib.scribbles.random_walk import random_walk_scribbles
from CrossModalSegLib.scribbles.slices import deepest_pixel, scribble_slices

SPACING = (3.0, 1.0, 1.0)


def _blobs(seed: int, size: int = 48) -> np.ndarray:
    """Mask (2, size, size) with ellipses of up to four classes that overlap, touch the frame or are one pixel."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((2, size, size), dtype=np.uint8)
    rows, columns = np.indices((size, size))
    for value in range(1, 5):
        centre, radii = rng.uniform(0, size, 2), rng.uniform(0.5, size / 3, 2)
        ellipse = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
        mask[rng.integers(2), ellipse] = value
    return mask


@pytest.mark.parametrize("method", sorted(SCRIBBLE_METHODS))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scribbles_lie_inside_of_their_class_and_cover_each_class_of_each_slice(method: str, seed: int) -> None:
    mask = _blobs(seed)
    scribbles = SCRIBBLE_METHODS[method](mask, SPACING, np.random.default_rng(seed))
    painted = scribbles != 255
    assert scribbles.dtype == np.uint8
    assert scribbles.shape == mask.shape
    np.testing.assert_array_equal(scribbles[painted], mask[painted])
    for labels, drawn in zip(mask, scribbles, strict=True):
        assert set(np.unique(labels)) - {0} == set(np.unique(drawn)) - {255}


@pytest.mark.parametrize("method", sorted(SCRIBBLE_METHODS))
def test_same_state_gives_the_same_scribbles_and_the_mask_is_not_changed(method: str) -> None:
    mask = _blobs(3)
    before = mask.copy()
    draw = SCRIBBLE_METHODS[method]
    first, again, other = (draw(mask, SPACING, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(mask, before)
    if method != "skeleton":  # the skeleton has no choice to make
        assert (first != other).any()


@pytest.mark.parametrize("method", sorted(SCRIBBLE_METHODS))
def test_a_class_is_scribbled_the_same_with_and_without_others(method: str) -> None:
    mask = np.zeros((1, 60, 60), dtype=np.uint8)
    mask[0, 5:25, 5:25] = 1
    alone = SCRIBBLE_METHODS[method](mask, SPACING, np.random.default_rng(0))
    mask[0, 35:55, 35:55] = 2
    together = SCRIBBLE_METHODS[method](mask, SPACING, np.random.default_rng(0))
    np.testing.assert_array_equal(alone == 1, together == 1)


@pytest.mark.parametrize("method", sorted(SCRIBBLE_METHODS))
def test_ignored_voxels_are_never_scribbled(method: str) -> None:
    mask = np.full((1, 40, 40), 255, dtype=np.uint8)
    mask[0, 10:30, 10:30] = 1
    scribbles = SCRIBBLE_METHODS[method](mask, SPACING, np.random.default_rng(0))
    assert (scribbles[0, 10:30, 10:30] == 1).any()
    assert (np.delete(scribbles.ravel(), np.flatnonzero(mask.ravel() == 1)) == 255).all()


@pytest.mark.parametrize("method", ["contour", "word", "skeleton"])
def test_thicker_lines_cover_more(method: str) -> None:
    mask = np.zeros((1, 90, 90), dtype=np.uint8)
    mask[0, 10:80, 20:70] = 1
    draw = SCRIBBLE_METHODS[method]
    thin, thick = (draw(mask, SPACING, np.random.default_rng(4), thickness=width) == 1 for width in (1, 5))
    assert thin.sum() < 0.5 * thick.sum()


def test_contour_has_an_arc_near_the_outline_and_a_curve_inside() -> None:
    mask = np.zeros((1, 200, 200), dtype=np.uint8)
    rows, columns = np.indices((200, 200))
    mask[0, np.hypot(rows - 100, (columns - 100) / 1.4) < 60] = 1
    outline = 2 * np.pi * 60 * np.sqrt((1 + 1.4**2) / 2)
    depth = distance_transform_edt(mask[0])
    for seed in range(5):
        drawn = contour_scribbles(mask, SPACING, np.random.default_rng(seed), thickness=1)[0] == 1
        near = drawn & (depth <= ARC_DEPTH_PX[1] + 1)
        assert 0.05 * outline < near.sum() < 0.2 * outline
        assert (drawn & (depth > 15)).sum() > 10


def test_contour_has_no_arc_towards_ignored_voxels() -> None:
    mask = np.full((1, 100, 100), 255, dtype=np.uint8)
    mask[0, 20:80, 20:80] = 1
    drawn = contour_scribbles(mask, SPACING, np.random.default_rng(0))[0] == 1
    assert label(drawn)[1] <= 2
    assert drawn.sum() < 400


def test_level_lines_and_arcs_of_a_disc() -> None:
    rows, columns = np.indices((41, 41))
    (line,) = level_lines(10 - np.hypot(rows - 20, columns - 20), 0.0)
    radii = np.hypot(line[:, 0] - 20, line[:, 1] - 20)
    np.testing.assert_allclose(radii, 10, atol=0.1)
    arc = random_arc(line, 0.25 * 2 * np.pi * 10, np.random.default_rng(0))
    assert 14 < np.linalg.norm(np.diff(arc, axis=0), axis=1).sum() < 17


def test_random_walk_visits_a_tenth_in_one_piece() -> None:
    mask = np.zeros((1, 60, 60), dtype=np.uint8)
    mask[0, 5:55, 5:55] = 1
    walked = random_walk_scribbles(mask, SPACING, np.random.default_rng(0))[0] == 1
    assert walked.sum() == 250
    assert label(walked)[1] == 1


def test_freeform_brush_is_wider_with_the_preset_of_seem() -> None:
    mask = np.ones((1, 128, 128), dtype=np.uint8)
    small, large = (
        np.mean([(freeform_scribbles(mask, SPACING, np.random.default_rng(s), **o) == 1).sum() for s in range(12)])
        for o in ({}, {"brush": SEEM_BRUSH})
    )
    assert large > small
    with pytest.raises(ValueError, match="at least 2 vertices"):
        FreeformBrush(vertices=(1, 5), diameter=(1.0, 2.0), jitter=0.0)


def test_contour_finds_the_outline_of_a_square() -> None:
    """Whose sides are those of its box: there has to be something beyond them."""
    mask = np.zeros((1, 100, 100), dtype=np.uint8)
    mask[0, 20:80, 20:80] = 1
    for seed in range(3):
        drawn = contour_scribbles(mask, SPACING, np.random.default_rng(seed), thickness=1)[0] == 1
        near = drawn & (distance_transform_edt(mask[0]) <= ARC_DEPTH_PX[1] + 1)
        assert near.sum() > 0.05 * 4 * 60


def test_equal_slices_are_scribbled_differently() -> None:
    mask = np.zeros((2, 60, 60), dtype=np.uint8)
    mask[:, 5:55, 5:55] = 1
    scribbles = contour_scribbles(mask, SPACING, np.random.default_rng(0))
    assert (scribbles[0] != scribbles[1]).any()


def test_a_region_in_which_nothing_was_drawn_gets_its_deepest_pixel() -> None:
    mask = np.zeros((1, 9, 9), dtype=np.uint8)
    mask[0, 2:7, 2:7] = 3
    scribbles = scribble_slices(mask, np.random.default_rng(0), lambda region, *_: np.zeros_like(region))
    assert np.argwhere(scribbles != 255).tolist() == [[0, 4, 4]]
    assert scribbles[0, 4, 4] == 3


def test_deepest_pixel_is_the_middle() -> None:
    region = np.zeros((9, 9), dtype=bool)
    region[2:7, 2:7] = True
    assert np.argwhere(deepest_pixel(region)).tolist() == [[4, 4]]
    assert not (binary_dilation(deepest_pixel(region)) & ~region).any()
