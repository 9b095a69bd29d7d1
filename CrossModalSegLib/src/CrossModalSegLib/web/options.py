"""What the front and its pages begin with."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PageOptions:
    """For one page process.

    Attributes:
        folder: private to the page; whoever started it deletes it.
        key: that requests have to bring along.
        images: files or DICOM folders to begin with, by what they are: "ct", "mr", "image", "reference" or "target".
        mask: true mask to measure against.
        labels: names of the classes to begin with.
        model: folder or name that the page offers first.
        max_upload_mb: largest sum of all that is uploaded.
        device: to compute on.
    """

    folder: Path
    key: str
    images: tuple[StartImage, ...] = ()
    mask: Path | None = None
    labels: tuple[str, ...] = ()
    model: str | None = None
    max_upload_mb: int = 2000
    device: str = "auto"


@dataclass(frozen=True)
class StartImage:
    """An image to begin with.

    Attributes:
        path: file or DICOM folder.
        role: what it is.
    """

    path: Path
    role: Literal["ct", "mr", "image", "reference", "target"]


@dataclass(frozen=True)
class FrontOptions:
    """How pages are served.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        token: that a browser has to bring along once; None where only this machine can connect.
        pages: how many browsers may be there at a time.
        idle_minutes: after which a page without a browser ends.
    """

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    pages: int = 4
    idle_minutes: float = 30.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
