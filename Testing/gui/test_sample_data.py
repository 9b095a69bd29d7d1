"""The sample data, on a stand-in for Slicer's module Sample Data, real MRML and the real simulation."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; its wheels are for 64-bit Linux on PCs")

import numpy as np
import SampleData
import slicer
import slicer.util
from CrossModalSegPanel import installation, sample_data

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.scene.headless import HeadlessScene
from CrossModalSegLib.scene.scribbles import read_complete_scribbles
from CrossModalSegLib.scene.segmentations import read_mask
from CrossModalSegLib.scene.volumes import read_volume
from CrossModalSegLib.simulation import SimulationOptions, case_scribbles, case_seeds, simulate_case

TABLE = LabelTable.from_names(["GTV"])


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch):
    made = HeadlessScene()
    monkeypatch.setattr(slicer, "mrmlScene", made.scene, raising=False)
    monkeypatch.setattr(slicer, "modules", SimpleNamespace(sampleDataSources={}), raising=False)
    monkeypatch.setattr(sample_data, "SHAPE", (16, 40, 40))
    monkeypatch.setattr(sample_data, "SPACING", (9, 5, 5))
    yield made.scene
    made.scene.Clear(0)


def test_both_are_registered_once_with_slicers_own_files(scene) -> None:
    sample_data.register()
    sample_data.register()
    phantom, brain = slicer.modules.sampleDataSources["CrossModalSeg"]
    assert Path(phantom.thumbnailFileName).is_file()
    assert phantom.customDownloader is not None
    own = slicer.modules.sampleDataSources["General"][0]
    assert (brain.uris, brain.checksums, brain.nodeNames) == (own.uris, own.checksums, own.nodeNames)
    assert brain.customDownloader is None


@pytest.mark.parametrize("name", ["loadFileType", "loadFileTypes"])
def test_the_types_of_slicers_own_files_have_another_name_in_newer_versions(scene, name: str) -> None:
    SampleData.SampleDataLogic()
    own = slicer.modules.sampleDataSources["General"][0]
    setattr(own, name, vars(own).pop("loadFileType"))
    sample_data.register()
    assert slicer.modules.sampleDataSources["CrossModalSeg"][1].loadFileType == ["VolumeFile"] * 3


def test_without_the_module_sample_data_nothing_happens(scene, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "SampleData", None)
    sample_data.register()
    assert slicer.modules.sampleDataSources == {}


def test_the_button_makes_the_phantom_with_strokes_and_truth(scene) -> None:
    sample_data.register()
    phantom = slicer.modules.sampleDataSources["CrossModalSeg"][0]
    ct, mr, scribbles, mask = phantom.customDownloader(phantom)
    assert [node.GetName() for node in (ct, mr)] == ["Phantom CT", "Phantom MR"]
    seed = case_seeds(0, 1)[0]
    case = simulate_case("head", seed, SimulationOptions(shape=(16, 40, 40), spacing=(9, 5, 5)))
    np.testing.assert_array_equal(read_volume(ct).array, case.ct.array)
    np.testing.assert_allclose(read_volume(ct).affine, case.ct.affine, atol=1e-4)
    np.testing.assert_array_equal(read_volume(mr).array, case.mr.array)
    np.testing.assert_array_equal(read_mask(mask, ct, TABLE).array, case.mask.array)
    drawn = read_complete_scribbles(scribbles, ct, TABLE).array
    np.testing.assert_array_equal(drawn, case_scribbles(case, "contour", seed, sample_data.EVERY))
    assert not mask.GetDisplayNode().GetVisibility()


def test_the_application_stays_alive_meanwhile(scene, monkeypatch) -> None:
    events = []
    monkeypatch.setattr(slicer, "app", SimpleNamespace(processEvents=lambda: events.append(1)), raising=False)
    sample_data.loadPhantom()
    assert len(events) > 3


def test_without_the_library_a_sentence_says_what_to_do(scene, monkeypatch) -> None:
    said = []
    monkeypatch.setattr(sample_data.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(slicer.util, "errorDisplay", said.append)
    assert sample_data._make(None) == []
    assert len(said) == 1 and "not installed yet. Open the module CrossModalSeg and press" in said[0]
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_simulation_that_fails_is_quoted(scene, monkeypatch) -> None:
    monkeypatch.setattr(sample_data, "SHAPE", (1, 1, 1))
    with pytest.raises(installation.SetupError, match="could not be made:\n.*needs three axes"):
        sample_data.loadPhantom()
