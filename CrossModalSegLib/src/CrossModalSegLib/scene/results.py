"""What the worker's answers become in the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume
from CrossModalSegLib.worker.messages import FitResult, ReferResult, SegmentResult

from .change import Change
from .nodes import MEASUREMENTS, RESULT, drawn_on, nodes_of, role, set_role, storable
from .segmentations import write_segmentation
from .snapshot import Snapshot
from .tables import Measurement, agreement_measured, volumes_measured, write_measurements
from .volumes import write_volume

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
        vtkMRMLSegmentationNode,
        vtkMRMLTableNode,
        vtkMRMLVolumeNode,
    )

_VOLUMES, _AGREEMENT = "Volumes", "Agreement"


@dataclass(frozen=True, eq=False)
class Segmented:
    """What `fit`, `segment` and `refer` put into the scene.

    Attributes:
        segmentations: one for each volume that was segmented, by the volume's node id; of `refer`, the reference's is
            the first.
        probabilities: volumes by node id and class name; empty by class name when not asked for.
        uncertainty: a volume, or None when not asked for.
        table: millilitres of each structure.
        answer: what the worker said, with its label maps.
    """

    segmentations: dict[str, vtkMRMLSegmentationNode]
    probabilities: dict[str, dict[str, vtkMRMLScalarVolumeNode]]
    uncertainty: vtkMRMLScalarVolumeNode | None
    table: vtkMRMLTableNode
    answer: FitResult | SegmentResult | ReferResult

    @property
    def segmentation(self) -> vtkMRMLSegmentationNode:
        """The only one, or that of the reference."""
        return next(iter(self.segmentations.values()))


def result_name(volume: vtkMRMLVolumeNode) -> str:
    """What the segmentation of a volume is called, unless someone wants another name."""
    return f"{volume.GetName()} segmentation"


def last_result(
    scene: vtkMRMLScene, volume: vtkMRMLVolumeNode, name: str, besides: vtkMRMLSegmentationNode | None = None
) -> vtkMRMLSegmentationNode | None:
    """The result of this name that was made for a volume before; not `besides`, whose segments serve as strokes now."""
    for node in nodes_of(scene, "vtkMRMLSegmentationNode"):
        is_named = role(node) == RESULT and node.GetName() == storable(name)
        if is_named and node is not besides and drawn_on(node) is volume:
            return node
    return None


def write_beside(
    scene: vtkMRMLScene,
    before: Snapshot,
    node: vtkMRMLSegmentationNode,
    name: str,
    result: FitResult | SegmentResult,
    change: Change,
) -> Segmented:
    """Write what comes beside the segmentation of one volume.

    Args:
        scene: where to.
        before: the volume as it was when it was segmented.
        node: the segmentation, which is written already.
        name: what the other nodes' names begin with.
        result: what the worker said.
        change: takes note, for undo.
    """
    volume = before.node
    uncertainty = None
    if result.uncertainty is not None:
        uncertainty = write_volume(scene, before.now(result.uncertainty), f"{name}: uncertainty", volume, change)
    probabilities = _write_probabilities(scene, before, name, result.probabilities, change)
    table = _write_table(scene, volumes_measured(volume.GetName(), result.milliliters), _VOLUMES, change)
    return Segmented({volume.GetID(): node}, {volume.GetID(): probabilities}, uncertainty, table, result)


def write_referred(
    scene: vtkMRMLScene,
    before: Mapping[str, Snapshot],
    table: LabelTable,
    show_3d: bool,
    result: ReferResult,
    change: Change,
    scribbles: vtkMRMLSegmentationNode | None = None,
) -> Segmented:
    """Write a segmentation, and what comes beside it, for the reference and each target.

    Args:
        scene: where to.
        before: the volumes as they were when they were segmented, by their names in the result.
        table: the classes.
        show_3d: whether surfaces are made.
        result: what the worker said.
        change: takes note, for undo.
        scribbles: that it was computed from, which stay as they are.
    """
    segmentations, probabilities, rows = {}, {}, []
    for key, snapshot in before.items():
        volume, labels = snapshot.node, snapshot.now(result.labels[key])
        name = result_name(volume)
        into = last_result(scene, volume, name, scribbles)
        node = write_segmentation(scene, labels, table, volume, name, into, show_3d, change)
        segmentations[volume.GetID()] = node
        found = result.probabilities.get(key, {})
        probabilities[volume.GetID()] = _write_probabilities(scene, snapshot, name, found, change)
        rows += volumes_measured(volume.GetName(), result.milliliters[key])
    return Segmented(segmentations, probabilities, None, _write_table(scene, rows, _VOLUMES, change), result)


def write_agreement(
    scene: vtkMRMLScene, volume: vtkMRMLVolumeNode, report: Mapping[str, Any], change: Change
) -> vtkMRMLTableNode:
    """Write the measures of a report of `metrics.MetricsReport.to_json`."""
    return _write_table(scene, agreement_measured(volume.GetName(), report), _AGREEMENT, change)


def _write_probabilities(
    scene: vtkMRMLScene, before: Snapshot, name: str, volumes: Mapping[str, Volume], change: Change
) -> dict[str, vtkMRMLScalarVolumeNode]:
    return {
        structure: write_volume(scene, before.now(volume), f"{name}: probability of {structure}", before.node, change)
        for structure, volume in volumes.items()
    }


def _write_table(scene: vtkMRMLScene, rows: Sequence[Measurement], name: str, change: Change) -> vtkMRMLTableNode:
    """Put rows into the table of this name in place of others."""
    tables = nodes_of(scene, "vtkMRMLTableNode")
    into = next((node for node in tables if role(node) == MEASUREMENTS and node.GetName() == name), None)
    node = write_measurements(scene, rows, name, into, change)
    set_role(node, MEASUREMENTS)
    return node
