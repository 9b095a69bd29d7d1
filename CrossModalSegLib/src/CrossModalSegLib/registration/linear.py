"""Rigid and affine fits by steepest descent."""

from __future__ import annotations

import SimpleITK as sitk

from .images import extent, resolutions
from .run import SAMPLES, Run

_ITERATIONS = 120
_KEPT = 0.8  # of what a transform is worth


def linear(
    run: Run,
    transform: sitk.Transform,
    message: str,
    moving_initial: sitk.Transform | None = None,
    part: slice = slice(None),
) -> sitk.Transform:
    """Fit a rigid or affine transform, coarse to fine.

    Args:
        run: of the registration.
        transform: start of the fit.
        message: what is told to be done.
        moving_initial: is applied after the transform, and stays.
        part: of the resolutions, for a fit in two parts.
    """

    def worth(ahead: sitk.Transform) -> float:
        return run.judge.score(compose(moving_initial, ahead) if moving_initial is not None else ahead)

    sizes = resolutions(run.fixed)
    for level, voxel_mm in list(enumerate(sizes))[part]:
        fixed, moving = run.coarse(voxel_mm)
        method = run.method(fixed, SAMPLES[min(level, len(SAMPLES) - 1)], seed_offset=level)
        if moving_initial is not None:
            method.SetMovingInitialTransform(moving_initial)
        _descend(run, method, transform, voxel_mm, _ITERATIONS)
        stage = f"{message}, resolution {level + 1} of {len(sizes)}"
        found = run.execute(method, (fixed, moving), stage, _ITERATIONS)
        # The metric may rise where the overlap gets lost.
        if worth(found) >= _KEPT * worth(transform):
            transform = found
    return transform


def compose(outer: sitk.Transform, inner: sitk.Transform) -> sitk.Transform:
    """First `inner`, then `outer`, as one transform."""
    both = sitk.CompositeTransform(3)
    both.AddTransform(outer)
    both.AddTransform(inner)
    both.FlattenTransform()
    return both


def _descend(
    run: Run, method: sitk.ImageRegistrationMethod, transform: sitk.Transform, voxel_mm: float, iterations: int
) -> None:
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.5 * voxel_mm,
        minStep=5e-3 * voxel_mm,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-7,
    )
    method.SetOptimizerScales(_scales(transform, 0.3 * float(extent(run.fixed).max())))
    method.SetInitialTransform(transform, inPlace=False)


def _scales(transform: sitk.Transform, reach_mm: float) -> list[float]:
    """Weights by which a step of one unit moves points `reach_mm` from the centre by about 1 mm."""
    turning = len(transform.GetParameters()) - 3
    return [reach_mm**2] * turning + [1.0] * 3
