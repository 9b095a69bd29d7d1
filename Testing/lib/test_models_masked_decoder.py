"""The decoder: masked attention, closed organs, heads, and the choice among queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from CrossModalSegLib.models.masked_decoder import (
    MaskedDecoder,
    Prediction,
    PresenceByMask,
    attention_mask,
    choose,
    mean_token,
)
from CrossModalSegLib.models.visual_sampler import VisualTokens

C, N = 8, 3


def decoder(layers=4, **options):
    torch.manual_seed(0)
    return MaskedDecoder(C, heads=2, feedforward=16, layers=layers, queries=N, **options).eval()


def target(batch=2, size=64):
    torch.manual_seed(1)
    return [torch.rand(batch, C, size // s, size // s) for s in (32, 16, 8)], torch.randn(
        batch, C, size // 4, size // 4
    )


def tokens(batch=2, k=3, p=5):
    torch.manual_seed(2)
    valid = torch.rand(batch, k, p) < 0.7
    valid[:, :, 0] = True
    levels = tuple(torch.randn(batch, k, p, C) for _ in range(3))
    return VisualTokens(levels, valid, torch.randn(batch, k, C), valid.any(-1))


def organs(given, order):
    """The tokens of some organs, in an order."""
    return VisualTokens(
        tuple(level[:, order] for level in given.levels),
        given.valid[:, order],
        given.prototype[:, order],
        given.organs[:, order],
    )


def assert_same(a, b):
    for name in ("masks", "similarity", "presence"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-4)


def test_a_head_after_each_layer():
    predictions = decoder()(*target(), tokens())
    assert [p.level for p in predictions] == [0, 1, 2, 3, 4]
    for p in predictions:
        assert p.masks.shape == (2, 3, N, 16, 16)
        assert p.similarity.shape == p.presence.shape == (2, 3, N)


@pytest.mark.parametrize(
    "options", [{}, {"seed_queries": True, "prototype_masks": True}, {"layers": 7}, {"presence_by_mask": True}]
)
@pytest.mark.parametrize("size", [64, 96])
def test_the_last_prediction_alone_is_the_same(options, size):
    network, given = decoder(**options), target(size=size)
    assert_same(network.last(*given, tokens()), network(*given, tokens())[-1])


def test_masks_are_dot_products_with_the_mask_features():
    network = decoder(layers=1)
    levels, mask_features = target()
    first = network(levels, mask_features, tokens())[0]
    embedding = network.mask_embedding(network.norm(network.query_features))
    torch.testing.assert_close(first.masks[1, 2], torch.einsum("nc,chw->nhw", embedding, mask_features[1]))


def test_attention_stays_within_the_mask_and_an_empty_one_is_reset():
    masks = torch.full((1, 1, 2, 4, 4), -1.0)
    masks[0, 0, 0, :, :2] = 3.0
    allowed = attention_mask(masks, (2, 2))
    assert allowed.tolist() == [[[True, False, True, False], [True] * 4]]


def test_the_order_and_the_company_of_organs_do_not_matter():
    network, given = decoder(seed_queries=True), tokens()
    every = network(*target(), given)[-1]
    alone = network(*target(), organs(given, [2, 0]))[-1]
    assert_same(alone, Prediction(every.masks[:, [2, 0]], every.similarity[:, [2, 0]], every.presence[:, [2, 0]], 4))


def test_tokens_of_one_organ_reach_no_other():
    network, given = decoder(), tokens()
    given.levels[1].requires_grad_()
    network(*target(), given)[-1].masks[:, 0].square().sum().backward()
    grad = given.levels[1].grad
    assert grad[:, 0].any() and not grad[:, 1:].any()
    assert not grad[~given.valid].any()


def test_each_layer_uses_the_tokens_of_its_level():
    used = []
    for layers in (1, 2, 3, 4):
        given = tokens()
        for level in given.levels:
            level.requires_grad_()
        decoder(layers)(*target(), given)[-1].masks.square().sum().backward()
        used.append([level.grad is not None and bool(level.grad.any()) for level in given.levels])
    assert used == [[True, False, False], [True, True, False], [True, True, True], [True, True, True]]


def test_padded_tokens_change_nothing():
    network, given = decoder(), tokens()
    more = replace(
        given,
        levels=tuple(torch.cat([level, torch.full_like(level, 50.0)], 2) for level in given.levels),
        valid=torch.cat([given.valid, torch.zeros_like(given.valid)], 2),
    )
    assert_same(network(*target(), given)[-1], network(*target(), more)[-1])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_organ_without_a_scribble_gives_no_nan(precision):
    network, given = decoder(seed_queries=True).train(), tokens()
    given.valid[:, 1] = False
    given.prototype[:, 1] = 0.0
    given.organs[:, 1] = False
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        predictions = network(*target(), given)
    outputs = [x.float() for p in predictions for x in (p.masks, p.similarity, p.presence)]
    assert all(x.isfinite().all() for x in outputs)
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in network.named_parameters() if not p.grad.any()] == []


def test_similarity_is_a_scaled_cosine():
    network = decoder(layers=1)
    given = tokens()
    levels, mask_features = target()
    first = network(levels, mask_features, given)[0]
    embedding = network.mask_embedding(network.norm(network.query_features))
    cosine = torch.nn.functional.cosine_similarity(embedding, given.prototype[1, 2][None], dim=-1)
    torch.testing.assert_close(first.similarity[1, 2], cosine / 0.07, atol=1e-5, rtol=1e-4)


def test_queries_start_from_the_mean_token_where_asked_for():
    given = tokens()
    other = replace(given, levels=tuple(level + 1.0 for level in given.levels))
    for seeded in (True, False):
        network = decoder(seed_queries=seeded)
        a, b = (network(*target(), each)[0].masks for each in (given, other))
        assert torch.equal(a, b) != seeded
    expected = sum(level[0, 0][given.valid[0, 0]].mean(0) for level in given.levels) / 3
    torch.testing.assert_close(mean_token(given)[0, 0], expected)


def test_seem_draws_queries_in_training_alone():
    network = decoder(sample_queries=2)
    assert network(*target(), tokens())[-1].masks.shape[2] == N
    network.train()
    assert network(*target(), tokens())[-1].masks.shape[2] == 2


def test_without_tokens_queries_attend_to_each_other():
    given = replace(tokens(), levels=())
    prediction = decoder()(*target(), given)[-1]
    assert torch.equal(prediction.masks[:, 0], prediction.masks[:, 1])
    assert not torch.equal(prediction.similarity[:, 0], prediction.similarity[:, 1])


def test_choose_takes_the_most_similar_query():
    masks = torch.arange(2.0 * 2 * 3).view(1, 2, 2, 1, 3).bfloat16()
    similarity = torch.tensor([[[0.1, 0.9], [3.0, -1.0]]])
    presence = torch.tensor([[[5.0, 0.0], [-100.0, 7.0]]])
    logits, probability = choose(Prediction(masks, similarity, presence, 0))
    assert logits.tolist() == [[[[3.0, 4.0, 5.0]], [[6.0, 7.0, 8.0]]]]
    assert probability.tolist() == [[0.5, 0.0]]
    assert logits.dtype == torch.float32


def test_presence_by_mask_sees_what_the_mask_covers_and_trains_no_mask():
    torch.manual_seed(0)
    presence = PresenceByMask(C)
    queries, prototype = torch.zeros(1, 1, 2, C), torch.randn(1, 1, C)
    masks = torch.full((1, 1, 2, 4, 4), -10.0)
    masks[0, 0, 0, :2], masks[0, 0, 1, 2:] = 10.0, 10.0  # of the same size and certainty, above and below
    masks.requires_grad_()
    features = torch.cat([prototype[0, 0].view(1, C, 1, 1).expand(1, C, 2, 4), torch.randn(1, C, 2, 4)], 2)
    logits = presence(queries, masks, features, prototype)
    assert logits.shape == (1, 1, 2) and logits[0, 0, 0] != logits[0, 0, 1]
    even = presence(queries, masks, prototype[0, 0].view(1, C, 1, 1).expand(1, C, 4, 4), prototype)
    torch.testing.assert_close(even[0, 0, 0], even[0, 0, 1])
    torch.testing.assert_close(even[0, 0, 0], logits[0, 0, 0], atol=1e-3, rtol=1e-3)
    logits.sum().backward()
    assert masks.grad is None and presence.covered.weight.grad.any()
