"""One case of a batch: its files to a request, and the answer to files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from CrossModalSegLib.cli.segmentation_files import file_name_part, write_on_grid
from CrossModalSegLib.cohort import Case, Cohort, as_file_name, load_case
from CrossModalSegLib.errors import CohortError
from CrossModalSegLib.io import read_volume, write_segmentation
from CrossModalSegLib.labels import LabelTable, check_scribbles
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.messages import (
    REFERENCE,
    FitRequest,
    FitResult,
    JobRequest,
    ReferRequest,
    ReferResult,
    SegmentRequest,
    SegmentResult,
)

from .settings import BatchSettings

_SESSION = "batch"  # one is enough: cases are not come back to
_RESULT = "segmentation"


@dataclass(frozen=True, eq=False)
class Segmented:
    """What is written for one volume.

    Attributes:
        name: of its files.
        labels: 0 background and 1..K, on the volume's own grid.
        table: the classes.
        milliliters: by class name.
        probabilities: by class name; empty where not asked for.
        uncertainty: None where not asked for.
    """

    name: str
    labels: Volume
    table: LabelTable
    milliliters: Mapping[str, float]
    probabilities: Mapping[str, Volume]
    uncertainty: Volume | None = None


def request_for(case: Case, cohort: Cohort, modalities: tuple[str, ...], settings: BatchSettings) -> JobRequest:
    """Read the files of a case.

    Args:
        case: one of the cohort.
        cohort: names labels and the scribble convention.
        modalities: of the images to read; scribbles are on the first one.
        settings: what to ask for.

    Raises:
        CrossModalSegError: a file cannot be used, or the scribbles are missing or incomplete.
    """
    first, *others = modalities
    with_scribbles = settings.action != "segment"
    if with_scribbles and case.scribbles is None:
        raise CohortError(f"In the case '{case.name}': there are no scribbles.")
    # Alone: the other images may have grids of their own.
    scribbled = replace(
        case, images={first: case.images[first]}, scribbles=case.scribbles if with_scribbles else None, mask=None
    )
    loaded = load_case(scribbled, replace(cohort, modalities=(first,), cases=(scribbled,)))
    images = {first: loaded.grid} | {name: read_volume(case.images[name]) for name in others}
    if settings.action == "segment":
        return SegmentRequest(
            images,
            settings.model,
            probabilities=settings.probabilities,
            uncertainty=settings.uncertainty,
            device=settings.device,
        )
    check_scribbles(loaded.scribbles.array, cohort.labels, needs_background=settings.action == "fit")
    if settings.action == "fit":
        return FitRequest(
            images,
            loaded.scribbles,
            cohort.labels,
            start=settings.model,
            seconds=settings.seconds,
            preview_every=0.0,
            probabilities=settings.probabilities,
            uncertainty=settings.uncertainty,
            device=settings.device,
            seed=settings.seed,
        )
    return ReferRequest(
        reference=images.pop(first),
        targets=images,
        scribbles=loaded.scribbles,
        labels=cohort.labels,
        session=_SESSION,
        model=settings.model,
        probabilities=settings.probabilities,
        pieces=settings.pieces,
        tune_seconds=settings.tune_seconds,
        device=settings.device,
    )


def segmented(
    result: SegmentResult | FitResult | ReferResult, cohort: Cohort, modalities: tuple[str, ...]
) -> Iterator[Segmented]:
    """What an answer holds for each volume: of "refer" by modality, else one that lies on the first image."""
    if not isinstance(result, ReferResult):
        table = result.table if isinstance(result, SegmentResult) else cohort.labels
        yield Segmented(
            _RESULT, result.labels, table, result.milliliters, result.probabilities, uncertainty=result.uncertainty
        )
        return
    for number, name in enumerate(modalities):
        key = name if number else REFERENCE
        yield Segmented(
            as_file_name(name, "image"),
            result.labels[key],
            cohort.labels,
            result.milliliters[key],
            result.probabilities.get(key, {}),
        )


def write_segmented(found: Segmented, folder: Path) -> list[str]:
    """Write NAME.seg.nrrd and NAME.nii.gz (.nrrd on a sheared grid), and what comes beside them.

    Returns:
        Names of the files.

    Raises:
        OutputError: a file cannot be written.
    """
    write_segmentation(found.labels, found.table, folder / f"{found.name}.seg.nrrd")
    paths = [folder / f"{found.name}.seg.nrrd", write_on_grid(found.labels, folder, found.name)]
    for label in found.table.labels:
        if label.name in found.probabilities:
            # By value, too: different names may give one name of a file.
            name = f"{found.name}_probability_{label.value}_{file_name_part(label.name)}"
            paths.append(write_on_grid(found.probabilities[label.name], folder, name))
    if found.uncertainty is not None:
        paths.append(write_on_grid(found.uncertainty, folder, f"{found.name}_uncertainty"))
    return [path.name for path in paths]
