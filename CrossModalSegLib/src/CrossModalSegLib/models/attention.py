"""The parts of CrossMR's transformers: attention and feed-forward blocks, normalised behind their residual additions.

Weights are applied in the precision of the surrounding autocast; scores and their softmax are always fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from CrossModalSegLib.errors import ModelError


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of several heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ModelError(f"Attention needs channels that its heads divide; got {channels} channels, {heads} heads.")
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        # A bias of the keys would add the same to all scores of a query, which the softmax takes out again.
        self.key = nn.Linear(channels, channels, bias=False)
        self.value, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        initialize_linear(self)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key, value: (B, S, C).
            allowed: Bool, broadcast to (B, Q, S): where a query may look. Each row needs one True at least. None:
                everywhere.

        Returns:
            (B, Q, C).
        """
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        with torch.autocast(query.device.type, enabled=False):
            mask = None if allowed is None else allowed[:, None]
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        # (B, S, C) -> (B, heads, S, C / heads)
        return x.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AttentionBlock(nn.Module):
    """x -> LayerNorm(x + attention(x, ...))."""

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(channels, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, Q, C) -> (B, Q, C).

        Args:
            x: (B, Q, C).
            position: Added to x where it asks, broadcast to (B, Q, C).
            key, value, allowed: As in `MultiHeadAttention`; positions are already in `key`.
        """
        return self.norm(x + self.dropout(self.attention(x + position, key, value, allowed)))


class FeedForwardBlock(nn.Module):
    """x -> LayerNorm(x + linear(relu(linear(x))))."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)
        initialize_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        y = self.linear2(self.dropout(functional.relu(self.linear1(x))))
        return self.norm(x + self.dropout(y))


def initialize_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for all linear layers of a module."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
