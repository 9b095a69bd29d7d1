"""Step 5: what came out."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _


class ResultsStep:
    """Volumes, agreement with a mask, surfaces, and undo."""

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        self._ui.measureButton.clicked.connect(self._measure)
        self._ui.undoButton.clicked.connect(panel.undo)
        self._ui.surfacesButton.clicked.connect(self._show_surfaces)
        self._ui.resultsTable.setVisible(False)

    def show(self) -> None:
        """Follow the parameters."""
        panel, ui, parameters = self._panel, self._ui, self._panel.parameters
        ui.resultsStep.setEnabled(panel.is_ready)
        if parameters is None:
            return
        has_result = panel.can_start and parameters.result is not None
        ui.measureButton.setEnabled(has_result and parameters.mask is not None)
        ui.surfacesButton.setEnabled(has_result)
        ui.surfacesButton.setChecked(has_result and self._logic.showsSurfaces(parameters.result))
        ui.undoButton.setEnabled(panel.can_start and self._logic.canUndo)

    def take(self, segmentation) -> None:
        """Look at a segmentation."""
        self._parameters.result = segmentation

    def take_finished(self, segmentations, text: str) -> str | None:
        """Look at what a run gave, and measure it where a mask is chosen.

        Returns:
            What is said, or None where something else was begun.
        """
        self.take(segmentations[0])
        self._show_table(self._logic.lastResult.table)
        if self._parameters.mask is None:
            return text
        self._measure(step=self._ui.runStep, text=text)
        return None

    def take_former(self, segmentation, text: str) -> str:
        """Look at what was looked at before a run that gave nothing; returns what is said."""
        if segmentation is not None and slicer.mrmlScene.IsNodePresent(segmentation):
            self.take(segmentation)
        return text

    def look_again(self) -> None:
        """Something was taken back: the numbers are those of before by now, or gone."""
        node = self._ui.resultsTable.mrmlTableNode()
        if node is not None and not slicer.mrmlScene.IsNodePresent(node):
            self._show_table(None)

    def forget(self) -> None:
        """The scene is closed: neither numbers nor voxels of its last result are held any more."""
        self._show_table(None)
        self._logic.lastResult = None

    @property
    def _parameters(self):
        """Those of the scene, also while the panel is left: runs end meanwhile."""
        return self._panel.parameters or self._logic.getParameterNode()

    def _show_table(self, node) -> None:
        self._ui.resultsTable.setMRMLTableNode(node)
        self._ui.resultsTable.resizeColumnsToContents()
        self._ui.resultsTable.setVisible(node is not None)

    def _measure(self, *_args, step=None, text: str | None = None) -> None:
        parameters, is_of_run = self._parameters, text is not None

        def done(table) -> str:
            self._show_table(table)
            return text or _("Measured.")

        def failed(kind: str, sentence: str) -> str:
            if text is None:
                return sentence
            return text if kind == "cancelled" else f"{text} {sentence}"  # the result of the run is there

        self._panel.work.start(
            step or self._ui.resultsStep,
            _("Measuring …"),
            lambda **callbacks: self._logic.measure(
                parameters.result, parameters.mask, undoable=not is_of_run, **callbacks
            ),
            done,
            failed=failed,
        )

    def _show_surfaces(self, *_args) -> None:
        self._logic.showSurfaces(self._panel.parameters.result, self._ui.surfacesButton.checked)
