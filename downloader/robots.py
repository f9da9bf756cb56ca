"""What a host asks of robots: robots.txt (RFC 9309) before its pages, X-Robots-Tag with them."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from protego import Protego
from yarl import URL

from downloader.addresses import host_of, redacted
from downloader.answers import Fault, Outcome, Response

__all__ = ["TOKEN", "Robots", "opted_out"]

TOKEN = "ninerec"  # the name that robots.txt and X-Robots-Tag call us by
MOST_BYTES = 500 << 10
LONGEST_DELAY = 30.0  # seconds
REFUSALS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_AGENT = re.compile(r"\s*user[- ]?agent\s*[:\s]\s*([^#]*)", re.IGNORECASE)


class Robots:
    """The robots.txt of each origin, asked for once in a run."""

    def __init__(self) -> None:
        self._rules: dict[str, Protego | Fault] = {}  # a fault: why it could not be had
        self._delays: dict[str, float] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def allowed(self, url: str, get: Callable[[str], Awaitable[Response]]) -> None:
        """Return if the origin lets us ask for an address; raise Fault if not.

        get: fetches robots.txt, and takes a turn of the host for it: never call this within one.
        Raises Fault OPTED_OUT `robots`; TRANSIENT `robots_unreachable` where the origin fails (5xx, 429, on the way);
        CONFIG where nothing of it can be asked; and what `get` raises of a blocked host, which is not remembered.
        """
        origin, host = str(URL(url, encoded=True).origin()).lower(), host_of(url)
        async with self._locks[origin]:
            if origin not in self._rules:
                rules = self._rules[origin] = await _ask(f"{origin}/robots.txt", get)
                if isinstance(rules, Protego):
                    asked = min(rules.crawl_delay(TOKEN) or 0.0, LONGEST_DELAY)
                    self._delays[host] = max(asked, self.delay(host))
        rules = self._rules[origin]
        if isinstance(rules, Fault):
            raise Fault(rules.outcome, rules.reason, rules.detail, asked=False)
        if not rules.can_fetch(url, TOKEN):
            raise Fault(Outcome.OPTED_OUT, "robots", f"{origin}/robots.txt bars {redacted(url)}")

    def delay(self, host: str) -> float:
        """Seconds between two requests that a host's robots.txt asks for, 30 at most; 0 where it asks for none."""
        return self._delays.get(host, 0.0)


async def _ask(url: str, get: Callable[[str], Awaitable[Response]]) -> Protego | Fault:
    """Its rules; none where there is no robots.txt to read; a fault where that cannot be known."""
    try:
        response = await get(url)
    except Fault as fault:
        if fault.outcome is Outcome.TRANSIENT:
            return Fault(Outcome.TRANSIENT, "robots_unreachable", f"{url}: {fault}")
        if fault.outcome is Outcome.CONFIG:
            return fault
        if fault.outcome in (Outcome.GONE, Outcome.REJECTED):
            return Protego()
        raise
    if response.status == 429 or response.status >= 500:
        return Fault(Outcome.TRANSIENT, "robots_unreachable", f"{url}: status {response.status}")
    return _rules(response) if response.status // 100 == 2 else Protego()


def _rules(response: Response) -> Protego:
    body = response.body[:MOST_BYTES]
    if len(response.body) > MOST_BYTES:
        body = body.rpartition(b"\n")[0]  # half a rule may bar more than the whole
    text = body.decode("utf-8-sig", "replace")
    if response.kind in ("text/html", "application/xhtml+xml") or text.lstrip().startswith("<"):
        return Protego()
    return Protego.parse("\n".join(_line(line) for line in text.splitlines()))


def _line(line: str) -> str:
    """A line with all other agents under one name: by theirs, the library takes memory as agents times rules."""
    if not (match := _AGENT.match(line)):
        return line
    agent = match[1].partition("/")[0].strip().lower()
    return f"user-agent: {agent if agent in ('*', TOKEN) else 'another'}"


def opted_out(headers: Mapping[str, str]) -> str | None:
    """The word of X-Robots-Tag that asks us not to keep what came; None where none does. headers: lower-case names.

    An agent's name holds for all that follows it, up to the next: `googlebot: noindex` is not for us.
    """
    agent = ""
    for part in re.split("[,;]", headers.get("x-robots-tag", "").lower()):
        name, colon, rest = (text.strip() for text in part.partition(":"))
        if colon and name not in VALUED and re.fullmatch(r"\*|[a-z][\w-]*", name):
            agent, name = name, rest
        if name in REFUSALS and agent in ("", "*", TOKEN):
            return name
    return None
