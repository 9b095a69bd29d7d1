"""Classes that the masks of a slice say nothing of: cohorts with other organs are learned from together."""

from __future__ import annotations

import torch
from torch import Tensor


def joined_with_background(logits: Tensor, annotated: Tensor) -> Tensor:
    """Logits under which a class that was not annotated counts as background, where a mask would show it as that.

    Its probability goes to the background, so that no loss tells the two apart.

    Args:
        logits: (B, C, ...), background first.
        annotated: (B, C) bool; the background's own value does not matter.

    Returns:
        Of the shape of the logits; -inf for classes that were not annotated.
    """
    is_joined = ~annotated.view(*annotated.shape, *(1,) * (logits.ndim - 2))
    classes = logits[:, 1:].masked_fill(is_joined[:, 1:], -torch.inf)
    others = logits[:, 1:].masked_fill(~is_joined[:, 1:], -torch.inf)
    background = torch.cat([logits[:, :1], others], 1).logsumexp(1, keepdim=True)
    return torch.cat([background, classes], 1)
