"""Plain pictures: an address whose path ends as a picture's, or whose host serves nothing else."""

from __future__ import annotations

from downloader.answers import Cover
from downloader.resolvers import bilibili, pages

name = "image"

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")
HOSTS = (*bilibili.PICTURES, "yximgs.com", "douyinpic.com", "byteimg.com")

read = pages.no_page
small = bilibili.small


def start(url: str) -> Cover | None:
    """The address itself."""
    host, path, _ = pages.place(url)
    is_picture = path.lower().endswith(SUFFIXES) or pages.host_in(host, HOSTS)
    return Cover((url,)) if host and is_picture else None
