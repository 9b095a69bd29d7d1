"""The CRF's kernel for GPUs, run by Triton's interpreter on the CPU, against PyTorch's operations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

# In a process of its own: whether Triton compiles or interprets is decided when the kernel is defined.
PROGRAM = """
import torch
from CrossModalSegLib.losses import crf
from CrossModalSegLib.losses.crf import CrfConfig, CrfKernel, half_offsets
from CrossModalSegLib.losses.crf_triton import pass_messages

kernels = (CrfKernel(0.7, 2.0, 0.1), CrfKernel(0.4, 3.0, 0.5), CrfKernel(0.3, 1.5, None))
for classes, weights, spacing in ((2, (0.2, 0.3), None), (4, (0.2, 0.0), (3.0, 0.8, 1.2)), (3, (0.0, 0.0), None)):
    torch.manual_seed(classes)
    z = crf._coordinates(torch.randn(2, classes, 3, 7, 9).softmax(1))
    config = CrfConfig(kernels, radius=3)
    terms = crf._kernel_terms(torch.rand(2, 2, 3, 7, 9), weights, config)
    offsets = half_offsets(config, spacing)
    for here, there in zip(crf._pass_messages(z, terms, offsets), pass_messages(z, terms, offsets)):
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-6)
print("the same")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch's CUDA builds alone")
def test_the_kernel_passes_the_same_messages():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr
