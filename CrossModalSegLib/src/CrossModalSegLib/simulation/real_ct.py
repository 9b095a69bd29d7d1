"""An aligned MR, simulated from a real CT and its labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..labels import LabelTable, check_mask
from ..volume import Volume, require_same_geometry
from . import artefacts
from .fields import grid_noise
from .render import voxel_centres
from .sequences import Contrast, tissue_signal
from .tissues import TISSUES

logger = logging.getLogger(__name__)

#: Organ (a word of the label's name) to tissue; the first of these that occurs in the name counts. Hollow organs (None)
#: hold what their CT numbers say: gas, fluid, wall.
_ORGAN_TISSUE: tuple[tuple[str, str | None], ...] = (
    ("tumour", "npc"),
    ("tumor", "npc"),
    ("gtv", "npc"),
    *((hollow, None) for hollow in ("stomach", "oesophagus", "esophagus", "duodenum", "bowel", "colon")),
    ("liver", "liver"),
    ("spleen", "spleen"),
    ("kidney", "kidney_cortex"),
    ("gallbladder", "bile"),
    ("pancreas", "pancreas"),
    ("adrenal", "adrenal"),
    ("aorta", "blood_flow"),
    ("cava", "blood_slow"),
    ("portal", "blood_slow"),
    ("vein", "blood_slow"),
    ("artery", "blood_flow"),
    ("heart", "heart"),
    ("lung", "lung"),
    ("bone", "vertebra"),
    ("vertebra", "vertebra"),
    ("muscle", "muscle"),
)

_CLIPPED_AIR_HU = -121.0  # in files whose CT numbers were clipped at -125
_UNCLIPPED_AIR_HU = -300.0
_FAT_HU = -98.0
_FLUID_HU = 8.0
_MUSCLE_HU = 55.0
_BLOOD_HU = 150.0
_DENSE_HU = 205.0
_CORTEX_HU = 260.0
_MARROW_GAP_MM = 7.0
_CORTEX_MM = 2.4
_CORTEX_DEPTH_MM = 7.0
_TEXTURE_MM = 5.0


@dataclass(frozen=True)
class MrFromCtOptions:
    """How the MR is simulated.

    Attributes:
        field_strength: 1.5 or 3 tesla.
        noise: Standard deviation of each channel of the complex noise, relative to a bright tissue's signal.
        bias_field: Standard deviation of the logarithm of the coil sensitivity.
        texture: Factor on the texture taken from the CT and on the added one; 0 = none.
        misregistration_mm: Root mean square displacement of the MR against the CT, mm.
    """

    field_strength: float = 1.5
    noise: float = 0.025
    bias_field: float = 0.15
    texture: float = 1.0
    misregistration_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.field_strength not in (1.5, 3.0):
            raise InputError(f"The field strength must be 1.5 or 3 tesla, got {self.field_strength}.")
        for name in ("noise", "bias_field", "texture", "misregistration_mm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"The option {name} must be a finite number of at least 0, got {value}.")


def mr_from_ct(
    ct: Volume,
    mask: Volume,
    table: LabelTable,
    seed: int,
    contrast: Contrast = "t2",
    options: MrFromCtOptions | None = None,
) -> Volume:
    """Simulate an MR on the grid of a real CT; the same arguments give the same voxels.

    Labelled organs take their own tissue, the rest a mixture by CT number (air, fat, fluid, muscle, blood, bone), so
    that partial volume in the CT stays partial volume in the MR. So do labels whose names say no tissue; a warning
    names them. What varies within a tissue in the CT varies in the MR too, with a sign and gain of each tissue's own.
    Then come further texture, a bias field and Rician noise.

    Args:
        ct: CT numbers (k, j, i), HU; may be clipped (from -125 HU).
        mask: Classes of `table` on the same grid; 0 elsewhere.
        table: Names of the classes; organs are known by their English names.
        seed: Not negative.
        contrast: One of the five abdominal sequences "t1", "t2_spir", "in_phase", "opposed_phase" and "dwi", or "t2"
            or "flair".
        options: Field strength and artefacts; None takes the defaults.

    Returns:
        MR in arbitrary units, int16, never negative.

    Raises:
        GeometryError: CT and mask lie on different grids.
        LabelError: The mask has values that the table lacks.
        InputError: Unknown contrast or negative seed.
    """
    require_same_geometry(ct=ct, mask=mask)
    if seed < 0:
        raise InputError(f"The seed must not be negative, got {seed}.")
    options = options or MrFromCtOptions()
    labels = check_mask(mask.array, table)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
    tissue_rng, texture_rng, scan_rng, move_rng = streams
    signals = {
        name: tissue_signal(tissue, contrast, options.field_strength) * float(np.exp(tissue_rng.normal(0, 0.04)))
        for name, tissue in TISSUES.items()
    }
    hu = ct.array.astype(np.float32)
    calm = ndimage.gaussian_filter(hu, [0.5 * min(ct.spacing) / size for size in ct.spacing], truncate=3.0)
    signal = _soft_tissue(calm, labels, ct, signals)
    signal = _with_organs(signal, calm, labels, table, ct.spacing, signals)
    signal *= _texture(hu, labels, table, ct.spacing, options.texture, texture_rng)
    signal = _moved(signal, ct, options.misregistration_mm, move_rng)
    signal *= artefacts.bias_field(ct.shape, ct.spacing, options.bias_field, scan_rng)
    bright = float(np.percentile(signal[:: max(1, ct.shape[0] // 32)], 99))
    signal = artefacts.add_rician_noise(np.maximum(signal, 0), options.noise * bright, scan_rng)
    gain = float(scan_rng.uniform(0.85, 1.2)) * 1200.0 / max(bright, 1e-6)
    return ct.with_array(np.rint(np.clip(gain * signal, 0, 32767)).astype(np.int16))


def _by_hu(hu: np.ndarray, signals: dict[str, float]) -> np.ndarray:
    """Signal of a mixture of the two tissues whose CT numbers lie on either side; no air, no bone."""
    knots = ((_FAT_HU, "visceral_fat"), (_MUSCLE_HU - 10, "muscle"), (85.0, "muscle"), (105.0, "gut_wall"))
    knots += ((_BLOOD_HU, "blood_slow"), (_CORTEX_HU, "blood_flow"))
    positions, names = zip(*knots, strict=True)
    return np.interp(hu, positions, [signals[name] for name in names]).astype(np.float32)


def _disc(radius: int) -> np.ndarray:
    """Structuring element (1, n, n): a disc within the slice."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius * (radius + 0.5))[None]


def _air(hu: np.ndarray) -> np.ndarray:
    """Where air is; in a CT that was clipped just below fat, only areas that lie evenly at the clip level are air."""
    if hu.min() < 2 * _CLIPPED_AIR_HU:
        return hu < _UNCLIPPED_AIR_HU
    even = ndimage.gaussian_filter(hu, (0.6, 1.3, 1.3), truncate=3.0) < _CLIPPED_AIR_HU
    core = ndimage.binary_opening(even, _disc(3))
    return ndimage.binary_dilation(core, _disc(1)) & (hu < _FAT_HU)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece after cutting thin bridges: the patient without the table."""
    pieces, count = ndimage.label(ndimage.binary_opening(mask, _disc(2)))
    if count < 2:
        return mask
    body = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return ndimage.binary_dilation(body, _disc(2)) & mask


def _fluid(hu: np.ndarray) -> np.ndarray:
    """Areas that evenly have the CT number of fluid; a thin layer of such numbers is only fat beside muscle."""
    calm = ndimage.gaussian_filter(hu, (0.6, 1.0, 1.0), truncate=3.0)
    core = ndimage.binary_opening((calm > -12) & (calm < 30), _disc(3))
    return ndimage.binary_dilation(core, _disc(1))


def _soft_tissue(hu: np.ndarray, labels: np.ndarray, ct: Volume, signals: dict[str, float]) -> np.ndarray:
    """Signal of everything but the labelled organs."""
    signal = _by_hu(hu, signals)
    fluid = _fluid(hu)
    signal[fluid] = np.interp(hu[fluid], (10, 40), (signals["gut_fluid"], signals["chyme"]))
    air = _air(hu)
    # Next to air a voxel that looks like fat is air mixed with skin or gut wall.
    edge = ndimage.binary_dilation(air, _disc(1)) & ~air & (hu < _FLUID_HU)
    signal[edge] = signals["skin"] * np.clip((hu[edge] - _CLIPPED_AIR_HU) / (_FLUID_HU - _CLIPPED_AIR_HU), 0.1, 1)
    signal[air] = signals["air"]
    body = _largest(~air)
    signal[~body] = signals["air"]
    bone, marrow, medium = _dense(hu, labels, body, ct)
    signal[medium] = signals["gut_fluid"]
    signal[bone] = signals["bone_cortex"]
    signal[marrow] = signals["vertebra"]
    return signal


def _dense(
    hu: np.ndarray, labels: np.ndarray, body: np.ndarray, ct: Volume
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cortical bone, the marrow inside, and swallowed contrast medium."""
    free = labels == 0
    dense = free & (hu > _DENSE_HU)
    spacing = ct.spacing
    reach = max(1, round(_MARROW_GAP_MM / spacing[2]))
    closed = ndimage.binary_closing(np.pad(dense, ((0, 0), (reach,) * 2, (reach,) * 2)), _disc(reach))
    closed = closed[:, reach:-reach, reach:-reach]
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed]) & free & (hu > _MUSCLE_HU)
    pieces, count = ndimage.label(filled)
    if not count:
        return filled, filled, filled
    depth = ndimage.distance_transform_edt(filled, spacing)
    skin = np.stack([ndimage.distance_transform_edt(ndimage.binary_fill_holes(plane), spacing[1:]) for plane in body])
    ids = np.arange(1, count + 1)
    size = np.asarray(ndimage.sum_labels(filled, pieces, ids)) * float(np.prod(spacing))
    thickness = np.asarray(ndimage.maximum(depth, pieces, ids))
    below_skin = np.asarray(ndimage.median(skin, pieces, ids))
    hardest = np.asarray(ndimage.maximum(hu, pieces, ids))
    middle = ct.affine[1] @ (*np.array(ndimage.center_of_mass(body))[::-1], 1.0)
    centres = np.asarray(ndimage.center_of_mass(filled, pieces, ids)).reshape(-1, 3)
    behind = centres[:, ::-1] @ ct.affine[1, :3] + ct.affine[1, 3] > middle
    # Ribs are thin and lie below the skin, the spine is the largest dense thing at the back.
    rib = (size > 60) & (thickness < 8) & (below_skin < 55) & (hardest > _CORTEX_HU - 20)
    spine = behind & (size > 3000) & (size > 0.2 * size.max(initial=0, where=behind))
    bony = np.concatenate([[False], rib | spine])[pieces]
    marrow = bony & (depth > _CORTEX_MM)
    medium = filled & ~bony & (hu > _CORTEX_HU - 20)
    return bony & ~marrow, marrow, medium


def _tissue_of(label_name: str) -> tuple[str, str | None] | None:
    """The entry of `_ORGAN_TISSUE` that a label's name has a word of, None without one."""
    return next((entry for entry in _ORGAN_TISSUE if entry[0] in label_name.lower()), None)


def _window(region: tuple[slice, ...], margin: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(region, shape, strict=True)
    )


def _with_organs(
    signal: np.ndarray,
    hu: np.ndarray,
    labels: np.ndarray,
    table: LabelTable,
    spacing: tuple[float, float, float],
    signals: dict[str, float],
) -> np.ndarray:
    """Blend each organ's signal in, softly at its surface."""
    result = signal.copy()
    unknown = []
    for label, region in zip(table.labels, ndimage.find_objects(labels, max_label=len(table)), strict=True):
        if region is None:
            continue
        known = _tissue_of(label.name)
        if known is None:
            unknown.append(label.name)
            continue
        name = known[1]
        if name is None:
            continue
        window = _window(region, 3, labels.shape)
        organ = labels[window] == label.value
        soft = ndimage.gaussian_filter(organ.astype(np.float32), 0.6, truncate=3.0)
        own = np.float32(signals[name])
        values = np.full(organ.shape, own, dtype=np.float32)
        if name == "kidney_cortex":
            depth = ndimage.distance_transform_edt(organ, spacing)
            inner = np.clip((depth - _CORTEX_DEPTH_MM) / 2.0 + 0.5, 0, 1).astype(np.float32)
            values += inner * np.float32(signals["kidney_medulla"] - own)
        if name == "liver":
            vessel = np.clip((hu[window] - np.median(hu[window][organ]) - 22) / 25, 0, 1)
            values += vessel * np.float32(signals["blood_slow"] - own)
        fat = np.clip((20 - hu[window]) / (20 - _FAT_HU), 0, 1) if name != "bile" else np.float32(0)
        values += fat * np.float32(signals["visceral_fat"] - own)
        result[window] += soft * (values - result[window])
    if unknown:
        logger.warning(
            "No tissue is known for %s: there the MR shows what the CT numbers say, as outside of the labels. Give the "
            "classes their English names, such as liver, left kidney or tumour.",
            ", ".join(unknown),
        )
    return result


def _texture(
    hu: np.ndarray,
    labels: np.ndarray,
    table: LabelTable,
    spacing: tuple[float, float, float],
    strength: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Factor on the signal: the CT's local variation with a gain of each tissue's own, and an added texture."""
    if strength == 0:
        return np.ones(hu.shape, dtype=np.float32)
    fine = ndimage.gaussian_filter(hu, [0.8 / size for size in spacing], truncate=3.0)
    coarse = ndimage.gaussian_filter(hu, [_TEXTURE_MM / size for size in spacing], truncate=3.0)
    residual = np.clip((fine - coarse) / 25.0, -1.5, 1.5)
    gains = rng.choice((-1.0, 1.0), len(table) + 1) * rng.uniform(0.03, 0.09, len(table) + 1)
    # Outside the organs edges dominate the residual; they already are in the signal.
    gains[0] *= 0.3
    own = grid_noise(rng, hu.shape, tuple(1.6 / size for size in spacing))
    return 1 + np.float32(strength) * (gains.astype(np.float32)[labels] * residual + np.float32(0.035) * own)


def _moved(signal: np.ndarray, ct: Volume, rms_mm: float, rng: np.random.Generator) -> np.ndarray:
    if rms_mm == 0:
        return signal
    centre = ct.affine @ (*((np.array(ct.shape[::-1]) - 1) / 2), 1.0)
    centred = ct.affine.copy()
    centred[:3, 3] -= centre[:3]
    reach = float(np.abs(centred[:3, :3] @ (np.array(ct.shape[::-1]) / 2)).max())
    points = artefacts.misregistration(rms_mm, reach, rng)(*voxel_centres(centred, ct.shape))
    inverse = np.linalg.inv(centred)
    stacked = np.stack(points).astype(np.float32)
    index = np.einsum("ab,bkji->akji", inverse[:3, :3].astype(np.float32), stacked)
    index += inverse[:3, 3].astype(np.float32)[:, None, None, None]
    return ndimage.map_coordinates(signal, index[::-1], order=1, mode="constant", cval=0.0, output=np.float32)
