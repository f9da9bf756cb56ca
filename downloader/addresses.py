"""Addresses: read from a mapping, mapped onto a mirror, kept from leading astray, shown without secrets."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from yarl import URL

from downloader.answers import Fault, Outcome

__all__ = ["MAX_HOPS", "Guard", "Mirror", "clean", "host_of", "redacted"]

MAX_HOPS = 5
PORTS = {80, 443}
# Queries of signed addresses, and words for secrets in any other.
_SECRET = re.compile(
    r"(?i)(sign|token|secret|auth|passw|key|credential|expires|session|policy|x-amz|x-goog|tag=)"
)
_BLANK = re.compile(r"[\0- ]")
_PLAIN = re.compile(
    r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+/[A-Za-z0-9._~!$'()*+,;=:@/?&-]*"
)  # nothing to mend
_CLIMBS = re.compile(r"(?i)/(\.|%2e){1,2}(?=[/?#]|$)")  # leads out of a mirror's base
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")


def clean(raw: str) -> str:
    """An address of a mapping as it is asked for: absolute, http or https, encoded once, without fragment.

    `//host/path` is taken as https; blanks, control characters and a byte-order mark at the ends are taken off.
    Raises Fault CONFIG for another scheme, and for what is no address.
    """
    text = raw.strip("\ufeff \t\r\n\0").replace("&amp;", "&")
    if _PLAIN.fullmatch(text):
        return text
    if text.startswith("//"):
        text = f"https:{text}"
    scheme = text.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise Fault(Outcome.CONFIG, "scheme", f"{redacted(raw)!r} is neither http nor https")
    try:
        # What holds an escape is taken as encoded, but for characters that no address may hold.
        url = URL(text.replace(" ", "%20"), encoded=bool(_ESCAPED.search(text)) and text.isascii())
        host, port = url.raw_host, url.port
        if not host or port is None or "%" in host or _BLANK.search(str(url)):
            raise ValueError("no host, or a blank in it")
        return str(url.with_fragment(None) if url.fragment else url)
    except (ValueError, UnicodeError) as error:
        raise Fault(Outcome.CONFIG, "address", f"{redacted(raw)!r} is no address") from error


@lru_cache(4096)
def host_of(url: str) -> str:
    """Host, and port where it is not the scheme's: what politeness is keyed by."""
    parts = URL(url, encoded=True)
    host = (parts.raw_host or "").lower()
    return host if parts.is_default_port() else f"{host}:{parts.port}"


def redacted(url: str) -> str:
    """An address as it may be shown or kept: without user, password, and the query where it is signed."""
    text = _without_user(url[:2000])
    start, mark, query = text.partition("?")
    return f"{start}?..." if mark and _SECRET.search(query) else text


def _without_user(url: str) -> str:
    return re.sub(r"(?<=//)[^/@?#]*@", "", url)


@dataclass(frozen=True, slots=True)
class Mirror:
    """`BASE/HOST[:PORT]/PATH?QUERY` instead of `http(s)://HOST[:PORT]/PATH?QUERY` (DESIGN 4). base "": none."""

    base: str = ""

    def of(self, url: str) -> str:
        """The address to ask for; one that lies under BASE stays."""
        if not self.base or self.covers(url):
            return url
        parts = URL(url, encoded=True)
        return f"{self.base.rstrip('/')}/{host_of(url)}{parts.raw_path_qs}"

    def covers(self, url: str) -> bool:
        """Whether an address lies under BASE."""
        return bool(self.base) and _without_user(url).startswith(self._start)

    def origin_of(self, url: str, scheme: str = "https") -> str:
        """What an address under BASE stands for; any other is its own."""
        if not self.covers(url):
            return url
        return f"{scheme}://{_without_user(url)[len(self._start) :]}"

    @property
    def _start(self) -> str:
        return _without_user(self.base).rstrip("/") + "/"


@dataclass(frozen=True, slots=True)
class Guard:
    """Where a request may go: http and https, usual ports, public addresses; what the user named may be any.

    allowed: hosts of `--allow-host`, as `host` or `host:port`. The mirror's host is allowed for addresses under it.
    """

    mirror: Mirror = field(default_factory=Mirror)
    allowed: Collection[str] = ()

    def admit(self, url: str) -> None:
        """Raise Fault for an address that must not be asked; called for every hop, before its name is resolved."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise Fault(Outcome.REJECTED, "scheme", f"led to {redacted(url)}")
        if self.mirror.base and _CLIMBS.search(url):
            raise Fault(Outcome.REJECTED, "path", f"led to {redacted(url)}")
        if self.mirror.covers(url) or self._named(url):
            return
        if URL(url, encoded=True).port not in PORTS:
            raise Fault(Outcome.REJECTED, "port", f"led to {redacted(url)}")
        host = (parts.hostname or "").strip("[]")
        # A name raises: `admit_ip` is asked once it is resolved. 127.1 and 2130706433 are addresses.
        with contextlib.suppress(ValueError, OSError):
            ip = host if ":" in host else socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
            self._refuse_private(host, ip)

    def admit_ip(self, host: str, port: int, ip: str) -> None:
        """Raise Fault for an address that a name was resolved to, unless the mirror or the user means it."""
        base = URL(self.mirror.base) if self.mirror.base else None
        if base and (base.raw_host, base.port) == (host, port):
            return
        if host not in self.allowed and f"{host}:{port}" not in self.allowed:
            self._refuse_private(host, ip)

    def next_hop(self, url: str, location: str) -> str:
        """Where a redirect leads, as on the origin. Raises Fault for one from https to http, and as `admit`."""
        try:
            target = str(URL(url, encoded=True).join(URL(location, encoded=_is_ascii(location))))
        except ValueError as error:
            raise Fault(Outcome.REJECTED, "redirect", f"to {redacted(location)!r}") from error
        target = self.mirror.origin_of(target, urlsplit(url).scheme)
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
            raise Fault(Outcome.REJECTED, "downgrade", f"from https to {redacted(target)}")
        self.admit(target)
        return target.partition("#")[0]

    def _named(self, url: str) -> bool:
        host = (urlsplit(url).hostname or "").lower()
        return host in self.allowed or host_of(url) in self.allowed

    def _refuse_private(self, host: str, ip: str) -> None:
        address = ipaddress.ip_address(ip.partition("%")[0])
        meant = _inside(address) or address
        if not meant.is_global or meant.is_multicast or getattr(meant, "is_site_local", False):
            said = f"{host} is {ip}, which is not public; name it: --allow-host {host}"
            raise Fault(Outcome.REJECTED, "private_address", said)


def _inside(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 or 6to4."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    number = int(address)
    if number >> 32 in (0, 0xFFFF, 0x64FF9B << 64):
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address.sixtofour


def _is_ascii(text: str) -> bool:
    return text.isascii() and " " not in text
