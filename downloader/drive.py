"""Google Drive without a browser: through the page that asks whether to go on, to the bytes or a named outcome.

The page is asked for anew each time, so that a Range goes to where the bytes are. No cookies, no way round a quota.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

from downloader.addresses import redacted
from downloader.answers import Fault, Outcome
from downloader.web import Stream, Web

__all__ = ["drive_id", "open_drive", "title_of"]

DAY = 86_400.0
PAGE = 1 << 18  # bytes of a page that are read
_HOSTS = ("drive.google.com", "drive.usercontent.google.com", "docs.google.com")
_ID = re.compile(r"[\w-]{8,}", re.ASCII)
_BY_HAND = "fetch it by hand in a browser and give it to `ninerec import`"
_SIGNS = (
    (
        "drive_quota",
        Outcome.BLOCKED,
        "too many users have viewed or downloaded this|quota exceeded",
    ),
    (
        "drive_private",
        Outcome.CONFIG,
        "you need (access|permission)|sign in - google|drive: sign-in",
    ),
    ("drive_not_found", Outcome.GONE, r"you have requested does not exist|error 404 \(not found\)"),
)
_SAID = {
    "drive_quota": f"Google Drive's quota for this file is used up; run this again in 24 hours, or {_BY_HAND}",
    "drive_private": f"Google Drive gives this file only to accounts that were let in; {_BY_HAND}",
    "drive_not_found": "Google Drive has no file of this id",
}


def drive_id(url: str) -> str | None:
    """The id of the file that a Drive address is of; None for any other address, a folder's included."""
    parts = urlsplit(url)
    if parts.hostname not in _HOSTS:
        return None
    named = re.search(r"/file/(?:u/\d+/)?d/([^/]+)", parts.path)
    found = named[1] if named else parse_qs(parts.query).get("id", [""])[0]
    return found if _ID.fullmatch(found) else None


@contextmanager
def open_drive(web: Web, url: str, headers: Mapping[str, str]) -> Iterator[Stream]:
    """The bytes of a file on Drive, as `Web.open` gives them; headers go with the request for the bytes.

    Raises Fault, besides those of `Web.open`: BLOCKED `drive_quota`, CONFIG `drive_private` and `drive_address`,
    GONE `drive_not_found`, TRANSIENT `drive_page` for a page that is not known.
    """
    file = drive_id(url)
    if file is None:
        raise Fault(Outcome.CONFIG, "drive_address", f"{redacted(url)!r} names no file on Drive")
    asked = f"https://drive.google.com/uc?export=download&id={file}"
    with web.open(asked) as first:
        if _is_page(first):
            asked = _next(first)
        elif first.status >= 400 or not headers:
            yield first
            return
    with web.open(asked, headers) as last:
        if _is_page(last):
            raise _refusal(last, _text(last))
        yield last


def title_of(page: str) -> str:
    """The title of an HTML page, on one line; "" where it has none."""
    found = re.search(r"(?i)<title[^>]*>([^<]{0,200})", page)
    return " ".join(unescape(found[1]).split()) if found else ""


def _is_page(answer: Stream) -> bool:
    html = answer.headers.get("content-type", "").lower().startswith("text/html")
    return html and "attachment" not in answer.headers.get("content-disposition", "").lower()


def _text(answer: Stream) -> str:
    return answer.start(PAGE).decode("utf-8", "replace")


def _next(answer: Stream) -> str:
    """Where the form of the page leads."""
    page = _text(answer)
    form = _Form()
    form.feed(page)
    if form.action is None or answer.status != 200:
        raise _refusal(answer, page)
    action = urljoin(answer.url, form.action)
    parts = urlsplit(action)
    if parts.scheme != "https" or parts.hostname not in _HOSTS:
        raise Fault(Outcome.REJECTED, "drive_form", f"its form leads to {redacted(action)}")
    return f"{action}{'&' if parts.query else '?'}{urlencode(form.fields)}"


def _refusal(answer: Stream, page: str) -> Fault:
    """What a page in place of the bytes says."""
    if urlsplit(answer.url).hostname == "accounts.google.com" or answer.status == 401:
        page = "You need access"
    elif answer.status in (404, 410):
        page = "Error 404 (Not Found)"
    for reason, outcome, sign in _SIGNS:
        if re.search(sign, page, re.IGNORECASE):
            pause = DAY if outcome is Outcome.BLOCKED else None
            return Fault(outcome, reason, _SAID[reason], pause=pause, status=answer.status)
    said = f"Google Drive answered with a page (HTTP {answer.status}) titled {title_of(page)!r}"
    return Fault(Outcome.TRANSIENT, "drive_page", said, status=answer.status)


class _Form(HTMLParser):
    """The form with id `download-form`: its action and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = found.get("id") == "download-form"
            if self._inside:
                self.action = found.get("action", "")
        elif tag == "input" and self._inside and found.get("type") == "hidden" and "name" in found:
            self.fields[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "form"
