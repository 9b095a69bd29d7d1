from __future__ import annotations

import json
from dataclasses import replace

import pytest

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses.hybrid import HybridConfig
from CrossModalSegLib.training.config import DEFAULT, FAST, PAPER, PRESETS, TrainingConfig, preset
from CrossModalSegLib.training.pseudo_labels import SecondStage


def test_the_paper_preset_is_the_paper():
    assert PAPER.optimizer == "adam" and PAPER.learning_rate == 1e-5 and PAPER.schedule == "constant"
    assert PAPER.weight_decay == 0.0 and PAPER.gradient_clip is None and PAPER.ema_decay is None
    assert PAPER.batch_size == 16 and PAPER.epochs == 200 and PAPER.patch_size == (16, 96, 96)
    assert PAPER.network_options == {"dropout": 0.5} and PAPER.augmentation == "none" and PAPER.dice_weight == 0.0
    hybrid = PAPER.hybrid
    assert (hybrid.lambda_ct, hybrid.lambda_mr, hybrid.alpha1, hybrid.alpha2) == (0.2, 0.2, 0.8, 0.8)
    assert hybrid.ssl and hybrid.imr and hybrid.imc and PAPER.second_stage is None


def test_the_default_preset_has_what_is_known_to_help():
    assert DEFAULT.augmentation == "default" and DEFAULT.dice_weight == 1.0 and DEFAULT.hybrid.unit == "mm"
    assert DEFAULT.ema_decay == 0.999 and DEFAULT.precision == "bf16" and DEFAULT.second_stage is not None
    assert FAST.network_options["base_channels"] == 8


@pytest.mark.parametrize("name", PRESETS)
def test_compared_methods_get_nothing_on_top(name):
    assert preset(name, "cmfnet") == PRESETS[name]
    for method in ("pce", "full", "em", "tv", "ms", "ustm", "s2l"):
        config = preset(name, method)
        assert config.method == method and config.dice_weight == 0.0 and config.second_stage is None
    assert (preset(name, "dmsps").second_stage is None) == (name == "fast")
    with pytest.raises(InputError, match='got "best"'):
        preset("best", "pce")


def test_the_paper_preset_trains_compared_methods_as_published():
    for method in ("pce", "em", "tv", "ms", "ustm", "s2l", "dmsps"):
        config = preset("paper", method)
        assert (config.optimizer, config.learning_rate, config.momentum) == ("sgd", 0.01, 0.9)
        assert (config.weight_decay, config.schedule) == (1e-4, "poly")
    assert preset("paper", "full").optimizer == "adam"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = PRESETS[name]
    assert from_dict(TrainingConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_epochs_become_steps():
    assert PAPER.steps_per_epoch(129) == 9 and PAPER.total_steps(129) == 1800
    assert PAPER.total_steps(129, processes=4) == 200 * 3
    assert replace(PAPER, epochs=None, steps=7).total_steps(129) == 7


@pytest.mark.parametrize(
    ("method", "annotation", "target", "network"),
    [
        ("cmfnet", "scribbles", "scribbles", "cmfnet"),
        ("cmfnet", "masks", "mask", "cmfnet"),
        ("full", "scribbles", "mask", "vnet"),
        ("dmsps", "scribbles", "scribbles", "dual_decoder_vnet"),
        ("ustm", "scribbles", "scribbles", "vnet"),
    ],
)
def test_target_and_network_follow_from_the_method(method, annotation, target, network):
    config = TrainingConfig(method=method, annotation=annotation)
    assert config.target == target and config.network_name == network
    assert replace(config, network="dynunet").network_name == "dynunet"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, 'The method is one of .*; got "magic"'),
        ({"epochs": 3}, "either epochs or steps; got 3 epochs and 20000 steps"),
        ({"steps": None}, "either epochs or steps"),
        ({"steps": 0}, "steps of a training is 1 or more; got 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"patch_size": (16, 0, 96)}, "patch size"),
        ({"learning_rate": 0.0}, "learning_rate of a training is above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"foreground": 1.5}, "foreground of a training is within 0 and 1; got 1.5"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes"),
        ({"hybrid": HybridConfig(dice_weight=1.0)}, "dice_weight of the training"),
        ({"method": "full", "second_stage": SecondStage()}, "masks leave none open"),
    ],
)
def test_unusable_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**changes)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("em", "weight"),
        ("tv", "weight"),
        ("ms", "weight"),
        ("ms", "contour_weight"),
        ("ustm", "consistency"),
        ("ustm", "noise"),
        ("s2l", "weight"),
        ("dmsps", "weight"),
    ],
)
def test_a_negative_weight_of_a_method_is_named(method, name):
    given = {"method": method, method: {name: -1.0}}
    with pytest.raises(InputError, match=f"The {name} of .* is 0 or more; got -1"):
        from_dict(TrainingConfig, given)
    assert getattr(getattr(from_dict(TrainingConfig, {method: {name: 0.0}}), method), name) == 0


@pytest.mark.parametrize("changes", [{"share": 0.0}, {"share": 1.0}, {"max_uncertainty": 0.0}])
def test_an_unusable_second_stage_is_named(changes):
    with pytest.raises(InputError, match="second stage"):
        SecondStage(**changes)
