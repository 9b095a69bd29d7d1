"""Speed of CrossMR, as ratios within one run.

    python Testing/benchmarks/crossmr_speed.py [--model abdomen-mr] [--slices 10] [--threads 2] [--parts stroke pair]

Prints
- stroke: the time of a new stroke over that of the first answer (a reference and two targets of --slices slices, four
  organs; features are kept in between; target: at most 0.25), and what the kept features take. With the network of
  --model, or the compact preset at 256 x 256;
- pair: seconds of one 256 x 256 reference-target pair with the network of the paper (FocalNet-tiny) in bfloat16
  (target: at most 0.5 on 2 cores that compute with bfloat16 natively; elsewhere float32 is used, and it says so);
- step: a whole training step (waiting for the batch, forward, losses, backward, clipping, optimiser, weight average,
  history) over the bare network's forward and backward pass on the same batch (target: at most 1.15);
- gpu: where there is a GPU, seconds of a 40-slice reference with four 40-slice targets (target: at most 2).

On a GPU time is that of the clock; on the CPU ratios are of processor time, which does not depend on what else the
machine is doing, and seconds are given for both. A training step is told by the clock as well: where a core is idle,
the next batch, which a thread prepares during the step, costs processor time but no waiting.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from training_speed import Cost, cost, whole_step

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.referring.pair_sampler import PairBatch, PairSampler
from CrossModalSegLib.data.referring.slices import SlicePreprocessing, SliceStack, slice_stack
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import LoadedModel, load_model
from CrossModalSegLib.inference.predictor import native_bf16
from CrossModalSegLib.inference.referring import ReferSession
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.crossmr import PRESETS, CrossMR, CrossMRConfig, choose
from CrossModalSegLib.training.batches import PlannedStream, batch_workers
from CrossModalSegLib.training.devices import build_fabric, choose_accelerator, choose_precision
from CrossModalSegLib.training.referring.config import preset
from CrossModalSegLib.training.referring.run import ReferringRun
from CrossModalSegLib.volume import Volume

MAX_STROKE, MAX_PAIR_SECONDS, MAX_STEP, MAX_GPU_SECONDS = 0.25, 0.5, 1.15, 2.0
TABLE = LabelTable.from_names(["liver", "right kidney", "left kidney", "spleen"])
IN_PLANE = 256


def image(slices: int, seed: int) -> Volume:
    """Smooth noise of 1.5 x 1.5 x 6 mm."""
    coarse = np.random.default_rng(seed).random((slices, 32, 32), dtype=np.float32)
    return Volume(coarse.repeat(IN_PLANE // 32, 1).repeat(IN_PLANE // 32, 2), np.diag([1.5, 1.5, 6.0, 1.0]))


def labels(slices: int) -> np.ndarray:
    """Four boxes."""
    array = np.zeros((slices, IN_PLANE, IN_PLANE), np.uint8)
    for value, (row, column) in enumerate(((80, 40), (150, 60), (150, 160), (80, 190)), start=1):
        array[:, row : row + 50, column : column + 40] = value
    return array


def strokes(slices: int, every: int, offset: int) -> Volume:
    """A short stroke in each box on some slices."""
    array = np.full((slices, IN_PLANE, IN_PLANE), 255, np.uint8)
    where = labels(slices)
    for k in range(offset, slices, every):
        for value in range(1, 5):
            rows, columns = np.nonzero(where[k] == value)
            middle = int(np.median(rows))
            array[k, middle : middle + 3, columns.min() + 8 : columns.max() - 8] = value
    return image(slices, 0).with_array(array)


def network_model(config: CrossMRConfig) -> LoadedModel:
    """Random weights: speed does not depend on them."""
    torch.manual_seed(0)
    slices = SlicePreprocessing(config.image_size)
    card = ModelCard("speed", "crossmr", to_dict(config), ("any",), TABLE, slices=slices)
    return LoadedModel(CrossMR(config).eval(), card)


def verdict(value: float, target: float) -> str:
    return f"target <= {target}: {'reached' if value <= target else 'MISSED'}"


def judged(spent: Cost, device: torch.device) -> float:
    return spent.clock if device.type == "cuda" else spent.processor


def new_stroke(model: LoadedModel, slices: int, device: torch.device) -> bool:
    """Prints the ratio of a new stroke to the first answer."""
    size = model.card.slices.image_size
    warm = ReferSession(model, device)
    warm.set_reference(image(2, 9))
    warm.refer(strokes(2, 2, 0), TABLE)
    session = ReferSession(model, device)

    def first() -> None:
        session.set_reference(image(slices, 0))
        for number in (1, 2):
            session.add_target(f"target {number}", image(slices, number))
        session.refer(strokes(slices, 3, 1), TABLE)

    start = cost(first, device)
    again = [cost(partial(session.refer, strokes(slices, 3, offset), TABLE), device) for offset in (0, 2, 1)]
    stroke = Cost(*(statistics.median(getattr(each, kind) for each in again) for kind in ("clock", "processor")))
    ratio, kept = judged(stroke, device) / judged(start, device), session.kept_bytes / (3 * slices)
    print(
        f"new stroke: {model.card.name} at {size} x {size}, 3 volumes of {slices} slices, 4 organs: first answer "
        f"{start.clock:.2f} s, new stroke {stroke.clock:.2f} s (processor {start.processor:.2f} and "
        f"{stroke.processor:.2f} s): ratio {ratio:.3f} ({verdict(ratio, MAX_STROKE)}); features take "
        f"{kept / 1e6:.2f} MB a slice, {200 * kept / 1e9:.2f} GB for five volumes of 40",
        flush=True,
    )
    return ratio <= MAX_STROKE


@torch.no_grad()
def one_pair(device: torch.device, repeats: int) -> bool:
    """Prints the seconds of one pair with the network of the paper: all that an answer of `refer` takes."""
    network = CrossMR(PRESETS["paper"]).eval().to(device)
    reference, target = torch.rand(2, 1, 1, 256, 256, device=device)
    scribbles = torch.from_numpy(np.stack([labels(1)[0] == value for value in range(1, 5)])[None]).to(device)
    is_native = native_bf16(device)

    def answer() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_native):
            features = network.encode(torch.cat([reference, target]))
            tokens = network.sample(features.index([0]), scribbles)
            choose(network.decode_last(features.index([1]), tokens))

    answer()
    spent = [cost(answer, device) for _ in range(repeats)]
    clock, processor = (min(getattr(each, kind) for each in spent) for kind in ("clock", "processor"))
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(
        f"one pair: the paper's network ({parameters:.0f} million parameters), 256 x 256, 4 organs, "
        f"{'bfloat16' if is_native else 'float32 (no native bfloat16 here)'}: {clock:.2f} s, processor {processor:.2f} "
        f"s ({verdict(clock, MAX_PAIR_SECONDS)})",
        flush=True,
    )
    return clock <= MAX_PAIR_SECONDS


def training_run(name: str) -> ReferringRun:
    """A training of made-up slices."""
    accelerator = choose_accelerator("auto")
    config = replace(preset(name), steps=1000, epochs=None, minutes=None)
    fabric = build_fabric(accelerator=accelerator, precision=choose_precision(config.precision, accelerator))
    stacks = [made_up_stack(number, config.preprocessing) for number in range(2)]
    sampler = PairSampler(stacks, config.pairs, seed=0)
    workers = batch_workers(config.num_workers, fabric.device)
    stream = PlannedStream(sampler, sampler.make_batch, config.batch_size, workers=workers)
    torch.manual_seed(0)
    return ReferringRun(fabric, CrossMR(config.network), stream, config, len(TABLE) + 1, 1000)


def made_up_stack(number: int, prep: SlicePreprocessing) -> SliceStack:
    """Two contrasts and four organs."""
    where = image(12, number).with_array(labels(12))
    return slice_stack(f"case {number}", {"a": image(12, number), "b": image(12, number + 10)}, where, prep)


def bare_step(run: ReferringRun, batch: PairBatch) -> None:
    """Forward and backward of the network alone, on as many references and targets as a step has."""
    network, size = run.network, batch.size
    with run.fabric.autocast():
        features = network.encode(batch.images.flatten(0, 1))
        both = run.config.pairs.both_ways
        order = [*range(size, 2 * size), *range(size)] if both else list(range(size, 2 * size))
        scribbles = batch.scribbles.flatten(0, 1) if both else batch.scribbles[0]
        ids = batch.organ_ids.repeat(2, 1) if both else batch.organ_ids
        tokens = network.sample(features.index(list(range(len(order)))), scribbles, ids)
        outputs = network.decode(features.index(order), tokens)
        total = sum(
            each.masks.float().mean() + each.similarity.mean() + each.presence.float().mean() for each in outputs
        )
    run.fabric.backward(total)
    run.optimizer.zero_grad(set_to_none=True)


def training_step(name: str, blocks: int, steps: int) -> bool:
    """Prints the ratio of a whole training step to the bare network's forward and backward pass."""
    run = training_run(name)
    device = run.fabric.device
    batch = run.stream.next().to(device)
    for _ in range(2):
        bare_step(run, batch)
        whole_step(run)
    bare, whole = [], []
    for _ in range(blocks):
        bare.append(cost(lambda: bare_step(run, batch), device, steps))
        cost(lambda: whole_step(run), device, 2 * max(1, run.stream.workers))
        whole.append(cost(lambda: whole_step(run), device, steps))
    run.stream.close()
    times = [statistics.median(judged(each, device) for each in costs) for costs in (bare, whole)]
    clock = [statistics.median(each.clock for each in costs) for costs in (bare, whole)]
    ratio = times[1] / times[0]
    print(
        f"training step: preset {name}, {run.config.batch_size} pairs at {batch.images.shape[-1]}: forward + backward "
        f"{times[0]:.3f} s, whole step {times[1]:.3f} s: ratio {ratio:.3f} ({verdict(ratio, MAX_STEP)}); by the clock "
        f"{clock[1] / clock[0]:.3f}",
        flush=True,
    )
    return ratio <= MAX_STEP


def on_gpu(model: LoadedModel) -> bool:
    """Prints the seconds of a 40-slice reference with four 40-slice targets."""
    device = torch.device("cuda")
    images, scribbles = [image(40, seed) for seed in range(5)], strokes(40, 8, 4)

    def everything() -> None:
        session = ReferSession(model, device)
        session.set_reference(images[0])
        for number in range(1, 5):
            session.add_target(f"target {number}", images[number])
        session.refer(scribbles, TABLE)

    everything()
    spent = cost(everything, device)
    print(
        f"GPU ({torch.cuda.get_device_name()}): {model.card.name}, 40-slice reference and four 40-slice targets: "
        f"{spent.clock:.2f} s ({verdict(spent.clock, MAX_GPU_SECONDS)})"
    )
    return spent.clock <= MAX_GPU_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or name; random weights of the compact preset where not given")
    parser.add_argument("--slices", type=int, default=10, help="of each volume")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on the CPU")
    parser.add_argument("--preset", default="default", help="of the training step")
    parser.add_argument("--steps", type=int, default=4, help="measured training steps of each kind in a block")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of the pair")
    parser.add_argument(
        "--parts", nargs="+", choices=["stroke", "pair", "step", "gpu"], default=["stroke", "pair", "step"]
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, {device.type}, {options.threads} threads, native bf16: {native_bf16(device)}")
    model = network_model(PRESETS["compact"]) if options.model is None else load_model(options.model)
    parts = {
        "stroke": lambda: new_stroke(model, options.slices, device),
        "pair": lambda: one_pair(device, options.repeats),
        "step": lambda: training_step(options.preset, options.blocks, options.steps),
        "gpu": lambda: on_gpu(model),
    }
    wanted = [*options.parts, *(["gpu"] if device.type == "cuda" and "gpu" not in options.parts else [])]
    reached = [parts[name]() for name in wanted]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
