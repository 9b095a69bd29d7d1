"""Run by CTest inside 3D Slicer: what stand-ins cannot show."""

import unittest

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
