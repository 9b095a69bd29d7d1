"""Background scribbles proposed by erosion."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import BACKGROUND, UNLABELLED
from CrossModalSegLib.scribbles.background import AUTO_COVERAGE, background_from_scribbles
from CrossModalSegLib.scribbles.body import body_mask
from CrossModalSegLib.volume import resample_like, same_geometry
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import AutoBackgroundRequest, AutoBackgroundResult


def run(request: AutoBackgroundRequest, context: Context) -> AutoBackgroundResult:
    """Propose background.

    Raises:
        CrossModalSegError: there is no foreground scribble, or no room.
    """
    scribbles, image, body = request.scribbles, request.image, None
    context.progress(0, 0, "proposing background")
    if image is not None:
        body = body_mask((image if same_geometry(scribbles, image) else resample_like(image, scribbles)).array)
        context.cancel.raise_if_cancelled()
    proposed = background_from_scribbles(
        scribbles.array,
        scribbles.spacing,
        np.random.default_rng(request.seed),
        body=body,
        margin_mm=request.margin_mm,
        coverage=AUTO_COVERAGE if request.coverage is None else request.coverage,
    )
    is_new = (proposed == BACKGROUND) & (scribbles.array == UNLABELLED)
    if not is_new.any():
        raise InputError(
            f"No background is left at {request.margin_mm:g} mm from the scribbled foreground. Scribble some by hand, "
            "or choose a smaller margin."
        )
    return AutoBackgroundResult(scribbles.with_array(is_new.astype(np.uint8)))
