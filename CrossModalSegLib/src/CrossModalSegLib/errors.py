"""The errors of the library.

Every message is a full sentence for the person at the keyboard: what was expected, what was got, and what to do.
The command line ends with exit code 2 on any of them, and with 130 on `Cancelled`.
"""

from __future__ import annotations

from pathlib import Path


class CrossModalSegError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(CrossModalSegError):
    """An input file, an array or an option cannot be used."""


class GeometryError(InputError):
    """A grid is not usable, or two grids differ."""


class LabelError(InputError):
    """A label map, a scribble map or a label table is not usable."""


class CohortError(InputError):
    """A cohort file, or a case of it, is not usable."""


class ModelError(CrossModalSegError):
    """A trained model is missing, corrupt, foreign, or does not fit the inputs."""


class OutputError(CrossModalSegError):
    """An output cannot be written."""


class TakenError(OutputError):
    """The place of an output is taken, and replacing it was not asked for.

    Attributes:
        path: the place.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class Cancelled(CrossModalSegError):
    """The person asked the running work to stop."""


class SessionError(CrossModalSegError):
    """Something that was kept for later requests is not there any more."""


class WorkerError(CrossModalSegError):
    """The worker process cannot be started."""
