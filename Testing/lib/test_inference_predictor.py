from __future__ import annotations

import logging
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from CrossModalSegLib.errors import Cancelled, CrossModalSegError, InputError
from CrossModalSegLib.inference.memory import MemoryProfile
from CrossModalSegLib.inference.predictor import (
    _starts,
    _weights,
    fitting_window,
    memory_budget,
    native_bf16,
    predict,
    predict_slabs,
)
from CrossModalSegLib.progress import CancelToken


class Pointwise(nn.Module):
    """Each voxel by itself, so that windows cannot matter; may run out of memory above a number of voxels."""

    divisor = 4

    def __init__(self, limit: int | None = None, error: type[Exception] = RuntimeError, text: str = "out of memory"):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 3, 1)
        self.limit, self.error, self.text = limit, error, text
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        assert all(n % self.divisor == 0 for n in images.shape[2:])
        if self.limit is not None and images[0, 0].numel() > self.limit:
            raise self.error(self.text)
        return {"out": self.conv(images)}


class WindowMean(nn.Module):
    """The same logits all over a window, from the window's mean."""

    divisor = 2

    def segment(self, images):
        mean = images.mean(dim=(1, 2, 3, 4), keepdim=True)
        return torch.cat([mean, -mean], dim=1).expand(-1, -1, *images.shape[2:]).contiguous()


def images(shape=(11, 21, 18), seed=0):
    return np.random.default_rng(seed).random((2, *shape)).astype(np.float32)


def direct(network: Pointwise, volume: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(network.conv(torch.from_numpy(volume)[None]), 1)[0].numpy()


@pytest.mark.parametrize("patch", [None, (4, 8, 8), (8, 12, 20), (64, 64, 64), (5, 7, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_do_not_change_a_pointwise_network(patch, overlap):
    network, volume = Pointwise(), images()
    result = predict(network, volume, patch=patch, overlap=overlap, precision="fp32")
    assert result.shape == (3, 11, 21, 18) and result.dtype == np.float32
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)


def test_a_network_for_one_size_gets_windows_of_that_size():
    network, volume = Pointwise(), images()
    network.fixed_patch = (16, 16, 16)
    result = predict(network, volume, precision="fp32")
    assert set(network.sizes) == {(16, 16, 16)}
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)


def test_the_whole_volume_goes_at_once_where_it_fits():
    network = Pointwise()
    predict(network, images(), precision="fp32")
    assert network.sizes[-1] == (12, 24, 20)
    assert network.sizes.count((12, 24, 20)) == 1


def test_a_window_is_no_larger_than_the_volume_needs():
    network = Pointwise()
    predict(network, images(), patch=(64, 64, 64), precision="fp32")
    assert set(network.sizes) == {(12, 24, 20)}


@pytest.mark.parametrize(("shape", "patch"), [((3, 4, 2), None), ((11, 21, 18), (4, 1, 3))])
def test_the_deepest_features_are_never_a_single_voxel(shape, patch):
    # Instance normalisation refuses one.
    network = Pointwise()
    network.conv = nn.Sequential(network.conv, nn.AvgPool3d(4), nn.InstanceNorm3d(3), nn.Upsample(scale_factor=4))
    result = predict(network, images(shape), patch=patch, precision="fp32")
    assert result.shape == (3, *shape)
    assert network.sizes[-1] == (4, 4, 8)


def test_weights_of_a_window_are_a_gaussian_of_an_eighth_of_its_length():
    weights = _weights(33)
    assert weights[16] == 1.0
    assert weights[12].item() == pytest.approx(np.exp(-0.5 * (4 / (33 / 8)) ** 2))
    assert weights[0].item() == weights[32].item() == pytest.approx(1e-3)  # the curve itself is below


def test_a_memory_limit_leads_to_windows():
    network, volume = Pointwise(), images((16, 40, 40))
    result = predict(network, volume, precision="fp32", memory_limit=1)
    assert network.sizes[-1] == (8, 8, 8)
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)


def test_blending_is_one_weighted_mean_of_all_windows():
    volume = images((14, 10, 12))
    window, overlap = (6, 4, 8), 0.5
    result = predict(WindowMean(), volume, patch=window, overlap=overlap, precision="fp32")
    total, weight = np.zeros((2, 14, 10, 12)), np.zeros((14, 10, 12))
    k, j, i = (_weights(n).numpy() for n in window)
    weights = k[:, None, None] * j[:, None] * i
    for start in product(*(_starts(n, w, overlap) for n, w in zip((14, 10, 12), window))):
        block = tuple(slice(s, s + w) for s, w in zip(start, window))
        mean = volume[(slice(None), *block)].mean()
        p = 1 / (1 + np.exp(-2 * mean))
        total[(slice(None), *block)] += weights * np.array([p, 1 - p])[:, None, None, None]
        weight[block] += weights
    np.testing.assert_allclose(result, total / weight, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB."),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        (MemoryError, ""),
    ],
)
def test_running_out_of_memory_leads_to_smaller_windows_and_a_warning(caplog, error, text):
    network, volume = Pointwise(limit=16 * 16 * 16, error=error, text=text), images((16, 40, 40))
    with caplog.at_level(logging.WARNING):
        result = predict(network, volume, patch=(16, 40, 40), precision="fp32")
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)
    assert "ran out of memory with windows of (16, 40, 40) voxels" in caplog.text


def test_running_out_of_memory_midway_keeps_what_is_finished():
    class Tiring(Pointwise):
        def forward(self, images):
            if len(self.sizes) == 30:
                self.limit = 8 * 8 * 8
            return super().forward(images)

    network, volume = Tiring(limit=10**9), images((40, 24, 24))
    slabs = list(predict_slabs(network, volume, patch=(8, 12, 12), precision="fp32"))
    assert [s.start for s in slabs][1:] == [s.stop for s in slabs][:-1]
    result = np.concatenate([s.probabilities.numpy() for s in slabs], axis=1)
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)
    assert {(8, 12, 12), (8, 8, 8)} <= set(network.sizes)


def test_when_nothing_fits_the_error_says_what_to_do():
    with pytest.raises(CrossModalSegError, match="cannot be made smaller"):
        predict(Pointwise(limit=10), images(), patch=(8, 8, 8))


def test_other_errors_of_the_network_are_not_swallowed():
    with pytest.raises(RuntimeError, match="shapes differ"):
        predict(Pointwise(limit=10, text="shapes differ"), images(), patch=(8, 8, 8))


def test_progress_counts_windows_and_cancelling_stops_between_them():
    network, seen, token = Pointwise(), [], CancelToken()

    def progress(done, total, _message="", _values=None):
        seen.append((done, total))
        if done == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        predict(network, images((16, 16, 16)), patch=(8, 8, 8), overlap=0.0, progress=progress, cancel=token)
    assert seen == [(0, 8), (1, 8), (2, 8), (3, 8)] and len(network.sizes) == 3


@pytest.mark.skipif(not native_bf16(torch.device("cpu")), reason="this CPU does not compute with bfloat16 natively")
def test_bfloat16_is_close_to_float32():
    network, volume = Pointwise(), images()
    half = predict(network, volume, precision="bf16")
    assert 0 < np.abs(half - direct(network, volume)).max() < 0.02
    np.testing.assert_allclose(half.sum(axis=0), 1.0, atol=1e-5)


def test_a_pytorch_without_onednn_computes_with_floats(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(), raising=False)
    network, volume = Pointwise(), images()
    assert not native_bf16(torch.device("cpu"))
    np.testing.assert_allclose(predict(network, volume, precision="bf16"), direct(network, volume), atol=2e-6)


class Forgetful(Pointwise):
    """Whose answers are random while it is in training."""

    def forward(self, images):
        return {"out": nn.functional.dropout(super().forward(images)["out"], training=self.training)}


@pytest.mark.parametrize("training", [True, False])
def test_a_network_predicts_in_evaluation_and_comes_back_as_it_was(training):
    network, volume = Forgetful().train(training), images()
    np.testing.assert_allclose(predict(network, volume, precision="fp32"), direct(network, volume), atol=2e-6)
    assert network.training is training


def test_doubles_are_taken_as_floats():
    network, volume = Pointwise(), images()
    result = predict(network, volume.astype(np.float64), precision="fp32")
    np.testing.assert_allclose(result, direct(network, volume), atol=2e-6)


def test_bad_arguments():
    with pytest.raises(InputError, match=r"\(C, k, j, i\)"):
        predict(Pointwise(), np.zeros((4, 4, 4), np.float32))
    with pytest.raises(InputError, match="overlap"):
        predict(Pointwise(), images(), overlap=1.0)
    with pytest.raises(InputError, match="precision"):
        predict(Pointwise(), images(), precision="fp16")
    with pytest.raises(InputError, match="window size"):
        predict(Pointwise(), images(), patch=(0, 4, 4))


def test_the_largest_window_within_the_budget_is_chosen():
    profile = MemoryProfile(bytes_per_voxel=100.0, fixed_bytes=0.0, num_classes=2)
    shape = (60, 200, 200)
    assert fitting_window(shape, 16, profile, 10**12) == (64, 208, 208)
    window = fitting_window(shape, 16, profile, 200_000_000)
    assert profile.need(int(np.prod(window))) <= 200_000_000 and np.prod(window) > 64 * 64 * 64
    assert fitting_window(shape, 16, profile, 0) == (32, 32, 32)
    assert all(fitting_window((8, 8, 8), 16, profile, budget) == (16, 16, 16) for budget in (0, 10**9))


def test_blending_is_part_of_what_has_to_fit():
    profile = MemoryProfile(bytes_per_voxel=100.0, fixed_bytes=0.0, num_classes=8)
    window = fitting_window((300, 64, 64), 2, profile, 20_000_000)
    blending = 4 * window[0] * 64 * 64 * (2 * 8 + 2)
    assert 10_000_000 < profile.need(int(np.prod(window))) + blending <= 20_000_000


def test_windows_tile_evenly():
    profile = MemoryProfile(bytes_per_voxel=130.0, fixed_bytes=0.0, num_classes=8)
    shape = (300, 512, 512)
    window = fitting_window(shape, 16, profile, 3 * 2**30)
    computed = np.prod([len(_starts(n, w, 0.25)) * w for n, w in zip(shape, window)])
    assert computed / np.prod(shape) < 2.2


def test_the_result_is_part_of_the_budget():
    cpu = torch.device("cpu")
    assert memory_budget(cpu, None, 10**15) == 0
    assert memory_budget(cpu, 1000, 0) == 1000


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 200), window=st.integers(1, 60), overlap=st.floats(0, 0.9))
def test_windows_cover_an_axis_without_leaving_it(length, window, overlap):
    starts = _starts(length, window, overlap)
    covered = np.zeros(max(length, window), bool)
    for start in starts:
        covered[start : start + window] = True
    assert covered.all() and starts == sorted(set(starts))
