"""One piece of work at a time: its words, progress, curve and buttons appear in the step where it was begun."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from CrossModalSegPanel.nodes import singleton

_PLOT_HEIGHT = 180
_VIEW = "CrossModalSeg"


class Work:
    """What goes on in the background, and what is said about it.

    Attributes:
        is_busy: whether something goes on.
        is_closed: whether the panel goes; its controls may not be touched any more.
    """

    def __init__(self, ui, logic, on_change) -> None:
        """Nothing goes on.

        Args:
            ui: the panel's widgets.
            logic: the module's functions on nodes.
            on_change: called when something began or ended.
        """
        self._ui, self._logic, self._on_change = ui, logic, on_change
        self._task = None
        self._done = self._failed = None
        self._step = None
        self._is_paused = False
        self._is_going_on = self._has_curve = False
        self.is_closed = False
        self._plot = None
        self._notes = []
        ui.workFrame.setVisible(False)
        ui.noteLabel.setVisible(False)
        ui.pauseButton.clicked.connect(self._pause_or_resume)
        ui.finishButton.clicked.connect(self._finish)
        ui.cancelButton.clicked.connect(self.cancel)
        self._show_buttons()

    @property
    def is_busy(self) -> bool:
        """Whether something goes on."""
        return self._task is not None

    def start(
        self,
        step,
        text: str,
        begin,
        done,
        can_finish: bool = False,
        has_curve: bool = False,
        failed=lambda _kind, sentence: sentence,
    ) -> None:
        """Begin.

        Args:
            step: where it is shown.
            text: what is done.
            begin: takes callbacks and returns the task.
            done: gets the result; returns what is said then, or None where it began something else.
            can_finish: whether it can be stopped with its best answer.
            has_curve: whether its figures are drawn; those of others are only written.
            failed: gets the kind of an error and its sentence; returns what is said, or None where it began something
                else.
        """
        if self.is_busy:
            return
        if not self._is_going_on:
            self._clear()
        try:
            self._task = begin(
                onProgress=self._on_progress, onLog=self._on_log, onDone=self._on_done, onError=self._on_error
            )
        except self._logic.errors() as error:
            self.say(step, failed("input", str(error)))
            return
        self._done, self._failed, self._is_paused, self._has_curve = done, failed, False, has_curve
        self.say(step, text)
        self._ui.workBar.setRange(0, 0)
        self._show_buttons(can_finish)
        self._on_change()

    def say(self, step, text: str) -> None:
        """Show a sentence in a step, also in one that was collapsed."""
        if self.is_closed:
            return
        step.collapsed = False
        if step is not self._step:
            self._clear()
            step.layout().addWidget(self._ui.workFrame)
            self._step = step
        self._ui.workFrame.setVisible(True)
        self._ui.workLabel.setText(text)

    def cancel(self, *_args) -> None:
        """Drop what goes on."""
        if self._task is not None:
            self._task.cancel()

    def leave_scene(self) -> None:
        """Drop what goes on where it is about the scene, which is closed; a training goes on."""
        if self._task is not None and self._task.is_about_nodes:
            self.cancel()

    def close(self) -> None:
        """Say nothing any more."""
        self.is_closed = True
        self.cancel()

    def _pause_or_resume(self, *_args) -> None:
        if self._task is None:
            return
        self._show_paused(not self._is_paused)
        if self._is_paused:
            self._task.pause()
        else:
            self._task.resume()

    def _show_paused(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        self._ui.pauseButton.setText(_("Go on") if is_paused else _("Pause"))

    def _finish(self, *_args) -> None:
        if self._task is not None:
            self._task.finish()
            self._ui.finishButton.setEnabled(False)
            self._show_paused(False)  # it goes on to its end

    def _on_progress(self, done: int, total: int, message: str, values) -> None:
        if self.is_closed or self._task is None:
            return
        self._ui.workBar.setRange(0, total)
        self._ui.workBar.setValue(done)
        self._ui.workLabel.setText(progress_text(message, values, self._task.progress.eta))
        if values and self._has_curve:
            self._show_curve()

    def _on_log(self, sentence: str) -> None:
        if not self.is_closed and sentence not in self._notes:
            self._show_notes([*self._notes, sentence])

    def _clear(self) -> None:
        """Take away what was said and drawn of the work before."""
        self._show_notes([])
        if self._plot is not None:
            self._plot.setVisible(False)

    def _show_notes(self, notes) -> None:
        self._notes = notes
        self._ui.noteLabel.setText("\n".join(notes))
        self._ui.noteLabel.setVisible(bool(notes))

    def _on_done(self, result) -> None:
        self._end(lambda: self._done(result))

    def _on_error(self, message: str) -> None:
        kind = self._task.kind if self._task is not None else None
        self._end(lambda: self._failed(kind, message))

    def _end(self, told) -> None:
        self._task = None
        if self.is_closed:
            return
        self._is_going_on = True  # what begins now belongs to it, such as the measuring of a result
        try:
            text = told()
        finally:
            self._is_going_on = False
        if text is not None:
            self._ui.workLabel.setText(text)
        if not self.is_busy:  # what follows may not have begun
            self._show_buttons()
        self.look_again()  # the curve of a fit that gave nothing is gone
        self._on_change()

    def _show_buttons(self, can_finish: bool = False) -> None:
        self._ui.workBar.setVisible(self.is_busy)
        for button in (self._ui.pauseButton, self._ui.cancelButton):
            button.setVisible(self.is_busy)
        self._ui.pauseButton.setText(_("Pause"))
        self._ui.finishButton.setVisible(self.is_busy and can_finish)
        self._ui.finishButton.setEnabled(True)

    # --- the curve ---

    def look_again(self) -> None:
        """Hide the plot of a curve that is not there any more."""
        if self._plot is not None and not self._has_plotted():
            self._plot.setVisible(False)

    def _show_curve(self) -> None:
        if not self._has_plotted():
            return
        curve = self._logic.workflow().curve
        if self._plot is None:
            self._plot = slicer.qMRMLPlotWidget()
            self._plot.setMRMLScene(slicer.mrmlScene)
            self._plot.setMinimumHeight(_PLOT_HEIGHT)
            self._ui.workFrame.layout().addWidget(self._plot)
        view = _plot_view(curve.chart)
        self._plot.setMRMLPlotViewNode(view)
        if view.GetPlotChartNodeID() != curve.chart.GetID():
            view.SetPlotChartNodeID(curve.chart.GetID())
        self._plot.plotView().fitToContent()  # the axes do not follow points that are added
        self._plot.setVisible(True)

    def _has_plotted(self) -> bool:
        curve = self._logic.workflow().curve
        return curve is not None and curve.is_present


def progress_text(message: str, values, eta: float | None) -> str:
    """What is said while something goes on."""
    parts = [message[:1].upper() + message[1:]] if message else []
    parts += [f"{name} {value:.3g}" for name, value in values.items()]
    if eta is not None:
        minutes, seconds = divmod(round(eta), 60)
        left = _("{minutes} min {seconds} s").format(minutes=minutes, seconds=seconds) if minutes else f"{seconds} s"
        parts.append(_("about {left} left").format(left=left))
    return " · ".join(parts)


def _plot_view(owner):
    """The view of our plot; Slicer's own views stay as they are.

    Args:
        owner: any node; the layout makes no view of a node that comes with an owner.
    """

    def set_up(node) -> None:
        node.SetLayoutName(_VIEW)
        node.SetDoPropagatePlotChartSelection(False)
        if node.GetParentLayoutNode() is not owner:
            node.SetAndObserveParentLayoutNodeID(owner.GetID())

    return singleton("vtkMRMLPlotViewNode", _VIEW, set_up)
