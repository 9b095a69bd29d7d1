"""Rigid or affine registration, as a matrix for a transform node."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from CrossModalSegLib.registration import register
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import RegisterRequest, RegisterResult


def run(request: RegisterRequest, context: Context) -> RegisterResult:
    """Register.

    Raises:
        CrossModalSegError: the images cannot be registered.
        Cancelled: on request.
    """
    context.progress(0, 0, "preparing")
    found = register(
        request.fixed,
        request.moving,
        request.transform,
        initial=request.start,
        seed=request.seed,
        progress=context.progress,
        cancel=context.cancel,
    )
    return RegisterResult(
        matrix=tuple(tuple(row) for row in np.linalg.inv(_matrix(found.transform)).tolist()),
        metric=_finite(found.metric),
        metric_before=_finite(found.metric_before),
        start=found.start,
        iterations=found.iterations,
    )


def _matrix(transform: sitk.Transform) -> np.ndarray:
    """(4, 4) of a linear transform."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis, unit in enumerate(np.eye(3).tolist()):
        matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
    return matrix


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
