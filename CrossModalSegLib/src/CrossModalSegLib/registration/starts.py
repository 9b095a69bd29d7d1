"""Where a registration starts."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from .images import centre, extent
from .judge import climb
from .run import Run
from .search import Search, turns

_LOG = logging.getLogger(__name__)

_SEARCHED = 40
_CLIMBS = 20
_HOPELESS = 0.5  # share of the best worth from which climbing hardly leads as high
SIMPLE = ("identity", "geometry", "moments")
_ELSEWHERE = 0.1  # of the image's size


def centred(run: Run, start: str) -> sitk.Euler3DTransform:
    if start == "identity":
        transform = sitk.Euler3DTransform()
        transform.SetCenter(centre(run.fixed).tolist())
        return transform
    mode = getattr(sitk.CenteredTransformInitializerFilter, start.upper())
    return sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(run.fixed, run.moving, sitk.Euler3DTransform(), mode)
    )


@dataclass(frozen=True, eq=False)
class Place:
    """Where the moving image may lie.

    Attributes:
        name: of the start from which it was reached.
        transform: from fixed to moving.
        worth: see `judge`.
    """

    name: str
    transform: sitk.Euler3DTransform
    worth: float


def survey(run: Run) -> list[Place]:
    """Places that the simple starts, and the best of a search over turns and shifts, lead to; most worth first."""
    judge = run.judge
    starts = [(name, centred(run, name)) for name in SIMPLE]
    searched = [("search", place) for place in _searched(run)]
    starts += sorted(searched, key=lambda start: -judge.score(start[1]))[:_CLIMBS]
    reached: list[Place] = []
    for done, (name, transform) in enumerate(starts, 1):
        hopeless = _HOPELESS * max((place.worth for place in reached), default=0.0)
        is_known = any(distance(run.fixed, transform, place.transform) <= run.cell / 2 for place in reached)
        if not is_known and (name != "search" or judge.score(transform) >= hopeless):
            place = climb(judge, transform, run.cell / 2)
            reached.append(Place(name, place, judge.score(place)))
            _LOG.debug("Start %s: worth %.4f, was %.4f.", name, reached[-1].worth, judge.score(transform))
        run.tell(done, len(starts), "comparing starts", max(place.worth for place in reached))
    return sorted(reached, key=lambda place: -place.worth)


def is_elsewhere(run: Run, one: sitk.Transform, other: sitk.Transform, share: float = _ELSEWHERE) -> bool:
    """Whether two transforms take the fixed image to places that are further apart than a share of its size."""
    return distance(run.fixed, one, other) > share * float(extent(run.fixed).mean())


def _searched(run: Run) -> list[sitk.Transform]:
    """The best places of all turns, best first, each away from those before."""
    search = Search(*run.sides, run.grades, run.cell)
    places: list[tuple[float, sitk.Transform]] = []
    every = turns()
    for done, turn in enumerate(every, 1):
        places += search.best(turn)
        run.tell(done, len(every), "searching starts", max((score for score, _ in places), default=0.0))
    places.sort(key=lambda place: -place[0])
    found: list[sitk.Transform] = []
    for _score, place in places:
        if len(found) < _SEARCHED and all(distance(run.fixed, place, other) > run.cell for other in found):
            found.append(place)
    return found


def distance(image: sitk.Image, one: sitk.Transform, other: sitk.Transform) -> float:
    """Mean distance between where two transforms take the half-way corners of an image, mm."""
    corners = [
        [(n - 1) * (0.5 + 0.25 * s) for n, s in zip(image.GetSize(), signs, strict=True)]
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    points = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in corners]
    return float(np.mean([np.linalg.norm(np.subtract(one.TransformPoint(p), other.TransformPoint(p))) for p in points]))
