"""The published mapping of 11 datasets through the local origin: one address in five has a fault, none is miscounted.

A tenth of its rows, and all that share an address; NINEREC_TEST_LONG=1 takes all 11,000.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import pytest
from origins import Hurried, cover, page

from downloader.client import Deadlines
from downloader.download import download
from downloader.options import Options, Report, Tell
from downloader.origin import KNOWN_PLACEHOLDER, Origin, serving
from downloader.origin_pages import draw, recoded
from ninerec_data.blobs import Blobs
from ninerec_data.catalog import find
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.outcomes import AGAIN, Outcome
from ninerec_data.provenance import NAME

NAMES = (
    *("bili_500k", "bili_2m", "bili_food", "bili_dance", "bili_movie", "bili_cartoon"),
    *("bili_music", "ku", "qb", "tn", "dy"),
)
HELD = ("bili_food", "bili_dance", "qb")  # whose item tables are here
GONE = {"bilibili": "code_-404", "kuaishou": "null_photo", "douyin": "empty_answer"}
# How many of a thousand addresses: the fault, or those of each ask, where it falls, what comes of it.
MIX = (
    (80, "gone", "page", "GONE"),
    (10, "404", "page", "GONE http_404"),
    (10, "404", "picture", "GONE http_404"),
    (30, ("503",), "page", "OK"),
    (10, ("503", "500"), "picture", "OK"),
    (10, ("reset",), "picture", "OK"),
    (3, ("429:2",), "page", "OK"),
    (10, "html", "picture", "REJECTED html"),
    (7, "truncated", "picture", "REJECTED truncated"),
    (10, "png_as_jpg", "picture", "OK"),
    (8, "wrong_mime", "picture", "OK"),
    (4, "403", "picture", "REJECTED forbidden"),
    (2, "known_placeholder", "picture", "GONE placeholder"),
    (3, "x_robots", "picture", "OPTED_OUT x_robots_tag"),
    (2, "slow_header", "picture", "TRANSIENT"),
    (1, "500", "page", "TRANSIENT"),
)
LONG = bool(os.environ.get("NINEREC_TEST_LONG"))
DEADLINES = Deadlines(connect=2, first_byte=1, total=3)


@dataclass(frozen=True)
class Place:
    """One address: what the origin makes of it. page: "" for a direct picture."""

    platform: str
    name: str
    page: str
    picture: str
    fault: str | tuple[str, ...] = ""
    falls: str = ""
    outcome: str = "OK"

    @classmethod
    def of(cls, url: str) -> Place:
        platform, name = _named(url)
        keys = (page(platform, name) if platform in GONE else "", cover(platform, name))
        drawn = int(hashlib.sha256(url.encode()).hexdigest()[:8], 16) % 1000
        upto = accumulate(share for share, *_ in MIX)
        found = next((row for row, end in zip(MIX, upto, strict=True) if drawn < end), None)
        if found is None:
            return cls(platform, name, *keys)
        _, fault, where, outcome = found
        if fault == "gone":
            fault = "gone_page" if keys[0] else "404"
            outcome = f"GONE {GONE.get(platform, 'http_404')}"
        falls = keys[1] if where == "picture" or not keys[0] else keys[0]
        return cls(platform, name, *keys, fault, falls, outcome)

    @property
    def drawn(self) -> bytes:
        """The picture that the origin serves for it."""
        own = draw(self.platform, self.name)
        return recoded(own, "png") if self.fault == "png_as_jpg" else own


def _named(url: str) -> tuple[str, str]:
    if "bilibili.com" in url:
        return "bilibili", url.rpartition("/")[2]
    if "kuaishou.com" in url:
        return "kuaishou", url.rpartition("/")[2]
    if "douyin.com" in url:
        return "douyin", url.rpartition("=")[2]
    return "qpic", url.split("/")[-2].removesuffix("_496_280")


@dataclass
class Real:
    """The mapping's rows that are played, the home, and what was asked."""

    folder: Path
    data: Path
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # dataset, item, address
    places: dict[str, Place] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        stems = {str(find(name)[0].options["stem"]).lower(): name for name in NAMES}
        with (self.data / "ninerec" / "ninerec_item_urls.csv").open(newline="") as file:
            every = [(stems[stem.lower()], item, url) for stem, item, url in csv.reader(file)]
        times = Counter(url for _, _, url in every)
        self.shared = {url for url, n in times.items() if n > 1}
        self.rows = [
            row for n, row in enumerate(every) if LONG or n % 10 == 0 or row[2] in self.shared
        ]
        self.places = {url: Place.of(url) for _, _, url in self.rows}
        self.home = Home(self.folder / "home")
        self.mapping, self.backup = self.folder / "mapping.csv", self.folder / "backup"
        with self.mapping.open("w", newline="") as file:
            names = {name: str(find(name)[0].options["stem"]) for name in NAMES}
            csv.writer(file).writerows((names[name], item, url) for name, item, url in self.rows)
        self.faults = {place.falls: place.fault for place in self.places.values() if place.falls}
        self.origin = Origin(faults=self._fault)
        self.in_backup = set(self._write_backup())

    def _fault(self, key: str, before: int) -> str | None:
        said = self.faults.get(key.partition("?")[0], ())
        return said if isinstance(said, str) else said[before] if before < len(said) else None

    def _write_backup(self) -> Iterator[tuple[str, str]]:
        """A folder for each dataset, with every third of its gone items."""
        gone: Counter[str] = Counter()
        for name, item, url in self.rows:
            (self.backup / name).mkdir(parents=True, exist_ok=True)
            if self.places[url].outcome.startswith("GONE"):
                gone[name] += 1
                if gone[name] % 3 == 1:
                    picture = draw("backup", f"{name}/{item}")
                    (self.backup / name / f"{item}.jpg").write_bytes(picture)
                    yield name, item

    def expected(self, name: str, item: str, url: str) -> str:
        return "OK_BACKUP" if (name, item) in self.in_backup else self.places[url].outcome

    def download(self, base: str, clock: Hurried) -> Report:
        entries = [find(name)[0] for name in NAMES]
        options = Options(
            parts=("covers",),
            mirror=base,
            mapping=self.mapping,
            backup=(str(self.backup),),
            placeholders=(hashlib.sha256(KNOWN_PLACEHOLDER).hexdigest(),),
            deadlines=DEADLINES,
            base=0.05,
            clock=clock,
        )
        return download(self.home, entries, options, Tell())

    def found(self, name: str) -> dict[str, dict[str, object]]:
        import pyarrow.parquet as pq

        (path,) = self.home.raw.glob(f"files/*/{name}/{NAME}")
        return {row["item_id"]: row for row in pq.read_table(path).to_pylist()}


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Real:
    """Downloaded twice: with the faults, then without."""
    made = Real(tmp_path_factory.mktemp("real"), shared_data)
    for name in HELD:
        release = shared_data / "ninerec" / "Downstream_datasets"
        import_release(made.home, find(name)[0], release)
    clock = Hurried()
    with serving(made.origin) as base:
        made.report = made.download(base, clock)
        made.first = {name: made.found(name) for name in NAMES}
        made.asked = dict(made.origin.requests)
        made.origin.requests.clear()
        made.faults.clear()
        made.again = made.download(base, clock)
        made.second = {name: made.found(name) for name in NAMES}
        made.asked_again = dict(made.origin.requests)
    return made


def outcome_of(row: dict[str, object]) -> str:
    return f"{row['outcome']} {row['reason'] or ''}".strip()


def test_every_row_of_the_mapping_ends_as_its_address_does(real: Real) -> None:
    wrong = {
        (name, item): (found, real.expected(name, item, url))
        for name, item, url in real.rows
        if not (found := outcome_of(real.first[name][item])).startswith(
            real.expected(name, item, url)
        )
    }
    assert wrong == {}
    assert len({(name, item) for name, item, _ in real.rows}) == len(real.rows)
    assert len(real.rows) == (11_000 if LONG else 1100 + 2 * 6 - _shared_in_tenth(real))
    assert real.report.exit_code == 4


def _shared_in_tenth(real: Real) -> int:
    """Rows that share an address and are of the tenth anyway."""
    with (real.data / "ninerec" / "ninerec_item_urls.csv").open(newline="") as file:
        urls = [row[2] for row in csv.reader(file)]
    return sum(url in real.shared for url in urls[::10])


def test_no_picture_held_is_anothers(real: Real) -> None:
    blobs = Blobs(real.home)
    drawn = {url: hashlib.sha256(place.drawn).hexdigest() for url, place in real.places.items()}
    held = 0
    for name, item, url in real.rows:
        row = real.first[name][item]
        if row["outcome"] == "OK":
            assert row["sha256"] == drawn[url]
            held += 1
        elif row["outcome"] == "OK_BACKUP":
            own = draw("backup", f"{name}/{item}")
            assert row["sha256"] == hashlib.sha256(own).hexdigest()
            held += 1
        else:
            assert row["sha256"] is None
    kept = {row["sha256"]: row["size"] for rows in real.first.values() for row in rows.values()}
    kept.pop(None)
    assert all(blobs.whole(str(sha256), int(str(size))) for sha256, size in kept.items())
    assert 0.85 * len(real.rows) < held < len(real.rows)


def test_counts_add_up_and_the_provenance_says_the_same(real: Real) -> None:
    mapped = 0
    for name in NAMES:
        counts = real.report.counts[name]["covers"]
        assert counts == dict(Counter(str(row["outcome"]) for row in real.first[name].values()))
        ids = {item for of, item, _ in real.rows if of == name}
        table = ids_of(real.data, name)
        assert counts.get("UNMAPPED", 0) == len(table - ids)
        assert {i for i, row in real.first[name].items() if row["outcome"] == "UNMAPPED"} == (
            table - ids
        )
        assert sum(counts.values()) == len(table | ids)
        mapped += sum(counts.values()) - counts.get("UNMAPPED", 0)
    assert mapped == len(real.rows)


def ids_of(data: Path, name: str) -> set[str]:
    """The item ids of a dataset's table, read on their own."""
    if name not in HELD:
        return set()
    stem = str(find(name)[0].options["stem"])
    (path,) = (data / "ninerec" / "Downstream_datasets").glob(f"{stem}/{stem}_item.csv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[0].strip() for row in csv.reader(file) if row}


def test_what_several_items_share_is_asked_once(real: Real) -> None:
    assert len(real.shared) == 6
    whole = [place for url in real.shared if not (place := real.places[url]).fault]
    assert whole
    assert {real.asked[place.page] for place in whole} == {1}
    assert {real.asked[place.picture] for place in whole} == {1}
    for url in real.shared:
        rows = [real.first[name][item] for name, item, own in real.rows if own == url]
        assert len({row["sha256"] for row in rows if row["outcome"] == "OK"}) <= 1
        assert len(rows) == 2


def test_direct_pictures_are_asked_without_a_page(real: Real) -> None:
    for name in ("qb", "tn"):
        rows = [row for row in real.first[name].values() if row["outcome"] == "OK"]
        assert {row["source"] for row in rows} == {"puui.qpic.cn"}
        assert {(row["hops"], row["title"]) for row in rows} == {(0, None)}
    pages = {key.partition("/")[0] for key in real.asked}
    assert "www.bilibili.com" in pages
    assert not [host for host in pages if "github" in host or "google" in host]


def test_the_second_run_asks_for_what_was_left_and_nothing_else(real: Real) -> None:
    left = {url for name, item, url in real.rows if real.first[name][item]["outcome"] in AGAIN}
    assert left == {url for url in real.places if real.places[url].outcome == "TRANSIENT"}
    own = {key for url in left for key in (real.places[url].page, real.places[url].picture)}
    asked = {key.partition("?")[0] for key in real.asked_again}
    assert {key for key in asked if not key.endswith("/robots.txt")} == own - {""}
    assert real.again.exit_code == 0
    for name, item, url in real.rows:
        before, after = real.first[name][item], real.second[name][item]
        assert after["outcome"] == (Outcome.OK if url in left else before["outcome"])


def test_titles_of_pages_stand_beside_what_the_release_lacks(real: Real) -> None:
    for name, item, url in real.rows:
        row, place = real.first[name][item], real.places[url]
        if row["outcome"] == "OK" and place.page:
            assert row["title"] == f"Title of {place.name} 标题"
