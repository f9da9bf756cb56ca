"""The local origin: one server that plays every site ninerec talks to, with each fault on command.

It serves the tests, `ninerec demo` and the benchmarks, always as a mirror: `http(s)://HOST/PATH?QUERY` arrives as
`BASE/HOST/PATH?QUERY`. Its redirects name the sites' own addresses, as the real ones do.

    with serving(Origin(gone=["BV1xx411c7mD"], faults={"i0.hdslb.com/x.jpg": "429:3"})) as base: ...
    python -m downloader.origin FOLDER --port 8000        # FOLDER/HOST/PATH...

Faults, `name` or `name:argument`; a table of them is looked up with the query, then without:

    404, 503, ...      that status; `429:SECONDS` with Retry-After      429date:SECONDS  Retry-After as a date
    429garbage         Retry-After that says nothing                    409azure         storage closed to the public
    html[:TYPE]        200 and an error page instead                    json[:TYPE]      200 and JSON instead
    captcha            200 and the site's block page, or answer         gone_page        the site's own page for "gone"
    placeholder        one small picture for all                        known_placeholder  `KNOWN_PLACEHOLDER`
    empty              no bytes                                         pixel            a picture of 1x1
    wrong_mime[:TYPE]  text/plain, or TYPE                              png_as_jpg, webp_as_jpg  another format
    truncated          the body cut, its length honest                  short[:BYTES]    fewer bytes than announced
    chunked_cut        chunks that stop before the end                  reset            a reset halfway
    slow_header        never answers                                    slow_body[:N]    N bytes a second, 100 if unsaid
    big:BYTES          that many zeros, no length                       no_length        chunks, length unsaid
    gzip               compressed though nobody asked                   bomb_gzip        200 KB that become 200 MB
    pixel_bomb         a true PNG of 20000x20000, 50 KB                 redirect:URL     302 there
    redirects:N        N hops, then the thing                           redirect_loop    two addresses in turn
    redirect_private   302 to 10.0.0.1                                  downgrade        302 from https to http
    login              302 to the site's passport                       expired          a cover address of yesterday
    range_ignored      200 and all of it to a Range                     range_wrong      206 with another range
    416                to a Range only                                  etag_changes     a new ETag each time
    x_robots[:WORDS]   X-Robots-Tag: noai, noimageai                    cookie           sets one
    quota, drive_gone, drive_login   Drive's pages
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email.utils
import gzip
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from downloader.origin_pages import HTML, JSON, Asked, Reply, Sites, Video, draw, page, recoded
from ninerec_data.errors import UsageError, nearest

__all__ = ["FAULTS", "KNOWN_PLACEHOLDER", "WIRE", "Folder", "Origin", "Video", "serving"]

_NONE: Mapping[str, Any] = {}
_CHUNK = 1 << 18  # bytes
_KEPT = 10_000  # asks of which headers and times are kept


@dataclass(frozen=True, slots=True)
class _Case:
    """A request that a fault falls on. reply: what the site would have said. said: the fault's argument."""

    sites: Sites
    asked: Asked
    reply: Reply
    said: str

    def but(self, body: bytes | None = None, kind: str = "", **headers: str) -> Reply:
        """The site's reply with another body or kind, or with more headers (`_` stands for `-`)."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        held = self.reply.body if body is None else body
        return replace(
            self.reply,
            body=held,
            kind=kind or self.reply.kind,
            headers={**self.reply.headers, **more},
        )

    def hop(self, last: float, count: int, scheme: str = "https") -> Reply:
        """On to hop number `count`, unless `last` is reached."""
        return self.reply if self.asked.hop >= last else _to(self.asked.hopped(scheme, count))

    def site(self, text: str) -> Reply:
        """Over to another place of the same site."""
        return _to(text.format(".".join(self.asked.host.split(".")[-2:])))

    def ranged(self, reply: Callable[[], Reply]) -> Reply:
        """What a Range gets; others get what the site says."""
        return reply() if "Range" in self.asked.headers else self.reply


def _to(address: str) -> Reply:
    return Reply(b"", status=302, headers={"Location": address})


def _error(code: int, wait: str = "") -> Reply:
    headers = {"Retry-After": wait} if wait else {}
    return Reply(page(str(code), f"<h1>Error {code}</h1>"), status=code, headers=headers)


def _status(code: int, case: _Case) -> Reply:
    if code == 412 and case.asked.host == "api.bilibili.com":
        return Reply(b'{"code":-412,"message":"request was banned"}', JSON, code)
    return _error(code, case.said)


def _captcha(case: _Case) -> Reply:
    """What bilibili's page and answer hold, and what all others show."""
    risk = '{"v_voucher":"voucher_origin"}'
    if case.asked.host == "api.bilibili.com":
        return Reply(f'{{"code":-352,"message":"risk","data":{risk}}}'.encode(), JSON)
    script = f"<script>window._riskdata_={risk}</script>" if "bilibili" in case.asked.host else ""
    return Reply(page("验证码", f"<p>captcha 滑块</p>{script}"))


@cache
def _png(side: int, level: int) -> bytes:
    """A black square of one bit a pixel."""
    rows = zlib.compress(bytes(1 + (side + 7) // 8) * side, level)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + data))
        whole += struct.pack(">I", len(data)) + name + data + crc
    return whole


@cache
def _bomb() -> bytes:
    """200 MB of zeros, as gzip: one block that depends on nothing before it, 200 times."""
    packer = zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return head + block * 200 + packer.flush() + struct.pack("<II", 0x534F0861, 200 << 20)


KNOWN_PLACEHOLDER = _png(64, 0)  # the same bytes everywhere
_QUOTA = "<p>Too many users have viewed or downloaded this file recently.</p>"
_AZURE = (
    b'<?xml version="1.0" encoding="utf-8"?><Error><Code>PublicAccessNotPermitted</Code></Error>'
)

FAULTS: Mapping[str, Callable[[_Case], Reply]] = {
    "429date": lambda c: _error(429, _date(time.time() + float(c.said or 1))),
    "429garbage": lambda _: _error(429, "soon"),
    "409azure": lambda _: Reply(_AZURE, "application/xml", 409),
    "html": lambda c: Reply(page("Error", "<h1>Try again later</h1>"), c.said or HTML),
    "json": lambda c: Reply(b'{"error":"try again later"}', c.said or JSON),
    "captcha": _captcha,
    "gone_page": lambda c: replace(c.sites, gone=lambda _: True).reply(c.asked),
    "placeholder": lambda c: c.but(draw("", "placeholder")),
    "known_placeholder": lambda c: c.but(KNOWN_PLACEHOLDER, "image/png"),
    "empty": lambda c: c.but(b""),
    "pixel": lambda c: c.but(_png(1, 0), "image/png"),
    "wrong_mime": lambda c: c.but(kind=c.said or "text/plain"),
    "png_as_jpg": lambda c: c.but(recoded(c.reply.data, "png"), "image/jpeg"),
    "webp_as_jpg": lambda c: c.but(recoded(c.reply.data, "webp"), "image/jpeg"),
    "truncated": lambda c: c.but(c.reply.data[: c.reply.size * 2 // 3]),
    "gzip": lambda c: c.but(gzip.compress(c.reply.data), Content_Encoding="gzip"),
    "bomb_gzip": lambda c: c.but(_bomb(), Content_Encoding="gzip"),
    "pixel_bomb": lambda c: c.but(_png(20_000, 6), "image/png"),
    "redirect": lambda c: _to(c.said),
    "redirects": lambda c: c.hop(int(c.said), c.asked.hop + 1),
    "redirect_loop": lambda c: c.hop(float("inf"), 1 - c.asked.hop),
    "redirect_private": lambda _: _to("https://10.0.0.1/picture.jpg"),
    "downgrade": lambda c: c.hop(1, 1, "http"),
    "login": lambda c: c.site("https://passport.{}/login"),
    "expired": lambda c: replace(c.sites, lifetime=-1).reply(c.asked),
    "range_ignored": lambda c: replace(c.reply, is_file=False),
    "range_wrong": lambda c: c.ranged(
        lambda: replace(
            c.but(Content_Range=f"bytes 0-{c.reply.size - 1}/{c.reply.size}"),
            status=206,
            is_file=False,
        )
    ),
    "416": lambda c: c.ranged(lambda: _unsatisfied(c.reply.size)),
    "etag_changes": lambda c: c.but(ETag=f'"{c.asked.before}"'),
    "x_robots": lambda c: c.but(X_Robots_Tag=c.said or "noai, noimageai"),
    "cookie": lambda c: c.but(Set_Cookie="origin=1; Path=/"),
    "quota": lambda _: Reply(page("Google Drive - Quota exceeded", _QUOTA)),
    "drive_gone": lambda _: replace(_error(404), body=page("Google Drive - Not found")),
    "drive_login": lambda _: _to("https://accounts.google.com/ServiceLogin"),
}
_CUTS = ("short", "chunked_cut", "reset")
WIRE = (*_CUTS, "slow_header", "slow_body", "big", "no_length")
_SLOW = 100  # bytes a second


def _known(fault: str) -> tuple[str, str]:
    """Name and argument of a fault; UsageError for one that is none."""
    name, _, said = fault.partition(":")
    if name and not (name in FAULTS or name in WIRE or re.fullmatch(r"[345]\d\d", name)):
        every = [*FAULTS, *WIRE]
        msg = f"the origin knows no fault {name!r}{nearest(name, every)} It knows statuses from 300, and {every}"
        raise UsageError(msg)
    return name, said


def _date(seconds: float) -> str:
    return email.utils.formatdate(seconds, usegmt=True)


def _unsatisfied(size: int) -> Reply:
    return Reply(b"", status=416, headers={"Content-Range": f"bytes */{size}"})


def _part(reply: Reply, asked: Mapping[str, str]) -> tuple[Reply, int, int]:
    """The reply as it is sent, and start and end of its bytes: all, or the Range of a file that has not changed."""
    size, headers = reply.size, {"Content-Type": reply.kind, **reply.headers}
    if not reply.is_file:
        return replace(reply, headers=headers), 0, size
    tag, changed = reply.version
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Last-Modified": _date(changed), **headers}
    whole = replace(reply, headers=headers), 0, size
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.get("Range", ""))
    same = asked.get("If-Range", headers["ETag"]) in (headers["ETag"], headers["Last-Modified"])
    if not found or not any(found.groups()) or not same:
        return whole
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        return _unsatisfied(size), 0, 0
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return replace(reply, status=206, headers=headers), start, end


class Origin:
    """A world of sites on a port of this machine.

    files: "HOST/PATH?QUERY" (or without the query) to a file; "drive.google.com/ID" for one on Drive.
    pictures: cover of (platform, id), None where it is gone; platforms: bilibili, kuaishou, douyin, qpic.
    titles: of an id. gone: ids that are no more. robots: host to its robots.txt; others have none.
    faults: "HOST/PATH[?QUERY]" to a fault, or a function of (key, times it was asked before). Raises UsageError for
    a name that is none. latency: seconds before every answer. max_rps: answers a second of a host, 429 above.

    base: to give to `--mirror`. requests: times that each key was asked. headers: of its last request. log: when
    (monotonic seconds) and what, newest last; of headers and log the newest 10,000 are kept.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, Path | bytes] = _NONE,
        pictures: Callable[[str, str], bytes | Path | None] | None = None,
        titles: Callable[[str], str] | None = None,
        faults: Mapping[str, str] | Callable[[str, int], str | None] = _NONE,
        gone: Collection[str] | Callable[[str], bool] = (),
        robots: Mapping[str, str] = _NONE,
        seed: int = 0,
        latency: float = 0.0,
        max_rps: Mapping[str, float] = _NONE,
    ) -> None:
        self.sites = Sites(
            files=files,
            pictures=pictures or partial(draw, seed=seed),
            titles=titles or "Title of {} 标题".format,
            gone=gone if callable(gone) else gone.__contains__,
            robots=robots,
            seed=seed,
        )
        for fault in () if callable(faults) else faults.values():
            _known(fault)
        self.faults, self.latency, self.max_rps = faults, latency, max_rps
        self.base = ""
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, Mapping[str, str]] = {}
        self.log: deque[tuple[float, str]] = deque(maxlen=_KEPT)
        self._free: dict[str, float] = {}

    async def start(self, port: int = 0) -> None:
        """Listen; `base` is known afterwards. port 0: any that is free."""
        server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close at once, whoever still waits for an answer."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        key = request.raw_path[1:]
        asked = Asked.of(key, request.headers, self.requests[key])
        self._note(key, request.headers)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self._above_rate(asked.host):
            return await _send(request, _error(429, "1"))
        faults = self.faults
        said = faults(asked.key, asked.before) if callable(faults) else asked.find(faults)
        name, said = _known(said or "")
        reply = self.sites.reply(asked)
        if name in FAULTS:
            reply = FAULTS[name](_Case(self.sites, asked, reply, said))
        elif name.isdigit():
            reply = _status(int(name), _Case(self.sites, asked, reply, said))
        return await _send(request, reply, name if name in WIRE else "", said)

    def _note(self, key: str, headers: Mapping[str, str]) -> None:
        self.requests[key] += 1
        self.log.append((time.monotonic(), key))
        self.headers[key] = headers
        if len(self.headers) > _KEPT:
            del self.headers[next(iter(self.headers))]

    def _above_rate(self, host: str) -> bool:
        """Whether a host has answered all that it may; it may save up one second's worth."""
        if host not in self.max_rps:
            return False
        now = time.monotonic()
        free = max(self._free.get(host, 0.0), now - 1)
        self._free[host] = free + (0 if free > now else 1 / self.max_rps[host])
        return free > now


async def _send(
    request: web.BaseRequest, reply: Reply, fault: str = "", said: str = ""
) -> web.StreamResponse:
    if fault == "slow_header":
        await asyncio.Event().wait()  # until the other side goes, or `stop`
    reply, start, end = _part(reply, request.headers)
    if not fault and isinstance(reply.body, bytes) and request.method != "HEAD":
        return web.Response(body=reply.body[start:end], status=reply.status, headers=reply.headers)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    if fault in ("chunked_cut", "big", "no_length"):
        response.enable_chunked_encoding()
    else:
        response.content_length = end - start
    await response.prepare(request)
    if request.method != "HEAD":
        for chunk in _chunks(reply, start, end, fault, said):
            await response.write(chunk)
            if fault == "slow_body":
                await asyncio.sleep(len(chunk) / int(said or _SLOW))
    if fault in _CUTS and request.transport:
        if fault == "reset":
            raw = request.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        request.transport.close()
    return response


def _chunks(reply: Reply, start: int, end: int, fault: str, said: str) -> Iterator[bytes]:
    """What of the body a fault lets through, in pieces."""
    if fault == "big":
        return (bytes(min(_CHUNK, int(said) - at)) for at in range(0, int(said), _CHUNK))
    if fault in _CUTS:
        end = min(end, start + int(said or (end - start) // 2))
    size = max(1, int(said or _SLOW) // 20) if fault == "slow_body" else _CHUNK
    return reply.chunks(start, end, size)


@contextlib.contextmanager
def serving(origin: Origin, port: int = 0) -> Iterator[str]:
    """Run an origin in a thread of its own; yields its base."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="origin", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(origin.start(port), loop).result()
        try:
            yield origin.base
        finally:
            asyncio.run_coroutine_threadsafe(origin.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True, slots=True)
class Folder(Mapping[str, Path]):
    """Files laid out as FOLDER/HOST/PATH, looked up as they are asked for."""

    root: Path

    def __getitem__(self, key: str) -> Path:
        path = (self.root / unquote(key)).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise KeyError(key)
        return path

    def __iter__(self) -> Iterator[str]:
        return (str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def main(arguments: list[str] | None = None) -> None:
    """Serve a folder until Ctrl-C; says the base to give to `--mirror`."""
    parser = argparse.ArgumentParser(prog="python -m downloader.origin")
    parser.add_argument("folder", type=Path, help="holds HOST/PATH...")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    given = parser.parse_args(arguments)
    if not given.folder.is_dir():
        parser.error(f"{given.folder} is no folder; expected one that holds HOST/PATH...")
    with (
        contextlib.suppress(KeyboardInterrupt),
        serving(Origin(files=Folder(given.folder)), given.port) as base,
    ):
        sys.stdout.write(f"{base}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
