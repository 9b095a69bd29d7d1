"""Step 3: the strokes."""

import qt
import slicer
from slicer.i18n import tr as _

from CrossModalSegPanel.nodes import singleton
from CrossModalSegPanel.parameters import Task
from CrossModalSegPanel.watching import Watch

COUNT_MILLISECONDS = 400  # after the last stroke
UNDO_STATES = 20


class ScribblesStep:
    """Segments to draw in, Segment Editor, and what is drawn."""

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        events = [slicer.vtkSegmentation.SourceRepresentationModified, slicer.vtkSegmentation.SegmentModified]
        self._strokes = Watch(events, self._on_stroke)
        # Which voxels of the image are scribbled depends on where the two lie.
        self._places = Watch([slicer.vtkMRMLTransformableNode.TransformModifiedEvent], self._on_stroke)
        self._counted = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(COUNT_MILLISECONDS)
        self._timer.timeout.connect(self.show_counts)
        self._ui.prepareButton.clicked.connect(self._prepare)
        self._ui.backgroundButton.clicked.connect(self._propose_background)
        self._ui.labelsModelSelector.currentIndexChanged.connect(self._take_labels)
        self._ui.labelsEdit.textChanged.connect(self._on_labels)
        self.set_up_editor()

    def show(self) -> None:
        """Follow the parameters."""
        panel, parameters = self._panel, self._panel.parameters
        self._ui.scribblesStep.setEnabled(panel.is_ready)
        models = [model for model in panel.models if model.labels is not None and model.task != "fit"]
        panel.fill(self._ui.labelsModelSelector, _("Choose a model, or type below"), models)
        if parameters is None:
            return
        if self._ui.labelsEdit.text != parameters.labels:
            self._ui.labelsEdit.setText(parameters.labels)
        image = panel.drawn_on()
        drawn = [] if parameters.scribbles is None else [parameters.scribbles]
        self._strokes.follow([node.GetSegmentation() for node in drawn])
        self._places.follow([*drawn, *([] if image is None else [image])])
        self._ui.editor.setSegmentationNode(parameters.scribbles)
        # Segment Editor takes the first segmentation that comes into a scene by itself, such as a mask.
        self._ui.editor.setEnabled(parameters.scribbles is not None)
        if parameters.scribbles is not None:  # an error to Segment Editor before
            self._ui.editor.setSourceVolumeNode(image)
        has_image = panel.can_start and image is not None
        self._ui.prepareButton.setEnabled(has_image and bool(parameters.labels.strip()))
        self._ui.backgroundButton.setEnabled(has_image and parameters.scribbles is not None)
        if self._counted != self._counts_depend_on():
            self._timer.start()

    def stop(self) -> None:
        """The panel goes, or lets go of the scene."""
        self._timer.stop()
        self._strokes.follow([])
        self._places.follow([])
        self._counted = None

    def end_strokes(self) -> None:
        """No brush is active any more."""
        self._ui.editor.setActiveEffect(None)

    def set_up_editor(self) -> None:
        """Give Segment Editor its node, and show Paint, Draw and Erase only."""
        editor = self._ui.editor
        editor.setMRMLSegmentEditorNode(singleton("vtkMRMLSegmentEditorNode", "CrossModalSegEditor"))
        editor.setEffectNameOrder(["Paint", "Draw", "Erase"])
        editor.unorderedEffectsVisible = False
        editor.setMaximumNumberOfUndoStates(UNDO_STATES)
        # The selectors of the panel are enough.
        editor.segmentationNodeSelectorVisible = False
        editor.sourceVolumeNodeSelectorVisible = False

    def show_counts(self) -> None:
        """Say how much is drawn, and what is missing."""
        parameters, text = self._panel.parameters, ""
        if parameters is None:
            return
        self._counted = self._counts_depend_on()
        image = self._panel.drawn_on()
        if self._panel.is_ready and image is not None and parameters.scribbles is not None:
            try:
                needs_background = parameters.task is Task.FIT
                text = self._logic.countsText(image, parameters.scribbles, self._panel.table(), needs_background)
            except self._logic.errors() as error:
                text = str(error)
        self._ui.countsLabel.setText(text)

    def _counts_depend_on(self) -> tuple:
        """What is counted, beside the strokes themselves."""
        parameters = self._panel.parameters
        nodes = [node and node.GetID() for node in (parameters.scribbles, self._panel.drawn_on())]
        return (*nodes, parameters.labels, parameters.task, self._panel.is_ready)

    def _on_stroke(self, caller, event) -> None:
        self._counted = None
        self._timer.start()

    def _on_labels(self, *_args) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.labels = self._ui.labelsEdit.text

    def _take_labels(self, *_args) -> None:
        model = self._panel.chosen(self._ui.labelsModelSelector)
        if model is not None and self._panel.parameters is not None:
            self._panel.parameters.labels = ", ".join(model.labels.names)

    def _prepare(self, *_args) -> None:
        parameters, image = self._panel.parameters, self._panel.drawn_on()
        try:
            name = _("{name} scribbles").format(name=image.GetName())
            node = self._logic.prepareScribbles(image, self._panel.table(), name)
            if parameters.task is Task.FIT:
                self._logic.setImages(node, self._panel.images())
        except self._logic.errors() as error:
            self._panel.work.say(self._ui.scribblesStep, str(error))
            return
        parameters.scribbles = node
        self._ui.editor.setActiveEffectByName("Paint")
        text = _("Draw a few strokes in each structure and in the background, on some slices.")
        if parameters.task is Task.REFER:
            text = _("Draw a stroke in each structure, on one slice or more.")
        self._panel.work.say(self._ui.scribblesStep, text)

    def _propose_background(self, *_args) -> None:
        parameters = self._panel.parameters
        self._panel.work.start(
            self._ui.scribblesStep,
            _("Proposing background …"),
            lambda **callbacks: self._logic.autoBackground(
                self._panel.drawn_on(), parameters.scribbles, self._panel.table(), **callbacks
            ),
            _background_text,
        )


def _background_text(count: int) -> str:
    if count == 1:
        return _("One background voxel was drawn.")
    return _("{count} background voxels were drawn.").format(count=count)
