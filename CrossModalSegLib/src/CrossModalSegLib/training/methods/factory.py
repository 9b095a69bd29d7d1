"""From a configuration to its method."""

from __future__ import annotations

from dataclasses import replace

from CrossModalSegLib.training.config import TrainingConfig
from CrossModalSegLib.training.methods.cmfnet import HybridSupervision
from CrossModalSegLib.training.methods.dmsps import MixedPseudoLabels
from CrossModalSegLib.training.methods.em import EntropyMinimization
from CrossModalSegLib.training.methods.full import FullSupervision
from CrossModalSegLib.training.methods.method import Method, MethodSetting
from CrossModalSegLib.training.methods.ms import MumfordShah
from CrossModalSegLib.training.methods.pce import PartialCrossEntropy
from CrossModalSegLib.training.methods.s2l import Scribble2Label
from CrossModalSegLib.training.methods.tv import TotalVariation
from CrossModalSegLib.training.methods.ustm import MeanTeacher


def build_method(config: TrainingConfig, setting: MethodSetting) -> Method:
    """The method that a configuration names, with its settings."""
    if config.method == "cmfnet":
        return HybridSupervision(setting, replace(config.hybrid, dice_weight=config.dice_weight))
    if config.method == "dmsps":
        return MixedPseudoLabels(setting, config.dmsps, config.dice_weight)
    shared = {"dice_weight": config.dice_weight, "deep_supervision": config.deep_supervision}
    if config.method in ("pce", "full"):
        return (PartialCrossEntropy if config.method == "pce" else FullSupervision)(setting, **shared)
    kinds = {
        "em": EntropyMinimization,
        "tv": TotalVariation,
        "ms": MumfordShah,
        "ustm": MeanTeacher,
        "s2l": Scribble2Label,
    }
    return kinds[config.method](setting, getattr(config, config.method), **shared)
