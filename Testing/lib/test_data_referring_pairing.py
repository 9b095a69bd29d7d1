from __future__ import annotations

import numpy as np
import pytest

from CrossModalSegLib.data.referring.pairing import (
    by_order,
    by_position,
    nearest_slices,
    overlap,
    reference_positions,
)
from CrossModalSegLib.data.referring.slices import SliceFrame, SlicePreprocessing, slice_frame
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.volume import Volume


def frame(slices: int, spacing: float, first: float, side: float = 0.0) -> SliceFrame:
    affine = np.diag([1.0, 1.0, spacing, 1.0])
    affine[:3, 3] = (side, 0.0, first)
    return slice_frame(Volume(np.zeros((slices, 32, 32), np.uint8), affine), SlicePreprocessing(32))


def test_by_order_ends_meet_ends():
    assert by_order(3, 5).tolist() == [0.0, 2.0, 4.0]
    assert by_order(5, 3).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert by_order(1, 5).tolist() == [2.0]
    assert by_order(4, 1).tolist() == [0.0] * 4


@pytest.mark.parametrize(("target", "reference"), [(31, 31), (20, 31), (2, 40)])
def test_by_order_uses_no_slice_of_a_longer_reference_twice(target, reference):
    rounded = np.rint(by_order(target, reference)).astype(int)
    assert len(set(rounded.tolist())) == target
    assert (np.diff(rounded) > 0).all()


def test_by_order_needs_slices():
    with pytest.raises(InputError, match="need a slice"):
        by_order(0, 3)


def test_by_position_is_in_slices_of_the_reference():
    np.testing.assert_allclose(by_position(frame(3, 4.0, 10.0), frame(6, 8.0, 2.0)), [1.0, 1.5, 2.0])


def test_by_position_knows_where_a_flipped_volume_begins():
    flipped = Volume(np.zeros((3, 32, 32), np.uint8), np.array(np.diag([1.0, 1.0, -4.0, 1.0])))
    np.testing.assert_allclose(
        by_position(slice_frame(flipped, SlicePreprocessing(32)), frame(9, 4.0, -8.0)), [0, 1, 2]
    )


def test_overlap_is_the_larger_share():
    assert overlap(frame(5, 2.0, 0.0), frame(50, 2.0, 0.0)) == 1.0
    assert overlap(frame(5, 2.0, 0.0), frame(5, 2.0, 100.0)) == 0.0
    assert overlap(frame(5, 2.0, 0.0), frame(5, 2.0, 0.0, side=500.0)) == 0.0
    assert 0.3 < overlap(frame(6, 2.0, 0.0), frame(6, 2.0, 6.0)) < 0.7
    assert overlap(frame(50, 2.0, 0.0), frame(5, 2.0, 0.0)) == 1.0


def test_the_outermost_voxels_reach_half_their_size_beyond_their_centres():
    assert overlap(frame(1, 2.0, 0.0), frame(1, 2.0, 0.9)) == 1.0
    assert overlap(frame(1, 2.0, 0.0), frame(1, 2.0, 1.1)) == 0.0


def test_the_matching_is_by_position_where_volumes_overlap():
    positions, used = reference_positions(frame(3, 4.0, 10.0), frame(6, 8.0, 2.0))
    assert used == "position" and positions.tolist() == pytest.approx([1.0, 1.5, 2.0])
    positions, used = reference_positions(frame(3, 4.0, 900.0), frame(5, 8.0, 2.0))
    assert used == "order" and positions.tolist() == [0.0, 2.0, 4.0]
    assert reference_positions(frame(3, 4.0, 10.0), frame(6, 8.0, 2.0), "order")[1] == "order"


def askew(normal: tuple[float, float, float], first: float) -> SliceFrame:
    """Five thick slices along a direction."""
    columns = np.stack([np.cross(normal, (2.0, -1.0, -1.0)), np.zeros(3), normal], axis=1)
    columns[:, 1] = np.cross(normal, columns[:, 0])
    affine = np.eye(4)
    affine[:3, :3] = columns / np.linalg.norm(columns, axis=0) * (1.5, 1.5, 8.0)
    affine[:3, 3] = first
    return slice_frame(Volume(np.zeros((5, 32, 32), np.uint8), affine), SlicePreprocessing(32))


def test_the_order_is_that_in_the_patient_where_slices_are_counted_from_opposite_ends():
    # Short axes of two hearts: of the one, slices are counted towards S, of the other towards L.
    reference, target = askew((0.5, 0.5, -0.7), 0.0), askew((0.5, 0.5, -0.5), 900.0)
    axes = reference.axial.affine[:3, 2], target.axial.affine[:3, 2]
    assert axes[0] @ axes[1] < 0
    assert reference_positions(target, reference)[0].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]


def test_the_nearest_scribbled_slices_come_first():
    assert nearest_slices(4.2, [9, 1, 5, 3]) == (5, 3, 1, 9)
    assert nearest_slices(4.0, [3, 5]) == (3, 5)
    assert nearest_slices(-7.0, [3, 5, 8], limit=2) == (3, 5)


def test_nearest_slices_need_a_scribble_and_a_limit():
    with pytest.raises(InputError, match="no scribbled slice"):
        nearest_slices(1.0, [])
    with pytest.raises(InputError, match="got a limit of 0"):
        nearest_slices(1.0, [2], limit=0)
