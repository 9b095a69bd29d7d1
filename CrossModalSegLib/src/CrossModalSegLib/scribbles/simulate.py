"""Simulated scribbles of a whole mask: which slices, which method, which background."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from ..errors import InputError
from ..labels import BACKGROUND, UNLABELLED
from .background import erosion_background, method_background
from .contour import contour_scribbles
from .freeform import freeform_scribbles
from .random_walk import random_walk_scribbles
from .skeleton import skeleton_scribbles
from .word import word_scribbles

SCRIBBLE_METHODS: dict[str, Callable[..., np.ndarray]] = {
    "contour": contour_scribbles,
    "word": word_scribbles,
    "skeleton": skeleton_scribbles,
    "random_walk": random_walk_scribbles,
    "freeform": freeform_scribbles,
}
BACKGROUNDS = ("method", "erosion", "none")

# A tenth of all background would be far more than anyone paints.
_BACKGROUND_OPTIONS: dict[str, dict[str, float]] = {"random_walk": {"fraction": 0.01}}


def scribbled_slices(mask: np.ndarray, every: int, offset: int | None = None) -> np.ndarray:
    """Choose the axial slices to scribble: every `every`-th, and one more for each class that these would miss.

    Args:
        mask: uint8 (k, j, i), 0 = background, 1..254 = classes, 255 = ignored.
        every: distance between scribbled slices, in slices.
        offset: first slice; None takes the offset at which the fewest classes are missed (of equal ones, the nearest to
            every // 2). A class that is still missed gets the slice where it is largest as an extra one.

    Returns:
        Sorted indices k (int).

    Raises:
        InputError: every < 1, or offset outside of [0, every).
    """
    if every < 1:
        raise InputError(f"Scribbles are drawn on every n-th slice with n >= 1, got {every}.")
    if offset is not None and not 0 <= offset < every:
        raise InputError(f"With every {every} slices the first one must lie in 0..{every - 1}, got {offset}.")
    areas = np.stack([np.bincount(labels.ravel(), minlength=256)[1:UNLABELLED] for labels in mask])
    areas = areas[:, areas.any(axis=0)]
    candidates = [offset] if offset is not None else sorted(range(every), key=lambda first: abs(first - every // 2))
    best = min(candidates, key=lambda first: int((~areas[first::every].any(axis=0)).sum()))
    chosen = set(range(best, len(mask), every))
    for column in areas.T:
        if not column[sorted(chosen)].any():
            chosen.add(int(np.argmax(column)))
    return np.array(sorted(chosen), dtype=np.intp)


def simulate_scribbles(
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    method: str = "contour",
    seed: int = 0,
    every: int = 1,
    offset: int | None = None,
    thickness: int | None = None,
    background: Literal["method", "erosion", "none"] = "method",
    body: np.ndarray | None = None,
) -> np.ndarray:
    """Scribbles as a person would paint them on some axial slices of a segmented volume.

    Each class that a scribbled slice holds is scribbled there, inside of its mask; so is the background.

    Args:
        mask: uint8 (k, j, i), 0 = background, 1..254 = classes, 255 = ignored.
        spacing: (k, j, i) in mm.
        method: a key of SCRIBBLE_METHODS.
        seed: the same seed gives the same scribbles.
        every: distance between scribbled slices; see `scribbled_slices`, which adds slices for small organs.
        offset: first scribbled slice; None chooses it.
        thickness: width of the curves in pixels; None is the method's own.
        background: "method" draws near the organs and elsewhere in the body with the same method; "erosion" is the
            paper's automatic background (about 0.06 % of a slice); "none" draws no background.
        body: boolean (k, j, i) where background may be scribbled; None is the whole grid.

    Returns:
        uint8 (k, j, i): 0 = background scribble, 1..254 = classes, 255 = unlabelled.

    Raises:
        InputError: unknown method or background, or arrays that do not fit.
    """
    _require_inputs(mask, spacing, method, background, thickness, body)
    slices = scribbled_slices(mask, every, offset)
    rng, background_rng = np.random.default_rng(seed).spawn(2)
    options = {} if thickness is None else {"thickness": thickness}
    draw = SCRIBBLE_METHODS[method]

    chosen = np.zeros_like(mask)
    chosen[slices] = mask[slices]
    scribbles = draw(chosen, spacing, rng, **options)
    if background == "none":
        return scribbles
    if background == "erosion":
        lines = erosion_background(mask, spacing, background_rng, slices=slices, body=body)
    else:
        options = {**options, **_BACKGROUND_OPTIONS.get(method, {})}
        like_class = partial(draw, spacing=spacing, rng=background_rng, **options)
        lines = method_background(mask, spacing, like_class, slices=slices, body=body)
    scribbles[lines == BACKGROUND] = BACKGROUND
    return scribbles


def coverage(scribbles: np.ndarray) -> dict[int, float]:
    """Share of all voxels that each value of internal scribbles covers: {0: background, 1: first class, …}.

    Args:
        scribbles: uint8 (k, j, i), 255 = unlabelled.

    Returns:
        Value -> fraction in (0, 1], without the unlabelled value; values that do not occur are left out.
    """
    counts = np.bincount(np.asarray(scribbles, dtype=np.uint8).ravel(), minlength=256)
    return {value: float(counts[value] / scribbles.size) for value in np.flatnonzero(counts[:UNLABELLED]).tolist()}


def _require_inputs(
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    method: str,
    background: str,
    thickness: int | None,
    body: np.ndarray | None,
) -> None:
    if mask.ndim != 3 or mask.dtype != np.uint8:
        raise InputError(f"Scribbles are drawn from a 3D uint8 mask, got {mask.ndim}D {mask.dtype}. Convert it first.")
    if len(spacing) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"The spacing must be three positive lengths (k, j, i) in mm, got {spacing}.")
    if method not in SCRIBBLE_METHODS:
        raise InputError(f"There is no scribble method {method!r}. Choose one of {', '.join(SCRIBBLE_METHODS)}.")
    if background not in BACKGROUNDS:
        raise InputError(f"There is no background method {background!r}. Choose one of {', '.join(BACKGROUNDS)}.")
    if thickness is not None and thickness < 1:
        raise InputError(f"Scribbles are at least 1 pixel thick, got {thickness}.")
    if body is not None and body.shape != mask.shape:
        raise InputError(f"The body mask must have the shape of the mask {mask.shape}, got {body.shape}.")
