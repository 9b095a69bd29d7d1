"""The loop around the steps of a 3D network: validation on whole cases, and label maps made by the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from torch import nn

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.inference.predictor import Precision, predict
from CrossModalSegLib.progress import Progress
from CrossModalSegLib.training.cases import TrainingCases
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.pseudo_labels import STAGE_TWO, confident_labels
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.training.step_loop import StepLoop
from CrossModalSegLib.training.validation import Validation, validate


class TrainingLoop(StepLoop):
    """Runs the training of a 3D network to its end."""

    training: TrainingRun

    def __init__(
        self,
        run: TrainingRun,
        cases: TrainingCases,
        class_names: Sequence[str],
        *,
        precision: Precision,
        checkpoints: Path,
        description: Mapping[str, Any],
        progress: Progress,
        guard: InterruptGuard,
    ) -> None:
        """Set the loop up.

        Args:
            run: The training.
            cases: Its data.
            class_names: K names.
            precision: Of validation.
            checkpoints: Folder for checkpoints.
            description: Settings and data, stored in checkpoints to recognise the training.
            progress: Called after each step in the first process.
            guard: Active while the loop runs.
        """
        super().__init__(
            run,
            checkpoints=checkpoints,
            checkpoint_minutes=run.config.checkpoint_minutes,
            description=description,
            progress=progress,
            guard=guard,
        )
        self.cases = cases
        self.class_names = tuple(class_names)
        self.precision = precision

    def prepare_step(self) -> None:
        """Make new label maps where they are due."""
        run, stage = self.training, self.training.config.second_stage
        if stage is not None and run.step == run.first_stage_steps and STAGE_TWO not in run.stream.sampler.extra:
            network = run.method.labelling_network(run.evaluated_network)
            maps = [
                confident_labels(self._predict(network, case), labels, stage.max_uncertainty)
                for case, labels in zip(self.cases.training, run.stream.sampler.labels, strict=True)
            ]
            with self._changing():
                run.set_label_maps({STAGE_TWO: maps})
        if run.method.is_refresh_due(run.step) and run.refreshed_at != run.step:
            self._refresh()

    def _refresh(self) -> None:
        """Let the method make its label maps; predictions of all cases wait on the disk, not in memory.

        They come first, since they may be interrupted, and change nothing.
        """
        run, cases = self.training, self.cases.training
        folder = self.checkpoints.parent
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as store:
            shapes = []
            for case in cases:
                prediction = self._predict(run.evaluated_network, case)
                prediction.tofile(store)
                shapes.append(prediction.shape)
            store.seek(0)
            stored = (np.fromfile(store, np.float32, math.prod(shape)).reshape(shape) for shape in shapes)
            with self._changing():
                run.set_label_maps(run.method.refresh(run.step, cases, lambda _case: next(stored)))
                run.refreshed_at = run.step

    def _predict(self, network: nn.Module, case: PreparedCase) -> np.ndarray:
        return predict(
            network, case.images, device=self.fabric.device, precision=self.precision, cancel=self._prediction_guard()
        )

    def validate(self) -> None:
        """Predict the validation cases, each process its share."""
        run = self.training
        if not self.cases.validation:
            return
        world, rank = self.fabric.world_size, self.fabric.global_rank
        own = validate(
            run.evaluated_network,
            self.cases.validation[rank::world],
            len(self.class_names) + 1,
            device=self.fabric.device,
            precision=self.precision,
            cancel=self._prediction_guard(),
        )
        result = Validation(tuple(row for part in self._gather(own.dice) for row in part))
        with self._changing():
            run.history.record_validation(run.step, result, self.class_names)
            run.keep_if_best(result.mean)
            run.validated_at = run.step
        if result.mean is not None:
            self._shown["dice"] = result.mean
