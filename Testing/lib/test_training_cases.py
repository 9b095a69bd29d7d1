from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from training_cohort import make_cohort, tiny_config

from CrossModalSegLib.data.preprocess import PreparedCase, Preprocessing
from CrossModalSegLib.errors import Cancelled, CohortError, LabelError
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training.cases import arrange_cases, check_annotations, prepare_cases
from CrossModalSegLib.training.trainer import train
from CrossModalSegLib.volume import Volume

SHAPE = (6, 4, 4)


def prepared(name="a", classes=(0, 1, 2), mask=None):
    scribbles = np.full(SHAPE, 255, np.uint8)
    for value in classes:
        scribbles[:, value, value] = value
    volume = Volume(np.zeros(SHAPE, np.uint8), np.eye(4))
    images = np.zeros((1, *SHAPE), np.float32)
    return PreparedCase(name, images, scribbles, mask, (1.0, 1.0, 1.0), np.eye(4), volume)


def arrange(training, validation=(), share=0.0, target="scribbles"):
    return arrange_cases(
        training, validation, target=target, class_names=("liver", "spleen"), scribble_share=share, seed=0
    )


def test_missing_annotations_are_named_before_anything_is_loaded(tmp_path):
    cohort = make_cohort(tmp_path, 7, scribbled=False)
    with pytest.raises(CohortError, match=r"case0, .*case4 and 2 more\..*crossmodalseg scribble"):
        check_annotations(cohort.cases, "scribbles", "pce")
    check_annotations(cohort.cases, "mask", "full")


def test_the_ct_goes_into_the_ct_branch_whatever_the_order_of_the_cohort(tmp_path):
    cohort = make_cohort(tmp_path, 2)
    turned = replace(cohort, modalities=("mr", "ct"))
    given, other = (prepare_cases(each, each.cases, Preprocessing(), cache_dir=None) for each in (cohort, turned))
    for first, second in zip(given, other, strict=True):
        np.testing.assert_array_equal(first.images, second.images)
    config = tiny_config(method="cmfnet", steps=1, validate_every=1, validation_share=0.5)
    folders = [train(each, tmp_path / name, config, accelerator="cpu") for name, each in (("a", cohort), ("b", turned))]
    cards = [json.loads((folder / "model.json").read_text(encoding="utf-8")) for folder in folders]
    assert cards[0]["modalities"] == cards[1]["modalities"] == ["ct", "mr"]
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()


def test_cases_are_prepared_once(tmp_path):
    cohort = make_cohort(tmp_path, 2)
    events = []
    cases = prepare_cases(
        cohort, cohort.cases, Preprocessing(), cache_dir=tmp_path / "cache", progress=lambda *e: events.append(e)
    )
    assert [case.name for case in cases] == ["case0", "case1"] and len(list((tmp_path / "cache").iterdir())) == 2
    assert [event[:2] for event in events] == [(1, 2), (2, 2)]
    again = prepare_cases(cohort, cohort.cases, Preprocessing(), cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(again[1].images, cases[1].images)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        prepare_cases(cohort, cohort.cases, Preprocessing(), cache_dir=None, cancel=cancel)


def test_masks_are_the_first_choice_of_the_validation():
    mask = np.ones(SHAPE, np.uint8)
    both = [prepared("b"), prepared("c", mask=mask)]
    cases = arrange([prepared()], both, share=0.5)
    assert cases.kind == "masks" and [case.name for case, _ in cases.validation] == ["c"]
    assert cases.validation[0][1] is mask
    assert arrange([prepared()], both[:1]).kind == "scribbles"


def test_without_validation_cases_scribbles_are_held_out():
    cases = arrange([prepared()], share=0.34)
    assert cases.kind == "held-out scribbles"
    kept, held = cases.training[0].scribbles, cases.validation[0][1]
    assert (held != 255).any(0).any() and ((kept == 255) | (held == 255)).all()
    assert arrange([prepared()]).kind == "none"


def test_a_case_without_any_label_is_named():
    with pytest.raises(LabelError, match="of the case empty hold no labelled voxel"):
        arrange([prepared(), prepared("empty", ())])


def test_a_missing_background_is_explained():
    with pytest.raises(LabelError, match=r"no background.*and spleen.*declare"):
        arrange([prepared(classes=(1,))])


def test_missing_classes_are_named():
    with pytest.raises(LabelError, match="No training case holds scribbles of: spleen"):
        arrange([prepared(classes=(0, 1))])
    arrange([prepared(classes=(0, 1)), prepared(classes=(0, 2))])
    with pytest.raises(LabelError, match="holds mask of: liver, spleen"):
        arrange([replace(prepared(), mask=np.zeros(SHAPE, np.uint8))], target="mask")
