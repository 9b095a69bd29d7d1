"""Sessions: exact places on any grid, features that are kept and freed, stopping, and what cannot be used."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from referring_support import (
    ANGLES,
    CONFIG,
    FLIPS,
    ORDERS,
    SIZE,
    SPACINGS,
    TABLE,
    Follower,
    affine_of,
    card,
    follower,
    noise,
    reordered,
    saved_model,
    strokes,
    tiny_model,
)

from CrossModalSegLib.data.referring.slices import SlicePreprocessing, slice_frame
from CrossModalSegLib.errors import Cancelled, CrossModalSegError, GeometryError, InputError, LabelError, ModelError
from CrossModalSegLib.inference.model_folder import LoadedModel, load_model
from CrossModalSegLib.inference.referring import DEFAULT_MODEL, REFERENCE, ReferResult, ReferSession, refer_volumes
from CrossModalSegLib.inference.referring import session as sessions
from CrossModalSegLib.inference.referring.features import FEATURE_BYTES
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume, same_geometry
from grids import rotation

ONE = LabelTable.from_names(["bright"])


def dots(shape=(4, 16, 16), seed=0, affine=None) -> Volume:
    """Random bright voxels; each slice has the size of the network's masks, so answers can be exact."""
    bright = np.random.default_rng(seed).random(shape) < 0.4
    bright[:, 3:6, 3:6] = True
    return Volume(bright.astype(np.int16) * 1000, affine_of() if affine is None else affine)


def on_bright(like: Volume) -> Volume:
    """A stroke amid the bright square of the second slice."""
    array = np.full(like.shape, 255, np.uint8)
    array[1, 4, 4] = 1
    return like.with_array(array)


class Recorder:
    """A progress that remembers, and may ask to stop."""

    def __init__(self, cancel: CancelToken | None = None, at: int = 0) -> None:
        self.calls: list[tuple[int, int, str]] = []
        self._cancel, self._at = cancel, at

    def __call__(self, done, total, message="", values=None):
        self.calls.append((done, total, message))
        if self._cancel is not None and done == self._at:
            self._cancel.cancel()


# --- places -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(ORDERS, FLIPS, ORDERS, FLIPS, ANGLES, ANGLES, SPACINGS)
@example(
    (0, 1, 2), (True, True, True), (2, 0, 1), (False, True, False), (0.3, -0.2, 0.3), (0.0, 0.0, 0.0), (1.0, 1.0, 9)
)
def test_every_voxel_is_found_at_its_place(order, flips, target_order, target_flips, angles, target_angles, spacing):
    """Oblique, anisotropic, flipped and permuted volumes: not one voxel moves."""
    in_plane = spacing[0], spacing[0], spacing[2]
    reference = dots(affine=affine_of(in_plane, angles))
    target = dots((3, 16, 16), 1, affine_of((2.0, 2.0, 0.7), target_angles))
    given_reference = reordered(reference, order, flips)
    given_target = reordered(target, target_order, target_flips)
    scribbles = reordered(on_bright(reference), order, flips)
    result = refer_volumes(follower(), given_reference, scribbles, {"t": given_target}, ONE)
    for name, image in ((REFERENCE, given_reference), ("t", given_target)):
        found = result.segmentations[name]
        np.testing.assert_array_equal(found.array, image.array > 0)
        assert found.array.dtype == np.uint8
        np.testing.assert_array_equal(found.affine, image.affine)


def anisotropic() -> tuple[Volume, Volume]:
    """Anisotropic in-plane, of sizes that have to be padded and resampled."""
    return (
        noise((5, 20, 24), 0, affine_of((1.5, 1.1, 5.0), (0.1, 0.2, -0.1))),
        noise((4, 33, 18), 1, affine_of((1.0, 1.0, 6.0), (-0.2, 0.0, 0.2))),
    )


@cache
def answered_plainly() -> ReferResult:
    reference, target = anisotropic()
    return refer_volumes(
        tiny_model(), reference, strokes(reference), {"t": target}, TABLE, probabilities=True, precision="fp32"
    )


@settings(max_examples=5)
@given(ORDERS, FLIPS, ORDERS, FLIPS)
def test_the_storage_order_makes_no_difference_to_a_network(order, flips, target_order, target_flips):
    reference, target = anisotropic()
    plain = answered_plainly()
    turned = refer_volumes(
        tiny_model(),
        reordered(reference, order, flips),
        reordered(strokes(reference), order, flips),
        {"t": reordered(target, target_order, target_flips)},
        TABLE,
        probabilities=True,
        precision="fp32",
    )
    for name, how in ((REFERENCE, (order, flips)), ("t", (target_order, target_flips))):
        labels = plain.segmentations[name]
        expected = reordered(labels, *how)
        likely = np.stack([reordered(labels.with_array(each), *how).array for each in plain.probabilities[name]])
        np.testing.assert_allclose(turned.probabilities[name], likely, atol=1e-4)
        second, best = np.sort(likely, axis=0)[-2:]
        is_clear = best - second > 3e-4  # rounding may turn what is nearly a draw
        assert is_clear.mean() > 0.7 and expected.array.any()
        np.testing.assert_array_equal(turned.segmentations[name].array[is_clear], expected.array[is_clear])
        assert same_geometry(turned.segmentations[name], expected, 1e-9)


def short_axes(turn: float, shape=(5, 24, 24)) -> Volume:
    """Always the same voxels, in thick slices that are turned a little in their plane."""
    columns = np.stack([(1.0, 1.0, 0.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -2.0)], axis=1)
    affine = affine_of((1.5, 1.5, 8.0))
    affine[:3, :3] = columns / np.linalg.norm(columns, axis=0) @ rotation(0.0, 0.0, turn) * (1.5, 1.5, 8.0)
    return noise(shape, affine=affine)


def test_rows_and_columns_of_short_axes_are_those_of_the_reference():
    """On either side of 45 degrees a network saw target and reference turned or mirrored against each other."""
    prep = SlicePreprocessing(SIZE)
    turned, straight = (slice_frame(short_axes(turn), prep) for turn in (-0.1, 0.1))
    assert turned.turned_like(straight) is not turned
    likely = {}
    for turn in (-0.1, 0.1):
        reference = short_axes(0.1)
        result = refer_volumes(
            tiny_model(),
            reference,
            strokes(reference),
            {"t": short_axes(turn)},
            TABLE,
            probabilities=True,
            precision="fp32",
            slices="order",
        )
        likely[turn] = result.probabilities["t"]
    np.testing.assert_allclose(likely[-0.1], likely[0.1], atol=1e-3)


def test_targets_turn_with_each_new_reference():
    session = ReferSession(tiny_model())
    session.add_target("t", short_axes(-0.1))
    session.add_target("axial", noise())
    session.set_reference(short_axes(-0.1, (4, 24, 24)))
    assert session.encoded_slices == 5 + 5 + 4
    shown = Recorder()
    session.set_reference(short_axes(0.1, (4, 24, 24)), shown)
    assert session.encoded_slices == 14 + 4 + 5
    assert {message for _, _, message in shown.calls} == {"look at reference", "look at t"}
    kept = session.kept_bytes
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        session.set_reference(short_axes(-0.1, (4, 24, 24)), Recorder(cancel, 3), cancel)
    assert session.kept_bytes == kept
    session.remove_target("axial")
    encoded = session.encoded_slices
    session.refer(strokes(short_axes(0.1, (4, 24, 24))), TABLE)
    assert session.encoded_slices == encoded


def test_a_place_in_millimetres_survives_resampling():
    """A ball in the target lies within half a voxel of where it is, on a canvas much coarser than the image."""
    affine = affine_of((0.4, 0.6, 3.0), (0.2, -0.1, 0.3))
    j, i = np.meshgrid(np.arange(180), np.arange(220), indexing="ij")
    inside = np.repeat([((j - 100) * 0.6) ** 2 + ((i - 90) * 0.4) ** 2 < 22**2], 6, axis=0)
    target = Volume(inside * 900.0, affine)
    reference = dots()
    found = refer_volumes(follower(), reference, on_bright(reference), {"t": target}, ONE).segmentations["t"].array
    assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.97
    centres = [np.argwhere(each[2]).mean(axis=0) for each in (found, inside)]
    np.testing.assert_allclose(*centres, atol=0.5)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 16, 16)])
def test_volumes_of_one_slice_work(shape):
    reference = dots(shape, affine=affine_of())
    scribbles = np.full(shape, 255, np.uint8)
    scribbles[-1, 4, 4] = 1
    drawn, target = reference.with_array(scribbles), dots((1, 16, 16), 3)
    result = refer_volumes(follower(), reference, drawn, {"t": target}, ONE, pieces="all")
    np.testing.assert_array_equal(result.segmentations["t"].array, dots((1, 16, 16), 3).array > 0)
    np.testing.assert_array_equal(result.segmentations[REFERENCE].array, reference.array > 0)


def test_scribbled_voxels_of_the_reference_keep_what_was_drawn():
    reference = noise()
    drawn = strokes(reference)
    result = refer_volumes(tiny_model(), reference, drawn, {"t": reference}, TABLE, probabilities=True)
    where = drawn.array != 255
    np.testing.assert_array_equal(result.segmentations[REFERENCE].array[where], drawn.array[where])
    assert result.probabilities[REFERENCE][0, 1, 1, 2] == 1.0  # background
    assert result.probabilities[REFERENCE][2, 2, 13, 15] == 1.0
    elsewhere = ~where
    np.testing.assert_array_equal(
        result.segmentations[REFERENCE].array[elsewhere], result.segmentations["t"].array[elsewhere]
    )


def test_probabilities_add_to_one_and_agree_with_the_labels():
    reference, target = noise(), reordered(noise((3, 18, 30), 1), (2, 0, 1), (True, False, True))
    plain = refer_volumes(tiny_model(), reference, strokes(reference), {"t": target}, TABLE)
    full = refer_volumes(tiny_model(), reference, strokes(reference), {"t": target}, TABLE, probabilities=True)
    assert plain.probabilities == {}
    for name, image in ((REFERENCE, reference), ("t", target)):
        probabilities = full.probabilities[name]
        assert probabilities.shape == (3, *image.shape) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, atol=1e-6)
        np.testing.assert_array_equal(probabilities.argmax(axis=0), full.segmentations[name].array)
        np.testing.assert_array_equal(full.segmentations[name].array, plain.segmentations[name].array)


# --- matching -----------------------------------------------------------------------------------------------------


def two_strokes(like: Volume) -> Volume:
    """On the first and the last slice."""
    array = np.full(like.shape, 255, np.uint8)
    array[0, 4, 4] = array[-1, 4, 4] = 1
    return like.with_array(array)


def air(slices: int = 4) -> np.ndarray:
    """Nearly zeros: of one value alone, most of an image would be its padding."""
    array = np.zeros((slices, 16, 16))
    array[:, :2] = -1e-3
    return array


def graded() -> tuple[Volume, Volume]:
    """A reference whose first slice is bright (1000) and whose last is dim (600), and strokes on both."""
    array = air()
    array[0, 3:6, 3:6], array[3, 3:6, 3:6] = 1000.0, 600.0
    reference = Volume(array, affine_of())
    return reference, two_strokes(reference)


def test_the_nearest_scribbled_slice_serves_by_position():
    """A brightness of 400 is more than half of 600 and less than half of 1000."""
    reference, scribbles = graded()
    array = air()
    array[:, 8:12, 8:12] = 400.0
    array[0, 15, 15] = 1000.0
    target = Volume(array, affine_of(origin=(-20.0, 35.0, 7.0 - 3.0)))  # 3 mm lower: 0.6 slices
    found = refer_volumes(follower(), reference, scribbles, {"t": target}, ONE, reference_slices=1)
    assert found.reports["t"].matching == "position"
    assert (found.segmentations["t"].array[:, 9, 9]).tolist() == [0, 0, 0, 1]
    upside_down = reordered(target, (0, 1, 2), (True, False, False))
    turned = refer_volumes(follower(), reference, scribbles, {"t": upside_down}, ONE, reference_slices=1)
    assert (turned.segmentations["t"].array[:, 9, 9]).tolist() == [1, 0, 0, 0]


def test_volumes_that_do_not_overlap_are_matched_by_order_and_say_so():
    reference, scribbles = graded()
    array = air(8)
    array[:, 8:12, 8:12] = 400.0
    array[0, 15, 15] = 1000.0
    target = Volume(array, affine_of(origin=(4000.0, 35.0, 7.0)))
    found = refer_volumes(follower(), reference, scribbles, {"t": target}, ONE, reference_slices=1)
    assert (found.reports["t"].matching, found.reports["t"].overlap) == ("order", 0.0)
    assert (found.segmentations["t"].array[:, 9, 9]).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(GeometryError, match="'t' and the reference do not overlap in patient space.*\"order\""):
        refer_volumes(follower(), reference, scribbles, {"t": target}, ONE, slices="position")


def test_order_can_be_asked_for():
    reference, scribbles = graded()
    found = refer_volumes(follower(), reference, scribbles, {"t": reference}, ONE, slices="order")
    assert found.reports["t"].matching == "order" and found.reports["t"].overlap == 1.0
    assert found.reports[REFERENCE].matching == "order"


def test_scribbled_slices_are_merged_up_to_the_limit():
    """Both together: the mean of 1000 and 600 is 800, and 450 is more than its half."""
    reference, scribbles = graded()
    array = air()
    array[:, 8:12, 8:12] = 450.0
    array[0, 15, 15] = 1000.0
    target = Volume(array, affine_of())
    merged = refer_volumes(follower(), reference, scribbles, {"t": target}, ONE).segmentations["t"].array[:, 9, 9]
    nearest = refer_volumes(follower(), reference, scribbles, {"t": target}, ONE, reference_slices=1)
    assert merged.tolist() == [1, 1, 1, 1]
    assert nearest.segmentations["t"].array[:, 9, 9].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_report_says_what_was_found(order):
    reference, scribbles = graded()
    array = np.zeros((4, 16, 16))
    array[2, 8:12, 8:10] = 1000.0
    target = reordered(Volume(array, affine_of()), order, (False, False, False))
    report = refer_volumes(follower(), reference, scribbles, {"t": target}, ONE).reports["t"]
    assert (report.present, report.slices_with, report.slices) == (("bright",), {"bright": 1}, 4)
    assert report.milliliters["bright"] == pytest.approx(8 * 1.5 * 1.5 * 5.0 / 1000)
    assert report.seconds > 0


def test_an_organ_that_a_slice_does_not_show_is_not_in_it():
    reference = dots()
    empty = np.zeros((3, 16, 16))
    empty[2, 5, 5] = 1.0
    result = refer_volumes(follower(), reference, on_bright(reference), {"t": Volume(empty, affine_of())}, ONE)
    assert np.argwhere(result.segmentations["t"].array).tolist() == [[2, 5, 5]]
    assert result.reports["t"].slices_with == {"bright": 1}


@pytest.mark.parametrize("probabilities", [True, False])
def test_a_slice_with_a_stroke_on_an_organ_shows_it_whatever_the_network_says(probabilities):
    """It had shown the strokes alone; other slices, and the targets, go by the network."""

    class Blind(Follower):
        def decode_last(self, features, tokens):
            found = super().decode_last(features, tokens)
            return replace(found, presence=torch.full_like(found.presence, -5.0))

    reference = dots()
    model = LoadedModel(Blind(CONFIG).eval(), card())
    result = refer_volumes(
        model, reference, on_bright(reference), {"t": reference}, ONE, pieces="all", probabilities=probabilities
    )
    expected = np.zeros(reference.shape, bool)
    expected[1] = reference.array[1] > 0
    np.testing.assert_array_equal(result.segmentations[REFERENCE].array, expected)
    assert result.reports[REFERENCE].slices_with == {"bright": 1}
    assert not result.segmentations["t"].array.any()
    if probabilities:
        np.testing.assert_array_equal(result.probabilities[REFERENCE].argmax(axis=0), expected)


def test_how_much_of_the_strokes_a_network_sees_is_asked_in_few_slices():
    array = air(9)
    array[:, 4:12, 4:12] = 1000.0
    image = Volume(array, affine_of())
    scribbles = np.full(image.shape, 255, np.uint8)
    scribbles[:8, 5, 5] = 1
    scribbles[8, 4:8, 4:7] = 1
    scribbles[8, 4:8, 0] = 1  # dark
    scribbles[8, 4:8, 8] = 0
    session, cancel = ReferSession(follower()), CancelToken()
    assert session.seen(image, image.with_array(scribbles), ONE) == {"bright": pytest.approx((12 + 2) / (16 + 2))}
    assert session.encoded_slices == 3  # the last one and two of the others
    session.set_images(image, {})
    assert session.encoded_slices == 9
    cancel.cancel()
    with pytest.raises(Cancelled):
        session.seen(image, image.with_array(scribbles), ONE, cancel)


@pytest.mark.parametrize(("pieces", "marked"), [("all", 48 + 11), ("large", 48 + 10), ("largest", 48)])
def test_small_pieces_are_dropped_unless_asked_for(pieces, marked):
    array = np.zeros((3, 16, 16))
    array[:, 2:6, 2:6] = array[0, 12, 4:14] = array[2, 12, 12] = 1000.0
    target, reference = Volume(array, affine_of()), dots()
    found = refer_volumes(follower(), reference, on_bright(reference), {"t": target}, ONE, pieces=pieces)
    assert found.segmentations["t"].array.sum() == marked
    assert found.reports["t"].slices_with == {"bright": 3}


def test_only_the_largest_piece_is_kept_on_request():
    array = np.zeros((3, 16, 16))
    array[:, 2:6, 2:6] = 1000.0
    array[0, 12, 12] = array[1, 13, 13] = 1000.0
    target = Volume(array, affine_of())
    reference = dots()
    found = refer_volumes(follower(), reference, on_bright(reference), {"t": target}, ONE, pieces="largest")
    array[:, 10:] = 0
    np.testing.assert_array_equal(found.segmentations["t"].array, array > 0)


# --- what is kept --------------------------------------------------------------------------------------------------


def test_a_new_stroke_encodes_nothing():
    reference, target = noise(), noise((4, 20, 20), 1)
    session = ReferSession(tiny_model())
    session.set_reference(reference)
    session.add_target("t", target)
    assert session.encoded_slices == 9
    first = session.refer(strokes(reference), TABLE)
    other = strokes(reference).array.copy()
    other[4, 8:12, 8:12] = 2
    session.refer(reference.with_array(other), TABLE)
    session.refer(reference.with_array(np.where(other == 2, 255, other)), ONE)
    again = session.refer(strokes(reference), TABLE)
    assert session.encoded_slices == 9
    for name in (REFERENCE, "t"):
        np.testing.assert_array_equal(first.segmentations[name].array, again.segmentations[name].array)


def test_images_are_known_by_their_content():
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    session.add_target("same", noise())
    session.add_target("again", noise())
    assert session.encoded_slices == 5
    session.add_target("flipped", reordered(noise(), (0, 1, 2), (False, True, False)))
    session.add_target("changed", noise(seed=1))
    assert session.encoded_slices == 15
    session.add_target("changed", noise(seed=1))
    assert session.encoded_slices == 15


def test_what_nothing_needs_any_more_is_freed():
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    one = session.kept_bytes
    # 64 by 64: 2^2 + 4^2 + 8^2 + 16^2 feature vectors of 16 channels in bfloat16, 5 slices.
    assert one == 5 * (4 + 16 + 64 + 256) * 16 * 2
    session.add_target("t", noise(seed=1))
    session.add_target("t", noise(seed=2))
    assert session.kept_bytes == 2 * one
    session.set_reference(noise(seed=2))
    assert session.kept_bytes == one
    session.remove_target("t")
    assert session.kept_bytes == one and session.targets == ()
    session.set_reference(noise(seed=3))
    assert session.kept_bytes == one
    with pytest.raises(InputError, match="no target 't'; the targets are none"):
        session.remove_target("t")


def test_five_volumes_of_forty_slices_fit_with_the_channels_of_the_paper():
    vectors = 8**2 + 16**2 + 32**2 + 64**2
    assert 5 * 40 * vectors * 512 * 2 < 0.6 * FEATURE_BYTES


@pytest.mark.parametrize("slices", [0, 3, 7])
def test_beyond_the_bound_answers_are_the_same(slices, caplog):
    reference, target = noise(), noise((4, 20, 20), 1)
    plenty, short = ReferSession(tiny_model()), ReferSession(tiny_model(), feature_bytes=slices * 340 * 16 * 2)
    for session in (plenty, short):
        session.set_reference(reference)
        session.add_target("t", target)
    assert short.kept_bytes <= max(1, slices) * 340 * 16 * 2
    assert "do not fit" in caplog.text and "new strokes will take longer" in caplog.text
    expected, found = (session.refer(strokes(reference), TABLE).segmentations for session in (plenty, short))
    for name in (REFERENCE, "t"):
        np.testing.assert_array_equal(found[name].array, expected[name].array)


def test_a_replaced_target_makes_room_for_the_new_one():
    session = ReferSession(tiny_model(), feature_bytes=9 * 340 * 16 * 2)
    session.set_reference(noise((5, 20, 20)))
    for seed in (1, 2, 3):
        session.add_target("t", noise((4, 20, 20), seed))
    assert session.encoded_slices == 17
    session.refer(strokes(noise((5, 20, 20))), TABLE)
    assert session.encoded_slices == 17


# --- progress and stopping ----------------------------------------------------------------------------------------


def test_every_slice_is_reported():
    session, shown = ReferSession(tiny_model()), Recorder()
    session.set_reference(noise(), shown)
    session.add_target("T2", noise((3, 20, 20), 1), shown)
    assert shown.calls == [(n, 5, "look at reference") for n in range(6)] + [(n, 3, "look at T2") for n in range(4)]
    shown.calls.clear()
    session.refer(strokes(noise()), TABLE, progress=shown)
    assert shown.calls == [(n, 8, "segment") for n in range(1, 9)]


def test_what_is_known_is_reported_at_once():
    session, shown = ReferSession(tiny_model()), Recorder()
    session.set_reference(noise())
    session.add_target("t", noise(), shown)
    assert shown.calls == [(5, 5, "look at t")]


def test_looking_stops_after_the_slice_and_leaves_the_session_as_it_was():
    session, cancel = ReferSession(tiny_model()), CancelToken()
    session.set_reference(noise())
    session.add_target("t", noise((4, 20, 20), 1))
    before, kept = session.refer(strokes(noise()), TABLE), session.kept_bytes
    with pytest.raises(Cancelled):
        session.add_target("t", noise((6, 20, 20), 2), Recorder(cancel, 2), cancel)
    assert session.encoded_slices == 9 + 2
    assert session.kept_bytes == kept
    with pytest.raises(Cancelled):
        session.set_reference(noise(seed=5), cancel=cancel)
    after = session.refer(strokes(noise()), TABLE)
    assert session.encoded_slices == 9 + 2
    for name in (REFERENCE, "t"):
        np.testing.assert_array_equal(before.segmentations[name].array, after.segmentations[name].array)


def test_an_answer_stops_between_slices():
    session, cancel = ReferSession(tiny_model()), CancelToken()
    session.set_reference(noise((24, 20, 20)))
    shown = Recorder(cancel, 2)
    scribbles = np.full((24, 20, 20), 255, np.uint8)
    scribbles[1, 4:8, 4:8], scribbles[5, 4:8, 4:8] = 1, 2
    with pytest.raises(Cancelled):
        session.refer(noise((24, 20, 20)).with_array(scribbles), TABLE, progress=shown, cancel=cancel)
    assert shown.calls[-1][0] <= 8  # what a CPU decodes at once


def test_a_replaced_target_keeps_its_place():
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    for name, seed in (("a", 1), ("b", 2), ("a", 3)):
        session.add_target(name, noise(seed=seed))
    assert session.targets == ("a", "b")
    assert list(session.refer(strokes(noise()), TABLE).segmentations) == [REFERENCE, "a", "b"]


# --- models -------------------------------------------------------------------------------------------------------


def test_a_saved_model_answers_as_it_did(tmp_path):
    reference = noise()
    loaded = load_model(saved_model(tmp_path / "modèle"))
    assert loaded.card.slices == tiny_model().card.slices
    expected, found = (
        refer_volumes(model, reference, strokes(reference), {"t": noise(seed=1)}, TABLE).segmentations
        for model in (tiny_model(), loaded)
    )
    np.testing.assert_array_equal(found["t"].array, expected["t"].array)


def test_slices_are_prepared_as_the_model_was_trained():
    reference = noise()
    stretched = LoadedModel(tiny_model().network, card(slices=SlicePreprocessing(64, "stretch")))
    default = LoadedModel(tiny_model().network, card(slices=None))
    padded = LoadedModel(tiny_model().network, card(slices=SlicePreprocessing(64)))
    results = [
        refer_volumes(model, reference, strokes(reference), {}, TABLE).segmentations[REFERENCE].array
        for model in (stretched, default, padded)
    ]
    np.testing.assert_array_equal(results[1], results[2])
    assert (results[0] != results[1]).any()


def test_another_network_is_refused():
    vnet = build_network("vnet", {"num_classes": 2, "in_channels": 1, "base_channels": 2})
    with pytest.raises(ModelError, match="model tiny is a vnet network, which cannot compare a scribbled image"):
        ReferSession(LoadedModel(vnet, card(architecture="vnet")))


def test_slices_of_another_plane_are_told():
    session = ReferSession(tiny_model())
    axial, coronal = np.diag([1.0, 1.0, 6.0, 1.0]), np.array([[1.0, 0, 0, 0], [0, 0, 6, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    session.set_reference(Volume(noise().array, axial))
    session.add_target("t", Volume(noise(seed=1).array, coronal))
    with pytest.raises(GeometryError, match="slices of 't' are turned by 90 degrees against those of the reference"):
        session.refer(Volume(strokes(noise()).array, axial), TABLE)


FAR = noise(seed=2, affine=affine_of(origin=(4000.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("name", "image", "slices", "message"),
    [
        ("t", noise((20, 24, 5), affine=affine_of((6.0, 1.5, 1.5))), "auto", "turned by 90 degrees against"),
        ("t", FAR, "position", "do not overlap in patient space"),
        ("t", noise().with_array(np.full((5, 20, 24), 7.0)), "auto", "image 't' is constant"),
        (REFERENCE, noise(), "auto", "is the name of the reference itself"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_looked_at(name, image, slices, message):
    session = ReferSession(tiny_model())
    session.set_images(noise(), {"a": noise(seed=1)})
    with pytest.raises(CrossModalSegError, match=message):
        session.set_images(noise(seed=3), {"b": noise(seed=4), name: image}, slices)
    assert session.encoded_slices == 10 and session.targets == ("a",)
    with pytest.raises(CrossModalSegError, match=message):
        refer_volumes(tiny_model(), noise(), strokes(noise()), {name: image}, TABLE, slices=slices, progress=never)


def never(*_args) -> None:
    raise AssertionError("no slice should be looked at")


def test_images_are_set_at_once():
    session, other = ReferSession(tiny_model()), ReferSession(tiny_model())
    session.set_images(noise(), {"gone": noise(seed=8), "a": noise(seed=1)})
    cancel, target = CancelToken(), noise((8, 20, 24), 3)
    with pytest.raises(Cancelled):
        session.set_images(noise(seed=2), {"a": target}, progress=Recorder(cancel, 6), cancel=cancel)
    assert session.targets == ("gone", "a") and session.encoded_slices == 15 + 5 + 6
    session.set_images(noise(seed=2), {"a": target})
    assert session.targets == ("a",) and session.encoded_slices == 15 + 5 + 8
    other.set_reference(noise(seed=2))
    other.add_target("a", target)
    assert session.kept_bytes == other.kept_bytes
    answers = [each.refer(strokes(noise()), TABLE).segmentations["a"].array for each in (session, other)]
    np.testing.assert_array_equal(*answers)


def test_neighbour_slices_enter_where_the_network_takes_them():
    config = tiny_model().network.config
    model = tiny_model(replace(config, context=1, encoder=replace(config.encoder, in_channels=3)))
    reference = noise()
    changed = reference.array.copy()
    changed[4] = changed[4, ::-1]
    results = [
        refer_volumes(model, image, on_bright(image), {}, ONE, probabilities=True).probabilities[REFERENCE]
        for image in (reference, reference.with_array(changed))
    ]
    assert (results[0][:, 3] != results[1][:, 3]).any()
    np.testing.assert_array_equal(results[0][:, 1], results[1][:, 1])


def test_the_precision_is_checked():
    with pytest.raises(InputError, match='"bf16" or "fp32"'):
        ReferSession(tiny_model(), precision="fp8")


def test_without_room_for_features_the_answer_is_the_same_to_the_last_bit():
    image, target = noise(seed=1), noise((11, 20, 24), seed=2)
    shipped = load_model(DEFAULT_MODEL)
    model = LoadedModel(shipped.network, replace(shipped.card, least_presence=0.0))
    answers = []
    for room in (2**30, 1):
        session = ReferSession(model, "cpu", feature_bytes=room)
        session.set_reference(image)
        session.add_target("t", target)
        answers.append(session.refer(strokes(image), TABLE, probabilities=True).probabilities["t"])
    np.testing.assert_array_equal(*answers)


def test_slices_of_a_sheared_image_are_turned_by_their_planes_not_by_their_axis():
    sheared = affine_of()
    sheared[1, 2] = 5.0 * np.tan(np.radians(50.0))  # each slice lies behind the one below, and all are axial
    image = noise()
    result = refer_volumes(tiny_model(), image, strokes(image), {"tilted": noise(affine=sheared)}, TABLE)
    assert result.segmentations["tilted"].shape == image.shape


def test_a_filler_in_an_image_is_told_once(caplog):
    image = noise()
    image.array[0, :4] = -32768.0
    session = ReferSession(tiny_model())
    session.set_reference(image)
    [record] = caplog.records
    assert record.getMessage().startswith("The image holds -32768 where nothing was measured")


# --- bad input ----------------------------------------------------------------------------------------------------


def stroked(change) -> Volume:
    scribbles = strokes(noise()).array.copy()
    change(scribbles)
    return noise().with_array(scribbles)


def put(array: np.ndarray, where, value) -> None:
    array[where] = value


@pytest.mark.parametrize(
    ("scribbles", "error", "message"),
    [
        (stroked(lambda a: put(a, a == 2, 255)), LabelError, "no scribble of spleen; draw at least one stroke"),
        (stroked(lambda a: put(a, ..., 255)), LabelError, r"scribbles are empty; draw a stroke in each class\."),
        (stroked(lambda a: put(a, (0, 0, 0), 9)), LabelError, "hold the value 9"),
        (strokes(noise((6, 20, 24))), GeometryError, "should be on the grid of the reference but are not"),
        (
            Volume(strokes(noise()).array, affine_of(origin=(0.0, 0.0, 0.0))),
            GeometryError,
            "Draw them on the reference itself",
        ),
    ],
)
def test_useless_scribbles(scribbles, error, message):
    session = ReferSession(tiny_model())
    session.set_reference(noise())
    with pytest.raises(error, match=message):
        session.refer(scribbles, TABLE)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise().with_array(np.full((5, 20, 24), 7.0)), "image 't' is constant: all but a few of its voxels are 7"),
        (noise().with_array(np.full((5, 20, 24), np.nan)), "image 't' holds NaN or infinite voxels"),
        (noise((5, 15, 24)), "slices of 't' have 15 by 24 voxels, and at least 16 by 16"),
        (reordered(noise((1, 30, 30)), (1, 0, 2), (False, False, False)), None),
        (noise((30, 1, 30)), "An image of few slices has to have thick ones, or be axial"),
    ],
)
def test_useless_images(image, message):
    session = ReferSession(tiny_model())
    if message is None:
        session.add_target("t", image)
        return
    with pytest.raises(InputError, match=message):
        session.add_target("t", image)
    assert session.targets == ()


def test_other_mistakes():
    session = ReferSession(tiny_model())
    with pytest.raises(InputError, match="There is no reference yet"):
        session.refer(strokes(noise()), TABLE)
    with pytest.raises(InputError, match="'reference' is the name of the reference itself"):
        session.add_target(REFERENCE, noise())
    session.set_reference(noise())
    for options, message in (
        ({"slices": "guess"}, 'by "auto", "position" or "order"; got "guess"'),
        ({"reference_slices": 0}, "At least one scribbled slice"),
        ({"pieces": "one"}, 'pieces "all", the "large" or the "largest" stay; got "one"'),
        ({"tune_seconds": -1.0}, "0 or more and finite; got -1.0"),
    ):
        with pytest.raises(InputError, match=message):
            session.refer(strokes(noise()), TABLE, **options)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([(1.5, 1.5, 5.0), (3.0, 3.0, 3.0), (0.4, 0.5, 4.0)]))
def test_no_stroke_is_lost_on_a_coarser_canvas(seed, spacing):
    """Single voxels, of different organs side by side: every organ is asked for."""
    rng = np.random.default_rng(seed)
    reference = noise((3, 150, 170), 0, affine_of(spacing))
    scribbles = np.full(reference.shape, 255, np.uint8)
    j, i = int(rng.integers(0, 149)), int(rng.integers(0, 169))
    scribbles[1, j, i], scribbles[1, j + 1, i] = 1, 2
    session = ReferSession(follower())
    session.set_reference(reference)
    result = session.refer(reference.with_array(scribbles), TABLE)
    assert result.segmentations[REFERENCE].array[1, j, i] == 1


def test_bfloat16_gives_nearly_the_same(monkeypatch):
    """Forced here, also where the CPU has to emulate it."""
    monkeypatch.setattr(sessions, "usable_precision", lambda precision, _device: precision)
    reference = noise()
    scribbles = np.full(reference.shape, 255, np.uint8)
    scribbles[1, 3:17, 5], scribbles[2, 10, 3:20], scribbles[1, 18, 2:22] = 1, 2, 0
    exact, rough = (
        refer_volumes(
            tiny_model(), reference, reference.with_array(scribbles), {}, TABLE, precision=precision, probabilities=True
        ).probabilities[REFERENCE]
        for precision in ("fp32", "bf16")
    )
    assert rough.dtype == np.float32
    assert np.abs(exact - rough).mean() < 0.05
    session = ReferSession(tiny_model())
    session.set_reference(reference)
    assert session.refer(reference.with_array(scribbles), TABLE, tune_seconds=0.2).tuning.steps >= 1
