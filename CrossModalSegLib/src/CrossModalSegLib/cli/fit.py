"""`crossmodalseg fit`: one case, from its scribbles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.fitting.fit_case import FitResult, Stage
    from CrossModalSegLib.labels import LabelTable
    from CrossModalSegLib.volume import Volume

EXAMPLE = "crossmodalseg fit --ct ct.nii.gz --mr mr.nii.gz --scribbles scribbles.seg.nrrd --out tumour"


@dataclass(frozen=True)
class Arguments:
    """Segment one case from scribbles: a first answer within seconds, better ones while time remains.

    The output folder appears when all is done and holds segmentation.nii.gz, segmentation.seg.nrrd (opens in 3D Slicer
    with names and colours), overlay.png, curve.png and report.json. Scribbled voxels keep the class that was drawn. Of
    sheared images (a tilted gantry) .nrrd files are written instead of .nii.gz.

    Attributes:
        scribbles: .seg.nrrd with one segment a class and one named "Background", or a label map: 1..K are the classes,
            --background and --unlabelled say what the rest means.
        out: folder to write.
        ct: CT image: NIfTI, NRRD, MHA, or a DICOM series folder.
        mr: MR image on the same grid.
        image: a single image of any kind, instead of --ct and --mr.
        model: prompted model that "cmfnet" starts from, folder or name; the one that ships where not given.
        labels: names of the classes 1..K of a label map, in this order.
        unlabelled: value in a label map where nothing is drawn.
        background: value in a label map of background scribbles.
        minutes: time for training, or at most for tuning, which ends after 45 steps; 0 stops at the first
            answer, which only "cmfnet" has.
        preview_every: seconds between answers; each better one replaces OUT-preview.seg.nrrd until OUT is there. 0
            writes no previews.
        method: "cmfnet" tunes the shipped network on the case, "scratch" trains a CmFNet on the case alone, "pce" is
            the baseline with partial cross-entropy alone.
        seed: of everything random.
        resample: bring the other images and the scribbles onto the grid of the first image.
        save_model: also write OUT/model, the fitted network: for the next fit's --model ("cmfnet"), or for `segment`
            (the other methods).
        probabilities: write the probability of each class.
        uncertainty: write the uncertainty, 0 (sure) to 1.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        overwrite: replace an existing output folder, all of it, and an existing preview.
        quiet: show no progress.
    """

    scribbles: Path
    out: Path
    ct: Path | None = None
    mr: Path | None = None
    image: Path | None = None
    model: str | None = None
    labels: tuple[str, ...] = ()
    unlabelled: int = 255
    background: int = 0
    minutes: float = 2.0
    preview_every: float = 20.0
    method: Literal["cmfnet", "scratch", "pce"] = "cmfnet"
    seed: int = 0
    resample: bool = False
    save_model: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Check, fit, write."""
    from CrossModalSegLib.cli.outputs import check_new_folder, model_paths
    from CrossModalSegLib.cli.segmentation_files import SHEARED_NOTE
    from CrossModalSegLib.io.image_io import fits_nifti
    from CrossModalSegLib.volume import milliliters

    _check_numbers(args)
    inputs = [args.ct, args.mr, args.image, args.scribbles, *model_paths(args.model)]
    check_new_folder(args.out, args.overwrite, inputs)
    _check_preview(args, inputs)
    loaded, table = _load(args)
    if not fits_nifti(loaded.grid):
        say(SHEARED_NOTE)
    with _Preview(args.out, table, args.preview_every > 0) as preview:
        result, seconds = _fit(args, loaded, table, preview)
        _write(args, loaded, table, result, seconds)
    for name, volume in milliliters(result.labels, table).items():
        say(f"{name}: {volume:.1f} ml")
    say(f"segmentation: {args.out / 'segmentation.seg.nrrd'}")
    say(f"to look at: {args.out / 'overlay.png'}")


def _check_numbers(args: Arguments) -> None:
    from CrossModalSegLib.cli.numbers import check_duration, check_seed
    from CrossModalSegLib.errors import InputError

    check_duration("--minutes", args.minutes, may_be_zero=True)
    check_duration("--preview-every", args.preview_every, may_be_zero=True)
    check_seed(args.seed)
    if args.minutes == 0 and args.method != "cmfnet":
        raise InputError(
            f'--minutes 0 is for "cmfnet", which has an answer at once; "{args.method}" starts from random weights and '
            "needs time to train. Give it --minutes above 0."
        )


def _check_preview(args: Arguments, inputs: list[Path | None]) -> None:
    from CrossModalSegLib.cli.outputs import check_new_file
    from CrossModalSegLib.errors import OutputError

    path = preview_path(args.out)
    if not args.preview_every:
        return
    if path.exists() and not args.overwrite:
        raise OutputError(
            f"The preview '{path}' exists, perhaps of a fit that was stopped. Move it away, add --preview-every 0 to "
            "do without previews, or --overwrite to replace it."
        )
    check_new_file(path, args.overwrite, inputs)


def preview_path(out: Path) -> Path:
    """Where previews of a fit are written: beside its output."""
    return out.with_name(f"{out.name}-preview.seg.nrrd")


def _load(args: Arguments) -> tuple[LoadedCase, LabelTable]:
    from CrossModalSegLib.cli.images import load_single, named_images
    from CrossModalSegLib.cli.scribble_files import scribble_table
    from CrossModalSegLib.labels import ScribbleConvention, check_scribbles

    images = named_images(args.ct, args.mr, args.image)
    convention = ScribbleConvention(args.unlabelled, args.background)
    table = scribble_table(args.scribbles, args.labels, convention)
    loaded = load_single(images, table, scribbles=args.scribbles, convention=convention, resample=args.resample)
    check_scribbles(loaded.scribbles.array, table)
    return loaded, table


def _fit(args: Arguments, loaded: LoadedCase, table: LabelTable, on_preview: _Preview) -> tuple[FitResult, float]:
    """The result, and the seconds it took once everything was loaded."""
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.fitting.fit_case import DEFAULT_PRIOR, FitConfig, fit_case

    every = {"preview_every": args.preview_every} if args.preview_every else {}
    began = time.perf_counter()
    with progress_bar(args.quiet) as progress:
        result = fit_case(
            loaded,
            table,
            FitConfig(method=args.method, seconds=60.0 * args.minutes, seed=args.seed, **every),
            prior=args.model or DEFAULT_PRIOR,
            device=choose_device(args.device),
            probabilities=args.probabilities,
            uncertainty=args.uncertainty,
            progress=progress,
            on_preview=on_preview,
        )
    return result, time.perf_counter() - began


def _write(args: Arguments, loaded: LoadedCase, table: LabelTable, result: FitResult, seconds: float) -> None:
    from CrossModalSegLib.cli.fit_files import write_fit
    from CrossModalSegLib.cli.segmentation_files import write_on_grid, write_probabilities
    from CrossModalSegLib.inference.model_folder import save_model
    from CrossModalSegLib.output import atomic_folder, write_json
    from CrossModalSegLib.versions import library_versions

    inputs = [each for each in (args.ct, args.mr, args.image, args.scribbles) if each is not None]
    with atomic_folder(args.out, overwrite=args.overwrite, inputs=inputs) as folder:
        write_fit(result, loaded, table, folder)
        if args.save_model:
            save_model(folder / "model", result.network, result.card)
        if result.probabilities is not None:
            write_probabilities(result.probabilities, loaded.grid, table, folder)
        if result.uncertainty is not None:
            write_on_grid(result.uncertainty, folder, "uncertainty")
        report = {
            "method": args.method,
            "seed": args.seed,
            "images": {"ct": args.ct, "mr": args.mr, "image": args.image},
            "scribbles": args.scribbles,
            "labels": table.to_json(),
            "seconds": round(seconds, 1),
            "steps": len(result.history),
            "answers": result.stages,
            "device": result.device,
            "versions": library_versions(),
        }
        write_json(report, folder / "report.json")


class _Preview:
    """Writes each better answer beside the output; the file goes away when the output stands."""

    def __init__(self, out: Path, table: LabelTable, is_wanted: bool) -> None:
        self.path = preview_path(out)
        self._table, self._is_wanted, self._count = table, is_wanted, 0

    def __call__(self, labels: Volume, stage: Stage) -> None:
        if not self._is_wanted:
            return
        from CrossModalSegLib.io import write_segmentation

        write_segmentation(labels, self._table, self.path)
        if self._count == 0:
            say(f"first answer after {stage.seconds:.0f} s: {self.path}")
        self._count += 1

    def __enter__(self) -> _Preview:
        return self

    def __exit__(self, *ending: object) -> None:
        # Whoever stops a fit by hand keeps its last preview, which is complete in itself.
        if self._count and not _is_interrupt(ending[0]):
            self.path.unlink(missing_ok=True)


def _is_interrupt(kind: object) -> bool:
    return isinstance(kind, type) and not issubclass(kind, Exception)
