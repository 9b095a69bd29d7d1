"""Where one image may lie on another: all shifts at each of a grid of turns, judged on coarse images.

The mutual information of all shifts is had at once from correlations of grey levels by FFT, as in Öfverstedt et al.,
Fast computation of mutual information in the frequency domain with applications to global multimodal image alignment,
Pattern Recognition Letters 2022.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk
from scipy import fft, ndimage

from .images import Side, blocks, centre, extent
from .judge import LEVELS, Grades, worth

_TURN_STEP_DEGREES = 15.5
_TURN_LIMIT_DEGREES = 46.0
_PEAKS_PER_TURN = 3
_AXIS_OVERLAP = 0.2


def turns() -> list[sitk.Euler3DTransform]:
    """Rotations of up to about 45 degrees, so that every one is near one of them; no turn is the first.

    Their rotation vectors form a body-centred cubic lattice, which covers a ball with the fewest points.
    """
    steps = range(-3, 4)
    lattice = [v for v in itertools.product(steps, repeat=3) if len({n % 2 for n in v}) == 1]
    vectors = _TURN_STEP_DEGREES * np.array(sorted(lattice, key=lambda v: (np.dot(v, v), v)), dtype=float)
    return [_turn(v) for v in vectors if np.linalg.norm(v) <= _TURN_LIMIT_DEGREES]


def _turn(degrees: np.ndarray) -> sitk.Euler3DTransform:
    angle = float(np.radians(np.linalg.norm(degrees)))
    versor = sitk.VersorTransform(degrees.tolist() if angle else [0.0, 0.0, 1.0], angle)
    turn = sitk.Euler3DTransform()
    turn.SetMatrix(versor.GetMatrix())
    return turn


class Search:
    """All shifts of a moving image over a fixed one.

    Args:
        fixed: stays where it is.
        moving: is turned and shifted.
        grades: of both images' values.
        cell: edge of a cell, mm.
    """

    def __init__(self, fixed: Side, moving: Side, grades: tuple[Grades, Grades], cell: float) -> None:
        self._fixed, self._moving, self._grades, self._cell = fixed, moving, grades, cell
        self._fixed_blocks, self._moving_blocks = blocks(fixed.image, cell), blocks(moving.image, cell)
        self._size = np.maximum(1, np.rint(extent(fixed.image) / cell)).astype(int)
        reference = _reference(fixed.image, centre(fixed.image), self._size, cell)
        self._known = _graded(
            self._fixed_blocks, fixed.mask, reference, sitk.Transform(3, sitk.sitkIdentity), grades[0]
        )
        size = np.maximum(1, np.rint(extent(moving.image) / cell)).astype(int)
        reference = _reference(moving.image, centre(moving.image), size, cell)
        other = _graded(self._moving_blocks, moving.mask, reference, sitk.Transform(3, sitk.sitkIdentity), grades[1])
        self._fewest = min(int((self._known >= 0).sum()), int((other >= 0).sum()))
        self._spectra: dict[tuple[int, ...], np.ndarray] = {}

    def best(self, turn: sitk.Euler3DTransform) -> Iterator[tuple[float, sitk.Euler3DTransform]]:
        """The best shifts at a turn: their worth, and transforms from fixed to moving."""
        turn = sitk.Euler3DTransform(turn)
        middle = centre(self._moving.image)
        turn.SetCenter(middle.tolist())
        matrix = np.reshape(turn.GetMatrix(), (3, 3))
        axes = np.reshape(self._fixed.image.GetDirection(), (3, 3))
        own_axes = np.reshape(self._moving.image.GetDirection(), (3, 3))
        size = np.ceil(np.abs((matrix @ axes).T @ own_axes) @ extent(self._moving.image) / self._cell).astype(int)
        reference = _reference(self._fixed.image, middle, size, self._cell)
        turned = _graded(self._moving_blocks, self._moving.mask, reference, turn, self._grades[1])
        scores = self._scores(turned)
        offset = (self._size - size) / 2
        for score, steps in _peaks(scores, self._known.shape):
            # A cell of the turned image lies `steps` cells further in the fixed one.
            shift = middle - centre(self._fixed.image) + axes @ ((offset - steps[::-1]) * self._cell)
            found = sitk.Euler3DTransform(turn)
            found.SetTranslation((matrix @ shift).tolist())
            yield score, found

    def _scores(self, turned: np.ndarray) -> np.ndarray:
        """Worth of each shift, cyclic (k, j, i); zero where too little overlaps."""
        shape = tuple(
            # Shifts with less overlap along an axis may wrap around.
            fft.next_fast_len(a + b - int(_AXIS_OVERLAP * min(a, b)), real=True)
            for a, b in zip(self._known.shape, turned.shape, strict=True)
        )
        if shape not in self._spectra:
            self._spectra[shape] = _spectra(self._known, shape)
        theirs = np.conj(_spectra(turned, shape))
        joint = np.empty((LEVELS, LEVELS, *shape), dtype=np.float32)
        for level, spectrum in enumerate(self._spectra[shape]):
            joint[level] = fft.irfftn(spectrum * theirs, shape, axes=(1, 2, 3))
        return worth(np.rint(joint, out=joint), self._fewest)


def _reference(image: sitk.Image, middle: np.ndarray, size: np.ndarray, cell: float) -> sitk.Image:
    """An empty grid of cells along the axes of an image, around a point."""
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing([cell] * 3)
    grid.SetDirection(image.GetDirection())
    axes = np.reshape(image.GetDirection(), (3, 3))
    grid.SetOrigin((middle - axes @ ((size - 1) / 2 * cell)).tolist())
    return grid


def _graded(
    image: sitk.Image, mask: sitk.Image | None, grid: sitk.Image, transform: sitk.Transform, grades: Grades
) -> np.ndarray:
    """Grey levels of an image on a grid, (k, j, i); -1 where it shows nothing."""
    values = sitk.GetArrayFromImage(sitk.Resample(image, grid, transform, sitk.sitkLinear, -1.0))
    shown = values >= 0
    if mask is not None:
        shown &= sitk.GetArrayFromImage(sitk.Resample(mask, grid, transform, sitk.sitkNearestNeighbor, 0)) > 0
    return np.where(shown, grades(values), -1)


def _spectra(levels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Of where each level is, (levels, *half spectrum)."""
    shares = (levels == np.arange(LEVELS)[:, None, None, None]).astype(np.float32)
    return fft.rfftn(shares, shape, axes=(1, 2, 3))


def _peaks(scores: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[float, np.ndarray]]:
    """The highest local maxima, with their shifts (k, j, i), which are negative beyond the shape."""
    peaks = np.where(scores == ndimage.maximum_filter(scores, 3, mode="wrap"), scores, 0.0)
    for flat in np.argsort(-peaks, axis=None, kind="stable")[:_PEAKS_PER_TURN]:
        steps = np.array(np.unravel_index(flat, scores.shape))
        if peaks.flat[flat] > 0:
            yield float(peaks.flat[flat]), np.where(steps < shape, steps, steps - scores.shape)
