"""The compared networks: calling convention, gradients, and what is particular to each."""

from __future__ import annotations

import pytest
import torch

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.da_vnet import ChannelAttention, DAVNetConfig, SpatialAttention
from CrossModalSegLib.models.dense_unet import DenseBlock, DenseUNetConfig
from CrossModalSegLib.models.dual_decoder_vnet import DualDecoderVNet, DualDecoderVNetConfig
from CrossModalSegLib.models.factory import NETWORKS, build_network, network_config
from CrossModalSegLib.models.m_cnn import MCNNConfig
from CrossModalSegLib.models.mm_unet import MMUNetConfig
from CrossModalSegLib.models.monai_networks import DynUNetConfig, UNetPlusPlusConfig, UNETRConfig

SHAPE = (16, 32, 32)
SMALL = {
    "cmfnet": {"base_channels": 2},
    "vnet": {"base_channels": 2},
    "dual_decoder_vnet": {"base_channels": 2},
    "m_cnn": {"base_channels": 2, "embedding": 4},
    "mm_unet": {"base_channels": 4},
    "da_vnet": {"base_channels": 4, "window": 3},
    "resunet": {"channels": (2, 4, 6, 8, 8)},
    "unet_plus_plus": {"channels": (2, 4, 6, 8, 8, 4)},
    "dense_unet": {"base_channels": 4, "growth": 2, "layers": (1, 2, 2, 2, 2)},
    "unetr": {"patch": SHAPE, "feature_size": 4, "hidden_size": 24, "mlp_size": 32, "heads": 3},
    "dynunet": {"channels": (2, 4, 6, 8, 8)},
}


def small(name, classes=3, modalities=2, **options):
    if name == "unetr":
        pytest.importorskip("einops", reason="MONAI's transformer needs einops, which is not installed")
    torch.manual_seed(0)
    return build_network(name, to_dict(network_config(name, classes, modalities, **{**SMALL[name], **options})))


def test_every_network_is_tested():
    assert set(SMALL) == set(NETWORKS)


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_calling_convention(name, modalities):
    network = small(name, modalities=modalities)
    images = torch.rand(2, modalities, *SHAPE)
    logits = network(images)
    similarity = logits.pop("similarity", torch.zeros(()))
    assert "out" in logits and (similarity.ndim == 0)
    assert {tuple(value.shape) for value in logits.values()} == {(2, 3, *SHAPE)}
    (similarity + sum(value.square().mean() for value in logits.values())).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network.segment(images), network(images)["out"])


@pytest.mark.parametrize("name", SMALL)
def test_the_divisor_is_enough(name):
    if name == "unetr":
        pytest.skip("UNETR takes one size only")
    network = small(name).eval()
    size = network.divisor
    with torch.no_grad():
        assert network.segment(torch.rand(1, 2, size, size, 2 * size)).shape == (1, 3, size, size, 2 * size)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"cmfnet", "vnet"}))
def test_wrong_images_are_told(name):
    network = small(name)
    with pytest.raises(ModelError, match=r"\(N, 2, k, j, i\)"):
        network(torch.rand(1, 3, *SHAPE))
    with pytest.raises(ModelError, match="multiples of"):
        network.segment(torch.rand(1, 2, 16, 32, 33))


@pytest.mark.parametrize("name", SMALL)
def test_every_default_configuration_survives_the_factory(name):
    config_class, network_class = NETWORKS[name]
    if name == "unetr":
        assert config_class().patch == (16, 96, 96)
        return
    with torch.device("meta"):
        network = build_network(name, to_dict(config_class()))
    assert type(network) is network_class
    assert network.config == config_class()


def test_unetr_without_einops_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install einops"):
        build_network("unetr", to_dict(UNETRConfig()))


def test_unetr_takes_its_patch_only():
    network = small("unetr")
    assert network.fixed_patch == SHAPE
    with pytest.raises(ModelError, match="sliding window"):
        network(torch.rand(1, 2, 16, 48, 32))


@pytest.mark.parametrize(
    ("name", "option", "count"),
    [("unet_plus_plus", {"deep_supervision": True}, 3), ("dynunet", {"deep_supervision": 2, "residual": True}, 2)],
)
def test_deep_supervision_adds_predictions_in_training_only(name, option, count):
    network = small(name, **option)
    images = torch.rand(2, 2, *SHAPE)
    logits = network(images)
    assert list(logits) == ["out", *(f"aux{n}" for n in range(1, count + 1))]
    assert {tuple(value.shape) for value in logits.values()} == {(2, 3, *SHAPE)}
    sum(value.square().mean() for value in logits.values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert list(network.eval()(images)) == ["out"]


def test_the_prediction_of_unet_plus_plus_is_the_deepest_path():
    plain, supervised = small("unet_plus_plus"), small("unet_plus_plus", deep_supervision=True)
    plain.load_state_dict(supervised.state_dict(), strict=False)
    images = torch.rand(2, 2, *SHAPE)
    torch.testing.assert_close(plain.eval().segment(images), supervised.train()(images)["out"])


def test_dual_decoders_see_the_same_encoder_and_differ_by_dropout():
    torch.manual_seed(0)
    network = DualDecoderVNet(DualDecoderVNetConfig(base_channels=2, dropout=0.0))
    network.auxiliary_decoder.load_state_dict(network.decoder.state_dict())
    images = torch.rand(1, 2, *SHAPE)
    trained = network(images)
    assert not torch.equal(trained["out"], trained["aux"])
    evaluated = network.eval()(images)
    assert torch.equal(evaluated["out"], evaluated["aux"])


def test_m_cnn_gives_the_log_of_the_mean_probability():
    network = small("m_cnn").eval()
    logits = network(torch.rand(1, 2, *SHAPE))
    mean = 0.5 * (logits["ct"].softmax(1) + logits["mr"].softmax(1))
    torch.testing.assert_close(logits["out"].exp(), mean)
    torch.testing.assert_close(logits["out"].softmax(1), mean)


def test_m_cnn_learns_to_tell_pairs():
    network = small("m_cnn", dropout=0.0)
    images = torch.rand(2, 2, *SHAPE)
    images[:, 1] = images[:, 0]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = network(images)["similarity"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_attention_weights_lie_between_0_and_1():
    features = torch.randn(2, 8, 4, 6, 6)
    channel, spatial = ChannelAttention(8, 4)(features), SpatialAttention(3)(features)
    assert channel.shape == (2, 8, 1, 1, 1)
    assert spatial.shape == (2, 1, 4, 6, 6)
    assert all(((w > 0) & (w < 1)).all() for w in (channel, spatial))


def test_a_dense_block_keeps_what_it_was_given():
    block = DenseBlock(3, 2, 4, 0.0)
    x = torch.rand(1, 3, 2, 4, 4)
    y = block(x)
    assert y.shape[1] == block.out_channels == 3 + 4 * 2
    assert torch.equal(y[:, :3], x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_network("nnunet", {}), "no network named 'nnunet'; the networks are"),
        (lambda: build_network("mm_unet", {"chanels": 2}), "chanels"),
        (lambda: build_network("mm_unet", {"num_classes": "two"}), "num_classes"),
        (lambda: network_config("vnet", 1, 2), "at least 2 classes"),
        (lambda: network_config("cmfnet", 2, 2, base_channels=0), "base_channels of at least 1; got 0"),
        (lambda: network_config("cmfnet", 2, 2, mr_depth=7), "depth of 3, 4, 5 or 6"),
        (lambda: build_network("vnet", {"dropout": 1.5}), "'vnet' cannot be built .* got 1.5"),
        (lambda: network_config("m_cnn", 2, 3), "one or two modalities"),
        (lambda: MMUNetConfig(num_classes=1), "num_classes of at least 2"),
        (lambda: MMUNetConfig(in_channels=0), "in_channels of at least 1"),
        (lambda: DAVNetConfig(window=4), "odd"),
        (lambda: DenseUNetConfig(layers=(3,)), "blocks"),
        (lambda: UNETRConfig(patch=(16, 90, 96)), "multiples of 16"),
        (lambda: UNETRConfig(hidden_size=100), "heads"),
        (lambda: DynUNetConfig(deep_supervision=9), r"0\.\.3"),
        (lambda: UNetPlusPlusConfig(num_classes=0), "num_classes"),
        (lambda: MCNNConfig(embedding=0), "embedding"),
    ],
)
def test_wrong_configurations_are_told(make, message):
    with pytest.raises(ModelError, match=message):
        make()
