"""One browser's page: a process of its own, and the private folder that goes with it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from CrossModalSegLib.config import to_dict
from CrossModalSegLib.worker.jobs_folder import JobsFolder
from CrossModalSegLib.worker.processes import end_tree

from .options import PageOptions

State = Literal["starting", "running", "ended"]

KEY_HEADER = "X-CrossModalSeg-Key"
# For whoever develops the page: what its process says goes there. It may name patients, so it is dropped by default.
LOG_VARIABLE = "CROSSMODALSEG_PAGE_LOG"
_END_SECONDS = 4.0


class PageProcess:
    """A page that is being served.

    Attributes:
        key: that its requests have to bring along, so that nobody else on this machine can talk to it.
        port: on loopback; None until it runs.
        sockets: how many connections of the browser are open.
    """

    def __init__(self, folder: JobsFolder, options: PageOptions) -> None:
        """Nothing is started yet.

        Args:
            folder: in which a private one is made.
            options: of the page; folder and key are filled in.
        """
        self.key, self._name = secrets.token_urlsafe(32), secrets.token_hex(8)
        self._folder = folder
        self._options = replace(options, folder=folder.make(self._name), key=self.key)
        self.port: int | None = None
        self.sockets = 0
        self._process: asyncio.subprocess.Process | None = None
        self._is_ended = False
        self._last_use = time.monotonic()
        self._reader: asyncio.Task | None = None

    @property
    def state(self) -> State:
        """Where it is."""
        if self._is_ended or (self._process is not None and self._process.returncode is not None):
            return "ended"
        return "running" if self.port is not None else "starting"

    @property
    def has_failed(self) -> bool:
        """Whether it ended before it ever ran."""
        return self.state == "ended" and self.port is None

    @property
    def idle_seconds(self) -> float:
        """Since a browser was there."""
        return 0.0 if self.sockets else time.monotonic() - self._last_use

    def touch(self) -> None:
        """Note that a browser is there."""
        self._last_use = time.monotonic()

    async def start(self) -> None:
        """Start it; `port` follows."""
        log = os.environ.get(LOG_VARIABLE)
        # A file, not a pipe: what nobody reads must not fill up.
        with open(log or os.devnull, "ab") as errors:  # noqa: PTH123 - os.devnull is no path
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "CrossModalSegLib.web.page",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        # Not as arguments, which other users of the machine could read. The pipe stays open: its end ends the page.
        with suppress(ConnectionError):
            self._process.stdin.write(json.dumps(to_dict(self._options)).encode() + b"\n")
            await self._process.stdin.drain()
        self._reader = asyncio.create_task(self._read())

    async def end(self) -> None:
        """End it with all that it started, and delete its folder. May be called twice."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._process is not None and self._process.returncode is None:
            self._process.stdin.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        if self._process is not None:
            await asyncio.to_thread(end_tree, self._process.pid)
        if self._reader is not None:
            await self._reader
        await asyncio.to_thread(self._folder.discard, self._name)

    async def _read(self) -> None:
        """Wait for the port, then for the end."""
        while line := await self._process.stdout.readline():
            with suppress(ValueError, KeyError, TypeError):
                self.port = int(json.loads(line)["port"])
        await self._process.wait()
