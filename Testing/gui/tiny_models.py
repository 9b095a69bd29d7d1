"""Model folders with tiny networks of random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.fitting.prior_training import prior_network
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import save_model
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.cmfnet import CmFNet
from CrossModalSegLib.models.crossmr import CrossMR, CrossMRConfig
from CrossModalSegLib.models.focalnet import FocalNetConfig
from CrossModalSegLib.models.vnet import VNet, VNetConfig


def write_models(folder: Path, table: LabelTable, modality: str) -> Path:
    """Write "prior" for fits, "plain" to segment one modality, "refer" to refer.

    Args:
        folder: where to.
        table: the classes of "plain".
        modality: of "plain".

    Returns:
        The folder.
    """
    torch.manual_seed(0)
    config = prior_network(base_channels=2)
    structure = LabelTable.from_names(["structure"])
    save_model(folder / "prior", CmFNet(config), ModelCard("prior", "cmfnet", to_dict(config), ("ct", "mr"), structure))
    config = VNetConfig(len(table) + 1, 1, base_channels=2)
    save_model(folder / "plain", VNet(config), ModelCard("plain", "vnet", to_dict(config), (modality,), table))
    encoder = FocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), focal_levels=(2, 2, 2, 2))
    config = CrossMRConfig(
        encoder,
        image_size=48,
        channels=16,
        heads=2,
        feedforward=32,
        decoder_layers=1,
        encoder_layers=1,
        seed_queries=True,
    )
    card = ModelCard("refer", "crossmr", to_dict(config), ("image",), table, slices=SlicePreprocessing(48))
    save_model(folder / "refer", CrossMR(config), card)
    return folder
