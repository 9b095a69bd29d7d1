"""Referring segmentation: scribbles on one image, organs in all of them."""

from __future__ import annotations

from CrossModalSegLib.inference.referring.session import (
    DEFAULT_MODEL,
    REFERENCE,
    ReferResult,
    ReferSession,
    VolumeReport,
    refer_volumes,
)

__all__ = ["DEFAULT_MODEL", "REFERENCE", "ReferResult", "ReferSession", "VolumeReport", "refer_volumes"]
