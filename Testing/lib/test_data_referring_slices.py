from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from referring_support import reordered

from CrossModalSegLib.data.referring.slices import (
    SlicePreprocessing,
    image_slices,
    slice_frame,
    slice_stack,
    slice_window,
)
from CrossModalSegLib.data.working_grid import resample_aligned
from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.volume import Volume
from grids import rotation


def volume(array: np.ndarray, spacing_ijk=(1.0, 1.0, 5.0), matrix: np.ndarray | None = None) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if matrix is None else matrix) * np.array(spacing_ijk)
    affine[:3, 3] = (-20.0, 35.0, 7.0)
    return Volume(array, affine)


def oblique(seed: int = 4) -> np.ndarray:
    q, r = np.linalg.qr(np.eye(3) + 0.3 * np.random.default_rng(seed).standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def ramp(like: Volume) -> np.ndarray:
    k, j, i = np.meshgrid(*(np.arange(n) for n in like.shape), indexing="ij")
    x, y, z = np.einsum("ab,b...->a...", like.affine, np.stack([i, j, k, np.ones_like(i)]))[:3]
    return (0.3 * x - 0.7 * y + 0.2 * z).astype(np.float32)


def test_padding_keeps_the_aspect_in_mm_and_centres_the_slice():
    frame = slice_frame(volume(np.zeros((2, 32, 64), np.uint8), (1.0, 1.5, 5.0)), SlicePreprocessing(64))
    assert frame.pixel_mm == (1.0, 1.0)  # 48 mm by 64 mm
    assert frame.inside.all(axis=1).nonzero()[0].tolist() == list(range(8, 56))


def test_beside_the_slice_is_nothing():
    """Not its border, which an interpolation would go on with."""
    array = np.ones((2, 32, 64), np.uint8)
    frame = slice_frame(volume(array), SlicePreprocessing(64))
    assert (frame.to_canvas(array, "linear").sum(axis=(1, 2)) == 32 * 64).all()
    assert (frame.to_canvas(array, "nearest", fill=255)[0] == np.where(frame.inside, 1, 255)).all()


def test_stretching_fills_the_canvas():
    frame = slice_frame(volume(np.zeros((2, 32, 64), np.uint8)), SlicePreprocessing(64, "stretch"))
    assert frame.inside.all()
    assert frame.pixel_mm == (0.5, 1.0)


def test_slices_at_the_canvas_size_are_the_voxels_themselves():
    array = np.random.default_rng(0).random((3, 32, 32), np.float32)
    frame = slice_frame(volume(array), SlicePreprocessing(32))
    np.testing.assert_array_equal(frame.to_canvas(array, "linear"), array)
    np.testing.assert_array_equal(frame.from_canvas(array, "linear"), array)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_a_mask_comes_back_exactly_from_a_finer_canvas(resize, order, signs):
    """Oblique, anisotropic, flipped and permuted volumes."""
    axes = (oblique() * np.array(signs))[:, order]
    mask = (np.random.default_rng(1).random((20, 23, 26)) < 0.3).astype(np.uint8)
    grid = volume(mask, np.array((0.9, 1.1, 2.5))[list(order)], axes)
    frame = slice_frame(grid, SlicePreprocessing(128, resize))
    back = frame.from_canvas(frame.to_canvas(mask, "nearest"), "nearest")
    np.testing.assert_array_equal(back, mask)


def test_a_ramp_survives_both_ways_away_from_the_border():
    grid = volume(np.zeros((4, 40, 50), np.float32), (1.2, 0.9, 4.0), oblique())
    values = ramp(grid)
    frame = slice_frame(grid, SlicePreprocessing(64, "stretch"))
    back = frame.from_canvas(frame.to_canvas(values, "linear"), "linear")
    np.testing.assert_allclose(back[:, 3:-3, 3:-3], values[:, 3:-3, 3:-3], atol=1e-3)


def test_slices_run_to_the_head_rows_to_the_back_and_columns_to_the_left():
    """The volume is stored sagittally, with all axes reversed."""
    array = np.zeros((40, 6, 40), np.float32)  # (L-R, S-I, P-A)
    array[0, 0, 0] = 1.0
    axes = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    frame = slice_frame(volume(array, (1.0, 5.0, 1.0), axes), SlicePreprocessing(40))
    assert np.argwhere(frame.to_canvas(array, "nearest")).tolist() == [[5, 39, 39]]


SHORT_AXES = np.stack([(1.0, 1.0, 0.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -2.0)], axis=1)


def short_axes(angles=(0.0, 0.0, 0.0), shape=(5, 30, 40)) -> Volume:
    """Thick slices across an axis of a heart, whose rows and columns are close to two sides of the patient each."""
    rng = np.random.default_rng(3)
    directions = rotation(*angles) @ (SHORT_AXES / np.linalg.norm(SHORT_AXES, axis=0))
    return volume(rng.random(shape).astype(np.float32), (1.4, 1.4, 8.0), directions)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@given(st.tuples(*[st.floats(-0.3, 0.3)] * 3), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=40)
def test_askew_slices_are_turned_like_others(resize, angles, order, flips):
    prep = SlicePreprocessing(64, resize)
    reference = slice_frame(short_axes(), prep)
    stored = reordered(short_axes(angles), order, flips)
    own = slice_frame(stored, prep)
    frame = own.turned_like(reference)
    cosines = (frame.axial.affine[:3, :3].T @ reference.axial.affine[:3, :3]).diagonal() / (1.4**2, 1.4**2, 64.0)
    assert (cosines > 0.8).all()
    # Not one voxel moves, and the canvas holds the same pixels.
    np.testing.assert_array_equal(frame.from_axial(frame.to_axial(stored.array)), stored.array)
    pixels = own.to_canvas(stored.array, "linear")
    found = resample_aligned(pixels, own.canvas, frame.canvas, "nearest")
    np.testing.assert_allclose(found, frame.to_canvas(stored.array, "linear"), atol=1e-5)
    np.testing.assert_allclose(frame.canvas.spacing, reference.canvas.spacing)
    assert frame.turned_like(reference) is frame


def test_slices_that_need_no_turning_stay_what_they_are():
    axial = slice_frame(volume(np.zeros((4, 40, 50), np.float32), (1.2, 0.9, 4.0), oblique()), SlicePreprocessing(64))
    other = slice_frame(volume(np.zeros((4, 40, 40), np.float32)), SlicePreprocessing(64))
    assert axial.turned_like(other) is axial


def test_centres_are_the_middles_of_the_slices():
    frame = slice_frame(volume(np.zeros((2, 33, 41), np.uint8)), SlicePreprocessing(64))
    np.testing.assert_allclose(frame.centres, [[0.0, 51.0, 7.0], [0.0, 51.0, 12.0]])


def test_images_are_scaled_by_the_percentiles_of_the_volume():
    array = np.linspace(-1000, 1000, 32 * 32 * 10).reshape(10, 32, 32)
    prep = SlicePreprocessing(32, percentiles=(0.0, 100.0))
    slices = image_slices(volume(array), slice_frame(volume(array), prep), prep)
    np.testing.assert_allclose(slices, (array + 1000) / 2000, atol=1e-6)
    assert slices.dtype == np.float32


def test_a_constant_image_becomes_zeros():
    grid = volume(np.full((2, 32, 32), 7.0))
    assert not image_slices(grid, slice_frame(grid, SlicePreprocessing(32)), SlicePreprocessing(32)).any()


def test_scribbles_keep_every_stroke_on_a_coarser_canvas():
    array = np.full((2, 64, 64), 255, np.uint8)
    array[0, 30, 30], array[1, 10, 50] = 3, 0
    grid = volume(array)
    found = slice_frame(grid, SlicePreprocessing(32)).scribbles_to_canvas(grid)
    assert np.argwhere(found == 3).tolist() == [[0, 15, 15]]
    assert np.argwhere(found == 0).tolist() == [[1, 5, 25]]


@pytest.mark.parametrize("spacing", [1.5, 0.7])
def test_strokes_half_way_between_pixels_of_the_canvas_lie_the_same_whatever_the_storage_order(spacing):
    array = np.full((5, 32, 32), 255, np.uint8)
    array[1, 4:9, 6:20] = 1
    affine = np.diag([spacing, spacing, 5.0, 1.0])
    affine[:3, 3] = -20.3, 35.7, 7.1
    scribbles, prep = Volume(array, affine), SlicePreprocessing(64)
    expected = slice_frame(scribbles, prep).scribbles_to_canvas(scribbles)
    for flips in product((False, True), repeat=3):
        stored = reordered(scribbles, (0, 1, 2), flips)
        found = slice_frame(stored, prep).scribbles_to_canvas(stored)
        np.testing.assert_array_equal(found, expected)


def test_scribbles_on_another_grid_are_refused():
    frame = slice_frame(volume(np.zeros((2, 40, 40), np.uint8)), SlicePreprocessing(32))
    with pytest.raises(GeometryError, match="should share one grid"):
        frame.scribbles_to_canvas(volume(np.zeros((3, 40, 40), np.uint8)))


def test_no_scribbles_stay_none():
    grid = volume(np.full((2, 40, 40), 255, np.uint8))
    assert (slice_frame(grid, SlicePreprocessing(32)).scribbles_to_canvas(grid) == 255).all()


def test_the_window_repeats_the_outermost_slices():
    slices = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    assert slice_window(slices, 0, 1)[:, 0, 0].tolist() == [0, 0, 1]
    assert slice_window(slices, 3, 2)[:, 0, 0].tolist() == [1, 2, 3, 3, 3]
    assert slice_window(slices, 2, 0).shape == (1, 2, 2)


def test_a_stack_holds_all_contrasts_and_labels():
    image = volume(np.random.default_rng(0).random((3, 32, 40)))
    labels = volume(np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 40), np.uint8))
    stack = slice_stack("a", {"t1": image, "t2": image}, labels, SlicePreprocessing(40))
    assert list(stack.images) == ["t1", "t2"] and stack.count == 3
    assert [np.unique(each[stack.frame.inside]).tolist() for each in stack.labels] == [[0], [1], [2]]
    assert stack.window("t1", 0, 1).shape == (3, 40, 40)


def test_images_on_different_grids_are_refused():
    with pytest.raises(GeometryError, match="'t1' and 't2' should share one grid"):
        slice_stack("a", {"t1": volume(np.zeros((2, 40, 40))), "t2": volume(np.zeros((2, 41, 40)))})


def test_a_case_without_images_is_refused():
    with pytest.raises(InputError, match="no image to take slices of"):
        slice_stack("a", {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 8}, "at least 32 pixels; got 8"),
        ({"resize": "crop"}, 'by "pad" or "stretch"; got "crop"'),
        ({"percentiles": (99.0, 1.0)}, "two ascending values"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        SlicePreprocessing(**changes)
