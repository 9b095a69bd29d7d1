"""Step 6: the models that are installed."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _


class ModelsStep:
    """Lists, installs, writes out and deletes models.

    Attributes:
        models: that are installed.
        folder: where new ones go; None before they were listed.
    """

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        self.models = []
        self.folder = None
        ui = self._ui
        ui.modelsStep.collapsed = True
        ui.modelsTable.setHorizontalHeaderLabels(
            [_("Name"), _("For"), _("Images"), _("Structures"), _("Licence"), _("Size")]
        )
        ui.modelsTable.itemSelectionChanged.connect(self._show_chosen)
        for button, action in (
            (ui.refreshButton, self.refresh),
            (ui.importFolderButton, self._import_folder),
            (ui.importZipButton, self._import_zip),
            (ui.exportButton, self._export),
            (ui.deleteButton, self._delete),
        ):
            button.clicked.connect(action)

    def show(self) -> None:
        """Follow the panel."""
        self._ui.modelsStep.setEnabled(self._panel.is_ready)
        self._show_chosen()

    def refresh(self, *_args) -> None:
        """List the models anew."""
        if self._panel.is_ready:
            self._logic.modelsAndFolder(onDone=self._take, onError=self._say)

    def _take(self, found) -> None:
        if self._panel.work.is_closed:
            return
        models, self.folder = found
        self.models = models
        table = self._ui.modelsTable
        table.setRowCount(len(models))
        for row, model in enumerate(models):
            for column, text in enumerate(model_row(model)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        self._panel.show()

    def _chosen(self):
        row = self._ui.modelsTable.currentRow()
        return self.models[row] if 0 <= row < len(self.models) else None

    def _show_chosen(self) -> None:
        ui, model, can_start = self._ui, self._chosen(), self._panel.can_start
        ui.modelLabel.setText("" if model is None else model_text(model))
        ui.exportButton.setEnabled(can_start and model is not None and not model.problem)
        ui.deleteButton.setEnabled(can_start and model is not None and not model.is_shipped)
        for button in (ui.refreshButton, ui.importFolderButton, ui.importZipButton):
            button.setEnabled(can_start)

    def _say(self, text: str) -> None:
        self._panel.work.say(self._ui.modelsStep, text)

    def _import_folder(self, *_args) -> None:
        self._import(qt.QFileDialog.getExistingDirectory(None, _("The folder of a model")))

    def _import_zip(self, *_args) -> None:
        self._import(qt.QFileDialog.getOpenFileName(None, _("The archive of a model"), "", _("Models (*.zip)")))

    def _import(self, source: str) -> None:
        if source:
            self._install(source, self._ui.importNameEdit.text.strip() or None)

    def _install(self, source: str, name: str | None, overwrite: bool = False) -> None:
        def failed(kind: str, sentence: str) -> str | None:
            if kind != "taken" or not slicer.util.confirmOkCancelDisplay(
                _("{sentence}\n\nReplace it? To keep both, cancel, and type a name at 'Import as'.").format(
                    sentence=sentence
                )
            ):
                return sentence
            self._install(source, name, overwrite=True)
            return None

        self._start(
            _("Installing the model …"),
            lambda **callbacks: self._logic.importModel(source, name, overwrite, **callbacks),
            self._imported,
            failed,
        )

    def _imported(self, model) -> str:
        self._ui.importNameEdit.setText("")
        return _("The model {name} was installed.").format(name=model.name)

    def _export(self, *_args) -> None:
        model = self._chosen()
        out = qt.QFileDialog.getSaveFileName(
            None, _("Where to write the model"), f"{model.name}.zip", _("Models (*.zip)")
        )
        if out:
            path = out if out.lower().endswith(".zip") else f"{out}.zip"
            self._start(
                _("Writing the model …"),
                # The dialog has asked whether a file may be replaced.
                lambda **callbacks: self._logic.exportModel(model.name, path, overwrite=path == out, **callbacks),
                lambda path: _("The model was written to {path}.").format(path=path),
            )

    def _delete(self, *_args) -> None:
        model = self._chosen()
        if slicer.util.confirmOkCancelDisplay(
            _("Delete the model {name}? This cannot be undone.").format(name=model.name)
        ):
            self._start(
                _("Deleting the model …"),
                lambda **callbacks: self._logic.deleteModel(model.name, **callbacks),
                lambda _models: _("The model {name} was deleted.").format(name=model.name),
            )

    def _start(self, text: str, begin, told, failed=lambda _kind, sentence: sentence) -> None:
        def done(result) -> str:
            self.refresh()
            return told(result)

        self._panel.work.start(self._ui.modelsStep, text, begin, done, failed=failed)


def model_row(model) -> list[str]:
    """What the table tells of a model."""
    uses = {"segment": _("Segment"), "fit": _("Fit"), "refer": _("Refer")}
    return [
        model.name,
        uses.get(model.task, _("not usable")),
        ", ".join(model.modalities),
        "" if model.labels is None else ", ".join(model.labels.names),
        model.licence,
        f"{model.bytes / 1e6:.1f} MB",
    ]


def model_text(model) -> str:
    """All about a model, for reading."""
    lines = [model.problem] if model.problem else []
    lines.append(_("Licence: {licence}").format(licence=model.licence or _("not stated")))
    lines.append(_("Comes with the library.") if model.is_shipped else str(model.folder))
    told = [(key, value) for key, value in model.provenance.items() if isinstance(value, (str, int, float))]
    lines += [f"{key}: {value}" for key, value in told]
    return "\n".join(lines)
