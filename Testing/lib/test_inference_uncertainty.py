from __future__ import annotations

import numpy as np

from CrossModalSegLib.inference.uncertainty import normalized_entropy


def test_certain_is_zero_and_undecided_is_one():
    prob = np.zeros((4, 1, 1, 3), np.float32)
    prob[2, 0, 0, 0] = 1.0
    prob[:, 0, 0, 1] = 0.25
    prob[:2, 0, 0, 2] = 0.5
    np.testing.assert_allclose(normalized_entropy(prob)[0, 0], [0.0, 1.0, 0.5], atol=1e-6)
