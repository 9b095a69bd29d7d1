"""A scene without the Slicer application, for scripts, servers and tests: slicer-core's classes under plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer
from vtkmodules.vtkCommonCore import vtkOutputWindow

if TYPE_CHECKING:
    from slicer import vtkMRMLScene

_LOGICS = (
    "vtkSlicerVolumesLogic",
    "vtkSlicerSegmentationsModuleLogic",
    "vtkSlicerSubjectHierarchyModuleLogic",
    "vtkSlicerTransformLogic",
    "vtkSlicerTablesLogic",
    "vtkSlicerPlotsLogic",
)


class HeadlessScene:
    """A scene whose nodes work: they are registered, and segments convert between their representations.

    Attributes:
        scene: the MRML scene.
        application_logic: what the module logics share.
        logics: by class name. They live as long as this object, which has to be kept.
    """

    def __init__(self) -> None:
        """Make the scene; VTK's messages go to standard error from now on."""
        window = vtkOutputWindow()
        window.SetDisplayModeToAlwaysStdErr()
        vtkOutputWindow.SetInstance(window)
        self.scene: vtkMRMLScene = slicer.vtkMRMLScene()
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        self.application_logic.SetMRMLScene(self.scene)
        colors = self.application_logic.GetColorLogic()
        colors.SetMRMLScene(self.scene)
        colors.AddDefaultColorNodes()
        self.logics = {name: getattr(slicer, name)() for name in _LOGICS if hasattr(slicer, name)}
        for logic in self.logics.values():
            logic.SetMRMLScene(self.scene)
            logic.SetMRMLApplicationLogic(self.application_logic)
