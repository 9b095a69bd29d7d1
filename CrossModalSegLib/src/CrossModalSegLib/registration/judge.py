"""How well two images agree under a transform, on coarse images: mutual information of a few grey levels.

Mutual information of a small overlap can be high by chance, so what is judged is its worth: mutual information beyond
what unrelated values would have, times the root of the share that overlaps.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .images import Side, blocks, extent

LEVELS = 6
_LEAST_SHARE = 0.15
_POINTS = 5_000
_MEANS_STEPS = 20
_CELLS = 2500
_MOST_CELLS = 10_000


def cell_mm(fixed: sitk.Image, moving: sitk.Image) -> float:
    """Size of the cells of the search: the smaller image has about 2500 of them, the larger one not too many."""
    volumes = sorted(float(np.prod(extent(image))) for image in (fixed, moving))
    return max((volumes[0] / _CELLS) ** (1 / 3), (volumes[1] / _MOST_CELLS) ** (1 / 3))


class Grades:
    """Levels of grey of one image: those that stray least from their means (Lloyd's quantisation)."""

    def __init__(self, values: np.ndarray) -> None:
        values = np.sort(values[:: max(1, len(values) // 5000)])
        means = np.linspace(*np.quantile(values, (0.02, 0.98)), LEVELS)
        for _ in range(_MEANS_STEPS):
            level = np.searchsorted((means[1:] + means[:-1]) / 2, values)
            count = np.bincount(level, minlength=LEVELS)
            means = np.where(count > 0, np.bincount(level, values, LEVELS) / np.maximum(count, 1), means)
        self._edges = (means[1:] + means[:-1]) / 2

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The level of each value, 0 to LEVELS - 1."""
        return np.searchsorted(self._edges, values)


def graded(side: Side) -> Grades:
    """Grades of an image where it was measured."""
    values = sitk.GetArrayViewFromImage(side.image)
    return Grades(values[sitk.GetArrayViewFromImage(side.mask) > 0] if side.mask is not None else values.ravel())


def worth(joint: np.ndarray, fewest: int) -> np.ndarray:
    """Worth of alignments from their joint histograms.

    Args:
        joint: (levels, levels, ...) counts.
        fewest: points of the image that has fewer.

    Returns:
        (...), zero where too little overlaps.
    """
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    count = np.maximum(rows.sum(axis=0), 1)
    within = _xlogx(joint).sum(axis=(0, 1)) - _xlogx(rows).sum(axis=0) - _xlogx(columns).sum(axis=0)
    by_chance = (LEVELS - 1) ** 2 / (2 * count)
    share = np.minimum(count / fewest, 1)
    information = within / count + np.log(count) - by_chance
    return np.where(share >= _LEAST_SHARE, np.maximum(information, 0) * np.sqrt(share), 0.0)


def _xlogx(counts: np.ndarray) -> np.ndarray:
    return counts * np.log(np.maximum(counts, 1))


class Judge:
    """Compares a fixed and a moving image under transforms.

    Args:
        fixed: stays where it is.
        moving: is looked at through the transforms.
        grades: of both images' values.
        voxel_mm: resolution at which they are compared.
    """

    def __init__(self, fixed: Side, moving: Side, grades: tuple[Grades, Grades], voxel_mm: float) -> None:
        self._points, self._levels = _points(fixed, grades[0], voxel_mm)
        self._grades, image = grades[1], blocks(moving.image, voxel_mm)
        self._grid, self._values = _Grid(image), sitk.GetArrayFromImage(image)
        self._mask = None
        if moving.mask is not None:
            self._mask, self._mask_grid = sitk.GetArrayFromImage(moving.mask) > 0, _Grid(moving.mask)
        ratio = _measured_mm3(moving) / _measured_mm3(fixed)
        self.reach_mm = float(np.sqrt(((self._points - self._points.mean(axis=0)) ** 2).sum(axis=1).mean()))
        self._fewest = max(1, round(len(self._points) * min(1.0, ratio)))

    def middle(self, transform: sitk.Transform) -> np.ndarray:
        """Middle of what overlaps, in the fixed image, LPS mm."""
        seen = self._seen(transform)[1]
        return self._points[seen if seen.any() else slice(None)].mean(axis=0)

    def share(self, transform: sitk.Transform) -> float:
        """Share of the smaller image that overlaps the other one, 0..1."""
        return min(1.0, float(self._seen(transform)[1].sum()) / self._fewest)

    def score(self, transform: sitk.Transform) -> float:
        """Worth of a transform."""
        index, seen = self._seen(transform)
        values = ndimage.map_coordinates(self._values, index[::-1][:, seen], order=1, mode="nearest")
        joint = np.bincount(self._levels[seen] * LEVELS + self._grades(values), minlength=LEVELS**2)
        return float(worth(joint.reshape(LEVELS, LEVELS).astype(float), self._fewest))

    def _seen(self, transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
        matrix, offset = as_matrix(transform)
        there = matrix @ self._points.T + offset[:, None]
        index, inside = self._grid.index(there)
        if self._mask is not None:
            at, _ = self._mask_grid.index(there[:, inside])
            at = np.clip(np.rint(at), 0, self._mask_grid.size - 1).astype(int)
            inside[inside] = self._mask[tuple(at[::-1])]
        return index, inside


def climb(judge: Judge, transform: sitk.Euler3DTransform, step_mm: float) -> sitk.Euler3DTransform:
    """Improve a rigid transform by steps along its six parameters, which are halved where none helps."""
    middle = judge.middle(transform)
    place = sitk.Euler3DTransform()
    place.SetCenter(middle.tolist())
    place.SetMatrix(transform.GetMatrix())
    place.SetTranslation(np.subtract(transform.TransformPoint(middle.tolist()), middle).tolist())
    units = np.diag([1 / judge.reach_mm] * 3 + [1.0] * 3)
    best, least = judge.score(place), step_mm / 8
    while step_mm >= least:
        is_better = False
        for step in (sign * step_mm * unit for unit in units for sign in (1, -1)):
            trial = sitk.Euler3DTransform(place)
            trial.SetParameters((np.array(place.GetParameters()) + step).tolist())
            score = judge.score(trial)
            if score > best:
                place, best, is_better = trial, score, True
        if not is_better:
            step_mm /= 2
    return place


def as_matrix(transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,) of a linear transform."""
    offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(unit)) - offset for unit in np.eye(3).tolist()]
    return np.stack(columns, axis=1), offset


class _Grid:
    """Takes points to an image's voxels; the inverse of its axes is kept, since it is asked a thousand times."""

    def __init__(self, image: sitk.Image) -> None:
        self._to_index = np.linalg.inv(np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing()))
        self._origin, self.size = np.array(image.GetOrigin()), np.array(image.GetSize())[:, None]

    def index(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Continuous indices (i, j, k) of points, (3, N), and whether they lie inside."""
        index = self._to_index @ (points - self._origin[:, None])
        return index, ((index >= -0.5) & (index <= self.size - 0.5)).all(axis=0)


def _points(side: Side, grades: Grades, voxel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) spread over an image where it was measured, and their levels (N,)."""
    image = blocks(side.image, voxel_mm)
    values = sitk.GetArrayFromImage(image)
    shown = np.ones(values.shape, dtype=bool)
    if side.mask is not None:
        shown = sitk.GetArrayFromImage(sitk.Resample(side.mask, image, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    chosen = np.flatnonzero(shown if shown.any() else ~shown)
    # At random, since a lattice may go with the images' own.
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_POINTS])
    index = np.stack(np.unravel_index(chosen, values.shape))[::-1]
    axes = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    return (axes @ index).T + np.array(image.GetOrigin()), grades(values.flat[chosen])


def _measured_mm3(side: Side) -> float:
    share = 1.0 if side.mask is None else float((sitk.GetArrayViewFromImage(side.mask) > 0).mean())
    return share * float(np.prod(side.image.GetSize())) * float(np.prod(side.image.GetSpacing()))
