"""The module of 3D Slicer: it wires the panel to CrossModalSegLib, which does the work and needs no Slicer application.

The library is imported where it is used, so that the panel opens before it is installed; torch is never imported.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import slicer
import vtk
from CrossModalSegPanel import installation, sample_data
from CrossModalSegPanel.environment_step import EnvironmentStep
from CrossModalSegPanel.functions import NodeFunctions, table
from CrossModalSegPanel.inputs_step import InputsStep
from CrossModalSegPanel.models_step import ModelsStep
from CrossModalSegPanel.parameters import CrossModalSegParameterNode, Task
from CrossModalSegPanel.results_step import ResultsStep
from CrossModalSegPanel.run_step import RunStep
from CrossModalSegPanel.scribbles_step import ScribblesStep
from CrossModalSegPanel.work import Work
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


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
            "The methods follow 'CmFNet: Cross-modal Fusion Network for Weakly-supervised Segmentation of Medical "
            "Images' and 'All you need is a reference: cross-modality referring segmentation for abdominal MRI'. "
            "Licence: Apache-2.0."
        )
        # Sample Data is another module, which may be loaded later.
        slicer.app.connect("startupCompleted()", sample_data.register)


class CrossModalSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: six steps, which pass clicks on and show what comes back.

    Attributes:
        ui: its widgets by name.
        logic: the module's functions on nodes.
        parameters: what is chosen; None while the scene closes, or another one is read.
        work: what goes on in the background.
        scribbles, results, models_step: those steps that others have to do with.
    """

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.parameters = None
        self._gui_tag = None
        self._is_showing = False
        self._is_scene_new = False

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/CrossModalSeg.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        self._bound = _bound_controls(self.ui)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = CrossModalSegLogic()
        self.work = Work(self.ui, self.logic, self.show)
        self.environment = EnvironmentStep(self)
        self.models_step = ModelsStep(self)
        self.inputs = InputsStep(self)
        self.scribbles = ScribblesStep(self)
        self.results = ResultsStep(self)
        self._steps = (
            self.environment,
            self.inputs,
            self.scribbles,
            RunStep(self),
            self.results,
            self.models_step,
        )
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_closes)
        self.addObserver(scene, scene.StartImportEvent, self._on_scene_comes)
        # The selectors list all nodes anew when a scene was read, and would put None into the parameters meanwhile.
        self.addObserver(scene, scene.EndBatchProcessEvent, self._on_scene_is_there, priority=-1.0)
        self._take_parameters()

    def enter(self) -> None:
        """The panel comes into view."""
        was_ready = self.is_ready
        self._take_parameters()
        self.environment.look()
        if self.is_ready and not (was_ready and self.models):
            self.look_around()
        self.show()

    def exit(self) -> None:
        """The panel goes out of view; strokes end with it."""
        self.scribbles.end_strokes()
        self._leave_parameters()

    def cleanup(self) -> None:
        """The module is unloaded: the worker ends, too."""
        self.work.close()
        self.environment.stop()
        self.logic.stop()
        try:
            self._leave_parameters()
        finally:
            self.removeObservers()

    def look_around(self) -> None:
        """See which models are installed, and what can be computed on."""
        self.models_step.refresh()
        self.environment.look_for_devices()

    # --- what the steps ask for ---

    @property
    def is_ready(self) -> bool:
        """Whether everything is installed."""
        return self.environment.is_ready

    @property
    def can_start(self) -> bool:
        """Whether something can be begun now."""
        return self.is_ready and not self.work.is_busy

    @property
    def models(self) -> list:
        """The models that are installed, once they were listed."""
        return self.models_step.models

    @property
    def modelsFolder(self):
        """Where trained models go; None before it is known."""
        return self.models_step.folder

    def images(self) -> dict:
        """What is chosen; that which is drawn on is the first."""
        parameters = self.parameters
        if parameters is None:
            return {}
        if parameters.task is Task.FIT:
            chosen = {"ct": parameters.ct, "mr": parameters.mr}
        else:
            targets = [node for node in parameters.targets if node is not None and node is not parameters.reference]
            if parameters.reference is None:
                return {}
            chosen = {"reference": parameters.reference} | {node.GetID(): node for node in targets}
        return {name: node for name, node in chosen.items() if node is not None}

    def drawn_on(self):
        """The image that is drawn on, or None."""
        return next(iter(self.images().values()), None)

    def table(self):
        """The structures; those of a model with its colours and terminology, or where none is named, of the scribbles.

        Raises:
            CrossModalSegError: a name cannot be used.
        """
        parameters = self.parameters
        if parameters.scribbles is not None and not parameters.labels.strip():
            return self.logic.structuresOf(parameters.scribbles)
        chosen = table(parameters.labels)
        tables = [model.labels for model in self.models if model.labels is not None]
        return next((each for each in tables if each.names == chosen.names), chosen)

    def fill(self, selector, first: str, models, name: str = "") -> None:
        """Offer models, after an item for none of them; keep or make the choice, also of one that is not there."""
        names = [model.name for model in models]
        wanted = name or self._chosen_name(selector)
        selector.blockSignals(True)
        selector.clear()
        selector.addItem(first, "")
        for each in names:
            selector.addItem(each, each)
        if name and name not in names:  # of a scene from elsewhere, or deleted: it can be seen, and left
            is_known = self.modelsFolder is not None
            selector.addItem(_("{name} (not available)").format(name=name) if is_known else name, name)
            names.append(name)
        selector.setCurrentIndex(names.index(wanted) + 1 if wanted in names else 0)
        selector.blockSignals(False)

    def chosen(self, selector):
        """The model that is chosen, or None."""
        name = self._chosen_name(selector)
        return next((model for model in self.models if model.name == name), None)

    def _chosen_name(self, selector) -> str:
        return selector.itemData(selector.currentIndex) or ""

    def undo(self, *_args) -> None:
        """Take the last result back."""
        if self.logic.undo():
            self.results.look_again()
            self.work.look_again()
        self.show()

    def show(self, *_args) -> None:
        """Let all steps follow."""
        if self._is_showing:
            return
        self._is_showing = True
        try:
            for step in self._steps:
                step.show()
        finally:
            self._is_showing = False

    # --- parameters and the scene ---

    def _take_parameters(self) -> None:
        if self.parameters is not None:
            return
        self.parameters = self.logic.getParameterNode()
        # Slicer's connectGui gives no tag, and what it connects can never be disconnected.
        self._gui_tag = self.parameters.connectParametersToGui(self._bound)
        self.addObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.show)
        self.show()

    def _leave_parameters(self) -> None:
        if self.parameters is None:
            return
        parameters, self.parameters = self.parameters, None
        self.removeObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.show)
        self.inputs.stop()
        self.scribbles.stop()
        parameters.disconnectGui(self._gui_tag)

    def _on_scene_closes(self, caller, event) -> None:
        self.work.leave_scene()
        self.results.forget()
        self._on_scene_comes(caller, event)

    def _on_scene_comes(self, caller, event) -> None:
        self._leave_parameters()
        self._is_scene_new = True

    def _on_scene_is_there(self, caller, event) -> None:
        if not self._is_scene_new:  # the end of something smaller
            return
        self._is_scene_new = False
        self._leave_parameters()
        self.scribbles.set_up_editor()
        self._take_parameters()


class CrossModalSegLogic(ScriptedLoadableModuleLogic, NodeFunctions):
    """The module's functions on nodes, and what the panel needs beside them."""

    def getParameterNode(self) -> CrossModalSegParameterNode:
        """The panel's parameters, in the scene."""
        return CrossModalSegParameterNode(super().getParameterNode())

    # --- environment ---

    def environmentProblem(self) -> str:
        """What is missing, as a sentence, or nothing."""
        try:
            installation.check_python(_source())
            missing = installation.missing(_source())
        except installation.SetupError as error:
            return str(error)
        if not missing:
            return ""
        return _("Missing: {names}. Nothing that belongs to Slicer itself is replaced.").format(
            names=", ".join(missing)
        )

    def startInstallation(self, wheels: Path | None = None) -> installation.Installation:
        """Install what is missing, in the background; poll what is returned.

        Args:
            wheels: folder of wheels; None installs from the internet, torch through the PyTorch extension.

        Raises:
            SetupError: Python is too old, or PyTorch is missing and cannot be installed.
        """
        source = _source()
        installation.check_python(source)
        if wheels is None:
            installation.install_torch(source)
        self.stop()
        begun = installation.Installation(source, wheels)
        begun.start()
        return begun

    def errors(self) -> tuple[type[Exception], ...]:
        """What the functions raise on purpose."""
        from CrossModalSegLib.errors import CrossModalSegError

        return (CrossModalSegError,)

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
            "same grid": _("{name}: same grid (overlap {share:.0%})."),
            "same patient space": _("{name}: same patient space (overlap {share:.0%})."),
            "apart": _("{name}: apart (overlap {share:.0%}). Register it, or move it by hand, before you go on."),
        }
        return texts[found.state].format(name=second.GetName(), share=found.overlap)

    def countsText(self, volume, scribbles, labels, needsBackground: bool = True) -> str:
        """How many voxels are scribbled, what is missing, and for which other volume they were prepared.

        `labels` are as in `prepareScribbles`.

        Raises:
            CrossModalSegError: a node cannot be used.
        """
        from CrossModalSegLib.scene.nodes import drawn_on
        from CrossModalSegLib.scene.scribbles import count_scribbles
        from CrossModalSegLib.scene.segments import BACKGROUND

        counts = count_scribbles(scribbles, volume, table(labels))
        drawn = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        needed = [name for name in counts if needsBackground or name != BACKGROUND]
        missing = ", ".join(name for name in needed if not counts[name])
        lines = [_("Scribbled voxels: {drawn}").format(drawn=drawn)] if drawn else []
        lines.append(_("Still missing: {missing}").format(missing=missing) if missing else _("Nothing is missing."))
        prepared_for = drawn_on(scribbles)
        if prepared_for is not None and prepared_for is not volume:
            text = _("These scribbles were prepared for '{other}'. To draw on '{name}', press 'Prepare scribbles'.")
            lines.append(text.format(other=prepared_for.GetName(), name=volume.GetName()))
        return "\n".join(lines)

    def structuresOf(self, scribbles):
        """What the segments of scribbles stand for, such as those of the phantom.

        Raises:
            CrossModalSegError: they stand for nothing, or two for the same.
        """
        from CrossModalSegLib.scene.classes import classes_of

        return classes_of(scribbles)

    def setImages(self, scribbles, images) -> None:
        """Remember which images scribbles belong to, for `writeCases`."""
        from CrossModalSegLib.scene.cohorts import set_images

        set_images(scribbles, images)

    # --- results ---

    @property
    def canUndo(self) -> bool:
        """Whether there is a result to take back."""
        shared = NodeFunctions._workflow
        return shared is not None and shared.can_undo

    def measure(self, segmentation, mask, **options):
        """`evaluate` on the grid of the volume that was segmented, with its options and callbacks.

        Raises:
            CrossModalSegError: the segmentation belongs to no volume, or as `evaluate`.
        """
        from CrossModalSegLib.errors import InputError
        from CrossModalSegLib.scene.nodes import drawn_on

        volume = drawn_on(segmentation)
        if volume is None:
            raise InputError(
                _("'{name}' belongs to no volume of the scene. Choose the source geometry in Segmentations.").format(
                    name=segmentation.GetName()
                )
            )
        return self.evaluate(segmentation, mask, volume, **options)

    def isReplacedBy(self, segmentation, volumes) -> bool:
        """Whether a run on volumes would write into a segmentation, which is its result of before."""
        from CrossModalSegLib.scene.results import last_result, result_name

        results = [last_result(slicer.mrmlScene, volume, result_name(volume)) for volume in volumes]
        return any(segmentation is each for each in results if each is not None)

    def showsSurfaces(self, segmentation) -> bool:
        """Whether a segmentation is seen in 3D views."""
        from CrossModalSegLib.scene.segmentations import shows_surfaces

        return shows_surfaces(segmentation)

    def showSurfaces(self, segmentation, isShown: bool) -> None:
        """Show a segmentation in 3D views, or hide it there."""
        from CrossModalSegLib.scene.segmentations import show_surfaces

        show_surfaces(segmentation, isShown)


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
        self._need_library()
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
        self._need_library()
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

    def _need_library(self) -> None:
        # CTest calls each test by itself, in a Slicer that has nothing installed yet.
        problem = CrossModalSegLogic().environmentProblem()
        if problem:
            self.skipTest(problem)


def _bound_controls(ui) -> dict:
    """The controls of parameters by the names of these, which are in the file of the panel."""
    named = ((widget.property("SlicerParameterName"), widget) for widget in vars(ui).values())
    return {name: widget for name, widget in named if name}


def _small_phantom():
    with (
        mock.patch.object(sample_data, "SHAPE", (16, 40, 40)),
        mock.patch.object(sample_data, "SPACING", (9, 5, 5)),
    ):
        return sample_data.loadPhantom()


def _source() -> Path:
    return installation.library_source(Path(__file__).resolve().parent)
