"""The plan of a download: what it counts, what it estimates, and that it leaves no trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from origins import NAME, World, at, page

from downloader.options import Options
from downloader.plan import ANSWER, PICTURE, Plan, can_fetch, hands, plan, waiting
from downloader.politeness import PAGES
from downloader.universe import read_from
from ninerec_data.catalog import catalog, find
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home
from ninerec_data.item_journal import item_journal
from ninerec_data.item_rows import Address
from ninerec_data.outcomes import Outcome

ITEMS = {
    "v1": at("bilibili", "BV1aa"),
    "v2": at("bilibili", "BV1bb"),
    "v3": at("bilibili", "BV1bb"),
    "v4": at("plain", "a"),
    "v5": at("plain", "b"),
    "v6": "https://nobody.example/watch?v=1",
    "v7": "ftp://nobody.example/x.jpg",
}
SITES = ("www.bilibili.com", "pictures.example")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with World(tmp_path, monkeypatch, ITEMS) as made:
        yield made


def planned(world: World, **more: Any) -> Plan:
    """The plan of a download from the sites themselves; nobody is asked for it."""
    return plan(world.home, world.entries, replace(world.options(mirror=""), **more))


def traces(folder: Path) -> dict[str, str]:
    """Every file of a folder, locks and journals too, by its sha256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_first_plan_counts_items_and_hosts_and_leaves_no_trace(world: World) -> None:
    made = planned(world)
    assert made.covers == {NAME: {"held": 0, "to_ask": 6, "unmapped": 0, "settled": 1}}
    asked = {host.host: (host.addresses, host.requests, host.bytes) for host in made.hosts}
    assert asked == {
        SITES[0]: (2, 4, 2 * PICTURE),  # one address of two items; a page, then its picture
        SITES[1]: (2, 2, 2 * PICTURE),
    }
    assert (made.files, made.by_hand) == ({}, [])
    assert not world.home.root.exists()
    assert not world.origin.requests


def test_hosts_are_asked_as_politely_as_in_the_run(world: World) -> None:
    pages, pictures = planned(world).hosts  # the longest first
    assert (pages.host, pictures.host) == SITES
    assert (pages.rate, pages.most_rate, pages.concurrency, pages.most) == (0.5, 2.0, 1, 2)
    assert (pictures.rate, pictures.most_rate) == (None, None)
    assert (pictures.concurrency, pictures.most) == (4, 16)
    assert pages.seconds == pytest.approx(1 / 0.5 + 1 / 0.51)
    assert pictures.seconds == pytest.approx(2 * ANSWER / 16)


def test_rate_rises_to_its_most_and_what_is_fixed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {f"v{n}": at("bilibili", f"BV{n}") for n in range(1000)}
    world = World(tmp_path, monkeypatch, items)
    world.base = ""  # not served: a plan asks nobody
    (pages,) = planned(world).hosts
    assert PAGES.most_rate
    assert 1000 / PAGES.most_rate < pages.seconds < 1000 / PAGES.most_rate + 150
    (pages,) = planned(world, rate={"bilibili.com": 4.0}, concurrency={SITES[0]: 3}).hosts
    assert (pages.rate, pages.concurrency, pages.most) == (4.0, 3, 3)
    assert pages.seconds == pytest.approx(1000 / 4)


def test_mirror_lifts_the_limits_and_offline_asks_no_host(world: World) -> None:
    pages = next(h for h in planned(world, mirror=world.base).hosts if h.host == SITES[0])
    assert (pages.rate, pages.most) == (None, 64)
    assert planned(world, offline=True).hosts == []
    assert planned(world, parts=("titles",)).covers == {}


def test_plan_follows_from_what_is_held_and_changes_nothing(world: World) -> None:
    world.faults[page("bilibili", "BV1aa")] = "404"
    world.faults["pictures.example"] = "captcha"
    world.download()
    asked = sum(world.origin.requests.values())
    before = traces(world.home.root)
    assert planned(world).covers[NAME] == {"held": 2, "to_ask": 2, "unmapped": 0, "settled": 3}
    again = planned(world, retry=(Outcome.GONE,))
    assert again.covers[NAME] == {"held": 2, "to_ask": 1, "unmapped": 0, "settled": 4}
    (host,) = again.hosts
    assert (host.host, host.bytes) == (SITES[0], len(world.bytes_of("v2")))  # as those held
    planned(world, keep="resized", retry=())
    assert traces(world.home.root) == before
    assert sum(world.origin.requests.values()) == asked


def test_host_that_refused_is_named_where_it_did(world: World) -> None:
    world.faults["pictures.example"] = "captcha"
    world.download()
    mirrored = world.options()
    assert list(waiting(world.home, mirrored)) == ["pictures.example"]
    assert waiting(world.home, mirrored)["pictures.example"].startswith("blocked until ")
    why = {host.host: host.why for host in planned(world, mirror=world.base).hosts}
    assert why["pictures.example"].startswith("blocked until ")
    assert waiting(world.home, replace(mirrored, mirror="")) == {}  # it was the mirror's doing
    assert {host.why for host in planned(world).hosts} == {""}


def test_damaged_journal_is_one_message(world: World) -> None:
    world.home.raw.mkdir(parents=True)
    (world.home.raw / "journal.sqlite").write_bytes(b"no database, but long enough for one" * 99)
    with pytest.raises(CheckFailed, match=r"cannot use the journal"):
        planned(world)


def test_mapping_that_cannot_be_used_is_one_message(world: World) -> None:
    world.mapping.write_text("beta,v1,https://pictures.example/a.jpg\n")
    with pytest.raises(CheckFailed, match=r"maps no item of alpha"):
        planned(world)


def test_items_without_an_address_are_unmapped(world: World) -> None:
    known = read_from(world.home, world.entries[0], [world.mapping])
    with item_journal(world.home, many=True) as items:
        items.enter(NAME, [Address(item_id="v8"), Address(item_id="v9")], "")
        items.mark(NAME, is_open=False, keep="original", variant="", recipe="{}", read_from=known)
    assert planned(world).covers[NAME] == {"held": 0, "to_ask": 0, "unmapped": 2, "settled": 0}


@pytest.mark.parametrize(
    ("name", "files", "by_hand"),
    [
        ("bili_food", ["Downstream_datasets.tar.gz"], 0),
        ("mind_small", ["MINDsmall_train.zip", "MINDsmall_dev.zip"], 0),
        ("hm", [], 1),
        ("adressa_20k", ["Adressa_news_base.tsv"], 1),
    ],
)
def test_files_of_a_release(tmp_path: Path, name: str, files: list[str], by_hand: int) -> None:
    made = plan(Home(tmp_path / "home"), [find(name)[0]], Options())
    assert list(made.files) == files
    assert all(file["datasets"] == [name] for file in made.files.values())
    assert [said.count(f"ninerec import {name} PATH") for said in made.by_hand] == [1] * by_hand
    assert not (tmp_path / "home").exists()


def test_covers_alone_need_the_smallest_mapping_alone(tmp_path: Path) -> None:
    entries = [find(name)[0] for name in ("qb", "bili_food")]
    made = plan(Home(tmp_path), entries, Options(parts=("covers",)))
    assert {name: file["datasets"] for name, file in made.files.items()} == {
        "ninerec_item_urls.csv": ["qb", "bili_food"]
    }
    assert [sum(counts.values()) for counts in made.covers.values()] == [0, 0]


def test_what_can_be_fetched_is_what_is_public(tmp_path: Path) -> None:
    home, every = Home(tmp_path), catalog().values()
    able = {entry.name for entry in every if can_fetch(home, entry, Options())}
    assert able == {entry.name for entry in every if entry.access == "public"}
    for entry in every:
        assert (entry.name in able) or all(
            "ninerec import" in s for s in hands(home, entry, Options())
        )
    pictured = Options(parts=("covers",))
    assert not can_fetch(home, find("mind_small")[0], pictured)
    assert not can_fetch(home, find("hm")[0], pictured)
    assert can_fetch(home, find("qb")[0], pictured)
    assert can_fetch(home, find("pixelrec")[0], pictured)
