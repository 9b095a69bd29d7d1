"""CmFNet: every combination of Table V, every switch of Table VI."""

from __future__ import annotations

import itertools

import pytest
import torch

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig, ModalityBranch
from CrossModalSegLib.models.fusion import CrossModalFeatureEnhancement, CrossModalFeatureFusion

SHAPE = (16, 32, 32)
# cfe, cff
TABLE_VI = {"MFL": (False, False), "MFL + CFE": (True, False), "MFL + CFE + CFF": (True, True)}


def network(**options):
    torch.manual_seed(0)
    return CmFNet(CmFNetConfig(**{"base_channels": 2, **options}))


def check(model, channels, classes=2):
    """Shapes, a gradient for every parameter, and segment == forward's "out"."""
    images = torch.rand(1, channels, *SHAPE)
    logits = model(images)
    names = ("out", "ct", "mr") if model.config.cfe else ("out", "mr")
    assert {name: tuple(value.shape) for name, value in logits.items()} == dict.fromkeys(names, (1, classes, *SHAPE))
    sum(value.square().mean() for value in logits.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    torch.testing.assert_close(model.segment(images), model(images)["out"])


@pytest.mark.parametrize(("ct_depth", "mr_depth"), [*itertools.product((3, 4, 5, 6), repeat=2)])
def test_every_combination_of_table_5(ct_depth, mr_depth):
    check(network(ct_depth=ct_depth, mr_depth=mr_depth), 2)


@pytest.mark.parametrize("modules", TABLE_VI)
def test_every_row_of_table_6(modules):
    cfe, cff = TABLE_VI[modules]
    check(network(cfe=cfe, cff=cff, num_classes=4), 2, classes=4)


@pytest.mark.parametrize("normalization", ["none", "batch", "instance"])
def test_every_normalization(normalization):
    check(network(normalization=normalization), 2)


def test_the_rows_of_table_6_grow():
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in CmFNet(CmFNetConfig(cfe=a, cff=b)).parameters()) for a, b in TABLE_VI.values()]
    assert sizes == sorted(set(sizes))


def test_without_the_cross_modal_branch_the_result_is_the_ct_branch():
    model = network(cfe=False, cff=False).eval()
    images = torch.rand(1, 2, *SHAPE)
    logits = model(images)
    assert set(logits) == {"out", "mr"}
    assert torch.equal(logits["out"], model.ct_decoder(model.ct_encoder(images[:, :1])))


@pytest.mark.parametrize("cfe", [False, True])
def test_each_branch_of_table_5_answers_by_itself(cfe):
    model = network(cfe=cfe, cff=False).eval()
    images = torch.rand(1, 2, *SHAPE)
    logits = model(images)
    assert torch.equal(ModalityBranch(model, "ct").segment(images), logits["ct" if cfe else "out"])
    assert torch.equal(ModalityBranch(model, "mr").segment(images), logits["mr"])


def test_one_modality_goes_into_both_branches():
    one, two = network(modalities=1).eval(), network(modalities=2).eval()
    two.load_state_dict(one.state_dict())
    image = torch.rand(1, 1, *SHAPE)
    torch.testing.assert_close(one.segment(image), two.segment(torch.cat([image, image], dim=1)))
    check(network(modalities=1), 1)


def test_prompt_channels_reach_both_branches():
    model = network(prompt_channels=2).eval()
    images = torch.rand(1, 4, *SHAPE)
    before = model(images)
    images[:, 3] += 1.0
    after = model(images)
    assert all((before[name] != after[name]).any() for name in ("out", "ct", "mr"))


def test_each_modality_reaches_its_own_branch_only():
    model = network().eval()
    images = torch.rand(1, 2, *SHAPE)
    before = model(images)
    images[:, 1] += 1.0
    after = model(images)
    assert torch.equal(before["ct"], after["ct"])
    assert (before["mr"] != after["mr"]).any()
    assert (before["out"] != after["out"]).any()


def test_fusion_and_enhancement_shapes():
    f = torch.rand(2, 8, 4, 6, 6)
    fused = CrossModalFeatureFusion(8, "none")(f, f)
    assert fused.shape == f.shape
    assert CrossModalFeatureEnhancement(8, 16, "none")(fused).shape == (2, 16, 2, 3, 3)


def test_what_does_not_fit_is_told():
    with pytest.raises(ModelError, match="one or two"):
        CmFNetConfig(modalities=3)
    with pytest.raises(ModelError, match="Table VI"):
        CmFNetConfig(cfe=False)
    with pytest.raises(ModelError, match=r"\(N, 2, k, j, i\)"):
        network()(torch.rand(1, 1, *SHAPE))
    with pytest.raises(ModelError, match=r"multiples of 16; got \(16, 24, 32\)"):
        network().segment(torch.rand(1, 2, 16, 24, 32))
