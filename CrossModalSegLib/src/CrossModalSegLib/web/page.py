"""The process behind one browser's page: `python -m CrossModalSegLib.web.page`, started by `front` only.

Reads its options from the first line of standard input, writes its port to standard output, and ends when standard
input does, with the worker that it started.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import slicer
import trame_client
from aiohttp import web
from trame.app import get_server
from trame_slicer.core import SlicerApp

from CrossModalSegLib.cohort import read_cohort
from CrossModalSegLib.config import from_dict
from CrossModalSegLib.errors import CrossModalSegError, InputError
from CrossModalSegLib.io import read_segmentation, read_volume
from CrossModalSegLib.io.image_io import split_suffix
from CrossModalSegLib.scene.segmentations import has_3d
from CrossModalSegLib.worker.client import WorkerClient

from . import ui
from .downloads import download_of
from .options import PageOptions
from .picture import brush_cursor, picture
from .process import KEY_HEADER, LOG_VARIABLE
from .session import Session
from .uploads import Batch, Uploads, require_harmless
from .viewer import FIRST, SECOND, Viewer, show_segments

if TYPE_CHECKING:
    from trame_server import Server

    from .session import Image

_POLL_SECONDS = 0.05
_SHOW_SECONDS = 0.2
_DOWNLOAD = "download"
_HINT_3D = "Surfaces appear with a result"
_SURFACE_HINTS = {"making": "Making surfaces…", "reduced": "Surfaces are simplified"}


class Page:
    """Wires the session, the views and the browser together."""

    def __init__(self, options: PageOptions) -> None:
        """Make everything; nothing is served yet."""
        self.options = options
        self.server: Server = get_server("crossmodalseg", client_type="vue3")
        self.state = self.server.state
        self._is_stale, self._loading, self._tasks = True, "", set()
        self._complained_about = ""
        serve = files("CrossModalSegLib.web").joinpath("serve")
        self.server.enable_module(
            {
                "serve": {"__crossmodalseg": str(serve)},
                "scripts": ["__crossmodalseg/page.js"],
                "styles": ["__crossmodalseg/page.css"],
            }
        )
        self.app = SlicerApp()
        _add_logics(self.app)
        self.client = WorkerClient(jobs_folder=options.folder)
        self.uploads = Uploads(options.folder, options.max_upload_mb * 2**20)
        self.session: Session = Session(
            self.app.scene,
            self.client,
            labels=options.labels,
            model=options.model,
            device=options.device,
            on_change=self.changed,
            on_error=self.complain,
            on_result=self._results_changed,
        )
        self._prepare_state(ui.THEME)
        self.viewer: Viewer = Viewer(
            self.server,
            self.app,
            ui.slice_overlay,
            ui.solid_overlay,
            on_window=self._drag_window,
            on_moved=self._moved,
        )
        self._has_surfaces, self._shown = False, None
        self.server.controller.trigger("stroke")(self._guarded(self._draw))
        ui.build(self.server, self)
        self._observe_state()

    # --- what the browser is told ---

    def changed(self) -> None:
        """Something is to be shown anew."""
        self._is_stale = True

    def complain(self, sentence: str, about: str = "") -> None:
        """Show a sentence; one about an action goes when that succeeds."""
        self._complained_about = about
        with self.state:
            self.state.error = sentence

    def _forget_complaint(self, about: str) -> None:
        if self._complained_about == about:
            self.complain("")

    def _prepare_state(self, theme: dict[str, Any]) -> None:
        self.state.update(
            {
                "trame__title": "CrossModalSeg",
                "trame__vuetify3_config": theme,
                "trame__template_error": ui.LOST,
                "error": "",
                "loading": "",
                "tool": "look",
                "layout": "four",
                "focus": "",
                "active": 1,
                "brush_mm": 6,
                "blend": 0.0,
                "kind": "fit",
                "seconds": 60,
                "pieces": "large",
                "tune_seconds": 0,
                "model": "",
                "opacity": 0.4,
                "result_visible": True,
                "result_3d": True,
                "range_1": [0, 1],
                "range_2": [0, 1],
            }
        )
        for name in (*FIRST, *SECOND):
            self.state.update(
                {f"title_{name}": "", f"where_{name}": "", f"sides_{name}": [""] * 4, f"cursor_{name}": ""}
                | {f"low_{name}": 0, f"high_{name}": 1, f"step_{name}": 1, f"at_{name}": 0}
            )
        self.state.update(self._picture())

    def _picture(self) -> dict[str, Any]:
        """All that follows from the session."""
        return picture(self.session, self.state) | {"loading": self._loading, "solid_hint": self._solid_hint()}

    def _solid_hint(self) -> str:
        if self.session.images and not self.session.results:
            return _HINT_3D
        return _SURFACE_HINTS.get(self.session.surface_state, "")

    def _show(self) -> None:
        self._is_stale = False
        with self.state:
            self.state.update(self._picture())
            # Another table may have come, with fewer classes.
            self.state.active = min(int(self.state.active), len(self.session.table))
        self._show_images()

    def _show_images(self) -> None:
        """Bring the views up to date where other images are used than before."""
        used = self.session.used
        first, second = [*(image.node for image in used), None, None][:2]
        if second is None and self.state.layout == "side":
            with self.state:
                self.state.layout = "four"
            self.viewer.show_layout("four")
        shown = (first, second, self.viewer.layout, self.state.blend)
        if shown == self._shown:
            return
        before, self._shown = self._shown or (None, None), shown
        placement = self.session.placement()
        self.viewer.is_linked = placement is None or placement.state != "apart"
        self.viewer.show_images(first, second, self.state.blend)
        self._show_results()
        if shown[:2] == before[:2]:
            return
        self._show_windows()
        if first is before[0]:
            self.viewer.fit_second()  # what is looked at in the first image stays
        else:
            self.viewer.fit()

    def _results_changed(self) -> None:
        self.changed()
        self._show_results()

    def _show_results(self) -> None:
        """Show each segmentation over its own image."""
        has_surfaces = False
        for identity, node in self.session.results.items():
            place = next((at for at, image in enumerate(self.session.used) if image.identity == identity), None)
            self.viewer.show_only_in(node, self._group_of(place))
            fill = float(self.state.opacity)
            is_visible = bool(self.state.result_visible) and self._is_over_shown(place)
            show_segments(node, is_visible, fill, min(1.0, 0.3 + fill), bool(self.state.result_3d))
            has_surfaces = has_surfaces or has_3d(node)
        if self.session.drawing is not None:
            show_segments(self.session.drawing.segmentation, True, 0.75, 1.0, False)
        if has_surfaces and not self._has_surfaces:
            self.viewer.look_at_solids()
        # Where a run or undo takes them away for a moment, they come back as they were looked at.
        self._has_surfaces = has_surfaces or (self._has_surfaces and bool(self.session.results))
        self.viewer.render()

    def _group_of(self, place: int | None) -> Literal["first", "second", "all"]:
        """In which views the result of an image is shown: side by side, two results each in their own."""
        if self.viewer.layout == "four" or len(self.session.results) < 2:
            return "all"
        return "second" if place == 1 else "first"

    def _is_over_shown(self, place: int | None) -> bool:
        """Of two results, blended images show that of the image which is seen more."""
        if place is None or place > 1:
            return False
        if self.viewer.layout == "side" or len(self.session.results) < 2:
            return True
        return place == int(self.state.blend > 0.5)

    # --- windows ---

    def _show_windows(self) -> None:
        for number, image in enumerate(self.session.used[:2], start=1):
            low, high = _window_of(image)
            with self.state:
                self.state[f"range_{number}"] = [low, high]
            _set_window(image, low, high)

    def _drag_window(self, view: str, width: float, level: float) -> None:
        number = 2 if view.endswith("2") or (self.viewer.layout == "four" and self.state.blend > 0.5) else 1
        if number > len(self.session.used):
            return
        image = self.session.used[number - 1]
        low, high = _window_of(image)
        reach = image.high - image.low
        half = max(reach * 0.005, (high - low) / 2 + width * reach / 2)
        middle = (low + high) / 2 - level * reach
        self._window(number, middle - half, middle + half)

    def _window(self, number: int, low: float, high: float) -> None:
        _set_window(self.session.used[number - 1], low, high)
        with self.state:
            self.state[f"range_{number}"] = [low, high]
        self.viewer.render()

    def auto_window(self, number: int) -> None:
        """Show all values of an image, without outliers."""
        image = self.session.used[number - 1]
        self._window(number, image.low, image.high)

    def ct_window(self, number: int, low: float, high: float) -> None:
        """A window in Hounsfield units."""
        self._window(number, low, high)

    # --- views ---

    def _draw(self, view: str, value: int, size_mm: float, points: list[list[float]], is_last: bool) -> None:
        """A piece of a stroke: points as shares of the view's width and height."""
        if view not in self.viewer.slice_views or not points:
            raise InputError("A stroke should begin in a slice view.")
        places = [self.viewer.place(view, *map(float, point)) for point in points]
        for start, end in zip(places[:-1] or places, places[1:] or places, strict=True):
            self.session.stroke(value, start.ras, end.ras, end.normal, float(size_mm) / 2)
        if is_last:
            self.session.end_stroke()
        self.viewer.render()

    def _moved(self, name: str) -> None:
        """Tell the browser where a slice is, and how large the brush is there."""
        if not self.session.images:
            return
        view = self.viewer.slice_views[name]
        low, high = view.get_slice_range()
        with self.state:
            self.state.update(
                {
                    f"where_{name}": self.viewer.where(name),
                    f"sides_{name}": self.viewer.sides(name),
                    f"low_{name}": low,
                    f"high_{name}": high,
                    f"step_{name}": view.get_slice_step(),
                    f"at_{name}": view.get_slice_value(),
                    f"cursor_{name}": self._cursor(name),
                }
            )

    def _cursor(self, name: str) -> str:
        scale = self.viewer.mm_per_css_pixel(name)
        return brush_cursor(float(self.state.brush_mm) / scale) if scale else ""

    def reset_views(self) -> None:
        """Show all of the images."""
        self.viewer.fit()

    # --- the browser's wishes ---

    def __getattr__(self, name: str) -> Callable[..., None]:
        """What the session does by itself."""
        if name in _OF_SESSION:
            return self._guarded(getattr(self.session, name))
        raise AttributeError(name)

    def add_class(self) -> None:
        """One more class, to be renamed."""
        names = {name.casefold() for name in self.session.table.names}
        free = next(f"Structure {n}" for n in range(1, 300) if f"structure {n}" not in names)
        self._guarded(self.session.add_class)(free)
        with self.state:
            self.state.active = len(self.session.table)

    def rename_class(self, old: str, new: str) -> None:
        """Another name for a class; the old one comes back where it cannot be."""
        self._guarded(self.session.rename_class)(old, new.strip())
        self._show_anew("labels")

    def set_role(self, identity: str, role: str) -> None:
        """What an image is used as; what it was used as comes back where it cannot be."""
        self._guarded(self.session.set_role)(identity, role)
        self._show_anew("images")

    def _show_anew(self, name: str) -> None:
        """Send a list though it may be what it was: the browser shows what was entered until it is told otherwise."""
        with self.state:
            self.state[name] = []
        self._show()

    def remove_class(self, name: str) -> None:
        """One class less."""
        former, active = self.session.table.names, int(self.state.active)
        self._guarded(self.session.remove_class)(name)
        names = self.session.table.names
        with self.state:
            if 1 <= active <= len(former):
                chosen = former[active - 1]
                self.state.active = names.index(chosen) + 1 if chosen in names else min(active, len(names))
        self.viewer.render()

    def start(self, choices: Mapping[str, Any]) -> None:
        """Fit, segment or refer, as the browser shows it."""
        session = self.session
        if session.mode == "refer":
            tune_seconds = float(choices["tune_seconds"])
            self._guarded(session.refer)(choices["model"], choices["pieces"], tune_seconds)
        elif choices["kind"] == "segment":
            self._guarded(session.segment)(choices["model"])
        else:
            self._guarded(session.fit)(float(choices["seconds"]))

    def phantom(self) -> None:
        """Simulate a patient."""
        self._in_background(self._load_phantom())

    def _observe_state(self) -> None:
        change = self.state.change

        @change("tool")
        def on_tool(tool: str, **_: object) -> None:
            self.viewer.tool = tool

        @change("layout", "focus")
        def on_layout(layout: str, focus: str, **_: object) -> None:
            self.viewer.show_layout(layout, focus)
            self._show_images()
            self.changed()

        @change("blend")
        def on_blend(**_: object) -> None:
            self._show_images()
            self.changed()

        @change("opacity", "result_visible")
        def on_opacity(**_: object) -> None:
            self._show_results()

        @change("result_3d")
        def on_3d(result_3d: bool, **_: object) -> None:
            self.session.shows_surfaces = bool(result_3d)
            self.changed()
            self._show_results()

        @change("kind", "mode")
        def on_kind(**_: object) -> None:
            self.changed()

        @change("brush_mm")
        def on_brush(**_: object) -> None:
            for name in (*FIRST, *SECOND):
                self._moved(name)

        def on_range(number: int) -> None:
            @change(f"range_{number}")
            def on_change(**_: object) -> None:
                if number <= len(self.session.used):
                    _set_window(self.session.used[number - 1], *self.state[f"range_{number}"])

        def on_slice(name: str) -> None:
            @change(f"at_{name}")
            def on_change(**_: object) -> None:
                self.viewer.slice_views[name].set_slice_value(float(self.state[f"at_{name}"]))

        for number in (1, 2):
            on_range(number)
        for name in (*FIRST, *SECOND):
            on_slice(name)

    def _guarded(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """Errors as sentences."""

        @wraps(do)
        def call(*arguments: Any) -> Any:
            try:
                result = do(*arguments)
            except CrossModalSegError as error:
                self.complain(str(error), do.__name__)
                result = None
            except Exception as error:  # noqa: BLE001 - the page goes on, and says so
                self.complain(_defect(error), do.__name__)
                result = None
            else:
                # What was said before is not about the run that begins.
                self._forget_complaint(self._complained_about if do.__name__ in _RUNS else do.__name__)
            self.changed()
            if do.__name__ in ("undo_stroke", "redo_stroke", "clear_strokes"):
                self.viewer.render()
            return result

        return call

    # --- loading ---

    async def load_start(self) -> None:
        """What was named on the command line."""
        for image in self.options.images:
            await self._guarded_async(self._load(image.path, image.path.name, image.role))
        if self.options.mask is not None and self.session.images:
            await self._guarded_async(self._load_mask(self.options.mask, self.options.mask.name))

    async def _load(self, path: Path, name: str, role: str | None = None) -> Image | None:
        title = split_suffix(name)[0] or name
        self._set_loading(f"Reading {title}")
        try:
            volume = await asyncio.to_thread(read_volume, path)
            return self.session.add_image(volume, self._free_name(title), role)
        finally:
            self._set_loading("")

    async def _load_mask(self, path: Path, name: str) -> None:
        self._set_loading(f"Reading {name}")
        try:
            self.session.add_mask(*await asyncio.to_thread(read_segmentation, path), name)
        finally:
            self._set_loading("")

    async def _load_phantom(self) -> None:
        self._set_loading("Simulating a patient")
        folder = self.options.folder / "phantom"
        try:
            if not (folder / "cohort.json").exists():
                await _simulate(folder)
            cohort = read_cohort(folder / "cohort.json")
            case = cohort.cases[0]
            has_begun = bool(self.session.images)
            for modality, path in case.images.items():
                volume = await asyncio.to_thread(read_volume, path)
                self.session.add_image(volume, self._free_name(f"Phantom {modality.upper()}"), modality)
            if not has_begun:
                self.session.set_classes(cohort.labels)
            await self._load_mask(case.mask, "Phantom mask")
        finally:
            self._set_loading("")

    async def take_files(self, batch: Batch, purpose: str) -> None:
        """Load what was sent, and delete the files.

        Raises:
            InputError: some files cannot be used; all others are loaded.
        """
        problems = []
        try:
            for path in batch.paths:
                try:
                    require_harmless(path)
                    await (self._load_mask if purpose == "mask" else self._load)(path, path.name)
                except CrossModalSegError as error:
                    problems.append(batch.problem(path, error))
        finally:
            batch.discard()
            self._set_loading("")
        if problems:
            raise InputError(" ".join(problems))

    def _free_name(self, name: str) -> str:
        names = {image.name for image in self.session.images}
        return next(each for each in (name, *(f"{name} ({n})" for n in range(2, 1000))) if each not in names)

    def _set_loading(self, text: str) -> None:
        self._loading = text
        with self.state:
            self.state.loading = text
        self.changed()

    # --- serving ---

    def serve(self) -> None:
        """Serve until standard input ends."""
        self.server.controller.add("on_server_bind")(self._bind)
        self.server.controller.add("on_server_ready")(self._ready)
        self.server.start(
            port=0,
            host="127.0.0.1",
            open_browser=False,
            show_connection_info=False,
            disable_logging=True,
            timeout=0,
        )

    def _bind(self, server: Any) -> None:
        app: web.Application = server.app
        app.middlewares.append(_key_guard(self.options.key))
        app.add_routes(
            [
                web.get("/index.html", self._index),
                web.get("/loading.tpl", _loading),
                web.post("/files/{purpose}", self._receive),
                web.get("/download/{name}", self._download),
            ]
        )

    def _ready(self, **_: object) -> None:
        self._in_background(self._start_up())
        self._in_background(self._poll())
        _write({"port": self.server.port})

    async def _start_up(self) -> None:
        await self.load_start()
        self.session.look_for_models()

    async def _poll(self) -> None:
        last = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                self.client.poll()
                self.session.follow_surfaces()
                is_running = self.session.is_busy and loop.time() - last > 5 * _SHOW_SECONDS
                if (self._is_stale or is_running) and loop.time() - last > _SHOW_SECONDS:
                    last = loop.time()
                    self._show()
            except Exception as error:  # noqa: BLE001 - the page goes on, and says so
                self._is_stale = False
                self.complain(_defect(error))

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._guarded_async(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded_async(self, work: Awaitable[Any]) -> None:
        try:
            await work
        except CrossModalSegError as error:
            self.complain(str(error))
        except Exception as error:  # noqa: BLE001 - the page goes on, and says so
            self.complain(_defect(error))

    async def _index(self, _request: web.Request) -> web.Response:
        text = (Path(trame_client.__file__).parent / "module" / "vue3-www" / "index.html").read_text(encoding="utf-8")
        text = text.replace("trame is built by Kitware", "CrossModalSeg")
        return web.Response(text=text.replace('href="logo.png"', 'href="data:,"'), content_type="text/html")

    async def _receive(self, request: web.Request) -> web.Response:
        purpose = request.match_info["purpose"]
        try:
            if purpose not in ("image", "mask") or not request.content_type.startswith("multipart/"):
                raise InputError("Files were expected.")
            batch = await self.uploads.receive(request)
            self._set_loading("Reading")
            await self.take_files(batch, purpose)
        except CrossModalSegError as error:
            self._set_loading("")
            return web.Response(text=str(error), status=400)
        except Exception as error:  # noqa: BLE001 - the page goes on, and says so
            self._set_loading("")
            return web.Response(text=_defect(error), status=500)
        return web.Response(text="ok")

    async def _download(self, request: web.Request) -> web.StreamResponse:
        try:
            download = download_of(self.session, request.match_info["name"])
            body = await asyncio.to_thread(download.content, self.options.folder)
        except CrossModalSegError as error:
            self.complain(str(error), _DOWNLOAD)
            return web.Response(text=str(error), status=409)
        except Exception as error:  # noqa: BLE001 - the page goes on, and says so
            self.complain(_defect(error), _DOWNLOAD)
            return web.Response(text=_defect(error), status=500)
        self._forget_complaint(_DOWNLOAD)
        headers = {"Content-Disposition": download.disposition}
        return web.Response(body=body, content_type="application/octet-stream", headers=headers)

    def end(self) -> None:
        """End the worker and this process."""
        self.client.stop()


_RUNS = ("fit", "segment", "refer", "register", "auto_background")
_OF_SESSION = (
    "set_mode",
    "remove_image",
    "show_image",
    "register",
    "auto_background",
    "clear_strokes",
    "undo_stroke",
    "redo_stroke",
    "cancel",
    "finish",
    "pause_or_resume",
    "undo_result",
)


def _add_logics(app: Any) -> None:
    """Logics whose nodes the workflow makes, beyond those of a viewer."""
    for name in ("vtkSlicerTransformLogic", "vtkSlicerTablesLogic", "vtkSlicerPlotsLogic"):
        if hasattr(slicer, name):
            app.register_module_logic(getattr(slicer, name)())


def _window_of(image: Image) -> tuple[float, float]:
    display = image.node.GetDisplayNode()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _set_window(image: Image, low: float, high: float) -> None:
    display = image.node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(float(low), float(high))


async def _simulate(folder: Path) -> None:
    """In a process of its own: it needs packages that a page does without."""
    command = [sys.executable, "-m", "CrossModalSegLib", "simulate", "--out", str(folder), "--cases", "1", "--quiet"]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["no reason was given"]
        raise InputError(f"The phantom could not be simulated: {last[0]}")


def _key_guard(key: str) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        if not hmac.compare_digest(request.headers.get(KEY_HEADER, "").encode(), key.encode()):
            return web.Response(text="Another program asked for this; it is refused.", status=403)
        return await handler(request)

    return guard


async def _loading(_request: web.Request) -> web.Response:
    return web.Response(text='<div style="height:100vh;background:#0d1117"></div>', content_type="text/html")


def _defect(error: Exception) -> str:
    """What to say of an error that should not be; no values, which may be a patient's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if os.environ.get(LOG_VARIABLE):
        traceback.print_exception(error)
    return (
        f"Something went wrong in the program ({type(error).__name__} in {Path(last.filename).name}, line "
        f"{last.lineno}). What was loaded and drawn is still there."
    )


def _write(message: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(message)}\n")
    sys.stdout.flush()


def _until_input_ends(end: Callable[[], None]) -> None:
    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            continue
        end()
        # Nothing of the browser's is worth saving, and the event loop may be busy for long.
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Read the options, serve."""
    options = from_dict(PageOptions, json.loads(sys.stdin.buffer.readline()))
    os.environ["WSLINK_READY_MSG"] = ""
    sys.argv = sys.argv[:1]
    # Slicer makes a folder for temporary files, and its process is not always left in peace to delete it.
    tempfile.tempdir = str(options.folder)
    page = Page(options)
    _until_input_ends(page.end)
    page.serve()


if __name__ == "__main__":
    main()
