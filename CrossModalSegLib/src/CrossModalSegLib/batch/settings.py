"""What is done with every case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.errors import CohortError, InputError, ModelError
from CrossModalSegLib.worker.messages import REFERENCE, Model, Pieces

Action = Literal["segment", "refer", "fit"]

_FIT_PAIR = ("ct", "mr")


@dataclass(frozen=True)
class BatchSettings:
    """What is done with every case.

    Attributes:
        action: "segment" by a trained model; "refer" from the scribbles on one image to all images; "fit" each case
            from its scribbles.
        model: folder or name; None is the default of the action, which "segment" has not.
        modalities: those that are used, of the cohort's; None uses all.
        reference: modality that is scribbled on, for "refer"; None is the first one.
        seconds: for the tuning of each fit.
        pieces: for "refer": which connected pieces of an organ stay.
        tune_seconds: for "refer", in which a copy of the network learns from the strokes first.
        probabilities, uncertainty: whether images of them are written.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of every random choice.

    Raises:
        InputError: a value cannot be used.
    """

    action: Action
    model: str | None = None
    modalities: tuple[str, ...] | None = None
    reference: str | None = None
    seconds: float = 120.0
    pieces: Pieces = "large"
    tune_seconds: float = 0.0
    probabilities: bool = False
    uncertainty: bool = False
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("tune", self.tune_seconds)):
            if not math.isfinite(value) or value < 0:
                raise InputError(f"--{name} should be a number of seconds, 0 or above, got {value}.")
        if self.seed < 0:
            raise InputError(f"--seed should be 0 or above, got {self.seed}.")
        if self.action == "segment" and self.model is None:
            raise InputError("A model is needed to segment without scribbles: give --model.")

    def to_json(self) -> dict[str, object]:
        """What must be equal for results to belong together; the device need not be."""
        model = self.model
        return {
            "action": self.action,
            "model": str(Path(model).resolve()) if model is not None and Path(model).is_dir() else model,
            "modalities": None if self.modalities is None else list(self.modalities),
            "reference": self.reference,
            "seconds": self.seconds if self.action == "fit" else None,
            "pieces": self.pieces if self.action == "refer" else None,
            "tune_seconds": self.tune_seconds if self.action == "refer" else None,
            "probabilities": self.probabilities,
            "uncertainty": self.uncertainty,
            "seed": self.seed,
        }


def images_used(settings: BatchSettings, cohort: Cohort, model: Model | None) -> tuple[str, ...]:
    """Modalities of the images that are sent, in order; results lie on the first, of "refer" on each.

    Args:
        settings: what is done.
        cohort: whose modalities they are.
        model: the one that is used, or None where it is the default.

    Raises:
        CohortError: the cohort has not the images that are asked for.
        ModelError: it has not those that the model needs.
    """
    named = settings.modalities or cohort.modalities
    for name in (*named, *([settings.reference] if settings.reference is not None else [])):
        if name not in cohort.modalities:
            raise CohortError(f"There is no image '{name}' in the cohort; it has {', '.join(cohort.modalities)}.")
    if settings.action == "segment":
        return _for_model(model, named)
    return _for_fit(named) if settings.action == "fit" else _for_refer(named, settings.reference)


def require_task(settings: BatchSettings, model: Model | None) -> None:
    """Check that a model is made for what is done.

    Raises:
        ModelError: it is for something else, or is damaged.
    """
    if model is None:
        return
    if model.problem is not None:
        raise ModelError(f"The model '{settings.model}' cannot be used: {model.problem}")
    if model.task != settings.action:
        raise ModelError(
            f"The model '{settings.model}' is made for `{model.task}`, not for `{settings.action}`. Choose another one."
        )


def _for_model(model: Model, named: tuple[str, ...]) -> tuple[str, ...]:
    if len(named) == len(model.modalities) == 1:  # whatever they are called
        return named
    missing = [each for each in model.modalities if each not in named]
    if missing:
        raise ModelError(
            f"The model '{model.name}' needs the images {', '.join(model.modalities)}; those of the cohort are "
            f"{', '.join(named)}. Add {', '.join(missing)}, or choose another model."
        )
    return model.modalities


def _for_fit(named: tuple[str, ...]) -> tuple[str, ...]:
    if len(named) == 1:
        return named
    if set(named) != set(_FIT_PAIR):
        raise CohortError(
            f"A fit takes the images ct and mr, or a single one; these are {', '.join(named)}. Choose by --modalities."
        )
    return _FIT_PAIR


def _for_refer(named: tuple[str, ...], reference: str | None) -> tuple[str, ...]:
    first = reference or named[0]
    others = tuple(each for each in named if each != first)
    if not others:
        raise CohortError(f"There is no image beside the reference '{first}'; a cohort with more modalities is needed.")
    if REFERENCE in others:
        raise CohortError(f"A target cannot be called '{REFERENCE}'; give that modality another name in the cohort.")
    return (first, *others)
