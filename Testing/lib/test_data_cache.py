"""Entries of the cache are found again by their content, and by nothing else."""

from __future__ import annotations

import numpy as np

from CrossModalSegLib.data.cache import case_key, load_arrays, store_arrays
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.volume import Volume

EXPECTED = {"images": ((1, 2, 2, 2), "float32")}


def key(values=range(8), shape=(2, 2, 2), dtype=np.int16, affine=None, name="ct", scribbles=None, mask=None) -> str:
    array = np.array(list(values), dtype).reshape(shape)
    image = Volume(array, np.eye(4) if affine is None else affine)
    return case_key({name: image}, scribbles, mask, Preprocessing())


def test_whatever_differs_in_a_case_gives_another_key():
    labels = Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    keys = [
        key(),
        key(values=range(1, 9)),
        key(shape=(2, 1, 4)),
        key(dtype=np.uint16),
        key(affine=np.diag([1.0, 1.0, 2.0, 1.0])),
        key(name="mr"),
        key(scribbles=labels),
        key(mask=labels),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_arrays_of_another_shape_or_type_are_not_taken(tmp_path, caplog):
    for number, array in enumerate((np.ones((1, 2, 2, 2), np.float32), np.ones((1, 2, 2, 3), np.float32))):
        store_arrays(tmp_path, f"{number:040x}", {"images": array})
    store_arrays(tmp_path, f"{2:040x}", {"images": np.ones((1, 2, 2, 2), np.float64)})
    assert load_arrays(tmp_path, f"{0:040x}", EXPECTED)["images"].all()
    assert not caplog.text
    assert load_arrays(tmp_path, f"{1:040x}", EXPECTED) is None
    assert load_arrays(tmp_path, f"{2:040x}", EXPECTED) is None
    assert "something else than expected" in caplog.text
