"""The hybrid loss: switches of Table VII, weights and bad inputs."""

from __future__ import annotations

import math

import pytest
import torch

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.consistency import inter_modal_consistency
from CrossModalSegLib.losses.crf import multi_view_crf
from CrossModalSegLib.losses.hybrid import HybridConfig, hybrid_loss
from CrossModalSegLib.losses.partial_cross_entropy import partial_cross_entropy

SHAPE = (3, 6, 6)


def batch(classes=3, images=2, names=("out", "ct", "mr")):
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(2, classes, *SHAPE, generator=generator).requires_grad_() for name in names}
    scribbles = torch.full((2, *SHAPE), 255, dtype=torch.uint8)
    scribbles[:, 0, 0, :3] = torch.arange(3, dtype=torch.uint8) % classes
    return logits, torch.rand(2, images, *SHAPE, generator=generator), scribbles


def test_the_total_is_the_sum_of_equations_4_7_and_8():
    logits, images, scribbles = batch()
    y = {name: value.softmax(1) for name, value in logits.items()}
    terms = hybrid_loss(logits, images, scribbles, HybridConfig(lambda_ct=0.2, lambda_mr=0.3, alpha1=0.8, alpha2=0.7))
    ssl = sum(partial_cross_entropy(value, scribbles) for value in logits.values())
    imr = multi_view_crf(y["out"], images, (0.2, 0.3))
    imc = inter_modal_consistency(y["out"], y["ct"], y["mr"], 0.8, 0.7)
    for name, expected in {"ssl": ssl, "imr": imr, "imc": imc, "total": ssl + imr + imc}.items():
        torch.testing.assert_close(terms[name], expected)
    assert set(terms) == {"pce_out", "pce_ct", "pce_mr", "ssl", "imr", "imc", "total"}


@pytest.mark.parametrize(("imr", "imc"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_row_of_table_7(imr, imc):
    logits, images, scribbles = batch()
    terms = hybrid_loss(logits, images, scribbles, HybridConfig(imr=imr, imc=imc))
    switched_on = {"ssl"} | ({"imr"} if imr else set()) | ({"imc"} if imc else set())
    assert set(terms) & {"ssl", "imr", "imc"} == switched_on
    torch.testing.assert_close(terms["total"], sum(terms[name] for name in switched_on))
    terms["total"].backward()
    assert all(torch.isfinite(value.grad).all() for value in logits.values())


def test_the_crf_acts_on_the_fused_prediction_only():
    logits, images, scribbles = batch()
    hybrid_loss(logits, images, scribbles, HybridConfig(ssl=False, imc=False))["total"].backward()
    assert logits["out"].grad.abs().sum() > 0
    assert logits["ct"].grad is None
    assert logits["mr"].grad is None


def test_a_single_branch_has_no_consistency():
    logits, images, scribbles = batch(names=("out",))
    terms = hybrid_loss(logits, images, scribbles, HybridConfig())
    assert set(terms) == {"pce_out", "ssl", "imr", "total"}


def test_without_cfe_each_branch_counts_once():
    logits, images, scribbles = batch(names=("out", "mr"))
    y = {name: value.softmax(1) for name, value in logits.items()}
    terms = hybrid_loss(logits, images, scribbles, HybridConfig(alpha1=0.6, alpha2=0.7))
    torch.testing.assert_close(terms["ssl"], sum(partial_cross_entropy(value, scribbles) for value in logits.values()))
    torch.testing.assert_close(terms["imc"], 0.7 * torch.nn.functional.mse_loss(y["out"], y["mr"]))


def test_one_modality_takes_both_weights():
    logits, images, scribbles = batch(images=1)
    terms = hybrid_loss(logits, images, scribbles, HybridConfig(lambda_ct=0.2, lambda_mr=0.3))
    torch.testing.assert_close(terms["imr"], multi_view_crf(logits["out"].softmax(1), images, (0.5,)))


def test_the_partial_dice_joins_the_scribble_term():
    logits, images, scribbles = batch()
    terms = hybrid_loss(logits, images, scribbles, HybridConfig(dice_weight=0.5))
    expected = sum(terms[f"pce_{n}"] + 0.5 * terms[f"dice_{n}"] for n in ("out", "ct", "mr"))
    torch.testing.assert_close(terms["ssl"], expected)


def test_the_ramp_scales_the_crf_alone():
    logits, images, scribbles = batch()
    config = HybridConfig(ramp_up_epochs=30)
    full = hybrid_loss(logits, images, scribbles, config)
    early = hybrid_loss(logits, images, scribbles, config, epoch=0)
    torch.testing.assert_close(early["imr"], math.exp(-5) * full["imr"])
    torch.testing.assert_close(early["imc"], full["imc"])
    assert [config.ramp(e) for e in (15, 30, None)] == pytest.approx([math.exp(-1.25), 1.0, 1.0])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("spatial_weight", [0.0, 0.5])
def test_padding_is_not_regularised(classes, spatial_weight):
    logits, images, scribbles = batch(classes=classes)
    config = HybridConfig(spatial_weight=spatial_weight)
    expected = hybrid_loss(logits, images, scribbles, config, spacing=(3.0, 1.0, 1.0))
    grown = tuple(n + 2 for n in SHAPE)
    inside = torch.zeros(2, *grown, dtype=torch.bool)
    inside[:, 1:-1, 1:-1, 1:-1] = True

    def pad(tensor, value):
        larger = torch.full((*tensor.shape[: tensor.ndim - 3], *grown), value, dtype=tensor.dtype)
        larger[..., 1:-1, 1:-1, 1:-1] = tensor.detach()
        return larger

    larger = {name: pad(value, 0.3).requires_grad_() for name, value in logits.items()}
    found = hybrid_loss(larger, pad(images, 0.0), pad(scribbles, 255), config, spacing=(3.0, 1.0, 1.0), inside=inside)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    found["total"].backward()
    expected["total"].backward()
    for name, value in logits.items():
        torch.testing.assert_close(larger[name].grad, pad(value.grad, 0.0))


def test_nothing_labelled_still_trains():
    logits, images, scribbles = batch()
    terms = hybrid_loss(logits, images, torch.full_like(scribbles, 255), HybridConfig(dice_weight=1.0))
    terms["total"].backward()
    assert terms["ssl"].item() == 0.0
    assert torch.isfinite(terms["total"])


def test_padding_keeps_the_ramp():
    logits, images, scribbles = batch()
    inside = torch.ones(2, *SHAPE, dtype=torch.bool)
    inside[:, -1] = False
    full, early = (
        hybrid_loss(logits, images, scribbles, HybridConfig(ramp_up_epochs=30), epoch=epoch, inside=inside)["imr"]
        for epoch in (None, 0)
    )
    torch.testing.assert_close(early, math.exp(-5) * full)


def test_a_detached_fused_prediction_is_not_pulled_by_the_others():
    logits, images, scribbles = batch()
    config = HybridConfig(ssl=False, imr=False, detach_fused=True)
    hybrid_loss(logits, images, scribbles, config)["total"].backward()
    assert logits["out"].grad is None
    assert logits["ct"].grad.abs().sum() > 0
    assert logits["mr"].grad.abs().sum() > 0


def test_bf16_autocast_gives_finite_floats():
    logits, images, scribbles = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = {name: value.bfloat16() for name, value in logits.items()}
        terms = hybrid_loss(rough, images, scribbles, HybridConfig(spatial_weight=0.1), spacing=(3.0, 1.0, 1.0))
    assert {value.dtype for value in terms.values()} == {torch.float32}
    terms["total"].backward()
    assert all(torch.isfinite(value.grad).all() for value in logits.values())


def test_the_configuration_survives_json():
    config = HybridConfig(imc=False, unit="mm", spatial_weight=0.5, ramp_up_epochs=30)
    assert from_dict(HybridConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HybridConfig(ssl=False, imr=False, imc=False), "at least one"),
        (lambda: HybridConfig(lambda_ct=-0.1), "lambda_ct"),
        (lambda: HybridConfig(sigma_intensity=0.0), "sigma_intensity"),
        (lambda: hybrid_loss({"ct": torch.rand(1, 2, *SHAPE)}, None, None, HybridConfig()), '"out"'),
        (lambda: hybrid_loss(*batch(images=3), HybridConfig()), "3 image channels"),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
