from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric import Fabric
from referring_setup import SIZE, make_stack, tiny_referring_config

from CrossModalSegLib.data.referring.pair_sampler import PairBatch, PairConfig, PairKinds, PairSampler, collate_pairs
from CrossModalSegLib.models.crossmr import CrossMR
from CrossModalSegLib.models.unet2d import UNet2d, UNet2dConfig
from CrossModalSegLib.training.referring.run import make_step
from CrossModalSegLib.training.referring.step import CrossMRStep
from CrossModalSegLib.training.referring.validation import organ_dice, validate_pairs


def make_batch(both_ways: bool = True, count: int = 2, seed: int = 0) -> PairBatch:
    kinds = PairKinds(same_slice=0.0, other_slice=1.0)
    config = PairConfig(kinds=kinds, augmentation=None, max_organs=2, both_ways=both_ways)
    sampler = PairSampler([make_stack()], config, seed=seed)
    return collate_pairs([sampler.make(sampler.plan()) for _ in range(count)])


def network() -> CrossMR:
    torch.manual_seed(0)
    return CrossMR(tiny_referring_config().network)


def swapped(batch: PairBatch) -> PairBatch:
    flipped = (each.flip(0) for each in (batch.images, batch.masks, batch.scribbles, batch.labels))
    return PairBatch(*flipped, batch.organ_ids, batch.annotated.flip(0))


class Recorded:
    """In place of the loss: keeps what it was given."""

    def __call__(self, predictions, masks, present, organs):
        self.masks, self.present, self.organs = masks, present, organs
        self.logits = predictions[-1].masks
        return {"bce": predictions[-1].masks.mean()}


@pytest.mark.parametrize("across_batch", [False, True])
def test_both_ways_is_one_way_and_the_other(across_batch):
    """With tokens across the batch, too: the strokes on a target are no tokens for it."""
    batch = make_batch()
    both, one, other = Recorded(), Recorded(), Recorded()
    config = tiny_referring_config().network
    config = replace(config, across_batch=across_batch, max_points=2048, dropout=0.0)
    torch.manual_seed(0)
    net = CrossMR(replace(config, encoder=replace(config.encoder, drop_path=0.0))).train(across_batch)
    CrossMRStep(net, both, both_ways=True)(*batch.tensors)
    CrossMRStep(net, one, both_ways=False)(*batch.tensors)
    CrossMRStep(net, other, both_ways=False)(*swapped(batch).tensors)
    for name in ("masks", "present", "organs"):
        torch.testing.assert_close(getattr(both, name), torch.cat([getattr(one, name), getattr(other, name)]))
    torch.testing.assert_close(both.logits, torch.cat([one.logits, other.logits]), atol=1e-5, rtol=1e-4)


def test_a_step_gives_all_terms_their_sum_and_gradients_everywhere():
    config = tiny_referring_config(dense_guidance=True)
    step = make_step(network(), config, num_classes=3)
    terms = step(*make_batch().tensors)
    assert set(terms) == {"total", "bce", "dice", "select", "presence", "classes", "resemblance"}
    torch.testing.assert_close(terms["total"], sum(value for name, value in terms.items() if name != "total"))
    terms["total"].backward()
    assert not [name for name, parameter in step.named_parameters() if parameter.grad is None]


def test_without_guidance_a_step_has_no_weights_of_its_own():
    for step in (
        make_step(network(), tiny_referring_config(), 3),
        make_step(network(), tiny_referring_config(dense_guidance=True)),
    ):
        assert all(name.startswith("network.") for name, _ in step.named_parameters())


@pytest.mark.parametrize("method", ["crossmr", "unet"])
def test_an_organ_that_is_not_annotated_is_not_taught_as_background(method):
    """Where the labels do not tell organ 2, to find it in place of background costs no more than before."""
    config = tiny_referring_config(method=method, dense_guidance=True)
    net = UNet2d(UNet2dConfig(3, channels=(4, 8, 8))) if method == "unet" else network()
    step = make_step(net, config, num_classes=3).eval()
    batch = make_batch()
    batch = replace(batch, labels=torch.where(batch.labels == 2, 0, batch.labels))
    unknown = replace(batch, annotated=batch.annotated.index_fill(2, torch.tensor([2]), False))
    name, head = ("dice_ce", net.body) if method == "unet" else ("classes", step.guidance.semantic)
    swap = head.register_forward_hook(lambda _module, _inputs, logits: logits[:, [2, 1, 0]])
    swapped = [step(*each.tensors)[name] for each in (unknown, batch)]
    swap.remove()
    plain = [step(*each.tensors)[name] for each in (unknown, batch)]
    torch.testing.assert_close(plain[0], swapped[0])
    assert not torch.isclose(plain[1], swapped[1])


def test_judging_leaves_one_mask_for_each_organ_asked_for():
    loss, masks = make_step(network(), tiny_referring_config()).eval().judge(make_batch())
    assert loss.ndim == 0 and masks.shape == (2, 2, SIZE, SIZE) and masks.dtype == torch.bool


@pytest.mark.parametrize(("presence", "is_found"), [(50.0, True), (-50.0, False)])
def test_judging_finds_nothing_of_organs_that_are_not_there(presence, is_found):
    net = network()
    torch.nn.init.constant_(net.decoder.presence.bias, presence)
    _, masks = make_step(net, tiny_referring_config()).eval().judge(make_batch())
    assert bool(masks.any()) == is_found


def test_the_loss_that_judges_is_that_of_the_answers():
    """The other queries, and by how much the chosen one is the most similar, play no part."""
    net = network().eval()
    step = make_step(net, tiny_referring_config(within_organ=False))
    batch, losses = make_batch(), []
    last = net.decode_last

    def with_others(features, tokens, scale, shift):
        found = last(features, tokens)
        is_best = found.similarity == found.similarity.amax(-1, keepdim=True)
        masks = torch.where(is_best[..., None, None], found.masks, found.masks + shift)
        return replace(found, masks=masks, similarity=found.similarity * scale)

    for scale, shift in ((1.0, 0.0), (0.5, 7.0)):
        net.decode_last = partial(with_others, scale=scale, shift=shift)
        net.decode = lambda features, tokens: [net.decode_last(features, tokens)]
        torch.manual_seed(0)
        losses.append(step.judge(batch)[0])
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_the_unet_learns_from_the_targets_alone():
    torch.manual_seed(0)
    step = make_step(UNet2d(UNet2dConfig(3, channels=(4, 8, 8))), tiny_referring_config(method="unet"))
    batch = make_batch()
    alone = replace(
        batch,
        images=torch.stack([torch.rand_like(batch.images[0]), batch.images[1]]),
        annotated=torch.stack([torch.zeros_like(batch.annotated[0]), batch.annotated[1]]),
    )
    torch.testing.assert_close(step(*batch.tensors)["total"], step(*alone.tensors)["total"])
    loss, masks = step.judge(batch)
    torch.testing.assert_close(loss, step(*batch.tensors)["dice_ce"])
    found = step.network(batch.images[1]).argmax(1)
    torch.testing.assert_close(masks[0, 0], found[0] == batch.organ_ids[0, 0])


def test_dice_counts_the_organs_that_were_asked_for_and_are_there():
    masks = torch.zeros(2, 1, 3, 4, 4, dtype=torch.bool)
    masks[:, 0, 0, :2] = True  # 8 pixels
    masks[0, 0, 1, 0] = True  # asked for, not there
    masks[1, 0, 2, 0] = True  # there, not asked for
    labels, annotated = masks[:, :, 0].byte(), torch.ones(2, 1, 256, dtype=torch.bool)
    batch = PairBatch(torch.zeros(2, 1, 1, 4, 4), masks, masks, labels, torch.tensor([[5, 6, 7]]), annotated)
    found = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    found[0, 0, :, :2] = True  # 8 pixels, 4 of them right
    assert organ_dice(found, batch) == [(5, 0.5)]


def test_validation_is_the_same_each_time_and_leaves_everything_as_it_was():
    step = make_step(network(), tiny_referring_config())
    fabric = SimpleNamespace(device=torch.device("cpu"), autocast=torch.no_grad)
    batches = [make_batch(seed=1), make_batch(seed=2)]
    state = torch.get_rng_state()
    first = validate_pairs(step, batches, ["one", "two"], fabric)
    assert step.training and torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert validate_pairs(step, batches, ["one", "two"], fabric) == first
    assert first["loss"] > 0 and set(first["dice_by_class"]) == {"one", "two"}
    assert first["dice"] == pytest.approx(sum(first["dice_by_class"].values()) / 2)


def test_a_step_in_bfloat16_gives_losses_and_gradients_in_full_precision():
    """Through Fabric, which converts what a step is given."""
    step = make_step(network(), tiny_referring_config(dense_guidance=True), num_classes=3)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model, _ = fabric.setup(step, torch.optim.SGD(step.parameters(), 0.1))
    terms = model(*make_batch().tensors)
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in terms.values())
    fabric.backward(terms["total"])
    assert all(parameter.grad.isfinite().all() for parameter in step.parameters())
