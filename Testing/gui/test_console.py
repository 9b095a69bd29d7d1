"""The functions on nodes, as people use them in the Python console: real MRML, the real worker, a tiny phantom."""

from __future__ import annotations

import importlib
import os
import re
import signal
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("PySide6.QtWidgets", reason="Qt's system libraries are missing", exc_type=ImportError)
pytest.importorskip("torch", reason="the worker needs torch")

import qt
import slicer
import slicer_python
import slicer_widgets
from CrossModalSegPanel import sample_data
from scene_support import add_volume
from tiny_models import write_models

from CrossModalSegLib.errors import CrossModalSegError, InputError, LabelError, WorkerError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.headless import HeadlessScene
from CrossModalSegLib.scene.segmentations import write_segmentation
from CrossModalSegLib.scene.volumes import read_grid

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
TABLE = LabelTable.from_names(["GTV"])


class Application:
    """What the module sees of `slicer.app`."""

    def __init__(self) -> None:
        self.connected: list[tuple[str, object]] = []
        self.count = 0

    def connect(self, signal: str, slot: object) -> None:
        self.connected.append((signal, slot))

    def processEvents(self) -> None:
        self.count += 1
        qt.application.processEvents()


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory):
    """The module in a Slicer of stand-ins, with the networks "heads" and "organs" installed."""
    models = write_models(tmp_path_factory.mktemp("models"), TABLE, "mr")
    (models / "plain").rename(models / "heads")
    (models / "refer").rename(models / "organs")
    made = HeadlessScene()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSMODALSEG_MODELS", str(models))
        patch.setattr(slicer, "mrmlScene", made.scene, raising=False)
        patch.setattr(slicer, "app", Application(), raising=False)
        patch.setattr(sample_data, "SHAPE", (16, 40, 40))
        patch.setattr(sample_data, "SPACING", (9, 5, 5))
        slicer_widgets.install()
        slicer_python.install()
        found = importlib.import_module("CrossModalSeg")
        yield found
        found.CrossModalSegLogic().stop()


@pytest.fixture
def logic(module):
    slicer.mrmlScene.Clear(0)
    yield module.CrossModalSegLogic()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def phantom(logic):
    return sample_data.loadPhantom()


def until(done, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        qt.application.processEvents()
        time.sleep(0.01)


def test_the_session_of_the_readme(logic, capsys) -> None:
    session = re.search(r"<!-- console session -->\n```python\n(.*?)\n```", README, re.DOTALL)[1]
    before = slicer.app.count
    names: dict = {"__name__": "__main__"}
    exec(compile(session, "README.md", "exec"), names)
    assert slicer.app.count > before + 20  # the application went on meanwhile
    assert not names["task"].has_ended
    until(lambda: names["task"].has_ended)
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ voxels of background were added", said[0])
    assert re.fullmatch(r"\{'GTV': [\d.]+\} Phantom CT segmentation: uncertainty", said[1])
    assert float(said[2]) > 0.5
    assert {line.split()[0] for line in said[3:-1]} >= {"heads", "organs", "scribble-prior"}
    assert said[-1] == "Phantom CT segmentation is done"
    assert not slicer.mrmlScene.IsNodePresent(names["transform"])
    assert names["mr"].GetTransformNodeID() is None
    assert list(names["own"].GetSegmentation().GetSegmentIDs()) == ["GTV", "brainstem", "Background"]
    # The result of this name is the same node every time; the target has its own.
    assert names["segmentation"] is names["head"] is names["on_ct"]
    assert names["on_mr"].GetName() == "Phantom MR segmentation"
    assert names["task"].result.answer.resumed


def test_callbacks_are_called_in_order_and_the_task_can_be_cancelled(logic, phantom) -> None:
    told: list[tuple] = []
    task = logic.fit(
        {"ct": phantom.ct, "mr": phantom.mr},
        phantom.scribbles,
        seconds=300,
        previewEvery=0.5,
        onProgress=lambda done, total, message, values: told.append(("progress", message)),
        onPreview=lambda node: told.append(("preview", node.GetName())),
        onDone=lambda node: told.append(("done", node)),
        onError=lambda sentence: told.append(("error", sentence)),
    )
    until(lambda: ("preview", "Phantom CT segmentation") in told)
    task.cancel()
    until(lambda: task.has_ended)
    assert task.state == "cancelled"
    assert told[0][0] == "progress" and told[-1][0] == "error"
    assert "done" not in dict(told)
    assert slicer.mrmlScene.GetFirstNodeByName("Phantom CT segmentation") is None


def test_who_stops_waiting_by_ctrl_c_is_left_without_a_preview(logic, phantom, monkeypatch) -> None:
    def press() -> None:
        qt.application.processEvents()
        if slicer.mrmlScene.GetFirstNodeByName("Phantom CT segmentation") is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(slicer.app, "processEvents", press)
        with pytest.raises(KeyboardInterrupt):
            logic.fit(phantom.ct, phantom.scribbles, seconds=300, previewEvery=0.5)
    until(lambda: slicer.mrmlScene.GetFirstNodeByName("Phantom CT segmentation") is None, 20)
    assert logic.workflow().client.jobs == ()


def test_a_killed_worker_is_an_error_and_the_next_call_works(logic, phantom) -> None:
    logic.models()
    told: list[str] = []
    task = logic.fit(phantom.ct, phantom.scribbles, seconds=300, onError=told.append)
    until(lambda: task.state == "running")
    os.kill(logic.workflow().client.pid, signal.SIGKILL)
    until(lambda: task.has_ended)
    assert len(told) == 1 and told[0].startswith("The worker ")
    with pytest.raises(WorkerError, match="The worker"):
        task.wait()
    assert [model.task for model in logic.models() if model.name == "organs"] == ["refer"]


def test_errors_are_sentences_before_any_work(logic, phantom) -> None:
    with pytest.raises(LabelError, match="There is no scribble of GTV"):
        logic.fit(phantom.ct, logic.prepareScribbles(phantom.ct, "GTV", name="empty"))
    with pytest.raises(InputError, match="'Phantom CT' was chosen twice"):
        logic.register(phantom.ct, phantom.ct)
    with pytest.raises(InputError, match="'Phantom CT' was chosen twice"):
        logic.refer(phantom.ct, phantom.ct, phantom.scribbles)  # one volume needs no list
    with pytest.raises(InputError, match="A volume of the scene was expected, got nothing"):
        logic.refer(phantom.ct, None, phantom.scribbles)
    for begin in (
        lambda: logic.prepareScribbles("Phantom CT", "GTV"),
        lambda: logic.fit("Phantom CT", phantom.scribbles),
        lambda: logic.fit(phantom.ct, "Phantom CT"),
        lambda: logic.refer(phantom.ct, "Phantom CT", phantom.scribbles),
        lambda: logic.register(phantom.ct, "Phantom CT"),
    ):
        with pytest.raises(InputError, match="got the text 'Phantom CT'; `slicer.util.getNode` finds a node by its"):
            begin()
    with pytest.raises(LabelError, match="appear twice: liver"):
        logic.prepareScribbles(phantom.ct, "liver, Liver")
    with pytest.raises(TypeError, match="no option on_done; callbacks are onProgress, onPreview"):
        logic.fit(phantom.ct, phantom.scribbles, on_done=print)
    assert logic.workflow().client.jobs == ()
    with pytest.raises(CrossModalSegError, match="nowhere"):
        logic.segment(phantom.ct, "nowhere")


def test_label_maps_are_measured_by_the_values_of_the_run(logic) -> None:
    """Segments of structures that came later, or that were drawn beside them, are not in the order of the values."""
    truth = np.zeros((4, 8, 8), np.uint8)
    truth[1:3, 1:4, 1:7], truth[1:3, 5:7, 2:4] = 1, 2
    volume = add_volume(slicer.mrmlScene, truth.astype(np.float32), np.diag([2.0, 2, 2, 1]))
    mask = add_volume(slicer.mrmlScene, truth, np.diag([2.0, 2, 2, 1]), "truth", kind="vtkMRMLLabelMapVolumeNode")
    labels = read_grid(volume).with_array(truth)
    result = write_segmentation(
        slicer.mrmlScene, labels.with_array(truth // 2), LabelTable.from_names(["spleen"]), volume, "Result"
    )
    write_segmentation(slicer.mrmlScene, labels, LabelTable.from_names(["liver", "spleen"]), volume, "Result", result)
    measured = logic.evaluate(result, mask, volume).GetTable()
    assert [measured.GetColumnByName("Structure").GetValue(row) for row in (0, 1)] == ["liver", "spleen"]
    assert [measured.GetColumnByName("DSC").GetValue(row) for row in (0, 1)] == [1.0, 1.0]


def test_models_come_and_go(logic, tmp_path) -> None:
    archive = logic.exportModel("heads", tmp_path / "heads.zip")
    assert logic.importModel(archive, name="copy").name == "copy"
    assert {model.name for model in logic.deleteModel("copy")} == {model.name for model in logic.models()}
    assert "copy" not in {model.name for model in logic.models()}


def test_all_logics_share_one_worker(module, logic) -> None:
    assert module.CrossModalSegLogic().workflow() is logic.workflow()
    logic.stop()
    assert not logic.workflow().client.is_running


def test_the_self_test_passes(module, logic) -> None:
    result = unittest.TestResult()
    test = module.CrossModalSegTest("runTest")
    test.run(result)
    assert result.testsRun == 1
    assert (result.errors, result.failures) == ([], [])


def test_each_self_test_by_itself_passes_over_a_slicer_without_the_library(module, monkeypatch) -> None:
    monkeypatch.setattr(module.CrossModalSegLogic, "environmentProblem", lambda self: "Missing: torch.")
    names = unittest.TestLoader().getTestCaseNames(module.CrossModalSegTest)
    result = unittest.TestResult()
    for name in names:
        module.CrossModalSegTest(name).run(result)
    assert (result.testsRun, result.errors, result.failures) == (3, [], [])
    assert [reason for _, reason in result.skipped] == ["Missing: torch."] * 2


def test_sample_data_is_registered_when_slicer_has_started(module) -> None:
    slicer.app.connected.clear()
    module.CrossModalSeg(SimpleNamespace())
    assert slicer.app.connected == [("startupCompleted()", sample_data.register)]


def test_the_functions_import_no_library_at_the_top() -> None:
    module = Path(sample_data.__file__).parents[1]
    for path in (*module.glob("*.py"), *module.glob("CrossModalSegPanel/*.py")):
        text = path.read_text(encoding="utf-8")
        assert "\nfrom CrossModalSegLib" not in text and "\nimport CrossModalSegLib" not in text
        assert "import torch" not in text
