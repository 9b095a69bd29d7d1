"""Colours that eyes can tell apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.report.distinct_colors import LEAST_DISTANCE, PALETTE, _lab, distinct_colors


@pytest.mark.parametrize(
    ("color", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.2, 80.1, 67.2)),
        ((0, 0, 255), (32.3, 79.2, -107.9)),
    ],
)
def test_lab_by_the_book(color, lab):
    np.testing.assert_allclose(_lab(color), lab, atol=0.1)


def distances(table: LabelTable) -> list[float]:
    return [float(np.linalg.norm(_lab(a.color) - _lab(b.color))) for a, b in combinations(table.labels, 2)]


@pytest.mark.parametrize(
    "names",
    [
        ["liver", "right kidney", "left kidney", "spleen"],
        ["right ventricle", "myocardium", "left ventricle"],
        ["liver", "stomach", "gallbladder", "pancreas", "aorta", "duodenum", "colon"],
    ],
)
def test_organs_of_like_colours_get_others(names):
    given = LabelTable.from_names(names)
    found = distinct_colors(given)
    assert min(distances(given)) < LEAST_DISTANCE <= min(distances(found))
    assert found.labels[0].color == given.labels[0].color
    assert found.names == given.names
    assert [label.terminology for label in found.labels] == [label.terminology for label in given.labels]


def test_colours_that_differ_stay():
    table = LabelTable.from_names(["liver", "spleen", "GTV"])
    assert distinct_colors(table) == table


def test_the_palette_is_distinct_and_more_labels_than_colours_work():
    far = [np.linalg.norm(_lab(a) - _lab(b)) for a, b in combinations((*PALETTE, (255, 255, 255)), 2)]
    assert min(far) >= LEAST_DISTANCE
    assert len(distinct_colors(LabelTable.from_names([f"n{n}" for n in range(30)]))) == 30
