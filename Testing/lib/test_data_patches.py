from __future__ import annotations

import json

import numpy as np
import pytest

from CrossModalSegLib.data.patches import PatchSampler, crop, stack_patches
from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import InputError, LabelError
from CrossModalSegLib.volume import Volume


def prepared(shape=(10, 30, 30), scribbled=True, name="case"):
    images = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape) / np.float32(2 * np.prod(shape))
    scribbles = np.full(shape, 255, np.uint8)
    if scribbled:
        scribbles[0, 0, 0:9] = 0
        scribbles[-1, -1, -1] = 1
        scribbles[shape[0] // 2, 4, 4] = 2
    mask = np.zeros(shape, np.uint8)
    return PreparedCase(name, images, scribbles, mask, (3.0, 1.0, 1.0), np.eye(4), Volume(np.zeros(shape), np.eye(4)))


def test_every_patch_holds_a_labelled_voxel_and_lies_within_the_volume():
    case = prepared()
    sampler = PatchSampler([case], (4, 8, 8), seed=1)
    for _ in range(50):
        patch = sampler.sample()
        assert patch.images.shape == (2, 4, 8, 8)
        assert (patch.labels != 255).any() and patch.inside.all()
        block = tuple(slice(s, s + n) for s, n in zip(patch.start, (4, 8, 8)))
        np.testing.assert_array_equal(patch.images, case.images[(slice(None), *block)])
        np.testing.assert_array_equal(patch.labels, case.scribbles[block])


def test_classes_are_drawn_evenly_whatever_their_size():
    sampler = PatchSampler([prepared()], (2, 3, 3), seed=0, foreground=0.8)
    seen = [set(np.unique(sampler.sample().labels)) - {255} for _ in range(600)]
    counts = {value: sum(value in labels for labels in seen) / 600 for value in (0, 1, 2)}
    assert abs(counts[0] - 0.2) < 0.06 and abs(counts[1] - 0.4) < 0.06 and abs(counts[2] - 0.4) < 0.06


@pytest.mark.parametrize("foreground", [0.0, 1.0])
def test_the_share_of_foreground_is_the_one_asked_for(foreground):
    sampler = PatchSampler([prepared()], (1, 1, 1), seed=0, foreground=foreground)
    seen = {int(sampler.sample().labels.item()) for _ in range(30)}
    assert seen == ({1, 2} if foreground else {0})


def test_a_case_with_background_alone_gives_patches_of_it():
    case = prepared()
    case.scribbles[case.scribbles != 255] = 0
    sampler = PatchSampler([case], (1, 1, 1), seed=0, foreground=1.0)
    assert {int(sampler.sample().labels.item()) for _ in range(10)} == {0}


def test_the_labelled_voxel_is_anywhere_in_the_patch():
    sampler = PatchSampler([prepared()], (4, 5, 5), seed=0, foreground=1.0)
    patches = [p for p in (sampler.sample() for _ in range(900)) if (p.labels == 2).any()]
    places = {tuple(np.argwhere(p.labels == 2)[0]) for p in patches}
    assert len(places) > 80


def test_a_smaller_volume_is_centred_and_padded():
    case = prepared((3, 6, 30))
    patch = PatchSampler([case], (8, 8, 8), seed=0).sample()
    assert patch.start[:2] == (-2, -1)
    assert patch.inside.sum() == 3 * 6 * 8
    assert (patch.labels[~patch.inside] == 255).all() and not patch.images[:, ~patch.inside].any()


def test_a_margin_adds_voxels_around():
    sampler = PatchSampler([prepared()], (4, 8, 8), seed=2)
    plan = sampler.plan()
    small, large = sampler.cut(plan), sampler.cut(plan, (0, 3, 3))
    np.testing.assert_array_equal(large.images[:, :, 3:-3, 3:-3], small.images)


def test_a_saved_state_gives_the_same_sequence():
    cases = [prepared(), prepared((12, 20, 25), name="b")]
    sampler = PatchSampler(cases, (4, 8, 8), seed=5)
    sampler.sample()
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.plan() for _ in range(5)]
    other = PatchSampler(cases, (4, 8, 8), seed=99)
    other.load_state_dict(state)
    assert [other.plan() for _ in range(5)] == expected


def test_further_maps_are_cut_alongside():
    case = prepared()
    pseudo = np.random.default_rng(0).integers(0, 3, case.shape).astype(np.uint8)
    patch = PatchSampler([case], (4, 8, 8), seed=3, extra={"pseudo": [pseudo]}).sample()
    np.testing.assert_array_equal(patch.extra["pseudo"], crop(pseudo, patch.start, (4, 8, 8), 255))


def test_further_maps_are_unlabelled_beyond_the_volume():
    case = prepared((3, 6, 30))
    sampler = PatchSampler([case], (8, 8, 8), seed=0, extra={"pseudo": [np.ones(case.shape, np.uint8)]})
    patch = sampler.sample()
    np.testing.assert_array_equal(patch.extra["pseudo"], np.where(patch.inside, 1, 255))


def test_a_case_without_labels_gives_patches_anywhere():
    patch = PatchSampler([prepared(scribbled=False)], (4, 8, 8), seed=3).sample()
    assert (patch.labels == 255).all()


def test_dense_masks_keep_an_even_share_of_the_background():
    case = prepared((40, 80, 80))
    sampler = PatchSampler([case], (4, 8, 8), seed=3, target="mask")
    places = sampler._voxels[0][0]
    assert places.size == 200_000
    assert abs(places.mean() / case.mask.size - 0.5) < 0.01
    assert (sampler.sample().labels == 0).all()


def test_batches():
    sampler = PatchSampler([prepared()], (4, 8, 8), seed=3)
    images, labels = stack_patches([sampler.sample(), sampler.sample()])
    assert images.shape == (2, 2, 4, 8, 8) and str(labels.dtype) == "torch.int64" and labels.max() == 255


def test_bad_arguments():
    with pytest.raises(InputError, match="at least one case"):
        PatchSampler([], (4, 8, 8), seed=0)
    with pytest.raises(InputError, match="three positive"):
        PatchSampler([prepared()], (4, 0, 8), seed=0)
    with pytest.raises(LabelError, match='label map "p"'):
        PatchSampler([prepared()], (4, 4, 8), seed=0, extra={"p": [np.zeros((1, 1, 1), np.uint8)]})
