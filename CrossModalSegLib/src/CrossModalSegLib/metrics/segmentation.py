"""Overlap and surface measures of a segmentation against a reference, with the spacing of the grid.

- DSC: 2 |P ∩ M| / (|P| + |M|) over voxels.
- ASD: mean of the distances from every border voxel of one mask to the nearest border voxel of the other, both ways
  pooled (symmetric), mm. A border voxel is one that a 6-connected erosion removes.
- HD95: the larger of the two directed 95th percentiles of these distances, mm.
- NSD at t mm: the share of both surfaces, by area, that lies within t of the other one (Nikolov et al. 2021), with the
  sub-voxel surface elements of MONAI and google's surface-distance. On a sheared grid (a tilted gantry) distances are
  exact too, but the areas are those of a grid of the same spacing without shear.

Empty masks: where both are empty a label has no measures and counts in no mean; where one is empty DSC and NSD are 0,
the distances do not exist, and the status says which one is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from ..errors import InputError, LabelError
from ..io.image_io import fits_nifti
from ..labels import LabelTable
from ..progress import CancelToken, Progress, SilentProgress
from ..volume import Volume, require_same_geometry
from .text_table import number, text_table

Status = Literal["ok", "both_empty", "prediction_empty", "mask_empty"]
STATUS_TEXT: dict[Status, str] = {
    "ok": "ok",
    "both_empty": "in neither",
    "prediction_empty": "missed",
    "mask_empty": "not in reference",
}
DEFAULT_TOLERANCES_MM = (1.0, 2.0)
_STEPS = 4  # for each label: borders there and back, then surface elements


@dataclass(frozen=True)
class LabelMetrics:
    """Measures of one label in one case.

    Attributes:
        value: label value, 1..K.
        name: label name.
        status: "ok", or which of the masks is empty.
        dsc: 0..1; None when both masks are empty.
        asd_mm: average symmetric surface distance in mm; None unless "ok".
        hd95_mm: 95 % Hausdorff distance in mm; None unless "ok".
        nsd: normalised surface Dice 0..1, one for each tolerance of the report; None when both masks are empty.
        volume_ml: volume of the prediction.
        reference_ml: volume of the reference mask.
    """

    value: int
    name: str
    status: Status
    dsc: float | None
    asd_mm: float | None
    hd95_mm: float | None
    nsd: tuple[float | None, ...]
    volume_ml: float
    reference_ml: float


@dataclass(frozen=True)
class MetricsReport:
    """Measures of all labels of one case, in the order of the label table.

    Attributes:
        labels: one entry a label.
        tolerances_mm: of the NSD values.
        left_out: segments that only the mask has, which were not measured.
    """

    labels: tuple[LabelMetrics, ...]
    tolerances_mm: tuple[float, ...] = DEFAULT_TOLERANCES_MM
    left_out: tuple[str, ...] = ()

    @property
    def mean_dsc(self) -> float | None:
        """Mean over the labels that the prediction or the reference holds; a missed label counts as 0."""
        return mean_of([label.dsc for label in self.labels])

    @property
    def mean_asd_mm(self) -> float | None:
        """Mean over the labels that both masks hold."""
        return mean_of([label.asd_mm for label in self.labels])

    @property
    def mean_hd95_mm(self) -> float | None:
        """Mean over the labels that both masks hold."""
        return mean_of([label.hd95_mm for label in self.labels])

    @property
    def mean_nsd(self) -> tuple[float | None, ...]:
        """Means for each tolerance over the labels that the prediction or the reference holds."""
        return tuple(mean_of([label.nsd[index] for label in self.labels]) for index in range(len(self.tolerances_mm)))

    @property
    def counts(self) -> dict[str, int]:
        """How many labels have each status."""
        return {status: sum(label.status == status for label in self.labels) for status in STATUS_TEXT}

    def by_name(self, name: str) -> LabelMetrics:
        """The measures of one label.

        Raises:
            LabelError: there is no label of that name.
        """
        for label in self.labels:
            if label.name == name:
                return label
        names = ", ".join(label.name for label in self.labels)
        raise LabelError(f"There is no label {name!r} in this report; it has {names}.")

    def to_json(self) -> dict[str, object]:
        """The report as JSON values; None stays None, NaN never occurs."""
        keys = [f"nsd@{tolerance:g}mm" for tolerance in self.tolerances_mm]
        return {
            "tolerances_mm": list(self.tolerances_mm),
            "mean": {
                "dsc": self.mean_dsc,
                "asd_mm": self.mean_asd_mm,
                "hd95_mm": self.mean_hd95_mm,
                **dict(zip(keys, self.mean_nsd, strict=True)),
            },
            "counts": self.counts,
            "left_out": list(self.left_out),
            "labels": [
                {
                    "value": label.value,
                    "name": label.name,
                    "status": label.status,
                    "dsc": label.dsc,
                    "asd_mm": label.asd_mm,
                    "hd95_mm": label.hd95_mm,
                    **dict(zip(keys, label.nsd, strict=True)),
                    "volume_ml": label.volume_ml,
                    "reference_ml": label.reference_ml,
                }
                for label in self.labels
            ],
        }

    def table(self) -> str:
        """The report as a plain-text table with a row for each label and a mean."""
        nsd = [f"NSD {tolerance:g} mm" for tolerance in self.tolerances_mm]
        header = ["label", "DSC", "ASD mm", "HD95 mm", *nsd, "volume ml", "reference ml", "status"]
        rows = [
            [
                label.name,
                number(label.dsc, 3),
                number(label.asd_mm, 2),
                number(label.hd95_mm, 2),
                *(number(value, 3) for value in label.nsd),
                number(label.volume_ml, 1),
                number(label.reference_ml, 1),
                STATUS_TEXT[label.status],
            ]
            for label in self.labels
        ]
        means = [number(self.mean_dsc, 3), number(self.mean_asd_mm, 2), number(self.mean_hd95_mm, 2)]
        rows.append(["mean", *means, *(number(value, 3) for value in self.mean_nsd), "", "", ""])
        return text_table(header, rows)


def evaluate_segmentation(
    prediction: Volume,
    mask: Volume,
    table: LabelTable,
    tolerances_mm: tuple[float, ...] = DEFAULT_TOLERANCES_MM,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> MetricsReport:
    """Measure a label volume against a reference on the same grid.

    Args:
        prediction: labels 0..K, (k, j, i).
        mask: reference labels 0..K, same grid.
        table: the labels 1..K.
        tolerances_mm: distances at which NSD is given; none saves half of the time.
        progress: told about each surface that was measured.
        cancel: stops it with `Cancelled`.

    Returns:
        A report with one entry for each label of the table.

    Raises:
        GeometryError: the two are not on the same grid.
        LabelError: one holds a value that the table does not have.
        InputError: a tolerance is not a number >= 0.
        Cancelled: on request.
    """
    require_same_geometry(prediction=prediction, mask=mask)
    _require_tolerances(tolerances_mm)
    predicted = _known_labels("prediction", prediction.array, table)
    reference = _known_labels("mask", mask.array, table)
    boxes = [_padded(find_objects(labels, max_label=len(table))) for labels in (predicted, reference)]
    track = _Track(len(table), progress or SilentProgress(), cancel or CancelToken())
    return MetricsReport(
        labels=tuple(
            _evaluate_label(predicted, reference, label.value, label.name, _union(pair), mask, tolerances_mm, track)
            for label, pair in zip(table.labels, zip(*boxes, strict=True), strict=True)
        ),
        tolerances_mm=tuple(float(tolerance) for tolerance in tolerances_mm),
    )


def mean_of(values: list[float | None]) -> float | None:
    """Mean of the values that exist, None when none does."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _require_tolerances(tolerances_mm: tuple[float, ...]) -> None:
    for tolerance in tolerances_mm:
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(f"NSD tolerances must be numbers of mm >= 0, got {tolerance}.")


def _known_labels(name: str, array: np.ndarray, table: LabelTable) -> np.ndarray:
    """The array as uint8 labels.

    Raises:
        LabelError: a value is no whole number of 0..K.
    """
    with np.errstate(invalid="ignore"):  # NaN becomes some label, and is found wrong just below
        labels = array.astype(np.uint8)
    wrong = (labels != array) | (labels > len(table))
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in np.unique(array[wrong])[:8])
        raise LabelError(
            f"The {name} holds the values {found}, but the labels are 0 (background) and 1 to {len(table)} "
            f"({', '.join(table.names)}). Convert its labels first."
        )
    return labels


Box = tuple[slice, ...]


def _padded(boxes: list[Box | None]) -> list[Box | None]:
    """The boxes with one voxel more on each side, cut at the start of the grid."""
    return [box and tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box) for box in boxes]


def _union(pair: tuple[Box | None, ...]) -> Box | None:
    """Smallest box around the boxes that exist."""
    present = [box for box in pair if box is not None]
    if not present:
        return None
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*present, strict=True))


class _Track:
    """How many surfaces of how many labels were measured."""

    def __init__(self, labels: int, progress: Progress, cancel: CancelToken) -> None:
        """Nothing is measured yet."""
        self._labels, self._progress, self._cancel = labels, progress, cancel
        self._begun = self._steps = 0

    def begin(self) -> None:
        """The next label comes."""
        self._cancel.raise_if_cancelled()
        self._begun += 1
        self._tell((self._begun - 1) * _STEPS)

    def step(self) -> None:
        """A surface of the present label was measured."""
        self._cancel.raise_if_cancelled()
        self._tell(self._steps + 1)

    def _tell(self, steps: int) -> None:
        self._steps = steps
        self._progress(steps, self._labels * _STEPS, "measuring")


def _evaluate_label(
    predicted: np.ndarray,
    reference: np.ndarray,
    value: int,
    name: str,
    box: Box | None,
    grid: Volume,
    tolerances_mm: tuple[float, ...],
    track: _Track,
) -> LabelMetrics:
    """Measures of one label inside of a box of the grid that holds all of it."""
    track.begin()
    if box is None:
        return LabelMetrics(value, name, "both_empty", None, None, None, (None,) * len(tolerances_mm), 0.0, 0.0)
    first, second = predicted[box] == value, reference[box] == value
    sizes = int(first.sum()), int(second.sum())
    volumes = sizes[0] * grid.voxel_ml, sizes[1] * grid.voxel_ml
    if 0 in sizes:
        status: Status = "prediction_empty" if sizes[0] == 0 else "mask_empty"
        return LabelMetrics(value, name, status, 0.0, None, None, (0.0,) * len(tolerances_mm), *volumes)
    dsc = 2.0 * int((first & second).sum()) / sum(sizes)
    asd, hd95 = _border_distances(first, second, grid, track)
    nsd = _surface_dice(first, second, grid, tolerances_mm, track)
    return LabelMetrics(value, name, "ok", dsc, asd, hd95, nsd, *volumes)


def _border_distances(first: np.ndarray, second: np.ndarray, grid: Volume, track: _Track) -> tuple[float, float]:
    """ASD and HD95 in mm of two masks that are not empty; MONAI's definitions, from one pair of distances."""
    edges = get_mask_edges(torch.from_numpy(first), torch.from_numpy(second))
    there, back = _both_ways(edges, grid, track)
    hausdorff = max(float(np.percentile(side.numpy(), 95)) for side in (there, back))
    return float(torch.cat((there, back)).mean()), hausdorff


def _surface_dice(
    first: np.ndarray, second: np.ndarray, grid: Volume, tolerances_mm: tuple[float, ...], track: _Track
) -> tuple[float, ...]:
    """NSD for each tolerance of two masks that are not empty; MONAI's definition, from one pair of distances."""
    if not tolerances_mm:
        return ()
    masks = torch.from_numpy(first), torch.from_numpy(second)
    *edges, first_area, second_area = get_mask_edges(*masks, spacing=grid.spacing)
    weights = [area[edge] for area, edge in zip((first_area, second_area), edges, strict=True)]
    distances = _both_ways(edges, grid, track)
    total = float(sum(weight.sum() for weight in weights))
    return tuple(
        float(sum(weight[far <= tolerance].sum() for weight, far in zip(weights, distances, strict=True))) / total
        for tolerance in tolerances_mm
    )


def _both_ways(edges: Sequence[torch.Tensor], grid: Volume, track: _Track) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances in mm from each border element of one mask to the other mask's border, and back."""
    measure = _distances if fits_nifti(grid) else _sheared_distances
    there = measure(*edges, grid)
    track.step()
    back = measure(*reversed(edges), grid)
    track.step()
    return there, back


def _distances(first: torch.Tensor, second: torch.Tensor, grid: Volume) -> torch.Tensor:
    return get_surface_distance(first, second, spacing=grid.spacing)


def _sheared_distances(first: torch.Tensor, second: torch.Tensor, grid: Volume) -> torch.Tensor:
    """The same where axes are not orthogonal (a tilted gantry), for which a distance transform has no place."""
    here, there = (np.argwhere(edge.numpy())[:, ::-1] @ grid.affine[:3, :3].T for edge in (first, second))
    return torch.from_numpy(KDTree(there).query(here)[0])
