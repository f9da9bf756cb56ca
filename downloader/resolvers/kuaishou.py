"""Kuaishou: the Apollo state of a short video's page. Covers are signed and used at once."""

from __future__ import annotations

import re
from typing import Any

from downloader.answers import Ask, Cover, Fault, Outcome, Response
from downloader.resolvers import pages

name = "kuaishou"

SITE = "kuaishou.com"
CHECKS = ("captcha", "滑块", "验证码", "请先登录", "请登录")
_VIDEO = re.compile(r"/short-video/([0-9A-Za-z_-]+)/?\?.*")

small = pages.no_small


def start(url: str) -> Ask | None:
    """The page of a short video."""
    photo = pages.id_of(url, SITE, _VIDEO)
    return Ask(f"https://www.kuaishou.com/short-video/{photo}") if photo else None


def read(url: str, response: Response) -> Cover | Fault:
    """Cover and caption of the photo in the page's state. Beside a check, a photo that is null proves nothing."""
    photo = pages.id_of(url, SITE, _VIDEO)
    if fault := pages.refused(response, SITE, photo):
        return fault
    text = pages.text_of(response)
    state = pages.state_after(text, "window.__APOLLO_STATE__")
    records = state.get("defaultClient") or state
    found = pages.at(records, f"VisionVideoDetailPhoto:{photo}")
    if picture := pages.picture(pages.at(found, "coverUrl")):
        return Cover((picture,), pages.titled(found.get("caption")))
    if fault := pages.walled(text, CHECKS, blocks=not state):
        return fault
    items = records.items() if isinstance(records, dict) else ()
    if any(_says_none(photo, key, record) for key, record in items):
        return Fault(Outcome.GONE, "null_photo")
    return pages.unreadable(response)


def _says_none(photo: str, key: str, record: Any) -> bool:
    """Whether a record of the state is of this photo, or of the question for it, and says that there is none."""
    if "visionVideoDetail(" in key and f'"{photo}"' in key:
        return isinstance(record, dict) and record.get("photo", key) is None
    return key == f"VisionVideoDetailPhoto:{photo}" and record is None
