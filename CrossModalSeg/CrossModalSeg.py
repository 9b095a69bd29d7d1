"""The module of 3D Slicer: it wires the panel to CrossModalSegLib, which does the work and needs no Slicer application.

The library is imported where it is used, so that the panel opens before it is installed; torch is never imported.
"""

from pathlib import Path
from unittest import mock

import CrossModalSegSampleData
import CrossModalSegSetup
import qt
import slicer
import vtk
from CrossModalSegFunctions import NodeFunctions, table
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MILLISECONDS = 50
COUNT_MILLISECONDS = 400  # after the last stroke


class CrossModalSeg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CrossModalSeg")
        self.parent.categories = [_("Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The CrossModalSeg developers"]
        self.parent.helpText = _(
            "Segment organs and tumours in CT and MR volumes from a few scribbles. Work through the steps from top to "
            "bottom. Research software, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "The method follows 'CmFNet: Cross-modal Fusion Network for Weakly-supervised Segmentation of Medical "
            "Images'. Licence: Apache-2.0."
        )
        # Sample Data is another module, which may be loaded later.
        slicer.app.connect("startupCompleted()", CrossModalSegSampleData.register)


@parameterNodeWrapper
class CrossModalSegParameterNode:
    """What the panel holds; saved with the scene.

    first: the volume that is drawn on.
    second: another volume of the patient, or None.
    labels: names of the structures with commas between.
    scribbles: where the strokes are.
    """

    first: slicer.vtkMRMLScalarVolumeNode
    second: slicer.vtkMRMLScalarVolumeNode
    labels: str = ""
    scribbles: slicer.vtkMRMLSegmentationNode


class CrossModalSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it passes clicks on and shows what comes back."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameters = None
        self._gui_tag = None
        self._observed_segmentation = None
        self._installation = None
        self._job = None

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/CrossModalSeg.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = CrossModalSegLogic()
        self._poll_timer, self._count_timer = qt.QTimer(), qt.QTimer()
        self._poll_timer.setInterval(POLL_MILLISECONDS)
        self._poll_timer.timeout.connect(self._poll)
        self._count_timer.setSingleShot(True)
        self._count_timer.setInterval(COUNT_MILLISECONDS)
        self._count_timer.timeout.connect(self._show_counts)
        self.ui.installLog.setVisible(False)
        self.ui.cancelButton.setVisible(False)
        for button, action in (
            (self.ui.installButton, self._install),
            (self.ui.checkButton, self._show_devices),
            (self.ui.prepareButton, self._prepare),
            (self.ui.backgroundButton, self._propose_background),
            (self.ui.cancelButton, self._cancel),
        ):
            button.clicked.connect(action)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_closes)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_is_there)
        self.addObserver(scene, scene.EndImportEvent, self._on_scene_is_there)
        self._show_environment()
        self._set_up_editor()
        self._take_parameters()

    def enter(self) -> None:
        """The panel comes into view."""
        self._take_parameters()
        self._show_environment()

    def exit(self) -> None:
        """The panel goes out of view; strokes end with it."""
        self.ui.editor.setActiveEffect(None)
        self._leave_parameters()

    def cleanup(self) -> None:
        """The module is unloaded: the worker ends, too."""
        self._poll_timer.stop()
        self._count_timer.stop()
        self._leave_parameters()
        self.removeObservers()
        self.logic.stop()

    # --- parameters and the scene ---

    def _take_parameters(self) -> None:
        if self._parameters is not None:
            return
        self._parameters = self.logic.getParameterNode()
        self._gui_tag = self._parameters.connectGui(self.ui.CrossModalSeg)
        self.addObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        self._on_parameters()

    def _leave_parameters(self) -> None:
        if self._parameters is None:
            return
        self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        self._parameters.disconnectGui(self._gui_tag)
        self._parameters = None
        self._observe_strokes(None)

    def _on_scene_closes(self, caller, event) -> None:
        self._cancel()
        self._leave_parameters()

    def _on_scene_is_there(self, caller, event) -> None:
        self._leave_parameters()
        self._set_up_editor()
        self._take_parameters()

    def _on_parameters(self, caller=None, event=None) -> None:
        parameters = self._parameters
        self._observe_strokes(parameters.scribbles)
        self.ui.editor.setSegmentationNode(parameters.scribbles)
        self.ui.editor.setSourceVolumeNode(parameters.first)
        self.ui.placementLabel.setText(self._placement_text())
        self._update_buttons()
        self._count_timer.start()

    def _observe_strokes(self, node) -> None:
        if node is self._observed_segmentation:
            return
        events = [slicer.vtkSegmentation.SourceRepresentationModified, slicer.vtkSegmentation.SegmentModified]
        for event in events:
            if self._observed_segmentation is not None:
                self.removeObserver(self._observed_segmentation.GetSegmentation(), event, self._on_stroke)
            if node is not None:
                self.addObserver(node.GetSegmentation(), event, self._on_stroke)
        self._observed_segmentation = node

    def _on_stroke(self, caller, event) -> None:
        self._count_timer.start()

    # --- 1. environment ---

    def _show_environment(self) -> None:
        problem = self.logic.environmentProblem()
        self.ui.environmentLabel.setText(problem or _("Everything is installed."))
        for widget in (self.ui.installButton, self.ui.wheelsLabel, self.ui.wheelsPath):
            widget.setVisible(bool(problem))
        for widget in (self.ui.checkButton, self.ui.inputsStep, self.ui.scribblesStep):
            widget.setEnabled(not problem)
        self._is_ready = not problem

    def _install(self, *_args) -> None:
        wheels = self.ui.wheelsPath.currentPath.strip()
        try:
            self._installation = self.logic.startInstallation(Path(wheels) if wheels else None)
        except CrossModalSegSetup.SetupError as error:
            self._say(str(error))
            return
        self.ui.installLog.setVisible(True)
        self.ui.installButton.setEnabled(False)
        self._poll_timer.start()

    def _poll_installation(self) -> None:
        for line in self._installation.poll():
            self.ui.installLog.appendPlainText(line)
        if not self._installation.has_ended:
            return
        error, self._installation = self._installation.error, None
        self.ui.installButton.setEnabled(True)
        self._show_environment()
        self._say(error or _("The installation is complete."))
        self._update_buttons()

    def _show_devices(self, *_args) -> None:
        self._run(lambda: self.logic.devices(self._on_devices, self._on_error), _("Looking at the devices …"))

    def _on_devices(self, text: str) -> None:
        self.ui.deviceLabel.setText(text)
        self._end_job("")

    # --- 2. inputs and 3. scribbles ---

    def _placement_text(self) -> str:
        first, second = self._parameters.first, self._parameters.second
        if not self._is_ready or first is None:
            return ""
        if second is None:
            return _("One image.")
        try:
            return self.logic.placementText(first, second)
        except self.logic.errors() as error:
            return str(error)

    def _prepare(self, *_args) -> None:
        parameters = self._parameters
        try:
            node = self.logic.prepareScribbles(parameters.first, parameters.labels)
        except self.logic.errors() as error:
            self._say(str(error))
            return
        parameters.scribbles = node
        self.ui.editor.setActiveEffectByName("Paint")
        self._say(_("Draw a few strokes in each structure and in the background, on some slices."))

    def _propose_background(self, *_args) -> None:
        parameters = self._parameters
        self._run(
            lambda: self.logic.autoBackground(
                parameters.first,
                parameters.scribbles,
                parameters.labels,
                onDone=self._on_background,
                onError=self._on_error,
            ),
            _("Proposing background …"),
        )

    def _on_background(self, count: int) -> None:
        self._end_job(_("{count} background voxels were drawn.").format(count=count))

    def _show_counts(self) -> None:
        parameters = self._parameters
        if parameters is None:
            return
        text = ""
        if self._is_ready and parameters.first is not None and parameters.scribbles is not None:
            try:
                text = self.logic.countsText(parameters.first, parameters.scribbles, parameters.labels)
            except self.logic.errors() as error:
                text = str(error)
        self.ui.countsLabel.setText(text)

    def _set_up_editor(self) -> None:
        node = slicer.mrmlScene.GetSingletonNode("CrossModalSegEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag("CrossModalSegEditor")
            node = slicer.mrmlScene.AddNode(node)
        self.ui.editor.setMRMLSegmentEditorNode(node)
        self.ui.editor.setEffectNameOrder(["Paint", "Draw", "Erase"])
        self.ui.editor.unorderedEffectsVisible = False
        self.ui.editor.setMaximumNumberOfUndoStates(20)
        # The selectors of the panel are enough.
        self.ui.editor.segmentationNodeSelectorVisible = False
        self.ui.editor.sourceVolumeNodeSelectorVisible = False

    # --- work in the background ---

    def _run(self, start, text: str) -> None:
        try:
            self._job = start()
        except self.logic.errors() as error:
            self._say(str(error))
            return
        self._say(text)
        self.ui.cancelButton.setVisible(True)
        self._update_buttons()
        self._poll_timer.start()

    def _poll(self) -> None:
        if self._installation is not None:
            self._poll_installation()
        self.logic.poll()
        if self._installation is None and self._job is None:
            self._poll_timer.stop()

    def _cancel(self, *_args) -> None:
        if self._job is not None:
            self._job.cancel()

    def _on_error(self, message: str) -> None:
        self._end_job(message)

    def _end_job(self, text: str) -> None:
        self._job = None
        self.ui.cancelButton.setVisible(False)
        self._say(text)
        self._update_buttons()

    def _update_buttons(self) -> None:
        parameters, is_free = self._parameters, self._job is None and self._is_ready
        has_image = parameters is not None and parameters.first is not None
        self.ui.checkButton.setEnabled(is_free)
        self.ui.prepareButton.setEnabled(is_free and has_image and bool(parameters.labels.strip()))
        self.ui.backgroundButton.setEnabled(is_free and has_image and parameters.scribbles is not None)

    def _say(self, text: str) -> None:
        self.ui.statusLabel.setText(text)


class CrossModalSegLogic(ScriptedLoadableModuleLogic, NodeFunctions):
    """The module's functions on nodes, and what the panel needs beside them."""

    def getParameterNode(self) -> CrossModalSegParameterNode:
        """The panel's parameters, in the scene."""
        return CrossModalSegParameterNode(super().getParameterNode())

    # --- environment ---

    def environmentProblem(self) -> str:
        """What is missing, as a sentence, or nothing."""
        try:
            missing = CrossModalSegSetup.missing(_source())
        except CrossModalSegSetup.SetupError as error:
            return str(error)
        if not missing:
            return ""
        return _("Missing: {names}. Nothing that belongs to Slicer itself is replaced.").format(
            names=", ".join(missing)
        )

    def startInstallation(self, wheels: Path | None = None) -> CrossModalSegSetup.Installation:
        """Install what is missing, in the background; poll what is returned.

        Args:
            wheels: folder of wheels; None installs from the internet, torch through the PyTorch extension.

        Raises:
            SetupError: PyTorch is missing and cannot be installed.
        """
        source = _source()
        if wheels is None:
            CrossModalSegSetup.install_torch(source)
        self.stop()
        installation = CrossModalSegSetup.Installation(source, wheels)
        installation.start()
        return installation

    def errors(self) -> tuple[type[Exception], ...]:
        """What the functions raise on purpose."""
        from CrossModalSegLib.errors import CrossModalSegError

        return (CrossModalSegError,)

    def devices(self, on_done, on_error):
        """Ask for the devices; `on_done` gets a text. Returns the job."""
        from CrossModalSegLib.worker.messages import DoctorRequest

        return self.workflow().client.submit(
            DoctorRequest(),
            on_done=lambda result: on_done(_devices_text(result.devices)),
            on_error=lambda error: on_error(error.message),
        )

    # --- inputs and scribbles ---

    def placementText(self, first, second) -> str:
        """How two volumes lie to each other, as a sentence.

        Raises:
            CrossModalSegError: a volume cannot be used.
        """
        from CrossModalSegLib.placement import placement
        from CrossModalSegLib.scene.volumes import read_grid

        found = placement(read_grid(first), read_grid(second))
        texts = {
            "same grid": _("The images share one grid."),
            "same patient space": _("The images overlap in patient space: {share:.0%}."),
            "apart": _("The images lie apart (overlap {share:.0%}). Bring them together before you go on."),
        }
        return texts[found.state].format(share=found.overlap)

    def countsText(self, volume, scribbles, labels: str) -> str:
        """How many voxels are scribbled, and what is missing.

        Raises:
            CrossModalSegError: a node cannot be used.
        """
        from CrossModalSegLib.scene.scribbles import count_scribbles

        counts = count_scribbles(scribbles, volume, table(labels))
        drawn = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        missing = ", ".join(name for name, count in counts.items() if not count)
        lines = [_("Scribbled voxels: {drawn}").format(drawn=drawn)] if drawn else []
        lines.append(_("Still missing: {missing}").format(missing=missing) if missing else _("Nothing is missing."))
        return "\n".join(lines)


class CrossModalSegTest(ScriptedLoadableModuleTest):
    """The functions on nodes on a small phantom; without the library, only that the panel says so."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_environment()
        if CrossModalSegLogic().environmentProblem():
            return
        for test in (self.test_fit, self.test_trained_models):
            self.setUp()
            test()

    def test_environment(self) -> None:
        """The panel says what is missing, or that nothing is."""
        self.assertIsInstance(CrossModalSegLogic().environmentProblem(), str)

    def test_fit(self) -> None:
        """From strokes to a segmentation that agrees with the truth, and back."""
        logic, phantom = CrossModalSegLogic(), _small_phantom()
        self.assertGreaterEqual(logic.autoBackground(phantom.ct, phantom.scribbles), 0)
        transform = logic.register(phantom.ct, phantom.mr)
        self.assertEqual(phantom.mr.GetParentTransformNode(), transform)
        self.assertTrue(logic.undo())
        segmentation = logic.fit({"ct": phantom.ct, "mr": phantom.mr}, phantom.scribbles, seconds=0)
        table = logic.evaluate(segmentation, phantom.mask, phantom.ct).GetTable()
        self.assertGreater(table.GetColumnByName("DSC").GetValue(0), 0.5)
        self.assertTrue(logic.undo() and logic.undo())
        self.assertFalse(slicer.mrmlScene.IsNodePresent(segmentation))

    def test_trained_models(self) -> None:
        """Those that are installed are listed, and can be used."""
        logic, phantom = CrossModalSegLogic(), _small_phantom()
        images = {"ct": phantom.ct, "mr": phantom.mr}
        models = logic.models()
        self.assertTrue([model for model in models if model.task == "fit" and model.is_shipped])
        for model in models:
            if model.task == "segment" and set(model.modalities) <= set(images):
                used = {modality: images[modality] for modality in model.modalities}
                self.assertIsNotNone(logic.segment(used, model.name))
            elif model.task == "refer":
                self.assertEqual(len(logic.refer(phantom.ct, [phantom.mr], phantom.scribbles, model=model.name)), 2)


def _small_phantom():
    with (
        mock.patch.object(CrossModalSegSampleData, "SHAPE", (16, 40, 40)),
        mock.patch.object(CrossModalSegSampleData, "SPACING", (9, 5, 5)),
    ):
        return CrossModalSegSampleData.loadPhantom()


def _source() -> Path:
    return CrossModalSegSetup.library_source(Path(__file__).resolve().parent)


def _devices_text(devices) -> str:
    lines = []
    for device in devices:
        memory = "" if device.free_bytes is None else _(", {free:.1f} GB free").format(free=device.free_bytes / 2**30)
        lines.append(f"{device.name}: {device.description}{memory}")
    if all(device.name == "cpu" for device in devices):
        lines.append(_("There is no graphics card to compute on; everything works, but takes longer."))
    return "\n".join(lines)
