"""Images from the command line: which modalities were given, as a cohort of one case."""

from __future__ import annotations

from pathlib import Path

from CrossModalSegLib.cohort import Case, Cohort, LoadedCase, load_case
from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.labels import LabelTable, ScribbleConvention

CASE_NAME = "case"


def named_images(ct: Path | None, mr: Path | None, image: Path | None) -> dict[str, Path]:
    """Paths by modality, CT first.

    Raises:
        InputError: no image was given, or --image together with --ct or --mr, or a path does not exist.
    """
    if image is not None and (ct is not None or mr is not None):
        raise InputError("--image is for a single image of any kind; give either --image, or --ct and --mr.")
    named = {"ct": ct, "mr": mr, "image": image}
    given = {name: path for name, path in named.items() if path is not None}
    if not given:
        raise InputError("An image is needed: give --ct, --mr or both, or --image for another kind.")
    for name, path in given.items():
        if not path.exists():
            raise InputError(f"There is no {name.upper() if name != 'image' else name} '{path}'. Check the path.")
    return given


def load_single(
    images: dict[str, Path],
    table: LabelTable,
    *,
    scribbles: Path | None = None,
    convention: ScribbleConvention = ScribbleConvention.INTERNAL,
    resample: bool = False,
) -> LoadedCase:
    """Read one case that no cohort file lists.

    Args:
        images: paths by modality; the first one's grid is the case's.
        table: the classes of the scribbles.
        scribbles: scribble file, or None.
        convention: what the values of a plain scribble file mean.
        resample: bring everything onto the first image's grid instead of refusing other grids.

    Raises:
        CrossModalSegError: a file is not usable, or grids differ; each by name.
    """
    case = Case(CASE_NAME, images, scribbles=scribbles)
    cohort = Cohort(tuple(images), table, convention, (case,), Path.cwd())
    try:
        return load_case(case, cohort, resample)
    except CrossModalSegError as error:
        # The name of the case, which the message begins with, means nothing to someone who gave files.
        raise error.__cause__ if isinstance(error.__cause__, CrossModalSegError) else error from None
