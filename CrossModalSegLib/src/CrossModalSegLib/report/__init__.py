"""Pictures of results: overlays of segmentations, and curves of trainings."""

from __future__ import annotations

from .curve import write_curve
from .overlay import write_overlay

__all__ = ["write_curve", "write_overlay"]
