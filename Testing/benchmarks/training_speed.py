"""What a training step costs beyond the bare network, in one run.

    python Testing/benchmarks/training_speed.py [--preset default] [--method cmfnet] [--threads 2] [--steps 6]

Prints the time of a whole training step (waiting for the batch, forward, loss, backward, clipping, optimiser, weight
average, history) over that of the bare network's forward and backward pass on the same batch, in the same precision and
process (target: at most 1.15), and what the parts take. Blocks of whole and of bare steps take turns; the first steps
of each block are left out, since their batches were prepared while the block before was running.

On a GPU that is time by the clock. On the CPU the target holds for processor time, the background threads' included:
that is more than the clock sees, and does not depend on what else the machine is doing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from CrossModalSegLib.data.patches import PatchSampler
from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.training.batches import BatchStream, batch_workers
from CrossModalSegLib.training.config import PRESETS, TrainingConfig, preset
from CrossModalSegLib.training.devices import build_fabric, choose_accelerator, choose_precision
from CrossModalSegLib.training.methods.factory import build_method
from CrossModalSegLib.training.methods.method import MethodSetting
from CrossModalSegLib.training.network import make_network
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.volume import Volume

TARGET = 1.15
SHAPE, SPACING = (48, 192, 192), (3.0, 1.0, 1.0)
CASES = 3


def made_up_case(number: int, num_classes: int) -> PreparedCase:
    """Smooth noise with a few strokes of each class."""
    rng = np.random.default_rng(number)
    coarse = rng.random((2, 6, 24, 24), dtype=np.float32)
    images = np.ascontiguousarray(coarse.repeat(8, 1).repeat(8, 2).repeat(8, 3))
    scribbles = np.full(SHAPE, 255, np.uint8)
    for value in range(num_classes):
        for k in range(value % 3, SHAPE[0], 3):
            row, column = rng.integers(10, 150, 2)
            scribbles[k, row : row + 2, column : column + 30] = value
    affine = np.diag([*SPACING[::-1], 1.0])
    mask = np.where(scribbles == 255, 0, scribbles).astype(np.uint8)
    source = Volume(np.broadcast_to(np.zeros(1, np.uint8), SHAPE), affine)
    return PreparedCase(f"case{number}", images, scribbles, mask, SPACING, affine, source)


def make_run(config: TrainingConfig, num_classes: int) -> TrainingRun:
    """A training of made-up cases, ready for its first step."""
    accelerator = choose_accelerator("auto")
    fabric = build_fabric(accelerator=accelerator, precision=choose_precision(config.precision, accelerator))
    method = build_method(config, MethodSetting(num_classes, 1000))
    cases = [made_up_case(number, num_classes) for number in range(CASES)]
    sampler = PatchSampler(cases, config.patch_size, seed=0, target=config.target, foreground=config.foreground)
    stream = BatchStream(
        sampler,
        config.augmentation,
        config.batch_size,
        workers=batch_workers(config.num_workers, fabric.device),
        pin_memory=accelerator == "cuda",
    )
    torch.manual_seed(0)
    return TrainingRun(fabric, make_network(config, method, num_classes, 2), method, stream, config, 1000)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and of all processors together."""

    clock: float
    processor: float


def cost(work: Callable[[], object], device: torch.device, times: int = 1) -> Cost:
    """Of one of `times` repetitions."""
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost((time.perf_counter() - start) / times, (time.process_time() - processor) / times)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    spent = cost(work, device)
    return spent.clock if device.type == "cuda" else spent.processor


def bare_step(run: TrainingRun, images: torch.Tensor) -> None:
    outputs = run.model(images)
    run.fabric.backward(sum(output.float().mean() for output in outputs.values()))
    run.optimizer.zero_grad(set_to_none=True)


def whole_step(run: TrainingRun) -> None:
    run.advance()
    run.record(0.0)


def print_parts(run: TrainingRun, images: torch.Tensor, bare: float) -> None:
    """Seconds of the parts that the bare pass does not have."""
    device = run.fabric.device
    batch = run.stream.next().to(device)
    leaves = {name: output.detach().requires_grad_() for name, output in run.model(batch.images).items()}
    loss = seconds(lambda: run.method.loss(batch, leaves, 0)["total"].backward(), device)
    run.fabric.backward(sum(output.float().mean() for output in run.model(images).values()))
    clip = 0.0
    if run.config.gradient_clip is not None:
        clip = seconds(lambda: torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0), device)
    step = seconds(run.optimizer.step, device)
    run.optimizer.zero_grad(set_to_none=True)
    average = 0.0 if run.average is None else seconds(lambda: run.average.update(run.network), device)
    plans = [run.stream.sampler.plan() for _ in range(run.config.batch_size)]
    data = statistics.median(seconds(lambda: run.stream.make(plans), device) for _ in range(3))
    parts = {"loss": loss, "clipping": clip, "optimiser": step, "weight average": average}
    text = ", ".join(f"{name} {1000 * value:.0f} ms ({100 * value / bare:.1f} %)" for name, value in parts.items())
    print(
        f"parts: {text}; a batch takes {1000 * data:.0f} ms ({100 * data / bare:.1f} %) in the background", flush=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="default")
    parser.add_argument("--method", default="cmfnet")
    parser.add_argument("--batch", type=int, help="patches in a step; the preset's where not given")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--precision", choices=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on the CPU")
    parser.add_argument("--workers", type=int, help="processes that make batches")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each kind in a block")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = preset(options.preset, options.method)
    config = replace(
        base,
        batch_size=options.batch or base.batch_size,
        precision=options.precision or base.precision,
        num_workers=options.workers,
        second_stage=None,
    )
    run = make_run(config, options.classes)
    device = run.fabric.device
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} threads"
    shape = "x".join(map(str, config.patch_size))
    print(f"{name}, torch {torch.__version__}")
    print(f"preset {options.preset}, method {config.method}, batch {config.batch_size} of {shape}", flush=True)
    images = run.stream.next().images.to(device)
    for _ in range(2):
        bare_step(run, images)
        whole_step(run)
    bare, whole = [], []
    for _ in range(options.blocks):
        bare.append(cost(lambda: bare_step(run, images), device, options.steps))
        cost(lambda: whole_step(run), device, 2 * max(1, run.stream.workers) + 1)
        whole.append(cost(lambda: whole_step(run), device, options.steps))
    ratios = {}
    for kind in ("clock", "processor"):
        times = [statistics.median(getattr(each, kind) for each in costs) for costs in (bare, whole)]
        ratios[kind] = times[1] / times[0]
        print(f"{kind}: forward + backward {times[0]:.3f} s, whole step {times[1]:.3f} s, ratio {ratios[kind]:.3f}")
    judged = "clock" if device.type == "cuda" else "processor"
    print(f"ratio {ratios[judged]:.3f} by the {judged} (target {TARGET})", flush=True)
    print_parts(run, images, statistics.median(getattr(each, judged) for each in bare))
    run.stream.close()
    return 0 if ratios[judged] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
