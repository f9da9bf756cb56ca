"""Bilibili: the state of a video's page, else its metas, else the public view answer.

A check (`_riskdata_`, `v_voucher`, -352, -412) is a stop signal for the host. Codes of an answer often come with
status 200.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import urlsplit

from downloader.answers import Ask, Cover, Fault, Outcome, Response
from downloader.resolvers import pages

name = "bilibili"

SITE = "bilibili.com"
API = "api.bilibili.com"
PICTURES = ("hdslb.com", "biliimg.com")
REFERER = {"Referer": "https://www.bilibili.com/"}  # where the picture stands; others are refused
RISK = ("window._riskdata_", "v_voucher")
CHECKS = ("captcha", "验证码")
STOPS = (-401, -352, -412)
# None of that id, not to be seen, in review, seen by its owner only; the stops, for some accounts; no such form of id.
SAID = {
    **dict.fromkeys((-404, 62002, 62004, 62012), Outcome.GONE),
    **dict.fromkeys((*STOPS, -403), Outcome.BLOCKED),
    -400: Outcome.REJECTED,
}
_VIDEO = re.compile(r"/video/(BV[0-9A-Za-z]+)/?\?.*")  # the id is case-sensitive
_ENDING = re.compile(r"_哔哩哔哩[^_]{0,40}_?bilibili$")


def start(url: str) -> Ask | None:
    """The page of a video on www."""
    bv = pages.id_of(url, SITE, _VIDEO)
    return Ask(f"https://www.bilibili.com/video/{bv}/") if bv else None


def read(url: str, response: Response) -> Cover | Ask | Fault:
    """Cover and title of a video's page or view answer; a page that says nothing asks for the view answer."""
    bv = pages.id_of(url, SITE, _VIDEO)
    if fault := pages.refused(response, SITE):
        return fault
    text = pages.text_of(response)
    if pages.place(response.url)[0] == API:
        return _view(bv, text) or pages.walled(text, CHECKS) or pages.unreadable(response)
    view = Ask(f"https://{API}/x/web-interface/view?bvid={bv}", REFERER)
    return _page(bv, text, response.url) or view


def small(url: str, size: int) -> str | None:
    """A variant that the picture host scales: `size` pixels high, and wide enough for 16:9."""
    host, path, _ = pages.place(url)
    if not pages.host_in(host, PICTURES) or not path.startswith("/bfs/") or "@" in path:
        return None
    return urlsplit(url)._replace(path=f"{path}@{math.ceil(size * 16 / 9)}w_{size}h").geturl()


def _page(bv: str, text: str, url: str) -> Cover | Fault | None:
    state = pages.state_after(text, "window.__INITIAL_STATE__")
    code = pages.at(state, "error", "trueCode") or pages.at(state, "error", "code")
    found = _said(code) or _cover(bv, state.get("videoData")) or pages.walled(text, RISK)
    if found or state:
        return found
    return _of_metas(bv, text, url) or pages.walled(text, CHECKS)


def _view(bv: str, text: str) -> Cover | Fault | None:
    answer = pages.parsed(text)
    code, data = pages.at(answer, "code"), pages.at(answer, "data")
    if pages.at(data, "v_voucher"):
        return pages.walled(text, RISK)
    if not isinstance(code, int) or abs(code) > 10**6:
        return None
    if code == 0:
        return _cover(bv, data)
    return _said(code) or Fault(Outcome.TRANSIENT, f"code_{code}")


def _said(code: Any) -> Fault | None:
    """The fault that a code of the site names; None for one that says nothing certain."""
    outcome = SAID.get(code) if isinstance(code, int) else None
    reason = "bad_id" if code == -400 else f"code_{code}"
    return Fault(outcome, reason, blocks=code in STOPS) if outcome else None


def _cover(bv: str, data: Any) -> Cover | None:
    """The cover in a video's record; None in another video's."""
    picture = _original(pages.at(data, "pic"))
    if picture is None or pages.at(data, "bvid") not in (None, bv):
        return None
    return Cover((picture,), pages.titled(data.get("title")), REFERER)


def _of_metas(bv: str, text: str, url: str) -> Cover | None:
    metas = pages.metas(text)
    picture = _original(metas.get("og:image") or metas.get("image")) or ""
    if bv not in metas.get("og:url", url) or "/bfs/archive/" not in picture:
        return None  # of another video; or the site's own, which lies in another folder
    title = metas.get("og:title") or metas.get("name") or ""
    return Cover((picture,), pages.titled(_ENDING.sub("", title.strip())), REFERER)


def _original(address: Any) -> str | None:
    """A picture's address without the suffix that asks for a variant."""
    url = pages.picture(address)
    if url is None or "@" not in pages.place(url)[1]:
        return url
    parts = urlsplit(url)
    return parts._replace(path=parts.path.partition("@")[0]).geturl()
