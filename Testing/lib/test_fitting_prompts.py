"""Prompt maps, regions, judging: hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from CrossModalSegLib.errors import LabelError
from CrossModalSegLib.fitting.judge import split_scribbles
from CrossModalSegLib.fitting.prompted import longest_views, pad_to_multiple, two_images, view_scales
from CrossModalSegLib.fitting.prompts import PROMPT_CHANNELS, intensity_posterior, prompt_maps
from CrossModalSegLib.fitting.regions import (
    absent_slices,
    class_box,
    drawn_across,
    largest_stroke_mm,
    scribbled_box,
    scribbled_slices,
    slice_gap_mm,
)
from CrossModalSegLib.fitting.working_case import honour_scribbles, working_spacing


def scribbles_of(shape: tuple[int, int, int], **voxels: list[tuple[int, int, int]]) -> np.ndarray:
    array = np.full(shape, 255, np.uint8)
    for name, places in voxels.items():
        for place in places:
            array[place] = int(name[1:])
    return array


def test_prompt_maps_tell_the_class_from_everything_else():
    scribbles = scribbles_of((1, 2, 4), v0=[(0, 0, 0)], v1=[(0, 0, 1)], v2=[(0, 1, 3)])
    maps = prompt_maps(np.zeros((1, 1, 2, 4), np.float32), scribbles, 1, (3.0, 1.0, 1.0))
    assert maps.shape == (PROMPT_CHANNELS, 1, 2, 4) and maps.dtype == np.float32
    assert np.argwhere(maps[0]).tolist() == [[0, 0, 1]]
    assert np.argwhere(maps[1]).tolist() == [[0, 0, 0], [0, 1, 3]]


def test_intensities_like_the_scribbles_are_likely():
    image = np.array([[[0.1, 0.1, 0.9, 0.9]]], np.float32)
    inside = np.array([[[False, False, False, True]]])
    outside = np.array([[[True, False, False, False]]])
    posterior = intensity_posterior(image[None], inside, outside)[0, 0]
    assert posterior[2] == posterior[3] > 0.9
    assert posterior[1] == posterior[0] < 0.1


def test_two_images_that_are_one_say_no_more_than_one():
    image = np.array([[[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]], np.float32)
    inside = np.array([[[True, True, True, False, False, False]]])
    one, two = (intensity_posterior(np.stack([image] * count), inside, ~inside) for count in (1, 2))
    assert 0.6 < one[0, 0, 0] < 0.7
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_intensity_says_nothing_without_scribbles_of_both_sides():
    nothing = np.zeros((1, 1, 4), bool)
    image = np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 1, 1, 4)
    assert np.array_equal(intensity_posterior(image, nothing, ~nothing), np.full((1, 1, 4), 0.5, np.float32))


def test_class_box_has_its_margin_in_millimetres():
    scribbles = scribbles_of((64, 100, 100), v1=[(30, 50, 50)], v0=[(20, 0, 0)])
    box = class_box(scribbles, 1, (5.0, 1.0, 2.0))
    assert [(s.start, s.stop) for s in box] == [(20, 41), (15, 86), (32, 69)]


@given(
    place=st.tuples(st.integers(0, 36), st.integers(0, 49), st.integers(0, 20)),
    spacing=st.tuples(*[st.floats(0.5, 9.0)] * 3),
)
def test_class_box_holds_the_scribble_and_lies_in_the_volume(place, spacing):
    scribbles = scribbles_of((37, 50, 21), v3=[place])
    for side, at, size in zip(class_box(scribbles, 3, spacing), place, scribbles.shape, strict=True):
        assert 0 <= side.start <= at < side.stop <= size


@pytest.mark.parametrize(
    ("axis", "planes", "spacing", "expected"),
    [
        (0, (2, 14), (2, 1, 1), 0),
        (1, (2, 27), (2, 1, 1), 1),
        (2, (2, 27), (2, 1, 1), 2),
        (2, (13,), (2, 1, 1), 2),  # a single plane is far from any other
        (2, (2, 12, 22), (2, 1, 1), 0),  # close together
        (2, (2, 12, 22), (1, 1, 1), 2),  # close together, in planes that are no coarser
        (2, (2, 27), (5, 1, 1), 0),  # thick slices
        (1, (2, 27), (2, 1, 5), 0),
    ],
)
def test_strokes_far_apart_in_other_planes_are_found(axis, planes, spacing, expected):
    scribbles = scribbles_of((30, 30, 30))
    for plane in planes:
        np.moveaxis(scribbles, axis, 0)[plane, 5:12, 5:12] = 1
        np.moveaxis(scribbles, axis, 0)[plane, 20, 3:27] = 0
    assert drawn_across(scribbles, spacing) == expected


def test_strokes_in_no_planes_or_in_all_are_left_as_they_lie():
    dots = scribbles_of((30, 30, 30), v0=[(3, 3, 3), (25, 28, 4)], v1=[(9, 5, 7), (20, 9, 29)])
    assert drawn_across(dots, (1, 1, 1)) == 0
    every = scribbles_of((30, 30, 30))
    every[:, 10:12, 5:20] = 1
    every[:, 20, 5:20] = 0
    assert drawn_across(every, (1, 1, 1)) == 0


def test_a_class_without_scribble_is_named():
    with pytest.raises(LabelError, match="Class 2 has no scribble: draw a stroke"):
        class_box(scribbles_of((4, 4, 4), v1=[(0, 0, 0)]), 2, (1, 1, 1))
    with pytest.raises(LabelError, match="no scribble on any class"):
        scribbled_box(scribbles_of((4, 4, 4), v0=[(0, 0, 0)]), (1, 1, 1))


def test_held_out_slices_are_whole_and_leave_every_class_two_slices():
    voxels = {f"v{value}": [(k, value, value) for k in range(0, 20, 2)] for value in (0, 1)}
    scribbles = scribbles_of((20, 8, 8), **voxels, v2=[(4, 5, 5), (6, 5, 5)])
    judge = split_scribbles(scribbles, 0.3, np.random.default_rng(0))
    held = scribbled_slices(judge.held_out)
    assert len(held) == 3 and not {4, 6} & set(held.tolist())
    assert not set(held.tolist()) & set(scribbled_slices(judge.shown).tolist())
    assert np.array_equal(np.minimum(judge.shown, judge.held_out), scribbles)


def test_too_few_slices_are_all_shown():
    scribbles = scribbles_of((9, 4, 4), v0=[(0, 0, 0), (4, 0, 0)], v1=[(0, 1, 1), (4, 1, 1)])
    judge = split_scribbles(scribbles, 0.5, np.random.default_rng(0))
    assert np.array_equal(judge.shown, scribbles) and not judge.can_judge
    assert judge.agreement(np.zeros((2, 9, 4, 4), np.float32)) is None


def test_agreement_is_the_soft_dice_of_held_out_voxels():
    voxels = {"v0": [(k, 0, 0) for k in range(5)], "v1": [(k, 1, 1) for k in range(5)]}
    judge = split_scribbles(scribbles_of((5, 2, 2), **voxels), 0.2, np.random.default_rng(0))
    probabilities = np.zeros((2, 5, 2, 2), np.float32)
    probabilities[1, :, 1, 1] = 0.5
    probabilities[1, :, 0, 0] = 0.25
    assert judge.agreement(probabilities) == pytest.approx(2 * 0.5 / (0.5 + 0.25 + 1))


def test_scribbled_voxels_keep_the_class_the_user_said():
    scribbles = scribbles_of((1, 1, 3), v0=[(0, 0, 0)], v2=[(0, 0, 2)])
    honoured = np.full((3, 1, 1, 3), 1 / 3, np.float32)
    honour_scribbles(honoured, scribbles)
    assert honoured[:, 0, 0, 0].tolist() == [1, 0, 0]
    assert honoured[:, 0, 0, 2].tolist() == [0, 0, 1]
    assert honoured[:, 0, 0, 1] == pytest.approx([1 / 3] * 3)


def test_one_image_goes_into_both_branches_and_two_stay():
    one = np.zeros((1, 2, 2, 2), np.float32)
    two = np.zeros((2, 2, 2, 2), np.float32)
    assert two_images(one).shape == (2, 2, 2, 2)
    assert two_images(two) is two


def test_padding_repeats_the_edge_or_fills():
    array = np.arange(3).reshape(1, 1, 3)
    assert pad_to_multiple(array, 2).shape == (2, 2, 4)
    assert pad_to_multiple(array, 2)[0, 0].tolist() == [0, 1, 2, 2]
    assert pad_to_multiple(array, 2, 255)[0, 0].tolist() == [0, 1, 2, 255]
    assert pad_to_multiple(np.zeros((16, 16, 16)), 16).shape == (16, 16, 32)


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        ((3.0, 1.0, 1.0), (50, 200, 200), (3.0, 1.4, 1.4)),
        ((1.0, 1.0, 1.0), (50, 300, 300), (2.5, 1.4, 1.4)),
        ((5.0, 2.0, 2.0), (20, 100, 100), (5.0, 2.0, 2.0)),
        ((1.0, 1.0, 1.0), (64, 64, 64), (2.5 / 1.4**2, 1.0, 1.0)),
        ((0.5, 0.5, 0.5), (64, 64, 64), (0.5, 0.5, 0.5)),
    ],
)
def test_the_working_spacing_is_never_finer_than_the_case(spacing, shape, expected):
    assert working_spacing(spacing, shape) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "largest_mm", "in_plane"),
    [
        ((100, 300, 300), 20.0, 1.4),
        ((100, 300, 300), 14.0, 1.0),
        ((100, 300, 300), 8.4, 0.6),
        ((50, 300, 300), 2.0, 1.4 / 3),  # a third at least
        ((500, 900, 900), 2.0, 1.4),  # as fine as leaves room: too many voxels
        ((300, 600, 600), 2.0, 1.4 - 2 / 8 * (1.4 - 1.4 / 3)),
        ((100, 150, 300), 2.0, 75 / 64 / 3),  # a third of what suits the region
    ],
)
def test_small_structures_are_worked_on_at_finer_voxels(shape, largest_mm, in_plane):
    expected = np.maximum((2.5 * (in_plane / 1.4) ** 2, in_plane, in_plane), max(in_plane, 0.5))
    assert working_spacing((0.5, 0.5, 0.5), shape, largest_mm) == pytest.approx(expected)
    assert working_spacing((3.0, 1.5, 1.6), shape, largest_mm) == (3.0, 1.5, 1.6)


def test_the_largest_stroke_is_that_of_the_class_that_spans_most():
    scribbles = scribbles_of((9, 30, 30), v0=[(0, 0, 0), (8, 29, 29)], v1=[(1, 3, 4), (7, 5, 4)], v2=[(2, 10, 9)])
    assert largest_stroke_mm(scribbles, (2.0, 0.5, 2.0)) == 2.0  # two voxels apart along j are less than one along i
    assert largest_stroke_mm(scribbles, (2.0, 1.0, 2.0)) == 3.0
    assert largest_stroke_mm(scribbles, (2.0, 1.0, 2.0), {1: 2.5}) == 2.5  # one that is thinner than long
    assert largest_stroke_mm(scribbles, (2.0, 1.0, 2.0), {1: 9.0, 2: 0.5}) == 3.0


def test_the_box_grows_to_the_nearest_background_stroke():
    scribbles = scribbles_of((4, 300, 300), v1=[(1, 20, 20)], v0=[(1, 200, 20), (3, 299, 299)])
    box = scribbled_box(scribbles, (3.0, 1.0, 1.0))
    assert (scribbles[box] == 0).sum() == 1
    assert box[1] == slice(0, 201)


def test_the_gap_of_scribbled_slices_is_the_median_in_millimetres():
    scribbles = scribbles_of((30, 4, 4), v1=[(2, 0, 0), (8, 0, 0), (14, 0, 0)], v0=[(29, 0, 0)])
    assert slice_gap_mm(scribbles, (3.0, 1.0, 1.0)) == 18.0
    assert slice_gap_mm(scribbles_of((30, 4, 4), v1=[(2, 0, 0)]), (3.0, 1.0, 1.0)) == 0.0


@pytest.mark.parametrize(
    ("slices", "scales"),
    [
        ([0, 2, 4], [0.5, 0.8]),  # 20 mm and closer
        ([0, 3, 6], [0.65, 1.05]),  # 30 mm
        ([0, 4, 8], [0.8, 1.3]),  # 40 mm and wider
        ([0, 9], [0.8, 1.3]),
        ([5], [0.8, 1.3]),  # all others are far from a single one
    ],
)
def test_views_are_fine_where_scribbled_slices_are_close(slices, scales):
    scribbles = scribbles_of((10, 4, 4), v1=[(k, 0, 0) for k in slices])
    assert view_scales(scribbles, (10.0, 1.0, 1.0)) == pytest.approx(scales)


def test_views_of_a_single_slice_are_fine():
    assert view_scales(scribbles_of((1, 4, 4), v1=[(0, 0, 0)]), (10.0, 1.0, 1.0)) == [0.5, 0.8]


@pytest.mark.parametrize(("between", "longest"), [(2, 20.0), (3, 50.0), (4, 80.0)])
def test_views_of_thin_classes_are_small_where_scribbled_slices_are_close(between, longest):
    scribbles = scribbles_of((10, 4, 4), v1=[(k, 0, 0) for k in (0, between, 2 * between)])
    assert longest_views(scribbles, (10.0, 1.0, 1.0), {1: 10.0, 3: 5.0}) == {1: longest, 3: longest / 2}


def drawn_on(**slices: list[int]) -> np.ndarray:
    """Twelve slices; v1=[2, 3] has a voxel of class 1 on the slices 2 and 3."""
    return scribbles_of((12, 4, 4), **{name: [(k, int(name[1:]), 0) for k in where] for name, where in slices.items()})


def test_a_class_is_absent_where_one_who_draws_all_there_is_did_not_draw_it():
    scribbles = drawn_on(v0=range(1, 11), v1=range(2, 9), v2=range(4, 10))
    absent = absent_slices(scribbles)
    assert absent[1].tolist() == [1, 9, 10]
    assert absent[2].tolist() == [1, 2, 3, 10]


def test_a_single_class_is_absent_where_only_background_was_drawn():
    assert absent_slices(drawn_on(v0=range(9), v1=range(2, 7)))[1].tolist() == [0, 1, 7, 8]


@pytest.mark.parametrize(
    "scribbles",
    [
        drawn_on(v0=range(7), v1=range(1, 5), v2=range(1, 5)),  # on four slices: they may be a sample
        drawn_on(v0=range(12), v1=[1, 2, 3, 5, 6], v2=range(1, 7)),  # left class 1 out on slice 4
        drawn_on(v0=range(12), v1=[1, 3, 5, 7, 9], v2=[1, 3, 5, 7, 9, 11]),  # on every other slice
        drawn_on(v0=range(12), v1=range(1, 4), v2=range(4, 8), v3=range(8, 11)),  # one after the other
        drawn_on(v0=range(12)),
    ],
)
def test_of_others_no_absence_is_known(scribbles):
    assert absent_slices(scribbles) == {}
