"""What can be fitted, and where it can start."""

from __future__ import annotations

from typing import Literal

Kind = Literal["rigid", "affine", "bspline"]
Start = Literal["auto", "identity", "geometry", "moments"]
