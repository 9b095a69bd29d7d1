"""Measures of a segmentation against a mask."""

from __future__ import annotations

from CrossModalSegLib.errors import GeometryError
from CrossModalSegLib.metrics import evaluate_segmentation
from CrossModalSegLib.volume import describe, same_geometry
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import EvaluateRequest, EvaluateResult


def run(request: EvaluateRequest, context: Context) -> EvaluateResult:
    """Measure.

    Raises:
        CrossModalSegError: the two do not lie on one grid, or hold other labels.
        Cancelled: on request.
    """
    context.progress(0, 0, "measuring")
    prediction, mask = request.prediction, request.mask
    if not same_geometry(prediction, mask):
        raise GeometryError(
            f"The segmentation and the mask lie on different grids: the one has {describe(prediction)}; the other has "
            f"{describe(mask)}. Give both the same reference geometry."
        )
    report = evaluate_segmentation(
        prediction, mask, request.labels, request.tolerances_mm, progress=context.progress, cancel=context.cancel
    )
    return EvaluateResult(report.to_json())
