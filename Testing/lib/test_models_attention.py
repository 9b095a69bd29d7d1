"""Attention by hand, and what stays fp32."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.attention import AttentionBlock, FeedForwardBlock, MultiHeadAttention


def plain(attention):
    """Make all four projections the identity."""
    with torch.no_grad():
        for linear in (attention.query, attention.key, attention.value, attention.out):
            linear.weight.copy_(torch.eye(linear.in_features))
    return attention


def test_attention_by_hand():
    attention = plain(MultiHeadAttention(2, heads=2))
    query = torch.tensor([[[1.0, 2.0]]])
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    value = torch.tensor([[[10.0, 1.0], [20.0, 5.0]]])
    # Each head has one channel: scores 1, 0 of the first and 0, 2 of the second.
    first = torch.tensor([1.0, 0.0]).softmax(0) @ torch.tensor([10.0, 20.0])
    second = torch.tensor([0.0, 2.0]).softmax(0) @ torch.tensor([1.0, 5.0])
    torch.testing.assert_close(attention(query, key, value).flatten(), torch.stack([first, second]))


def test_what_is_not_allowed_is_not_seen():
    torch.manual_seed(0)
    attention = MultiHeadAttention(4, 2)
    query, key = torch.rand(1, 3, 4), torch.rand(1, 5, 4)
    allowed = torch.ones(1, 1, 5, dtype=torch.bool)
    allowed[..., 3:] = False
    torch.testing.assert_close(attention(query, key, key, allowed), attention(query, key[:, :3], key[:, :3]))


def test_scores_are_fp32_under_autocast():
    attention = plain(MultiHeadAttention(1, 1))
    # In bf16 257 rounds to 256 where it is added up or multiplied with 1.
    query, key = torch.tensor([[[16.0]]]), torch.tensor([[[16.0], [16.125]]])
    value = torch.tensor([[[0.0], [1.0]]])
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(query, key, value)
    expected = torch.tensor([256.0, 258.0]).softmax(0)[1]
    assert y.item() == pytest.approx(expected.item(), abs=0.01)


def test_blocks_are_normalised_behind_their_addition():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8)
    for y in (AttentionBlock(8, 2)(x, torch.zeros(8), x, x), FeedForwardBlock(8, 16)(x)):
        torch.testing.assert_close(y.mean(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(2, 3), atol=1e-2, rtol=0)


def test_positions_enter_the_query_alone():
    torch.manual_seed(0)
    block = AttentionBlock(4, 1)
    x, key, position = torch.rand(1, 2, 4), torch.rand(1, 3, 4), torch.rand(2, 4)
    expected = block.norm(x + block.attention(x + position, key, key))
    torch.testing.assert_close(block(x, position, key, key), expected)


def test_heads_have_to_divide_the_channels():
    with pytest.raises(ModelError, match="10 channels, 4 heads"):
        MultiHeadAttention(10, 4)
