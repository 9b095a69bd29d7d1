from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from CrossModalSegLib.data.intensity import normalize_image
from CrossModalSegLib.data.preprocess import (
    PreparedCase,
    Preprocessing,
    prepare_case,
    restore_probabilities,
    to_source_grid,
)
from CrossModalSegLib.errors import GeometryError, InputError
from CrossModalSegLib.volume import Volume


def loaded_case(shape=(6, 12, 10), diagonal=(1.0, 1.5, 4.0), seed=0, name="case"):
    rng = np.random.default_rng(seed)
    affine = np.diag([*diagonal, 1.0])
    affine[:3, 3] = (5, -7, 11)
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 3:9, 2:7] = 1
    scribbles = np.full(shape, 255, np.uint8)
    scribbles[3, 5, 3:6] = 1
    scribbles[1, 1, 1:8] = 0
    return SimpleNamespace(
        name=name,
        images={
            "ct": Volume(rng.normal(0, 200, shape).astype(np.int16), affine),
            "mr": Volume(rng.random(shape).astype(np.float32) * 900, affine),
        },
        scribbles=Volume(scribbles, affine),
        mask=Volume(mask, affine),
    )


def test_native_grid_keeps_every_voxel():
    case = loaded_case()
    prepared = prepare_case(case, Preprocessing())
    assert prepared.images.dtype == np.float32 and prepared.images.shape == (2, 6, 12, 10)
    assert prepared.images.min() >= 0 and prepared.images.max() <= 1
    np.testing.assert_allclose(prepared.images[0], np.clip((case.images["ct"].array + 160.0) / 400.0, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(prepared.scribbles, case.scribbles.array)
    np.testing.assert_array_equal(prepared.mask, case.mask.array)
    np.testing.assert_allclose(prepared.spacing, (4.0, 1.5, 1.0))
    prob = np.random.default_rng(0).random((2, 6, 12, 10)).astype(np.float32)
    assert restore_probabilities(prob, prepared) is prob


def test_percentiles_become_zero_and_one():
    values = np.arange(1001, dtype=np.float32).reshape(1, 7, 143)
    scaled = normalize_image(values, "mr", (-160, 240), (10, 90))
    np.testing.assert_allclose(scaled.ravel()[[0, 100, 500, 900, 1000]], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_a_ct_without_negative_values_is_not_in_hounsfield_units(caplog):
    values = np.linspace(0, 255, 1000).astype(np.uint8).reshape(10, 10, 10)
    with caplog.at_level(logging.WARNING):
        scaled = normalize_image(values, "ct", (-160, 240), (0, 100))
    assert "not in Hounsfield units" in caplog.text
    assert scaled.max() == 1.0 and scaled.min() == 0.0


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-3e38, 3e38, 1001, dtype=np.float32),  # the range is more than float32 holds
        np.linspace(0, 1e300, 1001),
        np.arange(1001, dtype=np.int64) + 10**12,  # float32 knows one number among all these
        np.arange(1001, dtype=np.float64) / 1000 + 1e6,
    ],
)
def test_values_that_float32_does_not_hold_are_scaled_as_others(values):
    scaled = normalize_image(values.reshape(7, 11, 13), "mr", (-160, 240), (10, 90))
    assert scaled.dtype == np.float32
    expected = np.clip((np.arange(1001) - 100) / 800, 0, 1)
    np.testing.assert_allclose(scaled.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("filler", [-32768.0, -1e10, np.finfo(np.float32).min])
def test_a_filler_far_below_all_values_does_not_flatten_the_contrast(filler, caplog):
    measured = np.arange(1001, dtype=np.float32)
    values = np.concatenate([np.full(429, filler, np.float32), measured]).reshape(10, 11, 13)
    scaled = normalize_image(values, "mr", (-160, 240), (10, 90)).ravel()
    np.testing.assert_allclose(scaled[429:], np.clip((measured - 100) / 800, 0, 1), atol=1e-6)
    assert not scaled[:429].any()
    assert "The mr image holds" in caplog.text and "far below its other values (0 to 1000)" in caplog.text


@pytest.mark.parametrize(("modality", "padding"), [("image", -1024), ("image", -3024), ("mr", -5000), ("ct", -32768)])
def test_padding_within_reach_of_the_other_values_counts(modality, padding, caplog):
    values = np.concatenate([np.full(429, padding, np.int16), np.arange(-200, 801, dtype=np.int16)]).reshape(10, 11, 13)
    scaled = normalize_image(values, modality, (-160, 240), (0, 100))
    low, high = (-160, 240) if modality == "ct" else (padding, 800)
    np.testing.assert_allclose(scaled, np.clip((values - float(low)) / (high - low), 0, 1), atol=1e-6)
    assert not caplog.text


@pytest.mark.parametrize("padding", [-200, -5000])
def test_padding_around_a_small_image_does_not_take_its_contrast(padding, caplog):
    measured = np.arange(-199, 802, dtype=np.int16)
    values = np.full((10, 110, 131), padding, np.int16)
    values.reshape(-1)[70_000:71_001] = measured
    scaled = normalize_image(values, "mr", (-160, 240), (10, 90)).reshape(-1)
    np.testing.assert_allclose(scaled[70_000:71_001], np.clip((measured + 99) / 800, 0, 1), atol=1e-6)
    assert not scaled[:70_000].any()
    assert not caplog.text


def test_two_values_are_no_filler_and_a_measurement(caplog):
    values = np.repeat([-1, 1], 500).reshape(10, 10, 10)
    assert set(np.unique(normalize_image(values, "mr", (-160, 240), (0.5, 99.5)))) == {0.0, 1.0}
    assert not caplog.text


def test_a_constant_image_becomes_zeros():
    assert not normalize_image(np.full((2, 2, 2), 7.0), "mr", (-160, 240), (0.5, 99.5)).any()


@pytest.mark.parametrize("spacing", [(2.0, 3.0, 2.5), (4.0, 0.6, 0.5)])
def test_no_scribble_is_lost_and_all_stay_where_they_were(spacing):
    case = loaded_case(diagonal=(-1.0, 1.5, 4.0))
    prepared = prepare_case(case, Preprocessing(spacing=spacing))
    assert set(np.unique(prepared.scribbles)) == {0, 1, 255}
    for value in (0, 1):
        before = np.argwhere(case.scribbles.array == value)[:, ::-1] @ case.images["ct"].affine[:3, :3].T
        before = before + case.images["ct"].affine[:3, 3]
        after = np.argwhere(prepared.scribbles == value)[:, ::-1] @ prepared.affine[:3, :3].T + prepared.affine[:3, 3]
        distance = np.linalg.norm(before[:, None] - after[None], axis=2)
        assert distance.min(axis=1).max() <= np.linalg.norm(prepared.spacing) / 2 + 1e-6


def test_strokes_closer_than_a_voxel_stay_on_a_coarser_grid():
    case = loaded_case((4, 6, 6), diagonal=(1.0, 1.0, 1.0))
    case.scribbles.array[:] = 255
    case.scribbles.array[0, 0, 0], case.scribbles.array[2, 3, 3] = 1, 0
    prepared = prepare_case(case, Preprocessing(spacing=(2.0, 3.0, 3.0)))
    assert prepared.scribbles.tolist() == [[[1, 255], [255, 255]], [[255, 255], [255, 0]]]


def test_masks_get_no_class_between_two_others():
    case = loaded_case()
    case.mask.array[:] = np.where(case.mask.array == 1, 3, 1)
    prepared = prepare_case(case, Preprocessing(spacing=(3.0, 1.0, 0.7)))
    assert set(np.unique(prepared.mask)) == {1, 3}


def test_the_percentiles_are_those_of_the_preprocessing():
    case = loaded_case()
    prepared = prepare_case(case, Preprocessing(percentiles=(20.0, 60.0)))
    low, high = np.percentile(case.images["mr"].array, (20.0, 60.0))
    expected = np.clip((case.images["mr"].array - low) / (high - low), 0, 1)
    np.testing.assert_allclose(prepared.images[1], expected, atol=1e-5)


def test_a_crop_with_values_of_the_whole_image_is_not_cached(tmp_path):
    case = loaded_case()
    prepared = prepare_case(case, Preprocessing(), value_ranges={"mr": (100.0, 300.0)}, cache_dir=tmp_path)
    np.testing.assert_allclose(prepared.images[1], np.clip((case.images["mr"].array - 100) / 200, 0, 1), atol=1e-5)
    assert prepared.key is None
    assert not list(tmp_path.iterdir())


def test_probabilities_of_a_flipped_case_are_flipped_back():
    case = loaded_case(diagonal=(-1.0, 1.5, 4.0))
    prepared = prepare_case(case, Preprocessing())
    given = np.random.default_rng(0).random((2, 6, 12, 10)).astype(np.float32)
    np.testing.assert_array_equal(restore_probabilities(given, prepared), given[..., ::-1])


def test_probabilities_come_back_on_the_case_s_own_grid():
    case = loaded_case((12, 24, 20), diagonal=(-1.0, -1.5, 2.0))
    prepared = prepare_case(case, Preprocessing(spacing=(1.0, 1.0, 1.0)))
    one_hot = np.stack([prepared.mask == 0, prepared.mask == 1]).astype(np.float32)
    restored = restore_probabilities(one_hot, prepared)
    assert restored.shape == (2, 12, 24, 20)
    np.testing.assert_allclose(restored.sum(axis=0), 1.0, atol=1e-5)
    assert (restored.argmax(axis=0) == case.mask.array).mean() > 0.97
    with pytest.raises(GeometryError, match="must have the shape"):
        restore_probabilities(one_hot[:, 1:], prepared)


def test_a_flipped_case_looks_the_same_to_the_network():
    case = loaded_case()
    affine = case.images["ct"].affine.copy()
    affine[:3, 3] += affine[:3, 0] * (case.images["ct"].shape[2] - 1)
    affine[:3, 0] *= -1
    mirrored = SimpleNamespace(
        name="mirrored",
        images={n: Volume(v.array[:, :, ::-1], affine) for n, v in case.images.items()},
        scribbles=Volume(case.scribbles.array[:, :, ::-1], affine),
        mask=Volume(case.mask.array[:, :, ::-1], affine),
    )
    straight, flipped = prepare_case(case, Preprocessing()), prepare_case(mirrored, Preprocessing())
    np.testing.assert_array_equal(straight.images, flipped.images)
    np.testing.assert_array_equal(straight.scribbles, flipped.scribbles)
    np.testing.assert_allclose(straight.affine, flipped.affine)
    np.testing.assert_array_equal(to_source_grid(flipped.mask, flipped, "nearest"), mirrored.mask.array)


def test_the_cache_gives_the_same_and_notices_changes(tmp_path, caplog):
    folder = tmp_path / "préparés ici"
    prep = Preprocessing(spacing=(2.0, 2.0, 2.0))
    first = prepare_case(loaded_case(), prep, cache_dir=folder)
    (entry,) = folder.glob("*.npz")
    stamp = entry.stat().st_mtime_ns
    again = prepare_case(loaded_case(name="other name"), prep, cache_dir=folder)
    np.testing.assert_array_equal(first.images, again.images)
    assert entry.stat().st_mtime_ns == stamp and again.name == "other name"
    prepare_case(loaded_case(seed=1), prep, cache_dir=folder)
    prepare_case(loaded_case(), Preprocessing(spacing=(2.0, 2.0, 2.1)), cache_dir=folder)
    assert len(list(folder.glob("*.npz"))) == 3
    entry.write_bytes(entry.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        repaired = prepare_case(loaded_case(), prep, cache_dir=folder)
    assert "cannot be read" in caplog.text
    np.testing.assert_array_equal(first.images, repaired.images)


def test_a_pickle_in_the_cache_is_not_loaded(tmp_path):
    prep = Preprocessing()
    prepare_case(loaded_case(), prep, cache_dir=tmp_path)
    (entry,) = tmp_path.glob("*.npz")
    np.savez(entry, images=np.array([{"a": 1}], dtype=object))
    assert prepare_case(loaded_case(), prep, cache_dir=tmp_path).images.dtype == np.float32


def test_modalities_are_taken_in_the_order_asked_for():
    case = loaded_case()
    both = prepare_case(case, Preprocessing())
    swapped = prepare_case(case, Preprocessing(), modalities=("mr", "ct"))
    np.testing.assert_array_equal(both.images[::-1], swapped.images)
    with pytest.raises(InputError, match="needs the images pet"):
        prepare_case(case, Preprocessing(), modalities=("pet",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, "positive lengths"),
        ({"orientation": "slices"}, 'got "slices"'),
        ({"ct_window": (5.0, 5.0)}, "CT window"),
        ({"percentiles": (-1.0, 50.0)}, "percentiles"),
        ({"orientation": "ras"}, "orientation"),
    ],
)
def test_bad_preprocessing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**arguments)


def test_prepared_arrays_are_checked():
    with pytest.raises(InputError, match="must be uint8"):
        PreparedCase(
            name="x",
            images=np.zeros((1, 2, 2, 2), np.float32),
            scribbles=np.zeros((2, 2, 3), np.uint8),
            mask=None,
            spacing=(1, 1, 1),
            affine=np.eye(4),
            source=Volume(np.zeros((2, 2, 2)), np.eye(4)),
        )
