"""The module's folder can be imported from, as 3D Slicer sees to it; Qt draws without a screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "standins"), str(HERE.parent / "scene"), str(HERE.parents[1] / "CrossModalSeg")]
