from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_cohort import make_cohort

from CrossModalSegLib.cohort import Case, Cohort
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import CohortError
from CrossModalSegLib.io import write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.progress import CancelToken, SilentProgress
from CrossModalSegLib.training.referring.stacks import choose_contrasts, choose_members, load_stacks
from CrossModalSegLib.volume import Volume
from grids import rotation


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return make_cohort(tmp_path_factory.mktemp("cohort"))


def with_labels(cohort: Cohort, *names: str) -> Cohort:
    return replace(cohort, labels=LabelTable.from_names(names))


def test_each_cohort_is_split_and_labels_are_joined_by_name(cohort):
    members = choose_members([with_labels(cohort, "tumour"), with_labels(cohort, "liver", "tumour")], None, 0.34, 0)
    assert members.labels.names == ("tumour", "liver")
    assert len(members.training) == 4 and len(members.validation) == 2
    assert [len(names) for names in members.names.values()] == [4, 2]


def test_label_values_become_those_of_the_joint_table(cohort):
    members = choose_members([with_labels(cohort, "liver"), with_labels(cohort, "tumour", "liver")], None, 0.0, 0)
    stacks = load_stacks(
        members.training,
        members.labels,
        ("mr",),
        SlicePreprocessing(32),
        resample=False,
        progress=SilentProgress(),
        cancel=CancelToken(),
    )
    assert [np.unique(stack.labels).tolist() for stack in stacks] == [[0, 1]] * 3 + [[0, 2]] * 3
    assert all(list(stack.images) == ["mr"] for stack in stacks)
    assert [stack.annotated for stack in stacks] == [(1,)] * 3 + [(2, 1)] * 3


def test_names_of_labels_are_the_same_whatever_their_capitals(cohort):
    members = choose_members([with_labels(cohort, "Liver"), with_labels(cohort, "tumour", "liver")], None, 0.0, 0)
    assert members.labels.names == ("Liver", "tumour")
    options = {"resample": False, "progress": SilentProgress(), "cancel": CancelToken()}
    stacks = load_stacks(members.training, members.labels, ("mr",), SlicePreprocessing(32), **options)
    assert [np.unique(stack.labels).tolist() for stack in stacks] == [[0, 1]] * 3 + [[0, 2]] * 3


def test_askew_slices_of_all_cases_are_turned_alike(tmp_path):
    """Columns 45 degrees between two sides of the patient: a little to either side, they were closest to the other."""
    directions = np.stack([(1.0, 1.0, 0.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -2.0)], axis=1)
    cases = []
    for number, turn in enumerate((0.1, -0.1)):
        affine = np.eye(4)
        affine[:3, :3] = directions / np.linalg.norm(directions, axis=0) @ rotation(0.0, 0.0, turn) * (1.0, 1.0, 6.0)
        files = {name: tmp_path / f"{name} {number}.nrrd" for name in ("mr", "mask")}
        image = Volume(np.random.default_rng(0).random((3, 32, 32), np.float32), affine)
        write_volume(image, files["mr"])
        write_volume(image.with_array((image.array > 0.8).astype(np.uint8)), files["mask"])
        cases.append(Case(f"heart {number}", {"mr": files["mr"]}, mask=files["mask"]))
    cohort = Cohort(("mr",), LabelTable.from_names(["wall"]), ScribbleConvention.INTERNAL, tuple(cases), tmp_path)
    members = choose_members([cohort], None, 0.0, 0)
    options = {"resample": False, "progress": SilentProgress(), "cancel": CancelToken()}
    one, other = load_stacks(members.training, members.labels, ("mr",), SlicePreprocessing(32), **options)
    np.testing.assert_allclose(one.images["mr"], other.images["mr"], atol=1e-5)
    np.testing.assert_array_equal(one.labels, other.labels)
    # And those that are held out like those that are trained on.
    (held_out,) = load_stacks(members.training[1:], members.labels, ("mr",), SlicePreprocessing(32), **options)
    assert not np.allclose(held_out.images["mr"], one.images["mr"], atol=1e-5)
    options["like"] = one.frame
    (held_out,) = load_stacks(members.training[1:], members.labels, ("mr",), SlicePreprocessing(32), **options)
    np.testing.assert_allclose(held_out.images["mr"], one.images["mr"], atol=1e-5)


def test_contrasts_are_all_or_those_wanted(cohort):
    members = choose_members([cohort], None, 0.0, 0)
    assert choose_contrasts(members, None) == ("ct", "mr")
    assert choose_contrasts(members, ("mr",)) == ("mr",)
    with pytest.raises(CohortError, match="to train on are t1; the cohorts have ct, mr"):
        choose_contrasts(members, ("t1",))


def test_a_cohort_without_any_wanted_contrast_is_refused(cohort):
    images = {"t1": Path("a.nii.gz")}
    other = replace(cohort, modalities=("t1",), cases=tuple(replace(case, images=images) for case in cohort.cases))
    members = choose_members([cohort, other], None, 0.0, 0)
    with pytest.raises(CohortError, match="one of them has only t1"):
        choose_contrasts(members, ("ct",))


def test_cases_without_masks_are_named(cohort):
    bare = replace(cohort, cases=tuple(replace(case, mask=None) for case in cohort.cases))
    with pytest.raises(CohortError, match="learns from masks, but these cases have none: case0, case1, case2"):
        choose_members([bare], None, 0.0, 0)
