"""The real panel on stand-ins of Slicer's widgets and real MRML, without a screen."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")
pytest.importorskip("PySide6.QtWidgets", reason="Qt's system libraries are missing", exc_type=ImportError)

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "standins"), str(HERE.parent / "scene")]

import qt
import slicer
import slicer.util
import slicer_python
import slicer_widgets
from scene_support import add_volume, paint, segment_named

from CrossModalSegLib.scene.headless import HeadlessScene


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
    panel.ui.firstSelector.setCurrentNode(ct)
    return ct, mr, grid


def until(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        qt.application.processEvents()
        time.sleep(0.01)


def picture(panel, name: str, tmp_path: Path) -> None:
    qt.application.processEvents()
    assert panel.parent.grab().save(str(tmp_path / f"{name}.png"))


def test_choices_go_to_the_parameters_and_back(panel, phantom) -> None:
    ct, mr, _ = phantom
    parameters = panel.logic.getParameterNode()
    assert parameters.first is ct and parameters.second is None
    parameters.second = mr
    assert panel.ui.secondSelector.currentNode() is mr
    panel.ui.labelsEdit.setText("liver")
    assert parameters.labels == "liver"
    parameters.labels = "liver, spleen"
    assert panel.ui.labelsEdit.text == "liver, spleen"


def test_every_bound_control_has_its_parameter(panel, module) -> None:
    from PySide6 import QtCore, QtWidgets

    bound = {
        QtCore.QObject.property(each, "SlicerParameterName")
        for each in panel.parent.findChildren(QtWidgets.QWidget)
        if QtCore.QObject.property(each, "SlicerParameterName")
    }
    assert bound == set(module.CrossModalSegParameterNode.types)


def test_the_placement_is_shown(panel, phantom) -> None:
    _, mr, grid = phantom
    panel.ui.secondSelector.setCurrentNode(mr)
    assert panel.ui.placementLabel.text == "The images share one grid."
    far = grid.copy()
    far[:3, 3] = 900
    away = add_volume(slicer.mrmlScene, np.zeros((4, 5, 6), np.float32), far, "away")
    panel.ui.secondSelector.setCurrentNode(away)
    assert panel.ui.placementLabel.text.startswith("The images lie apart (overlap 0%).")


def test_from_structures_to_background_with_the_real_worker(panel, phantom, tmp_path: Path) -> None:
    ct, mr, grid = phantom
    panel.ui.secondSelector.setCurrentNode(mr)
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
    assert panel.ui.cancelButton.visible
    until(lambda: not panel.ui.cancelButton.visible, 200)
    assert "background voxels were drawn" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    panel._show_counts()
    assert "liver 4, Background" in panel.ui.countsLabel.text
    picture(panel, "scribbles", tmp_path)


def test_devices_are_shown_by_the_real_worker(panel) -> None:
    panel.ui.checkButton.click()
    until(lambda: not panel.ui.cancelButton.visible, 200)
    assert "cpu: " in panel.ui.deviceLabel.text, panel.ui.statusLabel.text


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
    until(lambda: not panel.ui.cancelButton.visible)
    assert panel.ui.statusLabel.text.startswith("The worker ")
    assert panel.logic.countsText(ct, scribbles, "liver").startswith("Scribbled voxels: liver 4\n")


def test_a_bad_name_is_explained(panel, phantom) -> None:
    panel.ui.labelsEdit.setText("liver, Liver")
    panel.ui.prepareButton.click()
    assert "appear twice: liver" in panel.ui.statusLabel.text
    assert panel.logic.getParameterNode().scribbles is None


def test_without_torch_the_panel_opens_and_advises(module, monkeypatch, tmp_path: Path) -> None:
    real = module.CrossModalSegSetup.installed_version
    monkeypatch.setattr(
        module.CrossModalSegSetup, "installed_version", lambda name: None if name == "torch" else real(name)
    )
    panel = module.CrossModalSegWidget()
    panel.setup()
    panel.parent.resize(480, 820)
    panel.parent.show()
    assert panel.ui.environmentLabel.text.startswith("Missing: torch>=2.8,<3.")
    assert not panel.ui.inputsStep.enabled
    panel.ui.installButton.click()
    assert "Extensions Manager" in panel.ui.statusLabel.text
    picture(panel, "environment", tmp_path)
    panel.cleanup()
    panel.parent.close()


def test_closing_the_scene_cancels_and_leaves_an_empty_panel(panel, phantom) -> None:
    panel.ui.labelsEdit.setText("liver")
    panel.ui.prepareButton.click()
    panel.ui.backgroundButton.click()
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.ui.cancelButton.visible, 200)
    assert panel.ui.firstSelector.currentNode() is None
    assert "background voxels" not in panel.ui.statusLabel.text


def test_importing_the_module_imports_no_torch(tmp_path: Path) -> None:
    text = (HERE.parents[1] / "CrossModalSeg" / "CrossModalSeg.py").read_text(encoding="utf-8")
    assert "import torch" not in text and "\nfrom CrossModalSegLib" not in text
