from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.preprocess import Preprocessing, prepare_case
from CrossModalSegLib.errors import Cancelled, ModelError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import LoadedModel
from CrossModalSegLib.inference.segment import labels_from_probabilities, segment_case
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.volume import Volume, same_geometry


class Bright(nn.Module):
    """Class 1 where the MR is bright."""

    divisor = 4

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(20.0))

    def segment(self, images):
        mr = images[:, 1:2] - 0.5
        return torch.cat([-self.gain * mr, self.gain * mr], dim=1)


def case(diagonal=(-1.0, -1.2, 3.0), shape=(10, 28, 24)) -> LoadedCase:
    affine = np.diag([*diagonal, 1.0])
    affine[:3, 3] = (30, -10, 5)
    mr = np.zeros(shape, np.float32)
    mr[2:7, 5:20, 3:14] = 800
    ct = np.random.default_rng(0).normal(0, 100, shape).astype(np.int16)
    return LoadedCase("case", {"mr": Volume(mr, affine), "ct": Volume(ct, affine)}, None, None)


def model(**preprocessing) -> LoadedModel:
    labels = LabelTable.from_names(["lesion"])
    card = ModelCard("bright", "cmfnet", {}, ("ct", "mr"), labels, Preprocessing(**preprocessing))
    return LoadedModel(Bright(), card)


@pytest.mark.parametrize("patch", [None, (4, 8, 8)])
def test_the_result_is_on_the_case_s_own_voxels(patch):
    loaded = case()
    result = segment_case(model(), loaded, patch=patch, uncertainty=True)
    assert result.labels.array.dtype == np.uint8 and same_geometry(result.labels, loaded.grid)
    np.testing.assert_array_equal(result.labels.array, loaded.images["mr"].array > 400)
    assert result.uncertainty.array.max() < 0.01 and result.probabilities is None


def test_a_resampled_model_gives_the_same_place():
    loaded = case()
    result = segment_case(model(spacing=(2.0, 1.0, 1.0)), loaded)
    assert same_geometry(result.labels, loaded.grid)
    truth = loaded.images["mr"].array > 400
    overlap = 2 * (result.labels.array & truth).sum() / (result.labels.array.sum() + truth.sum())
    assert overlap > 0.9
    centre = [np.argwhere(a).mean(axis=0) for a in (result.labels.array, truth)]
    assert np.abs(centre[0] - centre[1]).max() < 0.15


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.0)])
def test_probabilities_agree_with_labels(spacing):
    loaded = case()
    chosen = model() if spacing is None else model(spacing=spacing)
    plain = segment_case(chosen, loaded)
    full = segment_case(chosen, loaded, probabilities=True, uncertainty=True)
    assert full.probabilities.shape == (2, 10, 28, 24) and full.probabilities.dtype == np.float32
    np.testing.assert_array_equal(plain.labels.array, full.labels.array)
    np.testing.assert_array_equal(full.probabilities.argmax(axis=0), full.labels.array)
    np.testing.assert_allclose(full.probabilities.sum(axis=0), 1.0, atol=1e-5)


class Undecided(nn.Module):
    """Three classes, which are about as likely."""

    divisor = 4

    def segment(self, images):
        return 2 * torch.cat([images, 1 - images.mean(1, keepdim=True)], dim=1)


def test_classes_are_chosen_after_their_probabilities_were_brought_to_the_own_grid():
    loaded = case()
    loaded.images["mr"] = loaded.images["mr"].with_array(
        np.random.default_rng(1).random(loaded.grid.shape).astype(np.float32)
    )
    labels = LabelTable.from_names(["lesion", "oedema"])
    card = ModelCard("u", "cmfnet", {}, ("ct", "mr"), labels, Preprocessing(spacing=(2.0, 1.0, 1.0)))
    chosen = LoadedModel(Undecided(), card)
    plain, full = (segment_case(chosen, loaded, probabilities=wanted) for wanted in (False, True))
    assert set(np.unique(plain.labels.array)) == {0, 1, 2}
    np.testing.assert_array_equal(plain.labels.array, full.probabilities.argmax(axis=0))


def test_probabilities_are_left_alone_and_equal_ones_go_to_the_first_class():
    loaded = case((1.0, 1.0, 1.0), (1, 1, 4))
    prepared = prepare_case(loaded, Preprocessing())
    given = np.array([[0.2, 0.4, 0.3, 0.5], [0.6, 0.4, 0.3, 0.0], [0.2, 0.2, 0.4, 0.5]], np.float32)
    probabilities = given.reshape(3, 1, 1, 4).copy()
    result = labels_from_probabilities(probabilities, prepared)
    assert result.labels.array.ravel().tolist() == [1, 0, 2, 0]
    np.testing.assert_array_equal(probabilities.reshape(3, 4), given)


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.0)])
def test_a_cancelled_segmentation_stops(spacing):
    token = CancelToken()
    token.cancel()
    chosen = model() if spacing is None else model(spacing=spacing)
    with pytest.raises(Cancelled):
        segment_case(chosen, case(), cancel=token)


def test_a_missing_image_is_named():
    loaded = case()
    del loaded.images["mr"]
    with pytest.raises(ModelError, match="Add mr"):
        segment_case(model(), loaded)
