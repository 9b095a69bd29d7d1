"""What a person feels of the panel of 3D Slicer, on stand-ins for Slicer's widgets.

    python Testing/benchmarks/panel_speed.py [--shape 96 256 256] [--seconds 30]

Prints how long importing and building the panel take, and, on a simulated CT and MR with strokes, how long a click on
Fit takes, the first one and the median of others, and the longest time that the event loop was held while the fit ran,
previews and curve included. Nothing is rendered: what Slicer needs to draw comes on top.
"""

from __future__ import annotations

# ruff: noqa: E402 - the stand-ins have to be found first
import argparse
import importlib
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
TESTING = Path(__file__).resolve().parents[1]
MODULE = TESTING.parent / "CrossModalSeg"
sys.path[:0] = [str(TESTING / "gui" / "standins"), str(TESTING / "scene"), str(TESTING), str(MODULE)]

import numpy as np
import qt
import slicer
import slicer.util
import slicer_python
import slicer_widgets
import vtk  # noqa: F401 - Slicer has it loaded
from scene_support import add_volume, paint, segment_named

from CrossModalSegLib.scene.headless import HeadlessScene


def built():
    """The panel; prints how long it took."""
    headless = HeadlessScene()
    slicer.mrmlScene = headless.scene
    slicer_widgets.install()
    slicer_python.install()
    began = time.perf_counter()
    module = importlib.import_module("CrossModalSeg")
    imported = time.perf_counter()
    panel = module.CrossModalSegWidget()
    panel.setup()
    panel.parent.show()
    panel.enter()
    qt.application.processEvents()
    print(f"import {imported - began:.3f} s (target <= 0.3 s), panel built {time.perf_counter() - imported:.3f} s")
    while not panel.models:  # entering the panel has started the worker
        qt.application.processEvents()
        time.sleep(0.01)
    print(f"torch in this process: {'torch' in sys.modules}")
    return headless, panel


def prepared(panel, shape: tuple[int, int, int]) -> None:
    """A simulated patient: a bright ball in noise, strokes on every fourth slice."""
    generator = np.random.default_rng(0)
    grid = np.diag([1.0, 1.0, 2.0, 1.0])
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    distance = sum(((axis - size / 2) / (size / 5)) ** 2 for axis, size in zip(axes, shape, strict=True))
    truth = (distance < 1).astype(np.uint8)
    for name, selector in (("CT", panel.ui.ctSelector), ("MR", panel.ui.mrSelector)):
        array = (100 * truth + generator.normal(0, 30, shape)).astype(np.float32)
        selector.setCurrentNode(add_volume(slicer.mrmlScene, array, grid, name))
    panel.ui.labelsEdit.setText("tumour")
    panel.ui.prepareButton.click()
    edge = (distance > 1.5) & (distance < 1.6)
    for name, voxels in (("tumour", truth & (distance < 0.5)), ("Background", edge)):
        stroke = np.zeros(shape, np.uint8)
        stroke[::4] = np.broadcast_to(voxels, shape)[::4]
        paint(panel.parameters.scribbles, segment_named(panel.parameters.scribbles, name), stroke, grid)


def clicks(panel, count: int = 7) -> list[float]:
    """How long clicks on Fit take, in seconds; each fit is cancelled at once."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        panel.ui.fitButton.click()
        seconds.append(time.perf_counter() - began)
        panel.work.cancel()
        longest_hold(panel)
    return seconds


def longest_hold(panel) -> float:
    """The longest turn of the event loop until the work has ended, in seconds."""
    longest = 0.0
    while panel.work.is_busy:
        began = time.perf_counter()
        qt.application.processEvents()
        if panel.work.is_busy:  # writing the result at the end is not in the fit any more
            longest = max(longest, time.perf_counter() - began)
        time.sleep(0.001)
    return longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 256, 256))
    parser.add_argument("--seconds", type=int, default=30, help="of tuning")
    arguments = parser.parse_args()
    _headless, panel = built()
    prepared(panel, tuple(arguments.shape))
    panel.ui.secondsBox.setValue(arguments.seconds)
    first, *others = clicks(panel)
    panel.ui.fitButton.click()
    longest = longest_hold(panel)
    print(f"{tuple(arguments.shape)} voxels: click on Fit {first:.3f} s, later ones {statistics.median(others):.3f} s")
    print(f"longest hold {longest:.3f} s (target <= 0.05 s)")
    print(panel.ui.workLabel.text)
    panel.cleanup()
    sys.stdout.flush()
    os._exit(0)  # Qt's and VTK's objects refer to each other; taking them down in order is the application's work


if __name__ == "__main__":
    main()
