"""`crossmodalseg demo`: the whole way once, on a simulated patient whose true mask is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.fitting.fit_case import FitResult
    from CrossModalSegLib.labels import LabelTable
    from CrossModalSegLib.metrics import MetricsReport
    from CrossModalSegLib.simulation import SimulatedCase

EXAMPLE = "crossmodalseg demo --out demo"

METHODS = ("cmfnet", "scratch", "pce")
_NAMES = {"cmfnet": "CmFNet", "scratch": "CmFNet from scratch", "pce": "partial cross-entropy"}
STARTS_FROM = {
    "cmfnet": "the prior that ships, trained on other cases",
    "scratch": "random weights",
    "pce": "random weights",
}


@dataclass(frozen=True)
class Arguments:
    """Simulate a head with a tumour in CT and MR, scribble on a few slices, segment from the scribbles alone, measure.

    Three fits see the same scribbles for the same time: CmFNet from the prior that ships, as `fit` does it; CmFNet from
    random weights, with the paper's hybrid loss and partial Dice on this case alone; and the baseline, a V-Net from
    random weights with partial cross-entropy alone. The true mask is used to draw the scribbles and to measure, never
    to fit. The output folder appears when all is done and holds ct, mr, scribbles, mask and segmentation (.nii.gz),
    segmentation.seg.nrrd, overlay.png, curve.png and report.json.

    Attributes:
        out: folder to write.
        seed: of the patient, the scribbles and the fits.
        method: whose segmentation is written; the report holds all.
        seconds: time for each of the fits.
        every: scribbles on every n-th axial slice.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        overwrite: replace an existing output folder, all of it.
        quiet: show no progress.
    """

    out: Path
    seed: int = 0
    method: Literal["cmfnet", "scratch", "pce"] = "cmfnet"
    seconds: float = 45.0
    every: int = 3
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Simulate, fit, measure, write, and show."""
    from CrossModalSegLib.cli.numbers import check_duration, check_seed
    from CrossModalSegLib.cli.outputs import check_new_folder
    from CrossModalSegLib.output import atomic_folder

    check_duration("--seconds", args.seconds)
    check_seed(args.seed)
    check_new_folder(args.out, args.overwrite)
    clock = _Clock()
    with atomic_folder(args.out, overwrite=args.overwrite) as folder:
        with clock.stage("load libraries"):
            import CrossModalSegLib.fitting.fit_case  # noqa: F401 - so that the fits' seconds are their own
        with clock.stage("simulate"):
            case, loaded = _patient(args)
        results = {method: _fit(args, method, loaded, case.labels, clock) for method in METHODS}
        with clock.stage("measure"):
            reports = {method: _measure(result, case) for method, result in results.items()}
        with clock.stage("write"):
            _write_files(results[args.method], case, loaded, folder)
        _write_report(args, results, reports, clock, folder)
    _show(args, reports, clock)


class _Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.stages: list[dict[str, str | float]] = []

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(float(stage["seconds"]) for stage in self.stages)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block."""
        began = time.perf_counter()
        yield
        self.stages.append({"name": name, "seconds": round(time.perf_counter() - began, 2)})


def _patient(args: Arguments) -> tuple[SimulatedCase, LoadedCase]:
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.simulation import case_scribbles, simulate_case

    case = simulate_case("head", args.seed)
    scribbles = case.mask.with_array(case_scribbles(case, "contour", args.seed, args.every))
    # Without the mask: the fits cannot see what they are measured against.
    return case, LoadedCase("demo", {"ct": case.ct, "mr": case.mr}, scribbles, None)


def _fit(args: Arguments, method: str, loaded: LoadedCase, table: LabelTable, clock: _Clock) -> FitResult:
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.fitting.fit_case import FitConfig, fit_case

    config = FitConfig(method=method, seconds=args.seconds, seed=args.seed)
    with clock.stage(f"fit {method}"), progress_bar(args.quiet) as progress:
        return fit_case(
            loaded,
            table,
            config,
            device=choose_device(args.device),
            progress=lambda done, total, _="", values=None: progress(done, total, f"fit {_NAMES[method]}", values),
        )


def _measure(result: FitResult, case: SimulatedCase) -> MetricsReport:
    from CrossModalSegLib.metrics import evaluate_segmentation

    return evaluate_segmentation(result.labels, case.mask, case.labels)


def _write_files(result: FitResult, case: SimulatedCase, loaded: LoadedCase, folder: Path) -> None:
    from CrossModalSegLib.cli.fit_files import write_fit
    from CrossModalSegLib.io import write_volume

    volumes = {"ct": case.ct, "mr": case.mr, "scribbles": loaded.scribbles, "mask": case.mask}
    for name, volume in volumes.items():
        write_volume(volume, folder / f"{name}.nii.gz")
    write_fit(result, loaded, case.labels, folder, reference=case.mask)


def _write_report(
    args: Arguments,
    results: dict[str, FitResult],
    reports: dict[str, MetricsReport],
    clock: _Clock,
    folder: Path,
) -> None:
    from CrossModalSegLib.output import write_json
    from CrossModalSegLib.versions import library_versions

    report = {
        "seed": args.seed,
        "written": args.method,
        "scribbles_every": args.every,
        "methods": {
            method: {
                "starts_from": STARTS_FROM[method],
                "device": result.device,
                **reports[method].to_json(),
                "steps": len(result.history),
                "answers": result.stages,
            }
            for method, result in results.items()
        },
        "seconds": {"total": round(clock.total, 2), "stages": clock.stages},
        "versions": library_versions(),
    }
    write_json(report, folder / "report.json")


def _show(args: Arguments, reports: dict[str, MetricsReport], clock: _Clock) -> None:
    from CrossModalSegLib.metrics.text_table import number, text_table

    rows = []
    for method, report in reports.items():
        for label in report.labels:
            nsd = [number(value, 3) for value in label.nsd]
            rows.append(
                [
                    _NAMES[method],
                    label.name,
                    number(label.dsc, 3),
                    number(label.asd_mm, 2),
                    number(label.hd95_mm, 2),
                    *nsd,
                ]
            )
    tolerances = next(iter(reports.values())).tolerances_mm
    header = ["method", "label", "DSC", "ASD mm", "HD95 mm", *(f"NSD {each:g} mm" for each in tolerances)]
    say(text_table(header, rows))
    say()
    say(", ".join(f"{stage['name']} {stage['seconds']:.0f} s" for stage in clock.stages))
    say(f"to look at:     {args.out / 'overlay.png'}")
    say(
        f"for 3D Slicer:  {args.out / 'segmentation.seg.nrrd'} on {args.out / 'ct.nii.gz'} and {args.out / 'mr.nii.gz'}"
    )
    say(f"all figures:    {args.out / 'report.json'}")
