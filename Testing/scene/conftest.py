"""Real MRML without the Slicer application, and nodes that are hard on geometry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")

from CrossModalSegLib.scene.headless import HeadlessScene


@pytest.fixture(scope="session")
def headless() -> HeadlessScene:
    return HeadlessScene()


@pytest.fixture
def scene(headless: HeadlessScene) -> Iterator[object]:
    headless.scene.Clear(0)
    yield headless.scene
    headless.scene.Clear(0)


@pytest.fixture(autouse=True)
def no_vtk_errors(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """VTK does not raise: it prints. Warnings of Slicer are failures, too."""
    yield
    printed = capfd.readouterr().err
    assert "ERR|" not in printed and "WARN|" not in printed, printed
