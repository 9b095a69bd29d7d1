"""Implicit shapes, smooth fields and rendering."""

from __future__ import annotations

import numpy as np
import pytest

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.simulation.anatomy import Anatomy, Bulge, Warp, part
from CrossModalSegLib.simulation.fields import smooth_field
from CrossModalSegLib.simulation.render import label_mask, occupancy, render
from CrossModalSegLib.simulation.shapes import bands, difference, ellipsoid, half_space, shell, tube, union

RNG = np.random.default_rng(0)


def at(*point: float) -> list[np.ndarray]:
    return [np.float32([value]) for value in point]


def test_sphere_distance_is_exact() -> None:
    sphere = ellipsoid((1, 2, 3), (5, 5, 5))
    assert sphere.distance(*at(1, 2, 10)) == pytest.approx(2, abs=1e-4)
    assert sphere.distance(*at(4, 2, 3)) == pytest.approx(-2, abs=1e-4)
    assert sphere.low == (-4, -3, -2)


def test_rotated_box_holds_the_ellipsoid() -> None:
    solid = ellipsoid((0, 0, 0), (10, 1, 1), (0, 0, 90))
    assert solid.high == pytest.approx((1, 10, 1))
    assert solid.distance(*at(0, 9, 0))[0] < 0 < solid.distance(*at(9, 0, 0))[0]


def test_tube_radius_runs_from_end_to_end() -> None:
    cone = tube([(0, 0, 0), (10, 0, 0)], [2, 4])
    assert cone.distance(*at(5, 5, 0)) == pytest.approx(2, abs=1e-4)


def test_boolean_operations() -> None:
    ball, slab = ellipsoid((0, 0, 0), (4, 4, 4)), half_space((0, 0, 2), 0)
    assert difference(ball, slab).distance(*at(0, 0, -1))[0] > 0 > difference(ball, slab).distance(*at(0, 0, 1))[0]
    assert shell(ball, 1).distance(*at(0, 0, 0))[0] > 0 > shell(ball, 1).distance(*at(0, 0, 3.5))[0]
    assert len(union(ball, ball).pieces) == 2
    assert bands((0, 0, 1), 10, 4).distance(*at(0, 0, 21)) == pytest.approx(-1, abs=1e-4)


def test_smooth_field_is_one_function_of_position() -> None:
    field = smooth_field(np.random.default_rng(3), 10.0)
    x = np.linspace(-40, 40, 9, dtype=np.float32)
    together, alone = field(x, x, x), np.array([field(*at(v, v, v))[0] for v in x])
    np.testing.assert_array_equal(together, alone)
    assert field.values.std() == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="must be positive"):
        smooth_field(RNG, 0)


def test_bulge_keeps_volume_and_leaves_far_tissue() -> None:
    bulge = Bulge((0, 0, 0), 8.0)
    x, _, _ = bulge.pull_back(*at(20, 0, 0))
    assert x[0] == pytest.approx((20**3 - 8**3) ** (1 / 3), abs=1e-2)


def plain_warp() -> Warp:
    field = smooth_field(np.random.default_rng(0), 10.0)
    return Warp(np.eye(3), (0.0, 0.0, 0.0), (field, field, field), 0.0)


def test_partial_volume_keeps_the_volume_of_a_sphere() -> None:
    ball = ellipsoid((0.3, -0.2, 0.4), (9, 9, 9))
    anatomy = Anatomy((part(ball, "muscle", 1),), plain_warp(), LabelTable.from_names(("ball",)))
    shape, volume = (15, 21, 21), 4 / 3 * np.pi * 9**3
    affine = np.diag([1.2, 1.2, 1.8, 1.0])
    affine[:3, 3] = (-12, -12, -12.6)
    voxel = float(np.linalg.det(affine))
    layers = render(anatomy, affine, shape)
    assert sum(float(layer.weight.sum()) for layer in layers) * voxel == pytest.approx(volume, rel=0.02)
    hard = render(anatomy, affine, shape, partial_volume=False)
    assert set(np.unique(hard[0].weight)) <= {0.0, 1.0}
    assert label_mask(layers, shape, 2).sum() * voxel == pytest.approx(volume, rel=0.05)


def test_later_parts_cover_earlier_ones() -> None:
    below, above = part(ellipsoid((0, 0, 0), (9, 9, 9)), "fat"), part(ellipsoid((0, 0, 0), (5, 5, 5)), "muscle", 1)
    anatomy = Anatomy((below, above), plain_warp(), LabelTable.from_names(("core",)))
    affine = np.eye(4)
    affine[:3, 3] = -10
    total = np.zeros((21, 21, 21), dtype=np.float32)
    for layer in render(anatomy, affine, total.shape):
        total[layer.window] += layer.weight
    assert total.max() <= 1 + 1e-5
    assert total[10, 10, 10] == pytest.approx(1)


def test_half_filled_voxel() -> None:
    z = np.arange(5, dtype=np.float32)[:, None, None] - 2 + np.zeros((5, 3, 3), dtype=np.float32)
    np.testing.assert_allclose(occupancy(z)[:, 1, 1], [1, 1, 0.5, 0, 0], atol=2e-3)
