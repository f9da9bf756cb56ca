"""One guarded way to ask for big files: a `requests` session that goes only where it may, and always comes back.

The address of the connected socket is checked before a byte of the request is sent, so a name that resolves to a
private address, now or at the second look, leads nowhere. Through a proxy of the environment, names alone are
checked: it is the proxy that resolves them. Cookies are refused, certificates always verified.
"""

from __future__ import annotations

import base64
import errno
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from types import MappingProxyType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from yarl import URL

from downloader.addresses import MAX_HOPS, Guard, clean, host_of, redacted
from downloader.answers import Fault, Outcome

__all__ = ["Stream", "Timeouts", "Web"]

CHUNK = 1 << 18
_NONE: Mapping[str, str] = MappingProxyType({})
_REDIRECTS = (301, 302, 303, 307, 308)
_OWN_ORIGIN_ONLY = ("authorization", "proxy-authorization")  # and cookies, which go nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a host may take, in seconds; a run always ends.

    connect: to be reached. first_byte: between any two pieces of a response. slowest: bytes per second that it must
    keep up over any `window`, its head included. total: for one response, only time spent waiting; None: any.
    """

    connect: float = 5.0
    first_byte: float = 10.0
    slowest: int = 1024
    window: float = 10.0
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A response whose body is still to be read, inside `with web.open(...)`.

    url: the one that gave it, after redirects, as on the origin (not the mirror's). headers: lower-case names.
    hops: the addresses before `url`.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    hops: tuple[str, ...]
    raw: Any  # urllib3's response

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives, not decoded.

        Raises Fault TRANSIENT: `truncated`, `reset`, `read_timeout`, `too_slow`, `total_timeout`.
        """
        try:
            while chunk := self.raw.read1(CHUNK, decode_content=False):
                yield chunk
        except (HTTPError, OSError) as error:
            raise _fault(error, self.url) from None

    def start(self, limit: int) -> bytes:
        """The body up to about `limit` bytes: for pages."""
        held = b""
        for chunk in self.chunks():
            held += chunk
            if len(held) >= limit:
                break
        return held


class Web:
    """Where to ask: the guard's rules, an honest user agent, the proxies of the environment. Close it after use."""

    def __init__(
        self,
        guard: Guard,
        user_agent: str,
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guard, self.timeouts = guard, timeouts or Timeouts()
        self._session = session = _Session()
        session.headers.clear()
        session.headers.update(
            {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        )
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.auth = lambda request: request  # none of ~/.netrc: its default would go anywhere
        adapter = _Adapter(_pools(guard, lambda raw: _Pace(raw, self.timeouts, clock)))
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str] = _NONE) -> Iterator[Stream]:
        """Ask for an address and follow at most MAX_HOPS redirects; any status is an answer.

        User and password of the address, and an Authorization header, go to its own origin only.

        Raises Fault: TRANSIENT (`connect_timeout`, `refused`, `reset`, `dns`, `no_such_host`, `tls`, ...), CONFIG for
        an address, certificate or proxy that cannot work, REJECTED for a place that must not be asked.
        """
        here, own = _without_user(clean(url))
        home, sent, hops = _origin(here), {**headers, **own}, list[str]()
        self.guard.admit(self.guard.mirror.of(here))
        while True:
            with closing(self._ask(here, sent, home)) as response:
                location = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or not location:
                    named = {name.lower(): value for name, value in response.headers.items()}
                    yield Stream(here, response.status_code, named, tuple(hops), response.raw)
                    return
            hops.append(here)
            if len(hops) > MAX_HOPS:
                said = f"more than {MAX_HOPS} redirects: " + " -> ".join(map(redacted, hops))
                raise Fault(Outcome.REJECTED, "redirect_loop", said)
            location = location.encode("latin-1", "replace").decode("utf-8", "replace")
            here = self.guard.next_hop(here, location)

    def _ask(self, url: str, headers: Mapping[str, str], home: str) -> requests.Response:
        asked, own = _without_user(self.guard.mirror.of(url))
        kept = _OWN_ORIGIN_ONLY if _origin(asked) != home else ()
        sent = {k: v for k, v in headers.items() if k.lower() not in (*kept, "cookie")}
        limits = (self.timeouts.connect, self.timeouts.first_byte)
        try:
            return self._session.get(
                asked, headers={**sent, **own}, stream=True, allow_redirects=False, timeout=limits
            )
        except (requests.RequestException, HTTPError, OSError) as error:
            raise _fault(error, url) from None  # its own words hold the whole address


def _origin(url: str) -> str:
    return str(URL(url, encoded=True).origin())


def _without_user(url: str) -> tuple[str, dict[str, str]]:
    """The address without user and password, and the header that says them."""
    parts = URL(url, encoded=True)
    if parts.user is None:
        return url, {}
    secret = base64.b64encode(f"{parts.user}:{parts.password or ''}".encode()).decode()
    return str(parts.with_user(None)), {"Authorization": f"Basic {secret}"}


class _Session(requests.Session):
    """Follows nothing by itself: that would read the whole body of a redirect first."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        del resp


class _Adapter(HTTPAdapter):
    """Connections of our own classes, through proxies too."""

    def __init__(self, pools: dict[str, type[HTTPConnectionPool]]) -> None:
        super().__init__()
        self.pools = self.poolmanager.pool_classes_by_scheme = pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self.pools
        return manager


def _pools(guard: Guard, pace: Callable[[Any], _Pace]) -> dict[str, type[HTTPConnectionPool]]:
    """Connections that check whom they reached before they speak, and read no slower than agreed."""

    class Reply(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.pace = pace(self.fp.detach())
            self.fp = io.BufferedReader(self.pace, CHUNK)

        def begin(self) -> None:
            super().begin()
            self.pace.next_window()  # the body has its own

    class Plain(HTTPConnection):
        response_class = Reply

        def _new_conn(self) -> socket.socket:
            sock = super()._new_conn()
            try:
                if self.proxy is None:
                    guard.admit_ip(
                        self.host.strip("[]"), self.port or self.default_port, sock.getpeername()[0]
                    )
            except BaseException:
                sock.close()
                raise
            return sock

    class Secure(Plain, HTTPSConnection):
        pass

    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure}),
    }


class _Pace(io.RawIOBase):
    """What a socket gives, unless it is slower than agreed; only the time spent waiting for it counts."""

    def __init__(self, raw: io.RawIOBase, timeouts: Timeouts, clock: Callable[[], float]) -> None:
        self._raw, self._timeouts, self._clock = raw, timeouts, clock
        self._total = 0.0
        self.next_window()

    def next_window(self) -> None:
        self._waited, self._got = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        started = self._clock()
        count = self._raw.readinto(buffer) or 0
        waited = self._clock() - started
        self._waited, self._total = self._waited + waited, self._total + waited
        self._got += count
        limits = self._timeouts
        if limits.total is not None and self._total > limits.total:
            raise Fault(Outcome.TRANSIENT, "total_timeout", f"not done in {limits.total:g} s")
        if self._waited >= limits.window:
            if count and self._got < limits.slowest * self._waited:
                said = f"{self._got:,} bytes in {self._waited:.0f} s"
                raise Fault(Outcome.TRANSIENT, "too_slow", said)
            self.next_window()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


_CONFIG, _TRANSIENT = Outcome.CONFIG, Outcome.TRANSIENT
_NO_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
# What went wrong, by the first of these classes found among an error's causes.
_CONNECTION: tuple[tuple[type[BaseException], Outcome, str, str], ...] = (
    (ssl.SSLCertVerificationError, _CONFIG, "certificate", "its certificate is not valid"),
    (requests.exceptions.InvalidSchema, _CONFIG, "proxy", "a proxy of this kind needs PySocks"),
    (requests.exceptions.ProxyError, _TRANSIENT, "proxy", "the proxy did not connect"),
    (requests.exceptions.InvalidURL, _CONFIG, "address", "no address"),
    (requests.ConnectTimeout, _TRANSIENT, "connect_timeout", "not reached in time"),
    (socket.gaierror, _TRANSIENT, "dns", "its name could not be resolved now"),
    (http.client.IncompleteRead, _TRANSIENT, "truncated", "ended before all was sent"),
    (TimeoutError, _TRANSIENT, "read_timeout", "nothing came in time"),
    (ConnectionRefusedError, _TRANSIENT, "refused", "connection refused"),
    (ConnectionError, _TRANSIENT, "reset", "closed by the other side"),
    (ssl.SSLError, _TRANSIENT, "tls", "no secure connection came about"),
)


def _fault(error: BaseException, url: str) -> Fault:
    """An error of the libraries under its own name; never in their words, which hold whole addresses."""
    causes, host = list(_causes(error)), host_of(url)
    for kind, outcome, reason, said in _CONNECTION:
        found = next((cause for cause in causes if isinstance(cause, kind)), None)
        if found is None:
            continue
        if isinstance(found, ssl.SSLCertVerificationError):
            said = f"{said}: {found.verify_message}"
        elif isinstance(found, socket.gaierror) and found.errno in _NO_NAME:
            reason, said = "no_such_host", "no such host"
        elif reason == "proxy" and any("failed: 407" in str(cause) for cause in causes):
            outcome, reason, said = Outcome.CONFIG, "http_407", "the proxy wants a password"
        return Fault(outcome, reason, f"{host}: {said}")
    if type(error) is OSError and not error.errno:  # what requests raises for its own settings
        said = (
            "the file of certificates that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names is not there"
        )
        return Fault(Outcome.CONFIG, "certificate", said)
    number = next((c.errno for c in causes if isinstance(c, OSError) and c.errno), 0)
    said = errno.errorcode.get(number or 0, type(causes[-1]).__name__)
    return Fault(Outcome.TRANSIENT, "connection", f"{host}: {said}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything it was made of."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            inner = (
                *cause.args,
                getattr(cause, "reason", None),
                cause.__cause__,
                cause.__context__,
            )
            waiting += [each for each in inner if isinstance(each, BaseException)]
