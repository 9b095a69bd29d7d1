from __future__ import annotations

import numpy as np
import pytest
import torch

from CrossModalSegLib.training.history import History
from CrossModalSegLib.training.validation import Validation, dice_by_class


def test_dice_counts_the_labelled_voxels_alone():
    labels = np.array([1, 1, 0, 2, 2])
    reference = np.array([1, 0, 1, 2, 255], np.uint8)
    assert dice_by_class(labels, reference, 4) == (2 * 1 / (2 + 2), 1.0, None)
    assert dice_by_class(labels, np.full(5, 255, np.uint8), 3) == (None, None)


def test_means_leave_out_what_has_no_value():
    result = Validation(((0.5, None), (1.0, None)))
    assert result.by_class == (0.75, None) and result.mean == 0.75
    assert Validation(((None,),)).mean is None


def test_the_history_holds_means_since_the_last_entry():
    history = History()
    for value in (1.0, 2.0):
        history.add({"total": torch.tensor(value, requires_grad=True), "pce": torch.tensor(3.0)})
    assert history.record(2, 0.1, 1.23456) == {"total": 1.5, "pce": 3.0}
    assert history.steps == [{"step": 2, "seconds": 1.235, "learning_rate": 0.1, "total": 1.5, "pce": 3.0}]


def test_the_history_continues_from_its_state():
    history, other = History(), History()
    history.add({"total": torch.tensor(1.0)})
    history.record_validation(1, Validation(((0.5,),)), ["liver"])
    other.load_state_dict(history.state_dict())
    for each in (history, other):
        each.add({"total": torch.tensor(2.0)})
        each.record(2, 0.1, 0.0)
    assert history.to_json() == other.to_json()
    assert other.steps[0]["total"] == pytest.approx(1.5)
    assert other.validation == [{"step": 1, "dice": 0.5, "dice_by_class": {"liver": 0.5}}]
