from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from CrossModalSegLib.errors import GeometryError, InputError, LabelError
from CrossModalSegLib.volume import (
    Volume,
    place_on_grid,
    require_same_geometry,
    resample_like,
    resample_orthogonal,
    resample_scribbles,
    same_geometry,
    volume_from_itk,
    volume_to_itk,
)
from grids import grid_affine, rotation

angles = st.tuples(*[st.floats(-np.pi, np.pi)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6.0)] * 3)
origins = st.tuples(*[st.floats(-800, 800)] * 3)
shapes = st.tuples(*[st.integers(1, 7)] * 3)
affines = st.builds(grid_affine, spacings, angles, origins)


@st.composite
def volumes(draw: st.DrawFn, dtype: type = np.float32) -> Volume:
    shape = draw(shapes)
    seed = draw(st.integers(0, 2**31))
    values = np.random.default_rng(seed).integers(-100, 100, size=shape)
    return Volume(values.astype(dtype), draw(affines))


@st.composite
def scribbles(draw: st.DrawFn) -> Volume:
    array = draw(hnp.arrays(np.uint8, shapes, elements=st.sampled_from([255, 255, 255, 0, 1, 2, 3, 254])))
    return Volume(array, draw(affines))


def box(shape=(2, 3, 4), dtype=np.int16, spacing_ijk=(1, 1, 1)) -> Volume:
    affine = np.diag([*map(float, spacing_ijk), 1.0])
    return Volume(np.arange(np.prod(shape)).reshape(shape).astype(dtype), affine)


# --- the class ---------------------------------------------------------------------------------------------------


def test_properties_have_the_documented_axis_order():
    affine = np.diag([0.5, 2.0, 4.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    volume = Volume(np.zeros((2, 3, 5)), affine)
    assert volume.shape == (2, 3, 5)
    assert volume.spacing == (4.0, 2.0, 0.5)
    assert volume.origin == (10.0, 20.0, 30.0)
    assert np.array_equal(volume.direction, np.eye(3))
    assert volume.voxel_ml == pytest.approx(0.004)


def test_a_left_handed_grid_has_a_positive_voxel_volume():
    assert Volume(np.zeros((1, 1, 1)), np.diag([-1.0, 2, 3, 1])).voxel_ml == pytest.approx(0.006)


def test_affine_is_a_read_only_copy():
    affine = np.eye(4)
    volume = Volume(np.zeros((1, 1, 1)), affine)
    affine[0, 0] = 7
    assert volume.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 7


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2)), "3D array .* got 2 dimensions"),
        (np.zeros((2, 2, 2, 2)), "got 4 dimensions"),
        (np.zeros((2, 0, 2)), "at least one voxel along each axis"),
        (np.zeros((2, 2, 2), complex), "real numbers, got the type complex128"),
        (np.full((2, 2, 2), "x"), "real numbers"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str):
    with pytest.raises(InputError, match=message):
        Volume(array, np.eye(4))


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), r"4 by 4 matrix was expected as affine, got the shape \(3, 3\)"),
        (np.diag([1, 1, np.nan, 1]), "NaN or infinite"),
        (np.diag([1, 1, 0, 1]), "not invertible"),
        (np.diag([1e300, 1e-300, 1, 1]), "not invertible"),
        ([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "two axes point the same way"),
        ([[1, 1, 0, 0], [0, 1e-8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "two axes point the same way"),
        (np.eye(4) + np.eye(4)[:, ::-1][3] * np.eye(4)[3][:, None], "last row"),
        ("nonsense", "4 by 4 matrix of numbers"),
    ],
)
def test_bad_affines(affine: object, message: str):
    with pytest.raises(GeometryError, match=message):
        Volume(np.zeros((2, 2, 2)), affine)


def test_with_array_checks_the_shape():
    with pytest.raises(InputError, match=r"shape \(2, 3, 4\) was expected for this grid, got \(2, 3, 5\)"):
        box().with_array(np.zeros((2, 3, 5)))


# --- SimpleITK ---------------------------------------------------------------------------------------------------


@given(volumes())
def test_itk_round_trip(volume: Volume):
    back = volume_from_itk(volume_to_itk(volume))
    assert same_geometry(volume, back, 1e-6)
    assert np.array_equal(back.array, volume.array)
    assert back.array.dtype == volume.array.dtype


@given(volumes(), st.data())
def test_affine_is_where_itk_says_a_voxel_is(volume: Volume, data: st.DataObject):
    index = [data.draw(st.integers(0, n - 1)) for n in volume.shape[::-1]]
    expected = volume_to_itk(volume).TransformIndexToPhysicalPoint(index)
    assert (volume.affine @ [*index, 1])[:3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (bool, np.uint8),
        (np.float16, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.float64),
        (np.int64, np.int64),
        (">i2", np.int16),
        (np.uint8, np.uint8),
    ],
)
def test_dtypes_that_itk_lacks_are_widened(dtype: object, expected: type):
    volume = Volume(np.arange(8).reshape(2, 2, 2).astype(dtype), np.eye(4))
    back = volume_from_itk(volume_to_itk(volume)).array
    assert back.dtype == expected
    assert np.array_equal(back, volume.array)


def test_itk_images_of_other_dimensions_are_refused():
    with pytest.raises(InputError, match="3D image with one value per voxel was expected, got 2D"):
        volume_from_itk(sitk.Image(2, 2, sitk.sitkUInt8))
    with pytest.raises(InputError, match="got 3D with 3"):
        volume_from_itk(sitk.Image([2, 2, 2], sitk.sitkVectorUInt8, 3))


# --- comparing grids ---------------------------------------------------------------------------------------------


@given(volumes())
def test_same_geometry_is_reflexive_and_ignores_values(volume: Volume):
    assert same_geometry(volume, volume.with_array(volume.array + 1))


@given(volumes(), st.floats(0, 0.009), angles)
def test_same_geometry_tolerates_small_shifts_and_is_symmetric(volume: Volume, length: float, turn: tuple):
    affine = volume.affine.copy()
    affine[:3, 3] += rotation(*turn) @ (length, 0, 0)
    moved = Volume(volume.array, affine)
    assert same_geometry(volume, moved)
    assert same_geometry(moved, volume)


@given(volumes(), st.floats(0.02, 100), angles)
def test_same_geometry_sees_shifts(volume: Volume, length: float, turn: tuple):
    affine = volume.affine.copy()
    affine[:3, 3] += rotation(*turn) @ (length, 0, 0)
    assert not same_geometry(volume, Volume(volume.array, affine))


def test_same_geometry_sees_a_small_error_of_spacing_at_the_far_corner():
    a = Volume(np.zeros((2, 2, 200)), np.eye(4))
    b = Volume(np.zeros((2, 2, 200)), np.diag([1.0001, 1, 1, 1]))
    assert not same_geometry(a, b)  # 199 * 0.0001 = 0.0199 mm


def test_same_geometry_sees_a_flip_of_axes():
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 3
    assert not same_geometry(box(), Volume(box().array, flipped))


def test_require_same_geometry_names_both_and_offers_help():
    require_same_geometry(ct=box(), mr=box())
    with pytest.raises(
        GeometryError, match=r"'ct' and 'mr' should share one grid.*\(2, 3, 4\).*\(2, 3, 5\).*--resample"
    ):
        require_same_geometry(ct=box(), mr=box((2, 3, 5)))


# --- resampling --------------------------------------------------------------------------------------------------


@given(volumes(), st.sampled_from(["linear", "nearest"]))
def test_resampling_on_the_own_grid_changes_nothing(volume: Volume, interpolation: str):
    result = resample_like(volume, volume, interpolation)
    assert np.allclose(result.array, volume.array, atol=1e-3)
    assert same_geometry(result, volume, 1e-9)


@given(affines, shapes, st.tuples(*[st.floats(-2, 2)] * 4), st.data())
def test_linear_interpolation_is_exact_on_a_linear_field(
    affine: np.ndarray, shape: tuple, field: tuple, data: st.DataObject
):
    """A field a·x + b, sampled at points inside of the grid, must give a·x + b."""
    shape = tuple(n + 1 for n in shape)
    grid = Volume(np.zeros(shape), affine)
    volume = grid.with_array(_field(grid, field))
    inner = affine.copy()
    inner[:3, 3] += affine[:3, :3] @ [data.draw(st.floats(0, 0.99)) for _ in range(3)]
    like = Volume(np.zeros(tuple(n - 1 for n in shape)), inner)
    result = resample_like(volume, like)
    assert np.allclose(result.array, _field(like, field), atol=1e-5 * (1 + np.abs(volume.array).max()))


def _field(grid: Volume, field: tuple) -> np.ndarray:
    k, j, i = np.indices(grid.shape)
    x, y, z, _ = np.tensordot(grid.affine, np.stack([i, j, k, np.ones_like(i)]), axes=1)
    return field[0] * x + field[1] * y + field[2] * z + field[3]


@pytest.mark.parametrize("angle", [1e-300, 5e-324, 1e-160, 1e-17])
def test_axes_that_are_all_but_parallel_to_the_world(angle: float, capfd: pytest.CaptureFixture[str]):
    """ITK's singular value decomposition fails on such tiny components, and its inverse is then wrong."""
    volume = Volume(box().array, grid_affine((1, 2, 3), (angle, angle, -angle), (0, 0, 0)))
    assert np.array_equal(resample_like(volume, volume).array, volume.array)
    assert np.array_equal(volume_from_itk(volume_to_itk(volume)).array, volume.array)
    assert "suspicious" not in "".join(capfd.readouterr())


def test_outside_is_the_minimum_unless_told():
    volume = box(dtype=np.int16).with_array(np.full((2, 3, 4), 7, np.int16) - np.eye(4, dtype=np.int16)[:3])
    far = Volume(np.zeros((1, 1, 1)), grid_affine((1, 1, 1), (0, 0, 0), (500, 0, 0)))
    assert resample_like(volume, far).array.item() == 6
    assert resample_like(volume, far, fill=-1000).array.item() == -1000


def test_resampling_keeps_the_dtype_and_rounds():
    volume = Volume(np.array([[[0, 3]]], np.int16), np.eye(4))
    like = Volume(np.zeros((1, 1, 1)), grid_affine((1, 1, 1), (0, 0, 0), (0.55, 0, 0)))
    result = resample_like(volume, like)
    assert result.array.dtype == np.int16
    assert result.array.item() == 2  # 1.65


def test_large_integers_are_interpolated_exactly():
    volume = Volume(np.full((1, 1, 2), 2**24 + 1, np.int32), np.eye(4))  # float32 would give 2**24
    assert resample_like(volume, volume).array.ravel().tolist() == [2**24 + 1, 2**24 + 1]


def test_resampling_a_bool_mask_gives_a_bool_mask():
    volume = Volume(np.ones((2, 2, 2), bool), np.eye(4))
    assert resample_like(volume, volume, "nearest").array.dtype == bool


def test_nearest_never_invents_values(oblique_volume: Volume):
    labels = oblique_volume.with_array((np.abs(oblique_volume.array) * 3).astype(np.uint8) * 7)
    result = resample_like(labels, box((6, 6, 6)), "nearest", fill=0)
    assert set(np.unique(result.array)) <= set(np.unique(labels.array)) | {0}


def test_bad_interpolation_and_fill():
    with pytest.raises(InputError, match="'linear' or 'nearest', got 'cubic'"):
        resample_like(box(), box(), "cubic")
    with pytest.raises(InputError, match="fill value -1000 does not fit the type uint8"):
        resample_like(box(dtype=np.uint8), box(), fill=-1000)
    with pytest.raises(InputError, match="fill value -40000 does not fit the type int16"):
        resample_like(box(dtype=np.int16), box(), fill=-40000)


@given(affines, st.floats(-0.5, 0.5))
def test_a_tilted_gantry_becomes_orthogonal(affine: np.ndarray, tilt: float):
    sheared = affine.copy()
    sheared[:3, 2] += sheared[:3, 1] / np.linalg.norm(sheared[:3, 1]) * np.tan(tilt) * np.linalg.norm(sheared[:3, 2])
    grid = Volume(np.zeros((4, 6, 5)), sheared)
    field = (0.5, -1.0, 0.25, 3.0)
    volume = grid.with_array(_field(grid, field))
    result = resample_orthogonal(volume)
    # A shear of less than a hundred-thousandth counts for none.
    assert np.allclose(result.direction.T @ result.direction, np.eye(3), atol=5e-5)
    assert np.allclose(result.affine[:3, 0], sheared[:3, 0])
    inside = resample_like(grid.with_array(np.ones(grid.shape)), result, fill=0).array > 0
    centres = resample_like(result, grid)
    assert inside.any()
    assert np.isfinite(centres.array).all()
    back = result.with_array(_field(result, field)).array - result.array
    interior = resample_like(grid.with_array(_interior(grid.shape)), result, "nearest", fill=0).array > 0
    assert np.allclose(back[interior], 0, atol=1e-3)


def _interior(shape: tuple) -> np.ndarray:
    array = np.zeros(shape)
    array[1:-1, 1:-1, 1:-1] = 1
    return array


def test_a_tilted_gantry_by_hand():
    """Slices 2 mm apart, each 1 mm lower along j than the one before: rows 0 to 1 of slice 2 are rows -2 to -1."""
    affine = np.eye(4)
    affine[:3, 2] = (0, -1, 2)
    affine[:3, 3] = (10, 20, 30)
    result = resample_orthogonal(Volume(np.array([[[1], [2]], [[3], [4]], [[5], [6]]], np.int16), affine))
    assert result.spacing == (2, 1, 1)
    assert result.origin == (10, 18, 30)
    assert result.array[:, :, 0].tolist() == [[1, 1, 1, 2], [1, 3, 4, 1], [5, 6, 1, 1]]


def test_a_tilted_gantry_loses_no_corner():
    affine = np.eye(4)
    affine[1, 2] = 0.5  # the second slice has rows 0.5 and 1.5
    assert resample_orthogonal(Volume(np.zeros((2, 2, 1)), affine)).shape == (2, 3, 1)


@given(volumes(), st.booleans())
def test_an_orthogonal_volume_is_left_alone_by_it(volume: Volume, mirrored: bool):
    if mirrored:
        volume = Volume(volume.array, volume.affine @ np.diag([1, 1, -1, 1]))
    assert resample_orthogonal(volume) is volume


# --- scribbles ---------------------------------------------------------------------------------------------------


def _centre(volume: Volume) -> np.ndarray:
    return (volume.affine @ [*((np.asarray(volume.shape[::-1]) - 1) / 2), 1])[:3]


@given(scribbles(), spacings, angles, shapes, st.tuples(*[st.floats(-2, 2)] * 3))
def test_no_scribbled_voxel_inside_is_ever_lost(
    source: Volume, spacing: tuple, turn: tuple, shape: tuple, shift: tuple
):
    """Of every scribbled voxel whose centre is inside, the nearest target voxel is at least as strongly labelled."""
    affine = grid_affine(spacing, turn, (0, 0, 0))
    affine[:3, 3] = _centre(source) + shift - affine[:3, :3] @ ((np.asarray(shape[::-1]) - 1) / 2)
    like = Volume(np.zeros(shape), affine)
    index = np.argwhere(source.array != 255)[:, ::-1]
    position = (index @ source.affine[:3, :3].T + source.affine[:3, 3] - affine[:3, 3]) @ np.linalg.inv(
        affine[:3, :3]
    ).T
    size = np.asarray(shape[::-1])
    inside = ((position > -0.5) & (position < size - 0.5)).all(axis=1)
    assume(inside.any())
    result = resample_scribbles(source, like)
    assert result.array.dtype == np.uint8
    nearest = np.clip(np.floor(position[inside] + 0.5).astype(int), 0, size - 1)
    landed = result.array[tuple(nearest.T[::-1])]
    values = source.array[tuple(index[inside].T[::-1])]
    assert (landed != 255).all()
    assert (landed[values != 0] != 0).all()
    assert (landed[values != 0] <= values[values != 0]).all()
    assert set(np.unique(result.array)) <= set(np.unique(source.array)) | {255}


@given(scribbles())
def test_scribbles_on_their_own_grid_stay(source: Volume):
    assert np.array_equal(resample_scribbles(source, source).array, source.array)


@given(scribbles(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_scribbles_survive_reorientation_voxel_for_voxel(source: Volume, order: list, flips: tuple):
    """The same voxels in another memory order: nothing is lost or doubled."""
    affine = source.affine.copy()
    array = source.array
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[2 - axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, 2 - axis)
    affine[:3, :3] = affine[:3, :3][:, order]
    array = array.transpose([2 - order[2 - axis] for axis in range(3)])
    assume((source.array != 255).any())
    result = resample_scribbles(source, Volume(np.zeros(array.shape), affine))
    assert np.array_equal(result.array, array)


def test_ties_on_a_coarse_grid():
    fine = Volume(np.array([[[0, 2, 255, 255, 3, 1, 0, 255]]], np.uint8), np.eye(4))
    coarse = Volume(np.zeros((1, 1, 4)), grid_affine((2, 1, 1), (0, 0, 0), (0.5, 0, 0)))
    assert resample_scribbles(fine, coarse).array.ravel().tolist() == [2, 255, 1, 0]


@pytest.mark.parametrize(("place", "voxel"), [(0.5, 1), (0.5 - 1e-9, 1), (1.5 + 5e-5, 1), (-0.5 - 5e-5, 0)])
def test_rounding_errors_of_affines_move_no_stroke(place: float, voxel: int):
    """Half-way goes up, and just outside of the grid is its outermost voxel."""
    stroke = Volume(np.ones((1, 1, 1), np.uint8), grid_affine((1, 1, 1), (0, 0, 0), (place, 0, 0)))
    result = resample_scribbles(stroke, Volume(np.zeros((1, 1, 2)), np.eye(4)))
    assert np.argwhere(result.array == 1).tolist() == [[0, 0, voxel]]


def test_without_any_stroke_no_grid_is_wrong():
    nothing = Volume(np.full((2, 2, 2), 255, np.uint8), np.eye(4))
    far = Volume(np.zeros((1, 1, 3)), grid_affine((1, 1, 1), (0, 0, 0), (500, 0, 0)))
    assert resample_scribbles(nothing, far).array.tolist() == [[[255, 255, 255]]]


def test_a_stroke_thinner_than_a_slice_survives():
    """A one-voxel stroke across thin slices is not lost on thick ones that nearest neighbour would skip."""
    thin = np.full((20, 4, 4), 255, np.uint8)
    thin[3] = 1
    coarse = Volume(np.zeros((4, 4, 4)), grid_affine((1, 1, 5), (0, 0, 0), (0, 0, 0)))
    source = Volume(thin, np.eye(4))
    assert (resample_like(source, coarse, "nearest", fill=255).array == 255).all()
    assert (resample_scribbles(source, coarse).array[1] == 1).all()


def test_scribbles_of_another_patient_are_refused():
    source = Volume(np.ones((2, 2, 2), np.uint8), np.eye(4))
    far = Volume(np.zeros((2, 2, 2)), grid_affine((1, 1, 1), (0, 0, 0), (500, 0, 0)))
    with pytest.raises(GeometryError, match="No scribble lies inside of the image.*drawn on another image"):
        resample_scribbles(source, far)


def test_scribbles_must_be_internal():
    with pytest.raises(LabelError, match="uint8 in the internal convention, got int16"):
        resample_scribbles(box(), box())


# --- cropped boxes -----------------------------------------------------------------------------------------------


@given(affines, shapes, st.data())
def test_a_cropped_box_goes_back_exactly(affine: np.ndarray, shape: tuple, data: st.DataObject):
    array = np.zeros(shape, np.uint8)
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    high = [data.draw(st.integers(a + 1, n)) for a, n in zip(low, shape, strict=True)]
    box_slices = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    array[box_slices] = (
        1 + np.arange(np.prod([b - a for a, b in zip(low, high, strict=True)])).reshape(array[box_slices].shape) % 9
    )
    full = Volume(array, affine)
    cropped_affine = affine.copy()
    cropped_affine[:3, 3] += affine[:3, :3] @ low[::-1]
    placed = place_on_grid(Volume(array[box_slices], cropped_affine), full)
    assert placed is not None
    assert np.array_equal(placed.array, array)


def test_a_placed_box_keeps_its_type_and_fills_the_rest():
    stroke = Volume(np.array([[[1, 255]]], np.uint8), grid_affine((1, 1, 1), (0, 0, 0), (1, 0, 0)))
    placed = place_on_grid(stroke, Volume(np.zeros((1, 1, 4), np.float32), np.eye(4)), fill=255)
    assert placed.array.dtype == np.uint8
    assert placed.array.tolist() == [[[255, 1, 255, 255]]]


def test_boxes_that_do_not_coincide_are_not_placed():
    full = box((4, 4, 4))
    half = Volume(np.ones((2, 2, 2), np.uint8), grid_affine((1, 1, 1), (0, 0, 0), (0.5, 0, 0)))
    outside = Volume(np.ones((2, 2, 2), np.uint8), grid_affine((1, 1, 1), (0, 0, 0), (3, 0, 0)))
    apart = Volume(np.zeros((2, 2, 2), np.uint8), grid_affine((1, 1, 1), (0, 0, 0), (9, 9, 9)))
    assert place_on_grid(half, full) is None
    assert place_on_grid(outside, full) is None
    assert not place_on_grid(apart, full).array.any()
