"""The loop around the steps: validation, label maps, checkpoints, progress, and stopping."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.inference.predictor import Precision, predict
from CrossModalSegLib.progress import Progress
from CrossModalSegLib.training.cases import TrainingCases
from CrossModalSegLib.training.checkpoint import load_checkpoint, save_checkpoint
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.pseudo_labels import STAGE_TWO, confident_labels
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.training.validation import Validation, validate

# History entries are made, and processes agree on stopping and checkpoints, this often: both wait for the GPU.
STEPS_PER_REPORT = 10


class TrainingLoop:
    """Runs a training to its end.

    Whatever happens between two steps (validation, new label maps) is marked in the run once it is complete, and is
    done again after an interruption, so that a resumed training does exactly what an uninterrupted one does.
    """

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
        self.training = run
        self.fabric = run.fabric
        self.cases = cases
        self.class_names = tuple(class_names)
        self.precision = precision
        self.checkpoints = checkpoints
        self.description = dict(description)
        self.progress = progress
        self.guard = guard
        self.validate_every = run.config.validate_every or max(1, run.total_steps // 20)
        self._shown: dict[str, float] = {}
        self._is_consistent = True
        self._begin = self._saved = time.monotonic()
        self._seconds_before = 0.0

    def run(self) -> None:
        """Train to the end.

        Raises:
            KeyboardInterrupt, Cancelled: On request; a checkpoint was written.
        """
        try:
            while True:
                self._between_steps()
                if self.training.step >= self.training.total_steps:
                    return
                with self._changing():
                    self.training.advance()
                self._report()
        except (KeyboardInterrupt, Cancelled):
            if self._is_consistent:
                self.checkpoint()
            raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While the training is between two states: an exception in here leaves none that could be continued from."""
        self._is_consistent = False
        yield
        self._is_consistent = True

    def checkpoint(self) -> None:
        """Write a checkpoint; with several processes all have to call this."""
        run = self.training
        local = self._gather(run.local_state())
        if self.fabric.global_rank == 0:
            run.check_finite(run.history.collect())
            state = {"run": run.state_dict(), "processes": local, "seconds": self._seconds(), **self.description}
            save_checkpoint(self.checkpoints, run.step, state)
        self.fabric.barrier()
        self._saved = time.monotonic()

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint whose description was checked."""
        state = load_checkpoint(path)
        self.training.load_state_dict(state["run"], state["processes"][self.fabric.global_rank])
        self._seconds_before = state["seconds"]

    def _between_steps(self) -> None:
        run = self.training
        is_last = run.step >= run.total_steps
        self._stop_or_save(is_last)
        if not is_last:
            self._refresh_label_maps()
        if run.step > 0 and (is_last or run.step % self.validate_every == 0) and run.validated_at != run.step:
            self._validate()

    def _stop_or_save(self, is_last: bool) -> None:
        """Look, in agreement with all processes, whether to stop or to write a checkpoint."""
        due = time.monotonic() - self._saved >= 60.0 * self.training.config.checkpoint_minutes
        wishes = (self.guard.cancelled, due and self.training.step > 0)
        if self.fabric.world_size > 1:
            if not is_last and self.training.step % STEPS_PER_REPORT:
                return
            wishes = self._agree(wishes)
        is_stopping, is_saving = wishes
        if is_stopping:
            self.guard.stop()
        if is_saving:
            self.checkpoint()

    def _refresh_label_maps(self) -> None:
        run, stage = self.training, self.training.config.second_stage
        if stage is not None and run.step == run.first_stage_steps and STAGE_TWO not in run.stream.sampler.extra:
            maps = [
                confident_labels(self._predict(case), labels, stage.max_uncertainty)
                for case, labels in zip(self.cases.training, run.stream.sampler.labels, strict=True)
            ]
            with self._changing():
                run.set_label_maps({STAGE_TWO: maps})
        if run.method.is_refresh_due(run.step) and run.refreshed_at != run.step:
            # Predictions come first, since they may be interrupted, and change nothing.
            predictions = {id(case): self._predict(case) for case in self.cases.training}
            with self._changing():
                maps_by_name = run.method.refresh(run.step, self.cases.training, lambda case: predictions.pop(id(case)))
                run.set_label_maps(maps_by_name)
                run.refreshed_at = run.step

    def _predict(self, case: PreparedCase) -> np.ndarray:
        network = self.training.evaluated_network
        return predict(
            network, case.images, device=self.fabric.device, precision=self.precision, cancel=self._prediction_guard()
        )

    def _validate(self) -> None:
        run = self.training
        if self.cases.validation:
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
        run.validated_at = run.step

    def _report(self) -> None:
        run = self.training
        if run.step % STEPS_PER_REPORT == 0 or run.step == run.total_steps or not run.history.steps:
            with self._changing():
                means = run.record(self._seconds())
            self._shown.update({"loss" if name == "total" else name: value for name, value in means.items()})
        self.progress(run.step, run.total_steps, "Training", dict(self._shown))

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begin

    def _prediction_guard(self) -> InterruptGuard | None:
        # One process that stops alone would leave the others waiting for it.
        return self.guard if self.fabric.world_size == 1 else None

    def _agree(self, wishes: Sequence[bool]) -> tuple[bool, ...]:
        """Whether any process wishes each."""
        own = torch.tensor([float(wish) for wish in wishes], device=self.fabric.device)
        return tuple(bool(value) for value in self.fabric.all_reduce(own, reduce_op="max").tolist())

    def _gather(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values
