from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from referring_setup import SIZE, make_stack

from CrossModalSegLib.data.referring.pair_sampler import (
    PairConfig,
    PairKinds,
    PairSampler,
    ScribbleStyles,
    _masks,
    _Place,
    collate_pairs,
    draw_scribbles,
)
from CrossModalSegLib.errors import InputError, LabelError

PLAIN = PairConfig(augmentation=None, max_organs=3)


def sampler(config: PairConfig = PLAIN, stacks=None, seed: int = 0, **options) -> PairSampler:
    return PairSampler(stacks or [make_stack("a"), make_stack("b", seed=1)], config, seed=seed, **options)


def pairs(count: int = 20, *args, **kwargs):
    made = sampler(*args, **kwargs)
    return [made.make(made.plan()) for _ in range(count)]


def kinds(**weights: float) -> PairConfig:
    return replace(PLAIN, kinds=PairKinds(**{"same_slice": 0.0, **weights}))


def same(a, b) -> bool:
    return all(np.array_equal(vars(a)[name], vars(b)[name]) for name in vars(a))


def test_the_same_slice_is_reference_and_target_as_in_the_paper():
    for pair in pairs():
        np.testing.assert_array_equal(pair.images[0], pair.images[1])
        np.testing.assert_array_equal(pair.masks[0], pair.masks[1])


def test_the_organs_are_those_of_the_reference_slice():
    for pair in pairs():
        here = set(np.unique(pair.labels[0]).tolist()) - {0}
        assert set(pair.organ_ids.tolist()) - {0} == here
        assert len(pair.organ_ids) == 3 and pair.organ_ids[-1] == 0
        for organ, mask in zip(pair.organ_ids, pair.masks[0], strict=True):
            np.testing.assert_array_equal(mask, (pair.labels[0] == organ) & (organ > 0))


def test_crumbs_are_no_organ():
    labels = np.zeros((8, 8), np.uint8)
    labels[0, :5], labels[2, :6] = 1, 2
    masks = _masks(labels, np.array([1, 2, 0]), min_pixels=12)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 6, 0]


def test_near_slices_reach_to_the_ends():
    made = sampler()
    last = made.stacks[0].count - 1
    for index, end in ((1, 0), (last - 1, last)):
        place = _Place(0, "t1", index)
        near = {
            made._near_slice(place, made.stacks[0].frame.slice_mm, np.random.default_rng(seed)) for seed in range(20)
        }
        assert near == {index - 1, index, index + 1} and end in near


def test_scribbles_lie_inside_their_organ_on_the_reference_only():
    for pair in pairs():
        assert not (pair.scribbles[0] & ~pair.masks[0]).any() and not pair.scribbles[1].any()
        assert pair.scribbles[0].any(axis=(1, 2)).tolist() == (pair.organ_ids > 0).tolist()


def test_both_ways_the_target_is_scribbled_too_and_its_own_organs_are_asked_for():
    config = replace(kinds(other_slice=1.0), both_ways=True)
    found = pairs(30, config)
    assert any(pair.scribbles[1].any() for pair in found)
    for pair in found:
        assert not (pair.scribbles[1] & ~pair.masks[1]).any()
    only_there = [(~pair.masks[0].any((1, 2)) & pair.masks[1].any((1, 2))).any() for pair in found]
    assert any(only_there)


def test_another_slice_lies_within_reach_and_may_lack_the_organ():
    stack = make_stack()
    found = pairs(40, kinds(other_slice=1.0, reach_mm=5.0), [stack])
    distances = set()
    for pair in found:
        index = [
            next(k for k in range(6) if np.array_equal(stack.images[c][k], image[0]))
            for image in pair.images
            for c in ("t1", "t2")
            if any(np.array_equal(stack.images[c][k], image[0]) for k in range(6))
        ]
        distances.add(abs(index[0] - index[1]))
    assert distances == {0, 1}
    assert any((pair.scribbles[0].any((1, 2)) & ~pair.masks[1].any((1, 2))).any() for pair in found)


def contrast_of(stack, image) -> str:
    return next(c for c, slices in stack.images.items() if any(np.array_equal(each, image) for each in slices))


def test_another_contrast_differs_and_other_slices_keep_theirs():
    stack = make_stack()
    for pair in pairs(10, kinds(other_contrast=1.0), [stack]):
        assert contrast_of(stack, pair.images[0, 0]) != contrast_of(stack, pair.images[1, 0])
    for pair in pairs(10, kinds(other_slice=1.0), [stack]):
        assert contrast_of(stack, pair.images[0, 0]) == contrast_of(stack, pair.images[1, 0])
    mixed = pairs(30, kinds(other_slice=1.0, mixed_contrasts=True), [stack])
    assert len({contrast_of(stack, p.images[0, 0]) == contrast_of(stack, p.images[1, 0]) for p in mixed}) == 2


def test_another_patient_mostly_holds_the_organ():
    stacks = [make_stack("a"), make_stack("b", seed=1)]
    found = pairs(30, kinds(other_patient=1.0), stacks)
    for pair in found:
        owners = [
            any(np.array_equal(each, image[0]) for each in stack.images["t1"])
            or any(np.array_equal(each, image[0]) for each in stack.images["t2"])
            for image in pair.images
            for stack in stacks
        ]
        assert owners in ([True, False, False, True], [False, True, True, False])
    assert np.mean([pair.masks[1, 0].any() for pair in found]) > 0.7


@pytest.mark.parametrize("kind", ["other_patient", "anywhere"])
def test_organs_are_asked_for_where_both_sides_are_annotated_for_them(kind):
    """Of three patients two have no label for organ 2, which is in their images all the same."""
    whole, other, third = (make_stack(name, seed=seed) for seed, name in enumerate("abc"))
    partial = [
        replace(each, labels=np.where(each.labels == 2, 0, each.labels).astype(np.uint8), annotated=(1,))
        for each in (other, third)
    ]
    config = replace(kinds(**{kind: 1.0}), both_ways=True)
    found = pairs(100, config, [whole, *partial])
    known = np.stack([pair.annotated[:, pair.organ_ids].all(axis=0) for pair in found])
    asked = np.stack([pair.organ_ids > 0 for pair in found])
    assert known[asked].all()
    assert any((pair.organ_ids == 2).any() for pair in found)
    sides = [pair.annotated[:, 2].tolist() for pair in found]
    # Liver, say, is still looked for across cohorts.
    assert [True, False] in sides and [False, True] in sides and [False, False] in sides


def test_anywhere_leaves_most_organs_absent():
    found = pairs(40, kinds(anywhere=1.0))
    absent = [not pair.masks[1, 0].any() for pair in found]
    assert 0 < sum(absent) < len(found)


def test_one_patient_or_one_contrast_serve_all_kinds():
    config = kinds(other_patient=1.0, other_contrast=1.0)
    assert len(pairs(10, config, [make_stack(contrasts=("t1",))])) == 10


def test_references_and_targets_come_from_the_named_contrasts():
    stack = make_stack(contrasts=("t1", "t2", "dwi"))
    found = pairs(20, kinds(other_contrast=1.0), [stack], reference_contrasts=["t1"], target_contrasts=["t1", "dwi"])
    assert {(contrast_of(stack, p.images[0, 0]), contrast_of(stack, p.images[1, 0])) for p in found} == {("t1", "dwi")}


def test_small_organs_come_as_often_as_large_ones():
    stack = make_stack(slices=8)
    first = Counter(int(pair.organ_ids[0]) for pair in pairs(60, PLAIN, [stack]))
    assert 20 < first[1] < 40


def test_no_more_organs_than_asked_for():
    assert all(len(pair.organ_ids) == 1 for pair in pairs(5, replace(PLAIN, max_organs=1)))


def test_context_brings_neighbour_slices():
    stack = make_stack()
    pair = pairs(1, replace(PLAIN, context=1), [stack])[0]
    assert pair.images.shape == (2, 3, SIZE, SIZE) and pair.masks.shape == (2, 3, SIZE, SIZE)
    name = contrast_of(stack, pair.images[0, 1])
    k = next(k for k in range(6) if np.array_equal(stack.images[name][k], pair.images[0, 1]))
    np.testing.assert_array_equal(pair.images[0, 0], stack.images[name][max(0, k - 1)])


def test_a_pair_follows_from_its_plan_in_any_thread():
    made = sampler(PairConfig(max_organs=3, both_ways=True))
    plans = [made.plan() for _ in range(6)]
    alone = [made.make(plan) for plan in plans]
    elsewhere = []
    for plan in reversed(plans):
        with ThreadPoolExecutor(1) as pool:  # one after another: a sampler is for one thread at once
            elsewhere.append(pool.submit(made.make, plan).result())
    assert all(same(a, b) for a, b in zip(alone, reversed(elsewhere), strict=True))


def test_a_sampler_continues_from_its_state():
    one, other = sampler(seed=1), sampler(seed=2)
    one.plan()
    state = one.state_dict()
    expected = [one.plan() for _ in range(3)]
    other.load_state_dict(state)
    assert [other.plan() for _ in range(3)] == expected
    assert sampler(seed=1).plan() == sampler(seed=1).plan() != sampler(seed=2).plan()


def test_the_slices_with_an_organ_are_counted():
    labels = make_stack().labels.copy()
    labels[0] = 0
    assert sampler(stacks=[replace(make_stack(), labels=labels)]).num_slices == 5


def test_a_batch_says_who_is_scribbled_and_who_is_there():
    batch = collate_pairs(pairs(4, replace(kinds(other_slice=1.0), both_ways=True)))
    assert batch.size == 4 and batch.images.shape == (2, 4, 1, SIZE, SIZE)
    assert batch.labels.shape == (2, 4, SIZE, SIZE)
    assert batch.organs.shape == batch.present.shape == (2, 4, 3)
    assert (batch.organs == batch.scribbles.any(-1).any(-1)).all() and (batch.organs <= batch.present).all()


@pytest.mark.parametrize("style", list(vars(ScribbleStyles())))
def test_every_style_scribbles_every_organ_inside(style):
    masks = np.zeros((3, 48, 48), bool)
    masks[0, 4:30, 4:20], masks[1, 34:38, 30:33] = True, True
    styles = ScribbleStyles(**{"freeform": 0.0, style: 1.0})
    drawn = draw_scribbles(masks, styles, np.random.default_rng(0))
    assert drawn.any(axis=(1, 2)).tolist() == [True, True, False] and not (drawn & ~masks).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PairKinds(same_slice=0.0), InputError, "one weight above 0"),
        (lambda: PairKinds(other_slice=-1.0), InputError, "one weight above 0"),
        (lambda: ScribbleStyles(freeform=0.0), InputError, "one above 0"),
        (lambda: PairConfig(max_organs=0), InputError, "at least 1 organ"),
        (lambda: sampler(stacks=[replace(make_stack(), labels=None)]), LabelError, "the case a has none"),
        (lambda: sampler(replace(PLAIN, min_pixels=5000)), LabelError, "No slice holds 5000 pixels"),
        (lambda: sampler(reference_contrasts=["pd"]), InputError, "none of the contrasts pd; it has t1, t2"),
    ],
)
def test_what_cannot_be_used_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
