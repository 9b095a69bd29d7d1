"""The network of a training, built for its classes and modalities, and checked to fit its method and patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.models.factory import build_network, network_config
from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.methods.method import Method

DECIDED = ("num_classes", "modalities", "in_channels")


def make_network(config: TrainingConfig, method: Method, num_classes: int, modalities: int) -> nn.Module:
    """A network with new weights.

    Args:
        config: Names the network and its options.
        method: Needs certain outputs of it.
        num_classes: K + 1.
        modalities: Image channels.

    Raises:
        InputError: It lacks outputs that the method needs, or the patch size does not suit it.
        ModelError: The network or an option is unknown or not usable.
    """
    clash = [name for name in DECIDED if name in config.network_options]
    if clash:
        raise InputError(f"The network option {clash[0]} follows from the cohort; leave it out of the options.")
    options = to_dict(network_config(config.network_name, num_classes, modalities, **config.network_options))
    if "patch" in options and "patch" not in config.network_options:
        options["patch"] = list(config.patch_size)  # UNETR, which takes inputs of one size
    _check_fits(config, method, options, modalities)
    return build_network(config.network_name, options)


def leaves_parameters_unused(config: TrainingConfig) -> bool:
    """Whether steps give some parameters no gradient, because a branch enters no loss term."""
    name, hybrid = config.network_name, config.hybrid
    if name == "dual_decoder_vnet":
        return config.method != "dmsps"
    if name != "cmfnet":
        is_deeply_supervised = config.deep_supervision and config.method != "cmfnet"
        return bool(config.network_options.get("deep_supervision")) and not is_deeply_supervised
    if config.method != "cmfnet":
        return not config.deep_supervision
    if hybrid.ssl:
        return False
    return not hybrid.imc or (hybrid.detach_fused and not hybrid.imr)


def _check_fits(config: TrainingConfig, method: Method, options: dict[str, Any], modalities: int) -> None:
    with torch.device("meta"):  # shapes alone: nothing is allocated or computed
        network = build_network(config.network_name, options)
        divisor = int(getattr(network, "divisor", 1))
        if any(n % divisor for n in config.patch_size):
            raise InputError(
                f"The network {config.network_name} needs patches whose sides are multiples of {divisor}; "
                f"got {config.patch_size} (k, j, i)."
            )
        try:
            outputs = network(torch.empty(1, modalities, *config.patch_size))
        except ValueError as error:  # normalisation over a single voxel
            raise InputError(
                f"Patches of {config.patch_size} (k, j, i) are too small for the network {config.network_name}: "
                f"{error}. Use larger ones."
            ) from error
    missing = [name for name in method.required_outputs if name not in outputs]
    if missing:
        raise InputError(
            f"The method {config.method} needs a network with the outputs {', '.join(method.required_outputs)}, but "
            f'"{config.network_name}" gives {", ".join(outputs)}; use "{method.default_network}".'
        )
