"""Releases whose covers lie at a local origin, and `download` with deadlines of tenths of a second.

with World(tmp_path, monkeypatch, {"v1": at("qpic", "a"), "v2": at("bilibili", "BV1xx")}) as world:
    world.faults[page("bilibili", "BV1xx")] = "404"
    report = world.download()
    assert world.outcomes() == {"v1": "OK", "v2": "GONE http_404"}
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from downloader.client import Deadlines
from downloader.download import download
from downloader.options import Options, Report, Tell
from downloader.origin import Origin, serving
from downloader.origin_pages import draw
from downloader.politeness import Clock
from ninerec_data.blobs import Blobs
from ninerec_data.catalog import Entry, find
from ninerec_data.home import Home

NAME = "alpha"
CATALOG = """\
title = "{name}, whose covers are at the local origin"
format = "ninerec"
options = {{ stem = "{name}" }}
text = {{ zh = ["title_zh"], en = ["title_en"] }}
modalities = ["text", "image"]
terms = {{ text = "Drawn for tests.", url = "https://terms.example/" }}
"""
ADDRESSES = {
    "bilibili": "https://m.bilibili.com/video/{}",
    "kuaishou": "https://www.kuaishou.com/short-video/{}",
    "douyin": "https://www.douyin.com/discover?modal_id={}",
    "qpic": "http://puui.qpic.cn/qqvideo_ori/0/{}_496_280/0",
    "plain": "https://pictures.example/{}.jpg",
}
PAGES = {
    "bilibili": "www.bilibili.com/video/{}/",
    "kuaishou": "www.kuaishou.com/short-video/{}",
    "douyin": "www.douyin.com/video/{}",
}
QUICK = Deadlines(connect=0.5, first_byte=0.4, total=0.8, slowest=1024, window=0.2, most=1 << 20)
_SITES = Origin().sites


def at(platform: str, name: str) -> str:
    """The address in a mapping."""
    return ADDRESSES[platform].format(name)


def page(platform: str, name: str) -> str:
    """HOST/PATH of a video's page, as faults and requests name it."""
    return PAGES[platform].format(name)


def view(name: str) -> str:
    """HOST/PATH?QUERY of bilibili's view answer."""
    return f"api.bilibili.com/x/web-interface/view?bvid={name}"


def cover(platform: str, name: str) -> str:
    """HOST/PATH of a picture, without the query that may sign it."""
    url = at(platform, name) if platform not in PAGES else _SITES.cover_url(platform, name)
    return url.partition("://")[2].partition("?")[0]


class Hurried(Clock):
    """Time goes on as it does, but whoever sleeps for a time wakes at once, that much later."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        if seconds == math.inf:  # until it is cancelled
            await asyncio.Event().wait()
        self.ahead += max(0.0, seconds)
        await super().sleep(0)


class World:
    """A home, datasets with a catalog and a mapping of their own, and the origin that plays every site.

    faults: HOST/PATH?QUERY, HOST/PATH, HOST or "*" to a fault of origin.py, or to several, one for each ask.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, items: Mapping[str, Any], **origin: Any
    ) -> None:
        """items: id -> address, or dataset -> those. origin: arguments of `Origin` but `faults`."""
        self.home, self.mapping = Home(folder / "home"), folder / "mapping.csv"
        self.catalog, self._open = folder / "catalog", ExitStack()
        self.catalog.mkdir(parents=True)
        monkeypatch.setenv("NINEREC_CATALOG", str(self.catalog))
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        self.faults: dict[str, str | Sequence[str]] = {}
        self.map(items)
        plain = {cover("plain", name): draw("plain", name) for name in self._plain()}
        self.origin = Origin(files=plain | origin.pop("files", {}), faults=self._fault, **origin)

    def map(self, items: Mapping[str, Any]) -> None:
        """Write the mapping, and a catalog entry for each dataset."""
        nested = items if isinstance(next(iter(items.values())), Mapping) else {NAME: items}
        for name in nested:
            (self.catalog / f"{name}.toml").write_text(CATALOG.format(name=name))
        self.urls = {name: dict(held) for name, held in nested.items()}
        rows = [f"{name},{i},{url}\n" for name, held in nested.items() for i, url in held.items()]
        self.mapping.write_text("".join(rows), encoding="utf-8")

    @property
    def entries(self) -> list[Entry]:
        return [find(name)[0] for name in self.urls]

    def __enter__(self) -> Self:
        self.base = self._open.enter_context(serving(self.origin))
        return self

    def __exit__(self, *error: object) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Close the origin at once, whoever waits; entered again it listens on another port."""
        self._open.close()

    def options(self, **more: Any) -> Options:
        """Options of a download through the mirror: quick, and anything in `more`."""
        given = {"parts": ("covers",), "mirror": self.base, "mapping": self.mapping}
        return Options(**{**given, "deadlines": QUICK, "base": 0.01, "clock": Hurried()} | more)

    def download(self, tell: Tell | None = None, **more: Any) -> Report:
        return download(self.home, self.entries, self.options(**more), tell)

    def rows(self, name: str = NAME) -> dict[str, dict[str, Any]]:
        """Item -> its row of the provenance."""
        (path,) = self.home.raw.glob(f"files/*/{name}/covers.provenance.parquet")
        return {row["item_id"]: row for row in pq.read_table(path).to_pylist()}

    def outcomes(self, name: str = NAME) -> dict[str, str]:
        """Item -> outcome and reason, in one string."""
        rows = self.rows(name).items()
        return {i: f"{row['outcome']} {row['reason'] or ''}".strip() for i, row in rows}

    def bytes_of(self, item_id: str, name: str = NAME) -> bytes:
        """The picture that an item holds, checked against its sha256."""
        return Blobs(self.home).read(self.rows(name)[item_id]["sha256"])

    def asked(self, start: str) -> int:
        """Requests for keys that start so, robots.txt left out."""
        counts = self.origin.requests.items()
        return sum(n for k, n in counts if k.startswith(start) and not k.endswith("/robots.txt"))

    def _fault(self, key: str, before: int) -> str | None:
        places = (key, key.partition("?")[0], key.partition("/")[0], "*")
        said = next((self.faults[place] for place in places if place in self.faults), ())
        return said if isinstance(said, str) else said[before] if before < len(said) else None

    def _plain(self) -> list[str]:
        urls = (urlsplit(url) for held in self.urls.values() for url in held.values())
        return [u.path[1:-4] for u in urls if u.hostname == "pictures.example"]
