"""Slices, a network and settings small enough to train CrossMR within a second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from CrossModalSegLib.data.referring.pair_sampler import PairConfig
from CrossModalSegLib.data.referring.slices import SlicePreprocessing, SliceStack, slice_frame
from CrossModalSegLib.models.crossmr import CrossMRConfig
from CrossModalSegLib.models.focalnet import FocalNetConfig
from CrossModalSegLib.training.referring.config import ReferringConfig
from CrossModalSegLib.volume import Volume

SIZE = 32
TINY_NETWORK = CrossMRConfig(
    encoder=FocalNetConfig(embed_dim=4, depths=(1, 1, 1, 1), focal_levels=(1, 1, 1, 1)),
    image_size=SIZE,
    channels=8,
    heads=2,
    feedforward=8,
    decoder_layers=1,
    encoder_layers=1,
    queries=3,
    max_points=16,
    seed_queries=True,
)


def make_stack(
    name: str = "a", slices: int = 6, contrasts: tuple[str, ...] = ("t1", "t2"), seed: int = 0
) -> SliceStack:
    """Organ 1 on all slices, organ 2 on the upper half; 5 mm slices."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((slices, SIZE, SIZE), np.uint8)
    labels[:, 4:14, 4:14] = 1
    labels[slices // 2 :, 18:28, 16:28] = 2
    images = {}
    for number, contrast in enumerate(contrasts):
        noise = rng.random(labels.shape, np.float32) * 0.1
        images[contrast] = (0.1 + 0.25 * labels + 0.2 * number * (labels == 1) + noise).astype(np.float32)
    frame = slice_frame(Volume(labels, np.diag([1.0, 1.0, 5.0, 1.0])), SlicePreprocessing(SIZE))
    return SliceStack(name, images, labels, frame)


def tiny_referring_config(**changes: object) -> ReferringConfig:
    """Four steps of two pairs, in fp32."""
    settings: dict[str, object] = {
        "network": TINY_NETWORK,
        "preprocessing": SlicePreprocessing(SIZE),
        "pairs": replace(PairConfig(), max_organs=2, min_pixels=4, both_ways=True),
        "batch_size": 2,
        "steps": 4,
        "points": 64,
        "precision": "fp32",
        "ema_decay": 0.9,
        "validation_share": 0.34,
        "validations": 2,
        "validation_pairs": 4,
    }
    return ReferringConfig(**{**settings, **changes})
