"""CrossMR as a whole: sizes, stages, ablations, learning, and model folders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from CrossModalSegLib.config import from_dict, to_dict
from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import load_model, save_model
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.losses.referring import ReferringLoss
from CrossModalSegLib.models.crossmr import PRESETS, CrossMR, CrossMRConfig, Features, choose
from CrossModalSegLib.models.factory import build_network, network_config
from CrossModalSegLib.models.focalnet import FOCALNET, FocalNetConfig

TINY = CrossMRConfig(
    encoder=FocalNetConfig(
        embed_dim=8,
        depths=(1, 1, 1, 1),
        focal_levels=(2, 2, 2, 2),
        drop_path=0.0,
        layer_scale=None,
        use_post_norm=False,
    ),
    image_size=48,
    channels=32,
    heads=4,
    feedforward=64,
    decoder_layers=3,
    encoder_layers=1,
    dropout=0.0,
    seed_queries=True,
)


def tiny(**changes):
    torch.manual_seed(0)
    return CrossMR(replace(TINY, **changes))


def pair(batch=2, k=3, size=64, channels=1):
    torch.manual_seed(1)
    reference, target = torch.rand(2, batch, channels, size, size)
    scribbles = torch.zeros(batch, k, size, size, dtype=torch.bool)
    for organ in range(k):
        scribbles[:, organ, 4 + 8 * organ, 10:30] = True
    return reference, scribbles, target


def count(config):
    with torch.device("meta"):
        return sum(p.numel() for p in CrossMR(config).parameters())


def test_sizes_of_the_presets():
    assert PRESETS["paper"].encoder == FOCALNET["tiny"] and PRESETS["paper"] == CrossMRConfig()
    assert count(PRESETS["paper"]) == pytest.approx(100.7e6, rel=1e-3)
    assert count(PRESETS["compact"]) < 12e6 and PRESETS["compact"].seed_queries


def test_a_pair_is_encoded_sampled_and_decoded():
    network, (reference, scribbles, target) = tiny().eval(), pair()
    with torch.no_grad():
        tokens = network.sample(network.encode(reference), scribbles)
        staged = network.decode(network.encode(target), tokens)
        whole = network(reference, scribbles, target)
    assert [p.level for p in whole] == [0, 1, 2, 3]
    assert whole[-1].masks.shape == (2, 3, 11, 16, 16)
    for a, b in zip(staged, whole):
        torch.testing.assert_close(a.masks, b.masks, atol=1e-5, rtol=1e-4)
    masks, presence = choose(whole[-1])
    assert masks.shape == (2, 3, 16, 16) and presence.shape == (2, 3)


def test_one_reference_serves_many_targets():
    network, (reference, scribbles, target) = tiny().eval(), pair()
    with torch.no_grad():
        tokens = network.sample(network.encode(reference[:1]), scribbles[:1])
        both = network.decode(network.encode(target), tokens.expand(2))[-1]
        second = network.decode(network.encode(target[1:]), tokens)[-1]
    torch.testing.assert_close(both.masks[1:], second.masks, atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="2 targets and 1 references"):
        network.decode(network.encode(target), tokens)


def test_evaluation_is_deterministic():
    network, (reference, scribbles, target) = tiny(max_points=8).eval(), pair()
    with torch.no_grad():
        a, b = (network(reference, scribbles, target)[-1].masks for _ in range(2))
    assert torch.equal(a, b)


def test_a_seed_decides_which_points_training_draws():
    network, (reference, scribbles, _) = tiny(max_points=8), pair()
    features = network.encode(reference)
    draws = [network.sample(features, scribbles, None, torch.Generator().manual_seed(s)).levels[0] for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_features_are_indexed_joined_and_moved():
    network, (reference, _, target) = tiny().eval(), pair()
    with torch.no_grad():
        both = network.encode(torch.cat([reference, target]))
    assert [tuple(level.shape[2:]) for level in both.levels] == [(2, 2), (4, 4), (8, 8)]
    swapped = Features.cat([both.index([2, 3]), both.index(slice(0, 2))]).to("cpu")
    assert torch.equal(swapped.mask_features, both.mask_features[[2, 3, 0, 1]])
    assert all(torch.equal(a, b[[2, 3, 0, 1]]) for a, b in zip(swapped.levels, both.levels))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed_queries": False},
        {"visual_tokens": False, "seed_queries": False},
        {"across_batch": True},
        {"sample_queries": 4},
        {"context": 1, "encoder": replace(TINY.encoder, in_channels=3)},
    ],
    ids=lambda changes: " ".join(changes) or "tiny",
)
def test_every_variant_trains(changes, precision):
    network = tiny(**changes)
    reference, scribbles, target = pair(channels=network.config.encoder.in_channels)
    scribbles[1, 2] = False
    masks = functional.avg_pool2d(target[:, :1], 9, 1, 4).expand(-1, 3, -1, -1) > 0.5
    present = torch.tensor([[True, False, True], [True, True, False]])
    organs = torch.tensor([[True, True, True], [True, True, False]])
    ids = torch.tensor([[1, 2, 3], [2, 1, 4]])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        predictions = network(reference, scribbles, target, ids)
    terms = ReferringLoss(points=256)(predictions, masks, present, organs)
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    # The gate of a level may be out of reach of a gradient in bf16.
    assert precision == torch.bfloat16 or [n for n, p in network.named_parameters() if not p.grad.any()] == []


def test_the_reference_acts_through_its_tokens_alone():
    reference, scribbles, target = pair()
    for uses_tokens in (True, False):
        network = tiny(visual_tokens=uses_tokens, seed_queries=False).eval()
        with torch.no_grad():
            a, b = (network(each, scribbles, target)[-1] for each in (reference, 1 - reference))
        assert torch.equal(a.masks, b.masks) != uses_tokens
        assert not torch.equal(a.similarity, b.similarity)


def test_any_size_is_taken():
    network = tiny().eval()
    reference, target = torch.rand(2, 1, 1, 50, 71)
    scribbles = torch.zeros(1, 1, 50, 71, dtype=torch.bool)
    scribbles[..., 49, 70] = True
    assert network(reference, scribbles, target)[-1].masks.shape == (1, 1, 11, 13, 18)


def shapes(disc, square, bright):
    """(48, 48) image of a disc and a square, one brighter and one darker than what is around, and both masks."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    masks = torch.stack(
        [
            (y - disc[0]) ** 2 + (x - disc[1]) ** 2 <= 64,
            ((y - square[0]).abs() <= 7) & ((x - square[1]).abs() <= 7),
        ]
    )
    image = 0.5 + 0.4 * (masks[0].float() - masks[1].float()) * (1 if bright else -1)
    return image[None], masks


def test_it_learns_which_shape_was_scribbled_although_the_contrast_is_swapped():
    """Two pairs whose target shows the reference's disc and square with the other's brightness."""
    places = [((14, 14), (33, 32), (17, 12), (30, 34)), ((33, 15), (14, 33), (31, 17), (15, 31))]
    references, scribbles, targets, masks = [], [], [], []
    for bright, (disc, square, other_disc, other_square) in zip((True, False), places):
        references.append(shapes(disc, square, bright)[0])
        image, mask = shapes(other_disc, other_square, not bright)
        targets.append(image)
        masks.append(mask)
        drawn = torch.zeros(2, 48, 48, dtype=torch.bool)
        drawn[0, disc[0], disc[1] - 3 : disc[1] + 4] = True
        drawn[1, square[0] - 3 : square[0] + 4, square[1]] = True
        scribbles.append(drawn)
    reference, strokes, target, truth = (torch.stack(each) for each in (references, scribbles, targets, masks))
    network, loss = tiny(queries=3), ReferringLoss(points=576)
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        terms = loss(network(reference, strokes, target), truth, everywhere, everywhere)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        logits, presence = choose(network.eval()(reference, strokes, target)[-1])
    found = functional.interpolate(logits, size=(48, 48), mode="bilinear", align_corners=False) > 0
    dice = 2 * (found & truth).sum((2, 3)) / (found.sum((2, 3)) + truth.sum((2, 3)))
    assert (dice > 0.8).all(), dice
    assert (presence > 0.5).all()


def test_a_model_folder_keeps_it(tmp_path):
    network = tiny().eval()
    card = ModelCard("tiny", "crossmr", to_dict(TINY), ("mr",), LabelTable.from_names(["liver", "spleen"]))
    loaded = load_model(save_model(tmp_path / "tiny", network, card))
    assert loaded.network.config == TINY and not loaded.network.training
    inputs = pair()
    with torch.no_grad():
        assert torch.equal(network(*inputs)[-1].masks, loaded.network(*inputs)[-1].masks)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_the_factory(name):
    plain = to_dict(PRESETS[name])
    assert from_dict(CrossMRConfig, plain) == PRESETS[name]
    with torch.device("meta"):
        assert build_network("crossmr", plain).config == PRESETS[name]


def test_it_does_not_follow_from_classes():
    with pytest.raises(ModelError, match="no network of volumes named"):
        network_config("crossmr", 5, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 1}, "needs 3 in_channels; it has 1"),
        ({"channels": 30, "heads": 4}, "multiple of 4 and of its heads"),
        ({"queries": 0}, "queries of at least 1"),
        ({"image_size": 16}, "image_size of at least 32"),
        ({"context": -1}, "context of at least 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"sample_queries": 12}, "1 to 11 of its queries; got 12"),
        ({"visual_tokens": False, "across_batch": True}, "across_batch of CrossMR needs visual tokens"),
        ({"visual_tokens": False, "seed_queries": True}, "seed_queries of CrossMR needs visual tokens"),
    ],
)
def test_wrong_configurations_are_told(options, message):
    with pytest.raises(ModelError, match=message):
        CrossMRConfig(**options)
