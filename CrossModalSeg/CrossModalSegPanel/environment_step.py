"""Step 1: what is installed, and what is computed on."""

from pathlib import Path

import qt
from slicer.i18n import tr as _

from CrossModalSegPanel import installation
from CrossModalSegPanel.threads import let_threads_run

POLL_MILLISECONDS = 100


class EnvironmentStep:
    """Says what is missing, installs it, shows the devices.

    Attributes:
        is_ready: whether everything is installed.
    """

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        self._installation = None
        self._devices = None
        self.is_ready = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self._poll)
        self._ui.installLog.setVisible(False)
        self._ui.installButton.clicked.connect(self._install)
        self._ui.checkButton.clicked.connect(self.look_for_devices)
        self.look()

    def look(self) -> None:
        """See what is missing."""
        problem = self._logic.environmentProblem()
        was_ready, self.is_ready = self.is_ready, not problem
        self._ui.environmentLabel.setText(problem or _("Everything is installed."))
        for widget in (self._ui.installButton, self._ui.wheelsLabel, self._ui.wheelsPath):
            widget.setVisible(bool(problem))
        for widget in (self._ui.deviceChoiceLabel, self._ui.deviceSelector, self._ui.checkButton, self._ui.deviceLabel):
            widget.setVisible(not problem)
        if self.is_ready and not was_ready:
            self._ui.environmentStep.collapsed = True

    def look_for_devices(self, *_args) -> None:
        """Ask what can be computed on."""
        if self.is_ready:
            self._ui.deviceLabel.setText(_("Looking at the devices …"))
            self._logic.devices(onDone=self._on_devices, onError=self._on_no_devices)

    def show(self) -> None:
        """Follow the panel."""
        self._ui.installButton.setEnabled(self._installation is None)

    def stop(self) -> None:
        """The panel goes."""
        self._timer.stop()

    def cpu_note(self) -> str:
        """What a person should know who has no graphics card; nothing where there is one, or nobody looked yet."""
        if not self.is_ready or self._devices is None or not _is_cpu_alone(self._devices):
            return ""
        return _("There is no graphics card to compute on; everything works, but takes longer.")

    def _on_devices(self, devices) -> None:
        if self._panel.work.is_closed:
            return
        self._devices = devices
        self._ui.deviceLabel.setText(devices_text(devices))
        self._panel.show()

    def _on_no_devices(self, sentence: str) -> None:
        if not self._panel.work.is_closed:
            self._ui.deviceLabel.setText(sentence)

    def _install(self, *_args) -> None:
        wheels = self._ui.wheelsPath.currentPath.strip()
        try:
            self._installation = self._logic.startInstallation(Path(wheels) if wheels else None)
        except installation.SetupError as error:
            self._panel.work.say(self._ui.environmentStep, str(error))
            return
        self._ui.installLog.setVisible(True)
        self._timer.start()
        self.show()

    def _poll(self) -> None:
        let_threads_run()
        for line in self._installation.poll():
            self._ui.installLog.appendPlainText(line)
        if not self._installation.has_ended:
            return
        self._timer.stop()
        error, self._installation = self._installation.error, None
        self.look()
        self._panel.work.say(self._ui.environmentStep, error or _("The installation is complete."))
        if self.is_ready:
            self._panel.look_around()
        self._panel.show()


def devices_text(devices) -> str:
    """The devices with their memory, one a line."""
    lines = []
    for device in devices:
        memory = "" if device.free_bytes is None else _(", {free:.1f} GB free").format(free=device.free_bytes / 2**30)
        lines.append(f"{device.name}: {device.description}{memory}")
    return "\n".join(lines)


def _is_cpu_alone(devices) -> bool:
    return all(device.name == "cpu" for device in devices)
