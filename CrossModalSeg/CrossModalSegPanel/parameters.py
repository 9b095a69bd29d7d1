"""What the panel holds; saved with the scene."""

import enum
from typing import Annotated, Union

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class Task(enum.Enum):
    """What is wanted."""

    FIT = "fit"
    REFER = "refer"

    def label(self) -> str:
        """As people read it."""
        return {
            Task.FIT: _("CT and MR of a patient (CmFNet)"),
            Task.REFER: _("From one image to others (CrossMR)"),
        }[self]


class Device(enum.Enum):
    """What is computed on."""

    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"

    def label(self) -> str:
        """As people read it."""
        return {
            Device.AUTO: _("The best there is"),
            Device.CUDA: _("NVIDIA graphics card (CUDA)"),
            Device.MPS: _("Apple graphics (MPS)"),
            Device.CPU: _("Processor (CPU)"),
        }[self]


class Method(enum.Enum):
    """How a fit learns."""

    CMFNET = "cmfnet"
    SCRATCH = "scratch"
    PCE = "pce"

    def label(self) -> str:
        """As people read it."""
        return {
            Method.CMFNET: _("CmFNet, from a trained network"),
            Method.SCRATCH: _("CmFNet, on this case alone"),
            Method.PCE: _("Partial cross-entropy alone (for comparison)"),
        }[self]


class Pieces(enum.Enum):
    """Which connected pieces of a structure stay."""

    LARGE = "large"
    LARGEST = "largest"
    ALL = "all"

    def label(self) -> str:
        """As people read it."""
        return {
            Pieces.LARGE: _("The large ones"),
            Pieces.LARGEST: _("The largest one"),
            Pieces.ALL: _("All"),
        }[self]


class Preset(enum.Enum):
    """How long and how large a training is."""

    FAST = "fast"
    DEFAULT = "default"
    PAPER = "paper"

    def label(self) -> str:
        """As people read it."""
        return {
            Preset.FAST: _("Fast"),
            Preset.DEFAULT: _("Default"),
            Preset.PAPER: _("As in the paper"),
        }[self]


class Transform(enum.Enum):
    """What a registration may change."""

    RIGID = "rigid"
    AFFINE = "affine"

    def label(self) -> str:
        """As people read it."""
        return {Transform.RIGID: _("Rigid"), Transform.AFFINE: _("Affine")}[self]


@parameterNodeWrapper
class CrossModalSegParameterNode:
    """What the panel holds; saved with the scene.

    Attributes:
        task: which of the two.
        device: to compute on.
        ct, mr: of one patient; one may be left out. The first that is there is drawn on.
        reference: is drawn on, to segment `targets`, too.
        transform: of a registration.
        labels: names of the structures with commas between.
        scribbles: where the strokes are.
        seconds: of a fit, for tuning.
        method: of a fit.
        startModel: of a fit; empty for what ships.
        startOver: whether a fit forgets the one before.
        segmentModel, referModel: by name; an empty referModel is the default.
        pieces: of each structure that stay, of a referring segmentation.
        tuneSeconds: in which a copy of CrossMR learns from the strokes first.
        preset: of a training.
        show3D, probabilities, uncertainty: what comes beside a segmentation.
        result: what is looked at and measured.
        mask: the truth to measure against.
    """

    task: Task = Task.FIT
    device: Device = Device.AUTO
    ct: slicer.vtkMRMLScalarVolumeNode
    mr: slicer.vtkMRMLScalarVolumeNode
    reference: slicer.vtkMRMLScalarVolumeNode
    targets: list[slicer.vtkMRMLScalarVolumeNode]
    transform: Transform = Transform.RIGID
    labels: str = ""
    scribbles: slicer.vtkMRMLSegmentationNode
    seconds: Annotated[int, WithinRange(0, 36000)] = 120
    method: Method = Method.CMFNET
    startModel: str = ""
    startOver: bool = False
    segmentModel: str = ""
    referModel: str = ""
    pieces: Pieces = Pieces.LARGE
    tuneSeconds: Annotated[int, WithinRange(0, 3600)] = 0
    preset: Preset = Preset.DEFAULT
    show3D: bool = False
    probabilities: bool = False
    uncertainty: bool = False
    result: slicer.vtkMRMLSegmentationNode
    # Slicer takes None for one class of nodes by itself, for a choice of classes only where it is named.
    mask: Union[slicer.vtkMRMLSegmentationNode, slicer.vtkMRMLLabelMapVolumeNode, None]


# Slicer has no connector for these; that of a text puts the cursor to its end at each letter.
BOUND_BY_HAND = ("targets", "labels", "startModel", "segmentModel", "referModel")
