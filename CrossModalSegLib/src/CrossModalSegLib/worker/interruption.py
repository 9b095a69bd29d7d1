"""Stopping within a network's forward pass, which may take longer than a person waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from CrossModalSegLib.progress import CancelToken


@contextmanager
def stopping_forward_passes(cancel: CancelToken) -> Iterator[None]:
    """Let every layer of every network look at a token before it computes.

    Weights only change after a whole pass, so that nothing is left half-done. Where torch was not imported before,
    there are no such passes yet, and jobs look at the token by themselves.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: cancel.raise_if_cancelled())
    try:
        yield
    finally:
        hook.remove()
