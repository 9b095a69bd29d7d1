"""Where the images fit best at full resolution, of all places where one may lie on the other.

Coarse images of a few grey levels can fit a little better in a wrong place, or about as well in many; at full
resolution the right one mostly stands out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import SimpleITK as sitk

from ..errors import InputError
from .images import resolutions
from .linear import linear
from .run import Run
from .starts import SIMPLE, Place, centred, distance, is_elsewhere

_LOG = logging.getLogger(__name__)

_FITS = 6
_HOPELESS = 0.6  # share of the best worth below which a place is not fitted
_PROMISING = 0.8  # share of the best merit below which a fit is not finished
_NEAR = 0.05  # of the image's size, between starts
_SAME = 0.02  # between a start and a fit
_ENOUGH = 0.5  # share of the smaller image that overlaps
_TRUST = 0.95


@dataclass(frozen=True, eq=False)
class Fitted:
    """A place after a rigid fit.

    Attributes:
        name: of the start.
        transform: from fixed to moving.
        merit: see `merit`.
    """

    name: str
    transform: sitk.Transform
    merit: float


def merit(run: Run, transform: sitk.Transform) -> float:
    """Mutual information at full resolution, less where little overlaps, as it can be high there by chance."""
    # Where the images lie well on each other, how much they overlap tells nothing.
    return run.metric(transform) * min(1.0, run.judge.share(transform) / _ENOUGH) ** 0.5


def contest(run: Run, places: list[Place]) -> list[Fitted]:
    """Rigid fits from the best simple start, left as it is, and from places that differ; greatest merit first.

    Args:
        run: of the registration.
        places: where the moving image may lie, most worth first.

    Raises:
        InputError: no fit is possible.
    """
    coarse = slice(max(1, len(resolutions(run.fixed)) - 1))
    fitted: list[Fitted] = []
    failure: InputError | None = None
    for name, transform in _starts(run, places):
        if len(fitted) >= _FITS or any(not is_elsewhere(run, transform, each.transform, _SAME) for each in fitted):
            continue
        try:
            fitted.append(_fit(run, name, transform, f"start {len(fitted) + 1}", coarse))
        except InputError as error:
            _LOG.debug("Start %s: %s", name, error)
            failure = error
    if not fitted and failure is not None:
        raise failure
    least = _PROMISING * max(each.merit for each in fitted)
    fine = slice(coarse.stop, None)
    fitted = [
        _fit(run, each.name, each.transform, f"start {number}", fine) if each.merit >= least else each
        for number, each in enumerate(fitted, 1)
    ]
    return sorted(fitted, key=lambda each: -each.merit)


def _fit(run: Run, name: str, transform: sitk.Transform, which: str, part: slice) -> Fitted:
    fit = linear(run, transform, f"rigid registration, {which}", part=part)
    fitted = Fitted(name, fit, merit(run, fit))
    _LOG.debug("Start %s: merit %.4f.", name, fitted.merit)
    return fitted


def winner(run: Run, fitted: list[Fitted]) -> Fitted:
    """The best fit; one elsewhere from the files' positions where it is hardly worse, and ended nearer to them.

    Bodies are alike one vertebra further; most often the files' positions are about right.
    """
    best, files = fitted[0], sitk.Transform(3, sitk.sitkIdentity)
    reach = distance(run.fixed, best.transform, files)
    for each in fitted:
        is_trusted = each.name == "identity" and each.merit >= _TRUST * best.merit
        is_nearer = distance(run.fixed, each.transform, files) < reach
        if is_trusted and is_nearer and is_elsewhere(run, each.transform, best.transform):
            return each
    return best


def _starts(run: Run, places: list[Place]) -> list[tuple[str, sitk.Transform]]:
    """The best simple start, and places worth a fit, each away from those before."""
    simple = max(((name, centred(run, name)) for name in SIMPLE), key=lambda start: run.metric(start[1]))
    distinct: list[Place] = []
    for place in places:
        is_new = all(is_elsewhere(run, place.transform, other.transform, _NEAR) for other in distinct)
        if is_new and place.worth >= _HOPELESS * places[0].worth:
            distinct.append(place)
    return [simple, *((place.name, place.transform) for place in distinct)]
