"""Speed and memory of inference, as ratios within one run.

    python Testing/benchmarks/inference_speed.py                       # quick: a small volume
    python Testing/benchmarks/inference_speed.py --size 300 512 512    # the full size; minutes, and gigabytes

Prints the time of a whole segmentation over the network's own time on the same windows (target: at most 1.2), the
time of float32 over bfloat16 on CPU (target: at least 2), and the peak memory of segmenting a CT + MR pair of the
given size from images to labels (target: at most 6 GB for 300 x 512 x 512).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import LoadedModel
from CrossModalSegLib.inference.predictor import native_bf16, predict
from CrossModalSegLib.inference.segment import segment_case
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.volume import Volume

MAX_OVERHEAD, MIN_SPEEDUP, MAX_GB = 1.2, 2.0, 6.0


class Timed(nn.Module):
    """A network that adds up the time it takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.divisor = network.divisor
        self.seconds = 0.0
        self.windows = 0

    def segment(self, images: Tensor) -> Tensor:
        """Logits."""
        start = time.perf_counter()
        logits = self.network.segment(images)
        self.seconds += time.perf_counter() - start
        self.windows += 1
        return logits


def network(classes: int, channels: int) -> CmFNet:
    """A compact CmFNet with random weights."""
    torch.manual_seed(0)
    return CmFNet(CmFNetConfig(num_classes=classes, base_channels=channels)).eval()


def overhead(net: nn.Module, shape: tuple[int, int, int], patch: tuple[int, int, int], precision: str) -> float:
    """Prints and returns total time over network time for sliding windows."""
    images = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    timed = Timed(net)
    predict(timed, images[:, : patch[0], : patch[1], : patch[2]], patch=patch, precision=precision)
    timed.seconds, timed.windows = 0.0, 0
    start = time.perf_counter()
    predict(timed, images, patch=patch, precision=precision)
    total = time.perf_counter() - start
    ratio = total / timed.seconds
    print(
        f"window overhead ({precision}): {total:.2f} s in all, {timed.seconds:.2f} s in the network, "
        f"{timed.windows} windows of {patch}: ratio {ratio:.3f} (target <= {MAX_OVERHEAD})"
    )
    return ratio


def bf16_speedup(net: nn.Module, patch: tuple[int, int, int], repeats: int = 5) -> float:
    """Prints and returns float32 time over bfloat16 time of the bare network, measured in turns."""
    images = torch.rand(1, 2, *patch)
    best = {"fp32": np.inf, "bf16": np.inf}
    for _ in range(repeats + 1):
        for precision in best:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                start = time.perf_counter()
                net.segment(images)
                best[precision] = min(best[precision], time.perf_counter() - start)
    ratio = best["fp32"] / best["bf16"]
    print(
        f"bf16 on CPU: fp32 {best['fp32']:.3f} s, bf16 {best['bf16']:.3f} s per window: "
        f"{ratio:.2f}x faster (target >= {MIN_SPEEDUP})"
    )
    return ratio


def peak_memory(shape: tuple[int, int, int], classes: int, channels: int) -> None:
    """Segment one synthetic case and print the peak memory of this process."""
    rng = np.random.default_rng(0)
    ct = np.empty(shape, np.int16)
    mr = np.empty(shape, np.float32)
    for k in range(shape[0]):
        ct[k] = rng.normal(0, 200, shape[1:])
        mr[k] = rng.random(shape[1:])
    case = LoadedCase("synthetic", {"ct": Volume(ct, np.eye(4)), "mr": Volume(mr, np.eye(4))}, None, None)
    labels = LabelTable.from_names([f"class {value}" for value in range(1, classes)])
    card = ModelCard("compact", "cmfnet", {}, ("ct", "mr"), labels, Preprocessing())
    start = time.perf_counter()
    segment_case(LoadedModel(network(classes, channels), card), case)
    seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"peak memory: {gigabytes:.2f} GB for CT + MR of {shape}, {classes} output channels, in {seconds:.1f} s "
        f"(target <= {MAX_GB} GB at 300 x 512 x 512)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 160, 160), help="volume for the memory, k j i")
    parser.add_argument("--volume", type=int, nargs=3, default=(48, 160, 160), help="volume for the overhead, k j i")
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 96, 96))
    parser.add_argument("--classes", type=int, default=8, help="output channels, background included")
    parser.add_argument("--channels", type=int, default=8, help="channels at full resolution; 16 in the paper")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--memory-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_only:
        peak_memory(tuple(arguments.size), arguments.classes, arguments.channels)
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, native bf16: {native_bf16(torch.device('cpu'))}"
    )
    net = network(arguments.classes, arguments.channels)
    for precision in ("fp32", "bf16"):
        overhead(net, tuple(arguments.volume), tuple(arguments.patch), precision)
    bf16_speedup(net, tuple(arguments.patch))
    sys.stdout.flush()
    # In a process of its own, whose peak is that of the segmentation alone.
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--memory-only"], check=True)


if __name__ == "__main__":
    main()
