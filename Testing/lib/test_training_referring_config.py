from __future__ import annotations

from dataclasses import replace

import pytest
from referring_setup import TINY_NETWORK, tiny_referring_config

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.data.referring.pair_sampler import PairKinds, ScribbleStyles
from CrossModalSegLib.data.referring.paired_augmentation import SLIGHT
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.referring.config import ABLATIONS, PRESETS, ReferringConfig, preset


def test_the_paper_preset_is_that_of_the_paper():
    config = preset("paper")
    assert config.network.channels == 512 and config.network.queries == 11 and not config.network.seed_queries
    assert config.network.dropout == 0.0
    assert config.preprocessing == SlicePreprocessing(256, "stretch", (0.5, 99.5))
    assert config.pairs.kinds == PairKinds() and not config.pairs.both_ways
    assert config.pairs.styles == ScribbleStyles(freeform=0.5, small=0.5)
    assert config.pairs.augmentation.paired and not config.pairs.augmentation.contrast_remaps
    assert config.pairs.augmentation.spatial == "none" and config.pairs.augmentation.target.gamma == (0.5, 4.5)
    assert config.epochs == 50 and config.learning_rate == 1e-3 and config.encoder_rate == 0.1
    assert config.points == 12_544 and not config.dense_guidance and config.ema_decay is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_dict(ReferringConfig, to_dict(PRESETS[name])) == PRESETS[name]


@pytest.mark.parametrize("name", ["default", "fast"])
def test_our_presets_use_all_kinds_of_pairs_and_changes(name):
    config = preset(name)
    assert min(config.pairs.kinds.weights.values()) > 0 and config.pairs.kinds.mixed_contrasts
    assert config.pairs.both_ways
    assert config.pairs.augmentation.contrast_remaps and config.pairs.augmentation.spatial == "independent"
    assert config.network.image_size == config.preprocessing.image_size


@pytest.mark.parametrize("base", PRESETS)
@pytest.mark.parametrize(
    ("ablation", "differences"),
    [
        ("no-tokens", {"network.visual_tokens"}),
        ("no-organ-match", {"within_organ"}),
        ("no-paired-augmentation", {"pairs.augmentation.paired"}),
        ("across-batch", {"network.across_batch"}),
        ("encoder-fixed", {"encoder_rate"}),
        ("seem", {"network.sample_queries", "within_organ", "pairs.augmentation.paired"}),
        ("from-scratch", {"use_encoder_weights"}),
        ("unet", {"method"}),
    ],
)
def test_an_ablation_changes_what_its_name_says(base, ablation, differences):
    changed = flat_differences(to_dict(preset(base)), to_dict(preset(base, ablation)))
    allowed = {
        "no-tokens": {"network.seed_queries", "network.prototype_masks", "network.token_positions"},
        "from-scratch": {"encoder_rate"},
        "unet": {
            "pairs.both_ways",
            "pairs.augmentation.contrast_remaps",
            "pairs.augmentation.spatial",
            *(f"pairs.kinds.{name}" for name in vars(preset(base).pairs.kinds)),
            *(f"pairs.augmentation.target.{name}" for name in vars(preset(base).pairs.augmentation.target)),
        },
    }
    assert differences <= changed <= differences | allowed.get(ablation, set())


@pytest.mark.parametrize(("queries", "drawn"), [(11, 3), (2, 2)])
def test_the_baseline_draws_as_many_queries_as_seem(queries, drawn):
    config = tiny_referring_config()
    config = replace(config, network=replace(config.network, queries=queries))
    assert ABLATIONS["seem"](config).network.sample_queries == drawn


def flat_differences(a: dict, b: dict, prefix: str = "") -> set[str]:
    found = set()
    for key in a:
        if isinstance(a[key], dict) and isinstance(b[key], dict):
            found |= flat_differences(a[key], b[key], f"{prefix}{key}.")
        elif a[key] != b[key]:
            found.add(prefix + key)
    return found


@pytest.mark.parametrize("base", PRESETS)
def test_the_unet_is_trained_as_usual(base):
    pairs = preset(base, "unet").pairs
    assert {kind for kind, weight in pairs.kinds.weights.items() if weight > 0} == {"anywhere"}
    assert pairs.augmentation.target == SLIGHT and not pairs.augmentation.contrast_remaps
    assert pairs.augmentation.spatial == "independent"


def test_a_unet_may_go_without_augmentation():
    config = tiny_referring_config()
    config = replace(config, pairs=replace(config.pairs, augmentation=None))
    assert ABLATIONS["unet"](config).pairs.augmentation is None


def test_every_ablation_is_tested_above():
    assert set(ABLATIONS) == {
        "seem", "no-tokens", "no-organ-match", "no-paired-augmentation", "across-batch", "encoder-fixed",
        "from-scratch", "unet",
    }  # fmt: skip


def test_lengths():
    config = tiny_referring_config(steps=None, epochs=3, batch_size=4)
    assert config.total_steps(num_slices=10) == 9 and config.total_steps(num_slices=10, processes=2) == 6
    assert tiny_referring_config(steps=7).total_steps(100) == 7
    assert tiny_referring_config(steps=None, minutes=1.0).total_steps(100) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "given once, as epochs, steps or minutes"),
        ({"minutes": 3.0}, "given once, as epochs, steps or minutes"),
        ({"steps": 0}, "is above 0; got"),
        ({"method": "seem"}, 'got "seem"'),
        ({"preprocessing": SlicePreprocessing(40)}, "multiple of 32; got 40"),
        ({"batch_size": 0}, "batch_size of a training is 1 or more; got 0"),
        ({"encoder_rate": 2.0}, "encoder_rate of a training is within 0 and 1; got 2.0"),
        ({"learning_rate": 0.0}, "learning_rate of a training is above 0"),
        ({"ema_decay": 1.0}, "ema_decay lies within 0 and 1"),
        (
            {"network": replace(TINY_NETWORK, context=1, encoder=replace(TINY_NETWORK.encoder, in_channels=3))},
            "sees 1 neighbour slices on either side, the pairs bring 0",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny_referring_config(**changes)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match='preset is one of paper, default, fast; got "best"'):
        preset("best")
    with pytest.raises(InputError, match='ablation is one of seem, .*; got "none"'):
        preset("paper", "none")


def test_one_image_for_both_sides_needs_an_augmentation():
    config = tiny_referring_config()
    config = replace(config, pairs=replace(config.pairs, augmentation=None))
    with pytest.raises(InputError, match="Without augmentation there is none"):
        ABLATIONS["seem"](config)
