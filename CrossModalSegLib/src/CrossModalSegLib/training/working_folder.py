"""The folder beside the output in which a training keeps what it needs to be continued."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CrossModalSegLib.data.cache import is_cache, remove_cache
from CrossModalSegLib.errors import Cancelled, OutputError
from CrossModalSegLib.training.checkpoint import (
    holds_only_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    remove_checkpoints,
)
from CrossModalSegLib.training.folder_lock import LOCK, is_locked, locked
from CrossModalSegLib.training.resume import check_same_training

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)


def working_folder(out: Path) -> Path:
    """`<out>.training`."""
    return out.resolve().with_name(f"{out.resolve().name}.training")


def check_output(out: Path, working: Path, resume: bool) -> None:
    """Refuse an output that exists, a foreign working folder, and a stopped training that is not to be resumed.

    Raises:
        OutputError: One of these is in the way.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"The output folder '{out}' exists and is not empty; name another one"
            + (": the training that made it is finished." if resume else ", or delete it.")
        )
    if _is_foreign(working):
        raise OutputError(
            f"'{working}' is where the unfinished training would be kept, but something else is there; move it away, "
            "or name another output folder."
        )
    if latest_checkpoint(working / "checkpoints") is not None and not resume:
        if is_locked(working):
            raise _running(working)
        raise OutputError(
            f"'{working}' holds a training that was stopped; resume it, or delete that folder to begin anew."
        )


@contextmanager
def sole_training(working: Path) -> Iterator[None]:
    """Make the working folder and keep other trainings out of it; of a training in several processes the first does so.

    Raises:
        OutputError: Another training runs in it, or it cannot be made.
    """
    if not _is_first_process():
        yield
        return
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(locked(working))
        except OSError as error:
            raise OutputError(f"'{working}' cannot be made ({error.strerror}); name another output folder.") from error
        if not is_free:
            raise _running(working)
        yield


@contextmanager
def no_remains(working: Path) -> Iterator[None]:
    """Remove the working folder on failure, unless there is a checkpoint in it to continue from, and tell of it.

    Of a training in several processes, the first does so.
    """
    try:
        yield
    except BaseException as error:
        if not _is_first_process():
            raise
        if latest_checkpoint(working / "checkpoints") is None:
            remove_working_folder(working)
        elif isinstance(error, (KeyboardInterrupt, Cancelled, OutputError)):
            logger.warning("What was trained so far is kept in '%s'; resume it to go on from there.", working)
        raise


def remove_working_folder(working: Path) -> None:
    """Remove what a training wrote there, and the folder unless something else is in it."""
    remove_checkpoints(working / "checkpoints")
    remove_cache(working / "cache")
    with suppress(OSError):
        working.rmdir()


def _running(working: Path) -> OutputError:
    return OutputError(
        f"Another training runs in '{working}' right now; wait for its end, stop it, or name another output folder."
    )


def _is_first_process() -> bool:
    """Whether this is the first of the processes of a training, or the only one, by what launchers tell them."""
    ranks = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _is_foreign(working: Path) -> bool:
    """Whether there is something in the place of the working folder that no training made."""
    if not working.exists():
        return False
    if not working.is_dir():
        return True
    checkpoints = working / "checkpoints"
    is_ours = latest_checkpoint(checkpoints) is not None or holds_only_checkpoints(checkpoints)
    return any(path.name != LOCK for path in working.iterdir()) and not (is_ours or is_cache(working / "cache"))


def find_checkpoint(working: Path, description: Mapping[str, Any], fabric: Fabric, resume: bool) -> Path | None:
    """Find the checkpoint of the training to resume."""
    checkpoint = latest_checkpoint(working / "checkpoints") if resume else None
    checkpoint = fabric.broadcast(checkpoint)  # one answer for all, however late a network disk shows a folder
    if checkpoint is not None:
        saved = load_checkpoint(checkpoint)
        check_same_training({key: saved.get(key) for key in description}, description)
        return checkpoint
    if resume:
        logger.warning("There is no checkpoint in '%s': the training begins with the first step.", working)
    return None
