"""Labelled voxels taken out of several predictions at once, against each prediction's losses by themselves."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.labelled_voxels import LabelledVoxels
from CrossModalSegLib.losses.partial_cross_entropy import partial_cross_entropy

SHAPE = (2, 3, 4, 5)


def predictions(count: int = 3, classes: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, classes, *SHAPE[1:], dtype=torch.float64, requires_grad=True) for _ in range(count)]


def scribbles(classes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, SHAPE, generator=generator, dtype=torch.uint8)
    labels[torch.rand(SHAPE, generator=generator) < 0.7] = 255
    return labels


def test_each_voxel_is_found_in_its_sample_and_its_class():
    logits = torch.arange(2 * 3 * 2, dtype=torch.float64).view(2, 3, 1, 1, 2)
    labels = torch.tensor([[255, 2], [1, 255]], dtype=torch.uint8).view(2, 1, 1, 2)
    voxels = LabelledVoxels.of([logits], labels)
    expected = torch.tensor([[1.0, 3.0, 5.0], [6.0, 8.0, 10.0]], dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(voxels.log_probabilities[0], expected)
    assert voxels.labels.tolist() == [2, 1]


def test_losses_and_gradients_are_those_of_each_prediction_alone():
    together, apart, labels = predictions(), predictions(), scribbles()
    voxels = LabelledVoxels.of(together, labels)
    alone = [(partial_cross_entropy(each, labels), LabelledVoxels.of([each], labels).dice()[0]) for each in apart]
    torch.testing.assert_close(voxels.cross_entropy(), torch.stack([pce for pce, _ in alone]))
    torch.testing.assert_close(voxels.dice(), torch.stack([dice for _, dice in alone]))
    (voxels.cross_entropy() + voxels.dice()).sum().backward()
    sum(pce + dice for pce, dice in alone).backward()
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_where_numbers_lie_in_memory_does_not_matter():
    (logits,), labels = predictions(1), scribbles()
    elsewhere = logits.detach().to(memory_format=torch.channels_last_3d)
    one, other = (LabelledVoxels.of([each], labels).log_probabilities for each in (logits, elsewhere))
    assert torch.equal(one, other)


def test_one_prediction_on_another_grid_is_refused():
    with pytest.raises(InputError, match="on one grid"):
        LabelledVoxels.of([*predictions(1), torch.zeros(2, 3, 3, 4, 6)], scribbles())
