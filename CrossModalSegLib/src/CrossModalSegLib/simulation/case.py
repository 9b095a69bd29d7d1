"""One simulated patient: registered CT and MR with a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import numpy as np

from ..errors import InputError
from ..labels import LabelTable
from ..volume import Volume, require_same_geometry
from . import artefacts, imaging
from .abdomen import abdomen
from .anatomy import Anatomy
from .head import head
from .options import AnatomyName, SimulationOptions
from .render import Layer, label_mask, render, voxel_centres

_ANATOMIES: MappingProxyType[str, Callable[[np.random.Generator], Anatomy]] = MappingProxyType(
    {"head": head, "abdomen": abdomen}
)
_MAX_INT16 = 32767
_BRIGHT_SIGNAL = 0.45


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A simulated patient; all three volumes share one grid.

    Attributes:
        ct: CT numbers, int16 HU.
        mr: MR magnitude in arbitrary units, int16, never negative.
        mask: Classes of `labels`, uint8.
        labels: Names of the mask's values.
    """

    ct: Volume
    mr: Volume
    mask: Volume
    labels: LabelTable

    def __post_init__(self) -> None:
        require_same_geometry(ct=self.ct, mr=self.mr, mask=self.mask)


def simulate_case(anatomy: AnatomyName, seed: int, options: SimulationOptions | None = None) -> SimulatedCase:
    """Simulate one patient; the same arguments give the same voxels, bit for bit.

    Anatomy, tissue values and each artefact draw from separate streams of the seed, so that changing one option (the
    noise, say) leaves the patient as he was.

    Args:
        anatomy: "head" (label "GTV") or "abdomen" (WORD's seven organs).
        seed: Not negative.
        options: Grid, contrast and artefacts; None takes the defaults.

    Raises:
        InputError: Unknown anatomy or negative seed.
    """
    if anatomy not in get_args(AnatomyName):
        raise InputError(f"The anatomy must be one of {', '.join(get_args(AnatomyName))}, got {anatomy!r}.")
    if seed < 0:
        raise InputError(f"The seed must not be negative, got {seed}.")
    options = options or SimulationOptions()
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)]
    body_rng, value_rng, ct_rng, mr_rng, streak_rng, move_rng = streams
    affine, shape = options.grid_affine(anatomy), options.grid_shape(anatomy)
    body = _ANATOMIES[anatomy](body_rng)
    values = imaging.patient_values(value_rng, options.mr_contrast, options.field_strength, options.tumour_contrast)
    layers = render(body, affine, shape, partial_volume=options.partial_volume)
    mask = label_mask(layers, shape, body.labels.num_classes)
    ct = _ct(body, layers, values, affine, shape, options, ct_rng, streak_rng)
    reach = float(np.abs(affine[:3, :3] @ (np.array(shape[::-1]) / 2)).max())
    displacement = artefacts.misregistration(options.misregistration_mm, reach, move_rng)
    if displacement is not None:
        layers = render(body, affine, shape, partial_volume=options.partial_volume, displacement=displacement)
    mr = _mr(body, layers, values, shape, affine, options, mr_rng)
    return SimulatedCase(Volume(ct, affine), Volume(mr, affine), Volume(mask, affine), body.labels)


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    return tuple(float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)[::-1])


def _ct(
    body: Anatomy,
    layers: list[Layer],
    values: imaging.TissueValues,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    options: SimulationOptions,
    rng: np.random.Generator,
    streak_rng: np.random.Generator,
) -> np.ndarray:
    noise = imaging.textures(rng, shape, _spacing(affine))
    image = imaging.paint_ct(layers, len(body.parts), values, noise, rng)
    if options.streaks > 0 and (body.metal or body.dense):
        points = body.warp(*voxel_centres(affine, shape))
        streaks = artefacts.metal_streaks(points, body.metal, streak_rng)
        streaks += artefacts.beam_hardening(points, body.dense)
        image += np.float32(options.streaks) * streaks
    image = artefacts.add_ct_noise(image, options.ct_noise, rng)
    return np.rint(np.clip(image, -1024, 3071)).astype(np.int16)


def _mr(
    body: Anatomy,
    layers: list[Layer],
    values: imaging.TissueValues,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    options: SimulationOptions,
    rng: np.random.Generator,
) -> np.ndarray:
    spacing = _spacing(affine)
    noise = imaging.textures(rng, shape, spacing)
    image = imaging.paint_mr(layers, len(body.parts), values, noise, rng)
    image *= artefacts.bias_field(shape, spacing, options.bias_field, rng)
    bright = float(np.percentile(image, 99)) or _BRIGHT_SIGNAL
    image = artefacts.add_rician_noise(image, options.mr_noise * bright, rng)
    gain = float(rng.uniform(0.8, 1.25)) * imaging.MR_SCALE
    return np.rint(np.clip(gain * image, 0, _MAX_INT16)).astype(np.int16)
