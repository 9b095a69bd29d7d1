"""Where a registration starts."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import SimpleITK as sitk

from .judge import Judge, climb, graded
from .run import Run
from .search import Search, cell_mm, turns

_LOG = logging.getLogger(__name__)

_SEARCHED = 16
_CLIMBS = 8


def centred(run: Run, start: str) -> sitk.Euler3DTransform:
    if start == "identity":
        size = run.fixed.GetSize()
        transform = sitk.Euler3DTransform()
        transform.SetCenter(run.fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size]))
        return transform
    mode = getattr(sitk.CenteredTransformInitializerFilter, start.upper())
    return sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(run.fixed, run.moving, sitk.Euler3DTransform(), mode)
    )


def start_of(run: Run, initial: sitk.Transform | str | None) -> tuple[str, sitk.Transform]:
    """Name and transform of the start that was asked for."""
    if isinstance(initial, sitk.Transform):
        return "given", sitk.Transform(initial)
    if initial not in (None, "auto"):
        return initial, centred(run, initial)
    return _best(run)


def _best(run: Run) -> tuple[str, sitk.Transform]:
    """The best of the three simple starts and of those that a search over turns and shifts finds, brought close."""
    cell = cell_mm(run.fixed, run.moving)
    grades = (graded(run.sides[0]), graded(run.sides[1]))
    judge = Judge(*run.sides, grades, cell / 2)
    candidates = [(name, centred(run, name)) for name in ("identity", "geometry", "moments")]
    candidates += [("search", place) for place in _searched(run, Search(*run.sides, grades, cell))]
    candidates.sort(key=lambda candidate: -judge.score(candidate[1]))
    best, reached = ("", candidates[0][1], -1.0), []
    for done, (name, transform) in enumerate(candidates[:_CLIMBS], 1):
        if all(distance(run.fixed, transform, other) > cell for other in reached):
            reached.append(climb(judge, transform, cell / 2))
            score = judge.score(reached[-1])
            _LOG.debug("Start %s: worth %.4f, was %.4f.", name, score, judge.score(transform))
            if score > best[2]:
                best = (name, reached[-1], score)
        run.tell(done, _CLIMBS, "comparing starts", best[2])
    return best[:2]


def _searched(run: Run, search: Search) -> list[sitk.Transform]:
    """The best places of all turns, best first, each away from those before."""
    places: list[tuple[float, sitk.Transform]] = []
    every = turns()
    for done, turn in enumerate(every, 1):
        places += search.best(turn)
        run.tell(done, len(every), "searching starts", max((score for score, _ in places), default=0.0))
    places.sort(key=lambda place: -place[0])
    found: list[sitk.Transform] = []
    for _score, place in places:
        if len(found) < _SEARCHED and all(distance(run.fixed, place, other) > search.cell for other in found):
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
