"""Run by CTest inside 3D Slicer: what stand-ins cannot show."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer


class PanelInSlicerTest(unittest.TestCase):
    """The panel in the real application."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def test_the_panel_opens_and_its_controls_are_bound(self) -> None:
        slicer.util.selectModule("CrossModalSeg")
        widget = slicer.modules.CrossModalSegWidget
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        widget.ui.ctSelector.setCurrentNode(volume)
        self.assertIs(widget.logic.getParameterNode().ct, volume)
        widget.ui.labelsEdit.text = "liver, tumour"
        self.assertEqual(widget.logic.getParameterNode().labels, "liver, tumour")

    def test_closing_the_scene_leaves_an_empty_panel(self) -> None:
        slicer.util.selectModule("CrossModalSeg")
        widget = slicer.modules.CrossModalSegWidget
        widget.ui.labelsEdit.text = "liver"
        slicer.mrmlScene.Clear()
        self.assertEqual(widget.logic.getParameterNode().labels, "")

    def test_what_was_chosen_comes_back_with_a_scene_that_is_read_into_an_open_panel(self) -> None:
        slicer.util.selectModule("CrossModalSeg")
        widget = slicer.modules.CrossModalSegWidget
        volume = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16), name="CT")
        widget.ui.ctSelector.setCurrentNode(volume)
        widget.ui.labelsEdit.text = "liver"
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
        parameters = widget.logic.getParameterNode()
        self.assertEqual((parameters.ct.GetName(), parameters.labels), ("CT", "liver"))
        self.assertIs(widget.ui.ctSelector.currentNode(), parameters.ct)
        self.assertEqual(widget.ui.labelsEdit.text, "liver")
