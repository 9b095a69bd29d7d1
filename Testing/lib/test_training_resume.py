"""Trainings that are killed, or run in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_cohort import make_cohort, tiny_config

from CrossModalSegLib.cohort import read_cohort
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.resume import check_same_training
from CrossModalSegLib.training.trainer import train

HERE = Path(__file__).resolve().parent
PREAMBLE = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from training_cohort import tiny_config
from CrossModalSegLib.cohort import read_cohort
from CrossModalSegLib.training import loop, step_loop, trainer
from CrossModalSegLib.training.trainer import train
folder = Path(sys.argv[1])
cohort = read_cohort(folder / "cohort.json")
"""

KILLED = (
    PREAMBLE
    + """
def progress(done, total, message="", values=None):
    print(message, done, flush=True)

config = tiny_config(method="cmfnet", steps=200, checkpoint_minutes=0.0, validate_every=2)
train(cohort, folder / "parts", config, accelerator="cpu", progress=progress)
"""
)

DISTRIBUTED = (
    PREAMBLE
    + """
import hashlib
import torch
from CrossModalSegLib.errors import Cancelled
from CrossModalSegLib.progress import CancelToken

step_loop.STEPS_PER_REPORT = 1
trainer.export_model = lambda out, run, *args, **kwargs: note(f"exported by {run.fabric.global_rank}")
save = step_loop.save_checkpoint
step_loop.save_checkpoint = lambda *args: (note(f"saved by {torch.distributed.get_rank()}"), save(*args))[1]
run_to_the_end = loop.TrainingLoop.run


def note(text):
    with open(folder / f"notes-{torch.distributed.get_rank()}.txt", "a") as stream:
        stream.write(text + "\\n")


def run(self, checkpoint):
    run_to_the_end(self, checkpoint)
    weights = torch.cat([p.detach().flatten() for p in self.training.network.parameters()])
    note(f"weights {hashlib.sha256(weights.numpy().tobytes()).hexdigest()}")
    note(f"patches {self.training.stream.state_dict()['state']['state']}")


loop.TrainingLoop.run = run
config = tiny_config(batch_size=1)
train(cohort, folder / "whole", config, accelerator="cpu")
cancel = CancelToken()
stop = lambda done, total, message="", values=None: cancel.cancel() if message == "Training" and done == 2 else None
try:
    train(cohort, folder / "parts", config, accelerator="cpu", progress=stop, cancel=cancel)
except Cancelled:
    note("cancelled")
train(cohort, folder / "parts", config, accelerator="cpu", resume=True)
"""
)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.mark.slow
def test_a_killed_and_resumed_training_gives_exactly_the_weights_of_an_uninterrupted_one(tmp_path):
    make_cohort(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        for line in process.stdout:
            if line.split() == ["Training", "5"]:
                time.sleep(0.05)  # somewhere within the next step, or the writing of its checkpoint
                process.kill()
                break
    assert process.returncode == -9
    reached = max(path.name for path in (tmp_path / "parts.training" / "checkpoints").glob("step-*"))
    assert int(reached.split("-")[1]) >= 4 and not (tmp_path / "parts").exists()

    cohort = read_cohort(tmp_path / "cohort.json")
    config = tiny_config(method="cmfnet", steps=200, checkpoint_minutes=0.0, validate_every=2)
    for name, resume in (("whole", False), ("parts", True)):
        with pytest.raises(KeyboardInterrupt):
            train(cohort, tmp_path / name, config, resume=resume, accelerator="cpu", progress=stop_at(9))
    whole, parts = (
        load_file(tmp_path / f"{name}.training" / "checkpoints" / "step-00000009" / "state.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and any("optimizer" in name for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def stop_at(step):
    def progress(done, _total, message="", _values=None):
        if message == "Training" and done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.slow
def test_two_processes_keep_the_same_weights_and_only_the_first_writes(tmp_path):
    make_cohort(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(DISTRIBUTED, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, env=environment(), check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = ((tmp_path / f"notes-{rank}.txt").read_text().splitlines() for rank in (0, 1))
    weights = [[line for line in notes if line.startswith("weights")] for notes in (first, second)]
    assert weights[0] == weights[1] and len(weights[0]) == 2
    assert weights[0][0] == weights[0][1]  # resumed and uninterrupted
    patches = [[line for line in notes if line.startswith("patches")] for notes in (first, second)]
    assert patches[0] != patches[1]
    assert "cancelled" in first and "cancelled" in second
    assert first.count("exported by 0") == 2 and "saved by 0" in first
    assert not any(line.startswith(("exported", "saved")) for line in second)


def test_equal_settings_may_be_resumed_whatever_the_workers():
    check_same_training({"config": {"seed": 1, "num_workers": 0}}, {"config": {"seed": 1, "num_workers": 4}})
    check_same_training({"config": {"patch": [1, 2]}}, {"config": {"patch": (1, 2)}})


def test_each_differing_key_is_named_with_both_values():
    old = {"config": {"hybrid": {"imr": True}, "stage": None, "seed": 1}}
    new = {"config": {"hybrid": {"imr": False}, "stage": {"share": 0.3}, "seed": 1}}
    with pytest.raises(InputError, match=r"config\.hybrid\.imr was True and is now False; .*config\.stage"):
        check_same_training(old, new)
