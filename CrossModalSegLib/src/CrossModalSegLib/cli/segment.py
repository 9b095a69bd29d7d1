"""`crossmodalseg segment`: a trained model on images without scribbles."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from CrossModalSegLib.cli.console import complain, progress_bar, say

if TYPE_CHECKING:
    import torch

    from CrossModalSegLib.cohort import Case, Cohort, LoadedCase
    from CrossModalSegLib.inference.model_folder import LoadedModel
    from CrossModalSegLib.inference.segment import SegmentationResult
    from CrossModalSegLib.progress import Progress

# What --overwrite replaces.
OF_A_COHORT = "the files of its cases"
EXAMPLE = "crossmodalseg segment --model models/liver --ct ct.nii.gz --mr mr.nii.gz --out liver"


@dataclass(frozen=True)
class Arguments:
    """Segment one case, or all cases of a cohort, with a trained model; no scribbles are needed.

    Of one case, the output folder holds segmentation.nii.gz and segmentation.seg.nrrd, and appears when all of it is
    done. Of a cohort, it holds one .seg.nrrd file a case, named as the case, which appears when the case is done: a
    case that fails is reported, the others go on, and the exit code is then 1. Everything is on the grid of the first
    image. Of sheared images (a tilted gantry) .nrrd files are written instead of .nii.gz.

    Attributes:
        model: model folder, or name of an installed model.
        out: folder to write.
        ct: CT image: NIfTI, NRRD, MHA, or a DICOM series folder.
        mr: MR image on the same grid.
        image: the image, for models of a single modality of any name.
        cohort: cohort file (.json, .csv) instead of images; its scribbles and masks are not read.
        branch: of CmFNet, "ct" and "mr" answer by one modality-specific branch, as the paper's Table V compares them,
            instead of by the fused one.
        resample: bring the other images onto the grid of the first one.
        probabilities: write the probability of each class.
        uncertainty: write the uncertainty, 0 (sure) to 1.
        window: size (slices, rows, columns) of the sliding window; chosen by the free memory where not given.
        overlap: share of a window that its neighbour repeats.
        precision: "bf16" computes with bfloat16 where the device does so natively.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        overwrite: replace an existing output folder, all of it; of a cohort, the files of its cases, one after another,
            and nothing else in the folder.
        quiet: show no progress.
    """

    model: str
    out: Path
    ct: Path | None = None
    mr: Path | None = None
    image: Path | None = None
    cohort: Path | None = None
    branch: Literal["fused", "ct", "mr"] = "fused"
    resample: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    window: tuple[int, int, int] | None = None
    overlap: float = 0.25
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> int:
    """Segment and write; 1 where cases of a cohort failed."""
    from CrossModalSegLib.cli.outputs import check_new_folder, model_paths
    from CrossModalSegLib.errors import InputError

    inputs = [args.ct, args.mr, args.image, args.cohort, *model_paths(args.model)]
    check_new_folder(args.out, args.overwrite, inputs, "all of it" if args.cohort is None else OF_A_COHORT)
    if args.cohort is not None and any(path is not None for path in (args.ct, args.mr, args.image)):
        raise InputError("Give either a --cohort or images, not both.")
    if args.cohort is not None:
        return _segment_cohort(args)
    _segment_one(args)
    say(f"segmentation: {args.out}")
    return 0


def _segment_one(args: Arguments) -> None:
    from CrossModalSegLib.cli.images import load_single, named_images
    from CrossModalSegLib.cli.segmentation_files import write_on_grid
    from CrossModalSegLib.io import write_segmentation
    from CrossModalSegLib.output import atomic_folder

    images = named_images(args.ct, args.mr, args.image)
    model = _model(args)
    modalities = model.card.modalities
    _check_can_be_named(model)
    if args.image is not None and len(modalities) == 1:
        images = {modalities[0]: args.image}
    images = {name: images[name] for name in sorted(images, key=lambda name: _position(name, modalities))}
    loaded = load_single(images, model.card.labels, resample=args.resample)
    _say_if_sheared(loaded)
    with (
        atomic_folder(args.out, overwrite=args.overwrite, inputs=images.values()) as folder,
        progress_bar(args.quiet) as progress,
    ):
        result = _result(model, loaded, args, progress)
        write_on_grid(result.labels, folder, "segmentation")
        write_segmentation(result.labels, model.card.labels, folder / "segmentation.seg.nrrd")
        _write_extras(result, loaded, model, folder)


def _check_can_be_named(model: LoadedModel) -> None:
    """InputError where no options name the images of a model."""
    from CrossModalSegLib.errors import InputError

    modalities = model.card.modalities
    if len(modalities) > 1 and not set(modalities) <= {"ct", "mr"}:
        raise InputError(
            f"The model {model.card.name} needs the images {', '.join(modalities)}, for which there are no options: "
            "list them in a cohort file, and give it as --cohort."
        )


def _segment_cohort(args: Arguments) -> int:
    from CrossModalSegLib.cli.cohorts import cohort_files, read_any_cohort
    from CrossModalSegLib.cli.failures import USAGE, failure_of
    from CrossModalSegLib.cli.outputs import check_new_folder
    from CrossModalSegLib.cohort import check_result_names
    from CrossModalSegLib.errors import OutputError

    cohort = read_any_cohort(args.cohort)
    check_result_names(case.name for case in cohort.cases)
    check_new_folder(args.out, args.overwrite, cohort_files(args.cohort, cohort), OF_A_COHORT)
    model = _model(args)
    _check_modalities(model, cohort)
    failed: list[str] = []
    with progress_bar(args.quiet) as progress:
        for done, case in enumerate(cohort.cases):
            progress(done, len(cohort.cases), "cases")
            try:
                _segment_case(case, cohort, model, args)
            except OutputError:  # the other cases could not be written either
                raise
            except Exception as error:
                failure = failure_of(error)
                if failure is None or failure.code != USAGE:
                    raise
                failed.append(case.name)
                complain(f"The case '{case.name}' is left out: {failure.sentence}")
        progress(len(cohort.cases), len(cohort.cases), "cases")
    if len(failed) < len(cohort.cases):
        say(f"segmentations: {args.out}")
    if failed:
        say(f"{len(cohort.cases) - len(failed)} of {len(cohort.cases)} cases are segmented; not {', '.join(failed)}.")
    return 1 if failed else 0


def _check_modalities(model: LoadedModel, cohort: Cohort) -> None:
    """Every case has the cohort's modalities; ModelError where the model needs others."""
    from CrossModalSegLib.errors import ModelError

    missing = [name for name in model.card.modalities if name not in cohort.modalities]
    if missing:
        raise ModelError(
            f"The model {model.card.name} needs the images {', '.join(model.card.modalities)}; the cases of the cohort "
            f"have {', '.join(cohort.modalities)}. Add {', '.join(missing)} or choose another model."
        )


def _segment_case(case: Case, cohort: Cohort, model: LoadedModel, args: Arguments) -> None:
    """Segment one case of a cohort; its .seg.nrrd file comes last, so where it stands the case is complete."""
    from CrossModalSegLib.cohort import load_case
    from CrossModalSegLib.io import write_segmentation
    from CrossModalSegLib.output import atomic_folder

    loaded = load_case(replace(case, scribbles=None, mask=None), cohort, args.resample)
    result = _result(model, loaded, args, None)
    extras = args.out / f"{case.name}_extras"
    if args.probabilities or args.uncertainty:
        _say_if_sheared(loaded)
        with atomic_folder(extras, overwrite=args.overwrite) as folder:
            _write_extras(result, loaded, model, folder)
    elif args.overwrite:
        shutil.rmtree(extras, ignore_errors=True)  # of an earlier segmentation
    write_segmentation(result.labels, model.card.labels, args.out / f"{case.name}.seg.nrrd")


def _say_if_sheared(loaded: LoadedCase) -> None:
    from CrossModalSegLib.cli.segmentation_files import SHEARED_NOTE
    from CrossModalSegLib.io.image_io import fits_nifti

    if not fits_nifti(loaded.grid):
        say(f"{loaded.name}: {SHEARED_NOTE}")


def _position(name: str, modalities: tuple[str, ...]) -> int:
    return modalities.index(name) if name in modalities else len(modalities)


def _model(args: Arguments) -> LoadedModel:
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.inference.model_card import check_segments
    from CrossModalSegLib.inference.model_folder import load_model
    from CrossModalSegLib.inference.segment import by_branch

    choose_device(args.device)  # one that is not there is told before anything is done
    model = load_model(args.model)
    check_segments(model.card)
    return model if args.branch == "fused" else by_branch(model, args.branch)


def _result(model: LoadedModel, loaded: LoadedCase, args: Arguments, progress: Progress | None) -> SegmentationResult:
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.inference.memory import on_device_or_cpu
    from CrossModalSegLib.inference.segment import segment_case

    def run(device: torch.device) -> SegmentationResult:
        model.network.to(device)
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

    return on_device_or_cpu(run, choose_device(args.device))


def _write_extras(result: SegmentationResult, loaded: LoadedCase, model: LoadedModel, folder: Path) -> None:
    from CrossModalSegLib.cli.segmentation_files import write_on_grid, write_probabilities

    if result.probabilities is not None:
        write_probabilities(result.probabilities, loaded.grid, model.card.labels, folder)
    if result.uncertainty is not None:
        write_on_grid(result.uncertainty, folder, "uncertainty")
