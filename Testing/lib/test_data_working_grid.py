from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CrossModalSegLib.data.working_grid import Grid, is_reordering, resample_aligned, working_grid
from CrossModalSegLib.errors import GeometryError, InputError


def rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def oblique_grid(shape=(11, 24, 20), spacing_ijk=(0.9, 1.1, 3.5), seed=3) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = rotation(seed) * np.array(spacing_ijk)
    affine[:3, 3] = (-31.0, 47.5, 112.25)
    return Grid(shape, affine)


def world(grid: Grid) -> np.ndarray:
    k, j, i = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    return np.einsum("ab,b...->a...", grid.affine, np.stack([i, j, k, np.ones_like(i)]))[:3]


def ramp(grid: Grid) -> np.ndarray:
    x, y, z = world(grid)
    return (0.3 * x - 0.7 * y + 0.2 * z + 5.0).astype(np.float32)


@pytest.mark.parametrize("spacing", [(2.0, 1.5, 0.7), (7.0, 2.2, 2.0), (3.5, 1.1, 0.9)])
@pytest.mark.parametrize("orientation", ["native", "flip", "lps"])
def test_a_linear_ramp_in_world_coordinates_is_reproduced_exactly_inside(spacing, orientation):
    source = oblique_grid()
    target = working_grid(source, spacing, orientation)
    result = resample_aligned(ramp(source), source, target, "linear")
    inverse = np.linalg.inv(source.affine)
    k, j, i = np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij")
    index = np.einsum("ab,b...->a...", inverse @ target.affine, np.stack([i, j, k, np.ones_like(i)]))[:3]
    size = np.array(source.shape[::-1])[:, None, None, None]
    margin = np.maximum(np.array(target.spacing)[::-1] / np.abs(np.array(source.spacing)[::-1]) * 4, 0)
    inside = ((index >= margin.max()) & (index <= size - 1 - margin.max())).all(axis=0)
    if not inside.any():
        inside = ((index >= 1) & (index <= size - 2)).all(axis=0) & (np.array(spacing) <= source.spacing).all()
    assert np.abs(result - ramp(target))[inside].max(initial=0) < 2e-3


def test_there_and_back_does_not_shift_a_label_map():
    source = oblique_grid((20, 40, 36), (1.0, 1.2, 2.5))
    x, y, z = world(source)
    centre = np.array([c.mean() for c in (x, y, z)])
    ball = (sum((c - m) ** 2 for c, m in zip((x, y, z), centre)) < 14.0**2).astype(np.float32)
    grid = working_grid(source, (1.3, 0.8, 0.9), "flip")
    back = resample_aligned(resample_aligned(ball, source, grid, "linear"), grid, source, "linear")
    assert ((back > 0.5) == (ball > 0.5)).mean() > 0.995
    shift = [np.average(c, weights=back) - np.average(c, weights=ball) for c in (x, y, z)]
    assert np.abs(shift).max() < 0.01


def test_flip_turns_axes_to_lps_and_is_undone_exactly():
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    source = Grid((2, 3, 4), affine)
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    target = working_grid(source, None, "flip")
    np.testing.assert_allclose(np.diag(target.affine)[:3], (1, 2, 3))
    result = resample_aligned(array, source, target, "nearest")
    np.testing.assert_array_equal(result, array[:, ::-1, ::-1])
    np.testing.assert_array_equal(resample_aligned(result, target, source, "nearest"), array)
    assert is_reordering(source, target)


def test_lps_puts_a_sagittal_volume_upright():
    # i runs to S, j to P, k to L.
    affine = np.array([[0, 0, 4.0, 0], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    source = Grid((5, 6, 7), affine)
    target = working_grid(source, None, "lps")
    assert target.shape == (7, 6, 5)
    np.testing.assert_allclose(np.diag(target.affine)[:3], (4, 1, 2))
    assert is_reordering(source, target)
    array = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(resample_aligned(array, source, target, "linear"), array.transpose(2, 1, 0))


def test_respacing_keeps_the_centre_of_the_field_of_view():
    source = oblique_grid()
    target = working_grid(source, (2.0, 2.0, 2.0), "native")
    centres = [g.affine[:3, :3] @ ((np.array(g.shape[::-1]) - 1) / 2) + g.affine[:3, 3] for g in (source, target)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-9)
    np.testing.assert_allclose(target.spacing, (2, 2, 2))


def test_a_spacing_that_no_memory_holds_is_refused():
    with pytest.raises(InputError, match=r"1e-09, 1, 1 mm makes 2.4e\+10 voxels of an image with 2 by 3 by 4"):
        working_grid(Grid((2, 3, 4), np.eye(4)), (1e-9, 1.0, 1.0))


def test_rounding_errors_add_no_slice():
    source = Grid((3, 4, 4), np.diag([1.0, 1.0, 3.0, 1.0]))
    assert working_grid(source, (0.6, 1.0, 1.0), "native").shape == (15, 4, 4)  # 3 / (0.6 / 3) is above 15


def test_an_oblique_grid_turned_round_has_the_same_voxels():
    source = oblique_grid()
    target = working_grid(source, None, "lps")
    assert target.shape != source.shape
    assert is_reordering(source, target)
    part = Grid((source.shape[0] - 1, *source.shape[1:]), source.affine)
    assert not is_reordering(source, part)


def line(values: list, step: float = 1.0, first: float = 0.0, dtype: type = np.float32) -> tuple[np.ndarray, Grid]:
    """Values along i, `step` mm apart from `first` on."""
    affine = np.diag([step, 1.0, 1.0, 1.0])
    affine[0, 3] = first
    return np.array([[values]], dtype), Grid((1, 1, len(values)), affine)


def test_nearest_goes_up_half_way_as_scribbles_do():
    array, source = line([1, 2, 3, 4], dtype=np.uint8)
    _, target = line([0, 0], step=2.0, first=0.5)
    assert resample_aligned(array, source, target, "nearest").tolist() == [[[2, 4]]]


def test_bytes_are_interpolated_without_overflow():
    array, source = line([200, 100], dtype=np.uint8)
    _, target = line([0, 0, 0], step=0.5)
    assert resample_aligned(array, source, target, "linear").tolist() == [[[200, 150, 100]]]


@pytest.mark.parametrize(("step", "first"), [(3.0, 1.0), (-3.0, 13.0)])
def test_larger_voxels_blur_by_a_gaussian_of_half_what_they_are_larger(step: float, first: float):
    """A voxel of 15, three of which go into one of the target: a standard deviation of one voxel."""
    array, source = line([0] * 7 + [1] + [0] * 7)
    _, target = line([0] * 5, step, first)
    result = resample_aligned(array, source, target, "linear")[0, 0]
    curve = np.exp(-0.5 * np.array([6.0, 3, 0, 3, 6]) ** 2)
    np.testing.assert_allclose(result, curve / np.exp(-0.5 * np.arange(-4, 5) ** 2).sum(), atol=2e-4)


def test_larger_voxels_keep_a_constant_image_up_to_its_border():
    array, source = line([7] * 9)
    _, target = line([0] * 3, step=3.0, first=1.0)
    np.testing.assert_allclose(resample_aligned(array, source, target, "linear"), 7, rtol=1e-6)


def test_axes_that_are_turned_a_little_are_refused():
    """By a hundredth of a voxel at the end of the grid."""
    array, source = line([0] * 11)
    affine = source.affine.copy()
    affine[1, 0] = 0.001
    with pytest.raises(GeometryError, match="do not share their axes"):
        resample_aligned(array, source, Grid(source.shape, affine), "nearest")


def test_other_axes_are_refused():
    with pytest.raises(GeometryError, match="do not share their axes"):
        resample_aligned(np.zeros((11, 24, 20)), oblique_grid(seed=3), oblique_grid(seed=4), "linear")


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    new=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    seed=st.integers(0, 1000),
    orientation=st.sampled_from(["native", "flip", "lps"]),
)
def test_any_grid_stays_within_the_values_of_its_source(shape, spacing, new, seed, orientation):
    affine = np.eye(4)
    affine[:3, :3] = rotation(seed) * np.array(spacing)
    source = Grid(shape, affine)
    array = np.random.default_rng(seed).random(shape).astype(np.float32)
    target = working_grid(source, new, orientation)
    result = resample_aligned(array, source, target, "linear")
    assert result.shape == target.shape
    assert result.min() >= array.min() - 1e-5 and result.max() <= array.max() + 1e-5
    assert resample_aligned(result, target, source, "nearest").shape == shape


def test_slices_lie_across_the_longest_voxel_sides_whatever_way_they_point():
    # Storage (k, j, i): k towards L in steps of 8 mm (thick sagittal slices), j towards S, i towards A.
    affine = np.array([[0.0, 0, 8, 10], [-1, 0, 0, 20], [0, 1, 0, 30], [0, 0, 0, 1]])
    grid = working_grid(Grid((5, 6, 7), affine), None, "slices")
    assert grid.shape == (5, 6, 7)
    np.testing.assert_allclose(grid.affine[:3, 2], [8, 0, 0])  # k: the slices, towards L
    np.testing.assert_allclose(grid.affine[:3, 1], [0, 0, 1])  # j: towards S
    np.testing.assert_allclose(grid.affine[:3, 0], [0, 1, 0])  # i: towards P


def test_without_thick_slices_they_are_axial():
    affine = np.array([[0.0, 0, 1.4, 10], [-1, 0, 0, 20], [0, 1, 0, 30], [0, 0, 0, 1]])
    source = Grid((5, 6, 7), affine)
    grid, axial = working_grid(source, None, "slices"), working_grid(source, None, "lps")
    assert grid.shape == axial.shape == (6, 7, 5)
    np.testing.assert_array_equal(grid.affine, axial.affine)


def test_slices_are_thick_beside_both_sides_of_their_voxels():
    """A coronal stack of 3.1 mm whose voxels are 3 mm long in one direction is not one of thick slices."""
    affine = np.array([[1.0, 0, 0, 0], [0, 0, 3.1, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    assert working_grid(Grid((4, 5, 6), affine), None, "slices").shape == (5, 4, 6)
