from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial import KDTree

from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.metrics import evaluate_segmentation, surfaces
from CrossModalSegLib.metrics.surfaces import MARGIN, border, distances, surface_elements
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume

AXES = {
    "cubes": np.eye(3),
    "thick slices": np.diag([5.0, 0.7, 0.7]),
    "turned": np.diag([2.0, 1.0, 0.9]) @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0],
    "tilted gantry": np.array([[4.0, -3.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]),
}


class StopsAfter(CancelToken):
    """Is cancelled once it was looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks

    @property
    def cancelled(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def _random(seed: int, share: float, shape: tuple[int, int, int] = (9, 14, 12)) -> np.ndarray:
    return np.pad(np.random.default_rng(seed).random(shape) < share, MARGIN)


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
@pytest.mark.parametrize("are_many", [False, True])
def test_distances_are_those_of_all_pairs(
    axes: np.ndarray, share: float, are_many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if are_many:
        for name in ("_MANY", "_LOOKED_UP", "_QUERIED", "_IN_TREE"):
            monkeypatch.setattr(surfaces, name, 3)
    first, second = _random(1, share), _random(2, share)
    expected = KDTree(np.argwhere(second) @ axes).query(np.argwhere(first) @ axes)[0]
    assert_allclose(distances(first, second, axes, CancelToken()), expected, rtol=1e-6, atol=1e-6)


def test_border_and_surface_of_two_voxels() -> None:
    mask = np.zeros((3, 4, 3), bool)
    mask[1, 1:3, 1] = True
    mask = np.pad(mask, MARGIN)
    assert border(mask).sum() == 2
    elements, areas = surface_elements(mask, (2.0, 3.0, 5.0), CancelToken())
    assert elements.sum() == areas.size == 12  # the corners of both voxels
    assert areas.min() > 0


def test_measuring_a_ragged_mask_can_be_stopped_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surfaces, "_LOOKED_UP", 1000)
    rng = np.random.default_rng(0)
    ragged = [Volume((rng.random((20, 24, 24)) < 0.5).astype(np.uint8), np.eye(4)) for _ in range(2)]
    table = LabelTable.from_names(["liver"])
    told: list[tuple[int, int]] = []
    evaluate_segmentation(*ragged, table, progress=lambda done, total, *_: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    for looks in range(20):
        with pytest.raises(Cancelled):
            evaluate_segmentation(*ragged, table, cancel=StopsAfter(looks))
