from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from CrossModalSegLib.data.augment import (
    LEVELS,
    Augmentation,
    AugmentationConfig,
    SpatialChange,
    apply_spatial_change,
    draw_spatial_change,
)
from CrossModalSegLib.data.patches import Patch
from CrossModalSegLib.errors import InputError


def patch(shape=(16, 96, 96), seed=0, spacing=(2.5, 1.0, 1.0)) -> Patch:
    rng = np.random.default_rng(0)
    labels = np.full(shape, 255, np.uint8)
    labels[shape[0] // 2, 2:-2, 2:-2] = rng.integers(0, 3, (shape[1] - 4, shape[2] - 4))
    return Patch(
        images=rng.random((2, *shape)).astype(np.float32),
        labels=labels,
        inside=np.ones(shape, bool),
        spacing=spacing,
        case=0,
        start=(0, 0, 0),
        seed=seed,
        extra={"pseudo": labels.copy()},
    )


def still(**changes) -> AugmentationConfig:
    nothing = {name: 0.0 for name in vars(AugmentationConfig()) if name.endswith("_prob")}
    return AugmentationConfig(**{**nothing, **changes})


@pytest.mark.parametrize("spacing", [(2.5, 1.0, 1.0), (6.0, 1.0, 1.0)])
@pytest.mark.parametrize("level", ["none", "light", "default"])
def test_results_are_usable_and_depend_on_the_seed_alone(level, spacing):
    augment, other = Augmentation(level), Augmentation(level)
    changed = 0
    for seed in range(12):
        before = patch((8, 32, 32), seed, spacing)
        copy = before.images.copy()
        after, again = augment(before), other(before)
        np.testing.assert_array_equal(before.images, copy)
        np.testing.assert_array_equal(after.images, again.images)
        np.testing.assert_array_equal(after.labels, again.labels)
        assert after.images.dtype == np.float32 and after.labels.dtype == np.uint8
        assert type(after.images) is np.ndarray and after.images.shape == before.images.shape
        assert after.images.min() >= 0 and after.images.max() <= 1
        assert set(np.unique(after.labels)) <= {0, 1, 2, 255}
        np.testing.assert_array_equal(after.labels, after.extra["pseudo"])
        changed += not np.array_equal(after.images, before.images)
    assert changed == 0 if level == "none" else changed >= 6


def test_default_strength_is_fast_enough_for_training():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        augment = Augmentation("default")
        augment(patch())
        times = []
        for seed in range(20):
            start = time.process_time()
            augment(patch(seed=seed))
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert np.median(times) < 0.12


def test_a_quarter_turn_moves_each_voxel_where_it_belongs():
    before = patch((5, 9, 9), spacing=(1.0, 1.0, 1.0))
    turn = SpatialChange(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), None, ())
    after = apply_spatial_change(before, turn, before.shape)
    expected = np.rot90(before.images, k=-1, axes=(2, 3))
    np.testing.assert_allclose(after.images, expected, atol=1e-5)
    np.testing.assert_array_equal(after.labels, np.rot90(before.labels, k=-1, axes=(1, 2)))


def test_what_comes_from_beyond_the_patch_is_unlabelled():
    before = patch((4, 16, 16))
    before = replace(before, labels=np.zeros((4, 16, 16), np.uint8), images=np.ones((2, 4, 16, 16), np.float32))
    shrink = SpatialChange(np.eye(3) * 2.0, None, ())
    after = apply_spatial_change(before, shrink, before.shape)
    assert (after.labels[:, 0, 0] == 255).all() and not after.inside[:, 0, 0].any()
    assert after.labels[2, 8, 8] == 0
    assert not after.images[:, ~after.inside].any() or after.images[:, :, 0, 0].max() == 0


def test_rotation_is_in_millimetres():
    config = still(rotation_prob=1.0, rotation_deg=(0.0, 90.0, 0.0))
    spacing = (5.0, 1.0, 1.0)
    change = draw_spatial_change(config, (8, 8, 8), spacing, np.random.RandomState(0))
    to_mm = np.diag(spacing)
    in_mm = to_mm @ change.matrix @ np.linalg.inv(to_mm)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)


def test_a_zoom_of_two_takes_a_voxel_from_half_way_to_the_centre():
    config = still(scaling_prob=1.0, scaling=(2.0, 2.0))
    change = draw_spatial_change(config, (8, 8, 8), (2.5, 1.0, 1.0), np.random.RandomState(0))
    np.testing.assert_array_equal(change.matrix, np.eye(3) / 2)


def test_elastic_displacement_is_in_millimetres():
    config = still(elastic_prob=1.0, elastic_spacing_mm=1e6)  # with control points in the corners alone
    thin, thick = (
        draw_spatial_change(config, (8, 8, 8), spacing, np.random.RandomState(0)).displacement
        for spacing in ((1.0, 1.0, 1.0), (8.0, 2.0, 1.0))
    )
    np.testing.assert_allclose(thick, thin / np.array([8.0, 2.0, 1.0])[:, None, None, None], rtol=1e-5)


@pytest.mark.parametrize("change", [{"blur_prob": 1.0}, {"low_resolution_prob": 1.0, "zoom_out": (0.5, 0.5)}])
def test_thick_slices_are_not_mixed(change):
    before = patch((8, 16, 16))
    images = np.zeros_like(before.images)
    images[:, 4] = np.random.default_rng(0).random((16, 16))
    augment = Augmentation(still(**change))
    thin, thick = (
        augment(replace(before, images=images, spacing=spacing)).images[0] for spacing in ((1, 1, 1), (8, 1, 1))
    )
    assert np.flatnonzero(thick.any(axis=(1, 2))).tolist() == [4]
    assert len(np.flatnonzero(thin.any(axis=(1, 2)))) > 1
    assert not np.array_equal(thick, images[0])


def test_the_middle_of_a_patch_says_where_it_begins():
    after = Augmentation("none", size=(4, 6, 8))(replace(patch((8, 8, 8)), start=(10, -2, 0)))
    assert after.start == (12, -1, 0)


def test_a_margin_keeps_corners_filled():
    large = patch((8, 60, 60))
    size = (8, 40, 40)
    config = still(rotation_prob=1.0, rotation_deg=(30.0, 0.0, 0.0))
    after = Augmentation(config, size=size)(replace(large, seed=3))
    assert after.images.shape == (2, *size) and after.inside.all()


def test_voxels_outside_the_volume_stay_empty():
    before = patch((8, 32, 32))
    before.inside[:2] = False
    before.images[:, :2] = 0
    after = Augmentation(still(noise_prob=1.0, shift_prob=1.0))(before)
    assert not after.images[:, :2].any() and after.images[:, 2:].any()


def test_mirroring_only_on_the_axes_asked_for():
    assert all(config is None or not config.mirror_axes for config in LEVELS.values())
    seen = set()
    before = patch((4, 8, 8))
    before.inside[..., :2] = False
    before.images[..., :2] = 0
    augment = Augmentation(still(mirror_axes=(2,)))
    for seed in range(20):
        after = augment(replace(before, seed=seed))
        flipped = np.array_equal(after.images, before.images[..., ::-1])
        assert flipped or np.array_equal(after.images, before.images)
        if flipped:
            np.testing.assert_array_equal(after.labels, before.labels[..., ::-1])
            np.testing.assert_array_equal(after.extra["pseudo"], before.labels[..., ::-1])
            np.testing.assert_array_equal(after.inside, before.inside[..., ::-1])
        seen.add(flipped)
    assert seen == {True, False}


def test_elastic_displacement_is_smooth_and_small():
    before = patch((8, 32, 32))
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (2, 8, 32, 32)).copy()
    after = Augmentation(still(elastic_prob=1.0, elastic_mm=1.0))(replace(before, images=ramp, seed=4))
    middle = (slice(None), slice(2, 6), slice(8, 24), slice(8, 24))
    difference = np.abs(after.images - ramp)[middle]
    assert 0 < difference.max() < 5 / 31


def test_modalities_change_independently():
    image = np.random.default_rng(0).random((1, 4, 16, 16)).astype(np.float32)
    before = replace(patch((4, 16, 16)), images=np.concatenate([image, image]))
    after = Augmentation(still(gamma_prob=1.0))(before)
    assert not np.array_equal(after.images[0], after.images[1])


def test_bad_arguments():
    with pytest.raises(InputError, match="one of none, light, default"):
        Augmentation("strong")
    with pytest.raises(InputError, match="probability"):
        AugmentationConfig(gamma_prob=1.5)
    with pytest.raises(InputError, match="larger size"):
        Augmentation("none", size=(8, 8, 64))(patch((8, 32, 32)))
