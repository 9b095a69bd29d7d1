"""Registration of two volumes of one patient with SimpleITK: Mattes mutual information, coarse to fine."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import get_args

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError
from ..placement import shared_share
from ..progress import CancelToken, Progress, SilentProgress
from ..volume import Volume
from .contest import contest, winner
from .doubts import doubt
from .fit import fit_on_top, linear_part, refined
from .images import prepared
from .kinds import Kind, Start
from .linear import linear
from .resampled import resampled
from .run import Run
from .starts import centred, survey

_LOG = logging.getLogger(__name__)

_MIN_OVERLAP = 0.1
_MOST_THREADS = 1024


@dataclass(frozen=True, eq=False)
class Registration:
    """What registration found.

    Attributes:
        transform: Takes LPS points of the fixed image to the moving image, as SimpleITK's resampling wants it.
        resampled: The moving image on the fixed image's grid.
        metric: Mattes mutual information at the end; greater is better.
        metric_before: The same at the start, before any alignment.
        kind: Which transform was fitted.
        start: Which initialisation was taken ("given" for one passed in, "search" for one that was searched).
        iterations: Optimiser steps over all stages and resolutions.
        doubt: A sentence on why the result may be wrong, which was logged as a warning, too.
    """

    transform: sitk.Transform
    resampled: Volume
    metric: float
    metric_before: float
    kind: Kind
    start: str
    iterations: int
    doubt: str | None = None


def register(
    fixed: Volume,
    moving: Volume,
    kind: Kind = "rigid",
    initial: sitk.Transform | Start | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> Registration:
    """Align the moving volume to the fixed one.

    "affine" refines a rigid alignment, "bspline" a rigid one by a free-form deformation on a mesh of about 65 mm. The
    same arguments and SimpleITK give the same transform up to rounding (threads add up in any order).

    Args:
        fixed: Stays where it is.
        moving: Is aligned.
        kind: Which transform.
        initial: A rigid or affine transform from fixed to moving to start from, or the name of a start: "identity",
            "geometry" (middle on middle), "moments" (centre of mass on centre of mass); "auto" or None takes the best
            of these and of a search over all shifts and turns of up to 45 degrees, prefers the files' positions where
            others are hardly better, and wants volumes that overlap in patient space.
        seed: Of the points at which the metric is sampled, not negative.
        threads: For the metric, at least 1; None takes SimpleITK's default.
        progress: Told about each optimiser step.
        cancel: Looked at after each optimiser step.

    Raises:
        GeometryError: The volumes do not overlap.
        InputError: Unknown kind or start, no threads, a constant or too small image, or the optimiser lost the overlap.
        Cancelled: The work was stopped.
    """
    _check_arguments(kind, initial, seed, threads)
    run = Run(prepared(fixed, "fixed"), prepared(moving, "moving"), seed, threads, progress or SilentProgress(), cancel)
    if initial in (None, "auto", "identity"):
        _require_overlap(fixed, moving)
    before = run.metric(sitk.Transform(3, sitk.sitkIdentity) if not isinstance(initial, sitk.Transform) else initial)
    fitted = contest(run, survey(run))
    if isinstance(initial, sitk.Transform):
        start, transform = "given", fit_on_top(run, sitk.Transform(initial), kind)
    elif initial in (None, "auto"):
        best = winner(run, fitted)
        start, transform = best.name, refined(run, best.transform, kind)
    else:
        rigid = linear(run, centred(run, initial), "rigid registration")
        start, transform = initial, refined(run, rigid, kind)
    metric = run.metric(transform)
    _LOG.info("Registered (%s, start %s): mutual information %.4f, before %.4f.", kind, start, metric, before)
    why = doubt(run, fitted, linear_part(transform))
    if why is not None:
        _LOG.warning("%s", why)
    return Registration(
        transform, resampled(moving, fixed, transform), metric, before, kind, start, run.iterations, why
    )


def _check_arguments(kind: str, initial: object, seed: int, threads: int | None) -> None:
    if kind not in get_args(Kind):
        raise InputError(f"The kind of registration must be one of {', '.join(get_args(Kind))}, got {kind!r}.")
    if isinstance(initial, str) and initial not in get_args(Start):
        raise InputError(f"The start must be one of {', '.join(get_args(Start))} or a transform, got {initial!r}.")
    if isinstance(initial, sitk.Transform) and not initial.IsLinear():
        raise InputError(
            f"Registration starts from a rigid or affine transform, got a {initial.GetName()}; pass its linear part."
        )
    if seed < 0:
        raise InputError(f"The seed must not be negative, got {seed}.")
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise InputError(f"The number of threads should be from 1 to {_MOST_THREADS}, got {threads}.")


def _corners(volume: Volume) -> np.ndarray:
    size = np.array(volume.shape[::-1])
    index = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in size], indexing="ij")).reshape(3, -1)
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3:]


def _require_overlap(fixed: Volume, moving: Volume) -> None:
    if shared_share(fixed, moving) >= _MIN_OVERLAP:
        return
    apart = float(np.linalg.norm(_corners(fixed).mean(axis=1) - _corners(moving).mean(axis=1)))
    raise GeometryError(
        f"The fixed and the moving image hardly overlap in patient space (their middles are {apart:.0f} mm apart), so "
        "they come from different frames of reference; start from 'geometry' (middle on middle) or 'moments' (centre "
        "of mass on centre of mass) instead."
    )
