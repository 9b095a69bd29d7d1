from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from CrossModalSegLib.data.referring.paired_augmentation import (
    STRONG,
    ContrastChange,
    ContrastConfig,
    PairedAugmentation,
    PairedAugmentationConfig,
    Slice,
    SpatialConfig,
    draw_geometry,
    redraw_tissues,
    remap,
)
from CrossModalSegLib.errors import InputError

ALL = replace(STRONG, **{name: 1.0 for name in vars(STRONG) if name.endswith("_prob")})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def item(size: int = 32) -> Slice:
    labels = np.zeros((1, size, size), np.uint8)
    labels[:, 4:12, 4:12], labels[:, 16:28, 16:28] = 1, 2
    image = np.linspace(0.1, 0.4, size * size, dtype=np.float32).reshape(1, size, size) + 0.2 * labels
    return Slice(image.astype(np.float32), labels)


@pytest.mark.parametrize("seed", range(6))
def test_all_changes_together_keep_shape_type_and_range(seed):
    changed = ContrastChange(ALL)(item(), rng(seed)).image
    assert changed.dtype == np.float32 and changed.shape == (1, 32, 32)
    assert np.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_slice_beside_the_body_changes_without_a_warning(value):
    empty = replace(item(), image=np.full((1, 32, 32), value, np.float32))
    np.testing.assert_array_equal(ContrastChange(ContrastConfig(histogram_prob=1.0))(empty, rng()).image, empty.image)
    assert all(np.isfinite(ContrastChange(ALL)(empty, rng(seed)).image).all() for seed in range(6))


def test_neighbour_slices_change_together():
    stacked = Slice(np.repeat(item().image, 3, axis=0), np.repeat(item().labels, 3, axis=0))
    config = ContrastConfig(gamma_prob=1.0, curve_prob=1.0, tissue_prob=1.0, histogram_prob=1.0)
    changed = ContrastChange(config)(stacked, rng()).image
    np.testing.assert_array_equal(changed[0], changed[1])
    np.testing.assert_array_equal(changed[0], changed[2])


@pytest.mark.parametrize("name", [name for name in vars(STRONG) if name.endswith("_prob") and name != "invert_prob"])
def test_each_change_changes_something_by_itself(name):
    changed = ContrastChange(ContrastConfig(**{name: 1.0}))(item(), rng(1)).image
    assert not np.array_equal(changed, item().image)


def test_no_probability_means_no_change():
    np.testing.assert_array_equal(ContrastChange(ContrastConfig())(item(), rng()).image, item().image)


def test_without_remaps_only_the_transforms_of_the_paper_are_left():
    left = STRONG.without_remaps()
    assert left.gamma_prob == STRONG.gamma_prob and left.gibbs_prob == STRONG.gibbs_prob
    assert left.tissue_prob == left.curve_prob == left.histogram_prob == left.bias_prob == 0
    assert left.rician_prob == left.low_resolution_prob == 0


@pytest.mark.parametrize("remaps", [True, False])
def test_remaps_are_a_switch_of_the_pair(remaps):
    curve = ContrastConfig(curve_prob=1.0)
    config = PairedAugmentationConfig(curve, curve, contrast_remaps=remaps, spatial="none")
    changed = PairedAugmentation(config)(item(), item(), rng())
    assert [np.array_equal(each.image, item().image) for each in changed] == [not remaps] * 2


def test_a_curve_keeps_equal_values_equal_and_uses_the_whole_range():
    for seed in range(20):
        values = np.linspace(0, 1, 501, dtype=np.float32)
        changed = remap(np.stack([values, values]), rng(seed))
        np.testing.assert_array_equal(changed[0], changed[1])
        assert 0 <= changed.min() < 0.05 and 0.95 < changed.max() <= 1


def test_curves_rise_and_fall_and_do_neither():
    curves = [np.diff(remap(np.linspace(0, 1, 101), rng(seed))) for seed in range(40)]
    rising, falling = (sum(bool((sign * each >= 0).all()) for each in curves) for sign in (1, -1))
    assert rising > 4 and falling > 4 and rising + falling < 36


def test_redrawn_tissues_are_even_where_they_were_even():
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[:, :16] = 1
    image = np.where(labels == 1, 0.5, 0.7).astype(np.float32)
    inside, outside = [], []
    for seed in range(10):
        changed = redraw_tissues(image, labels, rng(seed))
        assert np.ptp(changed[:, :14]) < 1e-5 and np.ptp(changed[:, 18:]) < 1e-5
        inside.append(float(changed[0, 2, 2]))
        outside.append(float(changed[0, -2, 2]))
    assert np.ptp(inside) > 0.4 and np.ptp(outside) > 0.4


def test_air_stays_dark_in_the_wanted_share():
    labels = np.zeros((1, 32, 32), np.uint8)
    image = np.full((1, 32, 32), 0.5, np.float32)
    image[:, :8] = 0.0
    for dark, share in ((1.0, 0), (0.0, 1)):
        change = ContrastChange(ContrastConfig(curve_prob=1.0, dark_air=dark))
        bright = [change(Slice(image, labels), rng(seed)).image[0, 0, 0] > 0.01 for seed in range(20)]
        assert bool(np.mean(bright) > 0.3) == bool(share)


def test_geometry_of_no_strength_is_the_identity():
    config = SpatialConfig(1.0, 0.0, (1.0, 1.0), 0.0, 0.0, 0.0)
    pair = PairedAugmentationConfig(ContrastConfig(), ContrastConfig(), geometry=config)
    reference, target = PairedAugmentation(pair)(item(), item(), rng())
    np.testing.assert_allclose(reference.image, item().image, atol=1e-5)
    np.testing.assert_array_equal(target.labels, item().labels)


def test_a_zoom_of_two_doubles_lengths_about_the_centre():
    labels = np.zeros((1, 32, 32), np.uint8)
    labels[:, 12:20, 14:18] = 3
    config = SpatialConfig(1.0, 0.0, (2.0, 2.0), 0.0, 0.0, 0.0)
    augmentation = PairedAugmentationConfig(ContrastConfig(), ContrastConfig(), geometry=config)
    moved, _ = PairedAugmentation(augmentation)(Slice(labels.astype(np.float32) / 3, labels), item(), rng())
    expected = np.zeros((32, 32), np.uint8)
    expected[8:24, 12:20] = 3
    np.testing.assert_array_equal(moved.labels[0], expected)


def test_image_and_labels_move_together_and_nothing_is_mirrored():
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[:, 20:40, 10:24] = 1
    for seed in range(8):
        grid = draw_geometry(SpatialConfig(1.0), 64, rng(seed))
        image = torch.nn.functional.grid_sample(
            torch.from_numpy(labels[None].astype(np.float32)), grid, align_corners=False
        )
        nearest = torch.nn.functional.grid_sample(
            torch.from_numpy(labels[None].astype(np.float32)), grid, mode="nearest", align_corners=False
        )
        assert ((image > 0.5) == (nearest > 0.5)).float().mean() > 0.985
        corners = grid[0, [0, 0, -1], [0, -1, 0]]
        x, y = corners[1] - corners[0], corners[2] - corners[0]
        assert x[0] * y[1] - x[1] * y[0] > 0


def same_geometry(spatial: str) -> list[bool]:
    config = PairedAugmentationConfig(ContrastConfig(), ContrastConfig(), spatial=spatial)
    pairs = [PairedAugmentation(config)(item(), item(), rng(seed)) for seed in range(5)]
    return [np.array_equal(reference.labels, target.labels) for reference, target in pairs]


def test_geometry_is_shared_or_independent_or_absent():
    assert all(same_geometry("shared")) and all(same_geometry("none"))
    assert not all(same_geometry("independent"))
    config = PairedAugmentationConfig(ContrastConfig(), ContrastConfig(), spatial="none")
    np.testing.assert_array_equal(PairedAugmentation(config)(item(), item(), rng())[0].image, item().image)


def test_the_reference_stays_and_the_target_changes_as_in_the_paper():
    config = PairedAugmentationConfig(ContrastConfig(), ALL, spatial="none")
    reference, target = PairedAugmentation(config)(item(), item(), rng())
    np.testing.assert_array_equal(reference.image, item().image)
    assert not np.array_equal(target.image, item().image)


def test_a_share_of_the_references_changes_like_targets():
    config = PairedAugmentationConfig(ContrastConfig(), ALL, strong_reference=0.5, spatial="none")
    changed = [
        not np.array_equal(PairedAugmentation(config)(item(), item(), rng(seed))[0].image, item().image)
        for seed in range(20)
    ]
    assert 4 < sum(changed) < 16


def test_without_pairing_a_slice_and_itself_stay_one_image():
    config = PairedAugmentationConfig(target=ALL, paired=False)
    reference, target = PairedAugmentation(config)(item(), item(), rng())
    np.testing.assert_array_equal(reference.image, target.image)
    assert not np.array_equal(reference.image, item().image)


def test_the_same_seed_gives_the_same_pair_whatever_came_before():
    augmentation = PairedAugmentation(PairedAugmentationConfig(target=ALL))
    first = augmentation(item(), item(), rng(3))
    augmentation(item(), item(), rng(4))
    again = augmentation(item(), item(), rng(3))
    np.testing.assert_array_equal(first[0].image, again[0].image)
    np.testing.assert_array_equal(first[1].image, again[1].image)


def test_no_configuration_changes_nothing():
    one = item()
    assert PairedAugmentation(None)(one, one, rng()) == (one, one)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastConfig(noise_prob=1.5), "noise_prob of an augmentation is a probability"),
        (lambda: ContrastConfig(dark_air=-1.0), "dark_air of an augmentation is a probability"),
        (lambda: SpatialConfig(scale=(2.0, 1.0)), "ascending positive scales"),
        (lambda: PairedAugmentationConfig(spatial="both"), 'got "both"'),
        (lambda: PairedAugmentationConfig(strong_reference=2.0), "strong_reference is a share"),
        (lambda: Slice(np.zeros((1, 2, 2)), np.zeros((2, 2))), "an image and labels of one shape"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_grid_is_that_of_torch():
    # Drawn once more in the same order, and put together by PyTorch's own functions.
    config = SpatialConfig(probability=1.0, elastic=0.02)
    draws = rng(3)
    draws.random()
    angle = np.deg2rad(draws.uniform(-config.rotation_deg, config.rotation_deg))
    zoom, stretch = (
        np.exp(draws.uniform(*np.log(config.scale))),
        np.exp(draws.uniform(-config.aspect, config.aspect) / 2),
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = draws.uniform(-2 * config.shift, 2 * config.shift, (2, 1))
    matrix = torch.from_numpy(np.hstack([turn @ np.diag([stretch, 1 / stretch]) / zoom, shift]))
    control = torch.from_numpy(2 * config.elastic * draws.standard_normal((1, 2, config.points, config.points)))
    affine = functional.affine_grid(matrix[None], [1, 1, 48, 48], align_corners=False)
    smooth = functional.interpolate(control, size=(48, 48), mode="bicubic", align_corners=True)
    expected = (affine + smooth.permute(0, 2, 3, 1)).float()
    torch.testing.assert_close(draw_geometry(config, 48, rng(3)), expected, rtol=0, atol=1e-6)
