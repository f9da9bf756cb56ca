"""What the resolvers share in reading a page: where it was found, what its scripts and metas hold, titles, walls.

Pages are hostile: nothing here raises for any bytes, and what is parsed is bounded.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from html.parser import HTMLParser
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from downloader.addresses import clean, redacted
from downloader.answers import Fault, Outcome, Response

MAX_PAGE = 4 << 20  # bytes read of a page
MAX_HEAD = 1 << 17  # characters read for metas: an unclosed tag makes html.parser slow
MAX_STATES = 4  # places of one marker that are tried
MAX_ADDRESS = 4000  # characters
MAX_TITLE = 2000  # characters

_HOST = re.compile(r"[a-z0-9._:-]+")
_LOGIN = re.compile(r"(?i)(?:^|[./-])(?:login|signin|passport|sso)(?:[./-]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@lru_cache(1024)
def place(url: str) -> tuple[str, str, str]:
    """Host (lower case), path and query of an address; three times "" for what is none."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").removesuffix(".")
    except ValueError:
        return "", "", ""
    return (host, parts.path, parts.query) if _HOST.fullmatch(host) else ("", "", "")


def id_of(url: str, site: str, form: re.Pattern[str]) -> str:
    """The id in an address of `site`, whose `PATH?QUERY` has this form; "" in any other."""
    host, path, query = place(url)
    found = form.fullmatch(f"{path}?{query}") if host_in(host, [site]) else None
    return found[found.lastindex or 0] if found else ""


def host_in(host: str, hosts: Iterable[str]) -> bool:
    """Whether a host is one of these, or lies under one."""
    return any(host == known or host.endswith(f".{known}") for known in hosts)


def refused(response: Response, site: str, part: str = "") -> Fault | None:
    """The fault of a page that is not the one asked for: by its status, or by where a redirect led; None: read it.

    site: the host that pages stand on or under. part: what the path must hold.
    """
    status = response.status
    if status in (404, 410):
        return Fault(Outcome.GONE, f"http_{status}", status=status)
    if status == 412:
        return Fault(Outcome.BLOCKED, "http_412", blocks=True, status=status)
    if not 200 <= status < 300:
        return Fault(Outcome.TRANSIENT, f"http_{status}", status=status)
    host, path, _ = place(response.url)
    strayed = not host_in(host, [site]) or path in ("", "/") or part not in path
    if strayed or leads_to_login(response.url):
        return Fault(Outcome.BLOCKED, "login", f"led to {redacted(response.url)}")
    return None


def leads_to_login(url: str) -> bool:
    """Whether an address is that of a page to log in on."""
    return any(map(_LOGIN.search, place(url)[:2]))


def walled(text: str, words: Iterable[str], *, blocks: bool = True) -> Fault | None:
    """The fault of a page that holds one of these words of a captcha or check; None where it holds none."""
    text = text.lower()
    for word in words:
        if word in text:
            return Fault(Outcome.BLOCKED, "captcha", f"the page holds {word!r}", blocks=blocks)
    return None


def unreadable(response: Response) -> Fault:
    """The fault of a page that says nothing we understand: never GONE."""
    seen = f"{len(response.body)} bytes of {response.kind or 'no type'}"
    return Fault(Outcome.TRANSIENT, "unreadable_page", seen, status=response.status)


def no_page(_: str, response: Response) -> Fault:
    """`read` of a platform that has no pages."""
    return unreadable(response)


def no_small(_: str, size: int) -> str | None:
    """`small` of a platform that has no smaller variants."""


def text_of(response: Response) -> str:
    """The text of a page, at most MAX_PAGE bytes of it, taken as UTF-8."""
    return response.body[:MAX_PAGE].decode("utf-8-sig", "replace")


def parsed(text: str, start: int = 0) -> Any:
    """The JSON value that begins at `start`, whatever follows it; None where there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return None


def state_after(text: str, marker: str) -> dict[str, Any]:
    """The first JSON object that a script assigns to `marker`; empty where there is none."""
    for found in islice(re.finditer(rf"{re.escape(marker)}\s*=\s*", text), MAX_STATES):
        value = parsed(text, found.end())
        if isinstance(value, dict) and value:
            return value
    return {}


def at(value: Any, *keys: str) -> Any:
    """What lies under these keys, one in the other; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class _Metas(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        key = given.get("property") or given.get("itemprop") or given.get("name")
        if tag == "meta" and key and given.get("content"):
            self.found.setdefault(key.lower(), given["content"] or "")


def metas(text: str) -> dict[str, str]:
    """Content of the metas in the first MAX_HEAD characters, entities resolved, by property, itemprop or name."""
    parser = _Metas()
    # What html.parser raises for a declaration that it does not know, and for &#999...; of 5,000 digits.
    with contextlib.suppress(AssertionError, ValueError):
        parser.feed(text[:MAX_HEAD])
    return parser.found


def titled(text: Any) -> str | None:
    """A title on one line: control characters are blanks, at most MAX_TITLE characters; None where nothing is left."""
    if not isinstance(text, str):
        return None
    whole = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
    return _CONTROL.sub(" ", whole).strip()[:MAX_TITLE].rstrip() or None


def picture(address: Any) -> str | None:
    """The address of a picture as a page gives it, absolute and https; None where it is no address."""
    if not isinstance(address, str) or not 0 < len(address) <= MAX_ADDRESS:
        return None
    try:
        url = clean(address)
    except Fault:
        return None
    return f"https:{url.partition(':')[2]}"
