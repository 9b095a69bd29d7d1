from __future__ import annotations

import numpy as np

from CrossModalSegLib.scribbles.brush import draw_points, polyline_length, resample_polyline, spline_through


def test_length_of_a_right_angle() -> None:
    assert polyline_length(np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 3.0]])) == 7.0


def test_resampled_line_keeps_its_ends_and_step() -> None:
    dense = resample_polyline(np.array([[0.0, 0.0], [0.0, 2.0]]), step=0.5)
    np.testing.assert_allclose(dense, [[0, 0], [0, 0.5], [0, 1], [0, 1.5], [0, 2]])


def test_spline_goes_through_its_controls() -> None:
    controls = np.array([[0.0, 0.0], [5.0, 4.0], [0.0, 9.0], [3.0, 14.0]])
    curve = spline_through(controls, step=0.1)
    assert all(np.linalg.norm(curve - control, axis=1).min() < 0.1 for control in controls)


def test_spline_of_repeated_controls_is_a_dot() -> None:
    np.testing.assert_array_equal(spline_through(np.array([[2.0, 3.0], [2.0, 3.0]])), [[2.0, 3.0]])


def test_brush_of_diameter_three_is_a_plus_with_corners_cut() -> None:
    canvas = draw_points(np.array([[2.0, 2.0]]), (5, 5), diameter=2.5)
    expected = np.zeros((5, 5), dtype=bool)
    expected[1:4, 2] = expected[2, 1:4] = True
    np.testing.assert_array_equal(canvas, expected)


def test_thin_brush_paints_the_nearest_pixel_only() -> None:
    canvas = draw_points(np.array([[1.4, 2.6]]), (4, 4), diameter=1.0)
    assert np.argwhere(canvas).tolist() == [[1, 3]]


def test_points_outside_of_the_canvas_are_ignored() -> None:
    assert not draw_points(np.array([[-9.0, 2.0], [50.0, 50.0]]), (4, 4), diameter=3).any()
    assert not draw_points(np.empty((0, 2)), (4, 4)).any()
