"""Douyin: the record of a video in its page's RENDER_DATA, or in an answer with `aweme_detail`.

An empty record is what both a deleted video and a refused client get. It is given as GONE with the reason
`empty_answer`, to be believed only once a control item known to be alive has answered from the same host.
Covers are signed (`x-expires`) and used at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from downloader.answers import Ask, Cover, Fault, Outcome, Response
from downloader.resolvers import pages

name = "douyin"

SITE = "douyin.com"
CHECKS = ("captcha", "验证码", "verifycenter", "byted_acrawler", "__ac_nonce", "滑块")
RECORDS = ("aweme_detail", "awemeDetail", "videoDetail")
COVERS = ("cover", "coverUrlList", "origin_cover", "originCover", "originCoverUrlList")
MAX_URLS = 4
_VIDEO = re.compile(r"/video/([0-9]+)/?\?.*|[^?]*\?(?:.*&)?modal_id=([0-9]+)(?:&.*)?")
_DATA = re.compile(r"""<script[^<>]{0,200}\bid=["']?RENDER_DATA\b[^<>]{0,200}>([^<]*)""")

small = pages.no_small


def start(url: str) -> Ask | None:
    """The page of a video, also for an address that opens it over another page (`?modal_id=`)."""
    video = pages.id_of(url, SITE, _VIDEO)
    return Ask(f"https://www.douyin.com/video/{video}") if video else None


def read(url: str, response: Response) -> Cover | Fault:
    """Cover and description of the video's record."""
    video = pages.id_of(url, SITE, _VIDEO)
    if fault := pages.refused(response, SITE, video):
        return fault
    text = pages.text_of(response)
    held = _DATA.search(text)
    records = list(_records(pages.parsed(unquote(held[1]) if held else text)))
    for record in records:
        number = pages.at(record, "aweme_id") or pages.at(record, "awemeId") or video
        urls = _urls(pages.at(record, "video"))
        if urls and str(number) == video:
            return Cover(urls, pages.titled(record.get("desc")))
    if records and not any(records):
        return Fault(Outcome.GONE, "empty_answer", "of a deleted video, or of a refused client")
    return pages.walled(text, CHECKS) or pages.unreadable(response)


def _records(data: Any) -> Iterator[Any]:
    """Every value under a key of a video's record, wherever it lies: a video's record, null or {}."""
    held = [data]
    while held:
        value = held.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in RECORDS if key in value)
            if isinstance(aweme := value.get("aweme"), dict) and "detail" in aweme:
                yield aweme["detail"]
            held.extend(value.values())
        elif isinstance(value, list):
            held.extend(value)


def _urls(video: Any) -> tuple[str, ...]:
    """The addresses of the first cover that has any."""
    for key in COVERS:
        given = pages.at(video, key)
        given = pages.at(given, "url_list") or pages.at(given, "urlList") or given
        listed = given if isinstance(given, list) else [given]
        found = dict.fromkeys(filter(None, map(pages.picture, listed)))
        if found:
            return tuple(found)[:MAX_URLS]
    return ()
