"""The result of a training: a model folder with its history and curve."""

from __future__ import annotations

import copy
import platform
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from CrossModalSegLib.cohort import Cohort
from CrossModalSegLib.config import to_dict
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.output import atomic_folder, write_json
from CrossModalSegLib.training.cases import branch_order
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.network_run import NetworkRun
from CrossModalSegLib.training.run import TrainingRun
from CrossModalSegLib.versions import library_versions


def export_model(
    out: Path, run: TrainingRun, cohort: Cohort, *, description: Mapping[str, Any], validated_on: str
) -> Path:
    """Write the model folder, complete or not at all.

    Args:
        out: Where.
        run: The finished training; the weights of its best validation are exported, the last ones without any.
        cohort: What it was trained on.
        description: Names of the cases, for the provenance.
        validated_on: What the references of the validation were.

    Returns:
        `out`.
    """
    network = best_network(run)
    write_training(out, network, make_card(out, network, run, cohort, description, validated_on), run)
    return out


def best_network(run: NetworkRun) -> nn.Module:
    """A copy of the network with the weights of the best validation, or the last ones without any."""
    network = copy.deepcopy(run.evaluated_network)
    if run.best_weights is not None:
        network.load_state_dict(run.best_weights)
    return network


def write_training(out: Path, network: nn.Module, card: ModelCard, run: NetworkRun) -> None:
    """Write the model folder with `history.json`, `training.json` and `curve.png`, complete or not at all."""
    from CrossModalSegLib.report.curve import write_curve  # here: matplotlib takes a second

    history = run.history.to_json()
    with atomic_folder(out) as folder:
        save_model(folder, network, card)
        write_json(history, folder / "history.json")
        write_json(to_dict(run.config), folder / "training.json")
        write_curve(history, folder / "curve.png")


def make_card(
    out: Path,
    network: nn.Module,
    run: TrainingRun,
    cohort: Cohort,
    description: Mapping[str, Any],
    validated_on: str,
) -> ModelCard:
    """The card of a trained network."""
    config: TrainingConfig = run.config
    return ModelCard(
        name=model_name(out),
        architecture=config.network_name,
        network=to_dict(network.config),
        modalities=branch_order(cohort.modalities),
        labels=cohort.labels,
        preprocessing=config.preprocessing,
        patch=config.patch_size,
        provenance={
            "method": config.method,
            "settings": to_dict(config),
            "cases": dict(description),
            **run_facts(run),
        },
        metrics=_metrics(run, validated_on),
        seed=config.seed,
        versions=library_versions(),
    )


def run_facts(run: NetworkRun) -> dict[str, Any]:
    """Length, hardware and date of a finished training."""
    return {
        "steps": run.step,
        "seconds": run.history.steps[-1]["seconds"] if run.history.steps else 0.0,
        "device": _device_name(run),
        "processes": run.fabric.world_size,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _metrics(run: TrainingRun, validated_on: str) -> dict[str, Any]:
    if run.best_score is None:
        return {"validated_on": "none"}
    best = max(run.history.validation, key=lambda entry: -1.0 if entry["dice"] is None else entry["dice"])
    return {"validated_on": validated_on, **best}


def _device_name(run: NetworkRun) -> str:
    device = run.fabric.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def model_name(out: Path) -> str:
    """The folder's name, with what a model name cannot hold replaced."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", out.name).lstrip("._-")[:64]
    return name or "model"
