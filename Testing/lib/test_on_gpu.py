"""What has to work on a CUDA device as on the CPU: losses, networks, trainings, fits and references.

Run by hand where there is one: python -m pytest -m gpu Testing/lib
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from referring_setup import tiny_referring_config
from referring_support import SIZE, tiny_model
from referring_support import TABLE as ORGANS
from safetensors.torch import load_file
from training_cohort import make_cohort, tiny_config

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.fitting.fit_case import FitConfig, fit_case
from CrossModalSegLib.inference.model_folder import load_model
from CrossModalSegLib.inference.predictor import predict
from CrossModalSegLib.inference.referring import ReferSession
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.losses import crf
from CrossModalSegLib.losses.crf import CrfConfig, multi_view_crf
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.progress import CancelToken
from CrossModalSegLib.training.config import MethodName
from CrossModalSegLib.training.referring.trainer import train_referring
from CrossModalSegLib.training.trainer import train
from CrossModalSegLib.volume import Volume, same_geometry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(autouse=True)
def without_curve(monkeypatch):
    """Drawing takes longer than these trainings."""
    monkeypatch.setattr("CrossModalSegLib.report.curve.write_curve", lambda *_: None)


@pytest.fixture
def without_tf32():
    """TF32 rounds products to ten bits."""
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before):
        place.allow_tf32 = value


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("classes", [2, 8])
def test_the_crf_has_the_same_value_and_gradient(classes, is_fused, monkeypatch):
    if is_fused:
        assert crf._fused_energy(torch.device("cuda", 0)) is not None
    else:
        monkeypatch.setattr(crf, "_fused_energy", lambda device: None)
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 8, 20, 24, generator=generator)
    images = torch.rand(2, 2, 8, 20, 24, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        leaf = logits.to(device).detach().requires_grad_()
        spacing = ((3.0, 1.0, 1.0), (5.0, 0.8, 0.8))
        value = multi_view_crf(leaf.softmax(1), images.to(device), (0.2, 0.2), CrfConfig(unit="mm"), spacing)
        value.backward()
        results.append((value.item(), leaf.grad.cpu()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-4, atol=1e-7)


@pytest.mark.usefixtures("without_tf32")
def test_the_same_network_predicts_the_same():
    torch.manual_seed(0)
    network = CmFNet(CmFNetConfig(num_classes=3, base_channels=4)).eval()
    images = np.random.default_rng(0).random((2, 20, 50, 44)).astype(np.float32)
    on_cpu = predict(network, images, patch=(16, 32, 32), precision="fp32")
    on_gpu = predict(network.to("cuda"), images, patch=(16, 32, 32), precision="fp32")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)
    halved = predict(network, images, patch=(16, 32, 32), precision="bf16")
    assert np.abs(halved - on_cpu).mean() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", get_args(MethodName))
def test_every_method_trains(method, precision, cohort, tmp_path):
    out = train(cohort, tmp_path / "out", tiny_config(method=method, precision=precision), accelerator="cuda")
    assert all(torch.isfinite(each).all() for each in load_file(out / "model.safetensors").values())


def test_a_training_with_processes_is_continued(cohort, tmp_path):
    cancel = CancelToken()
    config = tiny_config(method="cmfnet", precision="bf16", num_workers=2, steps=6, augmentation="default")

    def stop_early(done, total, message="", values=None):
        if message == "Training" and done == 3:
            cancel.cancel()

    with pytest.raises(Cancelled):
        train(cohort, tmp_path / "out", config, accelerator="cuda", progress=stop_early, cancel=cancel)
    out = train(cohort, tmp_path / "out", config, accelerator="cuda", resume=True)
    assert load_model(out, "cuda").card.architecture == "cmfnet"


@pytest.mark.parametrize("workers", [0, 2])
def test_crossmr_trains(workers, cohort, tmp_path):
    config = tiny_referring_config(dense_guidance=True, precision="bf16", num_workers=workers)
    out = train_referring([cohort], tmp_path / "out", config, accelerator="cuda")
    assert all(torch.isfinite(each).all() for each in load_file(out / "model.safetensors").values())


@pytest.mark.parametrize("method", ["cmfnet", "scratch", "pce"])
def test_fit_answers_and_honours_the_scribbles(method):
    grid = Volume(np.random.default_rng(0).normal(0, 20, (24, 64, 64)).astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0]))
    grid.array[8:16, 20:40, 20:40] += 100
    scribbles = np.full(grid.array.shape, 255, np.uint8)
    scribbles[8:16:2, 30, 24:36] = 1
    scribbles[8:16:2, 50, 5:60] = 0
    loaded = LoadedCase("case", {"ct": grid, "mr": grid}, grid.with_array(scribbles), None)
    config = FitConfig(method, seconds=3.0, preview_every=1.0)
    result = fit_case(loaded, LabelTable.from_names(["box"]), config, device="cuda")
    drawn = scribbles != 255
    assert same_geometry(result.labels, loaded.scribbles)
    assert np.array_equal(result.labels.array[drawn], scribbles[drawn])
    assert np.isfinite(result.history[-1]["total"])


@pytest.mark.usefixtures("without_tf32")
@pytest.mark.parametrize("name", ["tiny", "abdomen-mr"])
def test_a_reference_is_answered_as_on_the_cpu(name):
    noise = np.random.default_rng(0).random((4, SIZE, SIZE)).astype(np.float32)
    image = Volume(noise, np.diag([4.0, 4.0, 6.0, 1.0]))
    scribbles = np.full(noise.shape, 255, np.uint8)
    scribbles[1, 10:14, 10:30] = 1
    scribbles[2, 40:44, 30:50] = 2
    model, answers = tiny_model() if name == "tiny" else load_model(name), []
    for device in ("cpu", "cuda"):
        session = ReferSession(model, device, precision="fp32")
        session.set_reference(image)
        session.add_target("target", image.with_array(noise[:, ::-1].copy()))
        answers.append(session.refer(image.with_array(scribbles), ORGANS).segmentations)
    model.network.to("cpu")
    assert answers[0].keys() == answers[1].keys() == {"reference", "target"}
    for one, other in zip(answers[0].values(), answers[1].values()):
        assert (one.array != other.array).mean() < 0.01
