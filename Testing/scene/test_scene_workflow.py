"""What the functions on nodes ask the worker for, and what they do with its answers, on real MRML."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from scene_support import (
    RAS_TO_LPS,
    TABLE,
    add_bent_transform,
    add_segmentation,
    add_transform,
    add_volume,
    paint,
    segment_named,
    vtk_image,
    vtk_matrix,
)
from vtkmodules.vtkCommonCore import vtkCommand

from CrossModalSegLib.errors import Cancelled, GeometryError, InputError, LabelError, OutputError, WorkerError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.geometry import world_affine
from CrossModalSegLib.scene.nodes import nodes_of
from CrossModalSegLib.scene.scribbles import BACKGROUND, read_scribbles
from CrossModalSegLib.scene.segmentations import read_mask, write_segmentation
from CrossModalSegLib.scene.volumes import read_grid, read_volume
from CrossModalSegLib.scene.workflow import Workflow
from CrossModalSegLib.volume import same_geometry
from CrossModalSegLib.worker.messages import (
    Answer,
    AutoBackgroundRequest,
    AutoBackgroundResult,
    EvaluateResult,
    FitRequest,
    FitResult,
    ModelInfoResult,
    ReferRequest,
    ReferResult,
    ReferStrokesRequest,
    RegisterResult,
    SegmentResult,
)
from grids import grid_affine
from worker_stand_in import FakeClient

SHAPE = (5, 7, 9)
OBLIQUE = grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0))
MOVE = grid_affine((1, 1, 1), (0.4, 0.1, -0.7), (15.0, -40.0, 8.0))
SMALL = grid_affine((1, 1, 1), (0.05, 0.02, -0.1), (3.0, -4.0, 2.0))
OTHER_SHAPE = (6, 5, 4)
KEPT = []  # observers: one that is collected with its node has lost its defaults when it is called


def random_labels(seed: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def workflow(scene, client) -> Workflow:
    return Workflow(scene, client)


@pytest.fixture
def ct(scene):
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    return add_volume(scene, array, OBLIQUE, "CT", add_transform(scene, MOVE, name="above CT"))


@pytest.fixture
def mr(scene):
    array = np.random.default_rng(1).normal(size=OTHER_SHAPE).astype(np.float32)
    affine = grid_affine((2, 2, 5), (0.1, 0.2, 0.3), (-20, 5, 830))
    return add_volume(scene, array, affine, "MR", add_transform(scene, SMALL @ MOVE, name="above MR"))


@pytest.fixture
def scribbles(workflow, ct):
    node = workflow.prepare_scribbles(ct, TABLE)
    for value, name in enumerate((*TABLE.names, BACKGROUND)):
        mask = np.zeros(SHAPE, bool)
        mask[value, 2, 1:4] = True
        paint(node, segment_named(node, name), mask, OBLIQUE)
    return node


def fit_result(volume, array: np.ndarray, extras: bool = False) -> FitResult:
    grid = read_grid(volume)
    field = grid.with_array(np.full(grid.shape, 0.25, np.float32))
    return FitResult(
        labels=grid.with_array(array),
        milliliters={label.name: float(label.value) for label in TABLE.labels},
        probabilities={"liver": field} if extras else {},
        uncertainty=field if extras else None,
        history={"total": [1.0]},
        answers=(Answer("first answer", 1.0, None, True),),
        resumed=False,
        is_complete=True,
        device="cpu",
        seconds=1.0,
    )


def content(node) -> list[list[str]]:
    table = node.GetTable()
    columns = range(table.GetNumberOfColumns())
    return [[table.GetValue(row, column).ToString() for column in columns] for row in range(table.GetNumberOfRows())]


# --- fit --------------------------------------------------------------------------------------------------------------


def test_a_fit_asks_for_what_is_in_the_scene(workflow, client, ct, mr, scribbles):
    workflow.fit({"ct": ct, "mr": mr}, scribbles, TABLE, seconds=30, device="cpu", start="prior")
    request = client.jobs[0].request
    assert isinstance(request, FitRequest)
    assert list(request.images) == ["ct", "mr"]
    for name, node in (("ct", ct), ("mr", mr)):
        assert same_geometry(request.images[name], read_volume(node), 1e-9)
        np.testing.assert_array_equal(request.images[name].array, read_volume(node).array)
    np.testing.assert_array_equal(request.scribbles.array, read_scribbles(scribbles, ct, TABLE).array)
    assert same_geometry(request.scribbles, request.images["ct"], 1e-9)
    assert (request.labels, request.seconds, request.device, request.start) == (TABLE, 30, "cpu", "prior")


def test_a_fit_shows_previews_and_its_result_and_is_undone_in_one_step(scene, workflow, client, ct, mr, scribbles):
    strokes = read_scribbles(scribbles, ct, TABLE).array
    before = {node.GetID() for node in all_nodes(scene)}
    task = workflow.fit({"ct": ct, "mr": mr}, scribbles, TABLE)
    seen, losses, said, results = [], [], [], []
    task.on_preview, task.on_done, task.on_log = seen.append, results.append, said.append
    task.on_progress = lambda done, total, message, values: losses.append((done, total, message, dict(values)))
    job = client.jobs[0]
    job.tell(loss=2.0)
    job.tell(loss=1.0)
    job.preview(read_grid(ct).with_array(random_labels(1)))
    np.testing.assert_array_equal(read_mask(seen[0], ct, TABLE).array, random_labels(1))
    job.preview(read_grid(ct).with_array(random_labels(2)))
    job.log("Memory is short.")
    assert (task.state, task.progress.eta) == ("running", 3.0)
    job.done(fit_result(ct, random_labels(3), extras=True))
    assert task.state == "done"
    assert results == [task.result]
    assert losses[0] == (1, 2, "fit", {"loss": 2.0})
    assert said == ["Memory is short."]
    assert workflow.curve.table.GetTable().GetNumberOfRows() == 2
    node = task.result.segmentation
    assert seen == [node, node]
    assert node.GetName() == "CT segmentation"
    assert node.GetTransformNodeID() == ct.GetTransformNodeID()
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(3))
    assert task.result.uncertainty.GetName() == "CT segmentation: uncertainty"
    assert same_geometry(read_grid(task.result.probabilities[ct.GetID()]["liver"]), read_grid(ct), 1e-6)
    assert content(task.result.table)[0] == ["CT", "liver", "1"]
    np.testing.assert_array_equal(read_scribbles(scribbles, ct, TABLE).array, strokes)
    assert workflow.can_undo
    assert workflow.undo()
    assert {node.GetID() for node in all_nodes(scene)} == before
    np.testing.assert_array_equal(read_scribbles(scribbles, ct, TABLE).array, strokes)
    assert not workflow.undo()


def all_nodes(scene) -> list:
    return [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]


def test_a_second_fit_goes_on_in_the_same_places(scene, workflow, client, ct, scribbles):
    first = workflow.fit({"ct": ct}, scribbles, TABLE, uncertainty=True)
    client.jobs[0].done(fit_result(ct, random_labels(1), extras=True))
    second = workflow.fit({"ct": ct}, scribbles, TABLE)
    client.jobs[1].preview(read_grid(ct).with_array(random_labels(5)))
    client.jobs[1].done(fit_result(ct, random_labels(2), extras=True))
    assert second.result.segmentation is first.result.segmentation
    assert second.result.uncertainty is first.result.uncertainty
    assert second.result.table is first.result.table
    assert client.jobs[0].request.case == client.jobs[1].request.case != ""
    workflow.undo()
    np.testing.assert_array_equal(read_mask(first.result.segmentation, ct, TABLE).array, random_labels(1))
    assert scene.IsNodePresent(first.result.uncertainty)
    other = add_volume(scene, np.zeros(SHAPE, np.float32), OBLIQUE, "CT", ct.GetParentTransformNode())
    workflow.fit({"ct": other}, add_strokes(workflow, other), TABLE)
    assert client.jobs[2].request.case != client.jobs[0].request.case


def add_strokes(workflow, volume, shape=SHAPE):
    node = workflow.prepare_scribbles(volume, TABLE)
    own = RAS_TO_LPS @ world_affine(volume)
    if volume.GetParentTransformNode() is not None:
        own = np.linalg.solve(MOVE if shape == SHAPE else SMALL @ MOVE, own)
    for value, name in enumerate((*TABLE.names, BACKGROUND)):
        mask = np.zeros(shape, bool)
        mask[value, 2, 1:4] = True
        paint(node, segment_named(node, name), mask, own)
    return node


def test_what_is_gone_is_not_offered_to_be_undone(scene, workflow, client, ct, scribbles):
    for number, name in enumerate(("first", "second")):
        task = workflow.fit({"ct": ct}, scribbles, TABLE, name=name)
        client.jobs[-1].done(fit_result(ct, random_labels(number)))
        assert task.state == "done"
    scene.RemoveNode(task.result.segmentation)
    for table in nodes_of(scene, "vtkMRMLTableNode"):
        scene.RemoveNode(table)
    assert workflow.undo()  # the first one: of the second nothing is left
    assert scene.GetFirstNodeByName("first") is None
    workflow.fit({"ct": ct}, scribbles, TABLE, name="third")
    client.jobs[-1].done(fit_result(ct, random_labels(3)))
    assert workflow.can_undo
    scene.Clear(0)
    assert not workflow.can_undo and not workflow.undo()


def test_results_of_scenes_that_were_closed_leave_the_memory(scene, workflow, client):
    gone = set()
    for number in range(2):
        image = add_volume(scene, np.zeros(SHAPE, np.float32), OBLIQUE, "CT")
        workflow.segment({"ct": image}, "model")
        labels = read_grid(image).with_array(random_labels(number))
        client.jobs.pop().done(SegmentResult(labels, TABLE, {}, {}, None, "cpu", 1.0))
        result = scene.GetFirstNodeByName("CT segmentation")
        KEPT.append(lambda *_, add=gone.add, number=number: add(number))
        result.AddObserver(vtkCommand.DeleteEvent, KEPT[-1])
        del image, result
        scene.Clear(0)
    gc.collect()
    assert 0 in gone


def test_undo_goes_back_ten_steps(scene, workflow, client, ct, scribbles):
    """All further ones would keep the voxels of a day's work in memory."""
    for seed in range(12):
        task = workflow.fit({"ct": ct}, scribbles, TABLE)
        client.jobs[-1].done(fit_result(ct, random_labels(seed)))
    for seed in range(10, 0, -1):
        assert workflow.undo()
        np.testing.assert_array_equal(read_mask(task.result.segmentation, ct, TABLE).array, random_labels(seed))
    assert not workflow.can_undo


def test_pause_finish_cancel(workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    task.pause()
    task.resume()
    task.finish()
    assert client.jobs[0].asked == ["pause", "resume", "finish"]


def test_a_segmentation_that_takes_no_result_is_named_before_any_work(scene, workflow, client, ct, mr, scribbles):
    result = write_segmentation(
        scene, read_grid(mr).with_array(random_labels(1, OTHER_SHAPE)), TABLE, mr, "MR segmentation"
    )
    assert result.GetSegmentation().CreateRepresentation("Closed surface")
    result.GetSegmentation().SetSourceRepresentationName("Closed surface")
    for begin in (
        lambda: workflow.refer(ct, [mr], scribbles, TABLE),
        lambda: workflow.segment({"mr": mr}, "model"),
        lambda: workflow.fit({"ct": ct}, scribbles, TABLE, into=result),
    ):
        with pytest.raises(InputError, match="'MR segmentation' holds surfaces"):
            begin()
    for begin in (
        lambda: workflow.segment({"ct": ct}, "model", into=scribbles),
        lambda: workflow.fit({"ct": ct}, scribbles, TABLE, into=scribbles),
    ):
        with pytest.raises(InputError, match="'Scribbles' holds scribbles, which are never overwritten"):
            begin()
    assert client.jobs == []


def test_a_former_result_that_was_bent_is_named_before_any_work(scene, workflow, client, ct, scribbles):
    former = write_segmentation(scene, read_grid(ct).with_array(random_labels(1)), TABLE, ct, "CT segmentation")
    former.SetAndObserveTransformNodeID(add_bent_transform(scene).GetID())
    for begin in (lambda: workflow.fit({"ct": ct}, scribbles, TABLE), lambda: workflow.segment({"ct": ct}, "model")):
        with pytest.raises(GeometryError, match="'CT segmentation' lies under a transform that is not linear"):
            begin()
    assert client.jobs == []


@pytest.mark.parametrize("kind", ["cancelled", "crash", "memory"])
@pytest.mark.parametrize("had_result", [False, True])
def test_what_fails_or_is_cancelled_leaves_the_scene_as_it_was(
    scene, workflow, client, ct, scribbles, kind, had_result
):
    node = None
    if had_result:
        labels = read_grid(ct).with_array(random_labels(1))
        node = write_segmentation(scene, labels, TABLE, ct, "CT segmentation")
    strokes = read_scribbles(scribbles, ct, TABLE).array
    before = scene.GetNumberOfNodes()
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    said = []
    task.on_error = said.append
    job = client.jobs[0]
    for loss in (2.0, 1.0):
        job.tell(loss=loss)
    job.preview(read_grid(ct).with_array(random_labels(2)))
    job.fail(kind, "The worker stopped unexpectedly; your scribbles are untouched.")
    assert task.state == ("cancelled" if kind == "cancelled" else "failed")
    assert said == [task.error] == ["The worker stopped unexpectedly; your scribbles are untouched."]
    assert scene.GetNumberOfNodes() == before
    if had_result:
        np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(1))
    np.testing.assert_array_equal(read_scribbles(scribbles, ct, TABLE).array, strokes)
    assert not workflow.can_undo
    # What comes late is ignored.
    job.preview(read_grid(ct).with_array(random_labels(3)))
    job.tell(loss=1.0)
    job.log("late")
    assert scene.GetNumberOfNodes() == before


def test_a_result_that_comes_after_cancelling_is_dropped(scene, workflow, client, ct, mr, scribbles):
    """The worker was done before it heard of it, or the large arrays of its answer were still being read."""
    before = scene.GetNumberOfNodes()
    fit = workflow.fit({"ct": ct}, scribbles, TABLE)
    client.jobs[0].preview(read_grid(ct).with_array(random_labels(1)))
    refer = workflow.refer(ct, [mr], scribbles, TABLE)
    results = fit_result(ct, random_labels(2)), refer_result({"reference": ct, "MR": mr}, 1)
    for task, job, result in zip((fit, refer), client.jobs, results, strict=True):
        task.cancel()
        job.done(result)
        assert (task.state, task.error, task.result) == ("cancelled", "The job was stopped.", None)
    assert scene.GetNumberOfNodes() == before
    assert not workflow.can_undo


def test_who_cancels_because_the_scene_is_closed_hears_so(scene, workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    task.cancel()
    scene.Clear(0)
    client.jobs[0].fail("cancelled", "The job was stopped.")
    assert task.state == "cancelled"
    assert task.error == "'CT' is not in the scene any more: it was deleted, or the scene was closed."


def test_a_model_that_was_finished_before_it_was_cancelled_is_there(workflow, client, tmp_path):
    task = workflow.train(tmp_path / "cohort.json", tmp_path / "model")
    task.cancel()
    client.jobs[0].done(ModelInfoResult("the model", 7))
    assert (task.state, task.result) == ("done", "the model")


def test_waiting_gives_the_result_or_raises(workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    with pytest.raises(TimeoutError, match="has not ended within 0.01 s"):
        task.wait(0.01)
    task.cancel()
    with pytest.raises(Cancelled, match="The job was stopped"):
        task.wait()
    done = workflow.fit({"ct": ct}, scribbles, TABLE)
    client.jobs[1].done(fit_result(ct, random_labels(1)))
    assert done.wait(0) is done.result
    for kind, error in (("input", InputError), ("disk", OutputError), ("crash", WorkerError), ("memory", WorkerError)):
        task = workflow.fit({"ct": ct}, scribbles, TABLE)
        client.jobs[-1].fail(kind, "no")
        with pytest.raises(error, match="no"):
            task.wait()


def test_missing_strokes_and_images_are_said_before_anything_starts(scene, workflow, client, ct, mr, scribbles):
    empty = workflow.prepare_scribbles(ct, TABLE, "empty")
    with pytest.raises(
        LabelError, match="no scribble of liver, left kidney, Tumör links, Background in 'empty' on 'CT'"
    ):
        workflow.fit({"ct": ct}, empty, TABLE)
    with pytest.raises(LabelError, match="no scribble of liver, left kidney, Tumör links in 'empty'"):
        workflow.refer(ct, [mr], empty, TABLE)
    with pytest.raises(InputError, match="There is no image to segment"):
        workflow.fit({}, scribbles, TABLE)
    with pytest.raises(InputError, match="An image is missing"):
        workflow.fit({"ct": ct, "mr": None}, scribbles, TABLE)
    with pytest.raises(InputError, match="'CT' was chosen twice"):
        workflow.fit({"ct": ct, "mr": ct}, scribbles, TABLE)
    with pytest.raises(InputError, match="'CT' was chosen twice"):
        workflow.register(ct, ct)
    scene.RemoveNode(mr)
    with pytest.raises(InputError, match="'MR' is not in the scene any more"):
        workflow.fit({"ct": ct, "mr": mr}, scribbles, TABLE)
    assert client.jobs == []


# --- what happens meanwhile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["progress", "preview", "done"])
@pytest.mark.parametrize("what", ["CT", "MR", "Scribbles", "everything"])
def test_deleted_nodes_end_the_work(scene, workflow, client, ct, mr, scribbles, event, what):
    task = workflow.fit({"ct": ct, "mr": mr}, scribbles, TABLE)
    said = []
    task.on_error = said.append
    job, labels, result = client.jobs[0], read_grid(ct).with_array(random_labels(1)), fit_result(ct, random_labels(2))
    job.preview(labels)
    if what == "everything":
        scene.Clear(0)
    else:
        scene.RemoveNode({"CT": ct, "MR": mr, "Scribbles": scribbles}[what])
    before = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    {"progress": lambda: job.tell(loss=1.0), "preview": lambda: job.preview(labels), "done": lambda: job.done(result)}[
        event
    ]()
    name = "CT" if what == "everything" else what
    assert task.state == "failed"
    assert said == [f"'{name}' is not in the scene any more: it was deleted, or the scene was closed."]
    if event != "done":
        assert job.asked == ["cancel"]
        job.fail("cancelled", "The job was stopped.")
    assert len(said) == 1
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == (0 if what in ("everything", "Scribbles") else 1)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before
    with pytest.raises(InputError, match="not in the scene any more"):
        task.wait()


def test_a_volume_that_was_moved_meanwhile_takes_its_result_along(workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    preview, result = read_grid(ct).with_array(random_labels(1)), fit_result(ct, random_labels(2))
    client.jobs[0].preview(preview)
    ct.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(SMALL @ MOVE))
    client.jobs[0].preview(preview)
    client.jobs[0].done(result)
    node = task.wait().segmentation
    np.testing.assert_array_equal(read_mask(node, ct, TABLE).array, random_labels(2))
    np.testing.assert_allclose(world_affine(ct), RAS_TO_LPS @ SMALL @ MOVE @ OBLIQUE, atol=1e-9)


def test_a_hardened_transform_changes_nothing(workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    result = fit_result(ct, random_labels(2))
    ct.SetAndObserveTransformNodeID(None)
    ct.SetIJKToRASMatrix(vtk_matrix(MOVE @ OBLIQUE))
    client.jobs[0].done(result)
    np.testing.assert_array_equal(read_mask(task.wait().segmentation, ct, TABLE).array, random_labels(2))


def test_a_volume_that_got_another_grid_meanwhile_gets_no_result(scene, workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    result = fit_result(ct, random_labels(2))
    ct.SetIJKToRASMatrix(vtk_matrix(SMALL @ OBLIQUE))
    before = scene.GetNumberOfNodes()
    client.jobs[0].done(result)
    assert task.state == "failed"
    assert "'CT' got another grid while the work ran" in task.error
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("who", ["ct", "mr"])
@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_an_image_that_is_changed_while_it_is_read_ends_the_work(workflow, client, ct, mr, scribbles, who, how):
    task = workflow.fit({"ct": ct, "mr": mr}, scribbles, TABLE)
    said = []
    task.on_error = said.append
    node = {"ct": ct, "mr": mr}[who]
    if how == "written to":
        node.GetImageData().GetPointData().GetScalars().Modified()  # as arrayFromVolumeModified does
    else:
        node.SetAndObserveImageData(vtk_image(np.zeros(read_grid(node).shape, np.float32)))
    client.jobs[0].sent()
    assert task.state == "failed"
    assert client.jobs[0].asked == ["cancel"]
    assert said == [
        f"The voxels of '{node.GetName()}' were changed while they were being read, so that what was read may be half "
        "old and half new. Start again."
    ]


def test_moves_and_displays_are_no_changes_of_voxels(scene, workflow, client, ct, scribbles):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    answer, result = read_grid(ct).with_array(random_labels(1)), fit_result(ct, random_labels(2))
    ct.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(SMALL @ MOVE))
    ct.CreateDefaultDisplayNodes()
    ct.GetDisplayNode().SetWindowLevel(3.0, 1.0)
    ct.GetDisplayNode().GetOutputImageDataConnection().GetProducer().Update()
    ct.SetName("other")
    client.jobs[0].sent()
    assert task.state == "running"
    # Once all is sent, others may do with the image what they want.
    ct.GetImageData().Modified()
    client.jobs[0].preview(answer)
    client.jobs[0].done(result)
    np.testing.assert_array_equal(read_mask(task.result.segmentation, ct, TABLE).array, random_labels(2))


def test_images_that_change_are_noticed_by_all_that_read_them(workflow, client, ct, mr, scribbles):
    for begin in (
        lambda: workflow.auto_background(ct, scribbles, TABLE),
        lambda: workflow.register(mr, ct),
        lambda: workflow.segment({"ct": ct}, "abdomen"),
        lambda: workflow.refer(mr, [ct], add_strokes(workflow, mr, read_grid(mr).shape), TABLE),
    ):
        task = begin()
        ct.GetImageData().Modified()
        client.jobs[-1].sent()
        assert task.state == "failed"
        assert "The voxels of 'CT' were changed while they were being read" in task.error


def test_strokes_are_sent_as_they_were_when_the_fit_began(workflow, client, ct, scribbles):
    strokes = read_scribbles(scribbles, ct, TABLE).array
    workflow.fit({"ct": ct}, scribbles, TABLE)
    mask = np.zeros(SHAPE, bool)
    mask[:, 5, 6] = True
    paint(scribbles, segment_named(scribbles, "liver"), mask, OBLIQUE)
    np.testing.assert_array_equal(client.jobs[0].request.scribbles.array, strokes)
    assert read_scribbles(scribbles, ct, TABLE).array[0, 5, 6] == 1


def test_an_answer_with_a_value_that_no_class_has_ends_the_fit(scene, workflow, client, ct, scribbles):
    before = scene.GetNumberOfNodes()
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    client.jobs[0].preview(read_grid(ct).with_array(np.full(SHAPE, 9, np.uint8)))
    assert task.state == "failed"
    assert "The mask holds the value 9" in task.error
    assert client.jobs[0].asked == ["cancel"]
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("what", ["a volume that is deleted", "a closed scene", "a cancelled fit"])
def test_an_answer_that_was_compared_comes_too_late(scene, workflow, client, ct, scribbles, what):
    task = workflow.fit({"ct": ct}, scribbles, TABLE)
    job = client.jobs[0]
    job.preview(read_grid(ct).with_array(random_labels(1)))
    late = job.digested(read_grid(ct).with_array(random_labels(2)))
    if what == "a volume that is deleted":
        scene.RemoveNode(ct)
    elif what == "a closed scene":
        scene.Clear(0)
    else:
        job.fail("cancelled", "The job was stopped.")
    job.show(late)
    assert task.state == ("cancelled" if what == "a cancelled fit" else "failed")
    results = 0 if what == "a closed scene" else 1  # the scribbles are left
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == results


def test_the_first_of_two_results_of_one_node_is_not_lost_by_the_second_s_failure(workflow, client, ct, scribbles):
    first = workflow.fit({"ct": ct}, scribbles, TABLE)
    second = workflow.fit({"ct": ct}, scribbles, TABLE)
    client.jobs[0].done(fit_result(ct, random_labels(1)))
    client.jobs[1].fail("crash", "The worker stopped unexpectedly.")
    assert second.state == "failed"
    np.testing.assert_array_equal(read_mask(first.result.segmentation, ct, TABLE).array, random_labels(1))


# --- segment ----------------------------------------------------------------------------------------------------------


def test_segment_has_the_model_s_classes(scene, workflow, client, ct):
    table = LabelTable.from_names(["spleen", "aorta"])
    task = workflow.segment({"ct": ct}, "abdomen", show_3d=True, probabilities=True)
    assert (client.jobs[0].request.model, client.jobs[0].request.probabilities) == ("abdomen", True)
    grid = read_grid(ct)
    labels = grid.with_array((random_labels(1) % 3).astype(np.uint8))
    field = grid.with_array(np.full(SHAPE, 0.25, np.float32))
    client.jobs[0].done(
        SegmentResult(labels, table, {"spleen": 1.0, "aorta": 2.0}, {"spleen": field}, None, "cpu", 1.0)
    )
    node = task.wait().segmentation
    np.testing.assert_array_equal(read_mask(node, ct, table).array, labels.array)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    before = scene.GetNumberOfNodes()
    again = workflow.segment({"ct": ct}, "abdomen", name="another")
    broken = SegmentResult(labels, table, {}, {"spleen": field, "aorta": None}, None, "cpu", 1.0)
    with pytest.raises(AttributeError):
        client.jobs[1].done(broken)
    assert again.state == "failed"
    assert scene.GetNumberOfNodes() == before


# --- refer ------------------------------------------------------------------------------------------------------------


def refer_result(volumes: dict, seed: int) -> ReferResult:
    labels = {
        name: read_grid(node).with_array(random_labels(seed, read_grid(node).shape)) for name, node in volumes.items()
    }
    return ReferResult(
        labels=labels,
        milliliters={name: {label.name: 1.5 for label in TABLE.labels} for name in volumes},
        probabilities={},
        reports={name: {} for name in volumes},
        tuning=None,
        device="cpu",
        seconds=1.0,
    )


def test_refer_gives_every_volume_a_segmentation_of_its_own(scene, workflow, client, ct, mr, scribbles):
    twin = add_volume(scene, np.zeros(OTHER_SHAPE, np.float32), np.diag([2.0, 2, 2, 1]), "MR")
    task = workflow.refer(ct, [mr, twin], scribbles, TABLE)
    request = client.jobs[0].request
    assert isinstance(request, ReferRequest)
    assert list(request.targets) == ["MR", "MR (2)"]
    volumes = {"reference": ct, "MR": mr, "MR (2)": twin}
    client.jobs[0].done(refer_result(volumes, 1))
    result = task.wait()
    assert list(result.segmentations) == [ct.GetID(), mr.GetID(), twin.GetID()]
    for volume in (ct, mr, twin):
        node = result.segmentations[volume.GetID()]
        assert node.GetTransformNodeID() == volume.GetTransformNodeID()
        shape = read_grid(volume).shape
        np.testing.assert_array_equal(read_mask(node, volume, TABLE).array, random_labels(1, shape))
    assert [row[:2] for row in content(result.table)[:4]] == [
        ["CT", "liver"],
        ["CT", "left kidney"],
        ["CT", "Tumör links"],
        ["MR", "liver"],
    ]
    workflow.undo()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_a_result_that_serves_as_strokes_stays_as_it_is(scene, workflow, client, ct, mr):
    labels = random_labels(5)
    labels[0, 0, :2] = 0, 1
    drawn = write_segmentation(scene, read_grid(ct).with_array(labels), TABLE, ct, "CT segmentation")
    referred = workflow.refer(ct, [mr], drawn, TABLE)
    client.jobs[0].done(refer_result({"reference": ct, "MR": mr}, 1))
    background = drawn.GetSegmentation().AddEmptySegment("Background", "Background")
    assert background
    paint(drawn, background, labels == 0, OBLIQUE)
    fitted = workflow.fit({"ct": ct}, drawn, TABLE)
    client.jobs[1].done(fit_result(ct, random_labels(2)))
    assert referred.result.segmentation is fitted.result.segmentation is not drawn
    np.testing.assert_array_equal(read_mask(drawn, ct, TABLE).array, labels)
    np.testing.assert_array_equal(read_mask(fitted.result.segmentation, ct, TABLE).array, random_labels(2))
    with pytest.raises(InputError, match="'CT segmentation' holds the strokes"):
        workflow.fit({"ct": ct}, drawn, TABLE, into=drawn)


def test_after_new_strokes_only_the_strokes_are_sent(workflow, client, ct, mr, scribbles):
    volumes = {"reference": ct, "MR": mr}
    first = workflow.refer(ct, [mr], scribbles, TABLE, pieces="largest")
    assert client.jobs[0].request.pieces == "largest"
    client.jobs[0].done(refer_result(volumes, 1))
    mask = np.zeros(SHAPE, bool)
    mask[4, 5, 6] = True
    paint(scribbles, segment_named(scribbles, "liver"), mask, OBLIQUE)
    second = workflow.refer(ct, [mr], scribbles, TABLE, pieces="all")
    request = client.jobs[1].request
    assert isinstance(request, ReferStrokesRequest) and request.pieces == "all"
    assert request.scribbles.array[4, 5, 6] == 1
    client.jobs[1].done(refer_result(volumes, 2))
    assert second.result.segmentations == first.result.segmentations
    # Another place, other voxels or another model need the images again.
    mr.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(MOVE))
    workflow.refer(ct, [mr], scribbles, TABLE)
    assert isinstance(client.jobs[2].request, ReferRequest)
    client.jobs[2].done(refer_result(volumes, 3))
    mr.GetImageData().Modified()
    workflow.refer(ct, [mr], scribbles, TABLE)
    assert isinstance(client.jobs[3].request, ReferRequest)
    client.jobs[3].done(refer_result(volumes, 3))
    workflow.refer(ct, [mr], scribbles, TABLE, model="other")
    assert isinstance(client.jobs[4].request, ReferRequest)


def test_targets_whose_names_were_exchanged_are_sent_again(scene, workflow, client, ct, mr, scribbles):
    """The worker knows them by their names: each would get the other's organs."""
    twin = add_volume(scene, np.zeros(OTHER_SHAPE, np.float32), np.diag([2.0, 2, 2, 1]), "in phase")
    workflow.refer(ct, [mr, twin], scribbles, TABLE)
    client.jobs[0].done(refer_result({"reference": ct, "MR": mr, "in phase": twin}, 1))
    mr.SetName("in phase")
    twin.SetName("MR")
    workflow.refer(ct, [mr, twin], scribbles, TABLE)
    request = client.jobs[1].request
    assert isinstance(request, ReferRequest)
    np.testing.assert_array_equal(request.targets["MR"].array, read_volume(twin).array)


def test_after_other_images_were_sent_in_vain_the_images_are_sent_again(workflow, client, ct, mr, scribbles):
    """The worker may have looked at them before it was stopped, and have another model or other targets since."""
    volumes = {"reference": ct, "MR": mr}
    workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[0].done(refer_result(volumes, 1))
    workflow.refer(ct, [], scribbles, TABLE, model="other")
    client.jobs[1].fail("cancelled", "The job was stopped.")
    workflow.refer(ct, [mr], scribbles, TABLE)
    assert isinstance(client.jobs[2].request, ReferRequest)
    # Also where others wait in the queue when the answer comes.
    workflow.refer(ct, [], scribbles, TABLE)
    client.jobs[2].done(refer_result(volumes, 2))
    workflow.refer(ct, [mr], scribbles, TABLE)
    assert isinstance(client.jobs[4].request, ReferRequest)


def test_a_worker_that_was_restarted_gets_the_images_again(workflow, client, ct, mr, scribbles):
    volumes = {"reference": ct, "MR": mr}
    workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[0].done(refer_result(volumes, 1))
    task = workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[1].fail("session", "The worker has no such session.")
    assert task.state == "running"
    assert isinstance(client.jobs[2].request, ReferRequest)
    assert task.job is client.jobs[2]
    client.jobs[2].done(refer_result(volumes, 2))
    assert task.state == "done"
    task = workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[3].fail("crash", "The worker stopped unexpectedly.")
    assert task.state == "failed"


# --- the others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_resumed", [False, True])
def test_work_that_stands_still_does_so_also_where_its_images_are_sent_again(
    workflow, client, ct, mr, scribbles, is_resumed
):
    workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[0].done(refer_result({"reference": ct, "MR": mr}, 1))
    task = workflow.refer(ct, [mr], scribbles, TABLE)
    task.pause()
    if is_resumed:
        task.resume()
    client.jobs[1].fail("session", "The worker has no such session.")
    assert client.jobs[2].asked == ([] if is_resumed else ["pause"])


def test_images_that_cannot_be_sent_again_end_the_work(scene, workflow, client, ct, mr, scribbles):
    workflow.refer(ct, [mr], scribbles, TABLE)
    client.jobs[0].done(refer_result({"reference": ct, "MR": mr}, 1))
    task = workflow.refer(ct, [mr], scribbles, TABLE)
    mr.SetAndObserveTransformNodeID(add_bent_transform(scene).GetID())
    client.jobs[1].fail("session", "The worker no longer has the features of these images: send them again.")
    assert task.state == "failed" and task.error.startswith("'MR' lies under a transform that is not linear")


def test_register_moves_the_volume_and_can_be_undone(workflow, client, ct, mr):
    task = workflow.register(ct, mr, transform="affine")
    assert client.jobs[0].request.transform == "affine"
    before = world_affine(mr)
    client.jobs[0].done(RegisterResult(tuple(map(tuple, SMALL.tolist())), 0.5, 0.2, "identity", 7))
    np.testing.assert_allclose(world_affine(mr), SMALL @ before, atol=1e-9)
    assert mr.GetParentTransformNode() is task.result
    workflow.undo()
    np.testing.assert_allclose(world_affine(mr), before, atol=1e-12)


@pytest.mark.parametrize("who", ["fixed", "moving"])
def test_register_while_someone_moves_a_volume(workflow, client, ct, mr, who):
    """The images lie on each other afterwards as the registration found."""
    workflow.register(ct, mr)
    relative = np.linalg.inv(world_affine(ct)) @ SMALL @ world_affine(mr)
    node = ct if who == "fixed" else mr
    node.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(grid_affine((1, 1, 1), (1, 2, 3), (4, 5, 6))))
    client.jobs[0].done(RegisterResult(tuple(map(tuple, SMALL.tolist())), 0.5, 0.2, "identity", 7))
    np.testing.assert_allclose(np.linalg.inv(world_affine(ct)) @ world_affine(mr), relative, atol=1e-6)


def test_auto_background(workflow, client, ct, scribbles):
    strokes = read_scribbles(scribbles, ct, TABLE).array
    task = workflow.auto_background(ct, scribbles, TABLE, margin_mm=12.0, seed=3)
    request = client.jobs[0].request
    assert isinstance(request, AutoBackgroundRequest)
    assert (request.margin_mm, request.coverage, request.seed) == (12.0, None, 3)
    np.testing.assert_array_equal(request.scribbles.array, strokes)
    proposed = np.zeros(SHAPE, np.uint8)
    proposed[4, 6, 5:8] = 1
    # Drawn while the worker was at it.
    mask = np.zeros(SHAPE, bool)
    mask[4, 6, 5] = True
    paint(scribbles, segment_named(scribbles, "liver"), mask, OBLIQUE)
    client.jobs[0].done(AutoBackgroundResult(read_grid(ct).with_array(proposed)))
    assert task.result == 2
    expected = strokes.copy()
    expected[4, 6, 5], expected[4, 6, 6:8] = 1, 0
    np.testing.assert_array_equal(read_scribbles(scribbles, ct, TABLE).array, expected)
    scribbles.SetAndObserveTransformNodeID(None)  # moved by someone meanwhile
    workflow.undo()
    scribbles.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
    expected[4, 6, 6:8] = 255
    np.testing.assert_array_equal(read_scribbles(scribbles, ct, TABLE).array, expected)


def test_evaluate_measures_the_classes_that_both_have(scene, workflow, client, ct):
    array = random_labels(1)
    result = write_segmentation(scene, read_grid(ct).with_array(array), TABLE, ct, "Result")
    masks = {"tumör LINKS": random_labels(2) == 3, "liver": random_labels(2) == 1, "bone": random_labels(2) == 2}
    mask = add_segmentation(scene, masks, OBLIQUE, "Truth", ct.GetParentTransformNode())
    task = workflow.evaluate(result, mask, ct, TABLE, tolerances_mm=(2.0,))
    request = client.jobs[0].request
    assert request.labels.names == ("liver", "Tumör links")
    np.testing.assert_array_equal(request.prediction.array, np.array([0, 1, 0, 2], np.uint8)[array])
    np.testing.assert_array_equal(request.mask.array, np.array([0, 1, 0, 2], np.uint8)[random_labels(2)])
    row = {"name": "liver", "dsc": 0.5, "asd_mm": None, "nsd@2mm": 0.25, "volume_ml": 3.0}
    client.jobs[0].done(EvaluateResult({"tolerances_mm": [2.0], "labels": [row]}))
    assert content(task.result) == [["CT", "liver", "3", "0.5", "nan", "0.25"]]
    with pytest.raises(InputError, match="'Result' would be measured against itself"):
        workflow.evaluate(result, result, ct, TABLE)
    foreign = add_segmentation(scene, {"left kidney": random_labels(2) == 3}, OBLIQUE, "F", ct.GetParentTransformNode())
    other = add_segmentation(scene, {"liver": random_labels(2) == 3}, OBLIQUE, "O", ct.GetParentTransformNode())
    with pytest.raises(LabelError, match="'F' holds left kidney, and 'O' liver: they have no structure in common"):
        workflow.evaluate(foreign, other, ct, TABLE)


def test_measuring_ends_at_once_and_does_not_take_the_worker_with_what_it_keeps_along(scene, workflow, client, ct):
    result = write_segmentation(scene, read_grid(ct).with_array(random_labels(1)), TABLE, ct, "Result")
    truth = write_segmentation(scene, read_grid(ct).with_array(random_labels(2)), TABLE, ct, "Truth")
    task, said = workflow.evaluate(result, truth, ct, TABLE), []
    task.on_error = said.append
    task.cancel()
    assert (task.state, said) == ("cancelled", ["The job was stopped."])
    assert client.jobs[0].asked == ["cancel without force"]
    client.jobs[0].done(EvaluateResult({"tolerances_mm": [], "labels": []}))
    assert said == ["The job was stopped."] and not scene.GetNumberOfNodesByClass("vtkMRMLTableNode")
    other = workflow.evaluate(result, truth, ct, TABLE)
    scene.RemoveNode(truth)
    client.jobs[1].tell()
    assert other.state == "failed" and client.jobs[1].asked == ["cancel without force"]


def test_evaluate_against_a_label_map_volume(scene, workflow, client, ct):
    array = random_labels(1)
    result = write_segmentation(scene, read_grid(ct).with_array(array), TABLE, ct, "Result")
    truth = add_volume(
        scene, random_labels(2), OBLIQUE, "truth", ct.GetParentTransformNode(), "vtkMRMLLabelMapVolumeNode"
    )
    workflow.evaluate(result, truth, ct, TABLE)
    np.testing.assert_array_equal(client.jobs[0].request.mask.array, random_labels(2))
    assert client.jobs[0].request.labels == TABLE
