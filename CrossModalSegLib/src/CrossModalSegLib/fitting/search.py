"""The loop of a fit: steps, an answer now and then, and the best of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from CrossModalSegLib.fitting.judge import Judge
from CrossModalSegLib.fitting.tuning import Tuner
from CrossModalSegLib.fitting.working_case import WorkingCase
from CrossModalSegLib.inference.memory import is_out_of_memory
from CrossModalSegLib.progress import CancelToken, Progress
from CrossModalSegLib.volume import Volume

logger = logging.getLogger(__name__)

FIRST_ANSWER = "first answer"
# Strokes are easy voxels, so that small differences in agreement say nothing: a better answer has to gain this much.
LEAST_GAIN = 0.005
# Tuning a prior helps at first and forgets later. Held-out strokes do not tell: they agree more and more, while the
# answer gets worse between them. Chosen on ten fits of the cases in Testing/benchmarks.
TUNING_STEPS = 45


@dataclass(frozen=True)
class Stage:
    """One answer of a fit.

    Attributes:
        name: "first answer" or "step N".
        seconds: Since the fit began.
        agreement: Mean over the classes of the soft Dice with the held-out scribbles, 0 to 1; None when nothing is
            held out, or not judged yet.
        is_best: Whether this answer was the best so far.
    """

    name: str
    seconds: float
    agreement: float | None
    is_best: bool


OnPreview = Callable[[Volume, Stage], None]


@dataclass(frozen=True)
class SearchLimits:
    """How long a search goes on.

    Attributes:
        seconds: Time for steps.
        preview_every: Seconds between two answers.
        patience: Answers without a better one after which the search stops; 0 for no such limit.
    """

    seconds: float
    preview_every: float
    patience: int


class Search:
    """Tunes a network and remembers its best answer.

    Attributes:
        tuner: What is tuned; after `run`, its network has the best weights.
        history: Loss terms by step.
        stages: The answers in order.
    """

    def __init__(
        self,
        working: WorkingCase,
        judge: Judge,
        tuner: Tuner,
        limits: SearchLimits,
        progress: Progress,
        cancel: CancelToken,
        on_preview: OnPreview | None,
        finish: CancelToken | None = None,
    ) -> None:
        """Prepare.

        Args:
            cancel: Ends the search with `Cancelled`; its clock is the search's.
            finish: Ends the search with the best answer so far.
        """
        self._finish = finish or CancelToken()
        self._working, self._judge, self._limits = working, judge, limits
        self._progress, self._cancel, self._on_preview = progress, cancel, on_preview
        self.tuner = tuner
        self.history: list[dict[str, float]] = []
        self.stages: list[Stage] = []
        self._best: np.ndarray = np.empty(0)
        self._best_agreement = 0.0
        self._best_weights: dict[str, torch.Tensor] = {}
        self._started = cancel.clock()

    def run(self) -> np.ndarray:
        """Probabilities (K + 1, k, j, i) of the best answer on the working grid, from all scribbles.

        Raises:
            Cancelled: Cancelled.
        """
        if self.tuner.answers_at_once:
            self._best = self.tuner.predict(self._working.prepared.scribbles, self._cancel)
            self._show(Stage(FIRST_ANSWER, self._elapsed(), None, True))
            self._consider(FIRST_ANSWER)
        try:
            self._tune()
        except (FloatingPointError, RuntimeError, MemoryError) as error:
            if not self._best_weights or not (isinstance(error, FloatingPointError) or is_out_of_memory(error)):
                raise
            logger.warning("The fit stopped early (%s); the best answer so far is kept.", error)
        self.tuner.network.load_state_dict(self._best_weights)
        return self._best

    def _tune(self) -> None:
        """Steps until the time is over, the patience is spent or someone stops it; the last network is considered."""
        clock = self._cancel.clock
        begun = considered = clock()
        total = max(1, round(self._limits.seconds))
        while clock() - begun < self._limits.seconds and not self._finish.cancelled:
            self._cancel.raise_if_cancelled()
            self.history.append({"step": len(self.history) + 1, **self._step()})
            share = max((clock() - begun) / self._limits.seconds, self._share_of_steps())
            done = min(int(share * total), total)  # rounded up, the end would be told twice
            self._progress(done, total, "fit", {"loss": self.history[-1]["total"]})
            if clock() - considered >= self._limits.preview_every:
                self._consider(self._step_name)
                considered = clock()
                if self._is_out_of_patience():
                    return
            if self._share_of_steps() >= 1:
                break
        self._cancel.raise_if_cancelled()
        if self.stages and self._finish.cancelled:  # whoever asks for the best answer so far wants it at once
            return
        if not self.stages or (self.history and self.stages[-1].name != self._step_name):
            self._consider(self._step_name)

    def _step(self) -> dict[str, float]:
        """One step; with smaller patches where memory runs out, as long as they can be made smaller."""
        while True:
            try:
                return self.tuner.step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self.tuner.shrink():
                    raise
            # Outside of the handler, whose error would keep the failed step's tensors alive.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning("Memory ran out in a step of the fit: it goes on with smaller patches.")

    @property
    def _step_name(self) -> str:
        return f"step {len(self.history)}"

    def _elapsed(self) -> float:
        return self._cancel.clock() - self._started

    def _consider(self, name: str) -> None:
        """Judge the present network; keep its weights and its answer from all scribbles when it is the best."""
        agreement = None
        if self._judge.can_judge:
            agreement = self._judge.agreement(self.tuner.predict(self._judge.shown, self._cancel))
        is_best = agreement is None or not self._best_weights or agreement >= self._best_agreement + LEAST_GAIN
        if is_best:
            self._best_agreement = agreement or 0.0
            self._best_weights = {n: t.detach().clone() for n, t in self.tuner.network.state_dict().items()}
            if name != FIRST_ANSWER:
                self._best = self.tuner.predict(self._working.prepared.scribbles, self._cancel)
        self.stages.append(Stage(name, self._elapsed(), agreement, is_best))
        if is_best and name != FIRST_ANSWER:
            self._show(self.stages[-1])

    def _show(self, stage: Stage) -> None:
        if self._on_preview is not None:
            self._on_preview(self._working.answer(self._best).labels, stage)

    def _share_of_steps(self) -> float:
        """How much of the tuning is done; 0 where only time ends it."""
        return len(self.history) / TUNING_STEPS if self.tuner.can_forget else 0.0

    def _is_out_of_patience(self) -> bool:
        patience = self._limits.patience
        recent = self.stages[-patience:] if patience else []
        return len(self.stages) > patience > 0 and not any(stage.is_best for stage in recent)
