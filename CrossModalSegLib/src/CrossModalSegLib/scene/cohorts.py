"""The cases of a scene: which images belong to which scribbles, and writing them as a cohort to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from CrossModalSegLib.cohort import Case, Cohort, as_file_name, write_cohort
from CrossModalSegLib.errors import Cancelled, CohortError, LabelError
from CrossModalSegLib.labels import LabelTable, ScribbleConvention
from CrossModalSegLib.output import atomic_folder
from CrossModalSegLib.worker.messages import WriteCaseRequest, WriteCaseResult

from .classes import classes_of
from .lending import LentImages
from .nodes import nodes_of
from .scribbles import copy_scribbles
from .segments import BACKGROUND

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
        scribbles.RemoveNodeReferenceIDs(_role(modality))
    for modality, node in images.items():
        scribbles.SetNodeReferenceID(_role(modality), node.GetID())


def images_of(scribbles: vtkMRMLSegmentationNode) -> dict[str, vtkMRMLVolumeNode]:
    """Images by modality that `set_images` remembered and that are still in the scene, "ct" before "mr"."""
    roles = [scribbles.GetNthNodeReferenceRole(index) for index in range(scribbles.GetNumberOfNodeReferenceRoles())]
    modalities = sorted(unquote(each.removeprefix(_IMAGE_ROLE)) for each in roles if each.startswith(_IMAGE_ROLE))
    found = {modality: scribbles.GetNodeReference(_role(modality)) for modality in modalities}
    return {modality: node for modality, node in found.items() if node is not None}


def scribbled_cases(scene: vtkMRMLScene) -> list[vtkMRMLSegmentationNode]:
    """Segmentations with strokes of which the images are known, whoever made them, in the order of the scene."""
    return [node for node in nodes_of(scene, "vtkMRMLSegmentationNode") if images_of(node)]


class CohortWriter:
    """Reads one case of a scene after the other, for the worker to write, into a folder that appears with the last one.

    `cancel` or `close` has to end it.

    Attributes:
        nodes: scribbles and images of all cases; needed until the last one is written.
    """

    def __init__(self, scene: vtkMRMLScene, folder: str | Path) -> None:
        """Nothing is read yet.

        Args:
            scene: holds scribbles of which the images are known.
            folder: where to; must not exist, or be empty.

        Raises:
            CohortError: there is no case, or they do not have the same images.
            LabelError: they do not have the same structures.
            OutputError: the folder is taken or cannot be written.
        """
        self._scribbles = scribbled_cases(scene)
        if not self._scribbles:
            raise CohortError(
                "The scene holds no case yet. Choose the images of one, prepare its scribbles and draw; then the next "
                "one."
            )
        first = self._scribbles[0]
        self._table = classes_of(first)
        for node in self._scribbles:
            _check_images(node, first)
            _check_classes(node, self._table, first)
        self._images = [images_of(node) for node in self._scribbles]
        self.nodes = [*self._scribbles, *chain.from_iterable(each.values() for each in self._images)]
        self._names = _names(self._images)
        self._cases: list[Case] = []
        self._lent = LentImages({})
        self._folder, self._open = Path(folder), ExitStack()
        self._temporary = self._open.enter_context(atomic_folder(folder))

    def next_case(self) -> Callable[[], WriteCaseRequest] | None:
        """What makes the request to write the next case, where it lies in the world; None where all are written.

        Raises:
            LabelError: one is not scribbled, or strokes overlap.
            GeometryError, InputError: a node cannot be used.
        """
        number = len(self._cases)
        if number == len(self._scribbles):
            return None
        node, images = self._scribbles[number], self._images[number]
        scribbles = copy_scribbles(node, next(iter(images.values())), self._table)
        if BACKGROUND in scribbles.missing or len(scribbles.missing) == len(self._table):
            raise LabelError(
                f"There is no scribble of {', '.join(scribbles.missing)} in '{node.GetName()}'; draw there, or delete "
                "this case."
            )
        self._lent = lent = LentImages(images)

        def request() -> WriteCaseRequest:
            return WriteCaseRequest(
                folder=self._temporary,
                name=self._names[number],
                images=lent.volumes(),
                scribbles=scribbles.volume(),
                number=number + 1,
                total=len(self._scribbles),
            )

        return request

    def require_same_voxels(self) -> None:
        """Check, once the last request was made, that its images did not change meanwhile.

        Raises:
            InputError: one did.
        """
        self._lent.require_same_voxels()

    def take(self, written: WriteCaseResult) -> None:
        """Note that the case was written."""
        self._cases.append(Case(self._names[len(self._cases)], written.images, written.scribbles))

    def close(self) -> Path:
        """Let the folder appear.

        Returns:
            The cohort file.

        Raises:
            OutputError: the folder cannot be written.
        """
        modalities = tuple(self._images[0])
        with self._open:
            cohort = Cohort(modalities, self._table, ScribbleConvention.INTERNAL, tuple(self._cases), self._temporary)
            write_cohort(cohort, self._temporary / COHORT_FILE)
        return self._folder / COHORT_FILE

    def cancel(self) -> None:
        """Remove what was written; without effect after `close`."""
        with suppress(Cancelled), self._open:
            raise Cancelled("The cases were not written.")


def _role(modality: str) -> str:
    # As they are, some characters would make a scene file that cannot be read.
    return _IMAGE_ROLE + quote(modality, safe=" ")


def _check_images(node: vtkMRMLSegmentationNode, first: vtkMRMLSegmentationNode) -> None:
    here, there = images_of(node), images_of(first)
    if here.keys() != there.keys():
        raise CohortError(
            f"All cases should have the same kinds of images, but '{first.GetName()}' has {', '.join(there)}, and "
            f"'{node.GetName()}' {', '.join(here)}. Prepare the scribbles of one of them again with the images that "
            "it lacks, or delete it."
        )


def _check_classes(node: vtkMRMLSegmentationNode, table: LabelTable, first: vtkMRMLSegmentationNode) -> None:
    here, there = classes_of(node).names, table.names
    if {each.casefold() for each in here} != {each.casefold() for each in there}:
        raise LabelError(
            f"All cases should have the same structures, but '{first.GetName()}' has {', '.join(there)}, and "
            f"'{node.GetName()}' {', '.join(here)}. Rename the segments of one of them, or delete it."
        )


def _names(cases: list[dict[str, vtkMRMLVolumeNode]]) -> list[str]:
    """Different names of files, from those of the first images."""
    names: list[str] = []
    for images in cases:
        name = as_file_name(next(iter(images.values())).GetName(), "case")
        taken = {each.casefold() for each in names}
        numbered = (f"{name}_{number}" for number in count(2))
        names.append(name if name.casefold() not in taken else next(n for n in numbered if n.casefold() not in taken))
    return names
