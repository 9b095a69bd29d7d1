from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import InputError, ModelError
from CrossModalSegLib.inference.predictor import predict
from CrossModalSegLib.losses.entropy_minimization import entropy_loss
from CrossModalSegLib.losses.hybrid import HybridConfig, hybrid_loss
from CrossModalSegLib.losses.labelled_voxels import LabelledVoxels
from CrossModalSegLib.losses.mumford_shah import mumford_shah
from CrossModalSegLib.losses.total_variation import total_variation
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.models.dual_decoder_vnet import DualDecoderVNet, DualDecoderVNetConfig
from CrossModalSegLib.models.vnet import VNet, VNetConfig
from CrossModalSegLib.training.batches import Batch
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.methods.dmsps import DmspsConfig, mixed_labels, soft_cross_entropy
from CrossModalSegLib.training.methods.em import EmConfig
from CrossModalSegLib.training.methods.factory import build_method
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.methods.ms import MsConfig
from CrossModalSegLib.training.methods.s2l import PSEUDO_LABELS, S2LConfig, Scribble2Label
from CrossModalSegLib.training.methods.supervision import supervise
from CrossModalSegLib.training.methods.tv import TvConfig
from CrossModalSegLib.training.methods.ustm import MeanTeacher, UstmConfig, _draw_turns
from CrossModalSegLib.training.network import leaves_parameters_unused, make_network
from CrossModalSegLib.volume import Volume

SETTING = MethodSetting(num_classes=3, total_steps=100)
SHAPE = (8, 16, 16)


def batch(shape=SHAPE):
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((2, *shape), 255)
    labels[:, 2, 3, 2:6], labels[:, 4, 9, 2:6], labels[:, 6, 12, 2:6] = 0, 1, 2
    images = torch.rand(2, 2, *shape, generator=generator)
    return Batch(images, labels, torch.ones(2, *shape, dtype=torch.bool), ((2.0, 1.0, 1.0),) * 2, (0, 1))


def network_for(method):
    options = {"num_classes": 3, "base_channels": 2, "normalization": "none"}
    torch.manual_seed(0)
    if method == "cmfnet":
        return CmFNet(CmFNetConfig(**options))
    if method == "dmsps":
        return DualDecoderVNet(DualDecoderVNetConfig(depth=3, **options))
    return VNet(VNetConfig(in_channels=2, **options))


EXPECTED_TERMS = {
    "cmfnet": {"ssl", "imr", "imc"},
    "pce": {"pce", "dice"},
    "full": {"pce", "dice"},
    "em": {"pce", "dice", "entropy"},
    "tv": {"pce", "dice", "tv"},
    "ms": {"pce", "dice", "ms"},
    "ustm": {"pce", "dice", "consistency"},
    "s2l": {"pce", "dice", "pseudo"},
    "dmsps": {"pce", "dice", "pseudo"},
}


@pytest.mark.parametrize("name", EXPECTED_TERMS)
def test_each_method_names_its_terms_and_reaches_every_parameter(name):
    data = batch((16, 16, 16) if name == "cmfnet" else SHAPE)
    network = network_for(name)
    method = build_method(TrainingConfig(method=name), SETTING)
    method.bind(network, torch.enable_grad)
    assert name in ("cmfnet", "dmsps") or method.default_network == "vnet"
    terms = method.loss(data, network(data.images), step=50)
    assert EXPECTED_TERMS[name] <= terms.keys()
    if name != "cmfnet":
        parts = sum(value for term, value in terms.items() if term != "total")
        assert terms["total"].item() == pytest.approx(parts.item(), rel=1e-5)
    terms["total"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    method.after_step(50)
    method.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", ["cmfnet", "pce", "em", "ustm", "dmsps"])
def test_a_batch_without_labels_still_has_a_finite_loss_with_a_graph(name):
    data = batch((16, 16, 16) if name == "cmfnet" else SHAPE)
    data = replace(data, labels=torch.full_like(data.labels, 255))
    network = network_for(name)
    method = build_method(TrainingConfig(method=name), SETTING)
    method.bind(network, torch.enable_grad)
    terms = method.loss(data, network(data.images), step=0)
    terms["total"].backward()
    assert torch.isfinite(terms["total"])


def test_the_switches_of_table_vii_leave_terms_out():
    data = batch((16, 16, 16))
    outputs = network_for("cmfnet")(data.images)
    config = TrainingConfig()
    for switched_off in ("ssl", "imr", "imc"):
        changed = replace(config, hybrid=replace(config.hybrid, **{switched_off: False}))
        terms = build_method(changed, SETTING).loss(data, outputs, 0)
        assert switched_off not in terms and len({"ssl", "imr", "imc"} & terms.keys()) == 2


def test_a_network_of_one_branch_takes_the_hybrid_loss_without_consistency():
    """A single-modal model of Table IV with SSL and IMR."""
    data = batch()
    config = TrainingConfig(network="vnet", network_options={"base_channels": 2}, hybrid=HybridConfig(imc=False))
    config = replace(config, patch_size=SHAPE)
    method = build_method(config, SETTING)
    network = make_network(config, method, 3, 1)
    data = replace(data, images=data.images[:, :1])
    terms = method.loss(data, network(data.images), 0)
    terms["total"].backward()
    assert terms["total"].item() == pytest.approx((terms["ssl"] + terms["imr"]).item())
    assert all(p.grad is not None for p in network.parameters()) and not leaves_parameters_unused(config)
    with_consistency = replace(config, hybrid=HybridConfig())
    with pytest.raises(InputError, match="outputs out, mr"):
        make_network(with_consistency, build_method(with_consistency, SETTING), 3, 1)


def test_supervision_of_the_branches_is_a_switch():
    logits = {name: torch.randn(1, 2, 2, 2, 2) for name in ("out", "ct", "mr")}
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    separate = [supervise({"out": each}, labels, 0.0, True)["pce"] for each in logits.values()]
    assert supervise(logits, labels, 0.0, True)["pce"].item() == pytest.approx(sum(separate).item())
    assert supervise(logits, labels, 0.0, False)["pce"].item() == pytest.approx(separate[0].item())
    assert "dice" not in supervise(logits, labels, 0.0, True)


def cut_off(data):
    """The batch with its last columns beyond the volume."""
    data.inside[..., -3:] = False
    return data


def test_the_hybrid_loss_gets_the_epoch_the_spacing_and_what_is_inside():
    data = cut_off(batch((16, 16, 16)))
    outputs = {name: torch.randn(2, 3, 16, 16, 16) for name in ("out", "ct", "mr")}
    hybrid = HybridConfig(ramp_up_epochs=4)
    method = build_method(TrainingConfig(hybrid=hybrid, dice_weight=0.0), replace(SETTING, steps_per_epoch=10))
    terms = method.loss(data, outputs, step=20)
    expected = hybrid_loss(
        outputs, data.images, data.labels, hybrid, spacing=data.spacing, epoch=2.0, inside=data.inside
    )
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize(
    ("name", "term", "options", "expected"),
    [
        ("em", "entropy", {"em": EmConfig(0.3)}, lambda y, logits, data: 0.3 * entropy_loss(logits, data.inside)),
        (
            "tv",
            "tv",
            {"tv": TvConfig(0.3, "difference")},
            lambda y, logits, data: 0.3 * total_variation(y, "difference", spacing=data.spacing, inside=data.inside),
        ),
        (
            "ms",
            "ms",
            {"ms": MsConfig(0.3, 4.0)},
            lambda y, logits, data: 0.3 * mumford_shah(y, data.images, 4.0, spacing=data.spacing, inside=data.inside),
        ),
        (
            "ms",
            "ms",
            {"ms": MsConfig(1e-6, reduction="sum")},
            lambda y, logits, data: (
                1e-6 * mumford_shah(y, data.images, 1.0, "sum", spacing=data.spacing, inside=data.inside)
            ),
        ),
    ],
)
def test_regularisers_have_their_weights_and_options(name, term, options, expected):
    data, logits = cut_off(batch()), torch.randn(2, 3, *SHAPE)
    method = build_method(TrainingConfig(method=name, **options), SETTING)
    terms = method.loss(data, {"out": logits}, step=50)
    torch.testing.assert_close(terms[term], expected(logits.softmax(1), logits, data))


def test_the_dice_has_its_weight():
    data, logits = batch(), torch.randn(2, 3, *SHAPE)
    terms = supervise({"out": logits}, data.labels, 0.25, True)
    torch.testing.assert_close(terms["dice"], 0.25 * LabelledVoxels.of([logits], data.labels).dice()[0])


class Fixed(nn.Module):
    """Logits of three classes that follow from the image alone; the weight stands for all weights."""

    def __init__(self, logits):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits = torch.tensor(logits)

    def segment(self, images):
        return self.logits.view(1, 3, 1, 1, 1) * images[:, :1] + self.weight

    def forward(self, images):
        return {"out": self.segment(images)}


def test_ustm_compares_the_entropy_with_that_of_all_classes():
    method = MeanTeacher(SETTING, UstmConfig())
    assert method.threshold(100) == pytest.approx(math.log(3))
    assert method.threshold(0) == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(3))


def test_ustm_is_consistent_with_a_teacher_that_says_the_same():
    data = replace(batch(), images=torch.ones(2, 2, *SHAPE))
    network = Fixed([6.0, 0.0, 0.0])
    method = MeanTeacher(SETTING, UstmConfig(noise=0.0))
    method.bind(network, torch.enable_grad)
    assert method.regularization(data, network(data.images), 100)["consistency"].item() == 0.0
    with torch.no_grad():
        method.teacher.network.logits.copy_(torch.tensor([0.0, 6.0, 0.0]))
    p, q = torch.tensor([6.0, 0.0, 0.0]).softmax(0), torch.tensor([0.0, 6.0, 0.0]).softmax(0)
    expected = 0.5 * ((p - q) ** 2).sum().item()
    found = method.regularization(data, network(data.images), 100)["consistency"].item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_ustm_leaves_uncertain_voxels_out():
    data = replace(batch(), images=torch.ones(2, 2, *SHAPE))
    network = Fixed([0.1, 0.0, 0.0])
    method = MeanTeacher(SETTING, UstmConfig(noise=0.0))
    method.bind(network, torch.enable_grad)
    with torch.no_grad():
        network.weight.add_(1.0)
        network.logits.copy_(torch.tensor([3.0, 0.0, 0.0]))
    assert method.regularization(data, network(data.images), 0)["consistency"].item() == 0.0


def test_ustm_turns_only_where_the_shape_stays():
    data = replace(batch((8, 16, 8)), images=torch.rand(2, 2, 8, 16, 8))
    network = Fixed([4.0, 0.0, 0.0])
    method = MeanTeacher(SETTING, UstmConfig(noise=0.0, passes=1))
    method.bind(network, torch.enable_grad)
    for _ in range(8):
        assert method.regularization(data, network(data.images), 100)["consistency"].item() == pytest.approx(0.0)


def test_ustm_takes_half_turns_of_what_is_no_square():
    assert {_draw_turns(torch.Size((1, 1, 8, 16, 8))) for _ in range(40)} == {0, 2}
    assert {_draw_turns(torch.Size((1, 1, 8, 16, 16))) for _ in range(80)} == {0, 1, 2, 3}


def test_ustm_limits_its_noise():
    method = MeanTeacher(SETTING, UstmConfig(noise=1.0, noise_limit=0.25))
    noisy = method._noisy(torch.ones(1, 2, 4, 4, 4))
    assert (noisy.min(), noisy.max()) == (0.75, 1.25)


def test_the_teacher_follows_the_student():
    network = Fixed([1.0, 0.0, 0.0])
    method = MeanTeacher(SETTING, UstmConfig())
    method.bind(network, torch.enable_grad)
    network.weight.data.fill_(1.0)
    method.after_step(0)
    assert method.networks()["teacher"].weight.item() == pytest.approx(0.9)


def prepared():
    source = Volume(np.zeros((1, 1, 3), np.uint8), np.eye(4))
    images = np.zeros((1, 1, 1, 3), np.float32)
    return PreparedCase("a", images, None, None, (1.0, 1.0, 1.0), np.eye(4), source)


def test_s2l_averages_predictions_and_keeps_the_confident_voxels():
    method = Scribble2Label(MethodSetting(2, 100), S2LConfig(alpha=0.2, confidence=0.8))
    assert [step for step in range(40) if method.is_refresh_due(step)] == [20, 25, 30, 35]
    first = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], np.float32).reshape(2, 1, 1, 3)
    maps = method.refresh(20, [prepared()], lambda _case: first)
    np.testing.assert_array_equal(maps[PSEUDO_LABELS][0].ravel(), [0, 1, 255])
    maps = method.refresh(25, [prepared()], lambda _case: 1.0 - first)
    np.testing.assert_allclose(method.averages[0].ravel(), [0.8, 0.2, 0.5, 0.2, 0.8, 0.5], atol=1e-3)
    method.refresh(30, [prepared()], lambda _case: 1.0 - first)
    other = Scribble2Label(MethodSetting(2, 100), S2LConfig())
    other.load_state_dict(method.state_dict())
    np.testing.assert_array_equal(other.averages[0], method.averages[0])


def test_s2l_learns_from_pseudo_labels_where_no_scribble_is():
    data, method = batch(), Scribble2Label(SETTING, S2LConfig(weight=0.5))
    logits = torch.zeros(2, 3, *SHAPE)
    assert method.regularization(data, {"out": logits}, 0)["pseudo"].item() == 0.0
    logits[:, 1] = 50.0  # class 1 everywhere: wrong at the scribbles, which do not count here
    pseudo = torch.where(data.labels == 255, 1, 2)
    data = replace(data, extra={PSEUDO_LABELS: pseudo})
    assert method.regularization(data, {"out": logits}, 0)["pseudo"].item() == pytest.approx(0.0, abs=1e-6)
    uniform = method.regularization(data, {"out": torch.zeros_like(logits)}, 0)["pseudo"].item()
    assert uniform == pytest.approx(0.5 * math.log(3))


def test_dmsps_mixes_probabilities_and_takes_logits_once():
    first, second = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1, 1), torch.tensor([0.0, 4.0]).view(1, 2, 1, 1, 1)
    mix = mixed_labels(first.requires_grad_(), second, 0.25)
    expected = 0.25 * first.detach().softmax(1) + 0.75 * second.softmax(1)
    torch.testing.assert_close(mix, expected)
    assert not mix.requires_grad
    loss = soft_cross_entropy(first, mix)
    by_hand = -(mix * first.softmax(1).log()).sum()
    assert loss.item() == pytest.approx(by_hand.item())


def test_dmsps_weighs_the_mean_over_its_decoders(monkeypatch):
    data, first, second = cut_off(batch()), torch.randn(2, 3, *SHAPE), torch.randn(2, 3, *SHAPE)
    monkeypatch.setattr(torch, "rand", lambda _size: torch.tensor(0.25))
    method = build_method(TrainingConfig(method="dmsps", dmsps=DmspsConfig(6.0)), SETTING)
    mix = 0.25 * first.softmax(1) + 0.75 * second.softmax(1)
    expected = 3.0 * sum(soft_cross_entropy(logits, mix, data.inside) for logits in (first, second))
    torch.testing.assert_close(method.loss(data, {"out": first, "aux": second}, 0)["pseudo"], expected)


def test_dmsps_labels_its_second_stage_with_both_decoders():
    network = network_for("dmsps").eval()
    method = build_method(TrainingConfig(method="dmsps"), SETTING)
    images = batch().images
    both = predict(method.labelling_network(network), images[0], precision="fp32")
    with torch.no_grad():
        expected = sum(logits.softmax(1) for logits in network(images[:1]).values())[0] / 2
    np.testing.assert_allclose(both, expected, atol=1e-5)
    assert np.abs(both - predict(network, images[0], precision="fp32")).max() > 1e-3
    assert not network.training
    assert build_method(TrainingConfig(), SETTING).labelling_network(network) is network


@pytest.mark.parametrize("name", ["em", "tv", "ms", "ustm", "dmsps"])
def test_padding_is_left_out_by_every_method(name):
    data = batch()
    data.inside[:, :, 8:] = False
    network = network_for(name)
    method = build_method(TrainingConfig(method=name, dice_weight=0.0), SETTING)
    method.bind(network, torch.enable_grad)
    data = replace(data, labels=data.labels.masked_fill(~data.inside, 255))
    outputs = {key: value.detach().requires_grad_() for key, value in network(data.images).items()}
    method.loss(data, outputs, 100)["total"].backward()
    assert outputs["out"].grad.masked_select(~data.inside[:, None]).abs().sum() == 0
    assert outputs["out"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m_cnn", {"base_channels": 2}),
        ("unet_plus_plus", {"channels": [2, 2, 4, 4, 8, 2], "deep_supervision": True}),
        ("dynunet", {"channels": [2, 4, 6, 8], "deep_supervision": 2}),
    ],
)
def test_what_a_network_gives_beside_its_prediction_enters_the_loss(name, options):
    data = batch((16, 32, 32))
    config = TrainingConfig(method="pce", network=name, network_options=options)
    method = build_method(config, SETTING)
    network = make_network(config, method, 3, 2)
    terms = method.loss(data, network(data.images), 0)
    terms["total"].backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert not leaves_parameters_unused(config)
    assert leaves_parameters_unused(replace(config, deep_supervision=False)) == (name != "m_cnn")
    assert ("similarity" in terms) == (name == "m_cnn")
    if name == "m_cnn":
        hybrid = build_method(TrainingConfig(), SETTING).loss(data, network(data.images), 0)
        parts = sum(hybrid[term] for term in ("ssl", "imr", "imc", "similarity"))
        assert hybrid["total"].item() == pytest.approx(parts.item())
    else:
        assert leaves_parameters_unused(replace(config, method="cmfnet", hybrid=HybridConfig(imc=False)))


def test_a_network_for_inputs_of_one_size_is_built_for_the_patches():
    options = {"feature_size": 4, "hidden_size": 24, "mlp_size": 32, "heads": 3}
    config = TrainingConfig(method="full", network="unetr", network_options=options, patch_size=(16, 32, 32))
    network = make_network(config, build_method(config, SETTING), 3, 2)
    assert network.fixed_patch == (16, 32, 32)
    assert network(batch((16, 32, 32)).images)["out"].shape == (2, 3, 16, 32, 32)
    other = replace(config, network_options={**options, "patch": [16, 16, 16]})
    with pytest.raises(ModelError, match="made for inputs of"):
        make_network(other, build_method(other, SETTING), 3, 2)


def test_further_predictions_count_less_and_the_dual_decoder_not():
    logits = {name: torch.randn(1, 2, 2, 2, 2) for name in ("out", "aux1", "aux2", "aux")}
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    out, first, second, _ = (supervise({"out": each}, labels, 0.0, True)["pce"] for each in logits.values())
    expected = out + 0.5 * first + 0.25 * second
    assert supervise(logits, labels, 0.0, True)["pce"].item() == pytest.approx(expected.item())
    assert leaves_parameters_unused(TrainingConfig(method="pce", network="dual_decoder_vnet"))
