"""What happened in a training: losses over the steps and the results of the validations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from CrossModalSegLib.training.validation import Validation


class History:
    """Losses and validations, in plain numbers.

    Attributes:
        steps: One entry for every few steps: "step", "seconds", "learning_rate", and the mean of each loss term since
            the entry before.
        validation: One entry a validation: "step", "dice" (mean), "dice_by_class" (by name).
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.validation: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._waiting: list[dict[str, Tensor]] = []
        self._count = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take in the loss terms of a step; they stay on their device until they are asked for."""
        self._waiting.append({name: term.detach() for name, term in terms.items()})

    def collect(self) -> dict[str, float]:
        """Mean of each term since the last entry."""
        for terms in self._waiting:
            values = torch.stack([term.float().reshape(()) for term in terms.values()]).tolist()
            for name, value in zip(terms, values, strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += len(self._waiting)
        self._waiting.clear()
        return {name: value / self._count for name, value in self._sums.items()}

    def record(self, step: int, learning_rate: float, seconds: float) -> dict[str, float]:
        """Make an entry of the steps since the last one, and return its loss terms."""
        means = self.collect()
        self.steps.append({"step": step, "seconds": round(seconds, 3), "learning_rate": learning_rate, **means})
        self._sums, self._count = {}, 0
        return means

    def record_validation(self, step: int, result: Validation, class_names: Sequence[str]) -> None:
        """Make an entry of a validation."""
        by_class = dict(zip(class_names, result.by_class, strict=False))
        self.validation.append({"step": step, "dice": result.mean, "dice_by_class": by_class})

    def to_json(self) -> dict[str, Any]:
        """The entries."""
        return {"steps": self.steps, "validation": self.validation}

    def state_dict(self) -> dict[str, Any]:
        """Entries, and the steps that have none yet."""
        self.collect()
        return {**self.to_json(), "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.steps, self.validation = list(state["steps"]), list(state["validation"])
        self._sums, self._count = dict(state["sums"]), state["count"]
        self._waiting.clear()
