"""Starting the program as people do, and driving its page."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from CrossModalSegLib.io import write_volume
from CrossModalSegLib.simulation import SimulationOptions, simulate_case

SHAPE, SPACING = (20, 48, 48), (6.0, 4.4, 4.4)
_SECONDS = 40.0


def write_phantom(folder: Path) -> dict[str, Path]:
    """Write a small simulated head."""
    case = simulate_case("head", 5, SimulationOptions(shape=SHAPE, spacing=SPACING))
    paths = {name: folder / f"{name}.nii.gz" for name in ("ct", "mr", "mask")}
    for name, path in paths.items():
        write_volume(getattr(case, name), path)
    return paths


class Server:
    """`crossmodalseg web` as a process.

    Attributes:
        url: of the page.
        temporary: the folder for temporary files that it and its pages use.
    """

    def __init__(self, arguments: Sequence[object], temporary: Path) -> None:
        self.temporary = temporary
        self._process = subprocess.Popen(
            [sys.executable, "-m", "CrossModalSegLib", "web", "--no-browser", "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )
        self.url = self._process.stdout.readline().split(": ", 1)[1].strip()

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        self._process.send_signal(2)
        self.said = self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(30)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def kill_workers(self) -> None:
        """End what computes, as the system does where memory is short."""
        for process in psutil.Process(self._process.pid).children(recursive=True):
            if process.cmdline()[-1:] == ["worker"]:
                process.kill()

    def files(self) -> list[str]:
        """Names of all files in its temporary folder."""
        return [path.name for path in self.temporary.rglob("*") if path.is_file()]


class Tab:
    """The page in one browser."""

    def __init__(self, context: object, url: str) -> None:
        self.context, self.url = context, url
        self.page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.goto(url)
        self.page.wait_for_selector(".panel", timeout=1000 * _SECONDS)

    def wait(self, condition: Callable[[], object], seconds: float = _SECONDS) -> object:
        """Wait until something is so."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            self.page.wait_for_timeout(100)
        raise AssertionError(f"waited {seconds:g} s in vain; the page says: {self.text('.panel')} {self.error()}")

    def wait_for_images(self, count: int = 2) -> None:
        """Wait until images are loaded and shown."""
        self.wait(lambda: self.page.locator(".image").count() == count)
        self.wait(lambda: self.pixels("Axial1").std() > 10)
        self.page.wait_for_timeout(500)

    def text(self, selector: str) -> str:
        """What is written there."""
        return self.page.locator(selector).first.inner_text()

    def error(self) -> str:
        """The message that is shown."""
        shown = self.page.locator(".message.error")
        return shown.inner_text() if shown.count() else ""

    def counts(self) -> list[int]:
        """Voxels drawn: of each structure, and of background."""
        return [int(text.replace(" ", "")) for text in self.page.locator(".count").all_inner_texts()]

    def settled_counts(self) -> list[int]:
        """The counts once the page has caught up with the mouse."""
        former = None
        while (counts := self.counts()) != former:
            former = counts
            self.page.wait_for_timeout(600)
        return counts

    def choose(self, name: str) -> None:
        """Take a structure to draw."""
        row = next(row for row in self.page.locator(".label").all() if _name_of(row) == name)
        row.click()
        self.page.wait_for_timeout(300)

    def tool(self, name: str) -> None:
        """Take a tool."""
        self.page.click(f'[data-tool="{name}"]')
        self.page.wait_for_timeout(300)

    def drag(self, view: str, *points: tuple[float, float]) -> None:
        """Drag the mouse through points of a view, as shares of its width and height from the upper left corner."""
        box = self.page.locator(f'[data-view="{view}"]').bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()

    def where(self, view: str) -> str:
        """Position of a slice."""
        return self.text(f'[data-view="{view}"] .over-where')

    def wheel(self, view: str, amount: int) -> None:
        """Turn the wheel over the middle of a view."""
        box = self.page.locator(f'[data-view="{view}"]').bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.wheel(0, amount)

    def pixels(self, view: str) -> np.ndarray:
        """(rows, columns, 3) of a view as it is seen, without its border."""
        shot = Image.open(io.BytesIO(self.page.locator(f'[data-view="{view}"]').screenshot())).convert("RGB")
        return np.asarray(shot, dtype=np.int16)[45:-30, 30:-45]

    def redness(self, view: str) -> int:
        """How many pixels are red rather than grey."""
        pixels = self.pixels(view)
        return int((pixels[..., 0] - pixels[..., 1:].max(axis=-1) > 40).sum())

    def download(self, name: str, path: Path) -> Path:
        """Click on a link that downloads."""
        with self.page.expect_download() as waiting:
            self.page.click(f'a[href="download/{name}"]')
        waiting.value.save_as(path)
        return path

    def send(self, path: Path, purpose: str = "cms-files") -> None:
        """Choose a file in the file picker."""
        self.page.set_input_files(f"#{purpose}", path)

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self.page.locator("#cms-cancel").count() > 0


def _name_of(row: object) -> str:
    """Of a structure, whether it can be renamed or not."""
    field = row.locator("input.label-name")
    return field.input_value() if field.count() else row.locator(".label-name").inner_text()
