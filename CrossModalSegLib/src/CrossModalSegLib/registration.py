"""Registration of two volumes of one patient with SimpleITK: Mattes mutual information, coarse to fine."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import GeometryError, InputError
from .output import atomic_path
from .placement import State, inside, lattice, placement, shared_share
from .progress import CancelToken, Progress, SilentProgress
from .volume import Volume, resample_like, resample_orthogonal, volume_from_itk, volume_to_itk

_LOG = logging.getLogger(__name__)

Kind = Literal["rigid", "affine", "bspline"]
Start = Literal["auto", "identity", "geometry", "moments"]

_BINS = 40
_COARSEST_VOXELS = 14
_SAMPLES = (20_000, 30_000, 40_000)  # points of the metric, coarse to fine
_LINEAR_ITERATIONS = 120
_BSPLINE_ITERATIONS = 30
_BSPLINE_MESH_MM = 65.0
_MIN_OVERLAP = 0.1
_FEWEST_VOXELS = 4
_LEAST_FILLED = 0.005
_LEAST_AIR = 0.03
_ALIGNMENT_BINS = 32
_TRANSFORM_SUFFIXES = (".tfm", ".txt", ".h5", ".hdf5")
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
        start: Which initialisation was taken ("given" for one passed in).
        iterations: Optimiser steps over all stages and resolutions.
    """

    transform: sitk.Transform
    resampled: Volume
    metric: float
    metric_before: float
    kind: Kind
    start: str
    iterations: int


@dataclass(frozen=True)
class Alignment:
    """How well two volumes lie on each other.

    Attributes:
        state: "same grid" (equal geometry), "same patient space" (they overlap), or "apart".
        overlap: Share of the smaller volume's box that lies inside the other one, 0..1.
        score: Normalised mutual information (H(a) + H(b)) / H(a, b) of sampled points, 1 (unrelated) to 2; NaN where
            the volumes are apart or one of them is constant.
    """

    state: State
    overlap: float
    score: float


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
            "geometry" (middle on middle), "moments" (centre of mass on centre of mass); "auto" or None takes the one
            of these with the best mutual information and wants volumes that overlap in patient space.
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
    run = _Run(
        _prepared(fixed, "fixed"), _prepared(moving, "moving"), seed, threads, progress or SilentProgress(), cancel
    )
    if initial in (None, "auto", "identity"):
        _require_overlap(fixed, moving)
    start, transform = _start(run, initial)
    before = run.metric(sitk.Transform(3, sitk.sitkIdentity) if not isinstance(initial, sitk.Transform) else initial)
    transform = _fit(run, transform, kind, given=start == "given")
    resampled = _resampled(moving, fixed, transform)
    metric = run.metric(transform)
    _LOG.info("Registered (%s, start %s): mutual information %.4f, before %.4f.", kind, start, metric, before)
    return Registration(transform, resampled, metric, before, kind, start, run.iterations)


def check_transform_suffix(path: Path) -> None:
    """InputError unless a transform can be written to a file of this name."""
    if path.suffix.lower() not in _TRANSFORM_SUFFIXES:
        raise InputError(f"A transform is written to {', '.join(_TRANSFORM_SUFFIXES)}, got '{path.name}'; rename it.")


def write_transform(transform: sitk.Transform, path: str | Path) -> None:
    """Write a transform (.tfm, .txt, .h5, .hdf5) in ITK's form, which 3D Slicer reads, complete or not at all.

    Raises:
        InputError: The file's ending is none of these.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    check_transform_suffix(path)
    with atomic_path(path) as temporary:
        sitk.WriteTransform(transform, str(temporary))


def alignment(a: Volume, b: Volume) -> Alignment:
    """Judge how two volumes lie on each other in patient space, from points sampled on a regular lattice of `a`."""
    place = placement(a, b)
    if place.state == "apart":
        return Alignment(place.state, place.overlap, float("nan"))
    points = lattice(a)
    points = points[:, inside(points, b)]
    return Alignment(place.state, place.overlap, _normalised_information(_sample(a, points), _sample(b, points)))


class _Run:
    """The images, settings and counters that all stages of one registration share."""

    def __init__(
        self,
        fixed: _Side,
        moving: _Side,
        seed: int,
        threads: int | None,
        progress: Progress,
        cancel: CancelToken | None,
    ) -> None:
        self.fixed, self.moving = fixed.image, moving.image
        self.fixed_mask, self.moving_mask = fixed.mask, moving.mask
        self.seed, self.threads = seed, threads
        self.progress, self.cancel = progress, cancel
        self.iterations = 0

    def method(self, fixed: sitk.Image, samples: int, seed_offset: int = 0) -> sitk.ImageRegistrationMethod:
        """A registration method with the metric at about `samples` points of an image, and no optimiser yet."""
        method = sitk.ImageRegistrationMethod()
        if self.threads is not None:
            method.SetNumberOfThreads(self.threads)
        method.SetMetricAsMattesMutualInformation(_BINS)
        share = min(1.0, samples / fixed.GetNumberOfPixels())
        method.SetMetricSamplingStrategy(method.RANDOM)
        # ITK takes 0 to mean "seed from the clock".
        method.SetMetricSamplingPercentage(share, self.seed + seed_offset + 1)
        method.SetInterpolator(sitk.sitkLinear)
        if self.fixed_mask is not None:
            method.SetMetricFixedMask(self.fixed_mask)
        if self.moving_mask is not None:
            method.SetMetricMovingMask(self.moving_mask)
        return method

    def metric(self, transform: sitk.Transform) -> float:
        """Mutual information under a transform; minus infinity where the images miss each other."""
        method = self.method(self.fixed, _SAMPLES[0])
        method.SetInitialTransform(sitk.Transform(transform))
        try:
            return -float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError as error:
            _LOG.debug("The metric could not be evaluated: %s", error)
            return float("-inf")

    def execute(
        self, method: sitk.ImageRegistrationMethod, images: tuple[sitk.Image, sitk.Image], message: str, steps: int
    ) -> sitk.Transform:
        """Optimise on a fixed and a moving image, with progress and cancelling."""

        best: tuple[float, tuple[float, ...]] = (np.inf, ())
        position: tuple[float, ...] = ()

        def step() -> None:
            nonlocal best, position
            self.iterations += 1
            # ITK reports the metric of the place that the step has just left.
            if position and method.GetMetricValue() < best[0]:
                best = (method.GetMetricValue(), position)
            position = method.GetOptimizerPosition()
            done = min(method.GetOptimizerIteration() + 1, steps)
            self.progress(done, steps, message, {"metric": -method.GetMetricValue()})
            if self.cancel is not None and self.cancel.cancelled:
                method.StopRegistration()

        failure: list[BaseException] = []

        def guarded_step() -> None:
            # An exception must not cross ITK's C++ code, where it would lose its type.
            try:
                step()
            except BaseException as error:  # noqa: BLE001  any error is raised again once ITK has returned
                failure.append(error)
                method.StopRegistration()

        method.AddCommand(sitk.sitkIterationEvent, guarded_step)
        try:
            with _signals_after(method.StopRegistration):
                transform = method.Execute(*images)
        except RuntimeError as error:
            raise InputError(_failure_message(str(error))) from error
        if failure:
            raise failure[0]
        if self.cancel is not None:
            self.cancel.raise_if_cancelled()
        transform = _single(transform)
        # Where images end inside tissue the steps may run away from the best place that they passed.
        if best[0] < method.GetMetricValue() and len(best[1]) == len(transform.GetParameters()):
            transform.SetParameters(best[1])
        return transform


@contextmanager
def _signals_after(stop: Callable[[], object]) -> Iterator[None]:
    """Ask a block to stop where a signal such as Ctrl-C comes, and handle the signal after the block.

    What a handler raises on the way into a callback would be printed by ITK's C++ code, and be lost.
    """
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received:
            handlers[number](number, None)


def _failure_message(text: str) -> str:
    if "outside" in text or "overlap" in text:
        return (
            "Registration lost the overlap of the two images; check that they show the same body part, or start from "
            "another initialisation ('geometry', 'moments' or a transform)."
        )
    if "Zero-valued spacing" in text:
        return (
            "Registration compares grey values, but where the two images overlap at least one of them holds a single "
            "one; check that they show the same body part."
        )
    return f"SimpleITK could not register the images ({text.strip().splitlines()[-1]}); check that they are sound."


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


def _resampled(moving: Volume, fixed: Volume, transform: sitk.Transform) -> Volume:
    upright = resample_orthogonal(fixed)
    image = volume_to_itk(resample_orthogonal(moving))
    fill = float(np.min(moving.array))
    kind = moving.array.dtype
    between = sitk.sitkFloat64 if kind.kind != "f" or kind.itemsize > 4 else sitk.sitkFloat32
    result = volume_from_itk(sitk.Resample(image, volume_to_itk(upright), transform, sitk.sitkLinear, fill, between))
    if upright is not fixed:
        result = resample_like(result, fixed)
    # ITK would cut the fraction off, which makes an image of whole numbers darker by a half.
    return result if kind.kind == "f" else result.with_array(np.rint(result.array).astype(kind))


@dataclass(frozen=True, eq=False)
class _Side:
    """One image made ready, and a mask of where it was measured."""

    image: sitk.Image
    mask: sitk.Image | None


def _prepared(volume: Volume, name: str) -> _Side:
    if min(volume.shape) < _FEWEST_VOXELS:
        raise InputError(
            f"Registration needs at least {_FEWEST_VOXELS} voxels along each axis; the {name} image has {volume.shape}."
        )
    array = np.asarray(volume.array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"The {name} image has values that are not finite numbers; replace them before registration.")
    if array.min() == array.max():
        raise InputError(f"The {name} image has the same value everywhere; there is nothing to register.")
    measured = _measured(array)
    # Few very bright or dark voxels (metal) would take most of the histogram's bins.
    # In the array's own type: both images of a registration have to be of one.
    low, high = np.percentile(array if measured is None else array[measured], (0.5, 99.5)).astype(array.dtype)
    if low < high:
        array = np.clip(array, low, high)
    # Centres of mass need values that are not negative.
    image = volume_to_itk(resample_orthogonal(volume.with_array(array - array.min())))
    if measured is None:
        return _Side(image, None)
    return _Side(image, volume_to_itk(resample_orthogonal(volume.with_array(measured.astype(np.uint8)), "nearest")))


def _measured(array: np.ndarray) -> np.ndarray | None:
    """Where an image was measured rather than filled up (as resampling does); None where all of it may be.

    Filled regions hold the exact minimum while measured air is noisy. Without them the step from tissue to the fill
    value would pull at the alignment.
    """
    filled = ndimage.binary_opening(array == array.min(), np.ones((3, 3, 3), dtype=bool))
    air = (array < np.quantile(array[~filled], 0.02) + 0.03 * np.ptp(array)) & ~filled
    if filled.mean() < _LEAST_FILLED or air.mean() < _LEAST_AIR:
        return None
    # Gradients at the region's rim would still reach into it.
    return ~ndimage.binary_dilation(filled, np.ones((3, 3, 3), dtype=bool))


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


def _sample(volume: Volume, points: np.ndarray) -> np.ndarray:
    index = np.linalg.solve(volume.affine[:3, :3], points - volume.affine[:3, 3:])[::-1]
    return ndimage.map_coordinates(volume.array.astype(np.float32), index, order=1, mode="nearest")


def _normalised_information(a: np.ndarray, b: np.ndarray) -> float:
    """(H(a) + H(b)) / H(a, b), Studholme et al. 1999, from histograms between the 0.5 and 99.5 percentiles."""
    binned = []
    for values in (a, b):
        low, high = np.percentile(values, (0.5, 99.5))
        if not high > low:
            return float("nan")
        scaled = (np.clip(values, low, high) - low) * (_ALIGNMENT_BINS / (high - low))
        binned.append(np.minimum(scaled.astype(np.intp), _ALIGNMENT_BINS - 1))
    joint = np.bincount(binned[0] * _ALIGNMENT_BINS + binned[1], minlength=_ALIGNMENT_BINS**2)
    joint = joint.reshape(_ALIGNMENT_BINS, _ALIGNMENT_BINS) / len(a)

    def entropy(p: np.ndarray) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    both = entropy(joint)
    return (entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))) / both if both > 0 else float("nan")


def _centred(run: _Run, start: str) -> sitk.Euler3DTransform:
    if start == "identity":
        size = run.fixed.GetSize()
        transform = sitk.Euler3DTransform()
        transform.SetCenter(run.fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size]))
        return transform
    mode = getattr(sitk.CenteredTransformInitializerFilter, start.upper())
    return sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(run.fixed, run.moving, sitk.Euler3DTransform(), mode)
    )


def _start(run: _Run, initial: sitk.Transform | str | None) -> tuple[str, sitk.Transform]:
    if isinstance(initial, sitk.Transform):
        return "given", sitk.Transform(initial)
    if initial not in (None, "auto"):
        return initial, _centred(run, initial)
    candidates = {name: _centred(run, name) for name in ("identity", "geometry", "moments")}
    shares = {name: _share_inside(run, transform) for name, transform in candidates.items()}
    # Mutual information of a small overlap can be high by chance.
    usable = [name for name in candidates if shares[name] >= 0.6 * max(shares.values())]
    best = max(usable, key=lambda name: run.metric(candidates[name]))
    return best, candidates[best]


def _share_inside(run: _Run, transform: sitk.Transform) -> float:
    """Share of a lattice over the fixed image that a transform takes into the moving image."""
    lines = [np.linspace(0, n - 1, 6) for n in run.fixed.GetSize()]
    index = np.stack(np.meshgrid(*lines, indexing="ij")).reshape(3, -1).T
    points = (run.fixed.TransformContinuousIndexToPhysicalPoint(each) for each in index.tolist())
    there = [run.moving.TransformPhysicalPointToContinuousIndex(transform.TransformPoint(each)) for each in points]
    size = np.array(run.moving.GetSize())
    return float(((np.array(there) >= -0.5) & (np.array(there) <= size - 0.5)).all(axis=1).mean())


def _levels(image: sitk.Image) -> list[float]:
    """Voxel sizes (mm) of up to three resolutions, coarse to fine; the last is about the finest of the image itself."""
    finest = float(min(image.GetSpacing()))
    extent = min(n * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True))
    return [finest * scale for scale in (4, 2) if extent / (finest * scale) >= _COARSEST_VOXELS] + [finest]


def _coarser(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """The image with voxels of about `voxel_mm`, smoothed before; axes that are coarser already stay."""
    factors = [max(1, int(voxel_mm / size + 0.25)) for size in image.GetSpacing()]
    factors = [min(factor, max(1, n // 4)) for factor, n in zip(factors, image.GetSize(), strict=True)]
    if max(factors) == 1:
        return image
    sigmas = [
        0.5 * factor * size if factor > 1 else 1e-3 * size
        for factor, size in zip(factors, image.GetSpacing(), strict=True)
    ]
    return sitk.Shrink(sitk.DiscreteGaussian(image, [sigma**2 for sigma in sigmas]), factors)


def _fit(run: _Run, transform: sitk.Transform, kind: Kind, given: bool) -> sitk.Transform:
    if given:
        # A given transform stays as it is; what is fitted comes on top of it.
        offset = _centred(run, "identity")
        fitted = _linear(run, offset, "rigid", transform) if kind != "bspline" else None
        if kind == "affine":
            fitted = _linear(run, _affine_of(fitted), "affine", transform)
        base = _compose(transform, fitted)
        return _bspline(run, base) if kind == "bspline" else base
    rigid = _linear(run, transform, "rigid")
    if kind == "rigid":
        return rigid
    if kind == "affine":
        return _linear(run, _affine_of(rigid), "affine")
    return _bspline(run, rigid)


def _compose(outer: sitk.Transform, inner: sitk.Transform | None) -> sitk.Transform:
    """First `inner`, then `outer`, as one transform."""
    if inner is None:
        return outer
    both = sitk.CompositeTransform(3)
    both.AddTransform(outer)
    both.AddTransform(inner)
    both.FlattenTransform()
    return both


def _affine_of(rigid: sitk.Transform) -> sitk.AffineTransform:
    euler = sitk.Euler3DTransform(rigid)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(euler.GetCenter())
    affine.SetMatrix(euler.GetMatrix())
    affine.SetTranslation(euler.GetTranslation())
    return affine


def _linear(
    run: _Run, transform: sitk.Transform, name: Kind, moving_initial: sitk.Transform | None = None
) -> sitk.Transform:
    """Fit a rigid or affine transform, coarse to fine; `moving_initial` is applied after it and stays."""
    levels = _levels(run.fixed)
    reach = 0.3 * float(np.max(np.multiply(run.fixed.GetSize(), run.fixed.GetSpacing())))
    for level, voxel_mm in enumerate(levels):
        fixed, moving = _coarser(run.fixed, voxel_mm), _coarser(run.moving, voxel_mm)
        method = run.method(fixed, _SAMPLES[min(level, len(_SAMPLES) - 1)], seed_offset=level)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=0.5 * voxel_mm,
            minStep=5e-3 * voxel_mm,
            numberOfIterations=_LINEAR_ITERATIONS,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-7,
        )
        method.SetOptimizerScales(_scales(transform, reach))
        if moving_initial is not None:
            method.SetMovingInitialTransform(moving_initial)
        method.SetInitialTransform(transform, inPlace=False)
        message = f"{name} registration, resolution {level + 1} of {len(levels)}"
        transform = run.execute(method, (fixed, moving), message, _LINEAR_ITERATIONS)
    return transform


def _scales(transform: sitk.Transform, reach_mm: float) -> list[float]:
    """Weights by which a step of one unit moves points `reach_mm` from the centre by about 1 mm."""
    turning = len(transform.GetParameters()) - 3
    return [reach_mm**2] * turning + [1.0] * 3


def _single(transform: sitk.Transform) -> sitk.Transform:
    """The transform by its own type; a composite of one gives its member."""
    transform = transform.Downcast()
    if transform.GetName() == "CompositeTransform" and transform.GetNumberOfTransforms() == 1:
        return transform.GetNthTransform(0).Downcast()
    return transform


def _bspline(run: _Run, base: sitk.Transform) -> sitk.Transform:
    """A free-form deformation ahead of `base`.

    Its control points lie far apart: nothing else keeps it smooth, and mutual information follows noise otherwise.
    """
    extent = np.array(run.fixed.GetSize()) * np.array(run.fixed.GetSpacing())
    mesh = [int(max(2, round(size / _BSPLINE_MESH_MM))) for size in extent]
    method = run.method(run.fixed, _SAMPLES[-1], seed_offset=7)
    method.SetOptimizerAsLBFGS2(
        solutionAccuracy=1e-5,
        numberOfIterations=_BSPLINE_ITERATIONS,
        deltaConvergenceTolerance=2e-3,
        deltaConvergenceDistance=4,
    )
    method.SetMovingInitialTransform(base)
    method.SetInitialTransform(sitk.BSplineTransformInitializer(run.fixed, mesh, 3), inPlace=False)
    fitted = run.execute(method, (run.fixed, run.moving), "b-spline registration", _BSPLINE_ITERATIONS)
    return _compose(base, fitted)
