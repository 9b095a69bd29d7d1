"""FocalNet: published sizes, shapes, and focal modulation by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.focalnet import FOCALNET, DropPath, FocalModulation, FocalNet, FocalNetConfig, PatchEmbed

# Classification networks of the FocalNet paper: embed_dim, depths, levels -> millions of parameters.
PUBLISHED = [
    (96, (2, 2, 6, 2), 2, 28.4),
    (96, (2, 2, 6, 2), 3, 28.6),
    (96, (2, 2, 18, 2), 2, 49.9),
    (96, (2, 2, 18, 2), 3, 50.3),
    (128, (2, 2, 18, 2), 2, 88.1),
    (128, (2, 2, 18, 2), 3, 88.7),
]
SMALL = FocalNetConfig(embed_dim=4, depths=(1, 1, 2, 1), focal_levels=(1, 2, 2, 1), drop_path=0.2)


def count(config):
    with torch.device("meta"):
        return sum(p.numel() for p in FocalNet(config).parameters())


@pytest.mark.parametrize(("embed", "depths", "levels", "millions"), PUBLISHED)
def test_published_parameter_counts(embed, depths, levels, millions):
    plain = FocalNetConfig(
        embed, depths, (levels,) * 4, in_channels=3, layer_scale=None, use_post_norm=False, use_conv_embed=False
    )
    widest = 8 * embed
    head = 1000 * widest + 1000
    # A classifier normalises the coarsest map alone, this encoder all four.
    other_norms = 2 * sum(plain.channels[:3])
    assert (count(plain) - other_norms + head) / 1e6 == pytest.approx(millions, abs=0.051)


def test_parameter_count_of_the_tiny_preset_by_hand():
    def block(c):
        # f: 2c query and context, 4 gates; h, proj; kernels 3, 5, 7; MLP; two norms; two factors
        gates = 2 * c + 4
        return (c + 1) * gates + 2 * (c + 1) * c + (9 + 25 + 49) * c + (c + 1) * 4 * c + (4 * c + 1) * c + 4 * c + 2 * c

    def down(c):
        return 9 * c * 2 * c + 2 * c + 4 * c

    stem = 49 * 96 + 96 + 2 * 96
    blocks = 2 * block(96) + 2 * block(192) + 6 * block(384) + 2 * block(768)
    norms = 2 * (96 + 192 + 384 + 768)
    expected = stem + blocks + down(96) + down(192) + down(384) + norms
    assert count(FOCALNET["tiny"]) == expected == 29_824_560


def test_parameter_counts_of_the_other_presets():
    assert count(FOCALNET["large"]) == 205_728_120
    assert 5e6 < count(FOCALNET["compact"]) < 7e6


@pytest.mark.parametrize("conv_embed", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (33, 50), (5, 3)])
def test_strides_for_any_size(size, conv_embed):
    network = FocalNet(replace(SMALL, use_conv_embed=conv_embed))
    features = network(torch.rand(2, 1, *size))
    assert [tuple(f.shape) for f in features] == [
        (2, 4 * 2**i, -(-size[0] // 2 ** (i + 2)), -(-size[1] // 2 ** (i + 2))) for i in range(4)
    ]


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("post_norm", [True, False])
def test_every_parameter_gets_a_gradient(post_norm, depthwise):
    torch.manual_seed(0)
    config = replace(SMALL, use_post_norm=post_norm, use_depthwise=depthwise, drop_path=0.0, in_channels=3)
    network = FocalNet(config)
    weights = [torch.randn(c) for c in SMALL.channels]
    features = network(torch.rand(2, 3, 64, 64))
    sum((f * w[:, None, None]).square().mean() for f, w in zip(features, weights)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_feature_maps_are_normalised_before_the_down_sampling():
    torch.manual_seed(0)
    network = FocalNet(replace(SMALL, drop_path=0.0))
    seen = []
    network.layers[0].downsample.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    features = network(torch.rand(1, 1, 32, 32))
    torch.testing.assert_close(network.norm0(seen[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), features[0])
    torch.testing.assert_close(features[0].mean(1), torch.zeros(1, 8, 8), atol=1e-5, rtol=0)


def test_a_block_with_depthwise_convolutions_normalises_the_sums():
    torch.manual_seed(0)
    block = FocalNet(replace(SMALL, use_depthwise=True, drop_path=0.0)).layers[0].blocks[0]
    x = torch.randn(1, 6, 5, 4)

    def near(conv, y):
        return conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    y = x + near(block.dw1, x)
    y = block.norm1(y + block.gamma_1 * block.modulation(y))
    y = y + near(block.dw2, y)
    torch.testing.assert_close(block(x), block.norm2(y + block.gamma_2 * block.mlp(y)))


def test_the_stem_with_depthwise_convolutions_begins_three_pixels_before_its_patch():
    network = FocalNet(replace(SMALL, use_depthwise=True))
    with torch.no_grad():
        network.patch_embed.proj.weight.zero_()[..., 3, 3] = 1.0
    images = torch.rand(1, 1, 8, 8)
    found = network.patch_embed.proj(images)[:, :1]
    torch.testing.assert_close(found, images[..., ::4, ::4] + network.patch_embed.proj.bias[0])


def test_focal_modulation_by_hand():
    modulation = FocalModulation(channels=1, levels=2, window=1, normalize=True)
    with torch.no_grad():
        for linear in (modulation.f, modulation.h, modulation.proj):
            linear.weight.fill_(1.0)
            linear.bias.zero_()
        # rows: query, context, gates of level 1, of level 2 and of the mean
        modulation.f.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0]))
        modulation.focal_layers[0][0].weight.fill_(2.0)
        modulation.focal_layers[1][0].weight.fill_(1.0)
    x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
    gelu = nn.GELU()
    first = gelu(torch.tensor([2.0, 6.0]))
    second = gelu(first.sum().expand(2))  # a kernel of 3 sees both pixels
    whole = gelu(second.mean())
    level = x.flatten()
    gathered = (first * (level + 1) + second * (level + 2) + whole * (level + 3)) / 3
    torch.testing.assert_close(modulation(x).flatten(), level * gathered)


def test_drop_path_keeps_the_expectation():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    y = layer(torch.ones(4000, 2))
    assert sorted(set(y.flatten().tolist())) == pytest.approx([0.0, 4 / 3])
    assert torch.equal(y[:, 0], y[:, 1])
    assert y.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer.eval()(y), y)


def test_drop_path_rises_from_the_first_block_to_the_last():
    network = FocalNet(SMALL)
    rates = [block.drop_path.probability for layer in network.layers for block in layer.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_an_embedding_pads_below_and_on_the_right():
    embed = PatchEmbed(1, 1, 2, overlapping=False)
    embed.norm = nn.Identity()
    with torch.no_grad():
        embed.proj.weight.fill_(1.0)
        embed.proj.bias.zero_()
        y = embed(torch.arange(1.0, 10.0).view(1, 1, 3, 3))
    assert y[0, :, :, 0].tolist() == [[12.0, 9.0], [15.0, 9.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 0}, "at least 1"),
        ({"depths": (1, 0, 1, 1)}, "at least 1"),
        ({"focal_window": 4}, "odd number; got 4"),
        ({"drop_path": 1.0}, "within 0 and 1"),
        ({"mlp_ratio": 0.0}, "above 0"),
    ],
)
def test_wrong_configurations_are_told(options, message):
    with pytest.raises(ModelError, match=message):
        FocalNetConfig(**options)


def test_wrong_images_are_told():
    with pytest.raises(ModelError, match=r"\(B, 1, H, W\); got \(1, 3, 8, 8\)"):
        FocalNet(SMALL)(torch.rand(1, 3, 8, 8))
