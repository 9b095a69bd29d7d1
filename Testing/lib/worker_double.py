"""The real worker, but for one kind of job, which does as it is told: for tests of what goes wrong.

Run as a program, it is the worker; `command` starts it. The name of the model asked for says what the job does.
"""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from CrossModalSegLib.errors import InputError, TakenError
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker import server
from CrossModalSegLib.worker.context import Context
from CrossModalSegLib.worker.messages import Model, ModelInfoRequest, ModelInfoResult, Preview

FOREVER = 600.0


def command() -> list[str]:
    """How to start it."""
    return [sys.executable, str(Path(__file__).resolve())]


def behave(request: ModelInfoRequest, context: Context) -> ModelInfoResult:
    """Do what the name says."""
    what, _, rest = request.model.partition(" ")
    if what == "loop":  # looks at its token between steps
        for step in range(int(rest or 10**9)):
            context.progress(step, 0, "step", {"loss": 1.0 / (step + 1)})
            if context.finish.cancelled:
                break
            time.sleep(0.02)
    elif what == "hang":  # does not look at its token
        context.progress(0, 0, "hanging")
        time.sleep(FOREVER)
    elif what == "doze":  # looks at its token only when it has slept
        context.progress(0, 0, "dozing")
        time.sleep(float(rest))
    elif what == "spawn":
        child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"])
        context.progress(child.pid, 0, "started")
        time.sleep(FOREVER)
    elif what == "fail":
        raise {
            "input": InputError("Choose another image."),
            "memory": MemoryError("no more"),
            "disk": OSError(errno.ENOSPC, "No space left on device", "/tmp/Jane Doe.nii"),
            "taken": TakenError("There is one of that name.", Path("Jane Doe")),
            "missing": ModuleNotFoundError("No module named 'torch'", name="torch"),
            "defect": KeyError("Jane Doe 1234.5"),
        }[rest]
    elif what == "preview":  # faster than they are looked at
        for step in range(int(rest)):
            context.preview(Preview(Volume(np.full((1, 2, 3), step, np.uint8), np.eye(4)), f"step {step}", 0.0, None))
            context.progress(step, 0, f"step {step}")
            time.sleep(0.55)
    elif what == "warn":
        logging.getLogger("CrossModalSegLib.test").warning("Less\nmemory than %s.", "wished")
        logging.getLogger("CrossModalSegLib.test").info("a detail")
        logging.getLogger("elsewhere").warning("not ours")
    elif what == "chatter":
        print("not a message")
        sys.stderr.write("nor this\n")
    return ModelInfoResult(Model(request.model, Path("m"), False, 1), 7)


if __name__ == "__main__":
    real = server.run_job
    server._warm_up = lambda: None
    server.run_job = lambda request, context: (
        behave(request, context) if isinstance(request, ModelInfoRequest) else real(request, context)
    )
    sys.exit(server.serve())
