"""The loop around the steps of any training: validation, checkpoints, progress, and stopping."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from CrossModalSegLib.errors import Cancelled, CrossModalSegError, ModelError
from CrossModalSegLib.inference.memory import is_out_of_memory
from CrossModalSegLib.progress import Progress
from CrossModalSegLib.training.checkpoint import load_checkpoint, save_checkpoint
from CrossModalSegLib.training.interrupt import InterruptGuard
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.resume import check_same_content

logger = logging.getLogger(__name__)

# History entries are made, and processes agree on stopping and checkpoints, this often: both wait for the GPU.
STEPS_PER_REPORT = 10


class StepLoop:
    """Runs a training to its end.

    Whatever happens between two steps is marked in the run once it is complete, and is done again after an
    interruption, so that a resumed training does exactly what an uninterrupted one does.
    """

    def __init__(
        self,
        run: NetworkRun,
        *,
        checkpoints: Path,
        checkpoint_minutes: float,
        description: Mapping[str, Any],
        progress: Progress,
        guard: InterruptGuard,
    ) -> None:
        """Set the loop up.

        Args:
            run: The training.
            checkpoints: Folder for checkpoints.
            checkpoint_minutes: Between two of them.
            description: Settings and data, stored in checkpoints to recognise the training; "content" holds hashes of
                the data by the names of the cases.
            progress: Called after each step in the first process.
            guard: Active while the loop runs.
        """
        self.training = run
        self.fabric = run.fabric
        self.checkpoints = checkpoints
        self.checkpoint_minutes = checkpoint_minutes
        self.description = dict(description)
        self.progress = progress
        self.guard = guard
        self._shown: dict[str, float] = {}
        self._is_consistent = True
        self._begin = self._saved = time.monotonic()
        self._seconds_before = 0.0

    def run(self, checkpoint: Path | None = None) -> None:
        """Train to the end.

        Args:
            checkpoint: Where to continue; None begins.

        Raises:
            InputError, ModelError: As in `resume`.
            KeyboardInterrupt, Cancelled: On request; a checkpoint was written.
        """
        if checkpoint is not None:
            self.resume(checkpoint)
        try:
            while True:
                self.training.seconds = self._seconds()
                is_done = self._agree_on(self.training.is_done)
                self._between_steps(is_done)
                if is_done:
                    self._keep_finished()
                    return
                with self._changing():
                    self.training.advance()
                self._report()
        except (KeyboardInterrupt, Cancelled):
            if self._is_consistent:
                self.checkpoint()
            raise

    def checkpoint(self) -> None:
        """Write a checkpoint; with several processes all have to call this."""
        run = self.training
        local = self._gather(run.local_state())
        if self.fabric.global_rank == 0:
            run.check_worth_keeping()
            state = {"run": run.state_dict(), "processes": local, "seconds": self._seconds(), **self.description}
            save_checkpoint(self.checkpoints, run.step, state)
        self.fabric.barrier()
        self._saved = time.monotonic()

    def _keep_finished(self) -> None:
        """Write a last checkpoint: where the model cannot be written, on a full disk say, the training is not lost."""
        try:
            self.checkpoint()
        except CrossModalSegError as error:  # the model needs less space, and may have weights of an earlier step
            logger.warning("The finished training is written without a last checkpoint. %s", error)
            self.fabric.barrier()

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint whose settings were checked.

        Raises:
            InputError: The cases hold other data than they did.
            ModelError: The checkpoint is damaged, or another version of the library or of PyTorch wrote it.
        """
        state = load_checkpoint(path)
        check_same_content(state.get("content"), self.description.get("content", {}))
        try:
            self.training.load_state_dict(state["run"], state["processes"][self.fabric.global_rank])
            self._seconds_before = state["seconds"]
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"The checkpoint '{path}' does not fit this version of the library and PyTorch "
                f"({type(error).__name__}: {shorten(str(error), 200)}). Resume with the version that wrote it, or "
                "delete its folder and train from the beginning."
            ) from error

    def prepare_step(self) -> None:
        """Called before each step."""

    def validate(self) -> None:
        """Validate, record it, and keep the best weights, within `_changing`."""
        raise NotImplementedError

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """While the training is between two states: an exception in here leaves none that could be continued from."""
        self._is_consistent = False
        yield
        self._is_consistent = True

    def _between_steps(self, is_last: bool) -> None:
        run = self.training
        self._stop_or_save(is_last)
        if not is_last:
            self.prepare_step()
        if run.validated_at != run.step and self._agree_on(run.is_validation_due):
            self.validate()
            run.validated_at = run.step

    def _stop_or_save(self, is_last: bool) -> None:
        """Look, in agreement with all processes, whether to stop or to write a checkpoint."""
        due = time.monotonic() - self._saved >= 60.0 * self.checkpoint_minutes
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

    def _report(self) -> None:
        run = self.training
        run.seconds = self._seconds()
        if run.step % STEPS_PER_REPORT == 0 or run.is_done or not run.history.steps:
            with self._changing():
                means = run.record(run.seconds)
            self._shown.update({"loss" if name == "total" else name: value for name, value in means.items()})
        if not self.guard.cancelled:  # a terminal that was closed cannot be written to
            self.progress(*run.extent, "Training", dict(self._shown))

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begin

    def _prediction_guard(self) -> InterruptGuard | None:
        # One process that stops alone would leave the others waiting for it.
        return self.guard if self.fabric.world_size == 1 else None

    def _agree_on(self, wish: bool) -> bool:
        """Whether any process wishes it, where processes may differ: those that follow the clock."""
        return wish if self.fabric.world_size == 1 or not self.training.follows_clock else self._agree((wish,))[0]

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
