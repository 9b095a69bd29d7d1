"""All networks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from CrossModalSegLib.config import from_dict
from CrossModalSegLib.errors import InputError, ModelError
from CrossModalSegLib.models.cmfnet import CmFNet, CmFNetConfig
from CrossModalSegLib.models.crossmr import CrossMR, CrossMRConfig
from CrossModalSegLib.models.da_vnet import DAVNet, DAVNetConfig
from CrossModalSegLib.models.dense_unet import DenseUNet, DenseUNetConfig
from CrossModalSegLib.models.dual_decoder_vnet import DualDecoderVNet, DualDecoderVNetConfig
from CrossModalSegLib.models.m_cnn import MCNN, MCNNConfig
from CrossModalSegLib.models.mm_unet import MMUNet, MMUNetConfig
from CrossModalSegLib.models.monai_networks import (
    UNETR,
    DynUNet,
    DynUNetConfig,
    ResUNet,
    ResUNetConfig,
    UNetPlusPlus,
    UNetPlusPlusConfig,
    UNETRConfig,
)
from CrossModalSegLib.models.unet2d import UNet2d, UNet2dConfig
from CrossModalSegLib.models.vnet import VNet, VNetConfig

# Networks of volumes: from modalities to classes.
NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "cmfnet": (CmFNetConfig, CmFNet),
    "vnet": (VNetConfig, VNet),
    "dual_decoder_vnet": (DualDecoderVNetConfig, DualDecoderVNet),
    "m_cnn": (MCNNConfig, MCNN),
    "mm_unet": (MMUNetConfig, MMUNet),
    "da_vnet": (DAVNetConfig, DAVNet),
    "resunet": (ResUNetConfig, ResUNet),
    "unet_plus_plus": (UNetPlusPlusConfig, UNetPlusPlus),
    "dense_unet": (DenseUNetConfig, DenseUNet),
    "unetr": (UNETRConfig, UNETR),
    "dynunet": (DynUNetConfig, DynUNet),
}
# Networks of slices, which follow from their configuration alone.
SLICE_NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "crossmr": (CrossMRConfig, CrossMR),
    "unet2d": (UNet2dConfig, UNet2d),
}


def network_config(name: str, num_classes: int, modalities: int, **options: Any) -> Any:
    """The configuration of a network for a number of classes and modalities.

    Args:
        name: A key of `NETWORKS`.
        num_classes: Background included.
        modalities: Image channels of an input.
        options: Further fields of the configuration.

    Raises:
        ModelError: The name or an option is unknown, or a value does not fit.
    """
    if name not in NETWORKS:
        raise ModelError(f"There is no network of volumes named {name!r}; they are {', '.join(sorted(NETWORKS))}.")
    config_class, _ = NETWORKS[name]
    fields = {field.name for field in dataclasses.fields(config_class)}
    channels = "modalities" if "modalities" in fields else "in_channels"
    return _config(name, {"num_classes": num_classes, channels: modalities, **options})


def build_network(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a network with fresh weights from its name and the dict of its configuration.

    Args:
        name: A key of `NETWORKS` or `SLICE_NETWORKS`.
        config: Fields of its configuration class, as `config.to_dict` gives them; missing ones take their defaults.

    Raises:
        ModelError: The name or a field is unknown, or a value does not fit.
    """
    _, network_class = _entry(name)
    settings = _config(name, config)
    try:
        return network_class(settings)
    except (ValueError, RuntimeError) as error:  # torch's and MONAI's own words for a dropout of 2, or a width of -1
        raise ModelError(f"The network {name!r} cannot be built from its configuration: {error}") from error


def _entry(name: str) -> tuple[type, type[nn.Module]]:
    known = NETWORKS | SLICE_NETWORKS
    if name not in known:
        raise ModelError(f"There is no network named {name!r}; the networks are {', '.join(sorted(known))}.")
    return known[name]


def _config(name: str, values: Mapping[str, Any]) -> Any:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    try:
        return from_dict(_entry(name)[0], plain)
    except InputError as error:
        raise ModelError(f"The configuration of the network {name!r} cannot be used: {error}") from error
