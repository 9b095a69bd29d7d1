"""`crossmodalseg evaluate`: measures of segmentations against masks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.labels import LabelTable
    from CrossModalSegLib.metrics import FolderReport, MetricsReport
    from CrossModalSegLib.progress import Progress

EXAMPLE = "crossmodalseg evaluate --prediction out/segmentation.nii.gz --mask mask.nii.gz --out report.json"


@dataclass(frozen=True)
class Arguments:
    """Measure a segmentation, or a folder of them: Dice (DSC), surface distances in mm (ASD, HD95), surface Dice (NSD).

    A label that is in neither of the two has no measures; one that is missed or not in the mask has a DSC of 0.
    Segments that a mask has beside those of the segmentation are named, and not measured.

    Attributes:
        prediction: segmentation, or folder of segmentations, such as `fit`, `segment` and `refer` write.
        mask: reference mask, or folder of masks with the same names.
        cohort: cohort file whose masks are the references, instead of --mask; the predictions are named as its cases.
            Cases without one are named, and count in no mean.
        out: JSON report to write.
        labels: names of the classes 1..K; the names in the files where not given.
        tolerances: distances in mm at which NSD is given.
        overwrite: replace an existing report.
        quiet: show no progress.
    """

    prediction: Path
    mask: Path | None = None
    cohort: Path | None = None
    out: Path | None = None
    labels: tuple[str, ...] = ()
    tolerances: tuple[float, ...] = (1.0, 2.0)
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Measure, print a table, and write the report."""
    from CrossModalSegLib.cli.label_names import named_table
    from CrossModalSegLib.cli.outputs import check_new_file
    from CrossModalSegLib.output import write_json

    _check(args)
    if args.out is not None:
        check_new_file(args.out, args.overwrite, _inputs(args))
    table = named_table(args.labels) if args.labels else None
    with progress_bar(args.quiet) as progress:
        report = _report(args, table, progress)
    say(report.table())
    _say_what_is_left_out(report)
    if args.out is not None:
        write_json({"prediction": args.prediction, "mask": args.mask or args.cohort, **report.to_json()}, args.out)
        say(f"report: {args.out}")


def _check(args: Arguments) -> None:
    from CrossModalSegLib.errors import InputError

    if (args.mask is None) == (args.cohort is None):
        raise InputError("What to compare with should be given once: as --mask, or as --cohort.")
    for path in (args.prediction, args.mask, args.cohort):
        if path is not None and not path.exists():
            raise InputError(f"There is no file or folder '{path}'. Check the path.")
    if args.mask is not None and args.prediction.is_dir() != args.mask.is_dir():
        raise InputError(
            f"'{args.prediction}' and '{args.mask}' should both be files or both be folders, but one is a file and one "
            "a folder."
        )
    if args.cohort is not None and not args.prediction.is_dir():
        raise InputError(f"With --cohort, --prediction should be a folder; '{args.prediction}' is a file.")
    if not args.tolerances:
        raise InputError("--tolerances needs at least one distance in mm.")


def _inputs(args: Arguments) -> list[Path]:
    """Every file that is read. Folders are not among them: a report may be replaced beside the segmentations."""
    from CrossModalSegLib.cli.cohorts import cohort_files, read_any_cohort
    from CrossModalSegLib.metrics.label_files import all_label_files

    files = [] if args.cohort is None else cohort_files(args.cohort, read_any_cohort(args.cohort))
    for path in filter(None, (args.prediction, args.mask)):
        files += chain.from_iterable(all_label_files(path).values()) if path.is_dir() else [path]
    return files


def _say_what_is_left_out(report: MetricsReport | FolderReport) -> None:
    """What counts in no mean: cases without a segmentation, and segments that only masks have.

    The latter with the number of cases where that is not all of them.
    """
    from CrossModalSegLib.metrics import FolderReport

    if isinstance(report, FolderReport) and report.missing:
        every = len(report.cases) + len(report.missing)
        names = ", ".join(report.missing)
        say(f"note: no segmentation of {len(report.missing)} of {every} cases, which count in no mean: {names}")
    if not report.left_out:
        return
    names = report.left_out
    if isinstance(report, FolderReport):
        every = len(report.cases)
        names = [name if count == every else f"{name} ({count} of {every} cases)" for name, count in names.items()]
    say(f"note: not measured, since the segmentation has no segment of this name: {', '.join(names)}")


def _report(args: Arguments, table: LabelTable | None, progress: Progress) -> MetricsReport | FolderReport:
    from CrossModalSegLib.metrics import evaluate_files, evaluate_folder

    if args.cohort is not None:
        return _cohort_report(args, table, progress)
    if not args.prediction.is_dir():
        return evaluate_files(args.prediction, args.mask, table, args.tolerances)
    report = evaluate_folder(
        args.prediction,
        args.mask,
        table,
        args.tolerances,
        on_case=lambda done, total, _: progress(done, total, "measuring"),
    )
    progress(len(report.cases), len(report.cases), "measuring")
    return report


def _cohort_report(args: Arguments, table: LabelTable | None, progress: Progress) -> FolderReport:
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.metrics import CaseMetrics, FolderReport, evaluate_files
    from CrossModalSegLib.metrics.label_files import label_files, without_extras

    cohort = read_any_cohort(args.cohort)
    masks = {case.name: case.mask for case in cohort.cases if case.mask is not None}
    predictions = without_extras(label_files(args.prediction), masks)
    foreign = sorted(set(predictions) - set(masks))
    if foreign:
        raise InputError(f"The cohort '{args.cohort}' has no mask for {', '.join(foreign)} in '{args.prediction}'.")
    cases = []
    for done, name in enumerate(sorted(predictions)):
        progress(done, len(predictions), "measuring")
        report = evaluate_files(predictions[name], masks[name], table or cohort.labels, args.tolerances)
        cases.append(CaseMetrics(name, report))
    progress(len(cases), len(cases), "measuring")
    return FolderReport(tuple(cases), tuple(sorted(set(masks) - set(predictions))))
