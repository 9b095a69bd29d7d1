"""The cases of a scene: which images belong to which scribbles, and writing them as a cohort to train on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from CrossModalSegLib.cohort import Case, Cohort, as_file_name, write_cohort
from CrossModalSegLib.errors import CohortError, LabelError
from CrossModalSegLib.io import write_volume
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.output import atomic_folder

from .classes import classes_of
from .nodes import SCRIBBLES, nodes_of, role
from .scribbles import missing_scribbles, read_scribbles
from .segments import BACKGROUND
from .volumes import read_volume

if TYPE_CHECKING:
    from slicer import vtkMRMLScene, vtkMRMLSegmentationNode, vtkMRMLVolumeNode

COHORT_FILE = "cohort.json"
_IMAGE_ROLE = "CrossModalSeg.Image."


def set_images(scribbles: vtkMRMLSegmentationNode, images: Mapping[str, vtkMRMLVolumeNode]) -> None:
    """Remember which images scribbles belong to; saved with the scene.

    Args:
        scribbles: strokes on the first image.
        images: by modality.
    """
    if list(images.items()) == list(images_of(scribbles).items()):
        return
    for modality in images_of(scribbles):
        scribbles.RemoveNodeReferenceIDs(_IMAGE_ROLE + modality)
    for modality, node in images.items():
        scribbles.SetNodeReferenceID(_IMAGE_ROLE + modality, node.GetID())


def images_of(scribbles: vtkMRMLSegmentationNode) -> dict[str, vtkMRMLVolumeNode]:
    """Images by modality that `set_images` remembered and that are still in the scene, "ct" before "mr"."""
    roles = [scribbles.GetNthNodeReferenceRole(index) for index in range(scribbles.GetNumberOfNodeReferenceRoles())]
    modalities = sorted(each.removeprefix(_IMAGE_ROLE) for each in roles if each.startswith(_IMAGE_ROLE))
    found = {modality: scribbles.GetNodeReference(_IMAGE_ROLE + modality) for modality in modalities}
    return {modality: node for modality, node in found.items() if node is not None}


def scribbled_cases(scene: vtkMRMLScene) -> list[vtkMRMLSegmentationNode]:
    """Scribbles of which the images are known, in the order of the scene."""
    found = nodes_of(scene, "vtkMRMLSegmentationNode")
    return [node for node in found if role(node) == SCRIBBLES and images_of(node)]


def write_cases(scene: vtkMRMLScene, folder: str | Path) -> Path:
    """Write all scribbled cases of a scene as a cohort, at the places where they lie in the scene.

    Args:
        scene: holds scribbles of which the images are known.
        folder: where to; must not exist, or be empty.

    Returns:
        The cohort file.

    Raises:
        CohortError: there is no such case, or they do not have the same images.
        LabelError: they do not have the same structures, one is not scribbled, or strokes overlap.
        GeometryError, InputError: a node cannot be used.
        OutputError: the folder is taken or cannot be written.
    """
    nodes = scribbled_cases(scene)
    if not nodes:
        raise CohortError(
            "The scene holds no case yet. Choose the images of one, prepare its scribbles and draw; then the next one."
        )
    table = classes_of(nodes[0])
    for node in nodes:
        _check_classes(node, table, nodes[0])
    with atomic_folder(folder) as temporary:
        names = _names(nodes)
        cases = tuple(_written(node, name, table, temporary) for node, name in zip(nodes, names, strict=True))
        modalities = tuple(images_of(nodes[0]))
        write_cohort(Cohort(modalities, table, ScribbleConvention.INTERNAL, cases, temporary), temporary / COHORT_FILE)
    return Path(folder) / COHORT_FILE


def _check_classes(node: vtkMRMLSegmentationNode, table: LabelTable, first: vtkMRMLSegmentationNode) -> None:
    here, there = classes_of(node).names, table.names
    if {each.casefold() for each in here} != {each.casefold() for each in there}:
        raise LabelError(
            f"All cases should have the same structures, but '{first.GetName()}' has {', '.join(there)}, and "
            f"'{node.GetName()}' {', '.join(here)}. Rename the segments of one of them, or delete it."
        )
    image = next(iter(images_of(node).values()))
    missing = missing_scribbles(node, image, table)
    if BACKGROUND in missing or len(missing) == len(table):
        raise LabelError(
            f"There is no scribble of {', '.join(missing)} in '{node.GetName()}'; draw there, or delete this case."
        )


def _written(node: vtkMRMLSegmentationNode, name: str, table: LabelTable, folder: Path) -> Case:
    images, paths = images_of(node), {}
    for modality, image in images.items():
        paths[modality] = folder / f"{name}_{modality}.nrrd"
        write_volume(read_volume(image), paths[modality], compress=False)
    scribbles = folder / f"{name}_scribbles.nrrd"
    write_volume(read_scribbles(node, next(iter(images.values())), table), scribbles)
    return Case(name, paths, scribbles)


def _names(nodes: list[vtkMRMLSegmentationNode]) -> list[str]:
    """Different names of files, from those of the first images."""
    names: list[str] = []
    for node in nodes:
        image = next(iter(images_of(node).values()))
        name = as_file_name(image.GetName(), "case")
        taken = {each.casefold() for each in names}
        numbered = (f"{name}_{number}" for number in count(2))
        names.append(name if name.casefold() not in taken else next(n for n in numbered if n.casefold() not in taken))
    return names
