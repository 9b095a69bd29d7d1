"""Messages: every kind comes back as it went, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from CrossModalSegLib.errors import InputError
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker import messages as m

JOB = "0123456789abcdef"
TABLE = LabelTable.from_names(["liver", "Leber-Läsion"])
FILE = m.VolumeFile(
    "in-0.npy", ((1.0, 0.0, 0.0, -3.5), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
)
MODEL = m.Model(
    "liver", Path("/models/liver"), False, 12, None, "segment", "vnet", ("ct",), TABLE, "CC0", {"a": [1]}, {}
)
MESSAGES = [
    m.Hello("0.1.0", Path("/tmp/x"), 12, 1.5),
    m.DoctorRequest(),
    m.FitRequest({"ct": FILE, "mr": FILE}, FILE, TABLE, case="vtkMRMLScalarVolumeNode1", save_model=Path("out")),
    m.TrainRequest(Path("cohort.json"), Path("model"), "fast", 10, settings={"patch_size": [16, 32, 32]}),
    m.SegmentRequest({"ct": FILE}, "liver", precision="fp32"),
    m.ReferRequest(FILE, {"a": FILE}, FILE, TABLE, session="s"),
    m.ReferStrokesRequest("s", FILE, TABLE),
    m.RegisterRequest(FILE, FILE, "affine", "moments"),
    m.AutoBackgroundRequest(FILE, None, 12.0, 0.001),
    m.EvaluateRequest(FILE, FILE, TABLE, (1.0, 3.5)),
    m.WriteCaseRequest(Path("cases"), "a", {"ct": FILE}, FILE, 2, 3),
    m.ModelsRequest(),
    m.ModelInfoRequest("liver"),
    m.ImportModelRequest(Path("liver.zip"), None, True),
    m.ExportModelRequest("liver", Path("out"), "bundle"),
    m.DeleteModelRequest("liver"),
    m.Cancel(),
    m.Finish(),
    m.Pause(),
    m.Resume(),
    m.Shutdown(),
    m.Ready("0.1.0", 77),
    m.Queued(2),
    m.Running(),
    m.Paused(),
    m.Progress(1, 10, "fit", {"loss": 0.5}, 3.25),
    m.Preview(FILE, "step 3", 4.5, None),
    m.Log("Windows of 64 voxels."),
    m.Error("memory", "Too little."),
    m.DoctorResult((m.Finding("devices", "cpu", "fp32", None),), (m.Device("cpu", "CPU", 1, None, True),)),
    m.FitResult(
        FILE, {"liver": 1.5}, {"liver": FILE}, None, {"total": [1.0, None]},
        (m.Answer("first answer", 1.0, None, True),), True, False, "cpu", 2.0,
    ),
    m.SegmentResult(FILE, TABLE, {"liver": 1.5}, {}, FILE, "cuda:0", 2.0),
    m.ReferResult({"a": FILE}, {"a": {"liver": 1.0}}, {"a": {"liver": FILE}}, {"a": {"slices": 3}}, None, "cpu", 2.0),
    m.RegisterResult(FILE.affine, 0.5, None, "geometry", 12),
    m.AutoBackgroundResult(FILE),
    m.EvaluateResult({"mean": {"dsc": None}}),
    m.ModelsResult((MODEL,), Path("/models")),
    m.ModelInfoResult(MODEL, 1000),
    m.ExportModelResult(Path("out")),
    m.WriteCaseResult({"ct": Path("a_ct.nrrd")}, Path("a_scribbles.nrrd")),
]  # fmt: skip


def kinds_of(message: m.Message) -> dict[str, type]:
    return m.REQUESTS if type(message) in m.REQUESTS.values() else m.EVENTS


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back(message: m.Message):
    line = m.to_line(m.Envelope(message, JOB))
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    back = m.from_line(line, kinds_of(message))
    assert back.job == JOB
    assert dataclasses.astuple(back.message) == dataclasses.astuple(message)


def test_no_message_is_left_out():
    assert {type(message) for message in MESSAGES} == {*m.REQUESTS.values(), *m.EVENTS.values()}
    assert set(get_args(m.JobRequest)) == set(m.JOB_REQUEST_TYPES)
    assert set(get_args(m.Result)) == set(m.RESULT_TYPES)


def line_of(**changes: object) -> bytes:
    data = {"protocol": m.PROTOCOL, "kind": "model_info", "job": JOB, "content": {"model": "liver"}} | changes
    return json.dumps({key: value for key, value in data.items() if value != "gone"}).encode()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "strict JSON"),
        (b"[]", "the key 'protocol'"),
        (b"\xff\xfe", "strict JSON"),
        (b'{"protocol": NaN}', "strict JSON"),
        (b'{"protocol": 1, "protocol": 1}', "strict JSON"),
        (line_of(protocol=2), "different versions of CrossModalSegLib"),
        (line_of(protocol="1"), "different versions"),
        (line_of(more=1), "should have the keys"),
        (line_of(content="gone"), "should have the keys"),
        (line_of(kind="rm"), "no message of the kind 'rm'"),
        (line_of(kind=["fit"]), "no message of the kind"),
        (line_of(kind="log"), "no message of the kind 'log'"),
        (line_of(job="../../etc/passwd"), "16 hexadecimal digits"),
        (line_of(job=7), "16 hexadecimal digits"),
        (line_of(content={"model": 3}), "'model' should be text"),
        (line_of(content={"model": "a", "path": "b"}), "'path' is unknown"),
        (line_of(content={}), "'model' is missing"),
        (line_of(content=None), "object with named values"),
    ],
)
def test_anything_else_is_refused(line: bytes, sentence: str):
    with pytest.raises(m.MessageError, match=sentence):
        m.from_line(line, m.REQUESTS)


def test_a_refusal_names_the_job_where_it_can():
    with pytest.raises(m.MessageError) as caught:
        m.from_line(line_of(content={}), m.REQUESTS)
    assert caught.value.job == JOB


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(m, "MAX_LINE_BYTES", 10)
    with pytest.raises(m.MessageError, match="at most"):
        m.from_line(line_of(), m.REQUESTS)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_random_bytes_only_raise_message_errors(line: bytes):
    with pytest.raises(m.MessageError):
        m.from_line(line, m.REQUESTS)


def test_a_volume_cannot_be_sent_as_it_is():
    volume = Volume(np.zeros((1, 2, 3), np.uint8), np.eye(4))
    with pytest.raises(InputError, match="JSON cannot hold"):
        m.to_line(m.Envelope(m.AutoBackgroundRequest(volume), JOB))


def test_a_volume_cannot_come_without_a_file():
    entry = {"array": [[[1]]], "affine": np.eye(4).tolist()}
    line = line_of(kind="auto_background", content={"scribbles": entry})
    with pytest.raises(m.MessageError, match="should be Volume or VolumeFile"):
        m.from_line(line, m.REQUESTS)


def test_the_choices_are_those_of_the_library():
    from CrossModalSegLib.fitting.fit_case import Method
    from CrossModalSegLib.inference.predictor import Precision
    from CrossModalSegLib.inference.referring.session import REFERENCE
    from CrossModalSegLib.registration import Start

    def choices(request: type, field: str) -> set[str]:
        import typing

        return set(get_args(typing.get_type_hints(request)[field]))

    assert choices(m.FitRequest, "method") == set(get_args(Method))
    assert choices(m.SegmentRequest, "precision") == set(get_args(Precision))
    assert choices(m.RegisterRequest, "start") == set(get_args(Start))
    assert m.REFERENCE == REFERENCE


def test_there_is_a_job_for_every_request():
    import importlib

    from CrossModalSegLib.worker.jobs import JOBS

    assert set(JOBS) == set(m.JOB_REQUEST_TYPES)
    for module, function in JOBS.values():
        assert callable(getattr(importlib.import_module(f"CrossModalSegLib.worker.jobs.{module}"), function))
