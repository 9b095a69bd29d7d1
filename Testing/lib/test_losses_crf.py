"""The multi-view CRF against an explicit double loop over voxels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.losses import crf
from CrossModalSegLib.losses.crf import CrfConfig, CrfKernel, crf_windows, multi_view_crf

SHAPE = (3, 4, 5)
THREE_KERNELS = (CrfKernel(0.7, 2.0, 0.1), CrfKernel(0.4, 3.0, 0.5), CrfKernel(0.3, 1.5, None))


def loop_crf(y, images, weights, config, spacing=None):
    """Eqs. 5 and 6, voxel pair by voxel pair."""
    step = (1.0, 1.0, 1.0) if spacing is None else tuple(spacing)
    if config.unit == "voxel":
        step = tuple(s / min(step) for s in step)
    reach = [max(1, math.floor(config.radius / s + 1e-6)) for s in step]
    voxels = list(itertools.product(*map(range, y.shape[2:])))
    total = 0.0
    for n in range(y.shape[0]):
        values = images[n].flatten(1).T.tolist()
        potential = torch.zeros(len(voxels), len(voxels), dtype=y.dtype)
        for (p, a), (q, b) in itertools.permutations(enumerate(voxels), 2):
            views = sum(is_in_window(a, b, crf.VIEW_AXES[view], reach) for view in config.views)
            if views:
                distance = sum(((c - d) * s) ** 2 for c, d, s in zip(a, b, step, strict=True))
                potential[p, q] = views * pair_kernel(distance, values[p], values[q], weights, config)
        flat = y[n].flatten(1)
        total = total + (potential * (1 - flat.T @ flat)).sum()
    return total / (len(config.views) * y.shape[0] * len(voxels))


def is_in_window(a, b, axes, reach):
    return all(abs(a[x] - b[x]) <= (reach[x] if x in axes else 0) for x in range(3))


def pair_kernel(distance, values_a, values_b, weights, config):
    """K of one pair of voxels with the squared distance and the values of each image."""
    total = 0.0
    for (m, weight), kernel in itertools.product(enumerate(weights), config.kernels):
        exponent = distance / (2 * kernel.sigma_position**2)
        if kernel.sigma_intensity is not None:
            exponent += (values_a[m] - values_b[m]) ** 2 / (2 * kernel.sigma_intensity**2)
        total += weight * kernel.weight * math.exp(-exponent)
    return total


def sample(classes, shape=SHAPE, samples=2, images=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(samples, classes, *shape, generator=generator, dtype=dtype).requires_grad_()
    return logits, torch.rand(samples, images, *shape, generator=generator, dtype=dtype)


def value_and_gradient(loss, logits):
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize(
    ("classes", "config", "spacing"),
    [
        (2, CrfConfig(radius=2), None),
        (4, CrfConfig(radius=2), None),
        (2, CrfConfig(THREE_KERNELS, radius=2, unit="mm"), (3.0, 0.9, 1.1)),
        (4, CrfConfig(THREE_KERNELS, radius=2), (2.0, 1.0, 1.5)),
        (2, CrfConfig((CrfKernel(1.0, 2.0, None),), radius=1, views=("axial",)), None),
        (4, CrfConfig((CrfKernel(1.0, 2.0, None),), radius=1, views=("coronal", "sagittal")), None),
        (3, CrfConfig(radius=2, views=("sagittal",)), None),
        (3, CrfConfig(THREE_KERNELS, radius=6), None),  # wider than the volume
    ],
)
def test_equals_the_double_loop(classes, config, spacing):
    logits, images = sample(classes)
    weights = (0.2, 0.35)
    expected = value_and_gradient(loop_crf(logits.softmax(1), images, weights, config, spacing), logits)
    got = value_and_gradient(multi_view_crf(logits.softmax(1), images, weights, config, spacing), logits)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_one_pass_over_images_is_the_weighted_sum_of_single_images(classes):
    logits, images = sample(classes)
    y = logits.softmax(1)
    single = [multi_view_crf(y, images[:, m : m + 1], (1.0,)) for m in range(2)]
    both = multi_view_crf(y, images, (0.2, 0.5))
    torch.testing.assert_close(both, 0.2 * single[0] + 0.5 * single[1])


@pytest.mark.parametrize("slab", [1, 40, 10**6])
def test_slabs_do_not_change_the_result(monkeypatch, slab):
    logits, images = sample(3, shape=(7, 4, 5))
    whole = value_and_gradient(multi_view_crf(logits.softmax(1), images, (1.0, 1.0)), logits)
    monkeypatch.setattr(crf, "CPU_SLABS", crf._Slabs(slab, slab, slab))
    slabs = value_and_gradient(multi_view_crf(logits.softmax(1), images, (1.0, 1.0)), logits)
    torch.testing.assert_close(slabs, whole, rtol=1e-10, atol=1e-12)


def test_two_voxels_by_hand():
    y = torch.tensor([[0.9, 0.2], [0.1, 0.8]]).view(1, 2, 1, 1, 2)
    images = torch.tensor([0.3, 0.4]).view(1, 1, 1, 1, 2)
    # One pair, seen from both ends and in the two views that span j or k with i.
    kernel = math.exp(-0.5 * (1 / 36 + 1))
    expected = 2 * 2 * kernel * (1 - (0.9 * 0.2 + 0.1 * 0.8)) / (3 * 2)
    assert multi_view_crf(y, images, (1.0,)).item() == pytest.approx(expected, rel=1e-6)


def test_a_certain_constant_segmentation_costs_nothing_at_the_border():
    y = torch.zeros(1, 3, *SHAPE)
    y[:, 1] = 1.0
    assert multi_view_crf(y, torch.rand(1, 1, *SHAPE), (1.0,)).item() == pytest.approx(0.0, abs=1e-6)


def test_an_isotropic_spacing_is_the_same_as_none():
    logits, images = sample(2)
    y = logits.softmax(1)
    torch.testing.assert_close(
        multi_view_crf(y, images, (1, 1), spacing=(2.0, 2.0, 2.0)), multi_view_crf(y, images, (1, 1))
    )


def test_millimetres_and_voxels_agree_where_the_finest_axis_is_one_millimetre():
    logits, images = sample(2)
    y, spacing = logits.softmax(1), (3.0, 1.0, 1.0)
    in_mm = multi_view_crf(y, images, (1, 1), CrfConfig(unit="mm"), spacing)
    torch.testing.assert_close(in_mm, multi_view_crf(y, images, (1, 1), CrfConfig(), spacing))


def test_every_sample_may_have_its_own_spacing():
    logits, images = sample(2, samples=3)
    y = logits.softmax(1)
    spacings = [(3.0, 1.0, 1.0), (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)]
    expected = sum(multi_view_crf(y[n : n + 1], images[n : n + 1], (1, 1), spacing=spacings[n]) for n in range(3)) / 3
    got = multi_view_crf(logits.softmax(1), images, (1, 1), spacing=torch.tensor(spacings, dtype=torch.float64))
    torch.testing.assert_close(value_and_gradient(got, logits), value_and_gradient(expected, logits))


def test_half_offsets_cover_each_pair_once():
    offsets = crf_windows(CrfConfig(radius=5)).half_offsets
    # 60 of 120 neighbours in each of 3 views; the 15 along the axes are shared by two views.
    assert len(offsets) == 165
    assert sum(o.views for o in offsets) == 180
    assert {o.shift for o in offsets}.isdisjoint({tuple(-s for s in o.shift) for o in offsets})


def test_thick_slices_get_a_window_of_the_same_millimetres():
    offsets = crf_windows(CrfConfig(radius=5, unit="mm"), (2.5, 1.0, 1.0)).half_offsets
    assert max(o.shift[0] for o in offsets) == 2
    assert max(o.shift[1] for o in offsets) == 5
    assert next(o for o in offsets if o.shift == (1, 0, 1)).squared_distance == pytest.approx(2.5**2 + 1)
    assert next(o for o in offsets if o.shift == (1, 0, 0)).views == 2


@pytest.mark.parametrize("classes", [2, 3])
def test_bf16_autocast_is_computed_in_fp32(classes):
    logits, images = sample(classes, dtype=torch.float32)
    expected = value_and_gradient(multi_view_crf(logits.softmax(1), images, (1.0, 1.0)), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = multi_view_crf(logits.softmax(1), images, (1.0, 1.0))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(value_and_gradient(loss, logits), expected)
    assert multi_view_crf(logits.softmax(1).bfloat16(), images.bfloat16(), (1.0, 1.0)).dtype == torch.float32


class NoDoubles(TorchDispatchMode):
    """Refuses fp64 as Apple's GPUs do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert all(each.dtype != torch.float64 for each in tree_leaves(result) if isinstance(each, torch.Tensor))
        return result


def test_a_device_without_doubles_computes_it(monkeypatch):
    logits, images = sample(3, dtype=torch.float32)
    exact = multi_view_crf(logits.softmax(1), images, (0.2, 0.3))
    assert crf._type_of_sums(torch.device("mps")) == torch.float32
    monkeypatch.setattr(crf, "_type_of_sums", lambda device: torch.float32)
    with NoDoubles():
        loss = multi_view_crf(logits.softmax(1), images, (0.2, 0.3))
        loss.backward()
    torch.testing.assert_close(loss, exact)


def test_images_far_outside_the_unit_range_stay_exact():
    logits, images = sample(3)
    images = images * 50 - 20
    config = CrfConfig(radius=1)
    expected = loop_crf(logits.softmax(1), images, (1.0, 1.0), config)
    torch.testing.assert_close(multi_view_crf(logits.softmax(1), images, (1.0, 1.0), config), expected)


def test_images_get_no_gradient_and_zero_weights_give_zero_with_a_graph():
    logits, images = sample(2)
    images.requires_grad_()
    loss = multi_view_crf(logits.softmax(1), images, (0.0, 0.0))
    loss.backward()
    assert loss.item() == 0.0
    assert images.grad is None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_probabilities_are_left_alone_and_backward_can_run_twice():
    logits, images = sample(3)
    y = logits.softmax(1).detach().requires_grad_()
    before = y.detach().clone()
    loss = multi_view_crf(y, images, (1.0, 1.0))
    first = torch.autograd.grad(loss, y, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, y)[0])
    assert torch.equal(y.detach(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(2, 2, 3, 4, 4)}, "of one grid"),
        ({"image_weights": (1.0,)}, "one weight an image"),
        ({"image_weights": (1.0, -1.0)}, "0 or more"),
        ({"config": CrfConfig(unit="mm")}, "give the spacing"),
        ({"spacing": (1.0, 0.0, 1.0)}, "three positive numbers"),
        ({"spacing": [(1.0, 1.0, 1.0)]}, "one a sample"),
        ({"probabilities": torch.rand(2, 1, *SHAPE)}, "at least 2 classes"),
    ],
)
def test_what_does_not_fit_is_told(change, message):
    _, images = sample(2)
    arguments = {"probabilities": torch.rand(2, 2, *SHAPE), "images": images, "image_weights": (1.0, 1.0), **change}
    with pytest.raises(InputError, match=message):
        multi_view_crf(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrfConfig(kernels=()), "at least one kernel"),
        (lambda: CrfConfig(radius=0), "above 0"),
        (lambda: CrfConfig(unit="cm"), "voxel"),
        (lambda: CrfConfig(views=("axial", "axial")), "different ones"),
        (lambda: CrfKernel(sigma_position=0), "sigma_position"),
        (lambda: CrfKernel(sigma_intensity=-1), "sigma_intensity"),
        (lambda: CrfKernel(weight=-1), "weight"),
    ],
)
def test_wrong_configurations_are_told(make, message):
    with pytest.raises(InputError, match=message):
        make()
