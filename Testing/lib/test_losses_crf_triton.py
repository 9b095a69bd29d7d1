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
from CrossModalSegLib.losses.crf import CrfConfig, CrfKernel, crf_windows
from CrossModalSegLib.losses.crf_triton import FusedPairwiseEnergy

kernels = (CrfKernel(0.7, 2.0, 0.1), CrfKernel(0.4, 3.0, 0.5), CrfKernel(0.3, 1.5, None))
all_views = ("axial", "coronal", "sagittal")
for classes, weights, spacing, views in (
    (2, (0.2, 0.3), None, all_views),
    (4, (0.2, 0.0), (3.0, 0.8, 1.2), all_views),
    (3, (0.0, 0.0), None, all_views),
    (2, (0.2, 0.3), (3.0, 0.8, 1.2), ("axial",)),
    (2, (0.2, 0.3), (3.0, 0.8, 1.2), ("coronal", "sagittal")),
):
    torch.manual_seed(classes)
    logits = torch.randn(2, classes, 3, 7, 9, requires_grad=True)
    config = CrfConfig(kernels, radius=3, views=views)
    terms = crf._kernel_terms(torch.rand(2, 2, 3, 7, 9), weights, config)
    energies = [
        energy.apply(logits.softmax(1), terms, crf_windows(config, spacing))
        for energy in (crf._PairwiseEnergy, FusedPairwiseEnergy)
    ]
    gradients = [torch.autograd.grad(2 * energy, logits)[0] for energy in energies]
    torch.testing.assert_close(*energies, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
print("the same")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch's CUDA builds alone")
def test_the_kernel_has_the_same_energy_and_gradient():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr
