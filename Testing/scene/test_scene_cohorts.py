"""The cases of a scene as a cohort: at their places in the world, with all that can be wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scene_support import RAS_TO_LPS, add_segment, add_segmentation, add_volume, paint, segment_named, vtk_matrix

from CrossModalSegLib.cohort import load_case, read_cohort
from CrossModalSegLib.errors import Cancelled, CohortError, InputError, LabelError, OutputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.scene.cohorts import CohortWriter, images_of, scribbled_cases, set_images
from CrossModalSegLib.scene.scribbles import prepare_scribbles
from CrossModalSegLib.scene.workflow import Workflow
from CrossModalSegLib.worker.client import WorkerClient
from CrossModalSegLib.worker.jobs import write_case
from grids import grid_affine
from worker_stand_in import FakeClient

TABLE = LabelTable.from_names(["liver", "spleen"])
SHAPE = (5, 6, 7)
OBLIQUE = grid_affine((0.8, 1.1, 3.0), (0.3, -0.2, 0.5), (10, -40, 100))
MOVED = grid_affine((1, 1, 1), (0.1, 0.2, -0.4), (5, 6, 7))


def case(scene, name: str, table: LabelTable = TABLE, values: tuple[int, ...] = (0, 1, 2)):
    """CT and MR on an oblique grid under a transform, with one voxel a class."""
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    transform.SetMatrixTransformToParent(vtk_matrix(MOVED))
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    ct, mr = (
        add_volume(scene, array + shift, OBLIQUE, f"{name}{kind}", transform) for kind, shift in (("", 0), (" MR", 9))
    )
    node = prepare_scribbles(scene, ct, table, f"{name} scribbles")
    for value in values:
        stroke = np.zeros(SHAPE, np.uint8)
        stroke[2, 3, value] = 1
        segment = "Background" if value == 0 else table.labels[value - 1].name
        paint(node, segment_named(node, segment), stroke, OBLIQUE)
    set_images(node, {"ct": ct, "mr": mr})
    return node, ct, mr


def write_cases(scene, folder: Path) -> Path:
    """What workflow and worker do together, in this thread."""
    writer = CohortWriter(scene, folder)
    try:
        while (make_request := writer.next_case()) is not None:
            surroundings = SimpleNamespace(progress=lambda *_: None, cancel=CancelToken())
            writer.take(write_case.run(make_request(), surroundings))
        return writer.close()
    finally:
        writer.cancel()


def test_cases_come_back_voxel_for_voxel_where_they_lie_in_the_world(scene, tmp_path: Path) -> None:
    case(scene, "a/b: c"), case(scene, "a/b: c")
    path = write_cases(scene, tmp_path / "cases")
    cohort = read_cohort(path)
    assert [each.name for each in cohort.cases] == ["a_b_ c", "a_b_ c_2"]
    assert cohort.modalities == ("ct", "mr") and cohort.labels.names == TABLE.names
    loaded = load_case(cohort.cases[0], cohort)
    np.testing.assert_allclose(loaded.images["ct"].affine, RAS_TO_LPS @ MOVED @ OBLIQUE, atol=1e-4)
    np.testing.assert_array_equal(loaded.images["mr"].array.ravel(), np.arange(np.prod(SHAPE)) + 9)
    expected = np.full(SHAPE, 255)
    expected[2, 3, :3] = (0, 1, 2)
    np.testing.assert_array_equal(loaded.scribbles.array, expected)


def test_names_that_no_file_can_have_are_made_usable(scene, tmp_path: Path) -> None:
    case(scene, "a\tb"), case(scene, " .. ")
    cohort = read_cohort(write_cases(scene, tmp_path / "cases"))
    assert [each.name for each in cohort.cases] == ["a_b", "case"]


def test_images_are_remembered_changed_and_forgotten_with_their_nodes(scene) -> None:
    node, ct, mr = case(scene, "a")
    assert images_of(node) == {"ct": ct, "mr": mr}
    set_images(node, {"mr": mr})
    assert images_of(node) == {"mr": mr}
    scene.RemoveNode(mr)
    assert images_of(node) == {} and scribbled_cases(scene) == []


def test_strokes_that_were_not_prepared_here_are_a_case_once_they_were_fitted(scene, tmp_path: Path) -> None:
    _, ct, mr = case(scene, "a")
    mine = add_segmentation(scene, {"liver": np.zeros(SHAPE), "spleen": np.zeros(SHAPE)}, OBLIQUE, "drawn elsewhere")
    mine.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
    for number, name in enumerate(("liver", "spleen", "Background")):
        stroke = np.zeros(SHAPE, np.uint8)
        stroke[1, 2, number] = 1
        if name == "Background":
            add_segment(mine, name, name, stroke, OBLIQUE)
        else:
            paint(mine, segment_named(mine, name), stroke, OBLIQUE)
    assert mine not in scribbled_cases(scene)
    Workflow(scene, FakeClient()).fit({"ct": ct, "mr": mr}, mine, TABLE)
    assert mine in scribbled_cases(scene)
    cohort = read_cohort(write_cases(scene, tmp_path / "cases"))
    loaded = load_case(cohort.cases[1], cohort)
    np.testing.assert_array_equal(loaded.scribbles.array[1, 2, :4], (1, 2, 0, 255))


def test_a_scene_without_cases_is_explained(scene, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="holds no case yet"):
        write_cases(scene, tmp_path / "cases")
    assert not (tmp_path / "cases").exists()


def test_cases_that_do_not_fit_together_are_named_and_nothing_is_written(scene, tmp_path: Path) -> None:
    case(scene, "a"), case(scene, "b", LabelTable.from_names(["liver"]), (0, 1))
    with pytest.raises(LabelError, match="'a scribbles' has liver, spleen, and 'b scribbles' liver"):
        write_cases(scene, tmp_path / "cases")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_of_the_folder_that_was_chosen(scene, tmp_path: Path, monkeypatch) -> None:
    case(scene, "a")

    def fail(*_: object) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr("SimpleITK.WriteImage", fail)
    with pytest.raises(OutputError) as caught:
        write_cases(scene, tmp_path / "cases")
    assert str(caught.value).startswith(f"'{tmp_path / 'cases' / 'a_ct.nrrd'}' could not be written completely")
    assert list(tmp_path.iterdir()) == []


def test_a_case_without_background_is_named(scene, tmp_path: Path) -> None:
    case(scene, "a", values=(1, 2))
    with pytest.raises(LabelError, match="no scribble of Background in 'a scribbles'"):
        write_cases(scene, tmp_path / "cases")


def test_a_folder_with_content_is_not_touched(scene, tmp_path: Path) -> None:
    case(scene, "a")
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError):
        write_cases(scene, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_cases_with_other_images_are_refused_and_nothing_is_left(scene, tmp_path: Path) -> None:
    case(scene, "a")
    node, ct, _ = case(scene, "b")
    set_images(node, {"ct": ct})
    with pytest.raises(CohortError, match="'a scribbles' has ct, mr, and 'b scribbles' ct"):
        write_cases(scene, tmp_path / "cases")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def workflow(scene, tmp_path: Path):
    client = WorkerClient(jobs_folder=tmp_path)
    yield Workflow(scene, client)
    client.stop()


def test_the_worker_writes_one_case_after_the_other(scene, workflow, tmp_path: Path) -> None:
    case(scene, "a"), case(scene, "b")
    told = []
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    task.on_progress = lambda done, total, message, values: told.append((done, total, message))
    path = task.wait(60)
    assert path == tmp_path / "deep" / "cases" / "cohort.json"
    assert [each.name for each in read_cohort(path).cases] == ["a", "b"]
    assert told[0] == (0, 2, "writing case 1 of 2") and (1, 2, "writing case 2 of 2") in told
    assert not list(path.parent.parent.glob(".*"))


def test_a_fault_in_a_later_case_leaves_nothing(scene, workflow, tmp_path: Path) -> None:
    case(scene, "a"), case(scene, "b", values=(1, 2))
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    with pytest.raises(InputError, match="no scribble of Background in 'b scribbles'"):
        task.wait(60)
    assert task.state == "failed" and not (tmp_path / "deep").exists()


def test_cancelled_or_deleted_cases_leave_nothing(scene, workflow, tmp_path: Path) -> None:
    node, *_ = case(scene, "a")
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    task.cancel()
    with pytest.raises(Cancelled):
        task.wait(60)
    assert not (tmp_path / "deep").exists()
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    scene.RemoveNode(node)
    with pytest.raises(InputError, match="'a scribbles' is not in the scene any more"):
        task.wait(60)
    task.job.wait(60)  # the worker may write until it hears of it
    assert not (tmp_path / "deep").exists()


def test_an_image_that_is_deleted_meanwhile_is_named(scene, workflow, tmp_path: Path) -> None:
    _, _, mr = case(scene, "a")
    case(scene, "b")
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    scene.RemoveNode(mr)
    with pytest.raises(InputError, match="'a MR' is not in the scene any more"):
        task.wait(60)
    task.job.wait(60)
    assert not (tmp_path / "deep").exists()


def test_who_cancels_between_two_cases_gets_no_more_of_them(scene, workflow, tmp_path: Path) -> None:
    case(scene, "a"), case(scene, "b"), case(scene, "c")
    task = workflow.write_cases(tmp_path / "deep" / "cases")
    first = task.job
    first.cancel = lambda force: None  # its result is on the way already
    task.cancel()
    with pytest.raises(Cancelled):
        task.wait(60)
    assert first.state == "done" and task.job is first and not (tmp_path / "deep").exists()
