from __future__ import annotations

import pytest
import torch
from torch import nn

from CrossModalSegLib.errors import ModelError
from CrossModalSegLib.inference import memory
from CrossModalSegLib.inference.memory import available_memory, is_out_of_memory, on_device_or_cpu, profile_memory

CPU = torch.device("cpu")


def test_the_peak_of_a_known_network_is_measured():
    network = nn.Sequential(nn.Conv3d(1, 8, 1), nn.ReLU(), nn.Conv3d(8, 2, 1)).eval()

    def forward(images):
        with torch.no_grad():
            return network(images)

    profile = profile_memory(network, forward, 1, 4, CPU, "fp32")
    # Input, and at the peak the 8 channels before and after the activation.
    assert profile.bytes_per_voxel == pytest.approx(4 * (1 + 8 + 8), rel=0.05)
    assert profile.num_classes == 2
    assert profile.need(2000) > profile.need(1000) >= 1000 * profile.bytes_per_voxel


def test_a_network_is_measured_once():
    calls = []

    def forward(images):
        calls.append(images.shape)
        return images * 2.0

    network = nn.Identity()
    profile_memory(network, forward, 1, 4, CPU, "fp32")
    profile_memory(network, forward, 1, 4, CPU, "fp32")
    assert len(calls) == 2


def test_there_is_some_memory():
    assert 2**20 < available_memory(CPU) < 2**50


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    monkeypatch.setattr(memory, "CGROUP_ROOT", tmp_path)
    assert available_memory(CPU) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(CPU) > 2**20


def test_what_linux_says_is_in_kilobytes(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  3000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert available_memory(CPU) == 3000 * 1024


def test_on_a_cpu_nothing_is_tried_twice():
    calls = []

    def run(device):
        calls.append(device)
        raise MemoryError

    with pytest.raises(MemoryError):
        on_device_or_cpu(run, CPU)
    assert calls == [CPU]


def test_errors_about_memory_are_recognised():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("is_cause", [False, True])
def test_where_a_device_is_too_small_the_cpu_takes_over(is_cause, caplog):
    def run(device: torch.device) -> str:
        if device.type == "cpu":
            return "done"
        error = RuntimeError("MPS backend out of memory")
        if is_cause:
            raise ModelError("Not even the smallest window fits.") from error
        raise error

    assert on_device_or_cpu(run, torch.device("mps")) == "done"
    assert "The memory of mps is too small" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device."),
        TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
        RuntimeError("MPS: Unsupported Border padding mode"),
    ],
)
def test_what_a_gpu_of_apple_lacks_the_cpu_computes(error, caplog):
    def run(device: torch.device) -> str:
        if device.type != "cpu":
            raise error
        return "done"

    assert on_device_or_cpu(run, torch.device("mps")) == "done"
    assert f"The device mps cannot compute all of this ({error})" in caplog.text
    with pytest.raises(type(error)):
        on_device_or_cpu(run, torch.device("cuda"))


def test_other_errors_and_those_of_the_cpu_stay():
    def run(device: torch.device) -> None:
        raise MemoryError if device.type == "cpu" else ValueError("a defect")

    with pytest.raises(MemoryError):
        on_device_or_cpu(run, CPU)
    with pytest.raises(ValueError, match="a defect"):
        on_device_or_cpu(run, torch.device("mps"))
