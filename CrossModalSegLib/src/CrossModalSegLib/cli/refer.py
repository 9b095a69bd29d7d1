"""`crossmodalseg refer`: scribbles on one image, organs in all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from CrossModalSegLib.cli.console import progress_bar, say

if TYPE_CHECKING:
    import torch

    from CrossModalSegLib.cli.refer_files import Referred
    from CrossModalSegLib.cohort import LoadedCase
    from CrossModalSegLib.inference.model_card import ModelCard
    from CrossModalSegLib.inference.model_folder import LoadedModel
    from CrossModalSegLib.inference.referring import ReferSession
    from CrossModalSegLib.labels import LabelTable
    from CrossModalSegLib.progress import Progress
    from CrossModalSegLib.volume import Volume

EXAMPLE = (
    "crossmodalseg refer --reference t1.nii.gz --scribbles scribbles.seg.nrrd --target t2.nii.gz --target dwi.nii.gz "
    "--out organs"
)


@dataclass(frozen=True)
class Arguments:
    """Scribble each organ on a few slices of one image, the reference, and get the organs in it and in other images.

    The targets may have any contrast and any grid. Their slices are matched with those of the reference by position in
    the patient, or by order where the images do not overlap in space, which is then said. The output folder appears
    when all is done and holds, for each image, NAME.nii.gz and NAME.seg.nrrd on its own grid (NAME is that of its
    file), overlay.png and report.json. Scribbled voxels of the reference keep the organ that was drawn, and its slices
    with a stroke on an organ show it. Of sheared images (a tilted gantry) .nrrd files are written instead of .nii.gz.

    Attributes:
        reference: image that was scribbled on: NIfTI, NRRD, MHA, or a DICOM series folder.
        scribbles: .seg.nrrd with one segment an organ and maybe one named "Background", or a label map: 1..K are the
            organs, --background and --unlabelled say what the rest means. On the grid of the reference.
        target: image to segment; may be given more than once.
        out: folder to write.
        model: model folder or name, made by `train crossmr`. Where not given, one that ships: "abdomen-mr", or
            "abdomen-organs" where an organ is named that the other was not trained on, or where that one does not see
            organs without names under their strokes.
        labels: names of the organs 1..K of a label map, in this order.
        unlabelled: value in a label map where nothing is drawn.
        background: value in a label map of background scribbles, which are optional.
        slices: how slices are matched: by "position", by "order", or as the images allow ("auto").
        reference_slices: how many scribbled slices serve a slice of a target, of each organ; the nearest ones.
        pieces: which connected pieces of an organ stay: "all", the "large" ones, with a fifth of the voxels of its
            largest or more, or the "largest" one. Pieces under a stroke stay in any case.
        tune: seconds in which a copy of the network learns from the strokes first; 0 does without.
        probabilities: write the probability of each organ.
        resample: bring scribbles that were drawn on another grid onto that of the reference.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        overwrite: replace an existing output folder, all of it.
        quiet: show no progress.
    """

    reference: Path
    scribbles: Path
    target: tyro.conf.UseAppendAction[tuple[Path, ...]]
    out: Path
    model: str | None = None
    labels: tuple[str, ...] = ()
    unlabelled: int = 255
    background: int = 0
    slices: Literal["auto", "position", "order"] = "auto"
    reference_slices: int = 2
    pieces: Literal["all", "large", "largest"] = "large"
    tune: float = 0.0
    probabilities: bool = False
    resample: bool = False
    device: str = "auto"
    overwrite: bool = False
    quiet: bool = False


def run(args: Arguments) -> None:
    """Check, segment, write."""
    from CrossModalSegLib.cli.devices import choose_device
    from CrossModalSegLib.cli.refer_files import lines, write_referred
    from CrossModalSegLib.inference.memory import on_device_or_cpu
    from CrossModalSegLib.inference.referring import choice_told
    from CrossModalSegLib.output import atomic_folder

    _check(args)
    device = choose_device(args.device)
    loaded, table = _load_reference(args)
    names, targets = _load_targets(args)
    _say_if_sheared({names[0]: loaded.grid, **targets})
    model = _model(args, table)
    _say_if_unnamed(args, table, model.card)
    with progress_bar(args.quiet) as progress:
        work = partial(_refer, args, model, loaded, targets, table, progress)
        referred = on_device_or_cpu(work, device)
    inputs = [args.reference, args.scribbles, *args.target]
    with atomic_folder(args.out, overwrite=args.overwrite, inputs=inputs) as folder:
        write_referred(referred, names[0], dict(zip(names, (args.reference, *args.target), strict=True)), folder)
    if args.model is None:
        say(f"note: {choice_told(referred.card.name, table)}")
    for line in lines(referred, names[0]):
        say(line)
    say(f"segmentations: {args.out}")
    say(f"to look at: {args.out / 'overlay.png'}")


def _check(args: Arguments) -> None:
    """All that can be checked before images are read."""
    from CrossModalSegLib.cli.numbers import check_duration
    from CrossModalSegLib.cli.outputs import check_new_folder, model_paths
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.inference.referring import BROAD_MODEL, DEFAULT_MODEL

    check_duration("--tune", args.tune, may_be_zero=True)
    if args.reference_slices < 1:
        raise InputError(f"--reference-slices should be 1 or above, got {args.reference_slices}.")
    if not args.target:
        raise InputError("There is nothing to segment: give at least one --target.")
    models = [args.model] if args.model else [DEFAULT_MODEL, BROAD_MODEL]
    paths = [path for model in models for path in model_paths(model)]
    check_new_folder(args.out, args.overwrite, [args.reference, args.scribbles, *args.target, *paths])


def _load_reference(args: Arguments) -> tuple[LoadedCase, LabelTable]:
    """The reference with its scribbles, and the organs."""
    from CrossModalSegLib.cli.images import load_single
    from CrossModalSegLib.cli.scribble_files import scribble_table
    from CrossModalSegLib.inference.referring import REFERENCE
    from CrossModalSegLib.labels import ScribbleConvention, check_scribbles

    convention = ScribbleConvention(args.unlabelled, args.background)
    table = scribble_table(args.scribbles, args.labels, convention)
    loaded = load_single(
        {REFERENCE: args.reference}, table, scribbles=args.scribbles, convention=convention, resample=args.resample
    )
    check_scribbles(loaded.scribbles.array, table, needs_background=False)
    return loaded, table


def _load_targets(args: Arguments) -> tuple[list[str], dict[str, Volume]]:
    """Names of the results for all images, the reference first, and the targets by name."""
    from CrossModalSegLib.cli.refer_files import result_names
    from CrossModalSegLib.io import read_volume

    names = result_names((args.reference, *args.target))
    return names, {name: read_volume(path) for name, path in zip(names[1:], args.target, strict=True)}


def _say_if_sheared(images: dict[str, Volume]) -> None:
    from CrossModalSegLib.cli.segmentation_files import SHEARED_NOTE
    from CrossModalSegLib.io.image_io import fits_nifti

    for name, image in images.items():
        if not fits_nifti(image):
            say(f"{name}: {SHEARED_NOTE}")


def _say_if_unnamed(args: Arguments, table: LabelTable, card: ModelCard) -> None:
    """How to name the organs of a label map; that value 1 is the model's first organ would be a guess."""
    from CrossModalSegLib.io.segmentation_io import is_slicer_segmentation

    if args.labels or is_slicer_segmentation(args.scribbles):
        return
    example = " ".join(f'"{name}"' if " " in name else name for name in card.labels.names)
    say(
        f"note: the scribbles tell no names, so their organs are called {', '.join(table.names)}. Name them with "
        f"--labels, value 1 first; {card.name} was trained with: {example}."
    )


def _model(args: Arguments, table: LabelTable) -> LoadedModel:
    from CrossModalSegLib.errors import ModelError
    from CrossModalSegLib.inference.model_folder import list_models, load_model
    from CrossModalSegLib.inference.referring import DEFAULT_MODEL, default_model

    if args.model is None and DEFAULT_MODEL not in list_models():
        raise ModelError(
            f"The model '{DEFAULT_MODEL}', which is used where none is named, is not installed. Name one with --model; "
            "`crossmodalseg train crossmr` makes one."
        )
    return load_model(args.model or default_model(table))


@dataclass(frozen=True, eq=False)
class _Opened:
    """A session, and its model."""

    session: ReferSession
    model: LoadedModel


def _open(args: Arguments, model: LoadedModel, loaded: LoadedCase, table: LabelTable, device: torch.device) -> _Opened:
    """The model that was loaded; where none was named, the strokes may tell that another one is better."""
    from CrossModalSegLib.inference.model_folder import load_model
    from CrossModalSegLib.inference.referring import ReferSession, open_default

    def opened(name: str) -> _Opened:
        chosen = model if name == model.card.name else load_model(name)
        return _Opened(ReferSession(chosen, device), chosen)

    if args.model is None:
        return open_default(opened, loaded.grid, loaded.scribbles, table)
    return _Opened(ReferSession(model, device), model)


def _refer(
    args: Arguments,
    model: LoadedModel,
    loaded: LoadedCase,
    targets: dict[str, Volume],
    table: LabelTable,
    progress: Progress,
    device: torch.device,
) -> Referred:
    from CrossModalSegLib.cli.refer_files import Referred

    began = time.perf_counter()
    opened = _open(args, model, loaded, table, device)
    opened.session.set_images(loaded.grid, targets, args.slices, progress)
    looked = time.perf_counter() - began
    result = opened.session.refer(
        loaded.scribbles,
        table,
        probabilities=args.probabilities,
        slices=args.slices,
        reference_slices=args.reference_slices,
        pieces=args.pieces,
        tune_seconds=args.tune,
        progress=progress,
    )
    return Referred(result, loaded, targets, table, opened.model.card, str(device), looked)
