"""The worker as panels use it: a real process, real fits and models, on a tiny phantom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from cli_support import TABLE, affine, image_array, scribble_array

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.fitting.prior_training import prior_network
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.labels import UNLABELLED, LabelTable
from CrossModalSegLib.models.cmfnet import CmFNet
from CrossModalSegLib.models.vnet import VNet, VNetConfig
from CrossModalSegLib.volume import Volume, same_geometry
from CrossModalSegLib.worker.client import Job, WorkerClient
from CrossModalSegLib.worker.messages import (
    FitRequest,
    FitResult,
    Preview,
    ReferStrokesRequest,
    SegmentRequest,
)

# The first job waits for torch to be imported, and other work may share the machine.
PATIENCE = 240.0
CT = Volume(image_array(1), affine())
MR = Volume(image_array(2) + 200, affine())
SCRIBBLES = Volume(scribble_array(), affine())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = prior_network(base_channels=2)
    structure = LabelTable.from_names(["structure"])
    save_model(folder / "prior", CmFNet(config), ModelCard("prior", "cmfnet", to_dict(config), ("ct", "mr"), structure))
    config = VNetConfig(3, 1, base_channels=2)
    save_model(folder / "plain", VNet(config), ModelCard("plain", "vnet", to_dict(config), ("mr",), TABLE))
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    base = tmp_path_factory.mktemp("jobs")
    client = WorkerClient(jobs_folder=base)
    yield client
    client.stop()
    assert list(base.iterdir()) == []


@pytest.fixture
def request_of(models: Path) -> Callable[..., FitRequest]:
    base = FitRequest(
        {"ct": CT, "mr": MR}, SCRIBBLES, TABLE, "node 1", start=str(models / "prior"), seconds=600.0, device="cpu"
    )
    return lambda **changes: replace(base, **changes)


def until(condition: Callable[[], object], client: WorkerClient) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        client.poll()
        time.sleep(0.01)


def has_steps(job: Job) -> bool:
    return "loss" in job.progress.values


def test_a_fit_shows_what_it_does_stands_still_and_ends_with_its_best_answer(client, request_of):
    seen: list[Preview] = []
    losses: list[float] = []
    job = client.submit(
        request_of(),
        on_preview=seen.append,
        on_progress=lambda done, total, message, values: losses.append(values.get("loss")),
    )
    until(lambda: has_steps(job), client)
    assert [each.name for each in seen] == ["first answer"]
    assert same_geometry(seen[0].labels, CT)
    job.pause()
    until(lambda: job.state == "paused", client)
    count = len(losses)
    time.sleep(0.5)
    client.poll()
    assert len(losses) == count
    job.resume()
    until(lambda: len(losses) > count, client)
    job.finish()
    assert job.wait(PATIENCE), job.state
    result = job.result
    assert isinstance(result, FitResult)
    drawn = SCRIBBLES.array != UNLABELLED
    assert np.array_equal(result.labels.array[drawn], SCRIBBLES.array[drawn])
    assert (result.is_complete, result.resumed) == (False, False)
    assert losses[-2] == pytest.approx(result.history["total"][-1], rel=10)
    assert len(result.history["total"]) >= 1


def test_with_more_scribbles_it_goes_on(client, request_of):
    more = SCRIBBLES.array.copy()
    more[1, 17, 14:19] = 2
    job = client.submit(request_of(scribbles=SCRIBBLES.with_array(more), seconds=0.0))
    assert job.wait(PATIENCE)
    assert job.result.resumed
    assert (job.result.labels.array[1, 17, 14:19] == 2).all()


def test_a_model_segments_in_the_same_process(client, models):
    pid = client.pid
    job = client.submit(SegmentRequest({"t1": MR}, str(models / "plain"), uncertainty=True, device="cpu"))
    assert job.wait(PATIENCE)
    assert job.state == "done", job.error
    assert same_geometry(job.result.uncertainty, MR)
    assert client.pid == pid


def test_a_fit_is_cancelled_within_two_seconds(client, request_of):
    job = client.submit(request_of())
    until(lambda: has_steps(job), client)
    began = time.monotonic()
    job.cancel()
    assert job.wait(PATIENCE)
    assert time.monotonic() - began < 2.0
    assert (job.state, job.result) == ("cancelled", None)


def test_after_a_crash_the_next_fit_starts_anew(client, request_of):
    job = client.submit(request_of())
    until(lambda: has_steps(job), client)
    psutil.Process(client.pid).kill()
    assert job.wait(PATIENCE)
    assert job.error.kind == "crash"
    assert "your scribbles are untouched" in job.error.message
    again = client.submit(request_of(seconds=0.0))
    strokes = client.submit(ReferStrokesRequest("node 3", SCRIBBLES, TABLE))
    assert again.wait(PATIENCE)
    assert again.state == "done", again.error
    assert not again.result.resumed
    assert strokes.wait(PATIENCE)
    assert strokes.error.kind == "session"
