"""Who gets which page: cookies, tokens, foreign sites, and passing on."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed (the extra [web])")

import aiohttp
from aiohttp import web

from CrossModalSegLib.web import front as front_module
from CrossModalSegLib.web.front import Front
from CrossModalSegLib.web.options import FrontOptions, PageOptions, is_loopback
from CrossModalSegLib.web.process import KEY_HEADER, PageProcess


class FakePage(PageProcess):
    """A page in this process that tells what it is asked."""

    async def start(self) -> None:
        app = web.Application(client_max_size=0)
        app.router.add_get("/ws", self._socket)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def end(self) -> None:
        self._is_ended = True
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.headers[KEY_HEADER] == self.key
        assert "Cookie" not in request.headers
        return web.Response(text=f"{self._name} {request.path} {len(await request.read())}", headers={"X-Own": "1"})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        assert request.headers[KEY_HEADER] == self.key
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            await (socket.send_str if message.type == web.WSMsgType.TEXT else socket.send_bytes)(message.data * 2)
        return socket


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, **options: object) -> AsyncIterator[Front]:
    monkeypatch.setattr(front_module, "PageProcess", FakePage)
    front = Front(FrontOptions(**options), PageOptions(Path(), ""), lambda _: None)
    await front.start()
    try:
        yield front
    finally:
        await front.stop()


def browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


Test = Callable[[Front], Awaitable[None]]


def run(monkeypatch: pytest.MonkeyPatch, test: Test, **options: object) -> None:
    async def go() -> None:
        async with running(monkeypatch, **options) as front:
            await test(front)

    asyncio.run(go())


def test_each_browser_has_a_page_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as first, browser() as second:
            texts = [await (await each.get(front.url)).text() for each in (first, second, first)]
            assert texts[0] == texts[2] != texts[1]
            assert texts[0].endswith("/index.html 0")

    run(monkeypatch, test)


def test_without_its_cookie_a_browser_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as stranger:
            for path in ("download/0.nii.gz", "ws", "files/image"):
                assert (await stranger.get(front.url + path)).status == 403
            cookies = {f"crossmodalseg-page-{front._port}": "guess"}
            assert (await stranger.get(f"{front.url}download/0.nii.gz", cookies=cookies)).status == 403

    run(monkeypatch, test)


def test_cookies_are_kept_from_scripts_and_other_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            answer = await client.get(front.url, allow_redirects=False)
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
            # It outlives the browser, as the work does for half an hour.
            assert "Max-Age=2592000" in cookie

    run(monkeypatch, test)


def test_bodies_and_headers_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            await client.get(front.url)
            answer = await client.post(f"{front.url}files/image", data=io.BytesIO(bytes(3_000_000)))
            assert (await answer.text()).endswith("/files/image 3000000")
            assert answer.headers["X-Own"] == "1"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]

    run(monkeypatch, test)


def test_sockets_are_passed_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            await client.get(front.url)
            async with client.ws_connect(f"{front.url}ws", max_msg_size=0) as socket:
                await socket.send_str("ab")
                assert (await socket.receive()).data == "abab"
                await socket.send_bytes(bytes(5_000_000))
                assert len((await socket.receive()).data) == 10_000_000

    run(monkeypatch, test)


def test_sockets_and_requests_in_each_others_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            await client.get(front.url)
            assert (await client.get(f"{front.url}ws")).status == 400
            with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
                await client.ws_connect(f"{front.url}files/image")

    run(monkeypatch, test)


@pytest.mark.parametrize("path", ["files/image", "end"])
def test_other_sites_cannot_post(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            await client.get(front.url)
            answer = await client.post(front.url + path, headers={"Origin": "https://evil.example"})
            assert answer.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(f"{front.url}ws", origin="https://evil.example")

    run(monkeypatch, test)


def test_a_name_that_someone_points_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            answer = await client.get(front.url, headers={"Host": f"evil.example:{front._port}"})
            assert answer.status == 421

    run(monkeypatch, test)


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": ""}])
def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            assert (await client.get(front.url, headers=headers)).status == 421
            assert (await client.post(f"{front.url}end", headers={"Origin": "http://["})).status == 403

    run(monkeypatch, test)


def test_pictures_of_other_sites_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            for kind in ("image", "iframe", "empty"):
                assert (await client.get(front.url, headers={"Sec-Fetch-Dest": kind})).status == 403
            assert front._pages == {}
            assert (await client.get(front.url, headers={"Sec-Fetch-Dest": "document"})).status == 200

    run(monkeypatch, test)


def test_with_a_token_nobody_enters_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        root = front.url.split("?")[0]
        async with browser() as client:
            assert (await client.get(root)).status == 403
            assert (await client.get(f"{root}?token=wrong")).status == 403
            answer = await client.get(front.url)
            assert answer.status == 200
            assert "token" not in str(answer.url)
            assert (await client.get(root)).status == 200

    run(monkeypatch, test, token="secret")


def test_places_are_limited_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as first, browser() as second:
            await first.get(front.url)
            refused = await second.get(front.url)
            assert refused.status == 503
            assert "All places are taken" in await refused.text()
            assert (await first.post(f"{front.url}end")).status == 200
            ended = await first.get(front.url)
            assert ended.status == 410
            assert "This page has ended" in await ended.text()
            assert (await second.get(front.url)).status == 200

    run(monkeypatch, test, pages=1)


def test_an_ended_page_can_be_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(front: Front) -> None:
        async with browser() as client:
            before = await (await client.get(front.url)).text()
            await client.post(f"{front.url}end")
            after = await (await client.get(f"{front.url}?new=1")).text()
            assert after != before and after.endswith("/index.html 0")

    run(monkeypatch, test)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.7", False),
        ("pc", False),
    ],
)
def test_only_loopback_is_taken_for_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
