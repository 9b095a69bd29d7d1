"""Speed and memory of the multi-view CRF against an unfold formulation, all in one run.

    python Testing/benchmarks/crf_speed.py [--threads 2] [--repeats 5] [--classes 2 8] [--lean] [--skip-step]

Prints, for a batch of 4 crops of 16x96x96 with CT and MR, forward + backward:
- the time of the unfold formulation over ours (target: 100x for 2, 40x for 8 classes), and how far their gradients
  differ;
- the memory that ours takes beyond its inputs and the gradient it returns (target: at most 64 MB);
- the share of the CRF in a training step of CmFNet with the hybrid loss (target: at most 5 %).

The reference is the standard public form of the gated CRF: for each image and view, features (position and intensity)
and predictions are unfolded into all (2r+1)^2 neighbours. Its zero-padded neighbours add a constant to the value and
nothing to the gradient, which is what is compared. `--lean` takes a leaner unfold form, where a table replaces the
positions.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from CrossModalSegLib.losses.crf import multi_view_crf
from CrossModalSegLib.losses.hybrid import HybridConfig, hybrid_loss
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig

SAMPLES, SHAPE = 4, (16, 96, 96)
WEIGHTS = (0.2, 0.2)
RADIUS, SIGMA_POSITION, SIGMA_INTENSITY = 5, 6.0, 0.1
LARGEST_UNFOLDED = 2**30
TARGET_RATIOS = {2: 100.0, 8: 40.0}
TARGET_MEGABYTES = 64.0
TARGET_SHARE = 0.05
VIEWS = ((0, 2, 1, 3, 4), (0, 3, 1, 2, 4), (0, 4, 1, 2, 3))


def unfold(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, window, window, h, w)."""
    b, c, h, w = maps.shape
    window = 2 * RADIUS + 1
    return functional.unfold(maps, window, padding=RADIUS).view(b, c, window, window, h, w)


def public_kernel(image: Tensor) -> Tensor:
    """K of slices (B, 1, h, w) from unfolded features (position, intensity): (B, 1, window, window, h, w)."""
    b, _, h, w = image.shape
    rows = torch.arange(h, device=image.device, dtype=image.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
    columns = torch.arange(w, device=image.device, dtype=image.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
    features = torch.cat([rows / SIGMA_POSITION, columns / SIGMA_POSITION, image / SIGMA_INTENSITY], dim=1)
    squares = (unfold(features) - features[:, :, None, None]) ** 2
    return (-0.5 * squares.sum(1, keepdim=True)).exp()


def lean_kernel(image: Tensor) -> Tensor:
    """The same inside the border, with a table for the positions, so that only the intensities are unfolded."""
    steps = torch.arange(-RADIUS, RADIUS + 1, device=image.device, dtype=image.dtype) / SIGMA_POSITION
    squared = steps[:, None] ** 2 + steps[None] ** 2
    changes = (unfold(image) - image[:, :, None, None]) / SIGMA_INTENSITY
    return (-0.5 * (changes**2 + squared[None, None, :, :, None, None])).exp()


def unfold_crf_2d(y: Tensor, image: Tensor, is_lean: bool) -> Tensor:
    """Gated CRF of slices: y (B, C, h, w), image (B, 1, h, w)."""
    kernel = lean_kernel(image) if is_lean else public_kernel(image)
    kernel[:, :, RADIUS, RADIUS] = 0
    agreement = (unfold(y) * y[:, :, None, None]).sum(1, keepdim=True)
    return (kernel * (1 - agreement)).sum() / y[:, 0].numel()


def unfold_gradient(logits: Tensor, images: Tensor, is_lean: bool) -> Tensor:
    """Gradient of the multi-view CRF by logits (N, C, k, j, i): image by image, view by view.

    Each part runs backward before the next is built, sample by sample where the unfolded predictions of the batch would
    pass LARGEST_UNFOLDED: that needs less memory than one graph of all parts, and no more time.
    """
    y = logits.softmax(1)
    leaf = y.detach().requires_grad_()
    unfolded = leaf.numel() * (2 * RADIUS + 1) ** 2 * leaf.element_size()
    chunk = len(leaf) if unfolded <= LARGEST_UNFOLDED else 1
    for start in range(0, len(leaf), chunk):
        part = slice(start, start + chunk)
        for m, weight in enumerate(WEIGHTS):
            for order in VIEWS:
                slices = leaf[part].permute(order).flatten(0, 1)
                image = images[part, m : m + 1].permute(order).flatten(0, 1)
                (weight / 3 * chunk / len(leaf) * unfold_crf_2d(slices, image, is_lean)).backward()
    return torch.autograd.grad(y, logits, leaf.grad)[0]


def our_crf(y: Tensor, images: Tensor) -> Tensor:
    return multi_view_crf(y, images, WEIGHTS)


def batch(classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits and images like those of a crop: smooth, with noise."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(SAMPLES, classes, *SHAPE, generator=generator)
    coarse = torch.rand(SAMPLES, 2, 4, 12, 12, generator=generator)
    images = functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=False)
    images = (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    return logits.to(device).requires_grad_(), images.to(device)


def forward_backward(crf: Callable[[Tensor, Tensor], Tensor], logits: Tensor, images: Tensor) -> Tensor:
    return torch.autograd.grad(crf(logits.softmax(1), images), logits)[0]


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """The least of `repeats` times, which disturbs other processes' noise least."""
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(classes: int, repeats: int, device: str, is_lean: bool) -> bool:
    """Print ratio and difference of gradients; whether the target is met."""
    logits, images = batch(classes, device)
    ours = forward_backward(our_crf, logits, images)
    before = seconds(lambda: forward_backward(our_crf, logits, images), repeats, device)
    start = time.perf_counter()
    reference = unfold_gradient(logits, images, is_lean)
    slow = time.perf_counter() - start
    if device == "cuda":
        slow = seconds(lambda: unfold_gradient(logits, images, is_lean), repeats, device)
    after = seconds(lambda: forward_backward(our_crf, logits, images), repeats, device)
    fast = statistics.mean((before, after))
    difference = ((ours - reference).abs().max() / reference.abs().max()).item()
    ratio, target = slow / fast, TARGET_RATIOS.get(classes, 0.0)
    print(
        f"{classes} classes: unfold {slow:.2f} s, ours {fast:.4f} s (before {before:.4f}, after {after:.4f}), "
        f"ratio {ratio:.0f}x (target {target:.0f}x), largest difference of the gradient {difference:.1e}",
        flush=True,
    )
    return ratio >= target


def measure_memory(classes: int, threads: int, is_ours: bool) -> None:
    """In a process of its own: print the MB that one forward and backward adds to the resident memory at its peak."""
    torch.set_num_threads(threads)
    logits, images = batch(classes, "cpu")
    crf = our_crf if is_ours else softmax_alone
    # Loads what the first call of any loss loads, which is no memory of this one.
    forward_backward(crf, logits[:1, :, :8, :12, :12], images[:1, :, :8, :12, :12])
    # Memory that was freed but is still resident would hide what is taken next.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_megabytes("VmHWM")
    forward_backward(crf, logits, images)
    print(json.dumps(status_megabytes("VmHWM") - before))


def softmax_alone(y: Tensor, images: Tensor) -> Tensor:
    """What any loss of probabilities costs."""
    return y.sum()


def status_megabytes(key: str) -> float:
    """A field of Linux's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def extra_memory(classes: int, threads: int, device: str) -> float:
    """MB beyond the inputs and a softmax with its backward pass."""
    if device == "cuda":
        logits, images = batch(classes, device)
        peaks = []
        for crf in (softmax_alone, our_crf):
            torch.cuda.reset_peak_memory_stats()
            forward_backward(crf, logits, images)
            peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        return peaks[1] - peaks[0]
    peaks = []
    for what in ("softmax", "ours"):
        command = [
            sys.executable,
            __file__,
            "--measure-memory",
            what,
            "--classes",
            str(classes),
            "--threads",
            str(threads),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(json.loads(done.stdout)))
    return peaks[1] - peaks[0]


def step_share(classes: int, repeats: int, device: str) -> float:
    """Seconds of the CRF over those of a CmFNet training step (forward, hybrid loss, backward, Adam)."""
    torch.manual_seed(0)
    _, images = batch(classes, device)
    network = CmFNet(CmFNetConfig(num_classes=classes)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    scribbles = torch.full((SAMPLES, *SHAPE), 255, dtype=torch.uint8, device=device)
    scribbles[:, ::4, 40:44, 20:60] = 1
    scribbles[:, ::4, 10:12, 20:60] = 0

    def step() -> None:
        optimizer.zero_grad()
        hybrid_loss(network(images), images, scribbles, HybridConfig())["total"].backward()
        optimizer.step()

    logits = torch.randn(SAMPLES, classes, *SHAPE, device=device).requires_grad_()
    step()
    # In turns, so that what else the machine does falls on both.
    pairs = [
        (seconds(step, 1, device), seconds(lambda: forward_backward(our_crf, logits, images), 5, device))
        for _ in range(repeats)
    ]
    whole, crf = (min(times) for times in zip(*pairs, strict=True))
    print(
        f"{classes} classes: CmFNet training step {whole:.2f} s, CRF {crf:.4f} s, share {100 * crf / whole:.1f} % "
        f"(target {100 * TARGET_SHARE:.0f} %)",
        flush=True,
    )
    return crf / whole


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed and memory of the multi-view CRF.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--lean", action="store_true", help="compare with the leaner unfold form")
    parser.add_argument("--skip-step", action="store_true", help="leave out the training step of CmFNet")
    parser.add_argument("--measure-memory", choices=("softmax", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_memory:
        measure_memory(options.classes[0], options.threads, options.measure_memory == "ours")
        return 0
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads"
    print(f"{name}, torch {torch.__version__}, batch {SAMPLES} of {'x'.join(map(str, SHAPE))}, CT + MR")
    met = []
    for classes in options.classes:
        met.append(compare(classes, options.repeats, device, options.lean))
        megabytes = extra_memory(classes, options.threads, device)
        print(f"{classes} classes: extra memory {megabytes:.0f} MB (target {TARGET_MEGABYTES:.0f} MB)", flush=True)
        met.append(megabytes <= TARGET_MEGABYTES)
    if not options.skip_step:
        met.extend(
            step_share(c, 2 if device == "cpu" else options.repeats, device) <= TARGET_SHARE for c in options.classes
        )
    print("all targets met" if all(met) else "NOT all targets met")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
