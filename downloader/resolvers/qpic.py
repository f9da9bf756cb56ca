"""Tencent's picture host (QB, TN): the mapping names the picture itself, without a suffix. https is tried first."""

from __future__ import annotations

from downloader.answers import Cover
from downloader.resolvers import pages

name = "qpic"

read = pages.no_page
small = pages.no_small


def start(url: str) -> Cover | None:
    """The picture over https, then over http where the mapping has that."""
    if not pages.host_in(pages.place(url)[0], ["qpic.cn"]):
        return None
    scheme, _, rest = url.partition(":")
    return Cover((f"https:{rest}", url) if scheme.lower() == "http" else (url,))
