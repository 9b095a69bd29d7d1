"""The referring loss, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.referring import ReferringLoss, dice_term, presence_term, select_term
from CrossModalSegLib.models.masked_decoder import Prediction

YES = torch.ones(1, 2, dtype=torch.bool)
POINTS = 64


def head(masks=0.0, level=0, dtype=torch.float32):
    """One image, two organs, three queries, all logits 0 but the masks'; every tensor takes a gradient."""
    return Prediction(
        torch.full((1, 2, 3, 4, 4), masks, dtype=dtype).requires_grad_(),
        torch.zeros(1, 2, 3).requires_grad_(),
        torch.zeros(1, 2, 3, dtype=dtype).requires_grad_(),
        level,
    )


def everything(value=1):
    return torch.full((1, 2, 16, 16), value, dtype=torch.uint8)


def values(terms):
    return {name: term.item() for name, term in terms.items()}


def test_all_terms_by_hand():
    terms = values(ReferringLoss(points=POINTS)([head()], everything(), YES, YES))
    dice = 1 - (2 * 0.5 * POINTS + 1) / (0.5 * POINTS + POINTS + 1)
    expected = {"bce": 2.5 * math.log(2), "dice": 2.5 * dice, "select": math.log(3), "presence": math.log(2)}
    assert terms == pytest.approx(expected, rel=1e-5)


def test_weights_and_the_mean_over_heads():
    loss = ReferringLoss(bce=1.0, dice=0.0, select=0.0, presence=0.5, points=POINTS)
    terms = values(loss([head(0.0), head(2.0, level=1)], everything(), YES, YES))
    expected = {
        "bce": (math.log(2) + math.log1p(math.exp(-2))) / 2,
        "dice": 0,
        "select": 0,
        "presence": math.log(2) / 2,
    }
    assert terms == pytest.approx(expected, rel=1e-5)


def test_absent_organs_train_the_presence_alone_by_default():
    prediction, present = head(), torch.tensor([[True, False]])
    sum(ReferringLoss(points=POINTS)([prediction], everything(), present, YES).values()).backward()
    assert prediction.masks.grad[0, 0].any() and not prediction.masks.grad[0, 1].any()
    assert prediction.similarity.grad[0, 0].any() and not prediction.similarity.grad[0, 1].any()
    assert (prediction.presence.grad[0, 0] < 0).all() and (prediction.presence.grad[0, 1] > 0).all()


def test_the_chosen_mask_of_an_absent_organ_is_emptied_on_request():
    prediction, present = head(2.0), torch.tensor([[True, False]])
    prediction.similarity.data[0, :, 1] = 3.0
    loss = ReferringLoss(bce=0.0, dice=0.0, select=0.0, presence=0.0, absent=0.5, points=POINTS)
    terms = loss([prediction], everything(), present, YES)
    assert values(terms)["absent"] == pytest.approx(0.5 * math.log1p(math.exp(2)))
    terms["absent"].backward()
    assert (prediction.masks.grad[0, 1, 1] >= 0).all() and prediction.masks.grad[0, 1, 1].any()
    assert not prediction.masks.grad[0, 0].any() and not prediction.masks.grad[0, 1, [0, 2]].any()
    assert values(loss([head()], everything(), YES, YES))["absent"] == 0.0


def test_organs_that_are_not_asked_for_are_ignored():
    prediction, organs = head(), torch.tensor([[True, False]])
    terms = ReferringLoss(points=POINTS)([prediction], everything(), YES, organs)
    sum(terms.values()).backward()
    assert values(terms)["presence"] == pytest.approx(math.log(2))
    assert not any(x.grad[0, 1].any() for x in (prediction.masks, prediction.similarity, prediction.presence))
    emptied = ReferringLoss(absent=1.0, points=POINTS)([head(9.0)], everything(), ~YES, organs & ~organs)
    assert values(emptied)["absent"] == 0.0


@pytest.mark.parametrize("within_organ", [True, False])
def test_nothing_to_train_is_zero_with_a_graph(within_organ):
    prediction = head()
    terms = ReferringLoss(points=POINTS, within_organ=within_organ)([prediction], everything(), ~YES, ~YES)
    assert values(terms) == {"bce": 0.0, "dice": 0.0, "select": 0.0, "presence": 0.0}
    sum(terms.values()).backward()
    assert not any(x.grad.any() for x in (prediction.masks, prediction.similarity, prediction.presence))


def test_only_the_matched_query_is_trained_as_mask_and_as_choice():
    prediction = head()
    with torch.no_grad():
        prediction.masks[0, :, 1] = 3.0
    sum(ReferringLoss(points=POINTS)([prediction], everything(), YES, YES).values()).backward()
    assert prediction.masks.grad.flatten(3).any(-1).tolist() == [[[False, True, False]] * 2]
    assert (prediction.similarity.grad < 0).tolist() == [[[False, True, False]] * 2]


def test_a_query_of_another_organ_cannot_be_chosen():
    prediction = head(-3.0)
    with torch.no_grad():
        prediction.masks[0, 1, 2] = 3.0
        prediction.masks[0, 0, 0, :, :2] = 9.0
    targets = everything()
    targets[0, 1, :, 8:] = 0  # the second organ is the left half, which the first organ's first query found
    terms = ReferringLoss(points=POINTS, within_organ=False)([prediction], targets, YES, YES)
    assert terms["select"].item() == 0.0
    sum(terms.values()).backward()
    assert prediction.masks.grad.flatten(3).any(-1).tolist() == [[[True, False, False], [False, False, True]]]


def test_half_precision_is_computed_in_fp32():
    full = ReferringLoss(points=POINTS)([head(1.0)], everything(), YES, YES)
    with torch.autocast("cpu", torch.bfloat16):
        half = ReferringLoss(points=POINTS)([head(1.0, dtype=torch.bfloat16)], everything(), YES, YES)
    assert {term.dtype for term in half.values()} == {torch.float32}
    assert values(half) == pytest.approx(values(full))


def test_a_seed_decides_which_points_are_compared():
    torch.manual_seed(0)
    prediction, targets = head(), torch.rand(1, 2, 16, 16) < 0.5
    prediction.masks.data.normal_()
    loss = ReferringLoss(points=POINTS)
    bce = [loss([prediction], targets, YES, YES, torch.Generator().manual_seed(s))["bce"].item() for s in (0, 0, 1)]
    assert bce[0] == bce[1] != bce[2]


def test_terms_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert dice_term(logits, targets).item() == pytest.approx(((1 - 3 / 4) + (1 - 1 / 2)) / 2)
    similarity = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    # The first match is the first query of organ 0; the second is organ 0's too, and cannot be organ 1's answer.
    chosen = select_term(similarity, torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert chosen.item() == pytest.approx(math.log1p(math.exp(-1)))
    presence = presence_term(torch.tensor([[[3.0], [1.0]]]), torch.tensor([[True, False]]), YES)
    assert presence.item() == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReferringLoss(bce=-1.0), "bce of the referring loss must be 0 or more"),
        (lambda: ReferringLoss(points=0), "at least 1"),
        (lambda: ReferringLoss(importance=1.5), "within 0 and 1"),
        (lambda: ReferringLoss()([], everything(), YES, YES), "one head at least"),
        (lambda: ReferringLoss()([head()], everything()[0], YES, YES), r"targets \(1, 2, H, W\)"),
        (lambda: ReferringLoss()([head()], everything(), YES, YES.long()), "bool flags"),
    ],
)
def test_wrong_inputs_are_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
