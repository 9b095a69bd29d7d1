from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

from CrossModalSegLib.data.patches import PatchSampler
from CrossModalSegLib.data.preprocess import PreparedCase
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.training.batches import BatchStream, batch_workers, patch_margin
from CrossModalSegLib.training.interrupt import STOPPING
from CrossModalSegLib.volume import Volume


def case(number=0, shape=(8, 20, 20)):
    rng = np.random.default_rng(number)
    scribbles = np.full(shape, 255, np.uint8)
    scribbles[2:6, 5, 4:16] = 0
    scribbles[2:6, 12, 4:16] = 1
    volume = Volume(np.zeros(shape, np.uint8), np.eye(4))
    return PreparedCase(
        f"case{number}", rng.random((2, *shape), dtype=np.float32), scribbles, None, (2.0, 1.0, 1.0), np.eye(4), volume
    )


def sampler(seed=0):
    return PatchSampler([case(0), case(1)], (4, 8, 8), seed=seed)


@pytest.fixture
def streams():
    opened = []

    def make(workers=0, augmentation="default", seed=0):
        opened.append(BatchStream(sampler(seed), augmentation, 2, workers=workers))
        return opened[-1]

    yield make
    for stream in opened:
        stream.close()


def same(first, second):
    return torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


def test_a_batch_has_the_documented_shapes_and_types(streams):
    batch = streams().next()
    assert batch.images.shape == (2, 2, 4, 8, 8) and batch.images.dtype == torch.float32
    assert batch.labels.shape == batch.inside.shape == (2, 4, 8, 8)
    assert batch.labels.dtype == torch.int64 and batch.inside.dtype == torch.bool
    assert batch.spacing == ((2.0, 1.0, 1.0),) * 2 and set(batch.cases) <= {0, 1}


def test_the_number_of_workers_changes_nothing(streams):
    thread, processes = streams(0), streams(2)
    assert all(same(thread.next(), processes.next()) for _ in range(6))


@pytest.mark.parametrize(
    ("device", "system", "cores", "local", "workers"),
    [
        ("cpu", "linux", 16, "1", 0),
        ("cuda", "linux", 16, "1", 8),
        ("cuda", "linux", 4, "1", 3),
        ("cuda", "linux", 16, "4", 3),
        ("cuda", "linux", 1, "1", 0),
        ("cuda", "win32", 16, "1", 0),
    ],
)
def test_a_gpu_gets_as_many_workers_as_there_are_cores_for(device, system, cores, local, workers, monkeypatch):
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert batch_workers(None, torch.device(device)) == workers
    assert batch_workers(5, torch.device(device)) == 5
    with pytest.raises(InputError, match="should be 0 or above, got -1"):
        batch_workers(-1, torch.device(device))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_is_that_after_the_last_batch_handed_out(streams, workers):
    stream = streams(workers)
    for _ in range(3):
        stream.next()
    state = stream.state_dict()
    expected = [stream.next() for _ in range(3)]
    other = streams(0, seed=5)
    other.next()
    other.load_state_dict(state)
    assert all(same(batch, other.next()) for batch in expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_new_label_maps_count_from_the_very_next_batch(streams, workers):
    stream, plain = streams(workers, augmentation="none"), streams(augmentation="none")
    stream.next(), plain.next()
    stream.set_extra("pseudo", [np.full((8, 20, 20), value, np.uint8) for value in (3, 4)])
    batch = stream.next()
    assert same(batch, plain.next())
    for number, labels in zip(batch.cases, batch.extra["pseudo"], strict=True):
        assert labels.dtype == torch.int64 and (labels == number + 3).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_caller(streams, workers):
    stream = streams(workers)
    stream.sampler.cut = lambda *_plan: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        stream.next()


def test_signals_to_all_processes_of_a_program_leave_the_workers_at_work(streams):
    stream, plain = streams(2), streams()
    assert same(stream.next(), plain.next())
    workers = psutil.Process().children()
    assert len(workers) == 2
    for worker in workers:
        for number in STOPPING:
            worker.send_signal(number)
    assert all(same(stream.next(), plain.next()) for _ in range(6))
    stream.close()
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_only_augmentation_that_moves_voxels_gets_a_margin():
    assert patch_margin((16, 96, 96), "none") == (0, 0, 0)
    assert patch_margin((16, 96, 96), "default") == (3, 19, 19)
