"""One GET, asked politely and read with care: every hop admitted, every wait bounded, every byte counted.

What is not a whole, plain answer of status 200 is a `Fault`. The host's governor is told how it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from downloader.addresses import MAX_HOPS, Guard, host_of, redacted
from downloader.answers import Fault, Outcome, Response, refused
from downloader.politeness import Clock, Governors, backoff, retry_after
from downloader.robots import Robots, opted_out

__all__ = ["Client", "Deadlines", "proxy_of"]

WELL = (404, 410)  # what a host in health answers too
REDIRECTS = (301, 302, 303, 307, 308)
DNS_AT_ONCE = 8
ROBOTS_ATTEMPTS = 3
_NONE: Mapping[str, str] = MappingProxyType({})
DEAD_AFTER = 3  # times that a name is not known
PICTURES = "image/jpeg,image/png;q=0.9,image/*;q=0.5,*/*;q=0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds, but `slowest`: bytes a second, over `window`. most: bytes of a body, as sent and as decoded."""

    connect: float = 5.0
    first_byte: float = 10.0
    total: float = 60.0
    slowest: float = 1024.0
    window: float = 10.0
    most: int = 20 << 20


class Client:
    """Asks the origin, or the mirror in its place. Use it as an async context manager."""

    def __init__(
        self,
        guard: Guard,
        governors: Governors,
        *,
        user_agent: str,
        deadlines: Deadlines | None = None,
        clock: Clock | None = None,
        robots: Robots | None = None,
    ) -> None:
        self.guard, self.governors = guard, governors
        self.deadlines = deadlines or Deadlines()
        self.requests: Counter[str] = Counter()  # by host, redirects and robots.txt included
        self.bytes = 0
        self.clock = clock or Clock()
        self._robots = robots or Robots()
        self._user_agent = user_agent
        self._proxies = getproxies()
        self._unknown: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.deadlines.connect, sock_read=self.deadlines.first_byte
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=300, resolver=_Resolver(self.guard), keepalive_timeout=30
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent},
            requote_redirect_url=False,
            timeout=timeout,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(
        self,
        url: str,
        headers: Mapping[str, str] = _NONE,
        *,
        picture: bool = False,
        robots_txt: bool = False,
    ) -> Response:
        """The whole answer of status 200; of robots.txt, of any. url: as on the origin. Raises Fault."""
        hops: list[str] = []
        while len(hops) <= MAX_HOPS and url not in hops:
            self.guard.admit(url)
            try:
                if not robots_txt:
                    await self._robots.allowed(url, self._robots_txt)
                response = await self._asked(
                    url, headers, tuple(hops), picture=picture, any_status=robots_txt
                )
            except Fault as fault:
                fault.host = fault.host or host_of(url)
                raise
            if response.status not in REDIRECTS:
                if not robots_txt and (said := opted_out(response.headers)):
                    raise Fault(Outcome.OPTED_OUT, "x_robots_tag", said, status=response.status)
                return response
            hops.append(url)
            before, url = url, self.guard.next_hop(url, response.headers.get("location", ""))
            if host_of(url) != host_of(before):  # what a resolver sends is for its own site
                headers = {k: v for k, v in headers.items() if k.lower() == "referer"}
        said = f"{len(hops)} redirects, from {redacted(hops[0])}"
        raise Fault(Outcome.REJECTED, "redirect_loop", said)

    async def _robots_txt(self, url: str) -> Response:
        """Asked without a look at robots.txt itself; a missing one is an answer too."""
        for attempt in range(ROBOTS_ATTEMPTS - 1):
            try:
                response = await self.get(url, robots_txt=True)
                if response.status < 500 and response.status != 429:
                    return response
            except Fault as fault:
                if not fault.asked or fault.outcome is not Outcome.TRANSIENT:
                    raise
            await self.clock.sleep(backoff(url, attempt))
        return await self.get(url, robots_txt=True)

    async def _asked(
        self,
        url: str,
        headers: Mapping[str, str],
        hops: tuple[str, ...],
        *,
        picture: bool,
        any_status: bool = False,
    ) -> Response:
        """One request in its turn. A redirect is returned; any other status than 200 is a Fault."""
        host = host_of(url)
        governor = self.governors.of(host)
        governor.delay = self._robots.delay(host)
        async with governor.turn():
            began = self.clock.monotonic()
            self.requests[host] += 1
            try:
                response = await self._answer(url, headers, hops, picture=picture)
                _refuse_status(response, self.clock.now())
            except Fault as fault:
                if fault.status in WELL:
                    governor.good(self.clock.monotonic() - began)
                self._tell(host, fault)
                if not any_status or fault.status is None:
                    raise
            else:
                governor.good(self.clock.monotonic() - began)
            return response

    def _tell(self, host: str, fault: Fault) -> None:
        """What a fault says about its host."""
        governor = self.governors.of(host)
        if fault.blocks:
            governor.block(fault.reason)
        elif fault.status == 429 or fault.pause is not None:
            governor.throttled(fault.pause)
        elif fault.outcome is Outcome.TRANSIENT:
            governor.bad()
        self._unknown[host] += fault.reason == "no_such_host"
        if self._unknown[host] >= DEAD_AFTER:
            governor.fatal("no_such_host")

    async def _answer(
        self, url: str, headers: Mapping[str, str], hops: tuple[str, ...], *, picture: bool
    ) -> Response:
        accept = (
            {"Accept": PICTURES, "Accept-Encoding": "identity"}
            if picture
            else {"Accept-Encoding": "gzip"}
        )
        asked = URL(self.guard.mirror.of(url), encoded=True)
        with _named():
            async with (
                asyncio.timeout(self.deadlines.total),
                self._session.get(
                    asked,
                    headers={**accept, **headers},
                    allow_redirects=False,
                    **self._proxy(asked),
                ) as response,
            ):
                body = b""
                if response.status not in REDIRECTS:
                    try:
                        body = await self._body(response)
                    except Fault:
                        if response.status == 200:
                            raise  # of any other the status says enough
                given = {
                    name.lower(): ", ".join(response.headers.getall(name))
                    for name in response.headers
                }
                return Response(url, response.status, given, body, hops)

    def _proxy(self, url: URL) -> dict[str, Any]:
        """The proxy that the environment names for an address; no other setting or password is read from there."""
        named = self._proxies and (self._proxies.get(url.scheme) or self._proxies.get("all"))
        if not named or proxy_bypass(url.host or ""):
            return {}
        proxy = proxy_of(named)
        if proxy is None or proxy.scheme not in ("http", "https"):
            said = f"{redacted(named)} of the environment is no http proxy, and no other kind is spoken"
            raise Fault(Outcome.CONFIG, "proxy", said)
        return {"proxy": proxy}

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """All of it, decoded. Refused where it is too large or comes too slowly."""
        most, said = self.deadlines.most, response.content_length or 0
        parts, size = [], 0
        if said <= most:
            async for part in self._in_time(response):
                parts.append(part)
                size += len(part)
                if size > most:
                    break
        if max(said, size) > most:
            why = f"more than {most:,} bytes"
            raise Fault(Outcome.REJECTED, "too_large", why, status=response.status)
        self.bytes += size
        return _decoded(b"".join(parts), response.headers.get("Content-Encoding", ""), most)

    async def _in_time(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        began, since = self.clock.monotonic(), 0
        async for part in response.content.iter_any():
            yield part
            since += len(part)
            passed = self.clock.monotonic() - began
            if passed >= self.deadlines.window:
                if since < self.deadlines.slowest * passed:
                    raise Fault(
                        Outcome.TRANSIENT, "too_slow", f"{since / passed:.0f} bytes a second"
                    )
                began, since = self.clock.monotonic(), 0


def proxy_of(named: str) -> URL | None:
    """A proxy as the environment names it, often without a scheme; None for what is no address."""
    try:
        return URL(named if "://" in named else f"http://{named}")
    except ValueError:
        return None


def _refuse_status(response: Response, now: float) -> None:
    if response.status != 200 and response.status not in REDIRECTS:
        busy = response.status in (429, 503)
        pause = retry_after(response.headers, now) if busy else None
        raise refused(response.status, f"at {redacted(response.url)}", pause=pause)


def _decoded(data: bytes, encoding: str, most: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Fault(Outcome.REJECTED, "encoding", f"{encoding!r}, which was not asked for")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = unpack.decompress(data, most + 1)
    except zlib.error as error:
        raise Fault(Outcome.TRANSIENT, "cut_short", f"{encoding} does not unpack") from error
    if len(plain) > most:
        raise Fault(Outcome.REJECTED, "too_large", f"more than {most:,} bytes when unpacked")
    if not unpack.eof:
        raise Fault(Outcome.TRANSIENT, "cut_short", f"{encoding} ends too early")
    return plain


@contextlib.contextmanager
def _named() -> Any:
    """Give every error of the way its name."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Fault(
            Outcome.CONFIG, "certificate", f"of {error.host} is not trusted here"
        ) from error
    except aiohttp.ClientConnectorDNSError as error:
        unknown = getattr(error.os_error, "errno", None) in (socket.EAI_NONAME, socket.EAI_NODATA)
        raise Fault(
            Outcome.TRANSIENT, "no_such_host" if unknown else "dns", f"{error.host}"
        ) from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise Fault(Outcome.TRANSIENT, "tls", _said(error)) from error
    except aiohttp.ClientHttpProxyError as error:
        outcome = Outcome.CONFIG if error.status == 407 else Outcome.TRANSIENT
        raise Fault(outcome, "proxy", f"status {error.status}") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise Fault(Outcome.TRANSIENT, "connect_timeout") from error
    except TimeoutError as error:
        raise Fault(Outcome.TRANSIENT, "timeout", "no answer, or not all of it, in time") from error
    except aiohttp.ClientConnectorError as error:
        raise Fault(Outcome.TRANSIENT, "refused", f"{error.host}:{error.port}") from error
    except aiohttp.ClientPayloadError as error:
        raise Fault(Outcome.TRANSIENT, "cut_short") from error
    except (aiohttp.InvalidURL, UnicodeError) as error:  # such as a part of a name over 63 letters
        raise Fault(Outcome.REJECTED, "address", _said(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Fault(Outcome.TRANSIENT, "reset", _said(error)) from error


def _said(error: BaseException) -> str:
    return redacted(" ".join(str(error).split()))[:200]


class _Resolver(AbstractResolver):
    """The system's resolver, a few questions at once; an address that is not public is refused here."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = aiohttp.ThreadedResolver()
        self._turns = asyncio.Semaphore(DNS_AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with self._turns:
            found = await self._inner.resolve(host, port, family)
        for address in found:
            self._guard.admit_ip(host, port, address["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()
