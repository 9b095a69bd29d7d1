"""Step 2: which images, and how they lie to each other."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from CrossModalSegPanel.parameters import Task
from CrossModalSegPanel.watching import Watch

MOVED_MILLISECONDS = 200  # after the last movement


class InputsStep:
    """The choice of images, and bringing them together."""

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        # Images are moved by hand, and by other modules.
        self._places = Watch([slicer.vtkMRMLTransformableNode.TransformModifiedEvent], self._on_moved)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(MOVED_MILLISECONDS)
        self._timer.timeout.connect(self._show_placement)
        selector = self._ui.targetsSelector
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.setMRMLScene(slicer.mrmlScene)
        selector.checkedNodesChanged.connect(self._on_targets)
        self._ui.registerButton.clicked.connect(self._register)
        self._ui.registerUndoButton.clicked.connect(panel.undo)

    def show(self) -> None:
        """Follow the parameters."""
        parameters, ui = self._panel.parameters, self._ui
        ui.inputsStep.setEnabled(self._panel.is_ready)
        if parameters is None:
            return
        is_fit = parameters.task is Task.FIT
        for widget in (ui.ctLabel, ui.ctSelector, ui.mrLabel, ui.mrSelector):
            widget.setVisible(is_fit)
        for widget in (ui.referenceLabel, ui.referenceSelector, ui.targetsLabel, ui.targetsSelector):
            widget.setVisible(not is_fit)
        self._check_targets(parameters.targets)
        self._places.follow({node.GetID(): node for node in self._panel.images().values()}.values())
        self._show_placement()
        can_register = self._panel.can_start and bool(self._pairs())
        ui.registerButton.setEnabled(can_register)
        ui.registerUndoButton.setEnabled(self._panel.can_start and self._logic.canUndo)

    def stop(self) -> None:
        """The panel goes, or lets go of the scene."""
        self._timer.stop()
        self._places.follow([])

    def _on_moved(self, caller, event) -> None:
        self._timer.start()

    def _show_placement(self) -> None:
        self._ui.placementLabel.setText(self._placement_text())

    def _on_targets(self, *_args) -> None:
        parameters = self._panel.parameters
        if parameters is not None:
            parameters.targets = list(self._ui.targetsSelector.checkedNodes())

    def _check_targets(self, targets) -> None:
        selector, wanted = self._ui.targetsSelector, {node.GetID() for node in targets if node is not None}
        if {node.GetID() for node in selector.checkedNodes()} == wanted:
            return
        selector.blockSignals(True)
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            selector.setCheckState(node, qt.Qt.Checked if node.GetID() in wanted else qt.Qt.Unchecked)
        selector.blockSignals(False)

    def _pairs(self) -> list:
        """What stays and what is moved, for each image that can be moved."""
        first, *others = self._panel.images().values() if self._panel.images() else [None]
        return [(first, other) for other in others]

    def _placement_text(self) -> str:
        if not self._panel.is_ready:
            return ""
        pairs = self._pairs()
        if not pairs:
            return _("One image.") if self._panel.images() else _("Choose the images.")
        try:
            return "\n".join(self._logic.placementText(*pair) for pair in pairs)
        except self._logic.errors() as error:
            return str(error)

    def _register(self, *_args) -> None:
        self._register_next(self._pairs(), self._panel.parameters.transform.value)

    def _register_next(self, pairs, transform: str) -> str | None:
        """Register one image after the other, also where the panel is left meanwhile."""
        if not pairs:
            return _("Aligned. Check the views; the transform can be adjusted in the module Transforms, or undone.")
        (fixed, moving), *rest = pairs

        def begin(onLog, **callbacks):
            return self._logic.register(
                fixed,
                moving,
                transform=transform,
                onLog=lambda sentence: onLog(self._about(moving, sentence)),
                **callbacks,
            )

        self._panel.work.start(
            self._ui.inputsStep,
            _("Aligning {name} …").format(name=moving.GetName()),
            begin,
            lambda _transform: self._register_next(rest, transform),
            failed=lambda _kind, sentence: self._about(moving, sentence),
        )
        return None

    @staticmethod
    def _about(image, sentence: str) -> str:
        """What is said of one of several images."""
        return f"{image.GetName()}: {sentence}"
