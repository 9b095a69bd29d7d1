"""The list of commands: words, module, and the line in the overview. Importing it imports none of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        words: what people type after `crossmodalseg`.
        module: the module in this package with its `Arguments`, `EXAMPLE` and `run`.
        summary: the line in the overview.
    """

    words: tuple[str, ...]
    module: str
    summary: str

    @property
    def name(self) -> str:
        """The words as one text."""
        return " ".join(self.words)


COMMANDS: tuple[Command, ...] = (
    Command(("demo",), "demo", "Simulate a case, segment it from scribbles, and show how well that went."),
    Command(("simulate",), "simulate", "Write a cohort of simulated CT/MR pairs with masks and scribbles."),
    Command(("simulate-mr",), "simulate_mr", "Simulate an aligned MR from a real CT and its labels."),
    Command(("scribble",), "scribble", "Draw scribbles on a segmented mask, as a person would."),
    Command(("register",), "register", "Bring one image onto the grid and position of another."),
    Command(("train", "cmfnet"), "train_cmfnet", "Train a network on a cohort with scribbles."),
    Command(("train", "crossmr"), "train_crossmr", "Train a network that follows a scribbled reference, on masks."),
    Command(("train", "prior"), "train_prior", "Train the network that fits start from, on masks."),
    Command(("fit",), "fit", "Segment one case from its scribbles."),
    Command(("refer",), "refer", "Scribble on one image, get the organs in it and in others."),
    Command(("segment",), "segment", "Segment without scribbles, with a trained model."),
    Command(("evaluate",), "evaluate", "Measure segmentations against masks."),
    Command(("model", "list"), "model_list", "List the models that are installed."),
    Command(("model", "info"), "model_info", "Show what a model is, and how it was trained."),
    Command(("model", "export"), "model_export", "Write a model as a MONAI bundle."),
    Command(("model", "import"), "model_import", "Install a model from a folder or a zip archive."),
    Command(("web",), "web", "Scribble and segment in a browser."),
    Command(("doctor",), "doctor", "Show versions, devices, memory, and what works here."),
)
# Started by programs, not by people: in no overview.
HIDDEN: tuple[Command, ...] = (Command(("worker",), "worker", "Answer the requests of a panel or a page."),)
