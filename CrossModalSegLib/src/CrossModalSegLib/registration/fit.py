"""Rigid, affine and free-form fits from a start, coarse to fine."""

from __future__ import annotations

import SimpleITK as sitk

from .images import extent
from .kinds import Kind
from .linear import compose, linear
from .run import SAMPLES, Run
from .starts import centred

_BSPLINE_ITERATIONS = 30
_BSPLINE_MESH_MM = 65.0


def fit_on_top(run: Run, given: sitk.Transform, kind: Kind) -> sitk.Transform:
    """A transform that is given stays as it is; what is fitted comes on top of it."""
    if kind == "bspline":
        return _bspline(run, given)
    fitted = linear(run, centred(run, "identity"), "rigid registration", given)
    if kind == "affine":
        fitted = linear(run, _affine_of(fitted), "affine registration", given)
    return compose(given, fitted)


def refined(run: Run, rigid: sitk.Transform, kind: Kind) -> sitk.Transform:
    """A rigid fit, made a fit of another kind."""
    if kind == "rigid":
        return rigid
    if kind == "affine":
        return linear(run, _affine_of(rigid), "affine registration")
    return _bspline(run, rigid)


def linear_part(transform: sitk.Transform) -> sitk.Transform:
    """A fit without its free deformation."""
    return transform if transform.IsLinear() else sitk.CompositeTransform(transform).GetNthTransform(0)


def _affine_of(rigid: sitk.Transform) -> sitk.AffineTransform:
    euler = sitk.Euler3DTransform(rigid)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(euler.GetCenter())
    affine.SetMatrix(euler.GetMatrix())
    affine.SetTranslation(euler.GetTranslation())
    return affine


def _bspline(run: Run, base: sitk.Transform) -> sitk.Transform:
    """A free-form deformation ahead of `base`.

    Its control points lie far apart: nothing else keeps it smooth, and mutual information follows noise otherwise.
    """
    mesh = [int(max(2, round(size / _BSPLINE_MESH_MM))) for size in extent(run.fixed)]
    method = run.method(run.fixed, SAMPLES[-1], seed_offset=7)
    method.SetOptimizerAsLBFGS2(
        solutionAccuracy=1e-5,
        numberOfIterations=_BSPLINE_ITERATIONS,
        deltaConvergenceTolerance=2e-3,
        deltaConvergenceDistance=4,
    )
    method.SetMovingInitialTransform(base)
    method.SetInitialTransform(sitk.BSplineTransformInitializer(run.fixed, mesh, 3), inPlace=False)
    fitted = run.execute(method, (run.fixed, run.moving), "b-spline registration", _BSPLINE_ITERATIONS)
    return compose(base, fitted)
