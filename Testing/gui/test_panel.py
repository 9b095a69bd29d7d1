"""The real panel on stand-ins of Slicer's widgets and real MRML, without a screen."""

from __future__ import annotations

import enum
import gc
import importlib
import os
import shutil
import signal
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("PySide6.QtWidgets", reason="Qt's system libraries are missing", exc_type=ImportError)

WIDTH = 480  # of the panel
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "standins"), str(HERE.parent / "scene")]

import qt
import slicer
import slicer.util
import slicer_python
import slicer_widgets
import vtk
from scene_support import add_transform, add_volume, paint, save_mrb, segment_named

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.headless import HeadlessScene
from CrossModalSegLib.scene.segmentations import write_segmentation
from CrossModalSegLib.scene.volumes import read_grid
from CrossModalSegLib.scribbles import simulate_scribbles


@pytest.fixture(scope="module")
def headless():
    made = HeadlessScene()
    slicer.mrmlScene = made.scene
    slicer_widgets.install()
    slicer_python.install()
    yield made
    del slicer.mrmlScene


@pytest.fixture
def module(headless):
    headless.scene.Clear(0)
    return importlib.import_module("CrossModalSeg")


@pytest.fixture
def panel(module):
    widget = module.CrossModalSegWidget()
    widget.setup()
    widget.parent.resize(480, 820)
    widget.parent.show()
    yield widget
    assert widget.ui.editor.errors == []
    widget.cleanup()
    widget.parent.close()
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def phantom(panel):
    """Two volumes on one grid, chosen in the panel."""
    grid = np.diag([4.0, 5.0, 6.0, 1.0])  # wide enough for background 30 mm away
    array = np.full((12, 40, 40), -1000, np.float32)
    array[:, 4:36, 4:36] = 40
    ct, mr = add_volume(slicer.mrmlScene, array, grid, "CT"), add_volume(slicer.mrmlScene, array + 7, grid, "MR")
    panel.ui.ctSelector.setCurrentNode(ct)
    return ct, mr, grid


def until(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        qt.application.processEvents()
        time.sleep(0.01)


def picture(panel, name: str, tmp_path: Path) -> None:
    layout = panel.parent.layout()
    for _ in range(2):  # texts only know how many lines they need once they have a width
        qt.application.processEvents()
        # As tall as it wants to be: Slicer scrolls its panels.
        panel.parent.resize(WIDTH, max(layout.totalHeightForWidth(WIDTH), layout.totalMinimumSize().height()))
    qt.application.processEvents()
    assert panel.parent.grab().save(str(tmp_path / f"{name}.png"))


def test_choices_go_to_the_parameters_and_back(panel, phantom) -> None:
    ct, mr, _ = phantom
    parameters = panel.logic.getParameterNode()
    assert parameters.ct is ct and parameters.mr is None
    parameters.mr = mr
    assert panel.ui.mrSelector.currentNode() is mr
    panel.ui.labelsEdit.setText("liver")
    assert parameters.labels == "liver"
    parameters.labels = "liver, spleen"
    assert panel.ui.labelsEdit.text == "liver, spleen"


def test_masks_are_not_offered_as_images(panel, phantom) -> None:
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "truth")
    ui = panel.ui
    for selector in (ui.ctSelector, ui.mrSelector, ui.referenceSelector, ui.targetsSelector):
        assert [node.GetName() for node in selector.nodes()] == ["CT", "MR"]
    assert mask in ui.maskSelector.nodes()


def test_the_cursor_stays_where_one_types(panel) -> None:
    edit = panel.ui.labelsEdit
    edit.setText("liver, spleen")
    edit.cursorPosition = 5
    edit.insert("s")
    assert panel.parameters.labels == "livers, spleen" and edit.cursorPosition == 6


def test_every_bound_control_has_its_parameter(panel, module) -> None:
    from PySide6 import QtCore, QtWidgets

    bound = {
        QtCore.QObject.property(each, "SlicerParameterName")
        for each in panel.parent.findChildren(QtWidgets.QWidget)
        if QtCore.QObject.property(each, "SlicerParameterName")
    }
    by_hand = set(importlib.import_module("CrossModalSegPanel.parameters").BOUND_BY_HAND)
    assert bound | by_hand == set(module.CrossModalSegParameterNode.types)
    assert not bound & by_hand


def test_every_bound_control_is_bound_both_ways(panel, drawn, module) -> None:
    wanted, controls = other_values(panel, module), bound_controls(panel)
    assert len(controls) > 15
    defaults = {name: getattr(panel.parameters, name) for name in controls}
    for name, widget in controls.items():
        setattr(panel.parameters, name, wanted[name])
        assert control_value(widget) == shown(wanted[name]), name
    for name, widget in controls.items():
        set_control(widget, defaults[name])
        assert getattr(panel.parameters, name) == defaults[name], name


def test_a_panel_that_is_left_lets_go_of_its_controls_and_keeps_all_choices(panel, drawn, module, monkeypatch) -> None:
    for name in ("devices", "modelsAndFolder"):
        monkeypatch.setattr(panel.logic, name, lambda **_callbacks: None)
    wanted, controls = other_values(panel, module), bound_controls(panel)
    defaults = {name: getattr(panel.parameters, name) for name in controls}
    for name in controls:
        setattr(panel.parameters, name, wanted[name])
    for _ in range(2):
        panel.exit()
        left = panel.logic.getParameterNode()
        for name, widget in controls.items():
            set_control(widget, defaults[name])
        assert {name: getattr(left, name) for name in controls} == {name: wanted[name] for name in controls}
        panel.enter()
        assert {name: control_value(each) for name, each in controls.items()} == {
            name: shown(wanted[name]) for name in controls
        }
        assert {name: getattr(panel.parameters, name) for name in controls} == {name: wanted[name] for name in controls}


def other_values(panel, module) -> dict[str, object]:
    """A value for each parameter that is not its default, nor that of the test."""
    nodes = {"ct": "MR", "mr": "CT", "reference": "CT", "scribbles": "Spare", "result": "CT scribbles", "mask": "truth"}
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Spare")
    found: dict[str, object] = {"targets": [slicer.mrmlScene.GetFirstNodeByName("MR")]}
    for name in set(module.CrossModalSegParameterNode.types) - {"targets"}:
        now = getattr(panel.parameters, name)
        if name in nodes:
            found[name] = slicer.mrmlScene.GetFirstNodeByName(nodes[name])
        elif isinstance(now, enum.Enum):
            found[name] = next(each for each in type(now) if each is not now)
        else:
            found[name] = {bool: not now, int: 33, str: f"{name} 1"}[type(now)]
        assert found[name] is not None and found[name] != now, name
    return found


def bound_controls(panel) -> dict[str, object]:
    from PySide6 import QtCore, QtWidgets

    children = panel.parent.findChildren(QtWidgets.QWidget)
    named_ones = ((QtCore.QObject.property(each, "SlicerParameterName"), each) for each in children)
    return {name: each for name, each in named_ones if name}


def control_value(widget) -> object:
    """What a control shows, as it reads."""
    if hasattr(widget, "currentNode"):
        return widget.currentNode()
    return next(getattr(widget, name) for name in ("checked", "value", "currentText", "text") if hasattr(widget, name))


def set_control(widget, value: object) -> None:
    """What a person does."""
    if hasattr(widget, "setCurrentNode"):
        widget.setCurrentNode(value)
    elif isinstance(value, enum.Enum):
        widget.setCurrentIndex(widget.findText(value.label()))
    elif isinstance(value, bool):
        widget.setChecked(value)
    elif isinstance(value, int):
        widget.setValue(value)
    else:
        widget.setText(value)


def shown(value: object) -> object:
    return value.label() if isinstance(value, enum.Enum) else value


def named(value: object) -> object:
    """Nodes by their names: other objects in another scene."""
    if isinstance(value, list):
        return [named(each) for each in value]
    return value.GetName() if hasattr(value, "GetName") else value


def test_the_placement_is_shown(panel, phantom) -> None:
    _, mr, grid = phantom
    panel.ui.mrSelector.setCurrentNode(mr)
    assert panel.ui.placementLabel.text == "MR: same grid (overlap 100%)."
    far = grid.copy()
    far[:3, 3] = 900
    away = add_volume(slicer.mrmlScene, np.zeros((4, 5, 6), np.float32), far, "away")
    panel.ui.mrSelector.setCurrentNode(away)
    assert panel.ui.placementLabel.text.startswith("away: apart (overlap 0%).")


def test_the_placement_follows_a_transform_that_is_moved_by_hand(panel, phantom) -> None:
    _, mr, _ = phantom
    panel.ui.mrSelector.setCurrentNode(mr)
    above = add_transform(slicer.mrmlScene, np.eye(4))
    mr.SetAndObserveTransformNodeID(above.GetID())
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 80)  # half of the image's 160 mm
    above.SetMatrixTransformToParent(matrix)
    until(lambda: panel.ui.placementLabel.text == "MR: same patient space (overlap 50%).", 5)


def test_from_structures_to_background_with_the_real_worker(panel, phantom, tmp_path: Path) -> None:
    ct, mr, grid = phantom
    panel.ui.mrSelector.setCurrentNode(mr)
    assert not panel.ui.prepareButton.enabled
    panel.ui.labelsEdit.setText("liver, spleen")
    panel.ui.prepareButton.click()
    scribbles = panel.logic.getParameterNode().scribbles
    assert panel.ui.editor.told["setSegmentationNode"] is scribbles
    assert panel.ui.editor.told["setSourceVolumeNode"] is ct
    stroke = np.zeros((12, 40, 40), np.uint8)
    stroke[6, 20, 18:22] = 1
    paint(scribbles, segment_named(scribbles, "liver"), stroke, grid)
    until(lambda: "liver 4" in panel.ui.countsLabel.text)
    assert "Still missing: spleen, Background" in panel.ui.countsLabel.text

    panel.ui.backgroundButton.click()
    assert panel.work.is_busy
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text == "6 background voxels were drawn."
    panel.scribbles.show_counts()
    assert "liver 4, Background" in panel.ui.countsLabel.text
    picture(panel, "scribbles", tmp_path)


def test_devices_are_shown_by_the_real_worker(panel) -> None:
    panel.ui.checkButton.click()
    until(lambda: not panel.ui.deviceLabel.text.startswith("Looking"), 200)
    assert "cpu: " in panel.ui.deviceLabel.text and "GB free" in panel.ui.deviceLabel.text


def test_who_has_no_graphics_card_reads_so_beside_the_buttons(panel) -> None:
    def device(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, description="made up", free_bytes=None)

    asked = []
    panel.logic.devices = lambda onDone, onError: asked.append(onDone)
    assert not panel.ui.cpuLabel.visible  # nobody looked yet
    panel.enter()
    asked[0]([device("cpu")])
    assert panel.ui.cpuLabel.visible and panel.ui.cpuLabel.text.startswith("There is no graphics card")
    asked[0]([device("cuda:0"), device("cpu")])
    assert not panel.ui.cpuLabel.visible


def test_strokes_are_counted_again_only_where_something_changed(panel, drawn) -> None:
    until(lambda: panel.ui.countsLabel.text.startswith("Scribbled voxels"))
    counted, count = [], panel.logic.countsText
    panel.logic.countsText = lambda *args: (counted.append(args), count(*args))[1]
    panel.show()
    assert not panel.scribbles._timer.active
    panel.parameters.labels = "liver, spleen"
    until(lambda: "Still missing: spleen" in panel.ui.countsLabel.text)
    assert len(counted) == 1


def test_scribbles_from_elsewhere_bring_their_structures(panel, drawn) -> None:
    """As those of the phantom: nobody has typed what they stand for."""
    panel.parameters.labels = ""
    until(lambda: panel.ui.countsLabel.text.endswith("Nothing is missing."), 5)
    assert panel.table().names == ("liver",)
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text.startswith("Done."), panel.ui.workLabel.text


def test_scribbles_of_another_image_are_told_as_such(panel, drawn, phantom) -> None:
    ct, mr, _ = phantom
    text = "These scribbles were prepared for 'CT'. To draw on 'MR', press 'Prepare scribbles'."
    panel.ui.mrSelector.setCurrentNode(None)
    panel.ui.ctSelector.setCurrentNode(mr)
    until(lambda: panel.ui.countsLabel.text.endswith(f"Nothing is missing.\n{text}"), 5)
    panel.ui.prepareButton.click()
    until(lambda: panel.ui.countsLabel.text == "Still missing: liver, Background", 5)
    panel.ui.ctSelector.setCurrentNode(ct)
    panel.parameters.scribbles = drawn[0]
    until(lambda: panel.ui.countsLabel.text.endswith("Nothing is missing."), 5)


@pytest.mark.parametrize("who", ["scribbles", "image"])
def test_strokes_are_counted_again_where_a_transform_changes(panel, drawn, who: str) -> None:
    until(lambda: panel.ui.countsLabel.text.startswith("Scribbled voxels"))
    counted = panel.ui.countsLabel.text
    above = add_transform(slicer.mrmlScene, np.eye(4))
    node = panel.parameters.scribbles if who == "scribbles" else panel.drawn_on()
    node.SetAndObserveTransformNodeID(above.GetID())
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 5000)
    above.SetMatrixTransformToParent(matrix)
    until(lambda: panel.ui.countsLabel.text.startswith("Still missing"), 5)
    above.SetMatrixTransformToParent(vtk.vtkMatrix4x4())
    until(lambda: panel.ui.countsLabel.text == counted, 5)


def test_an_image_that_is_changed_while_it_is_sent_is_explained_and_the_next_fit_works(panel, drawn) -> None:
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    image = panel.drawn_on().GetImageData()
    image.GetPointData().GetScalars().Modified()
    until(lambda: not panel.work.is_busy, 200)
    assert "were changed while they were being read" in panel.ui.workLabel.text
    assert panel.parameters.result is None
    panel.ui.fitButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text.startswith("Done.")


def test_what_the_worker_wants_to_be_known_stays_readable_after_the_run(panel) -> None:
    calls = {}
    note = "The memory of cuda is too small for this case: it is computed again on the CPU, slowly."
    panel.work.start(
        panel.ui.runStep,
        "Fitting …",
        lambda **callbacks: (calls.update(callbacks), SimpleNamespace(kind=None, cancel=lambda: None))[1],
        lambda _: "Done.",
    )
    assert not panel.ui.noteLabel.visible
    calls["onLog"](note)
    calls["onDone"](None)
    assert (panel.ui.workLabel.text, panel.ui.noteLabel.text) == ("Done.", note) and panel.ui.noteLabel.visible


def test_what_is_said_of_a_run_stays_while_its_result_is_measured_and_goes_with_what_comes_next(panel) -> None:
    begun, work, ui = [], panel.work, panel.ui

    def start(done, has_curve: bool = False) -> None:
        def begin(**callbacks):
            begun.append(callbacks)
            return SimpleNamespace(kind=None, cancel=lambda: None, progress=SimpleNamespace(eta=None))

        work.start(ui.runStep, "Working …", begin, done, has_curve=has_curve)

    start(lambda _: start(lambda _: "Measured."), has_curve=True)
    panel.logic.workflow()._new_curve()
    begun[0]["onProgress"](1, 2, "fit", {"loss": 1.0})
    begun[0]["onLog"]("It is computed on the CPU, slowly.")
    begun[0]["onDone"](None)
    assert work.is_busy and ui.noteLabel.text and work._plot.visible
    begun[1]["onDone"](None)
    assert ui.workLabel.text == "Measured." and ui.noteLabel.text and work._plot.visible
    work.say(ui.scribblesStep, "Draw a few strokes.")
    assert not ui.noteLabel.visible and not work._plot.visible
    start(lambda _: "Done.", has_curve=True)
    begun[2]["onProgress"](1, 2, "fit", {"loss": 1.0})
    begun[2]["onDone"](None)
    assert work._plot.visible
    start(lambda _: "Aligned.")
    begun[3]["onProgress"](1, 2, "rigid registration", {"metric": 1.0})
    assert not work._plot.visible
    begun[3]["onDone"](None)


def test_the_button_of_the_wheels_asks_for_a_folder_and_that_of_the_cohort_for_a_file(panel) -> None:
    assert panel.ui.wheelsPath.filters == "ctkPathLineEdit::Dirs"
    assert panel.ui.cohortPath.filters == "ctkPathLineEdit::AllEntries"


def test_what_is_said_in_a_collapsed_step_can_be_read(panel) -> None:
    panel.ui.modelsStep.collapsed = True
    panel.models_step._say("The models cannot be listed.")
    assert not panel.ui.modelsStep.collapsed and panel.ui.workLabel.visible


def test_controls_that_are_gone_do_not_keep_the_worker_alive(panel, phantom, monkeypatch) -> None:
    said = []
    panel.logic.devices(onDone=said.append, onError=said.append)
    client, let_go = panel.logic.workflow().client, panel.parameters.disconnectGui
    panel.ui.checkButton.click()

    def gone(*_args):
        raise ValueError("Trying to call a slot of a QLabel that was deleted")

    for control, slot in ((panel.ui.deviceLabel, "setText"), (panel.ui.workLabel, "setText")):
        monkeypatch.setattr(control, slot, gone, raising=False)
    monkeypatch.setattr(panel.parameters, "disconnectGui", gone)
    with pytest.raises(ValueError, match="deleted"):
        panel.cleanup()
    assert said and not client.is_running and not panel.Observations and panel.parameters is None
    let_go(panel._gui_tag)  # here the controls are there still


def test_what_was_installed_is_looked_at(panel, monkeypatch: pytest.MonkeyPatch) -> None:
    problems, asked = ["Missing: torch."], []
    panel.logic.environmentProblem = lambda: problems[0]
    panel.environment.look()
    panel.show()
    assert not panel.ui.runStep.enabled and panel.ui.installButton.visible
    ended = SimpleNamespace(poll=lambda: ["Collecting torch"], has_ended=True, error="")
    panel.logic.startInstallation = lambda wheels: ended
    panel.logic.devices = lambda **callbacks: asked.append("devices")
    panel.logic.modelsAndFolder = lambda **callbacks: asked.append("models")
    problems[0] = ""
    panel.ui.installButton.click()
    until(lambda: panel.is_ready)
    assert panel.ui.runStep.enabled and sorted(asked) == ["devices", "models"]
    assert panel.ui.workLabel.text == "The installation is complete."


def test_a_worker_that_is_killed_is_explained(panel, phantom) -> None:
    ct, _, grid = phantom
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    scribbles = panel.logic.getParameterNode().scribbles
    stroke = np.zeros((12, 40, 40), np.uint8)
    stroke[6, 20, 18:22] = 1
    paint(scribbles, segment_named(scribbles, "liver"), stroke, grid)
    panel.ui.backgroundButton.click()
    os.kill(panel.logic.workflow().client.pid, signal.SIGKILL)
    until(lambda: not panel.work.is_busy)
    assert panel.ui.workLabel.text.startswith("The worker ")
    assert panel.logic.countsText(ct, scribbles, "liver").startswith("Scribbled voxels: liver 4\n")


def test_a_bad_name_is_explained(panel, phantom) -> None:
    panel.ui.labelsEdit.setText("liver, Liver")
    panel.ui.prepareButton.click()
    assert "appear twice: liver" in panel.ui.workLabel.text
    assert panel.logic.getParameterNode().scribbles is None


def test_without_torch_the_panel_opens_and_advises(module, monkeypatch, tmp_path: Path) -> None:
    real = module.installation.installed_version
    monkeypatch.setattr(module.installation, "installed_version", lambda name: None if name == "torch" else real(name))
    panel = module.CrossModalSegWidget()
    panel.setup()
    panel.parent.resize(480, 820)
    panel.parent.show()
    assert panel.ui.environmentLabel.text.startswith("Missing: torch>=2.8,<3.")
    assert not panel.ui.inputsStep.enabled
    panel.ui.installButton.click()
    assert "Extensions Manager" in panel.ui.workLabel.text
    picture(panel, "environment", tmp_path)
    panel.cleanup()
    panel.parent.close()


def test_closing_the_scene_cancels_and_leaves_an_empty_panel(panel, phantom) -> None:
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    panel.ui.backgroundButton.click()
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.ctSelector.currentNode() is None
    assert "drawn" not in panel.ui.workLabel.text


def test_images_and_strokes_of_a_closed_scene_leave_the_memory(panel) -> None:
    gone, scene = set(), slicer.mrmlScene
    panel.ui.ctSelector.setCurrentNode(add_volume(scene, np.zeros((4, 5, 6), np.float32), np.eye(4), "CT"))
    panel.ui.mrSelector.setCurrentNode(add_volume(scene, np.zeros((4, 5, 6), np.float32), np.eye(4), "MR"))
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    names = {each: getattr(panel.parameters, each).GetName() for each in ("ct", "mr", "scribbles")}
    for each, name in names.items():
        getattr(panel.parameters, each).AddObserver(vtk.vtkCommand.DeleteEvent, lambda *_, name=name: gone.add(name))
    scene.Clear(0)
    panel.ui.editor.told.clear()  # that of Slicer lets go of what the scene lets go of
    gc.collect()
    assert gone == {"CT", "MR", "CT scribbles"}


def test_segment_editor_is_only_offered_for_scribbles(panel, phantom) -> None:
    """It chooses the first segmentation of a scene by itself, and its own selector is hidden."""
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mask")
    panel.show()
    assert not panel.ui.editor.enabled
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    assert panel.ui.editor.enabled


def test_closing_the_scene_in_a_fit_ends_it_and_another_scene_is_worked_on(panel, drawn, module) -> None:
    panel.ui.secondsBox.setValue(600)
    panel.ui.fitButton.click()
    until(lambda: panel.parameters.result is not None, 200)
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.work.is_busy, 5)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert panel.ui.workLabel.text.endswith("it was deleted, or the scene was closed.")
    assert not panel.ui.fitButton.enabled and not panel.ui.undoButton.enabled
    add_volume(slicer.mrmlScene, np.zeros((4, 5, 6), np.float32), np.eye(4), "next")
    panel.ui.ctSelector.setCurrentNode(slicer.mrmlScene.GetFirstNodeByName("next"))
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    assert panel.parameters.scribbles.GetName() == "next scribbles"


def test_closing_the_scene_does_not_end_a_training_which_is_on_files(panel, tmp_path: Path) -> None:
    panel.ui.cohortPath.currentPath = str(tmp_path / "none.json")
    panel.ui.trainedNameEdit.setText("mine")
    panel.models_step.folder = tmp_path
    panel.ui.trainButton.click()
    assert panel.work.is_busy
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.work.is_busy, 200)
    assert "none.json" in panel.ui.workLabel.text


def test_a_scene_that_is_added_in_a_fit_does_not_disturb_it(panel, drawn, tmp_path: Path) -> None:
    before = strokes_of(panel)
    slicer.mrmlScene.SetURL(str(tmp_path / "other.mrml"))
    (tmp_path / "other.mrml").write_text(OTHER_SCENE, encoding="utf-8")
    panel.ui.secondsBox.setValue(600)
    panel.ui.fitButton.click()
    until(lambda: panel.parameters.result is not None, 200)
    result = panel.parameters.result
    assert slicer.mrmlScene.Import()
    assert slicer.mrmlScene.GetFirstNodeByName("added") is not None
    assert panel.work.is_busy and panel.parameters.result is result
    panel.ui.finishButton.click()
    until(lambda: not panel.work.is_busy, 100)
    assert panel.ui.workLabel.text.startswith("Done."), panel.ui.workLabel.text
    assert panel.parameters.result is result and strokes_of(panel) == before


def test_what_was_chosen_comes_back_with_a_scene_that_is_read_into_an_open_panel(panel, phantom) -> None:
    scene = slicer.mrmlScene
    panel.ui.labelsEdit.setText("liver")
    scene.SetSaveToXMLString(1)
    assert scene.Commit()
    scene.SetSaveToXMLString(0)
    text = scene.GetSceneXMLString()
    scene.Clear(0)
    assert panel.parameters.ct is None and panel.ui.labelsEdit.text == ""
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(text)
    assert scene.Import()
    scene.SetLoadFromXMLString(0)
    assert panel.parameters.ct.GetName() == "CT" and panel.ui.ctSelector.currentNode() is panel.parameters.ct
    assert panel.ui.labelsEdit.text == "liver"


OTHER_SCENE = """<MRML version="Slicer5" userTags="">
 <LinearTransform id="vtkMRMLLinearTransformNode9" name="added"></LinearTransform>
</MRML>
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed models with tiny networks."""
    from tiny_models import write_models

    pytest.importorskip("torch", reason="the worker needs torch")
    monkeypatch.setenv("CROSSMODALSEG_MODELS", str(tmp_path / "models"))
    return write_models(tmp_path / "models", LabelTable.from_names(["liver"]), "ct")


@pytest.fixture
def drawn(panel, phantom):
    """Strokes of a bright liver and of background, and the truth."""
    ct, mr, grid = phantom
    truth = np.zeros((12, 40, 40), np.uint8)
    truth[3:9, 12:26, 12:26] = 1
    for node in (ct, mr):
        array = slicer.util.arrayFromVolume(node)
        array[truth == 1] += 150
        slicer.util.arrayFromVolumeModified(node)
    panel.ui.mrSelector.setCurrentNode(mr)
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    scribbles = panel.parameters.scribbles
    strokes = simulate_scribbles(truth, (6.0, 5.0, 4.0), "contour", 0, 2)
    for name, value in {"liver": 1, "Background": 0}.items():
        paint(scribbles, segment_named(scribbles, name), (strokes == value).astype(np.uint8), grid)
    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "truth")
    slicer.util.updateVolumeFromArray(mask, truth)
    matrix = vtk.vtkMatrix4x4()
    ct.GetIJKToRASMatrix(matrix)
    mask.SetIJKToRASMatrix(matrix)
    return scribbles, mask


def strokes_of(panel) -> dict[str, int]:
    from CrossModalSegLib.scene.scribbles import count_scribbles

    return count_scribbles(panel.parameters.scribbles, panel.drawn_on(), panel.table())


def test_the_layout_makes_no_view_of_the_curve(panel) -> None:
    """It does so for each view node that comes without an owner."""
    from CrossModalSegPanel.work import _plot_view

    def note(*_args) -> None:
        views = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
        added.extend(view.GetParentLayoutNode() for view in views)

    for view in slicer.util.getNodesByClass("vtkMRMLPlotViewNode"):  # a singleton outlives the scenes of other tests
        slicer.mrmlScene.RemoveNode(view)
    added, owner = [], slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, note)
    node = _plot_view(owner)
    slicer.mrmlScene.RemoveObserver(tag)
    assert added == [owner] and not node.GetDoPropagatePlotChartSelection()
    assert _plot_view(owner) is node


def test_fit_shows_previews_and_a_curve_and_is_measured_and_undone(panel, drawn, tmp_path: Path) -> None:
    _, mask = drawn
    before = strokes_of(panel)
    panel.ui.maskSelector.setCurrentNode(mask)
    panel.ui.secondsBox.setValue(600)
    assert panel.ui.fitButton.enabled and not panel.ui.undoButton.enabled
    previews = []
    take = panel.results.take
    panel.results.take = lambda node: (previews.append(node), take(node))
    panel.ui.fitButton.click()
    assert panel.work.is_busy and not panel.ui.fitButton.enabled and panel.ui.finishButton.visible
    # However busy the machine is, there are steps before it is stopped.
    until(lambda: panel.work._plot is not None and len(panel.work._plot.plotView().points()) > 1 and previews, 300)
    panel.ui.finishButton.click()
    until(lambda: not panel.work.is_busy, 100)
    assert panel.ui.workLabel.text.startswith("Done. Not right yet?"), panel.ui.workLabel.text
    result = panel.parameters.result
    assert result in previews and result.GetName() == "CT segmentation"
    table = panel.ui.resultsTable.mrmlTableNode().GetTable()
    assert table.GetColumnByName("DSC").GetValue(0) > 0.7
    view = panel.work._plot.plotView()
    assert len(view.points()) > 1 and view.visible() == view.points()
    assert strokes_of(panel) == before
    picture(panel, "fitted", tmp_path)
    slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    assert panel.ui.resultsTable.mrmlTableNode() is not None
    panel.ui.surfacesButton.click()
    assert result.GetDisplayNode().GetVisibility3D() and panel.ui.surfacesButton.checked
    other = panel.logic.prepareScribbles(panel.drawn_on(), "heart", "other")
    panel.ui.resultSelector.setCurrentNode(other)
    assert not panel.ui.surfacesButton.checked
    panel.ui.resultSelector.setCurrentNode(result)
    assert panel.ui.surfacesButton.checked
    slicer.mrmlScene.RemoveNode(other)
    panel.ui.measureButton.click()
    until(lambda: not panel.work.is_busy, 60)
    panel.ui.undoButton.click()  # what was measured by hand
    assert slicer.mrmlScene.IsNodePresent(result)
    assert panel.ui.resultsTable.visible and panel.ui.resultsTable.mrmlTableNode().GetTable().GetColumnByName("DSC")
    panel.ui.undoButton.click()  # the fit, with what was measured after it
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == [] and not panel.work._plot.visible
    assert not slicer.mrmlScene.IsNodePresent(result) and not panel.ui.undoButton.enabled
    assert panel.ui.resultsTable.mrmlTableNode() is None and strokes_of(panel) == before


def test_a_fit_that_ends_while_the_panel_is_left_is_found_there(panel, drawn) -> None:
    _, mask = drawn
    panel.ui.maskSelector.setCurrentNode(mask)
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    panel.exit()
    until(lambda: not panel.work.is_busy, 200)
    panel.enter()
    assert panel.parameters.result.GetName() == "CT segmentation"
    voxels = weakref.ref(panel.logic.lastResult.answer)
    assert panel.ui.resultSelector.currentNode() is panel.parameters.result
    assert panel.ui.measureButton.enabled and panel.ui.surfacesButton.enabled
    assert panel.ui.resultsTable.mrmlTableNode().GetTable().GetColumnByName("DSC").GetValue(0) > 0.7
    slicer.mrmlScene.Clear(0)
    gc.collect()
    assert voxels() is None and panel.ui.resultsTable.mrmlTableNode() is None


def test_a_mask_that_does_not_fit_is_explained_and_the_result_stays(panel, drawn) -> None:
    other = panel.logic.prepareScribbles(panel.drawn_on(), "heart", "other")
    panel.ui.maskSelector.setCurrentNode(other)
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    until(lambda: not panel.work.is_busy, 200)
    done, _, why = panel.ui.workLabel.text.partition("goes on from here. ")
    assert done.startswith("Done.") and why.startswith("No segment of 'other' has the name of a class")
    assert panel.parameters.result is not None
    assert not panel.ui.cancelButton.visible and not panel.ui.pauseButton.visible and not panel.ui.workBar.visible


def test_measuring_that_is_cancelled_leaves_the_run_as_done(panel, drawn, monkeypatch) -> None:
    def begun(*_nodes, undoable, **callbacks):
        def cancel() -> None:
            measuring.kind = "cancelled"
            callbacks["onError"]("The job was stopped.")

        measuring = SimpleNamespace(kind=None, cancel=cancel, is_about_nodes=True)
        return measuring

    monkeypatch.setattr(panel.logic, "measure", begun)
    panel.ui.maskSelector.setCurrentNode(panel.parameters.scribbles)
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    until(lambda: panel.ui.workLabel.text == "Measuring …", 200)
    panel.ui.cancelButton.click()
    assert panel.ui.workLabel.text.startswith("Done.") and not panel.work.is_busy


@pytest.mark.parametrize("button", ["fitButton", "segmentButton", "referButton"])
def test_a_result_that_is_measured_against_is_not_replaced(panel, phantom, drawn, monkeypatch, button: str) -> None:
    ct, mr, _ = phantom
    begun, task = [], SimpleNamespace(kind=None, cancel=lambda: None)
    for name in ("fit", "segment", "refer"):
        monkeypatch.setattr(panel.logic, name, lambda *_args, name=name, **_options: (begun.append(name), task)[1])
    corrected = write_segmentation(
        slicer.mrmlScene,
        read_grid(ct).with_array(np.ones((12, 40, 40), np.uint8)),
        panel.table(),
        ct,
        "CT segmentation",
    )
    panel.parameters.mask = corrected
    panel.parameters.segmentModel = "any"
    panel.parameters.reference, panel.parameters.targets = mr, [ct]
    if button == "referButton":
        panel.ui.taskSelector.setCurrentIndex(1)
    assert getattr(panel.ui, button).enabled
    getattr(panel.ui, button).click()
    assert begun == []
    assert panel.ui.workLabel.text.startswith("'CT segmentation' is chosen as the reference mask in step 5, and this")
    corrected.SetName("corrected")
    getattr(panel.ui, button).click()
    assert begun == [button.removesuffix("Button")]


def test_fit_pauses_goes_on_and_stops_with_the_best(panel, drawn, tmp_path: Path) -> None:
    panel.ui.secondsBox.setValue(600)
    panel.ui.fitButton.click()
    until(lambda: panel.parameters.result is not None, 200)
    picture(panel, "fitting", tmp_path)
    panel.ui.pauseButton.click()
    assert panel.ui.pauseButton.text == "Go on"
    until(lambda: panel.work._task.state == "paused")
    panel.ui.pauseButton.click()
    assert panel.ui.pauseButton.text == "Pause"
    panel.ui.pauseButton.click()
    until(lambda: panel.work._task.state == "paused")
    panel.ui.finishButton.click()
    assert panel.ui.pauseButton.text == "Pause"
    until(lambda: not panel.work.is_busy, 100)
    assert panel.ui.workLabel.text.startswith("Done."), panel.ui.workLabel.text
    assert panel.parameters.result is not None


def test_a_cancelled_fit_leaves_nothing_and_what_was_looked_at_before_is_again(panel, drawn) -> None:
    before, other = strokes_of(panel), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    panel.ui.secondsBox.setValue(600)
    for looked_at in (None, other):
        panel.ui.resultSelector.setCurrentNode(looked_at)
        panel.ui.fitButton.click()
        until(lambda looked_at=looked_at: panel.parameters.result is not looked_at, 200)
        panel.ui.cancelButton.click()
        until(lambda: not panel.work.is_busy, 5)
        assert panel.parameters.result is looked_at and strokes_of(panel) == before


def test_a_worker_killed_in_a_fit_is_explained_and_the_next_fit_works(panel, drawn) -> None:
    panel.ui.secondsBox.setValue(600)
    panel.ui.fitButton.click()
    until(lambda: panel.parameters.result is not None, 200)
    os.kill(panel.logic.workflow().client.pid, signal.SIGKILL)
    until(lambda: not panel.work.is_busy)
    assert panel.ui.workLabel.text.startswith("The worker "), panel.ui.workLabel.text
    assert panel.parameters.result is None
    panel.ui.secondsBox.setValue(0)
    panel.ui.fitButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text.startswith("Done."), panel.ui.workLabel.text


def test_models_are_listed_used_exported_deleted_and_imported(
    panel, drawn, installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.models_step.refresh()
    until(lambda: len(panel.models) >= 3, 200)
    rows = {panel.ui.modelsTable.item(row, 0).text(): row for row in range(len(panel.models))}
    assert {"plain", "prior", "refer", "scribble-prior", "abdomen-mr"} <= set(rows)
    panel.ui.modelsTable.selectRow(rows["abdomen-mr"])
    assert "CC BY" in panel.ui.modelLabel.text and not panel.ui.deleteButton.enabled

    panel.ui.labelsModelSelector.setCurrentIndex(panel.ui.labelsModelSelector.findData("abdomen-mr"))
    assert panel.parameters.labels == "liver, right kidney, left kidney, spleen"
    assert panel.table() is next(model.labels for model in panel.models if model.name == "abdomen-mr")

    panel.ui.segmentModelSelector.setCurrentIndex(panel.ui.segmentModelSelector.findData("plain"))
    assert panel.parameters.segmentModel == "plain"
    panel.ui.segmentButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text == "Done." and panel.parameters.result is not None

    archive = tmp_path / "out.v2.zip"
    dialogs = SimpleNamespace(
        getSaveFileName=lambda *_: str(archive.with_suffix("")),  # typed without the ending
        getOpenFileName=lambda *_: str(archive),
        getExistingDirectory=lambda *_: str(installed / "refer"),
    )
    monkeypatch.setattr(qt, "QFileDialog", dialogs, raising=False)
    panel.ui.modelsTable.selectRow(rows["plain"])
    panel.ui.exportButton.click()
    until(lambda: not panel.work.is_busy, 100)
    assert archive.is_file(), panel.ui.workLabel.text

    answers = [False, True]
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *_: answers.pop(0), raising=False)
    panel.ui.modelsTable.selectRow(rows["plain"])
    panel.ui.deleteButton.click()
    assert not panel.work.is_busy
    panel.ui.deleteButton.click()
    until(lambda: not panel.work.is_busy and "plain" not in [model.name for model in panel.models], 100)
    panel.ui.importZipButton.click()
    until(lambda: not panel.work.is_busy and "plain" in [model.name for model in panel.models], 100)
    panel.ui.modelsStep.collapsed = False
    picture(panel, "models", tmp_path)


def test_a_chosen_model_that_is_not_there_is_shown_and_can_be_left(panel, phantom, installed) -> None:
    """A scene from another computer, or a model that was deleted since."""
    selector = panel.ui.referModelSelector
    panel.parameters.referModel = "organs of elsewhere"
    assert selector.itemText(selector.currentIndex) == "organs of elsewhere"
    panel.models_step.refresh()
    until(lambda: len(panel.models) >= 3, 200)
    assert selector.itemText(selector.currentIndex) == "organs of elsewhere (not available)"
    selector.setCurrentIndex(0)
    assert panel.parameters.referModel == "" and selector.findData("organs of elsewhere") == -1
    assert selector.itemText(selector.currentIndex) == "Default"


def test_a_model_of_a_taken_name_is_replaced_after_asking_or_gets_another_name(
    panel, installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(installed / "refer", tmp_path / "source"))
    monkeypatch.setattr(qt, "QFileDialog", SimpleNamespace(getExistingDirectory=lambda *_: str(source)), raising=False)
    questions, answers = [], [False, True]
    monkeypatch.setattr(
        slicer.util, "confirmOkCancelDisplay", lambda text: (questions.append(text), answers.pop(0))[1], raising=False
    )

    def import_it() -> str:
        panel.ui.importFolderButton.click()
        until(lambda: not panel.work.is_busy, 200)
        return panel.ui.workLabel.text

    (installed / "refer" / "mine.txt").write_text("of the model that is there", encoding="utf-8")
    refusal = "A model 'refer' is installed already. Replace it, or import this one under another name."
    assert import_it() == refusal
    assert questions[0].startswith(refusal) and "'Import as'" in questions[0]
    assert (installed / "refer" / "mine.txt").exists()
    panel.ui.importNameEdit.setText(" other ")
    assert import_it() == "The model other was installed."
    assert panel.ui.importNameEdit.text == "" and (installed / "other").is_dir()
    assert import_it() == "The model refer was installed."
    assert len(questions) == 2 and not (installed / "refer" / "mine.txt").exists()
    assert not panel.ui.cancelButton.visible


def test_refer_takes_any_number_of_targets_and_answers_again(panel, phantom, drawn, installed, tmp_path) -> None:
    ct, mr, grid = phantom
    other = add_volume(slicer.mrmlScene, slicer.util.arrayFromVolume(mr) + 3, grid, "T1")
    panel.models_step.refresh()
    until(lambda: len(panel.models) >= 3, 200)
    panel.ui.taskSelector.setCurrentIndex(1)
    assert panel.ui.referenceSelector.visible and not panel.ui.ctSelector.visible
    panel.ui.referenceSelector.setCurrentNode(ct)
    for node in (mr, other):
        panel.ui.targetsSelector.setCheckState(node, qt.Qt.Checked)
    assert panel.parameters.targets == [mr, other]
    assert panel.ui.placementLabel.text.splitlines() == [
        "MR: same grid (overlap 100%).",
        "T1: same grid (overlap 100%).",
    ]
    panel.ui.referModelSelector.setCurrentIndex(panel.ui.referModelSelector.findData("refer"))
    panel.ui.referButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text.startswith("Done. Not right yet?"), panel.ui.workLabel.text
    names = [node.GetName() for node in panel.logic.lastResult.segmentations.values()]
    assert names == ["CT segmentation", "MR segmentation", "T1 segmentation"]
    panel.ui.piecesSelector.setCurrentIndex(panel.ui.piecesSelector.findText("All"))
    assert panel.parameters.pieces.value == "all"
    panel.ui.referButton.click()
    until(lambda: not panel.work.is_busy, 100)
    assert panel.ui.workLabel.text.startswith("Done. Not right yet?")
    picture(panel, "referred", tmp_path)


def test_register_puts_a_transform_above_the_second_image_and_undo_takes_it_away(panel, phantom) -> None:
    ct, mr, _ = phantom
    noise = np.random.default_rng(0).normal(0, 40, (12, 40, 40))
    for node in (ct, mr):
        slicer.util.arrayFromVolume(node)[:] += noise
        slicer.util.arrayFromVolumeModified(node)
    panel.ui.mrSelector.setCurrentNode(mr)
    panel.ui.registerButton.click()
    until(lambda: not panel.work.is_busy, 200)
    assert panel.ui.workLabel.text.startswith("Aligned."), panel.ui.workLabel.text
    assert mr.GetParentTransformNode() is not None and ct.GetParentTransformNode() is None
    panel.ui.registerUndoButton.click()
    assert mr.GetParentTransformNode() is None


def test_all_images_are_aligned_also_where_the_panel_is_left_meanwhile(panel, phantom, monkeypatch) -> None:
    from CrossModalSegPanel.parameters import Task, Transform

    ct, mr, grid = phantom
    third = add_volume(slicer.mrmlScene, np.zeros((3, 4, 5), np.int16), grid, "T2")
    parameters, begun = panel.parameters, []
    parameters.task, parameters.transform = Task.REFER, Transform.AFFINE
    parameters.reference, parameters.targets = ct, [mr, third]

    def register(fixed, moving, transform, **callbacks):
        begun.append((fixed, moving, transform, callbacks))
        return SimpleNamespace(kind=None, cancel=lambda: None)

    monkeypatch.setattr(panel.logic, "register", register)
    panel.ui.registerButton.click()
    panel.exit()
    begun[0][-1]["onDone"](None)
    assert [each[:-1] for each in begun] == [(ct, mr, "affine"), (ct, third, "affine")]
    begun[1][-1]["onDone"](None)
    assert not panel.work.is_busy and panel.ui.workLabel.text.startswith("Aligned.")


def test_what_is_doubted_of_one_of_several_images_stays_to_be_read_with_its_name(panel, phantom, monkeypatch) -> None:
    from CrossModalSegPanel.parameters import Task

    ct, mr, grid = phantom
    third = add_volume(slicer.mrmlScene, np.zeros((3, 4, 5), np.int16), grid, "T2")
    panel.parameters.task, begun = Task.REFER, []
    panel.parameters.reference, panel.parameters.targets = ct, [mr, third]

    def register(*_images, **callbacks):
        begun.append(callbacks)
        return SimpleNamespace(kind="input", cancel=lambda: None)

    monkeypatch.setattr(panel.logic, "register", register)
    panel.ui.registerButton.click()
    begun[0]["onLog"]("It may be wrong.")
    begun[0]["onDone"](None)
    begun[1]["onLog"]("It may be wrong.")
    assert panel.ui.noteLabel.text == "MR: It may be wrong.\nT2: It may be wrong."
    begun[1]["onError"]("They do not overlap.")
    assert panel.ui.workLabel.text == "T2: They do not overlap."
    panel.ui.registerButton.click()
    assert not panel.ui.noteLabel.visible


def test_the_cases_of_the_scene_are_trained_on(panel, drawn, installed, tmp_path, monkeypatch) -> None:
    panel.models_step.refresh()
    until(lambda: panel.modelsFolder is not None and panel.models, 200)
    folder = tmp_path / "cases"
    monkeypatch.setattr(qt, "QFileDialog", SimpleNamespace(getExistingDirectory=lambda *_: str(folder)), raising=False)
    panel.ui.trainButton.click()
    assert panel.ui.workLabel.text.startswith("Choose a cohort file")
    panel.ui.writeCasesButton.click()
    until(lambda: not panel.work.is_busy, 100)
    assert panel.ui.cohortPath.currentPath == str(folder / "cohort.json"), panel.ui.workLabel.text
    panel.ui.trainedNameEdit.setText("mine")
    panel.ui.presetSelector.setCurrentIndex(0)
    real = panel.logic.train
    panel.logic.train = lambda *args, **options: real(*args, steps=2, **options)
    panel.ui.trainGroup.collapsed = False
    panel.ui.trainButton.click()
    until(lambda: not panel.work.is_busy, 300)
    picture(panel, "trained", tmp_path)
    assert panel.ui.workLabel.text.startswith("The model mine was trained."), panel.ui.workLabel.text
    until(lambda: "mine" in [model.name for model in panel.models], 100)


def test_all_choices_survive_saving_and_opening_the_scene(panel, drawn, module, tmp_path: Path) -> None:
    parameters, before = panel.parameters, strokes_of(panel)
    wanted = other_values(panel, module)
    for name, value in wanted.items():
        setattr(parameters, name, value)
    save_mrb(slicer.mrmlScene, tmp_path)
    assert panel.parameters is not parameters
    found = {name: getattr(panel.parameters, name) for name in wanted}
    assert {name: named(value) for name, value in found.items()} == {
        name: named(value) for name, value in wanted.items()
    }
    assert {name: named(control_value(widget)) for name, widget in bound_controls(panel).items()} == {
        name: named(shown(wanted[name])) for name in bound_controls(panel)
    }
    assert [node.GetName() for node in panel.ui.targetsSelector.checkedNodes()] == ["MR"]
    panel.parameters.scribbles = slicer.mrmlScene.GetFirstNodeByName("CT scribbles")
    panel.parameters.labels = "liver"
    assert strokes_of(panel) == before


def test_importing_the_module_imports_no_torch(tmp_path: Path) -> None:
    text = (HERE.parents[1] / "CrossModalSeg" / "CrossModalSeg.py").read_text(encoding="utf-8")
    assert "import torch" not in text and "\nfrom CrossModalSegLib" not in text
