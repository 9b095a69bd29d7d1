"""The settings of a referring training, three presets, and the ablations of the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from CrossModalSegLib.data.referring.pair_sampler import PairConfig, PairKinds, ScribbleStyles
from CrossModalSegLib.data.referring.paired_augmentation import (
    PAPER_TARGET,
    SLIGHT,
    PairedAugmentationConfig,
    SpatialConfig,
)
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.errors import InputError
from CrossModalSegLib.inference.predictor import Precision
from CrossModalSegLib.models.crossmr import PRESETS as NETWORKS
from CrossModalSegLib.models.crossmr import CrossMRConfig
from CrossModalSegLib.models.focalnet import FOCALNET
from CrossModalSegLib.training.number_checks import check_numbers
from CrossModalSegLib.training.schedule import ScheduleName

ReferringMethod = Literal["crossmr", "unet"]
AblationName = Literal[
    "seem",
    "no-tokens",
    "no-organ-match",
    "no-paired-augmentation",
    "across-batch",
    "encoder-fixed",
    "from-scratch",
    "unet",
]


# What SEEM's settings draw for each scribble in a training step.
SEEM_QUERIES = 3


@dataclass(frozen=True)
class ReferringConfig:
    """How to train.

    Attributes:
        method: "crossmr", or "unet" for a 2D U-Net on the reference modality alone.
        network: Of CrossMR.
        preprocessing: How slices become network input.
        pairs: How references and targets are drawn.
        modalities: Contrasts that are trained on; None takes all.
        reference_modalities: Contrasts of the references; None takes all that are trained on.
        batch_size: Pairs a step, in each process.
        epochs, steps, minutes: Length, one of the three; in an epoch as many pairs are seen as there are slices with an
            organ. With minutes the learning rate follows the clock.
        learning_rate, schedule, warm_up_steps: Highest rate, its course, and the steps in which it is reached.
        encoder_rate: Share of the rate that the encoder gets; 0 keeps it as it is.
        weight_decay: Of weights; biases and normalisation are not decayed.
        gradient_clip: Largest norm of the gradient; None leaves it as it is.
        points: At which masks are compared, and matched.
        dense_guidance: Whether the mask features are trained directly as well; see `losses.dense_guidance`.
        absent_weight: Of the loss that empties masks of organs that are not in the target; the paper has none.
        within_organ: Whether a mask is matched with the queries of its own organ only.
        use_encoder_weights: Whether the encoder may start from given weights.
        ema_decay: Of the averaged weights, which are then validated and exported; None for none.
        precision: "bf16" computes under autocast where the device is made for it.
        seed: Of weights, splits, pairs and augmentation.
        validations: How often to validate, evenly over the training.
        validation_pairs: Pairs of the held-out cases.
        fold: Cases of this fold validate.
        validation_share: Without a fold, the share of the cases that validates, rounded down.
        checkpoint_minutes: Between two checkpoints.
        num_workers: Processes that prepare batches; 0 takes a thread instead, None what suits the device.
    """

    method: ReferringMethod = "crossmr"
    network: CrossMRConfig = NETWORKS["compact"]
    preprocessing: SlicePreprocessing = field(default_factory=SlicePreprocessing)
    pairs: PairConfig = field(default_factory=PairConfig)
    modalities: tuple[str, ...] | None = None
    reference_modalities: tuple[str, ...] | None = None
    batch_size: int = 4
    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    schedule: ScheduleName = "cosine"
    warm_up_steps: int = 0
    encoder_rate: float = 1.0
    weight_decay: float = 1e-2
    gradient_clip: float | None = 1.0
    points: int = 12_544
    dense_guidance: bool = False
    absent_weight: float = 0.0
    within_organ: bool = True
    use_encoder_weights: bool = True
    ema_decay: float | None = None
    precision: Precision = "bf16"
    seed: int = 0
    validations: int = 20
    validation_pairs: int = 64
    fold: int | None = None
    validation_share: float = 0.1
    checkpoint_minutes: float = 10.0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(ReferringMethod):
            raise InputError(f'The method is "crossmr" or "unet"; got "{self.method}".')
        lengths = [each for each in (self.epochs, self.steps, self.minutes) if each is not None]
        if len(lengths) != 1 or not lengths[0] > 0:
            raise InputError(
                "The length of a training is given once, as epochs, steps or minutes, and is above 0; got "
                f"{self.epochs} epochs, {self.steps} steps and {self.minutes} minutes."
            )
        if self.network.context != self.pairs.context:
            raise InputError(
                f"The network sees {self.network.context} neighbour slices on either side, the pairs bring "
                f"{self.pairs.context}: use the same number."
            )
        if self.preprocessing.image_size % 32:
            raise InputError(f"The image size of a training is a multiple of 32; got {self.preprocessing.image_size}.")
        check_numbers(
            self,
            counts=("batch_size", "points", "validations", "validation_pairs"),
            amounts=("warm_up_steps", "num_workers", "weight_decay", "seed", "checkpoint_minutes", "absent_weight"),
            shares=("encoder_rate", "validation_share"),
        )

    def steps_per_epoch(self, num_slices: int, processes: int = 1) -> int:
        """Steps in which as many pairs are seen as there are slices."""
        return max(1, -(-num_slices // (self.batch_size * processes)))

    def total_steps(self, num_slices: int, processes: int = 1) -> int | None:
        """Steps of the training; None where the clock decides."""
        if self.epochs is not None:
            return self.epochs * self.steps_per_epoch(num_slices, processes)
        return self.steps


PAPER = ReferringConfig(
    network=NETWORKS["paper"],
    preprocessing=SlicePreprocessing(256, "stretch"),
    pairs=PairConfig(
        styles=ScribbleStyles(freeform=0.5, small=0.5),  # SEEM's own shares of its two brushes
        augmentation=PairedAugmentationConfig(target=PAPER_TARGET, contrast_remaps=False, spatial="none"),
        max_organs=16,
    ),
    epochs=50,
    learning_rate=1e-3,
    schedule="constant",
    encoder_rate=0.1,
    precision="fp32",
)

# Made to learn, within an hour on one core, to follow a reference of any organ into any contrast.
_OURS = PairConfig(
    kinds=PairKinds(0.15, 0.25, 0.15, 0.2, anywhere=0.25, mixed_contrasts=True),
    styles=ScribbleStyles(freeform=0.3, small=0.3, short=0.2, contour=0.1, line=0.1),
    augmentation=PairedAugmentationConfig(strong_reference=0.5, geometry=SpatialConfig(elastic=0.02)),
    max_organs=5,
    both_ways=True,
)
DEFAULT = ReferringConfig(
    network=replace(NETWORKS["compact"], image_size=192),
    pairs=_OURS,
    batch_size=2,
    steps=20_000,
    learning_rate=1e-3,
    warm_up_steps=100,
    weight_decay=0.05,
    points=512,  # a fifth of the pixels of a mask, as in Mask2Former
    dense_guidance=True,
    absent_weight=1.0,
    ema_decay=0.998,
)

FAST = ReferringConfig(
    network=replace(
        NETWORKS["compact"],
        image_size=128,
        channels=64,
        feedforward=256,
        heads=4,
        decoder_layers=3,
        encoder_layers=1,
        encoder=replace(FOCALNET["compact"], embed_dim=24, depths=(1, 1, 2, 1)),
    ),
    preprocessing=SlicePreprocessing(128),
    pairs=_OURS,
    steps=500,
    learning_rate=2e-3,
    warm_up_steps=20,
    points=1_024,
    dense_guidance=True,
    absent_weight=1.0,
    ema_decay=0.99,
    validation_pairs=16,
    validations=5,
)

PRESETS: dict[str, ReferringConfig] = {"paper": PAPER, "default": DEFAULT, "fast": FAST}


def _with_network(**changes: object) -> Callable[[ReferringConfig], ReferringConfig]:
    return lambda config: replace(config, network=replace(config.network, **changes))


def _seem(config: ReferringConfig) -> ReferringConfig:
    """Few queries drawn at random and matched over all organs; one augmented image for both sides."""
    drawn = min(SEEM_QUERIES, config.network.queries)
    config = replace(config, network=replace(config.network, sample_queries=drawn), within_organ=False)
    return _without_pairing(config)


def _without_pairing(config: ReferringConfig) -> ReferringConfig:
    augmentation = config.pairs.augmentation
    if augmentation is None:
        raise InputError("Without augmentation there is none to use for both slices of a pair; switch it on.")
    return replace(config, pairs=replace(config.pairs, augmentation=replace(augmentation, paired=False)))


def _unet(config: ReferringConfig) -> ReferringConfig:
    """As a U-Net is usually trained: all slices alike, those without organs too, and no other contrasts made up."""
    kinds = replace(config.pairs.kinds, **dict.fromkeys(config.pairs.kinds.weights, 0.0) | {"anywhere": 1.0})
    pairs = replace(config.pairs, kinds=replace(kinds, mixed_contrasts=False), both_ways=False)
    if pairs.augmentation is not None:
        plain = replace(pairs.augmentation, target=SLIGHT, contrast_remaps=False, spatial="independent")
        pairs = replace(pairs, augmentation=plain)
    return replace(config, method="unet", pairs=pairs)


ABLATIONS: dict[AblationName, Callable[[ReferringConfig], ReferringConfig]] = {
    "seem": _seem,
    "no-tokens": _with_network(visual_tokens=False, seed_queries=False, prototype_masks=False, token_positions=False),
    "no-organ-match": lambda config: replace(config, within_organ=False),
    "no-paired-augmentation": _without_pairing,
    "across-batch": _with_network(across_batch=True),
    "encoder-fixed": lambda config: replace(config, encoder_rate=0.0),
    "from-scratch": lambda config: replace(config, use_encoder_weights=False, encoder_rate=1.0),
    "unet": _unet,
}


def preset(name: str, ablation: str | None = None) -> ReferringConfig:
    """A preset, or one of its ablations.

    Args:
        name: A key of `PRESETS`.
        ablation: A key of `ABLATIONS`, or None.

    Raises:
        InputError: There is no such preset or ablation.
    """
    if name not in PRESETS:
        raise InputError(f'The preset is one of {", ".join(PRESETS)}; got "{name}".')
    if ablation is None:
        return PRESETS[name]
    if ablation not in ABLATIONS:
        raise InputError(f'The ablation is one of {", ".join(ABLATIONS)}; got "{ablation}".')
    return ABLATIONS[ablation](PRESETS[name])
