from __future__ import annotations

import numpy as np
from scipy.ndimage import label

from CrossModalSegLib.scribbles.thinning import centre_line, coarse_depth, longest_path, skeleton, thin


def _bar(rows: int, columns: int, height: int, width: int) -> np.ndarray:
    region = np.zeros((rows, columns), dtype=bool)
    top, left = (rows - height) // 2, (columns - width) // 2
    region[top : top + height, left : left + width] = True
    return region


def test_thinning_a_bar_leaves_its_middle_row() -> None:
    line = thin(_bar(7, 21, 3, 15))
    assert np.unique(np.argwhere(line)[:, 0]).tolist() == [3]
    assert line.sum() >= 12


def test_a_region_that_fills_the_frame_is_thinned() -> None:
    assert 0 < thin(np.ones((9, 31), dtype=bool)).sum() < 60


def test_thick_regions_give_a_connected_thin_skeleton_inside() -> None:
    region = _bar(140, 300, 100, 240)
    lines = skeleton(region)
    assert not (lines & ~region).any()
    assert label(lines, np.ones((3, 3)))[1] == 1
    assert lines.sum() < 0.05 * region.sum()


def test_longest_path_cuts_the_side_branch() -> None:
    tree = np.zeros((9, 20), dtype=bool)
    tree[4, :] = True
    tree[1:4, 10] = True
    path = longest_path(tree)
    assert len(path) == 20
    assert {int(column) for column in path[:, 1]} == set(range(20))
    assert (path[:, 0] == 4).all()


def test_longest_path_takes_the_longer_part() -> None:
    lines = np.zeros((5, 20), dtype=bool)
    lines[0, :6] = True
    lines[4, :15] = True
    assert len(longest_path(lines)) == 15
    assert longest_path(np.zeros((3, 3), dtype=bool)).shape == (0, 2)


def test_centre_line_of_a_bar_runs_along_it() -> None:
    line = centre_line(_bar(120, 400, 60, 340), np.random.default_rng(0))
    assert abs(np.median(line[:, 0]) - 59.5) < 3
    assert np.ptp(line[:, 1]) > 250


def test_coarse_depth_is_close_to_the_true_depth() -> None:
    depth, step = coarse_depth(_bar(400, 400, 200, 200))
    assert step == 4
    assert abs(depth.max() - 100) <= step


def test_centre_line_of_a_disc_is_a_chord_and_not_a_dot() -> None:
    rows, columns = np.indices((101, 101))
    disc = np.hypot(rows - 50, columns - 50) < 40
    first, second = (centre_line(disc, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.linalg.norm(first[-1] - first[0]) > 40
    assert disc[tuple(np.rint(first).astype(int).T)].all()
    assert not np.allclose(first[0], second[0])
