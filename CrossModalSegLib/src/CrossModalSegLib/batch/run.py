"""All cases of a cohort, one after another; whatever becomes of one, the others are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from CrossModalSegLib.cli.cohorts import cohort_files
from CrossModalSegLib.cli.outputs import check_new_folder, check_writable
from CrossModalSegLib.cohort import Case, Cohort, check_result_names
from CrossModalSegLib.errors import CrossModalSegError, InputError, ModelError, OutputError
from CrossModalSegLib.output import atomic_folder, write_json
from CrossModalSegLib.worker.client import Job, WorkerClient
from CrossModalSegLib.worker.messages import DoctorRequest, JobRequest, Model, ModelInfoRequest, ModelsRequest

from .cases import request_for, segmented, write_segmented
from .inputs import InputFile, are_others, as_they_are, input_files
from .report import CASE_FILE, Outcome, finished, remove_remains, require_same, write_report
from .settings import BatchSettings, images_used, require_task

_WAIT_SECONDS = 0.2
_NAMED = 5  # cases in a sentence


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that was checked.

    Attributes:
        cohort: the cases.
        settings: what is done with each.
        modalities: of the images that are used, in order.
        model: that is named in the settings; None for the default one.
        out: folder for the results.
        client: the way to the worker.
        alive: called while the worker works, so that an application does not stand still.
    """

    cohort: Cohort
    settings: BatchSettings
    modalities: tuple[str, ...]
    model: Model | None
    out: Path
    client: WorkerClient
    alive: Callable[[], None]


def check_batch(
    cohort: Cohort,
    file: Path,
    settings: BatchSettings,
    out: Path,
    client: WorkerClient,
    *,
    resume: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Batch:
    """Check all that can be checked before the first case; nothing is written.

    Args:
        cohort: the cases.
        file: where it was read from.
        settings: what is done with each case.
        out: folder for the results: OUT/CASE/NAME.seg.nrrd and .nii.gz on each volume's own grid, report.json,
            report.csv.
        client: the way to the worker.
        resume: whether finished cases in `out` are kept and skipped.
        alive: called while the worker works.

    Raises:
        CrossModalSegError: something cannot be used.
    """
    check_result_names(case.name for case in cohort.cases)
    inputs = cohort_files(file, cohort)
    if settings.model is not None and Path(settings.model).is_dir():
        inputs.append(Path(settings.model))
    if not resume or not out.is_dir() or not any(out.iterdir()):
        _require_new(out, inputs)
    else:
        require_same(out, _described(settings, cohort))
        check_writable(out.absolute())
    _require_device(settings.device, client, alive)
    model = _model(settings, client, alive)
    require_task(settings, model)
    batch = Batch(cohort, settings, images_used(settings, cohort, model), model, out, client, alive)
    _require_same_files(batch)
    return batch


def run_batch(batch: Batch, say: Callable[[str], None]) -> int:
    """Do all cases that are not finished.

    Args:
        batch: what was checked.
        say: gets a line about each case.

    Returns:
        How many cases failed.

    Raises:
        OutputError: the report cannot be written.
    """
    out, cohort = batch.out, batch.cohort
    described = _described(batch.settings, cohort)
    out.mkdir(parents=True, exist_ok=True)
    remove_remains(out, cohort)
    known = {case.name: finished(out, case.name) for case in cohort.cases}
    outcomes = {name: outcome for name, outcome in known.items() if outcome is not None}
    write_report(out, described, cohort, outcomes)
    left = len(cohort.cases) - len(outcomes)
    took: list[float] = []
    for number, case in enumerate(cohort.cases, start=1):
        place = f"[{number}/{len(cohort.cases)}] {case.name}"
        if case.name in outcomes:
            say(f"{place}: was finished before")
            continue
        outcome = _outcome(batch, case)
        outcomes[case.name] = outcome
        write_report(out, described, cohort, outcomes)
        left -= 1
        if outcome.status == "done":  # those that fail do so early, and tell nothing about the others
            took.append(outcome.seconds)
        say(f"{place}: {_told(outcome)}{_remaining(left * fmean(took) if took else 0.0)}")
        for note in outcome.notes:
            say(f"    {note}")
    return sum(outcome.status == "failed" for outcome in outcomes.values())


def _outcome(batch: Batch, case: Case) -> Outcome:
    began = time.monotonic()
    try:
        request = request_for(case, batch.cohort, batch.modalities, batch.settings)
        inputs = as_they_are(input_files(case, batch.modalities, batch.settings, batch.model))
        job = _answered(batch.client, request, batch.alive)
        return _write(batch, case, job, time.monotonic() - began, inputs)
    except (CrossModalSegError, OSError, MemoryError) as error:
        sentence = " ".join(str(error).split()) or "There is not enough memory for this case."
        return Outcome(case.name, "failed", time.monotonic() - began, message=sentence)


def _write(batch: Batch, case: Case, job: Job, seconds: float, inputs: tuple[InputFile, ...]) -> Outcome:
    """The results of a case, complete or not at all."""
    with atomic_folder(batch.out / case.name) as folder:
        milliliters, files = {}, []
        for each in segmented(job.result, batch.cohort, batch.modalities):
            files += write_segmented(each, folder)
            milliliters[each.name] = {name: float(value) for name, value in each.milliliters.items()}
        device, notes = job.result.device, tuple(job.notes)
        outcome = Outcome(case.name, "done", seconds, device, milliliters, tuple(files), notes=notes, inputs=inputs)
        write_json(outcome, folder / CASE_FILE)
    return outcome


def _answered(client: WorkerClient, request: JobRequest, alive: Callable[[], None]) -> Job:
    """A job that has a result.

    Raises:
        CrossModalSegError: it failed; the worker's sentence.
    """
    job = client.submit(request)
    while not job.wait(_WAIT_SECONDS):
        alive()
    if job.error is not None:
        raise job.error.as_exception()
    return job


def _require_device(name: str, client: WorkerClient, alive: Callable[[], None]) -> None:
    if name == "auto":
        return
    there = [device.name for device in _answered(client, DoctorRequest(), alive).result.devices]
    if name not in there and f"{name}:0" not in there:
        raise InputError(
            f"The device '{name}' is not there; this machine offers {', '.join(there)}. Choose one of them."
        )


def _model(settings: BatchSettings, client: WorkerClient, alive: Callable[[], None]) -> Model | None:
    """The model that is named, loaded and checked; in any case, the worker is there afterwards."""
    if settings.model is None:
        _answered(client, ModelsRequest(), alive)
        return None
    try:
        return _answered(client, ModelInfoRequest(settings.model), alive).result.model
    except InputError as error:
        raise ModelError(str(error)) from error


def _require_new(out: Path, inputs: Iterable[Path]) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(
            f"The output folder '{out}' exists and is not empty. Name another one, or add --resume to go on in it."
        )
    check_new_folder(out, False, inputs)


def _require_same_files(batch: Batch) -> None:
    """Check that the finished cases were made from the files that the cohort names now."""
    others = []
    for case in batch.cohort.cases:
        outcome = finished(batch.out, case.name)
        files = input_files(case, batch.modalities, batch.settings, batch.model)
        if outcome is not None and outcome.inputs and are_others(files, outcome.inputs):
            others.append(case.name)
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise OutputError(
            "The images, scribbles or the model of finished cases have changed since, or are those of other cases: "
            f"{', '.join(others[:_NAMED])}{more}. Remove their folders from '{batch.out}' to have them done again, or "
            "name another output folder."
        )


def _described(settings: BatchSettings, cohort: Cohort) -> dict[str, object]:
    # The cases may become more.
    return settings.to_json() | {"images": list(cohort.modalities), "labels": cohort.labels.to_json()}


def _told(outcome: Outcome) -> str:
    return f"done in {_duration(outcome.seconds)}" if outcome.status == "done" else f"failed: {outcome.message}"


def _remaining(seconds: float) -> str:
    return f" (about {_duration(seconds)} left)" if seconds > 0 else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
