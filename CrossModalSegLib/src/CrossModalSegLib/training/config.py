"""The settings of a training, and three presets, each for every method."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from CrossModalSegLib.data.augment import AugmentationLevel
from CrossModalSegLib.data.preprocess import Preprocessing
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.predictor import Precision
from CrossModalSegLib.losses.hybrid import HybridConfig
from CrossModalSegLib.training.methods.dmsps import DmspsConfig, MixedPseudoLabels
from CrossModalSegLib.training.methods.em import EmConfig
from CrossModalSegLib.training.methods.ms import MsConfig
from CrossModalSegLib.training.methods.s2l import S2LConfig
from CrossModalSegLib.training.methods.tv import TvConfig
from CrossModalSegLib.training.methods.ustm import UstmConfig
from CrossModalSegLib.training.number_checks import check_numbers
from CrossModalSegLib.training.optimizer import OptimizerName
from CrossModalSegLib.training.pseudo_labels import SecondStage
from CrossModalSegLib.training.schedule import ScheduleName

MethodName = Literal["cmfnet", "pce", "full", "em", "tv", "ms", "ustm", "s2l", "dmsps"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        method: What is minimised; see `methods`.
        annotation: What is learned from; "full" always learns from masks.
        network: Name in `models.factory`; None takes the one that the method was published with.
        network_options: Of its configuration, beside the numbers of classes and modalities.
        preprocessing: How images become network input.
        patch_size: (k, j, i) voxels; each a multiple of the network's divisor.
        batch_size: Patches a step, in each process.
        epochs, steps: Length, one of both; in an epoch as many patches are seen as there are training cases.
        foreground: Probability that a patch is laid around a voxel of a class other than the background.
        augmentation: Its strength.
        optimizer: "adam", "adamw", or "sgd" with Nesterov momentum.
        learning_rate, schedule, warm_up_steps: Highest rate, its course, and the steps in which it is reached.
        weight_decay: Of weights; biases and normalisation are not decayed.
        momentum: Of "sgd".
        gradient_clip: Largest norm of the gradient; None leaves it as it is.
        dice_weight: Of the partial Dice beside the partial cross-entropy.
        deep_supervision: Supervise the single-modal branches of CmFNet too when another method trains it; the method
            "cmfnet" always does (Eq. 4).
        hybrid: Switches and weights of the method "cmfnet" (Table VII); its `dice_weight` stays 0, as the one above
            holds for all methods.
        em, tv, ms, ustm, s2l, dmsps: Of the compared methods.
        second_stage: Training on with the network's own confident predictions as labels; None for one stage.
        ema_decay: Of the averaged weights, which are then validated and exported; None for none.
        precision: "bf16" computes under autocast where the device is made for it.
        seed: Of weights, splits, patches and augmentation.
        validate_every: Steps between validations; None validates twenty times.
        fold: Cases of this fold validate.
        validation_share: Without a fold, the share of the cases that validates, rounded down.
        scribble_share: Without validation cases, the share of the scribbled slices that validates, rounded down.
        checkpoint_minutes: Between two checkpoints.
        num_workers: Processes that prepare batches; 0 takes a thread instead, None what suits the device.
    """

    method: MethodName = "cmfnet"
    annotation: Literal["scribbles", "masks"] = "scribbles"
    network: str | None = None
    network_options: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    patch_size: tuple[int, int, int] = (16, 96, 96)
    batch_size: int = 4
    epochs: int | None = None
    steps: int | None = 20_000
    foreground: float = 0.75
    augmentation: AugmentationLevel = "default"
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    schedule: ScheduleName = "poly"
    warm_up_steps: int = 0
    weight_decay: float = 1e-2
    momentum: float = 0.99
    gradient_clip: float | None = 1.0
    dice_weight: float = 1.0
    deep_supervision: bool = True
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    em: EmConfig = field(default_factory=EmConfig)
    tv: TvConfig = field(default_factory=TvConfig)
    ms: MsConfig = field(default_factory=MsConfig)
    ustm: UstmConfig = field(default_factory=UstmConfig)
    s2l: S2LConfig = field(default_factory=S2LConfig)
    dmsps: DmspsConfig = field(default_factory=DmspsConfig)
    second_stage: SecondStage | None = None
    ema_decay: float | None = 0.999
    precision: Precision = "bf16"
    seed: int = 0
    validate_every: int | None = None
    fold: int | None = None
    validation_share: float = 0.2
    scribble_share: float = 0.1
    checkpoint_minutes: float = 10.0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(MethodName):
            raise InputError(f'The method is one of {", ".join(get_args(MethodName))}; got "{self.method}".')
        if (self.epochs is None) == (self.steps is None):
            raise InputError(f"Give either epochs or steps; got {self.epochs} epochs and {self.steps} steps.")
        if len(self.patch_size) != 3 or min(self.patch_size) < 1:
            raise InputError(f"The patch size is three positive numbers (k, j, i); got {self.patch_size}.")
        check_numbers(
            self,
            counts=("batch_size", "epochs", "steps", "validate_every"),
            amounts=("warm_up_steps", "num_workers", "weight_decay", "dice_weight", "seed", "checkpoint_minutes"),
            shares=("foreground", "validation_share", "scribble_share", "momentum"),
        )
        if self.hybrid.dice_weight:
            raise InputError("Set the dice_weight of the training, not that of the hybrid loss.")
        if self.second_stage is not None and self.target == "mask":
            raise InputError("A second stage fills in labels that scribbles leave open; masks leave none open.")

    @property
    def target(self) -> Literal["scribbles", "mask"]:
        """What of a case is learned from."""
        return "mask" if self.method == "full" or self.annotation == "masks" else "scribbles"

    @property
    def network_name(self) -> str:
        """The network, chosen or the method's own."""
        if self.network is not None:
            return self.network
        return {"cmfnet": "cmfnet", "dmsps": MixedPseudoLabels.default_network}.get(self.method, "vnet")

    def total_steps(self, num_cases: int, processes: int = 1) -> int:
        """Steps of the training."""
        return self.steps if self.steps is not None else self.epochs * self.steps_per_epoch(num_cases, processes)

    def steps_per_epoch(self, num_cases: int, processes: int = 1) -> int:
        """Steps in which as many patches are seen as there are training cases."""
        return max(1, -(-num_cases // (self.batch_size * processes)))


PAPER = TrainingConfig(
    batch_size=16,
    epochs=200,
    steps=None,
    # The paper says "randomly cropped"; here each crop holds a label, of a class or of the background alike.
    foreground=0.5,
    augmentation="none",
    optimizer="adam",
    learning_rate=1e-5,
    schedule="constant",
    weight_decay=0.0,
    gradient_clip=None,
    dice_weight=0.0,
    network_options={"dropout": 0.5},
    hybrid=HybridConfig(lambda_ct=0.2, lambda_mr=0.2, alpha1=0.8, alpha2=0.8),
    ema_decay=None,
    precision="fp32",
    scribble_share=0.0,
)

DEFAULT = TrainingConfig(
    warm_up_steps=200,
    network_options={"dropout": 0.1},
    hybrid=HybridConfig(unit="mm"),
    second_stage=SecondStage(),
)

FAST = TrainingConfig(
    network_options={"base_channels": 8, "dropout": 0.1},
    batch_size=2,
    steps=500,
    augmentation="light",
    learning_rate=3e-3,
    warm_up_steps=20,
    hybrid=HybridConfig(unit="mm"),
    ema_decay=0.99,
)

PRESETS: dict[str, TrainingConfig] = {"paper": PAPER, "default": DEFAULT, "fast": FAST}

# Of the published comparisons of weakly supervised methods.
_PUBLISHED = {
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "poly",
}


def preset(name: str, method: MethodName = "cmfnet") -> TrainingConfig:
    """A preset for a method.

    The presets are made for CmFNet. Another method is trained as it was published, without what CmFNet gets on top:
    no partial Dice and no second stage, so that "pce" is partial cross-entropy alone and "full" cross-entropy alone.
    DMSPS has a second stage of its own (not in "fast"). In "paper" the compared weakly supervised methods take the
    rate, momentum (here Nesterov's), weight decay and schedule of the published comparisons.

    Args:
        name: A key of `PRESETS`.
        method: The method.

    Raises:
        InputError: There is no such preset or method.
    """
    if name not in PRESETS:
        raise InputError(f'The preset is one of {", ".join(PRESETS)}; got "{name}".')
    config = PRESETS[name]
    if method == "cmfnet":
        return config
    changes: dict[str, Any] = {"method": method, "dice_weight": 0.0, "second_stage": None}
    if method == "dmsps" and name != "fast":
        changes["second_stage"] = SecondStage()
    if name == "paper" and method != "full":
        changes.update(_PUBLISHED)
    return replace(config, **changes)
