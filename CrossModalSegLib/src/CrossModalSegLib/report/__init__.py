"""Pictures of results: overlays of segmentations, and curves of trainings."""

from __future__ import annotations

from .curve import write_curve
from .overlay import write_overlay
from .refer_overlay import ReferredImage, write_refer_overlay

__all__ = ["ReferredImage", "write_curve", "write_overlay", "write_refer_overlay"]
