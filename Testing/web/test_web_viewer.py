"""What the views tell of directions."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trame_slicer", reason="trame-slicer is not installed (the extra [web])")

from CrossModalSegLib.web.viewer import letters


@pytest.mark.parametrize(
    ("ras", "expected"),
    [
        ((1, 0, 0), "R"),
        ((-2, 0, 0), "L"),
        ((0, 3, 0), "A"),
        ((0, -1, 0.1), "P"),
        ((0, 0, 1), "S"),
        ((0.3, 0, -1), "I"),
        # The rows, columns and normal of a heart's short axis, nearly.
        ((-0.59, -0.75, -0.3), "PL"),
        ((-0.56, 0.11, 0.82), "SL"),
        ((0.58, -0.65, 0.49), "PRS"),
    ],
)
def test_directions_are_named_by_what_lies_there(ras: tuple[float, float, float], expected: str) -> None:
    assert letters(np.array(ras)) == expected
