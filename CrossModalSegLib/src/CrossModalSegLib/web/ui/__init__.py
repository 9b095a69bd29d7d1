"""The page as a person sees it, one file a part; `whole` puts them together."""

from __future__ import annotations

from .views import slice_overlay, solid_overlay
from .whole import LOST, THEME, build

__all__ = ["LOST", "THEME", "build", "slice_overlay", "solid_overlay"]
