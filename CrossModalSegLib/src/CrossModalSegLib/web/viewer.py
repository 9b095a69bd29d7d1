"""The views: three slices and 3D of the first image, three slices of the second one, linked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from trame_slicer.rca_view import RemoteSliceViewFactory, RemoteThreeDViewFactory
from trame_slicer.views import SliceView, ThreeDView, ViewLayoutDefinition, ViewProps, ViewType
from vtkmodules.vtkCommonCore import vtkCommand

from CrossModalSegLib.scene.geometry import from_vtk

if TYPE_CHECKING:
    from slicer import vtkMRMLDisplayableNode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
    from trame_server import Server
    from trame_slicer.core import SlicerApp

Tool = Literal["look", "window", "draw", "erase"]
Layout = Literal["four", "side"]

FIRST = ("Axial1", "Sagittal1", "Coronal1")
SECOND = ("Axial2", "Sagittal2", "Coronal2")
THREE_D = "ThreeD"
SHOWN: dict[Layout, tuple[str, ...]] = {"four": (*FIRST, THREE_D), "side": (*FIRST, *SECOND)}
_BACKGROUND = "#05070a"
_MOST_PIXELS = 1_500_000  # of a view, which the browser enlarges: software takes too long for more
_PRIORITY = 10.0  # before Slicer's own interaction
_WINDOW_PER_PIXEL = 1 / 300
_LEAST_PART = 0.38  # of a direction that gets a letter: it lies nearer than three quarters of a right angle


@dataclass(frozen=True)
class Press:
    """Where the mouse is in a slice view.

    Attributes:
        view: its name.
        ras: (3,) RAS mm of the world.
        normal: (3,) of the slice.
        pixel: (x, y) from the lower left corner, may be fractions.
    """

    view: str
    ras: np.ndarray
    normal: np.ndarray
    pixel: tuple[float, float]


class Viewer:
    """Real slice and 3D views of 3D Slicer.

    Attributes:
        tool: what the left mouse button does in slices.
        layout: which views are shown.
    """

    def __init__(
        self,
        server: Server,
        app: SlicerApp,
        decorate_slice: Callable[[Server, str, SliceView], None],
        decorate_3d: Callable[[Server, str, ThreeDView], None],
        on_window: Callable[[str, float, float], None],
        on_moved: Callable[[str], None],
    ) -> None:
        """Make the views; they show nothing yet.

        Args:
            server: of the page.
            app: whose scene is shown.
            decorate_slice, decorate_3d: add what lies on top of a view in the page.
            on_window: called with the view and by what share of the range the window's width and level shall change.
            on_moved: called when another slice of a view is shown, or a view is zoomed.
        """
        self.tool: Tool = "look"
        self.layout: Layout = "four"
        self.is_linked = True
        self._app, self._manager = app, app.view_manager
        self._on_window, self._on_moved = on_window, on_moved
        self._pressed: Press | None = None
        self._is_linking = False
        self._sizes: dict[str, tuple[int, int]] = {}
        quality = {"interactive_quality": 75, "target_fps": 25.0, "blur_fps": 10.0}
        self._slices = RemoteSliceViewFactory(server, populate_view_ui_f=decorate_slice, **quality)
        self._solids = RemoteThreeDViewFactory(server, populate_view_ui_f=decorate_3d, **quality)
        self._manager.register_factory(self._slices)
        self._manager.register_factory(self._solids)
        self._views = {name: self._manager.create_view(_slice_definition(name)) for name in (*FIRST, *SECOND)}
        self._solid: ThreeDView = self._manager.create_view(
            ViewLayoutDefinition.threed_view(name=THREE_D, background_color=(_BACKGROUND, "#161b22"))
        )
        for name in (*self._views, THREE_D):
            factory = self._solids if name == THREE_D else self._slices
            factory.get_factory_view(name).view_adapter.max_pixel_count = _MOST_PIXELS
        for name, view in self._views.items():
            self._observe(name, view)
        self.show_layout("four")

    @property
    def slice_views(self) -> dict[str, SliceView]:
        """By name."""
        return self._views

    # --- what is shown ---

    def show_images(
        self, first: vtkMRMLScalarVolumeNode | None, second: vtkMRMLScalarVolumeNode | None, blend: float
    ) -> None:
        """Show images; with four views the second one lies over the first."""
        is_side = self.layout == "side"
        for name, view in self._views.items():
            node = second if name in SECOND else first
            over = None if is_side or name in SECOND else second
            view.set_background_volume_id(node.GetID() if node else None)
            view.set_foreground_volume_id(over.GetID() if over else None)
            view.set_foreground_opacity(blend if over else 0.0)

    def show_layout(self, layout: Layout, focus: str = "") -> None:
        """Show four views or six, or one of them alone; the others are not rendered."""
        self.layout = layout
        self._manager.set_current_view_ids([focus] if focus else list(SHOWN[layout]))

    def fit(self) -> None:
        """Show all of the images."""
        with self._linking():
            for view in self._views.values():
                view.reset_view()
        for name in FIRST:
            self._views[name].set_visible_in_3d(True)
        self.look_at_solids()
        for name in self._views:
            self._on_moved(name)

    def fit_second(self) -> None:
        """Show the second image where the first one is looked at; all of it, where they do not lie together."""
        with self._linking():
            for name in SECOND:
                self._views[name].reset_view()
                if self.is_linked:
                    _copy_slice(self._views[_partner(name)], self._views[name])
        for name in SECOND:
            self._on_moved(name)

    def look_at_solids(self) -> None:
        """Point the camera of the 3D view at what is in it."""
        self._solid.reset_view()
        camera = self._solid.get_camera_node().GetCamera()
        camera.Azimuth(30.0)
        camera.Elevation(20.0)
        camera.Zoom(1.8)
        self._solid.renderer().ResetCameraClippingRange()
        self._solid.schedule_render()

    def jump(self, ras: np.ndarray, but: str = "") -> None:
        """Let all slices run through a point, but for one view."""
        with self._linking():
            for name, view in self._views.items():
                if name != but and (self.is_linked or (name in SECOND) == (but in SECOND)):
                    node = view.get_view_node()
                    node.JumpSliceByOffsetting(*(float(each) for each in ras))
                    # Voxels as they are, not a mixture of two layers.
                    self._app.app_logic.GetSliceLogic(node).SnapSliceOffsetToIJK()
        for name in self._views:
            self._on_moved(name)

    def show_only_in(self, node: vtkMRMLDisplayableNode, group: Literal["first", "second", "all"]) -> None:
        """Show a node in the views of the first or the second image only, and in 3D."""
        names = {"first": (*FIRST, THREE_D), "second": SECOND, "all": (*FIRST, *SECOND, THREE_D)}[group]
        ids = [self._manager.get_view(name).get_view_node_id() for name in names]
        for index in range(node.GetNumberOfDisplayNodes()):
            node.GetNthDisplayNode(index).SetViewNodeIDs(ids)

    def render(self) -> None:
        """Draw all views again."""
        for view in (*self._views.values(), self._solid):
            view.schedule_render()

    def mm_per_css_pixel(self, name: str) -> float:
        """Of a slice view on the screen; 0 before it was shown."""
        node = self._views[name].get_view_node()
        width = node.GetDimensions()[0]
        scale = self._slices.get_factory_view(name).view_adapter.scale_factor
        return node.GetFieldOfView()[0] / width * scale if width > 1 else 0.0

    def where(self, name: str) -> str:
        """Position of a slice, for people."""
        value = self._views[name].get_slice_value()
        normal = from_vtk(self._views[name].get_view_node().GetSliceToRAS())[:3, 2]
        return f"{letters(-normal if value < 0 else normal)} {abs(value):.1f} mm"

    def sides(self, name: str) -> list[str]:
        """What is to the left, right, top and bottom of a slice: slices follow the voxels, which may lie obliquely."""
        to_ras = from_vtk(self._views[name].get_view_node().GetSliceToRAS())[:3]
        right, up = to_ras[:, 0], to_ras[:, 1]
        return [letters(direction) for direction in (-right, right, up, -up)]

    def _resized(self, name: str) -> None:
        """Show all of the image in a view that has another size, in the same slice."""
        view = self._views[name]
        size = view.render_window().GetSize()
        if size == self._sizes.get(name) or not view.get_background_volume_id():
            return
        self._sizes[name] = size
        offset = view.get_slice_value()
        with self._linking():
            view.fit_view_to_content()
            view.set_slice_value(offset)
        self._on_moved(name)

    # --- mouse ---

    def _observe(self, name: str, view: SliceView) -> None:
        interactor = view.interactor()
        tags: dict[str, int] = {}

        def observe(event: str, handle: Callable[[], bool]) -> None:
            def call(*_: object) -> None:
                if handle():
                    interactor.GetCommand(tags[event]).SetAbortFlag(1)

            tags[event] = interactor.AddObserver(getattr(vtkCommand, event), call, _PRIORITY)

        interactor.AddObserver(vtkCommand.WindowResizeEvent, lambda *_: self._resized(name))
        observe("LeftButtonPressEvent", lambda: self._press(name))
        observe("MouseMoveEvent", lambda: self._move(name))
        observe("LeftButtonReleaseEvent", lambda: self._release())
        view.modified.connect(lambda *_: self._follow(name))

    def place(self, name: str, x: float, y: float) -> Press:
        """A point of a slice view.

        Args:
            name: of the view.
            x, y: shares of its width and height, from its upper left corner.
        """
        width, height = self._views[name].get_view_node().GetDimensions()[:2]
        return self._press_at(name, (x * width, (1.0 - y) * height))

    def _press(self, name: str) -> bool:
        if self.tool in ("draw", "erase"):
            return True  # the page sends strokes by itself
        self._pressed = self._press_at(name, self._views[name].interactor().GetEventPosition())
        if self.tool == "look":
            self.jump(self._pressed.ras, but=name)
        return True

    def _move(self, name: str) -> bool:
        if self._pressed is None or self._pressed.view != name:
            return False
        here = self._press_at(name, self._views[name].interactor().GetEventPosition())
        if self.tool == "look":
            self.jump(here.ras, but=name)
        else:
            x, y = (now - then for now, then in zip(here.pixel, self._pressed.pixel, strict=True))
            self._on_window(name, x * _WINDOW_PER_PIXEL, y * _WINDOW_PER_PIXEL)
        self._pressed = here
        return True

    def _release(self) -> bool:
        if self._pressed is None:
            return False
        self._pressed = None
        return True

    def _press_at(self, name: str, pixel: tuple[float, float]) -> Press:
        to_ras = from_vtk(self._views[name].get_view_node().GetXYToRAS())
        return Press(name, (to_ras @ (*pixel, 0.0, 1.0))[:3], to_ras[:3, 2], pixel)

    # --- linking ---

    @contextmanager
    def _linking(self):
        was, self._is_linking = self._is_linking, True
        try:
            yield
        finally:
            self._is_linking = was

    def _follow(self, name: str) -> None:
        """Let the same slice of the other image show what this one shows."""
        if self._is_linking:
            return
        if self.is_linked:
            with self._linking():
                _copy_slice(self._views[name], self._views[_partner(name)])
            self._on_moved(_partner(name))
        self._on_moved(name)


def letters(direction: np.ndarray) -> str:
    """What of the patient lies in a direction, (3,) RAS: L for left, LA for left and less so anterior."""
    parts = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(parts), kind="stable")
    named = [axis for axis in order if abs(parts[axis]) >= _LEAST_PART]
    return "".join(("RL", "AP", "SI")[axis][int(parts[axis] < 0)] for axis in named)


def show_segments(node: vtkMRMLSegmentationNode, is_visible: bool, fill: float, outline: float, is_in_3d: bool) -> None:
    """How segments are drawn over slices."""
    display = node.GetDisplayNode()
    display.SetVisibility(is_visible)
    display.SetOpacity2DFill(fill)
    display.SetOpacity2DOutline(outline)
    display.SetVisibility3D(is_in_3d)


def _slice_definition(name: str) -> ViewLayoutDefinition:
    properties = ViewProps(orientation=name[:-1], label=name, background_color=_BACKGROUND)
    return ViewLayoutDefinition(name, ViewType.SLICE_VIEW, properties)


def _partner(name: str) -> str:
    return f"{name[:-1]}{'2' if name.endswith('1') else '1'}"


def _copy_slice(source: SliceView, target: SliceView) -> None:
    """Place, direction, shift and zoom; each view keeps its size."""
    here, there = source.get_view_node(), target.get_view_node()
    if not np.allclose(from_vtk(here.GetSliceToRAS()), from_vtk(there.GetSliceToRAS()), rtol=0, atol=1e-6):
        there.GetSliceToRAS().DeepCopy(here.GetSliceToRAS())
        there.UpdateMatrices()
    field, size = here.GetFieldOfView(), there.GetDimensions()
    if size[0] > 1 and here.GetDimensions()[0] > 1:
        wanted = (field[0], field[0] * size[1] / size[0], field[2])
        if not np.allclose(wanted, there.GetFieldOfView(), rtol=1e-4):
            there.SetFieldOfView(*wanted)
    if not np.allclose(here.GetXYZOrigin(), there.GetXYZOrigin(), atol=1e-4):
        there.SetXYZOrigin(*here.GetXYZOrigin())
