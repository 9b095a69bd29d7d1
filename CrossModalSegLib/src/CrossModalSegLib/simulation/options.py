"""What a simulated case looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import InputError
from .sequences import Contrast
from .shapes import rotation_matrix

AnatomyName = Literal["head", "abdomen"]
DEFAULT_SHAPE = {"head": (40, 112, 112), "abdomen": (48, 128, 128)}
DEFAULT_SPACING = {"head": (3.0, 1.9, 1.9), "abdomen": (4.0, 2.7, 2.7)}
_SMALLEST_AXIS = 4


@dataclass(frozen=True)
class SimulationOptions:
    """Settings of a simulated CT/MR pair.

    Attributes:
        shape: Voxels along (k, j, i); None takes the anatomy's default.
        spacing: Voxel size along (k, j, i), mm; None takes the anatomy's default.
        rotation_deg: Rotation of the grid about the patient's x, y and z axis (an oblique scan), degrees.
        mr_contrast: MR sequence.
        field_strength: 1.5 or 3 tesla.
        tumour_contrast: "low" brings CT number and MR signal of the tumour close to those of muscle.
        ct_noise: Standard deviation of CT noise, HU.
        mr_noise: Standard deviation of each channel of the MR's complex noise, relative to a bright tissue's signal.
        bias_field: Standard deviation of the logarithm of the MR's coil sensitivity.
        streaks: Strength of metal and beam-hardening streaks in CT; 0 = none, 1 = strong.
        partial_volume: Voxels at surfaces mix their tissues.
        misregistration_mm: Root mean square distance by which the MR is displaced against CT and mask, mm.
    """

    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    mr_contrast: Contrast = "t2"
    field_strength: float = 3.0
    tumour_contrast: Literal["normal", "low"] = "normal"
    ct_noise: float = 9.0
    mr_noise: float = 0.03
    bias_field: float = 0.12
    streaks: float = 0.3
    partial_volume: bool = True
    misregistration_mm: float = 0.0

    def __post_init__(self) -> None:
        if self.shape is not None and (len(self.shape) != 3 or min(self.shape) < _SMALLEST_AXIS):
            raise InputError(f"The shape needs three axes of at least {_SMALLEST_AXIS} voxels, got {self.shape}.")
        if self.spacing is not None and (len(self.spacing) != 3 or not min(self.spacing) > 0):
            raise InputError(f"The spacing needs three positive numbers in mm, got {self.spacing}.")
        if len(self.rotation_deg) != 3 or not np.isfinite(self.rotation_deg).all():
            raise InputError(f"The rotation needs three finite angles in degrees, got {self.rotation_deg}.")
        if self.mr_contrast not in get_args(Contrast):
            raise InputError(f"The MR contrast must be one of {get_args(Contrast)}, got {self.mr_contrast!r}.")
        if self.field_strength not in (1.5, 3.0):
            raise InputError(f"The field strength must be 1.5 or 3 tesla, got {self.field_strength}.")
        if self.tumour_contrast not in ("normal", "low"):
            raise InputError(f"The tumour contrast must be 'normal' or 'low', got {self.tumour_contrast!r}.")
        for name in ("ct_noise", "mr_noise", "bias_field", "streaks", "misregistration_mm"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"The option {name} must be a finite number of at least 0, got {value}.")

    def grid_shape(self, anatomy: AnatomyName) -> tuple[int, int, int]:
        """Voxels along (k, j, i) for an anatomy."""
        return self.shape or DEFAULT_SHAPE[anatomy]

    def grid_affine(self, anatomy: AnatomyName) -> np.ndarray:
        """4x4, voxel index (i, j, k, 1) to LPS mm; the grid's middle is at the origin."""
        shape = self.grid_shape(anatomy)
        spacing = self.spacing or DEFAULT_SPACING[anatomy]
        affine = np.eye(4)
        affine[:3, :3] = rotation_matrix(self.rotation_deg) @ np.diag(spacing[::-1])
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[::-1]) - 1) / 2)
        return affine
