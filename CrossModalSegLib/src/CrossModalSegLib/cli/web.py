"""`crossmodalseg web`: the page in a browser."""

from __future__ import annotations

import asyncio
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from CrossModalSegLib.cli.console import say

if TYPE_CHECKING:
    from CrossModalSegLib.web.front import FrontOptions
    from CrossModalSegLib.web.options import PageOptions, StartImage

EXAMPLE = "crossmodalseg web --ct ct.nii.gz --mr mr.nii.gz --labels GTV"


@dataclass(frozen=True)
class Arguments:
    """Scribble and segment in a browser, on 3D Slicer's own rendering, without 3D Slicer.

    Without images, the page offers a simulated patient and takes files. It listens on this machine only, unless --host
    is given; then browsers need the token in the address that is written. Every browser has a page of its own, and
    cannot see that of another one; what it uploads is deleted when its page ends. Ctrl-C ends all.

    Attributes:
        ct: CT image to begin with: NIfTI, NRRD, MHA, or a DICOM series folder.
        mr: MR image to begin with.
        image: a single image of any kind, instead of --ct and --mr.
        reference: image to scribble on, to segment the targets by reference.
        targets: images to segment by reference; the option may also be given more than once.
        mask: true segmentation to measure against.
        labels: names of the structures.
        model: model folder or name to offer first.
        host: address to listen on, such as 0.0.0.0 for all.
        port: 0 takes a free one.
        pages: how many browsers may be there at a time; each takes about half a gigabyte of memory, and more in a run.
        max_upload_mb: largest sum of the files that one page takes.
        idle_minutes: after which a page that no browser looks at ends.
        no_browser: open no browser.
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
    """

    ct: Path | None = None
    mr: Path | None = None
    image: Path | None = None
    reference: Path | None = None
    targets: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[Path, ...], ...]], tyro.conf.arg(aliases=("--target",), metavar="PATH")
    ] = ()
    mask: Path | None = None
    labels: tuple[str, ...] = ()
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    pages: int = 4
    max_upload_mb: int = 2000
    idle_minutes: float = 30.0
    no_browser: bool = False
    device: str = "auto"


def run(args: Arguments) -> None:
    """Check, serve until Ctrl-C."""
    page = _page_options(args)
    front = _front_options(args)
    _require_web()
    asyncio.run(_serve(args, front, page))


def _page_options(args: Arguments) -> PageOptions:
    from CrossModalSegLib.cli.label_names import named_table
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.web.options import PageOptions

    if args.labels:
        named_table(args.labels)
    images = _images(args)
    for path in (*(image.path for image in images), args.mask):
        if path is not None and not path.exists():
            raise InputError(f"There is no '{path}'. Check the path.")
    if args.mask is not None and not images:
        raise InputError("--mask needs the image that it belongs to.")
    if args.max_upload_mb < 1:
        raise InputError(f"--max-upload-mb should be 1 or above, got {args.max_upload_mb}.")
    if args.device != "auto":  # only then: it takes torch, which the page itself does without
        from CrossModalSegLib.cli.devices import choose_device

        choose_device(args.device)
    model = str(Path(args.model).absolute()) if args.model is not None and Path(args.model).exists() else args.model
    mask = args.mask.absolute() if args.mask is not None else None
    return PageOptions(Path(), "", images, mask, args.labels, model, args.max_upload_mb, args.device)


def _images(args: Arguments) -> tuple[StartImage, ...]:
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.web.options import StartImage

    single = {"ct": args.ct, "mr": args.mr, "image": args.image, "reference": args.reference}
    given = {role: path for role, path in single.items() if path is not None}
    if "image" in given and len(given) > 1:
        raise InputError("--image is for a single image of any kind; give either --image, or --ct and --mr.")
    targets = tuple(("target", path) for group in args.targets for path in group)
    if ("reference" in given or targets) and ("ct" in given or "mr" in given or "image" in given):
        raise InputError("Give either --ct and --mr, or --reference and --targets.")
    if targets and "reference" not in given:
        raise InputError("--targets need a --reference to scribble on.")
    return tuple(StartImage(path.absolute(), role) for role, path in (*given.items(), *targets))


def _front_options(args: Arguments) -> FrontOptions:
    from CrossModalSegLib.cli.numbers import check_duration
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.web.options import FrontOptions, is_loopback

    check_duration("--idle-minutes", args.idle_minutes)
    if args.pages < 1:
        raise InputError(f"--pages should be 1 or above, got {args.pages}.")
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port should be from 0 to 65535, got {args.port}.")
    token = None if is_loopback(args.host) else secrets.token_urlsafe(24)
    return FrontOptions(args.host, args.port, token, args.pages, args.idle_minutes)


def _require_web() -> None:
    from importlib.util import find_spec

    from CrossModalSegLib.errors import InputError

    missing = [name for name in ("aiohttp", "slicer", "trame_slicer") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"The page needs packages that are not installed ({', '.join(missing)}): install 'CrossModalSegLib[web]'. "
            "They are there for 64-bit Linux on PCs."
        )


async def _serve(args: Arguments, options: FrontOptions, page: PageOptions) -> None:
    from CrossModalSegLib.errors import InputError
    from CrossModalSegLib.web.front import Front

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    front = Front(options, page, say)
    try:
        await front.start()
    except OSError as error:
        await front.stop()
        raise InputError(
            f"{args.host}, port {args.port} cannot be used ({error.strerror}). Give another --host or --port."
        ) from error
    say(f"the page: {front.url}")
    if options.token is not None:
        say(
            "Others can reach this address, and what they send is not encrypted: use it in a network that you trust, or"
        )
        say("through an SSH tunnel or a proxy with TLS.")
    say("Ctrl-C ends it, and deletes what was uploaded.")
    if not args.no_browser:
        import webbrowser

        await asyncio.to_thread(webbrowser.open, front.url)
    try:
        await stopped.wait()
    finally:
        await front.stop()
