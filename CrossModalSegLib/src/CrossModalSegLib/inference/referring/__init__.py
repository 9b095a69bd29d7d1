"""Referring segmentation: scribbles on one image, organs in all of them."""

from __future__ import annotations

from CrossModalSegLib.inference.referring.session import (
    REFERENCE,
    ReferResult,
    ReferSession,
    VolumeReport,
    refer_volumes,
)

__all__ = ["REFERENCE", "ReferResult", "ReferSession", "VolumeReport", "refer_volumes"]
