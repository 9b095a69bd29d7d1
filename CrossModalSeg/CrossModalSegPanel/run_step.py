"""Step 4: fit, segment, refer, and train on several cases."""

from __future__ import annotations

from pathlib import Path

import qt
from slicer.i18n import tr as _

from CrossModalSegPanel.parameters import Task


class RunStep:
    """The buttons that segment."""

    def __init__(self, panel) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        ui = self._ui
        ui.trainGroup.collapsed = ui.fitOptionsGroup.collapsed = True
        for button, action in (
            (ui.fitButton, self._fit),
            (ui.segmentButton, self._segment),
            (ui.referButton, self._refer),
            (ui.writeCasesButton, self._write_cases),
            (ui.trainButton, self._train),
        ):
            button.clicked.connect(action)
        for selector, name in self._selectors():
            selector.currentIndexChanged.connect(lambda *_args, s=selector, n=name: self._take_model(s, n))

    def show(self) -> None:
        """Follow the parameters."""
        panel, ui, parameters = self._panel, self._ui, self._panel.parameters
        ui.runStep.setEnabled(panel.is_ready)
        if parameters is None:
            return
        is_fit = parameters.task is Task.FIT
        ui.fitFrame.setVisible(is_fit)
        ui.referFrame.setVisible(not is_fit)
        for widget in (ui.uncertaintyBox, ui.trainGroup):
            widget.setVisible(is_fit)
        for selector, name in self._selectors():
            texts = {"startModel": _("What ships with it"), "segmentModel": _("None"), "referModel": _("Default")}
            models = [model for model in panel.models if model.task == _TASKS[name] and model.problem is None]
            panel.fill(selector, texts[name], models, getattr(parameters, name))
        ui.cpuLabel.setText(panel.environment.cpu_note())
        ui.cpuLabel.setVisible(bool(ui.cpuLabel.text))
        lacking = self._lacking()
        ui.lackingLabel.setText(lacking)
        ui.lackingLabel.setVisible(bool(lacking))
        can_draw = panel.can_start and not lacking
        ui.fitButton.setEnabled(can_draw)
        ui.referButton.setEnabled(can_draw)
        ui.segmentButton.setEnabled(panel.can_start and bool(panel.images()) and bool(parameters.segmentModel))
        ui.writeCasesButton.setEnabled(panel.can_start)
        ui.trainButton.setEnabled(panel.can_start)

    def _selectors(self) -> list:
        ui = self._ui
        return [
            (ui.startModelSelector, "startModel"),
            (ui.segmentModelSelector, "segmentModel"),
            (ui.referModelSelector, "referModel"),
        ]

    def _take_model(self, selector, name: str) -> None:
        model = self._panel.chosen(selector)
        if self._panel.parameters is not None:
            setattr(self._panel.parameters, name, "" if model is None else model.name)

    def _lacking(self) -> str:
        """What is to be done before, or nothing."""
        panel = self._panel
        if not panel.is_ready:
            return ""
        if panel.drawn_on() is None:
            return _("Choose the images in step 2 first.")
        if panel.parameters.scribbles is None:
            return _("Prepare scribbles in step 3 and draw first.")
        return ""

    def _beside(self) -> dict:
        parameters = self._panel.parameters
        return {
            "probabilities": parameters.probabilities,
            "show3D": parameters.show3D,
            "device": parameters.device.value,
        }

    def _is_mask_safe(self, volumes) -> bool:
        """Whether the truth to measure against stays as it is; says so where a result of before would be replaced."""
        mask = self._panel.parameters.mask
        if mask is None or not self._logic.isReplacedBy(mask, volumes):
            return True
        text = _(
            "'{name}' is chosen as the reference mask in step 5, and this run would replace it. Rename it to keep it, "
            "or choose another mask."
        )
        self._panel.work.say(self._ui.runStep, text.format(name=mask.GetName()))
        return False

    def _fit(self, *_args) -> None:
        panel, parameters = self._panel, self._panel.parameters
        if not self._is_mask_safe([panel.drawn_on()]):
            return
        panel.scribbles.end_strokes()
        looked_at = parameters.result
        panel.work.start(
            self._ui.runStep,
            _("Fitting …"),
            lambda **callbacks: self._logic.fit(
                panel.images(),
                parameters.scribbles,
                panel.table(),
                seconds=float(parameters.seconds),
                method=parameters.method.value,
                start=parameters.startModel or None,
                resume=not parameters.startOver,
                uncertainty=parameters.uncertainty,
                **self._beside(),
                onPreview=panel.results.take,
                **callbacks,
            ),
            self._on_fitted,
            can_finish=True,
            has_curve=True,
            failed=lambda _kind, sentence: panel.results.take_former(looked_at, sentence),
        )

    def _on_fitted(self, segmentation) -> str | None:
        return self._panel.results.take_finished(
            [segmentation],
            _("Done. Not right yet? Draw more strokes where it is wrong, and press Fit again: it goes on from here."),
        )

    def _segment(self, *_args) -> None:
        panel, parameters, images = self._panel, self._panel.parameters, self._panel.images()
        model = panel.chosen(self._ui.segmentModelSelector)
        if model is not None and set(model.modalities) <= set(images):
            images = {modality: images[modality] for modality in model.modalities}
        if not self._is_mask_safe(list(images.values())[:1]):
            return
        panel.work.start(
            self._ui.runStep,
            _("Segmenting …"),
            lambda **callbacks: self._logic.segment(
                images, parameters.segmentModel, uncertainty=parameters.uncertainty, **self._beside(), **callbacks
            ),
            lambda segmentation: panel.results.take_finished([segmentation], _("Done.")),
        )

    def _refer(self, *_args) -> None:
        panel, parameters = self._panel, self._panel.parameters
        reference, *targets = panel.images().values()
        if not self._is_mask_safe([reference, *targets]):
            return
        panel.scribbles.end_strokes()
        panel.work.start(
            self._ui.runStep,
            _("Segmenting …"),
            lambda **callbacks: self._logic.refer(
                reference,
                targets,
                parameters.scribbles,
                panel.table(),
                model=parameters.referModel or None,
                pieces=parameters.pieces.value,
                tuneSeconds=float(parameters.tuneSeconds),
                **self._beside(),
                **callbacks,
            ),
            lambda segmentations: panel.results.take_finished(
                segmentations,
                _("Done. Not right yet? Draw more strokes and press Refer again: it answers faster now."),
            ),
        )

    # --- several cases ---

    def _write_cases(self, *_args) -> None:
        chosen = qt.QFileDialog.getExistingDirectory(None, _("An empty folder for the cases"))
        if chosen:
            self._panel.work.start(
                self._ui.runStep,
                _("Writing the cases …"),
                lambda **callbacks: self._logic.writeCases(chosen, **callbacks),
                self._on_written,
            )

    def _on_written(self, cohort: Path) -> str:
        self._ui.cohortPath.currentPath = str(cohort)
        return _("The cases of the scene were written. They can be trained on now.")

    def _train(self, *_args) -> None:
        panel, parameters = self._panel, self._panel.parameters
        cohort, name = self._ui.cohortPath.currentPath.strip(), self._ui.trainedNameEdit.text.strip()
        if not cohort or not name or Path(name).name != name or name.startswith("."):
            panel.work.say(self._ui.runStep, _("Choose a cohort file, and a name for the new model without slashes."))
            return
        if panel.modelsFolder is None:
            panel.work.say(self._ui.runStep, _("The models have not been listed yet; open step 6 and press Refresh."))
            return
        out = panel.modelsFolder / name
        panel.work.start(
            self._ui.runStep,
            _("Training …"),
            lambda **callbacks: self._logic.train(
                cohort,
                out,
                preset=parameters.preset.value,
                resume=Path(f"{out}.training").exists(),
                device=parameters.device.value,
                **callbacks,
            ),
            self._on_trained,
            has_curve=True,
        )

    def _on_trained(self, model) -> str:
        self._panel.models_step.refresh()
        return _("The model {name} was trained. Choose it at 'Trained model' and press Segment.").format(
            name=model.name
        )


_TASKS = {"startModel": "fit", "segmentModel": "segment", "referModel": "refer"}
