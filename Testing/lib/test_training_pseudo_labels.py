from __future__ import annotations

import numpy as np
import torch

from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.pseudo_labels import confident_labels, fill_unlabelled


def test_certain_voxels_become_labels_and_scribbles_stay():
    probabilities = np.array([[0.99, 0.02, 0.5, 0.01], [0.01, 0.98, 0.5, 0.99]], np.float32).reshape(2, 1, 1, 4)
    scribbles = np.array([[[255, 255, 255, 0]]], np.uint8)
    labels = confident_labels(probabilities, scribbles, 0.2)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels.ravel(), [0, 1, 255, 0])


def test_the_uncertainty_is_relative_to_the_number_of_classes():
    probabilities = np.full((4, 1, 1, 1), 0.25, np.float32)
    scribbles = np.full((1, 1, 1), 255, np.uint8)
    assert confident_labels(probabilities, scribbles, 0.999).item() == 255
    probabilities[:, 0, 0, 0] = [0.5, 0.5, 0.0, 0.0]  # ln 2 / ln 4 = 0.5
    assert confident_labels(probabilities, scribbles, 0.51).item() == 0
    assert confident_labels(probabilities, scribbles, 0.49).item() == 255


def test_only_unlabelled_voxels_are_filled():
    labels = torch.tensor([[[[0, 255, 255]]]])
    pseudo = torch.tensor([[[[1, 1, 255]]]])
    batch = Batch(torch.zeros(1, 1, 1, 1, 3), labels, labels < 9, ((1.0, 1.0, 1.0),), (0,), {"p": pseudo})
    assert fill_unlabelled(batch, "p").labels.tolist() == [[[[0, 1, 255]]]]
    assert batch.labels is labels
