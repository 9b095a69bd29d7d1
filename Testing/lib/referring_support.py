"""What the tests of referring segmentation share: tiny networks, and volumes that are hard on geometry."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn import functional

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.data.referring.slices import SlicePreprocessing
from CrossModalSegLib.inference.model_card import ModelCard
from CrossModalSegLib.inference.model_folder import LoadedModel, save_model
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.models.crossmr import CrossMR, CrossMRConfig, Features, Prediction, VisualTokens
from CrossModalSegLib.models.focalnet import FocalNetConfig
from CrossModalSegLib.volume import Volume
from grids import rotation

TABLE = LabelTable.from_names(["liver", "spleen"])
SIZE = 64
CONFIG = CrossMRConfig(
    encoder=FocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), focal_levels=(1, 1, 1, 1)),
    image_size=SIZE,
    channels=16,
    heads=2,
    feedforward=16,
    decoder_layers=3,
    encoder_layers=1,
    queries=3,
    max_points=64,
)


class Follower(CrossMR):
    """Finds where an image is at least half as bright as under the strokes; one organ pixel is one mask pixel."""

    def encode(self, images: torch.Tensor) -> Features:
        """One feature: the brightness of 4 by 4 pixels."""
        bright = functional.avg_pool2d(images[:, images.shape[1] // 2, None], 4)
        return Features((bright[..., :2, :2],) * 3, bright)

    def sample(self, features, scribbles, organ_ids=None, generator=None) -> VisualTokens:
        """The mean brightness under the strokes; the number of stroked pixels is that of the tokens."""
        bright = functional.interpolate(features.mask_features, scale_factor=4, mode="nearest")
        counts = scribbles.sum((2, 3))
        mean = (bright * scribbles).sum((2, 3)) / counts.clamp(min=1)
        valid = torch.arange(int(counts.max())) < counts[..., None]
        return VisualTokens((), valid, mean[..., None], counts > 0)

    def decode_last(self, features, tokens) -> Prediction:
        """Present where any pixel is found."""
        logits = 20.0 * (features.mask_features - tokens.prototype[..., None] / 2)
        found = (logits > 0).flatten(2).any(-1)
        similarity = torch.zeros(*logits.shape[:2], 1)
        return Prediction(logits[:, :, None], similarity, torch.where(found, 5.0, -5.0)[..., None], 0)


def card(**changes) -> ModelCard:
    """Of a tiny CrossMR."""
    content = {
        "name": "tiny",
        "architecture": "crossmr",
        "network": to_dict(CONFIG),
        "modalities": ("t1",),
        "labels": TABLE,
        "slices": SlicePreprocessing(SIZE, percentiles=(0.0, 100.0)),
    }
    return ModelCard(**{**content, **changes})


@cache
def tiny_model(config: CrossMRConfig = CONFIG) -> LoadedModel:
    """With random weights, but sure that every organ is there."""
    torch.manual_seed(0)
    network = CrossMR(config).eval()
    torch.nn.init.constant_(network.decoder.presence.bias, 5.0)
    return LoadedModel(network, card())


@cache
def follower() -> LoadedModel:
    """A model whose answers can be computed by hand."""
    return LoadedModel(Follower(CONFIG).eval(), card())


def saved_model(folder: Path) -> Path:
    """A model folder with random weights."""
    return save_model(folder, tiny_model().network, tiny_model().card)


def affine_of(spacing_ijk=(1.5, 1.5, 5.0), angles=(0.0, 0.0, 0.0), origin=(-20.0, 35.0, 7.0)) -> np.ndarray:
    """(4, 4) of an axial volume, maybe turned a little."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * np.array(spacing_ijk)
    affine[:3, 3] = origin
    return affine


def noise(shape=(5, 20, 24), seed=0, affine: np.ndarray | None = None) -> Volume:
    """An image of any content."""
    array = np.random.default_rng(seed).normal(100.0, 20.0, shape).astype(np.float32)
    return Volume(array, affine_of() if affine is None else affine)


def strokes(like: Volume, background: bool = True) -> Volume:
    """Liver on slices 1 and 3, spleen on slice 2, background on slice 1."""
    array = np.full(like.shape, 255, np.uint8)
    array[1, 4:10, 5] = 1
    array[3, 6, 4:12] = 1
    array[2, 12:16, 14:18] = 2
    if background:
        array[1, 1, 2:18] = 0
    return like.with_array(array)


def reordered(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same voxels at the same places, stored in another order.

    Args:
        volume: What to store.
        order: Which of its axes (k, j, i) becomes the first, second and third.
        flips: Whether these then run the other way.
    """
    array = volume.array.transpose(order)
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips)):
        to_old[2 - old, 2 - new] = -1.0 if flip else 1.0
        to_old[2 - old, 3] = volume.shape[old] - 1.0 if flip else 0.0
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return Volume(np.ascontiguousarray(array[steps]), volume.affine @ to_old)


ORDERS = st.sampled_from(list(permutations(range(3))))
FLIPS = st.tuples(st.booleans(), st.booleans(), st.booleans())
ANGLES = st.tuples(*[st.floats(-0.3, 0.3)] * 3)
SPACINGS = st.tuples(st.floats(0.5, 3.0), st.floats(0.5, 3.0), st.floats(0.5, 9.0))
