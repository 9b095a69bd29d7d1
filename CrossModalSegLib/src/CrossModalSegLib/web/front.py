"""What browsers talk to: each gets a page of its own by a cookie; everything else is passed on to that page."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp import WSMsgType, web

from CrossModalSegLib.worker.jobs_folder import make_jobs_folder

from .options import FrontOptions, PageOptions, is_loopback
from .process import KEY_HEADER, PageProcess

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_MAX_MESSAGE = 256 * 2**20
_CHUNK = 2**18
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "cookie",
    "content-length",
    "accept-encoding",
    KEY_HEADER.lower(),
}
# The page compiles its templates in the browser, which takes unsafe-eval.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-eval' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_REAP_SECONDS = 10.0
# Else a browser that is closed, or crashes, comes back without it, and its work cannot be reached any more.
_PAGE_COOKIE_SECONDS = 30 * 24 * 3600


class Front:
    """Serves pages until it is stopped.

    Attributes:
        url: to open; holds the token where there is one.
    """

    def __init__(self, options: FrontOptions, page: PageOptions, say: Callable[[str], None]) -> None:
        """Nothing is started yet.

        Args:
            options: of the front.
            page: of every page.
            say: is told sentences for the person who started it; none of them is about a patient.
        """
        self._options, self._page_options, self._say = options, page, say
        self._folder = make_jobs_folder()
        self._pages: dict[str, PageProcess] = {}
        self._spare: PageProcess | None = None
        self._client: aiohttp.ClientSession | None = None
        self._port = options.port
        app = web.Application(middlewares=[self._guard], client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.cleanup_ctx.append(self._living)
        self._runner = web.AppRunner(app, access_log=None, auto_decompress=False)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = socket.gethostname() if self._options.host in ("0.0.0.0", "::") else self._options.host
        host = f"[{host}]" if ":" in host else host
        token = f"?token={self._options.token}" if self._options.token else ""
        return f"http://{host}:{self._port}/{token}"

    async def start(self) -> None:
        """Listen, and start the first page so that it is there when the browser is.

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, self._options.host, self._options.port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End all pages and delete what was uploaded."""
        await self._runner.cleanup()

    # --- life ---

    async def _living(self, _app: web.Application) -> AsyncIterator[None]:
        self._client = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        self._spare = await self._new_page()
        reaper = asyncio.create_task(self._reap())
        yield
        reaper.cancel()
        pages = [*self._pages.values(), *([self._spare] if self._spare else [])]
        await asyncio.gather(*(page.end() for page in pages))
        await self._client.close()
        self._folder.remove()

    async def _new_page(self) -> PageProcess:
        page = PageProcess(self._folder, self._page_options)
        await page.start()
        return page

    async def _reap(self) -> None:
        """End pages that nobody looks at, and forget those that ended."""
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            for page in list(self._pages.values()):
                if page.state == "ended":
                    await page.end()
                elif page.idle_seconds > 60.0 * self._options.idle_minutes:
                    self._say("A page that nobody looked at was ended, and its data deleted.")
                    await page.end()

    # --- who may ---

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not self._is_own_name(request.host):
            return _text("This address does not belong to the page. Open the one that the program wrote.", 421)
        origin = request.headers.get("Origin")
        is_foreign = origin is not None and _parts(origin).netloc != request.host
        if is_foreign and (request.method not in ("GET", "HEAD") or _is_socket(request)):
            return _text("Another site asked for this; it is refused.", 403)
        if self._options.token is not None and not self._has_token(request):
            given = request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), self._options.token.encode()):
                return _sentence_page(
                    "This page needs its token", "Open the whole address that the program wrote.", 403
                )
            # On to an address without the token, which would stay in the browser's history.
            response = _to_entry()
            self._set_cookie(response, "token", self._options.token)
            return response
        return await handler(request)

    def _is_own_name(self, host: str) -> bool:
        """Against sites that let their own name point here."""
        name = _parts(f"//{host}").hostname or ""
        if is_loopback(self._options.host):
            return name in (*_LOOPBACK_NAMES, self._options.host)
        return True  # the token is needed

    def _has_token(self, request: web.Request) -> bool:
        return hmac.compare_digest(
            request.cookies.get(self._cookie("token"), "").encode(), self._options.token.encode()
        )

    def _cookie(self, name: str) -> str:
        # Browsers do not tell ports apart, and two servers may run.
        return f"crossmodalseg-{name}-{self._port}"

    def _set_cookie(self, response: web.StreamResponse, name: str, value: str, seconds: int | None = None) -> None:
        # Lax, not strict: through a link on another site, a browser would come without, and lose the page that it has.
        response.set_cookie(self._cookie(name), value, max_age=seconds, httponly=True, samesite="Lax", path="/")

    # --- requests ---

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        page = self._pages.get(request.cookies.get(self._cookie("page"), ""))
        if request.path == "/paraview/" and page is not None:
            # The page's client asks a launcher first.
            scheme = "wss" if "https" in (request.scheme, request.headers.get("X-Forwarded-Proto")) else "ws"
            answer = {"id": "page", "sessionURL": f"{scheme}://{request.host}/ws", "secret": "wslink-secret"}
            return web.json_response(answer, headers=_HEADERS)
        if request.path == "/favicon.ico":
            return web.Response(status=204)
        # Pictures and frames of other sites, which come without cookies, take no place.
        is_seen = request.headers.get("Sec-Fetch-Dest", "document") == "document" or page is not None
        is_entry = request.path in ("/", "/index.html") and request.method == "GET" and is_seen
        if request.path == "/end" and request.method == "POST":
            return await self._end(page)
        if is_entry and (page is None or (page.state == "ended" and "new" in request.query)):
            return await self._open()
        if page is None:
            return _text("There is no page for this browser; open the address again.", 403)
        if page.has_failed and is_entry:
            self._pages = {key: each for key, each in self._pages.items() if each is not page}
            return _failed_page()
        if page.state == "ended":
            return _ended_page() if is_entry else _text("This page has ended.", 410)
        if page.state == "starting":
            return _starting_page() if is_entry else _text("The page is starting.", 503)
        if (request.path == "/ws") != _is_socket(request):
            return _text("Only /ws is for web sockets, and for nothing else.", 400)
        page.touch()
        try:
            return await (self._pass_socket(request, page) if _is_socket(request) else self._pass(request, page))
        except aiohttp.ClientConnectionError:
            return _ended_page() if is_entry else _text("This page has ended.", 410)

    async def _open(self) -> web.StreamResponse:
        """A page for a browser that has none."""
        self._pages = {key: each for key, each in self._pages.items() if each.state != "ended"}
        if len(self._pages) >= self._options.pages:
            return _sentence_page(
                "All places are taken",
                f"{self._options.pages} browsers are working here at the moment. Try again later, or start the program "
                "with more --pages.",
                503,
            )
        page, self._spare = self._spare, None
        if page is None or page.state == "ended":
            page = await self._new_page()
        key = secrets.token_urlsafe(32)
        self._pages[key] = page
        page.touch()
        response = _starting_page() if page.state == "starting" else _to_entry()
        self._set_cookie(response, "page", key, _PAGE_COOKIE_SECONDS)
        return response

    async def _end(self, page: PageProcess | None) -> web.StreamResponse:
        if page is not None:
            await page.end()
        return _text("Ended.")

    async def _pass(self, request: web.Request, page: PageProcess) -> web.StreamResponse:
        path = "/index.html" if request.path == "/" else request.rel_url.raw_path
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with self._client.request(
            request.method,
            f"http://127.0.0.1:{page.port}{path}",
            params=request.query,
            headers=headers | {KEY_HEADER: page.key},
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            response.headers.update(_HEADERS)
            if _never_changes(path):
                response.headers["Cache-Control"] = "private, max-age=86400"
            response.content_length = answer.content_length
            await response.prepare(request)
            async for chunk in answer.content.iter_chunked(_CHUNK):
                await response.write(chunk)
            await response.write_eof()
        return response

    async def _pass_socket(self, request: web.Request, page: PageProcess) -> web.StreamResponse:
        async with self._client.ws_connect(
            f"http://127.0.0.1:{page.port}{request.rel_url.raw_path}",
            headers={KEY_HEADER: page.key},
            max_msg_size=_MAX_MESSAGE,
        ) as inner:
            outer = web.WebSocketResponse(max_msg_size=_MAX_MESSAGE, heartbeat=30.0, compress=False)
            await outer.prepare(request)
            page.sockets += 1
            try:
                ways = [asyncio.create_task(_pump(a, b)) for a, b in ((outer, inner), (inner, outer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            finally:
                page.sockets -= 1
                page.touch()
                await outer.close()
        return outer


async def _pump(source: web.WebSocketResponse, sink: web.WebSocketResponse) -> None:
    async for message in source:
        if message.type == WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _parts(address: str) -> SplitResult:
    """Of an address; empty ones of what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _is_socket(request: web.Request) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _never_changes(path: str) -> bool:
    """Whether a path holds the version of what it gives."""
    return path.startswith(("/__trame", "/assets/", "/trame_slicer_")) or path == "/vue.global.js"


def _to_entry() -> web.Response:
    return web.Response(status=302, headers={"Location": "/", **_HEADERS})


def _text(sentence: str, status: int = 200) -> web.Response:
    return web.Response(text=sentence, status=status, headers=_HEADERS)


def _starting_page() -> web.Response:
    return _sentence_page("Starting…", "Loading 3D Slicer's libraries and the images.", 200, refresh=True)


def _failed_page() -> web.Response:
    return _sentence_page(
        "The page could not be started",
        "Run `crossmodalseg doctor` to see what is missing, and install 'CrossModalSegLib[web]' again.",
        500,
        link="Try again",
    )


def _ended_page() -> web.Response:
    return _sentence_page(
        "This page has ended",
        "Its images, scribbles and results were deleted. Everything that was downloaded is yours.",
        410,
        link="Start anew",
    )


def _sentence_page(title: str, sentence: str, status: int, refresh: bool = False, link: str = "") -> web.Response:
    template = files("CrossModalSegLib.web").joinpath("serve", "notice.html").read_text(encoding="utf-8")
    values = {
        "{{title}}": title,
        "{{sentence}}": sentence,
        "{{head}}": '<meta http-equiv="refresh" content="1">' if refresh else "",
        "{{spinner}}": '<div class="spinner"></div>' if refresh else "",
        "{{link}}": f'<a href="/?new=1">{link}</a>' if link else "",
    }
    for name, value in values.items():
        template = template.replace(name, value)
    return web.Response(text=template, status=status, content_type="text/html", headers=_HEADERS)
