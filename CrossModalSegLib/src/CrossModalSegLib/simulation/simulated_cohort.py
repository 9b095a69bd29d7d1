"""A folder of simulated patients with scribbles."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..cohort import Case, Cohort, write_cohort
from ..errors import InputError
from ..io import write_volume
from ..labels import BACKGROUND, UNLABELLED, LabelTable, ScribbleConvention
from ..output import atomic_folder
from ..progress import CancelToken, Progress, SilentProgress
from .case import SimulatedCase, simulate_case
from .options import AnatomyName, SimulationOptions


def case_seeds(seed: int, cases: int) -> list[int]:
    """The seed of each case of a cohort; the first ones stay the same when more cases are asked for.

    Raises:
        InputError: Negative seed, or less than one case.
    """
    if seed < 0:
        raise InputError(f"The seed must not be negative, got {seed}.")
    if cases < 1:
        raise InputError(f"A cohort needs at least one case, got {cases}.")
    return [int(np.random.SeedSequence((seed, index)).generate_state(1)[0]) for index in range(cases)]


def case_scribbles(case: SimulatedCase, method: str, seed: int, every: int = 1) -> np.ndarray:
    """Scribbles of a simulated case, uint8 (k, j, i) in the internal convention, inside the body."""
    from ..scribbles import body_mask, simulate_scribbles

    return simulate_scribbles(
        case.mask.array, case.mask.spacing, method, seed, every=every, body=body_mask(case.ct.array)
    )


def simulate_cohort(
    folder: str | Path,
    cases: int,
    anatomy: AnatomyName = "head",
    seed: int = 0,
    options: SimulationOptions | None = None,
    scribble_method: str = "contour",
    every: int = 1,
    folds: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Write a cohort of simulated patients; the folder appears complete or not at all.

    It holds cohort.json and one folder a case with ct, mr, mask and scribbles (.nii.gz).

    Args:
        folder: Where to write.
        cases: How many patients.
        anatomy: "head" or "abdomen".
        seed: Decides everything.
        options: Of every case; None takes the defaults.
        scribble_method: A method of `scribbles.simulate_scribbles`.
        every: Scribbles on every `every`-th slice.
        folds: Deals the cases out to that many folds; None leaves folds open.
        overwrite: Replace a folder that is not empty.
        progress: Told after each case.
        cancel: Looked at before each case.

    Returns:
        Path of cohort.json.

    Raises:
        InputError: An option is out of range.
        OutputError: The folder cannot be written, or is not empty.
        Cancelled: The work was stopped; nothing is left of it.
    """
    if folds is not None and folds < 1:
        raise InputError(f"The number of folds must be at least 1, got {folds}.")
    seeds = case_seeds(seed, cases)
    folder = Path(folder)
    progress = progress or SilentProgress()
    digits = max(2, len(str(cases)))
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        entries = []
        for index, case_seed in enumerate(seeds):
            if cancel is not None:
                cancel.raise_if_cancelled()
            name = f"{anatomy}{index + 1:0{digits}d}"
            case = simulate_case(anatomy, case_seed, options)
            scribbles = case_scribbles(case, scribble_method, case_seed, every)
            fold = None if folds is None else index % folds
            entries.append(_write_case(temporary / name, name, case, scribbles, fold))
            progress(index + 1, cases, f"simulated {name}", {})
        write_cohort(_cohort(temporary, case.labels, entries), temporary / "cohort.json")
    return folder / "cohort.json"


def _write_case(folder: Path, name: str, case: SimulatedCase, scribbles: np.ndarray, fold: int | None) -> Case:
    folder.mkdir()
    volumes = {"ct": case.ct, "mr": case.mr, "mask": case.mask, "scribbles": case.mask.with_array(scribbles)}
    paths = {kind: folder / f"{kind}.nii.gz" for kind in volumes}
    for kind, volume in volumes.items():
        write_volume(volume, paths[kind])
    images = {kind: paths[kind] for kind in ("ct", "mr")}
    return Case(name, images, paths["scribbles"], paths["mask"], fold)


def _cohort(folder: Path, labels: LabelTable, cases: list[Case]) -> Cohort:
    return Cohort(("ct", "mr"), labels, ScribbleConvention(UNLABELLED, BACKGROUND), tuple(cases), folder)
