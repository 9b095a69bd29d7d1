"""What all tests share: the real images, grids that are hard on geometry, and hypothesis' settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Whoever runs the tests in the background may have switched Ctrl-C off, for them and for the programs they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The volumes here are tiny: threads would only wait for each other. Torch reads this when it is imported, here and in
# subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, settings

from CrossModalSegLib.volume import Volume
from grids import grid_affine

settings.register_profile(
    "project",
    deadline=None,
    max_examples=40,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")

sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: CROSSMODALSEG_DATA, or shared/data beside the repository."""
    named = os.environ.get("CROSSMODALSEG_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real images are not here ({folder}); set CROSSMODALSEG_DATA to their folder")
    return folder


@pytest.fixture
def oblique_volume() -> Volume:
    """Rotated, anisotropic, float32: shape (5, 7, 9), spacing (4.5, 1.1, 0.8) mm."""
    array = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float32)
    return Volume(array, grid_affine((0.8, 1.1, 4.5), (0.3, -0.2, 0.5), (-31.5, 12.25, 840.0)))
