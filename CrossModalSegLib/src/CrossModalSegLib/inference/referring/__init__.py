"""Referring segmentation: scribbles on one image, organs in all of them."""

from __future__ import annotations

from CrossModalSegLib.inference.referring.session import (
    REFERENCE,
    ReferResult,
    ReferSession,
    VolumeReport,
    refer_volumes,
)
from CrossModalSegLib.inference.referring.shipped import (
    BROAD_MODEL,
    DEFAULT_MODEL,
    choice_told,
    default_model,
    open_default,
)

__all__ = [
    "BROAD_MODEL",
    "DEFAULT_MODEL",
    "REFERENCE",
    "ReferResult",
    "ReferSession",
    "VolumeReport",
    "choice_told",
    "default_model",
    "open_default",
    "refer_volumes",
]
