from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.errors import GeometryError, OutputError
from CrossModalSegLib.inference.bundle import export_bundle
from CrossModalSegLib.inference.bundle_run import PrepareCase, find_cases
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model, save_model
from CrossModalSegLib.inference.segment import segment_case
from CrossModalSegLib.io import read_segmentation, read_volume, write_volume
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.factory import build_network
from CrossModalSegLib.volume import Volume, same_geometry

CONFIG = {"num_classes": 3, "modalities": 2, "base_channels": 2}


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    card = ModelCard(
        "tiny",
        "cmfnet",
        CONFIG,
        ("ct", "mr"),
        LabelTable.from_names(["liver", "spleen"]),
        Preprocessing(spacing=(2.0, 1.5, 1.5)),
        patch=(32, 32, 32),
        licence="CC BY 4.0",
    )
    return save_model(tmp_path / "model", build_network("cmfnet", CONFIG), card)


@pytest.fixture
def case_folder(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    folder = tmp_path / "data" / "case1"
    folder.mkdir(parents=True)
    write_volume(Volume(rng.normal(0, 100, (12, 26, 24)).astype(np.int16), affine), folder / "ct.nii.gz")
    write_volume(Volume(rng.random((12, 26, 24)).astype(np.float32), affine), folder / "mr.nii.gz")
    return folder


# MONAI warns that running a bundle's configuration runs code: this one was written a line above.
@pytest.mark.filterwarnings("ignore")
def test_monai_loads_the_network_with_its_weights(model, tmp_path):
    from monai.bundle import ConfigWorkflow
    from monai.bundle import load as load_bundle

    bundle = export_bundle(model, tmp_path / "tiny bundle")
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    network = load_bundle("tiny bundle", bundle_dir=tmp_path, workflow_type="inference", device="cpu")
    images = torch.rand(1, 2, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), load_model(model).network.segment(images))


@pytest.mark.filterwarnings("ignore")
def test_monai_runs_the_bundle_and_agrees_with_segment(model, case_folder, tmp_path):
    from monai.bundle import run

    # What `python -m monai.bundle run` calls; the command itself needs the optional package fire.
    bundle = export_bundle(model, tmp_path / "bundle")
    run(
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(case_folder.parent),
        output_dir=str(tmp_path / "out"),
        device="$torch.device('cpu')",
    )
    result, table = read_segmentation(tmp_path / "out" / "case1.seg.nrrd")
    images = {name: read_volume(case_folder / f"{name}.nii.gz") for name in ("ct", "mr")}
    loaded = LoadedCase("case1", images, None, None)
    expected = segment_case(load_model(model), loaded)
    assert same_geometry(result, images["ct"])
    np.testing.assert_array_equal(result.array, expected.labels.array)
    assert table is not None and table.names == ("liver", "spleen")


def test_images_on_two_grids_are_refused(case_folder):
    card = ModelCard("m", "cmfnet", {}, ("ct", "mr"), LabelTable.from_names(["a"]))
    (case,) = find_cases(case_folder.parent, card.modalities)
    image = read_volume(case["mr"])
    write_volume(Volume(image.array[1:], image.affine), case["mr"])
    with pytest.raises(GeometryError, match="'ct' and 'mr' should share one grid"):
        PrepareCase(card)(case)


def test_a_case_that_lacks_an_image_is_named(case_folder, caplog):
    other = case_folder.with_name("case2")
    other.mkdir()
    (other / "ct.nii.gz").write_bytes(b"")
    assert [case["name"] for case in find_cases(case_folder.parent, ("ct", "mr"))] == ["case1"]
    assert "case2 is left out: it has no image named mr" in caplog.text


def test_the_metadata_names_what_is_needed(model, tmp_path):
    bundle = export_bundle(model, tmp_path / "bundle")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert "CrossModalSegLib" in metadata["required_packages_version"]
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "background", "1": "liver", "2": "spleen"}
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(name.startswith("network.") for name in state)
    with pytest.raises(OutputError):
        export_bundle(model, tmp_path / "bundle")


@pytest.mark.parametrize(("licence", "told"), [("CC BY 4.0", "CC BY 4.0"), ("", "not stated")])
def test_the_text_of_a_bundle_tells_the_licence(licence, told, model, tmp_path):
    trained = load_model(model)
    folder = save_model(tmp_path / "other", trained.network, replace(trained.card, licence=licence))
    text = (export_bundle(folder, tmp_path / "bundle") / "docs" / "README.md").read_text(encoding="utf-8")
    assert text.endswith(f"Licence of the weights:\n{told}.\n")
