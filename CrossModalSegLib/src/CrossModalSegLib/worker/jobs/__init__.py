"""What the worker can do: one module for each kind of request, imported when it is first asked for."""

from __future__ import annotations

import importlib

from CrossModalSegLib.worker import messages as m
from CrossModalSegLib.worker.context import Context

# The module in this package and its function, which takes the request and a `Context` and returns the result.
JOBS: dict[type, tuple[str, str]] = {
    m.DoctorRequest: ("doctor", "run"),
    m.FitRequest: ("fit", "run"),
    m.TrainRequest: ("train", "run"),
    m.SegmentRequest: ("segment", "run"),
    m.ReferRequest: ("refer", "run"),
    m.ReferStrokesRequest: ("refer", "run_strokes"),
    m.RegisterRequest: ("register", "run"),
    m.AutoBackgroundRequest: ("auto_background", "run"),
    m.EvaluateRequest: ("evaluate", "run"),
    m.WriteCaseRequest: ("write_case", "run"),
    m.ModelsRequest: ("models", "run"),
    m.ModelInfoRequest: ("models", "info"),
    m.ImportModelRequest: ("models", "install"),
    m.ExportModelRequest: ("models", "export"),
    m.DeleteModelRequest: ("models", "delete"),
}


def run_job(request: m.JobRequest, context: Context) -> m.Result:
    """Do what a request asks for.

    Args:
        request: with its volumes read.
        context: the job's surroundings.
    """
    module, function = JOBS[type(request)]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)(request, context)
