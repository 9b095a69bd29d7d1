"""From masks to label maps: places, overlaps, absence, probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from referring_support import affine_of, noise

from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.data.working_grid import resample_aligned
from CrossModalSegLib.inference.referring.answers import SliceAnswers
from CrossModalSegLib.inference.referring.referred_volume import refer_volume

CPU = torch.device("cpu")


def exact(slices=2):
    """A volume whose voxels are the network's mask pixels."""
    return refer_volume("v", noise((slices, 16, 16)), SlicePreprocessing(64))


def flat(*logits: float) -> torch.Tensor:
    """(1, K, 16, 16)."""
    return torch.tensor(logits)[None, :, None, None].expand(1, -1, 16, 16)


@pytest.mark.parametrize(
    ("logits", "presence", "label"),
    [
        ((1.0, 2.0), (0.9, 0.9), 2),
        ((3.0, 2.0), (0.9, 0.9), 1),
        ((-1.0, -2.0), (0.9, 0.9), 0),
        ((0.0, -2.0), (0.9, 0.9), 0),
        ((3.0, 2.0), (0.4, 0.9), 2),
        ((3.0, 2.0), (0.4, 0.1), 0),
        ((3.0, -1.0), (0.85, 0.85), 1),
        ((3.0, -1.0), (0.84, 0.84), 0),
    ],
)
def test_the_highest_probability_above_one_half_wins_among_organs_that_are_there(logits, presence, label):
    answers = SliceAnswers(exact(), 2, 0.85, True, CPU)
    answers.put([1], flat(*logits), torch.tensor([presence]))
    assert (answers.labels[1] == label).all() and not answers.labels[0].any()
    assert answers.probabilities[:, 1].argmax(axis=0).tolist() == np.full((16, 16), label).tolist()
    np.testing.assert_allclose(answers.probabilities[:, 1].sum(axis=0), 1.0, atol=1e-6)


def test_probabilities_by_hand():
    """Logits 0 and ln 3: 0.5 and 0.75 by themselves, 0.25 for background; together 1.5."""
    answers = SliceAnswers(exact(), 2, 0.85, True, CPU)
    answers.put([0], flat(0.0, float(np.log(3.0))), torch.ones(1, 2))
    np.testing.assert_allclose(answers.probabilities[:, 0, 3, 3], np.array([0.25, 0.5, 0.75]) / 1.5, rtol=1e-6)


@pytest.mark.parametrize("resize", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(3, 40, 50), (3, 120, 90), (2, 16, 17)])
def test_masks_are_placed_as_the_library_resamples(resize, shape):
    """The matrices give what `resample_aligned` gives for the network's masks as a volume."""
    volume = refer_volume(
        "v", noise(shape, 0, affine_of((1.2, 0.7, 4.0), (0.1, 0.2, 0.3))), SlicePreprocessing(64, resize)
    )
    rows, columns = volume.interpolation
    masks = np.random.default_rng(0).normal(size=(shape[0], 16, 16)).astype(np.float32)
    found = rows @ masks @ columns.T
    expected = resample_aligned(masks, volume.mask_grid, volume.frame.axial, "linear")
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_mask_pixels_lie_amid_their_four_by_four_canvas_pixels():
    volume = exact()
    corner = volume.mask_grid.affine @ (0, 0, 0, 1)
    canvas = volume.frame.canvas.affine @ (1.5, 1.5, 0, 1)
    np.testing.assert_allclose(corner, canvas)
    np.testing.assert_allclose(volume.mask_grid.affine, volume.frame.axial.affine, atol=1e-12)


def test_what_is_dropped_counts_as_background():
    answers = SliceAnswers(exact(3), 2, 0.85, True, CPU)
    masks = torch.full((3, 2, 16, 16), -4.0)
    masks[0, 0, 2:8, 2:8] = masks[2, 0, 12, 12] = 4.0
    masks[2, 1, 12, 12] = 3.0
    answers.put([0, 1, 2], masks, torch.full((3, 2), 0.9))
    before = answers.probabilities.copy()
    answers.drop_small_pieces("large", None)
    assert (answers.labels[2] == 0).all() and (answers.labels[0] == 1).sum() == 36
    background, dropped, other = answers.probabilities[:, 2, 12, 12]
    assert dropped == 0 and background == pytest.approx(before[:2, 2, 12, 12].sum())
    assert other == before[2, 2, 12, 12]
    np.testing.assert_array_equal(answers.probabilities[:, :2], before[:, :2])


def test_a_stroke_on_the_image_keeps_its_piece():
    volume = exact(3)
    answers = SliceAnswers(volume, 1, 0.85, False, CPU)
    masks = torch.full((3, 1, 16, 16), -4.0)
    masks[0, 0, 2:8, 2:8] = masks[2, 0, 12, 12] = 4.0
    answers.put([0, 1, 2], masks, torch.full((3, 1), 0.9))
    strokes = np.full((3, 16, 16), 255, np.uint8)
    strokes[2, 12, 12] = 1
    answers.drop_small_pieces("largest", volume.frame.from_axial(strokes))
    assert answers.labels[2, 12, 12] == 1


def certain(with_probabilities=False):
    """Three slices, two organs that the network sees only in the first; strokes say that organ 1 is in the second."""
    shown = np.zeros((3, 2), bool)
    shown[:2, 0] = True
    answers = SliceAnswers(exact(3), 2, 0.85, with_probabilities, CPU, shown)
    masks = torch.full((3, 2, 16, 16), -4.0)
    masks[:, 0, 2:8, 2:8] = 4.0
    masks[:, 1, 2:4, 2:12] = 5.0
    answers.put([0, 1, 2], masks, torch.tensor([[0.9, 0.9], [0.2, 0.2], [0.2, 0.2]]))
    return answers


def test_a_slice_with_a_stroke_on_an_organ_shows_it():
    answers = certain()
    assert not answers.labels[1:].any()
    first = answers.labels[0].copy()
    answers.drop_small_pieces("large", None)
    answers.add_certain()
    expected = np.zeros((16, 16), np.uint8)
    expected[2:8, 2:8] = 1
    np.testing.assert_array_equal(answers.labels[1], expected)  # and organ 2, without a stroke there, is not
    np.testing.assert_array_equal(answers.labels[0], first)
    assert not answers.labels[2].any()


def test_what_is_added_says_nothing_about_pieces_of_other_slices():
    shown = np.zeros((3, 1), bool)
    shown[1] = True
    answers = SliceAnswers(exact(3), 1, 0.85, False, CPU, shown)
    masks = torch.full((3, 1, 16, 16), -4.0)
    masks[0, 0, 2:8, 2:8] = masks[1, 0, 2:13, 2:13] = masks[2, 0, 12, 12] = 4.0
    answers.put([0, 1, 2], masks, torch.tensor([[0.9], [0.2], [0.9]]))
    answers.drop_small_pieces("large", None)
    answers.add_certain()
    assert answers.labels.sum(axis=(1, 2)).tolist() == [36, 121, 0]


def test_an_organ_that_was_added_takes_no_other_ones_place():
    shown = np.array([[True, False]])
    answers = SliceAnswers(exact(1), 2, 0.85, False, CPU, shown)
    masks = torch.full((1, 2, 16, 16), 4.0)
    masks[0, 1, :, 8:] = -4.0
    answers.put([0], masks + torch.tensor([1.0, 0.0])[None, :, None, None], torch.tensor([[0.2, 0.9]]))
    answers.add_certain()
    assert (answers.labels[0, :, :8] == 2).all() and (answers.labels[0, :, 8:] == 1).all()


def test_probabilities_agree_with_what_was_added():
    answers = certain(with_probabilities=True)
    answers.add_certain()
    np.testing.assert_array_equal(answers.probabilities.argmax(axis=0), answers.labels)
    np.testing.assert_allclose(answers.probabilities.sum(axis=0), 1.0, atol=1e-6)
    assert answers.probabilities[1, 1, 5, 5] == pytest.approx(1 / (1 + np.exp(-4.0)), rel=1e-5)
    assert answers.probabilities[1, 2, 5, 5] < 1e-6
