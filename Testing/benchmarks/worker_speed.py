"""Speed of the way to the worker: what its caller's thread feels, and how soon strokes and wishes are answered.

    python Testing/benchmarks/worker_speed.py                     # 300 x 512 x 512, the full size
    python Testing/benchmarks/worker_speed.py --size 40 128 128

A panel polls every 20 ms in its only thread while a CT, an MR and scribbles of this size go to the worker and a fit
runs. Prints seconds; targets: the client imported within 0.1 s beyond numpy and SimpleITK, no call and no gap between
two polls over 50 ms, a job cancelled within 2 s, and a new stroke in Refer answered in at most 25 % of the first
answer's time. The network of Refer is untrained: only its time is looked at.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.client import Job, WorkerClient
from CrossModalSegLib.worker.messages import FitRequest, ReferRequest, ReferStrokesRequest

IMPORT_S, THREAD_S, CANCEL_S, STROKE_SHARE = 0.1, 0.05, 2.0, 0.25
POLL_S = 0.02
TABLE = LabelTable.from_names(["liver", "spleen"])


def say(what: str, seconds: float, target: float | None = None) -> None:
    aim = "" if target is None else f" (target <= {target:g} s)"
    print(f"{what}: {seconds:.3f} s{aim}", flush=True)


def import_seconds() -> float:
    """Of the client, the best of five fresh processes."""
    code = (
        "import time, numpy, SimpleITK; start = time.perf_counter(); import CrossModalSegLib.worker.client; "
        "print(time.perf_counter() - start)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    return min(float(run.stdout) for run in runs)


class Panel:
    """The thread that polls, as a timer of a panel does.

    Attributes:
        longest_call: of `poll`, callbacks not counted.
        longest_gap: between the ends of two polls, beyond the time that the timer sleeps.
    """

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self.longest_call = self.longest_gap = 0.0

    def until(self, condition: Callable[[], object]) -> float:
        """Poll until something is so; how long that took."""
        began = last = time.perf_counter()
        while not condition():
            time.sleep(POLL_S)
            start = time.perf_counter()
            self._client.poll()
            end = time.perf_counter()
            self.longest_call = max(self.longest_call, end - start)
            self.longest_gap = max(self.longest_gap, end - last - POLL_S)
            last = end
        return time.perf_counter() - began


def image(shape: tuple[int, int, int], seed: int) -> Volume:
    """A bright box in noise."""
    array = np.random.default_rng(seed).integers(-40, 40, shape, dtype=np.int16)
    array[tuple(slice(n // 3, 2 * n // 3) for n in shape)] += 300
    return Volume(array, np.diag([0.8, 0.8, 1.5, 1.0]))


def scribbles(like: Volume) -> Volume:
    """A stroke of each class and of the background on every tenth slice around the middle."""
    array = np.full(like.shape, 255, np.uint8)
    k, j, i = like.shape
    chosen = slice(k // 3, 2 * k // 3, 10)
    array[chosen, j // 2, i // 3 : i // 2] = 1
    array[chosen, j // 2 - 8, i // 2 : 2 * i // 3] = 2
    array[chosen, j // 4, i // 4 : i // 2] = 0
    return like.with_array(array)


def measure_fit(client: WorkerClient, shape: tuple[int, int, int]) -> None:
    """A fit of full-size images, and what its caller feels of it."""
    ct, mr = image(shape, 0), image(shape, 1)
    request = FitRequest({"ct": ct, "mr": mr}, scribbles(ct), TABLE, seconds=600.0, preview_every=5.0, device="cpu")
    panel = Panel(client)
    previews: list[object] = []
    start = time.perf_counter()
    job = client.submit(request, on_preview=previews.append)
    say("submit", time.perf_counter() - start, THREAD_S)
    say("until the images are with the worker and the fit begins", panel.until(lambda: job.progress.message))
    say("until the first answer is shown", panel.until(lambda: previews or job.has_ended))
    say("until the first step", panel.until(lambda: "loss" in job.progress.values or job.has_ended))
    job.cancel()
    say("until it is cancelled", panel.until(lambda: job.has_ended), CANCEL_S)
    say("longest poll", panel.longest_call, THREAD_S)
    say("longest gap between two polls", panel.longest_gap, THREAD_S)
    if job.state != "cancelled":
        sys.exit(f"The fit ended otherwise: {job.error}")


def save_untrained(folder: Path) -> Path:
    """A compact CrossMR with random weights."""
    import torch

    from CrossModalSegLib.config import to_dict
    from CrossModalSegLib.data.referring.slices import SlicePreprocessing
    from CrossModalSegLib.inference.model_card import ModelCard
    from CrossModalSegLib.inference.model_folder import save_model
    from CrossModalSegLib.models.crossmr import PRESETS, CrossMR

    torch.manual_seed(0)
    config = PRESETS["compact"]
    card = ModelCard("untrained", "crossmr", to_dict(config), ("image",), TABLE, slices=SlicePreprocessing(192))
    return save_model(folder / "untrained", CrossMR(config), card)


def measure_refer(client: WorkerClient, model: Path) -> None:
    """A reference and two targets of 24 slices; then another stroke."""
    reference = image((24, 192, 192), 0)
    drawn = scribbles(reference)
    targets = {"second": image((24, 192, 192), 1), "third": image((24, 192, 192), 2)}
    panel = Panel(client)

    def seconds(job: Job) -> float:
        taken = panel.until(lambda: job.has_ended)
        if job.state != "done":
            sys.exit(f"Refer ended otherwise: {job.error}")
        return taken

    ready = ReferRequest(reference, {}, drawn, TABLE, "warm-up", str(model), device="cpu")
    seconds(client.submit(ready))
    first = seconds(client.submit(ReferRequest(reference, targets, drawn, TABLE, "case", str(model), device="cpu")))
    array = drawn.array.copy()
    array[9, 60, 60:90] = 1
    again = seconds(client.submit(ReferStrokesRequest("case", drawn.with_array(array), TABLE)))
    say("Refer, first answer", first)
    say("Refer, another stroke", again, STROKE_SHARE * first)
    print(f"another stroke / first answer: {again / first:.2f} (target <= {STROKE_SHARE:g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(300, 512, 512), help="k j i")
    arguments = parser.parse_args()
    say("client imported", import_seconds(), IMPORT_S)
    with tempfile.TemporaryDirectory() as folder:
        model = save_untrained(Path(folder))
        client = WorkerClient()
        start = time.perf_counter()
        client.start()
        say("start", time.perf_counter() - start, THREAD_S)
        measure_refer(client, model)
        measure_fit(client, tuple(arguments.size))
        start = time.perf_counter()
        client.stop()
        say("stop", time.perf_counter() - start)


if __name__ == "__main__":
    main()
