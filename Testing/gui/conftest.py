"""The module's folder can be imported from, as 3D Slicer sees to it; Qt draws without a screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CrossModalSeg"))
