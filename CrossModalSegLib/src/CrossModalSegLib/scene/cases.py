"""A case that was read from files, as nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from CrossModalSegLib.cohort import LoadedCase
from CrossModalSegLib.labels import LabelTable
from CrossModalSegLib.volume import Volume

from .layers import add_voxels
from .scribbles import prepare_scribbles
from .segmentations import write_segmentation
from .segments import SCRIBBLE_TAG, segments_of_classes
from .volumes import add_volume

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSegmentationNode


@dataclass(frozen=True, eq=False)
class CaseNodes:
    """The nodes of a case.

    Attributes:
        images: by modality.
        scribbles: the strokes; None where there are none.
        mask: the truth, hidden; None where there is none.
    """

    images: dict[str, vtkMRMLScalarVolumeNode]
    scribbles: vtkMRMLSegmentationNode | None
    mask: vtkMRMLSegmentationNode | None


def add_case(scene: vtkMRMLScene, loaded: LoadedCase, table: LabelTable) -> CaseNodes:
    """Add a case to the scene; the names of the nodes begin with that of the case.

    Args:
        scene: where to.
        loaded: the case.
        table: the classes of its scribbles and its mask.
    """
    images = {
        modality: add_volume(scene, volume, f"{loaded.name} {modality.upper()}")
        for modality, volume in loaded.images.items()
    }
    first = next(iter(images.values()))
    scribbles = mask = None
    if loaded.scribbles is not None:
        scribbles = prepare_scribbles(scene, first, table, f"{loaded.name} scribbles")
        _draw(scribbles, first, table, loaded.scribbles)
    if loaded.mask is not None:
        mask = write_segmentation(scene, loaded.mask, table, first, f"{loaded.name} mask")
        mask.GetDisplayNode().SetVisibility(False)
    return CaseNodes(images, scribbles, mask)


def _draw(
    node: vtkMRMLSegmentationNode, reference: vtkMRMLScalarVolumeNode, table: LabelTable, strokes: Volume
) -> None:
    for segment in segments_of_classes(node, table, SCRIBBLE_TAG):
        add_voxels(node, segment.identity, reference, np.flatnonzero(strokes.array == segment.value))
