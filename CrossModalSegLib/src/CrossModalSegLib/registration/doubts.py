"""Signs that a registration went wrong."""

from __future__ import annotations

from collections.abc import Iterator

import SimpleITK as sitk

from .contest import Fitted, merit
from .run import Run
from .starts import distance, is_elsewhere

_SMALL_SHARE = 0.35
_RIVAL = 0.86
_APART = 0.05  # of the image's size


def doubt(run: Run, fitted: list[Fitted], transform: sitk.Transform) -> str | None:
    """A sentence on why a result may be wrong; None where nothing speaks against it.

    Args:
        run: of the registration.
        fitted: fits of all places where the moving image may lie, greatest merit first.
        transform: what was found, rigid or affine.
    """
    reasons = " and ".join(_reasons(run, fitted, transform))
    if not reasons:
        return None
    return (
        f"The registration may be wrong: {reasons}. Look at it before it is used; if it is wrong, move one image "
        "closer to its place by hand and register again."
    )


def _reasons(run: Run, fitted: list[Fitted], transform: sitk.Transform) -> Iterator[str]:
    share = run.judge.share(transform)
    if share < _SMALL_SHARE:
        yield f"only {share:.0%} of the smaller image lies on the other one"
    least = _RIVAL * merit(run, transform)
    for other in fitted:
        if other.merit > least and is_elsewhere(run, other.transform, transform, _APART):
            away = distance(run.fixed, other.transform, transform)
            yield f"the images fit about as well in another place, {away:.0f} mm away"
            return
