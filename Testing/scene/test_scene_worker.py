"""From nodes through the real worker back into the scene: balls in a body, seen by a CT and an MR that lie anyhow.

The truth is known in the world, so that whatever is mirrored, shifted or moved twice on the way would be found out.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from scene_support import add_transform, add_volume, paint, segment_named, vtk_matrix

from CrossModalSegLib.errors import Cancelled, WorkerError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.geometry import world_affine
from CrossModalSegLib.scene.scribbles import BACKGROUND, prepare_scribbles, read_scribbles
from CrossModalSegLib.scene.segmentations import read_mask
from CrossModalSegLib.scene.workflow import Workflow
from CrossModalSegLib.worker.client import WorkerClient
from grids import grid_affine

pytest.importorskip("torch", reason="the worker needs torch")

PATIENCE = 240.0  # the first job waits for torch to be imported, and other work may share the machine
TABLE = LabelTable.from_names(["liver", "spleen"])
# RAS mm of the world: middle and radius.
BALLS = {1: ((30.0, 10.0, 5.0), 17.0), 2: ((-22.0, -18.0, -8.0), 12.0)}
BODY_MM = 58.0
BONES = (((0.0, 44.0, 0.0), 9.0), ((-40.0, 12.0, 18.0), 8.0))  # by which a turned body can be told

ABOVE_CT = grid_affine((1, 1, 1), (0.3, -0.2, 0.5), (12, -30, 8))
ABOVE_MR = grid_affine((1, 1, 1), (-0.4, 0.1, 0.2), (-9, 14, 3))
ABOVE_STROKES = grid_affine((1, 1, 1), (0.1, 0.9, -0.3), (60, 7, -20))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    client = WorkerClient(jobs_folder=tmp_path_factory.mktemp("jobs"))
    yield client
    client.stop()


@pytest.fixture
def workflow(scene, client) -> Workflow:
    return Workflow(scene, client)


def distances(ijk_to_world: np.ndarray, shape: tuple[int, int, int], middle: tuple[float, float, float]) -> np.ndarray:
    """(k, j, i) mm from each voxel's centre to a point of the world."""
    k, j, i = np.indices(shape)
    points = np.einsum("ab,b...->a...", ijk_to_world[:3], np.stack([i, j, k, np.ones(shape)]))
    return np.linalg.norm(points - np.reshape(middle, (3, 1, 1, 1)), axis=0)


def add_image(scene, name, above, turn, spacing, shape, contrast):
    """A volume whose grid is centred on the world's origin, turned against it, below a transform."""
    to_world = grid_affine(spacing, turn, (0, 0, 0))
    to_world[:3, 3] = -to_world[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
    labels = np.zeros(shape, np.uint8)
    for value, (middle, radius) in BALLS.items():
        labels[distances(to_world, shape, middle) < radius] = value
    body = np.where(distances(to_world, shape, (0, 0, 0)) < BODY_MM, 200.0, 0.0)
    for middle, radius in BONES:
        body[distances(to_world, shape, middle) < radius] = 420.0
    noise = np.random.default_rng(len(name)).normal(0, 6, shape)
    array = (body + np.array([0.0, *contrast])[labels] + noise).astype(np.float32)
    own = np.linalg.inv(above) @ to_world
    return add_volume(scene, array, own, name, add_transform(scene, above, name=f"above {name}")), labels


@pytest.fixture
def ct(scene):
    return add_image(scene, "CT", ABOVE_CT, (0.1, 0.2, -0.1), (2.6, 2.2, 4.0), (24, 48, 44), (90, 60))


@pytest.fixture
def mr(scene):
    return add_image(scene, "MR", ABOVE_MR, (-0.2, 0.1, 0.15), (2.4, 2.8, 4.4), (22, 44, 46), (70, -60))


@pytest.fixture
def scribbles(scene, ct):
    """A stroke through each ball and around them on some slices, drawn below a third transform."""
    volume, labels = ct
    node = prepare_scribbles(scene, volume, TABLE)
    node.SetAndObserveTransformNodeID(add_transform(scene, ABOVE_STROKES, name="above strokes").GetID())
    strokes = np.full(labels.shape, 255, np.uint8)
    for k in range(2, labels.shape[0] - 2, 2):
        for value in BALLS:
            rows, columns = np.nonzero(labels[k] == value)
            if rows.size > 12:
                row = int(np.median(rows))
                strokes[k, row, columns[rows == row][1:-1]] = value
        strokes[k, 2, 4:40] = strokes[k, 45, 4:40] = 0
        free = np.flatnonzero((labels[k, 24] == 0) & (np.arange(labels.shape[2]) > 1))
        strokes[k, 24, free[::2]] = 0
    own = np.linalg.inv(ABOVE_STROKES) @ ras_of(volume)
    for value, name in ((1, "liver"), (2, "spleen"), (0, BACKGROUND)):
        paint(node, segment_named(node, name), strokes == value, own)
    np.testing.assert_array_equal(read_scribbles(node, volume, TABLE).array, strokes)
    return node


def ras_of(volume) -> np.ndarray:
    return np.diag([-1.0, -1, 1, 1]) @ world_affine(volume)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def until(condition, client) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        client.poll()
        time.sleep(0.01)


def test_fit_evaluate_and_undo(scene, workflow, ct, mr, scribbles):
    (volume, labels), (other, _) = ct, mr
    strokes = read_scribbles(scribbles, volume, TABLE).array
    task = workflow.fit({"ct": volume, "mr": other}, scribbles, TABLE, seconds=0, uncertainty=True, device="cpu")
    seen = []
    task.on_preview = seen.append
    result = task.wait(PATIENCE)
    found = read_mask(result.segmentation, volume, TABLE).array
    assert seen == [result.segmentation]
    for value in BALLS:
        assert dice(found == value, labels == value) > 0.8
    drawn = (strokes != 255) & (strokes != 0)
    np.testing.assert_array_equal(found[drawn], strokes[drawn])
    np.testing.assert_array_equal(read_scribbles(scribbles, volume, TABLE).array, strokes)
    mask = add_volume(scene, labels, ras_of(volume), "truth", kind="vtkMRMLLabelMapVolumeNode")
    table = workflow.evaluate(result.segmentation, mask, volume, TABLE).wait(PATIENCE).GetTable()
    assert table.GetColumnByName("DSC").GetValue(0) == pytest.approx(dice(found == 1, labels == 1))
    assert workflow.undo()
    assert workflow.undo()
    assert not scene.IsNodePresent(result.segmentation)


def test_register(workflow, ct, mr):
    """The MR is put in a wrong place, and found back."""
    (volume, _), (other, _) = ct, mr
    right = world_affine(other)
    wrong = grid_affine((1, 1, 1), (0.05, -0.04, 0.06), (6, -5, 4)) @ ABOVE_MR
    other.GetParentTransformNode().SetMatrixTransformToParent(vtk_matrix(wrong))
    corners = np.array([[0, 0, 0, 1], [45, 0, 0, 1], [0, 43, 0, 1], [0, 0, 21, 1]]).T
    before = np.linalg.norm(((world_affine(other) - right) @ corners)[:3], axis=0).max()
    workflow.register(volume, other).wait(PATIENCE)
    after = np.linalg.norm(((world_affine(other) - right) @ corners)[:3], axis=0).max()
    assert before > 7
    assert after < 0.4 * before
    workflow.undo()
    assert np.linalg.norm(((world_affine(other) - right) @ corners)[:3], axis=0).max() == pytest.approx(before)


def test_auto_background(workflow, ct, scribbles):
    volume, labels = ct
    before = read_scribbles(scribbles, volume, TABLE).array
    # Strokes run through the middle of balls of 17 mm, so nothing reaches further than that beyond them.
    count = workflow.auto_background(volume, scribbles, TABLE, margin_mm=18.0).wait(PATIENCE)
    after = read_scribbles(scribbles, volume, TABLE).array
    new = before != after
    assert count == np.count_nonzero(new) > 0
    assert (before[new] == 255).all()
    assert (after[new] == 0).all()
    assert not labels[new].any()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
def test_a_killed_worker_leaves_scene_and_scribbles_as_they_were_and_the_next_fit_works(
    scene, workflow, client, ct, scribbles
):
    volume, _ = ct
    strokes = read_scribbles(scribbles, volume, TABLE).array
    before = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    task = workflow.fit({"ct": volume}, scribbles, TABLE, seconds=600, device="cpu")
    seen = []
    task.on_preview = seen.append
    until(lambda: seen, client)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before + 1
    for process in (*psutil.Process(client.pid).children(recursive=True), psutil.Process(client.pid)):
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="your scribbles are untouched"):
        task.wait(PATIENCE)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before
    np.testing.assert_array_equal(read_scribbles(scribbles, volume, TABLE).array, strokes)
    assert workflow.fit({"ct": volume}, scribbles, TABLE, seconds=0, device="cpu").wait(PATIENCE).segmentation


def test_cancel_takes_the_preview_back_and_finish_keeps_it(scene, workflow, client, ct, scribbles):
    volume, _ = ct
    before = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    for ask, expected in (("cancel", before), ("finish", before + 1)):
        task = workflow.fit({"ct": volume}, scribbles, TABLE, seconds=600, device="cpu")
        seen = []
        task.on_preview = seen.append
        until(lambda seen=seen: seen, client)
        getattr(task, ask)()
        if ask == "cancel":
            with pytest.raises(Cancelled):
                task.wait(PATIENCE)
        else:
            assert not task.wait(PATIENCE).answer.is_complete
        assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == expected
