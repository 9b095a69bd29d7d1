"""Export of a model to a MONAI bundle, which `python -m monai.bundle run` runs and `monai.bundle.load` loads.

MONAI loads weights from `models/model.pt`: a plain state dict, which it reads with `weights_only=True`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from CrossModalSegLib import __version__
from CrossModalSegLib.inference.model_card import ModelCard, check_segments
from CrossModalSegLib.inference.model_folder import find_model, load_model
from CrossModalSegLib.output import atomic_folder, write_json

PARTS = "CrossModalSegLib.inference.bundle_run"


def export_bundle(folder: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a model as a MONAI bundle.

    Args:
        folder: A model folder or the name of an installed model.
        out: The bundle's folder.
        overwrite: Whether an existing folder may be replaced.

    Returns:
        `out`.

    Raises:
        ModelError: The model is not usable, or needs more than images, which a bundle has no place for.
        OutputError: `out` exists, holds the model, or cannot be written.
    """
    model = load_model(folder)
    check_segments(model.card)
    out = Path(out)
    with atomic_folder(out, overwrite=overwrite, inputs=(find_model(folder),)) as temporary:
        for name in ("configs", "models", "docs"):
            (temporary / name).mkdir()
        weights = io.BytesIO()  # a file that torch writes itself hides the errors of the system
        torch.save({f"network.{name}": tensor for name, tensor in model.network.state_dict().items()}, weights)
        (temporary / "models" / "model.pt").write_bytes(weights.getbuffer())
        write_json(model.card.to_json(), temporary / "configs" / "model.json")
        write_json(_metadata(model.card), temporary / "configs" / "metadata.json")
        write_json(_inference(model.card), temporary / "configs" / "inference.json")
        (temporary / "docs" / "README.md").write_text(_readme(model.card), encoding="utf-8")
    return out


def _inference(card: ModelCard) -> dict[str, Any]:
    return {
        "imports": ["$import torch", f"$import {PARTS} as parts"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "card": "$parts.read_bundle_card(@bundle_root + '/configs/model.json')",
        "network_def": {
            "_target_": f"{PARTS}.BundleNetwork",
            "architecture": card.architecture,
            "config": card.network,
        },
        # Here and not under "initialize", which monai.bundle.load evaluates in any working folder.
        "network": "$parts.load_weights(@network_def, @bundle_root + '/models/model.pt').to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": f"{PARTS}.PrepareCase", "card": "@card"}],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$parts.find_cases(@dataset_dir, @card.modalities)",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": f"{PARTS}.VolumeInferer", "patch": None, "overlap": 0.25, "precision": "bf16"},
        "evaluator": {
            "_target_": f"{PARTS}.BundleEvaluator",
            "device": "@device",
            "dataset": "@dataset",
            "network": "@network",
            "inferer": "@inferer",
            "card": "@card",
            "output_dir": "@output_dir",
        },
        "run": ["$@evaluator.run()"],
    }


def _metadata(card: ModelCard) -> dict[str, Any]:
    classes = {str(label.value): label.name for label in card.labels.labels}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": __version__,
        "changelog": {__version__: f"exported from the CrossModalSeg model {card.name}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"CrossModalSegLib": __version__},
        "name": card.name,
        "task": f"Segmentation of {', '.join(card.labels.names)} in {' + '.join(m.upper() for m in card.modalities)}",
        "description": f"{card.architecture} trained with CrossModalSegLib.",
        "authors": "CrossModalSeg",
        "copyright": card.licence,
        "intended_use": "Research only; not for clinical use.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(card.modalities),
                    "num_channels": len(card.modalities),
                    "spatial_shape": ["16*n", "16*n", "16*n"],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": {str(index): name for index, name in enumerate(card.modalities)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": card.labels.num_classes,
                    "spatial_shape": ["16*n", "16*n", "16*n"],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {"0": "background", **classes},
                }
            },
        },
    }


def _readme(card: ModelCard) -> str:
    files = ", ".join(f"{name}.nii.gz" for name in card.modalities)
    return f"""# {card.name}

Needs `pip install CrossModalSegLib fire`. Put each case into a folder of its own in `data/`, with the images
{files} on one grid, then, in this folder:

    python -m monai.bundle run --meta_file configs/metadata.json --config_file configs/inference.json

`eval/<case>.seg.nrrd` then holds the segmentation on the images' own grid. Licence of the weights:
{card.licence or "not stated"}.
"""
