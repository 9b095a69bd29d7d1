from __future__ import annotations

import numpy as np
import pytest

from CrossModalSegLib.placement import inside, lattice, placement, shared_share
from CrossModalSegLib.volume import Volume


def box(shape: tuple[int, int, int], origin: tuple[float, float, float], spacing: float = 1.0) -> Volume:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    return Volume(np.broadcast_to(np.uint8(0), shape), affine)


def test_equal_grids_are_one_grid():
    found = placement(box((4, 5, 6), (1, 2, 3)), box((4, 5, 6), (1, 2, 3)))
    assert (found.state, found.overlap) == ("same grid", 1.0)


def test_half_a_box_in_the_other_one_is_an_overlap_of_a_half():
    found = placement(box((4, 4, 4), (0, 0, 0)), box((4, 4, 4), (2, 0, 0)))
    assert (found.state, found.overlap) == ("same patient space", 0.5)


def test_a_small_box_inside_a_large_one_lies_wholly_in_it():
    assert shared_share(box((20, 20, 20), (0, 0, 0)), box((2, 2, 2), (5, 5, 5))) == 1.0


@pytest.mark.parametrize(("shift", "overlap"), [(7.0, 0.125), (500.0, 0.0)])
def test_boxes_that_hardly_touch_are_apart(shift: float, overlap: float):
    found = placement(box((8, 8, 8), (0, 0, 0)), box((8, 8, 8), (shift, 0, 0)))
    assert (found.state, found.overlap) == ("apart", overlap)


def test_the_lattice_is_made_of_voxel_centres():
    grid = box((2, 1, 2), (10, 20, 30), spacing=2.0)
    expected = {(10, 20, 30), (12, 20, 30), (10, 20, 32), (12, 20, 32)}
    assert {tuple(point) for point in lattice(grid).T.tolist()} == expected
    assert lattice(box((200, 200, 200), (0, 0, 0))).shape[1] < 100_000


def test_a_point_is_inside_up_to_half_a_voxel_beyond_the_outermost_centre():
    points = np.array([[-0.5, 0, 0], [-0.51, 0, 0], [3.5, 0, 0], [3.51, 0, 0]]).T
    assert inside(points, box((1, 1, 4), (0, 0, 0))).tolist() == [True, False, True, False]
