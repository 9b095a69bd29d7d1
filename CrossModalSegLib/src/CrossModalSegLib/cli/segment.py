"""`crossmodalseg segment`: a trained model on images without scribbles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.inference.model_folder import LoadedModel
    from CrossModalSegLib.inference.segment import SegmentationResult
    from CrossModalSegLib.progress import Progress

EXAMPLE = "crossmodalseg segment --model models/liver --ct ct.nii.gz --mr mr.nii.gz --out liver"


@dataclass(frozen=True)
class Arguments:
    """Segment one case, or all cases of a cohort, with a trained model; no scribbles are needed.

    Of one case, the output folder holds segmentation.nii.gz and segmentation.seg.nrrd; of a cohort, one .seg.nrrd file
    a case, named as the case. Everything is on the grid of the first image, and appears when all of it is done.

    Attributes:
        model: model folder, or name of an installed model.
        out: folder to write.
        ct: CT image: NIfTI, NRRD, MHA, or a DICOM series folder.
        mr: MR image on the same grid.
        image: the image, for models of a single modality of any name.
        cohort: cohort file (.json, .csv) instead of images.
        resample: bring the other images onto the grid of the first one.
        probabilities: write the probability of each class.
        uncertainty: write the uncertainty, 0 (sure) to 1.
        window: size (slices, rows, columns) of the sliding window; chosen by the free memory where not given.
        overlap: share of a window that its neighbour repeats.
        precision: "bf16" computes with bfloat16 where the device does so natively.
        device: "auto" takes a CUDA GPU where there is one.
        overwrite: replace an existing output folder, all of it.
        quiet: show no progress.
    """

    model: str
    out: Path
    ct: Path | None = None
    mr: Path | None = None
    image: Path | None = None
    cohort: Path | None = None
    resample: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    window: tuple[int, int, int] | None = None
    overlap: float = 0.25
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Segment and write."""
    from CrossModalSegLib.cli.outputs import check_new_folder
    from CrossModalSegLib.errors import InputError

    check_new_folder(args.out, args.overwrite)
    if args.cohort is not None and any(path is not None for path in (args.ct, args.mr, args.image)):
        raise InputError("Give either a --cohort or images, not both.")
    if args.cohort is not None:
        _segment_cohort(args)
    else:
        _segment_one(args)
    say(f"segmentation: {args.out}")


def _segment_one(args: Arguments) -> None:
    from CrossModalSegLib.cli.images import load_single, named_images
    from CrossModalSegLib.inference.model_folder import check_inputs
    from CrossModalSegLib.io import write_segmentation, write_volume
    from CrossModalSegLib.output import atomic_folder

    images = named_images(args.ct, args.mr, args.image)
    model = _model(args)
    modalities = model.card.modalities
    if args.image is not None and len(modalities) == 1:
        images = {modalities[0]: args.image}
    images = {name: images[name] for name in sorted(images, key=lambda name: _position(name, modalities))}
    loaded = load_single(images, model.card.labels, resample=args.resample)
    check_inputs(model.card, loaded)
    with atomic_folder(args.out, overwrite=args.overwrite) as folder, progress_bar(args.quiet) as progress:
        result = _result(model, loaded, args, progress)
        write_volume(result.labels, folder / "segmentation.nii.gz")
        write_segmentation(result.labels, model.card.labels, folder / "segmentation.seg.nrrd")
        _write_extras(result, loaded, model, folder)


def _segment_cohort(args: Arguments) -> None:
    from CrossModalSegLib.cli.cohorts import read_any_cohort
    from CrossModalSegLib.cohort import load_case
    from CrossModalSegLib.inference.model_folder import check_inputs
    from CrossModalSegLib.io import write_segmentation
    from CrossModalSegLib.output import atomic_folder

    cohort = read_any_cohort(args.cohort)
    model = _model(args)
    with atomic_folder(args.out, overwrite=args.overwrite) as folder, progress_bar(args.quiet) as progress:
        for done, case in enumerate(cohort.cases):
            progress(done, len(cohort.cases), "cases")
            loaded = load_case(case, cohort, args.resample)
            check_inputs(model.card, loaded)
            result = _result(model, loaded, args, None)
            write_segmentation(result.labels, model.card.labels, folder / f"{case.name}.seg.nrrd")
            _write_extras(result, loaded, model, folder / f"{case.name}_extras")
        progress(len(cohort.cases), len(cohort.cases), "cases")


def _position(name: str, modalities: tuple[str, ...]) -> int:
    return modalities.index(name) if name in modalities else len(modalities)


def _model(args: Arguments) -> LoadedModel:
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.errors import ModelError
    from CrossModalSegLib.inference.model_folder import load_model

    model = load_model(args.model, choose_device(args.device))
    if model.card.network.get("prompt_channels"):
        raise ModelError(
            f"The model {model.card.name} reads scribbles beside the images, so it cannot segment without them. Use "
            "`crossmodalseg fit`, or choose a model that `crossmodalseg train cmfnet` made."
        )
    return model


def _result(model: LoadedModel, loaded: LoadedCase, args: Arguments, progress: Progress | None) -> SegmentationResult:
    from CrossModalSegLib.inference.segment import segment_case

    return segment_case(
        model,
        loaded,
        probabilities=args.probabilities,
        uncertainty=args.uncertainty,
        patch=args.window,
        overlap=args.overlap,
        precision=args.precision,
        progress=progress,
    )


def _write_extras(result: SegmentationResult, loaded: LoadedCase, model: LoadedModel, folder: Path) -> None:
    from CrossModalSegLib.cli.segmentation_files import write_probabilities
    from CrossModalSegLib.io import write_volume

    if result.probabilities is not None or result.uncertainty is not None:
        folder.mkdir(exist_ok=True)
    if result.probabilities is not None:
        write_probabilities(result.probabilities, loaded.grid, model.card.labels, folder)
    if result.uncertainty is not None:
        write_volume(result.uncertainty, folder / "uncertainty.nii.gz")
