"""What all stages of one registration share: images, settings, progress and cancelling."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..progress import CancelToken, Progress
from .images import Side, coarser
from .judge import Judge, cell_mm, graded

_LOG = logging.getLogger(__name__)

_BINS = 40
SAMPLES = (20_000, 30_000, 40_000)  # points of the metric, coarse to fine


class Run:
    """The images, settings and counters that all stages of one registration share."""

    def __init__(
        self,
        fixed: Side,
        moving: Side,
        seed: int,
        threads: int | None,
        progress: Progress,
        cancel: CancelToken | None,
    ) -> None:
        self.sides = (fixed, moving)
        self.fixed, self.moving = fixed.image, moving.image
        self.fixed_mask, self.moving_mask = fixed.mask, moving.mask
        self.cell = cell_mm(self.fixed, self.moving)
        self.grades = (graded(fixed), graded(moving))
        self.judge = Judge(fixed, moving, self.grades, self.cell / 2)
        self.seed, self.threads = seed, threads
        self.progress, self.cancel = progress, cancel
        self.iterations = 0
        self._coarse: dict[float, tuple[sitk.Image, sitk.Image]] = {}

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
        # The filters smooth by the largest voxel size in all directions, which leads astray in anisotropic images.
        method.SetMetricUseFixedImageGradientFilter(False)
        method.SetMetricUseMovingImageGradientFilter(False)
        if self.fixed_mask is not None:
            method.SetMetricFixedMask(self.fixed_mask)
        if self.moving_mask is not None:
            method.SetMetricMovingMask(self.moving_mask)
        return method

    def coarse(self, voxel_mm: float) -> tuple[sitk.Image, sitk.Image]:
        """Both images with voxels of about `voxel_mm`; they are made once."""
        if voxel_mm not in self._coarse:
            self._coarse[voxel_mm] = coarser(self.fixed, voxel_mm), coarser(self.moving, voxel_mm)
        return self._coarse[voxel_mm]

    def metric(self, transform: sitk.Transform) -> float:
        """Mutual information under a transform; minus infinity where the images miss each other."""
        method = self.method(self.fixed, SAMPLES[0])
        method.SetInitialTransform(sitk.Transform(transform))
        try:
            return -float(method.MetricEvaluate(self.fixed, self.moving))
        except RuntimeError as error:
            _LOG.debug("The metric could not be evaluated: %s", error)
            return float("-inf")

    def tell(self, done: int, total: int, message: str, metric: float) -> None:
        """Report a step outside the optimiser, and stop here if that is wanted."""
        self.progress(done, total, message, {"metric": metric})
        if self.cancel is not None:
            self.cancel.raise_if_cancelled()

    def execute(
        self,
        method: sitk.ImageRegistrationMethod,
        images: tuple[sitk.Image, sitk.Image],
        message: str | None,
        steps: int,
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
        transform = single(transform)
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


def single(transform: sitk.Transform) -> sitk.Transform:
    """The transform by its own type; a composite of one gives its member."""
    transform = transform.Downcast()
    if transform.GetName() == "CompositeTransform" and transform.GetNumberOfTransforms() == 1:
        return transform.GetNthTransform(0).Downcast()
    return transform
