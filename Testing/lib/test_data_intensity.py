"""The values that become 0 and 1, beside the tests of whole cases."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.data import intensity
from CrossModalSegLib.data.intensity import value_range


def test_a_dark_background_of_zeros_is_no_filler(caplog):
    """Only values below zero fill up what was not measured: most images of MR have zeros around the patient."""
    values = np.concatenate([np.zeros(99), np.full(1, 1000.0), np.linspace(1000, 1010, 100)]).reshape(1, 10, 20)
    assert value_range(values, "mr", (-160, 240), (0, 100)) == (0.0, 1010.0)
    assert not caplog.text


def test_the_sample_of_a_large_image_is_of_all_its_columns(monkeypatch):
    """Every fourth voxel would be of one column alone, and the image constant."""
    monkeypatch.setattr(intensity, "PERCENTILE_VOXELS", 10)
    values = np.tile([0.0, 1.0, 2.0, 3.0], 10).reshape(1, 10, 4)
    assert value_range(values, "mr", (-160, 240), (0, 100)) == (0.0, 3.0)
