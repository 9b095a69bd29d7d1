"""Public weights: names of three libraries, and what may differ from the network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.focalnet import FocalNet, FocalNetConfig
from CrossModalSegLib.models.focalnet_weights import load_public_weights

CONFIG = FocalNetConfig(embed_dim=4, depths=(1, 1, 2, 1), focal_levels=(2, 2, 2, 2), in_channels=3, drop_path=0.0)


def make(seed, **changes):
    torch.manual_seed(seed)
    network = FocalNet(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def write(path, tensors):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def microsoft(state):
    """h is a 1x1 convolution there."""
    return {name: value[..., None, None] if ".h.weight" in name else value for name, value in state.items()}


def transformers(state):
    renamed = {}
    for name, value in microsoft(state).items():
        new = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        new = new.replace("patch_embed.norm", "embeddings.norm").replace("downsample.proj", "downsample.projection")
        new = re.sub(r"^layers\.(\d)\.blocks", r"encoder.stages.\1.layers", new)
        new = re.sub(r"^layers\.", "encoder.stages.", new)
        new = new.replace("modulation.f.", "modulation.projection_in.")
        new = new.replace("modulation.h.", "modulation.projection_context.")
        new = new.replace("modulation.proj.", "modulation.projection_out.")
        renamed["focalnet." + new.replace("norm3.", "layernorm.") if new.startswith("norm3") else "focalnet." + new] = (
            value
        )
    return {name: value for name, value in renamed.items() if not re.match(r"focalnet\.norm[0-2]", name)}


def timm(state):
    renamed = {}
    for name, value in state.items():
        if re.match(r"norm[0-2]", name):
            continue
        new = name.replace("patch_embed", "stem").replace("norm3", "norm")
        new = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", new)
        new = re.sub(r"gamma_(\d)", r"ls\1.gamma", new)
        new = re.sub(r"\.norm([12])\.", r".norm\1_post.", new)
        if re.search(r"\.(f|h|proj|fc1|fc2)\.weight$", new) and value.ndim == 2:
            value = value[..., None, None]
        renamed[new] = value
    return renamed


@pytest.mark.parametrize(
    ("form", "without"),
    [
        (microsoft, 0),
        (lambda s: {f"backbone.{k}": v for k, v in microsoft(s).items()}, 0),
        (transformers, 6),
        (timm, 6),
    ],
    ids=["microsoft", "whole model", "transformers", "timm"],
)
def test_names_of_all_libraries(tmp_path, form, without):
    source, network = make(0), make(1)
    path = write(tmp_path / "a.safetensors", {**form(source.state_dict()), "head.weight": torch.zeros(2, 32)})
    report = load_public_weights(network, path)
    assert (len(report.missing), report.adapted, report.unused) == (without, (), ("head.weight",))
    assert all(name.startswith("norm") for name in report.missing)
    network.load_state_dict({name: source.state_dict()[name] for name in report.missing}, strict=False)
    images = torch.rand(1, 3, 32, 32)
    for a, b in zip(network(images), source(images)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("channels", [1, 5])
def test_a_grey_image_gives_what_it_gave_in_colour(tmp_path, channels):
    source, network = make(0), make(1, in_channels=channels)
    report = load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    assert report.adapted == ("patch_embed.proj.weight",)
    grey = torch.rand(1, 1, 32, 32)
    for a, b in zip(network(grey.expand(-1, channels, -1, -1)), source(grey.expand(-1, 3, -1, -1))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("has", "needs"), [(False, True), (True, True)])
def test_patches_in_overlapping_convolutions_do_what_they_did(tmp_path, has, needs):
    source, network = make(0, use_conv_embed=has), make(1, use_conv_embed=needs)
    report = load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    assert len(report.adapted) == (4 if has != needs else 0)
    images = torch.rand(1, 3, 32, 32)
    for a, b in zip(network(images), source(images)):
        torch.testing.assert_close(a, b)


def test_overlapping_convolutions_are_cut_to_their_patches(tmp_path):
    source, network = make(0), make(1, use_conv_embed=False)
    load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    assert torch.equal(network.patch_embed.proj.weight, source.patch_embed.proj.weight[..., 2:6, 2:6])
    assert torch.equal(network.layers[0].downsample.proj.weight, source.layers[0].downsample.proj.weight[..., 1:, 1:])


def test_a_wider_window_is_filled_with_zeros(tmp_path):
    source, network = make(0), make(1, focal_window=5)
    load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    images = torch.rand(1, 3, 32, 32)
    for a, b in zip(network(images), source(images)):
        torch.testing.assert_close(a, b)


def test_a_narrower_window_is_the_middle(tmp_path):
    source, network = make(0, focal_window=5), make(1)
    load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    kernel = source.layers[1].blocks[0].modulation.focal_layers[1][0].weight
    assert torch.equal(network.layers[1].blocks[0].modulation.focal_layers[1][0].weight, kernel[..., 1:6, 1:6])


@pytest.mark.parametrize(("has", "needs"), [(2, 3), (3, 2)])
def test_common_levels_are_taken(tmp_path, has, needs):
    source, network = make(0, focal_levels=(has,) * 4), make(1, focal_levels=(needs,) * 4)
    before = network.layers[0].blocks[0].modulation.f.weight.clone()
    report = load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    given, f = (each.layers[0].blocks[0].modulation.f.weight for each in (source, network))
    assert torch.equal(f[:10], given[:10])  # 2 * 4 rows and two gates
    assert torch.equal(f[-1], given[-1])
    if needs == 3:
        assert torch.equal(f[10], before[10])
        assert set(report.missing) == {name for name in network.state_dict() if ".focal_layers.2." in name}
    else:
        assert len(report.unused) == 5


def test_factors_that_a_file_lacks_are_one(tmp_path):
    source = make(0, use_post_norm=False, layer_scale=None)
    network = make(1, use_post_norm=False)
    report = load_public_weights(network, write(tmp_path / "a.safetensors", microsoft(source.state_dict())))
    assert len(report.adapted) == 10 and report.missing == ()
    images = torch.rand(1, 3, 32, 32)
    for a, b in zip(network(images), source(images)):
        torch.testing.assert_close(a, b)


def test_half_precision_becomes_the_networks_own(tmp_path):
    state = {name: value.half() for name, value in microsoft(make(0).state_dict()).items()}
    network = make(1)
    load_public_weights(network, write(tmp_path / "a.safetensors", state))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_the_report_in_words(tmp_path):
    state = {name: v for name, v in microsoft(make(0).state_dict()).items() if not name.startswith("norm0")}
    path = write(tmp_path / "a.safetensors", {**state, "head.bias": torch.zeros(2)})
    text = str(load_public_weights(make(1), path))
    assert text.endswith("tensors taken; 2 not found (norm0.weight, norm0.bias); 1 not used (head.bias)")


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    path = tmp_path / "focalnet.pth"
    path.write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"only, because others can run any program.*weights_only=True"):
        load_public_weights(make(0), path)


def lacking(state):
    return {name: value for name, value in state.items() if "blocks.0.mlp" not in name}


def infinite(state):
    return {**state, "norm3.bias": torch.full((32,), float("inf"))}


@pytest.mark.parametrize(
    ("form", "source", "message"),
    [
        (microsoft, {"embed_dim": 8}, r"embed_dim 8 and depths \(1, 1, 2, 1\); the network has 4"),
        (microsoft, {"depths": (1, 1, 3, 1)}, r"depths \(1, 1, 3, 1\)"),
        (microsoft, {"use_post_norm": False, "layer_scale": None}, 'before its branches.*"use_post_norm": false'),
        (lambda state: {"conv.weight": torch.zeros(2)}, {}, "holds no FocalNet"),
        (lacking, {}, "only a part"),
        (infinite, {}, "NaN or infinite values in norm3.bias"),
    ],
)
def test_files_that_do_not_fit_change_nothing(tmp_path, form, source, message):
    network = make(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    path = write(tmp_path / "a.safetensors", form(make(0, **source).state_dict()))
    with pytest.raises(ModelError, match=message):
        load_public_weights(network, path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_encoder_of_another_size_is_told_as_settings(tmp_path):
    """And with those settings its weights are taken."""
    source = make(0, embed_dim=8, depths=(1, 2, 1, 1), focal_levels=(2, 1, 2, 3))
    path = write(tmp_path / "a.safetensors", microsoft(source.state_dict()))
    with pytest.raises(ModelError) as caught:
        load_public_weights(make(1), path)
    told = json.loads(re.search(r"settings file: (.*)\.$", str(caught.value))[1])["network"]["encoder"]
    network = FocalNet(from_dict(FocalNetConfig, to_dict(CONFIG) | told))
    assert load_public_weights(network, path).adapted == ()


def test_weights_with_factors_need_a_network_that_normalises_behind_its_branches(tmp_path):
    path = write(tmp_path / "a.safetensors", microsoft(make(0).state_dict()))
    with pytest.raises(ModelError, match="normalises behind its branches.*use_post_norm to true"):
        load_public_weights(make(1, use_post_norm=False), path)


@pytest.mark.parametrize("conv_embed", [True, False])
def test_the_tiny_network_of_seem_is_taken_with_its_depthwise_convolutions(tmp_path, conv_embed):
    source, network = make(0, use_depthwise=True), make(1, use_depthwise=True, use_conv_embed=conv_embed)
    state = {f"backbone.{name}": value for name, value in microsoft(source.state_dict()).items()}
    report = load_public_weights(network, write(tmp_path / "a.safetensors", state))
    assert (report.missing, report.unused) == ((), ())
    if conv_embed:
        images = torch.rand(1, 3, 32, 32)
        assert all(torch.equal(a, b) for a, b in zip(network(images), source(images)))
    else:
        # The stem begins three pixels before its patch.
        assert torch.equal(network.patch_embed.proj.weight, source.patch_embed.proj.weight[..., 3:, 3:])


@pytest.mark.parametrize(
    ("has", "message"),
    [
        (True, 'depth-wise convolutions before its branches, as the tiny.*"use_depthwise": true'),
        (False, "without depth-wise convolutions .* Set its use_depthwise to false"),
    ],
)
def test_depthwise_convolutions_are_neither_left_out_nor_random(tmp_path, has, message):
    path = write(tmp_path / "a.safetensors", microsoft(make(0, use_depthwise=has).state_dict()))
    with pytest.raises(ModelError, match=message):
        load_public_weights(make(1, use_depthwise=not has), path)


def test_a_block_with_parts_that_the_network_lacks_is_refused(tmp_path):
    """As the huge FocalNet, which normalises within its modulation, too."""
    state = microsoft(make(0).state_dict())
    parts = {f"layers.0.blocks.0.modulation.ln.{name}": torch.ones(4) for name in ("weight", "bias")}
    with pytest.raises(ModelError, match=r"parts that this encoder lacks: layers\.0\.blocks\.0\.modulation\.ln"):
        load_public_weights(make(1), write(tmp_path / "a.safetensors", {**state, **parts}))


def test_factors_that_the_network_lacks_are_not_left_out(tmp_path):
    path = write(tmp_path / "a.safetensors", microsoft(make(0).state_dict()))
    with pytest.raises(ModelError, match=r"parts that this encoder lacks: layers\.0\.blocks\.0\.gamma_1 and 9 others"):
        load_public_weights(make(1, layer_scale=None), path)


def test_the_conversion_that_is_told_copes_with_tensors_that_share_memory(tmp_path):
    """As a pickle may: safetensors does not write such tensors."""
    state = microsoft(make(0).state_dict())
    pickled, target = tmp_path / "focalnet.pth", tmp_path / "a.safetensors"
    torch.save({"model": {**state, "other.weight": state["norm3.weight"]}}, pickled)
    with pytest.raises(ModelError) as caught:
        load_public_weights(make(0), pickled)
    program = re.search(r'-c "(.*)" weights', str(caught.value))[1]
    subprocess.run([sys.executable, "-c", program, pickled, target], check=True)
    assert load_public_weights(make(1), target).missing == ()


def test_a_missing_and_a_damaged_file_are_told(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_public_weights(make(0), tmp_path / "none.safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(ModelError, match="damaged or not a safetensors file"):
        load_public_weights(make(0), path)
