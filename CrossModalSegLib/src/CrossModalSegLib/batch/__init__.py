"""Many cases, one after another, through the worker process: what fails is reported, what is finished stays."""

from __future__ import annotations

from .run import check_batch, run_batch
from .settings import Action, BatchSettings

__all__ = ["Action", "BatchSettings", "check_batch", "run_batch"]
