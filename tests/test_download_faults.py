"""Covers from hosts that fail: each fault ends in its own outcome, in time, and hurts no other item."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from origins import NAME, PAGES, Hurried, World, at, cover, page, view

from downloader import arrived, covers
from downloader.arrived import SLOT
from downloader.client import Deadlines
from downloader.options import Tell
from downloader.origin import KNOWN_PLACEHOLDER
from downloader.origin_pages import draw, recoded
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.files import lock
from ninerec_data.outcomes import Outcome

PLACEHOLDER = hashlib.sha256(KNOWN_PLACEHOLDER).hexdigest()
HEALTHY = 10

# What a fault of the picture means, wherever the picture is.
PICTURE = {
    "404": "GONE http_404",
    "410": "GONE http_410",
    "451": "GONE legal",
    "401": "CONFIG http_401",
    "407": "CONFIG http_407",
    "403": "REJECTED forbidden",
    "409azure": "REJECTED http_409",
    "408": "TRANSIENT http_408",
    "500": "TRANSIENT http_500",
    "503": "TRANSIENT http_503",
    "522": "TRANSIENT http_522",
    "html": "REJECTED html",
    "html:image/jpeg": "REJECTED html",
    "json": "REJECTED json",
    "known_placeholder": "GONE placeholder",
    "redirect:https://i0.hdslb.com/bfs/archive/be27fd62c99036dce67efface486fb0a88ffed06.jpg": "GONE placeholder",
    "empty": "REJECTED empty",
    "pixel": "REJECTED tiny",
    "wrong_mime": "OK",
    "wrong_mime:application/octet-stream": "OK",
    "png_as_jpg": "OK",
    "webp_as_jpg": "OK",
    "truncated": "REJECTED truncated",
    "short": "TRANSIENT cut_short",
    "short:1": "TRANSIENT cut_short",
    "chunked_cut": "TRANSIENT cut_short",
    "reset": "TRANSIENT cut_short",
    "slow_header": "TRANSIENT timeout",
    "slow_body": "TRANSIENT too_slow | TRANSIENT timeout",
    "big:3000000": "REJECTED too_large",
    "no_length": "OK",
    "gzip": "OK",
    "bomb_gzip": "REJECTED too_large",
    "pixel_bomb": "REJECTED too_large",
    "redirects:5": "OK",
    "redirects:6": "REJECTED redirect_loop",
    "redirect_loop": "REJECTED redirect_loop",
    "redirect_private": "REJECTED private_address",
    "redirect:https://[::ffff:127.0.0.1]/a.jpg": "REJECTED private_address",
    "redirect:https://169.254.169.254/latest": "REJECTED private_address",
    "redirect:https://pictures.example:8080/a.jpg": "REJECTED port",
    "redirect:ftp://pictures.example/a.jpg": "REJECTED scheme",
    "redirect:file:///etc/passwd": "REJECTED scheme",
    "downgrade": "REJECTED downgrade",
    "cookie": "OK",
    "x_robots": "OPTED_OUT x_robots_tag",
}
# What it means of a page that names the picture.
SAME = (
    *("404", "410", "451", "401", "407", "403", "408", "500", "503", "short", "chunked_cut"),
    *("slow_header", "slow_body", "big:3000000", "bomb_gzip", "no_length", "gzip", "redirects:5"),
    *("reset", "redirect_loop", "redirect_private", "downgrade", "cookie", "x_robots"),
)
PAGE = {
    **{fault: PICTURE[fault] for fault in SAME},
    "wrong_mime": "OK",
    "login": "BLOCKED login",
    "redirect:https://elsewhere.test/": "BLOCKED login",
}
SAYS_NOTHING = ("html", "json", "empty", "pixel", "truncated")
UNREADABLE = dict.fromkeys(SAYS_NOTHING, "TRANSIENT unreadable_page")
STAGES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "plain": {"picture": PICTURE},
    "qpic": {
        "picture": {k: v for k, v in PICTURE.items() if k != "downgrade"}
        | {"gone_page": "GONE http_404"}
    },
    "kuaishou": {
        "picture": PICTURE | {"gone_page": "GONE http_404"},
        "page": {**PAGE, **UNREADABLE, "gone_page": "GONE null_photo"},
    },
    "douyin": {
        "picture": PICTURE | {"gone_page": "GONE http_404"},
        "page": {
            **PAGE,
            **UNREADABLE,
            "gone_page": "GONE empty_answer",
            "expired": "REJECTED forbidden",
        },
    },
    "bilibili": {
        "picture": PICTURE | {"gone_page": "GONE http_404"},
        # Where the page says nothing, the view answer is asked.
        "page": {**PAGE, **dict.fromkeys(SAYS_NOTHING, "OK"), "gone_page": "GONE code_-404"},
        "view": {**PAGE, **UNREADABLE, "gone_page": "GONE code_-404"},
    },
}


def named(platform: str, n: int) -> str:
    return f"7{n:05}" if platform == "douyin" else f"BVx{n}"


def keys_of(platform: str, stage: str, name: str, fault: str) -> dict[str, str]:
    """Where a fault has to fall so that it is met at that stage."""
    if stage == "picture":
        return {cover(platform, name): fault}
    return (
        {page(platform, name): fault}
        if stage == "page"
        else {
            page(platform, name): "html",
            view(name): fault,
        }
    )


def healthy(platform: str, count: int = HEALTHY, start: int = 1000) -> dict[str, str]:
    return {f"ok{n}": at(platform, named(platform, start + n)) for n in range(count)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Make worlds that are closed at the end."""
    made: list[World] = []

    def make(items: Mapping[str, Any], **origin: Any) -> World:
        made.append(World(tmp_path / str(len(made)), monkeypatch, items, **origin).__enter__())
        return made[-1]

    yield make
    for one in made:
        one.unplug()


def check_true(world: World, platform: str, names: Mapping[str, str], name: str = NAME) -> None:
    """Every picture held is the item's own. names: item -> id on the platform."""
    for item, row in world.rows(name).items():
        if row["outcome"] == "OK":
            own = draw(platform, names[item])
            form = {"png_as_jpg": "png", "webp_as_jpg": "webp"}.get(item.partition(" ")[2])
            assert world.bytes_of(item, name) == (recoded(own, form) if form else own), item


# Rows 1-6, 9, 11-18, 21-27: every fault of the origin, one item each.


@pytest.mark.parametrize("platform", STAGES)
def test_each_fault_ends_in_its_own_outcome_and_hurts_no_other_item(
    platform: str, world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covers, "DOWN_AFTER", (10**6, 0.0))  # here a host is not given up
    items, names, expected, faults = healthy(platform), {}, {}, {}
    names = {f"ok{n}": named(platform, 1000 + n) for n in range(HEALTHY)}
    for stage, table in STAGES[platform].items():
        for fault, outcome in table.items():
            item, name = f"{stage} {fault}", named(platform, len(items))
            items[item], names[item], expected[item] = at(platform, name), name, outcome
            faults |= keys_of(platform, stage, name, fault)
    made = world(items, files={"elsewhere.test/": b"<!doctype html><p>Welcome"})
    made.faults |= faults
    began = time.monotonic()
    made.download(placeholders=(PLACEHOLDER,))
    took = time.monotonic() - began
    found = made.outcomes()
    wrong = {i: found[i] for i, said in expected.items() if found[i] not in said.split(" | ")}
    assert wrong == {}
    assert {found[item] for item in items if item.startswith("ok")} == {"OK"}
    assert took < 12
    check_true(made, platform, names)


def test_what_passes_when_asked_once_more_is_no_fault(world: Callable[..., World]) -> None:
    passing = ("503", "500", "reset", "short", "chunked_cut", "empty", "html", "truncated", "408")
    items = {f"{n}": at("plain", fault) for n, fault in enumerate(passing)}
    made = world({**items, **{f"ks{n}": at("kuaishou", f"k{n}") for n in range(len(passing))}})
    made.faults |= {cover("plain", fault): (fault,) for fault in passing}
    made.faults |= {page("kuaishou", f"k{n}"): (fault,) for n, fault in enumerate(passing)}
    assert made.download().counts[NAME] == {"covers": {"OK": 2 * len(passing)}}
    assert {made.asked(cover("plain", fault)) for fault in passing} == {2}


def test_5xx_of_every_item_at_once_heal(world: Callable[..., World]) -> None:
    made = world(healthy("plain", 60))
    made.faults |= {cover("plain", named("plain", 1000 + n)): ("503",) for n in range(60)}
    assert made.download().counts[NAME] == {"covers": {"OK": 60}}
    assert made.asked("pictures.example") == 120


# Rows 1-2: gone, and what only looks so.


def test_gone_is_confirmed_a_day_later_and_not_asked_in_between(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world({"gone": at("qpic", "a"), "back": at("qpic", "b"), "ok": at("qpic", "c")})
    made.faults |= {cover("qpic", "a"): "404", cover("qpic", "b"): ("410",)}
    made.download()
    assert made.outcomes() == {"gone": "GONE http_404", "back": "GONE http_410", "ok": "OK"}
    before = made.asked("puui.qpic.cn")
    made.download()
    assert made.asked("puui.qpic.cn") == before
    assert not made.rows()["gone"]["confirmed"]
    now = time.time()
    monkeypatch.setattr("ninerec_data.item_journal.time.time", lambda: now + 25 * 3600)
    made.download(retry=(Outcome.GONE,))
    assert made.outcomes() == {"gone": "GONE http_404", "back": "OK", "ok": "OK"}
    assert made.rows()["gone"]["confirmed"]


def test_empty_answers_for_all_are_no_proof_that_any_is_gone(world: Callable[..., World]) -> None:
    made = world(healthy("douyin", 20))
    made.faults |= {"www.douyin.com": "gone_page", "www.douyin.com/robots.txt": "404"}
    made.download(concurrency={"douyin.com": 1})
    assert {outcome.partition(" ")[0] for outcome in made.outcomes().values()} == {"BLOCKED"}
    assert (
        made.asked("www.douyin.com") <= 20 + 5
    )  # each waits for a better moment; five are asked again


# Rows 3, 7, 8: the host will not talk to us.

BLOCKS = {
    "qpic": {"picture 412": "BLOCKED http_412", "picture captcha": "BLOCKED captcha"},
    "kuaishou": {"page 412": "BLOCKED http_412", "page captcha": "BLOCKED captcha"},
    "douyin": {"page 412": "BLOCKED http_412", "page captcha": "BLOCKED captcha"},
    "bilibili": {
        "page 412": "BLOCKED http_412",
        "page captcha": "BLOCKED captcha",
        "view 412": "BLOCKED http_412",
        "view captcha": "BLOCKED captcha",
        "picture captcha": "BLOCKED captcha",
    },
}


@pytest.mark.parametrize(
    ("platform", "where"), [(platform, where) for platform in BLOCKS for where in BLOCKS[platform]]
)
def test_a_refusal_stops_the_host_and_says_nothing_of_any_item(
    platform: str, where: str, world: Callable[..., World]
) -> None:
    stage, _, fault = where.partition(" ")
    made = world({f"v{n}": at(platform, named(platform, n)) for n in range(8)})
    for n in range(3, 8):  # three are well, then all are refused
        made.faults |= keys_of(platform, stage, named(platform, n), fault)
    hosts = ("www.", "puui.", "i0.", "i1.", "i2.", "p1.", "p3.", "api.")
    clock = Hurried()
    slowly = {"concurrency": dict.fromkeys(hosts_of(platform), 1), "clock": clock}
    assert made.download(**slowly).exit_code == 4
    found = made.outcomes()
    assert {found[f"v{n}"] for n in range(3)} == {"OK"}
    assert BLOCKS[platform][where] in found.values()
    assert {outcome.partition(" ")[0] for outcome in list(found.values())[3:]} == {"BLOCKED"}
    keys = [keys_of(platform, stage, named(platform, n), fault) for n in range(3, 8)]
    refused = sum(made.asked(key) for some in keys for key, said in some.items() if said == fault)
    assert refused <= (3 if platform == "bilibili" and stage == "picture" else 1)  # of each host
    asked = sum(map(made.asked, hosts))
    made.download(**slowly)
    if stage == "page" or platform == "qpic":  # the host asked first refuses us: nothing is asked
        assert sum(map(made.asked, hosts)) == asked
    made.faults.clear()
    clock.ahead += 86_400
    assert made.download(**slowly).counts[NAME] == {"covers": {"OK": 8}}


def hosts_of(platform: str) -> list[str]:
    names = {"qpic": "qpic.cn", "kuaishou": "kuaishou.com", "douyin": "douyin.com"}
    return [names[platform]] if platform in names else ["bilibili.com", "hdslb.com"]


def test_after_the_cool_down_the_control_item_is_asked_first_and_alone(
    world: Callable[..., World],
) -> None:
    made = world(healthy("kuaishou", 12, 0))
    made.faults |= {page("kuaishou", named("kuaishou", n)): "412" for n in range(4, 12)}
    clock = Hurried()
    slowly = {"concurrency": {"kuaishou.com": 1}, "clock": clock}
    made.download(**slowly)
    done = [item for item, outcome in made.outcomes().items() if outcome == "OK"]
    assert 0 < len(done) < 12
    asked = sum(made.origin.requests.values())
    clock.ahead += 800  # seconds; the first cool-down takes 900
    made.download(**slowly)
    assert sum(made.origin.requests.values()) == asked
    clock.ahead += 200
    made.origin.log.clear()
    made.faults["www.kuaishou.com"] = "412"  # still
    made.faults["www.kuaishou.com/robots.txt"] = "404"
    made.download(**slowly)
    pages = [key for _, key in made.origin.log if "/short-video/" in key]
    assert len(pages) == 1
    assert pages[0].rpartition("/")[2] in {
        made.urls[NAME][item].rpartition("/")[2] for item in done
    }
    clock.ahead += 1000  # the second takes twice as long
    asked = sum(made.origin.requests.values())
    made.download(**slowly)
    assert sum(made.origin.requests.values()) == asked
    clock.ahead += 900
    made.faults.clear()
    made.origin.log.clear()
    made.download(**slowly)
    pages = [key for _, key in made.origin.log if "/short-video/" in key]
    assert pages[0].rpartition("/")[2] in {
        made.urls[NAME][item].rpartition("/")[2] for item in done
    }
    assert set(made.outcomes().values()) == {"OK"}


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [("429:30", 30), ("429date:30", 28), ("429garbage", 0), ("429date:-99999", 0), ("429:-5", 0)],
)
def test_429_pauses_the_host_as_long_as_it_says(
    fault: str, seconds: float, world: Callable[..., World]
) -> None:
    made = world(healthy("plain"))
    made.faults[cover("plain", named("plain", 1003))] = (fault,)
    clock = Hurried()
    made.download(clock=clock)
    assert set(made.outcomes().values()) == {"OK"}
    assert seconds - 1 <= clock.ahead < seconds + 20


def test_429_for_one_item_for_ever_blocks_only_that_one(world: Callable[..., World]) -> None:
    made = world(healthy("plain"))
    made.faults[cover("plain", named("plain", 1003))] = "429:1"
    made.download()
    found = made.outcomes()
    assert found.pop("ok3") == "BLOCKED http_429"
    assert set(found.values()) == {"OK"}


def test_a_pause_of_hours_is_left_to_a_later_run(world: Callable[..., World]) -> None:
    made = world(healthy("plain", 20))
    made.faults["pictures.example"] = "429:7200"
    made.faults["pictures.example/robots.txt"] = "404"
    clock, slowly = Hurried(), {"pictures.example": 1}
    made.download(clock=clock, concurrency=slowly)
    assert {outcome.partition(" ")[0] for outcome in made.outcomes().values()} == {"BLOCKED"}
    assert made.asked("pictures.example") == 1
    made.faults.clear()
    clock.ahead += 3000
    made.download(clock=clock, concurrency=slowly)
    assert made.asked("pictures.example") == 1
    clock.ahead += 4300
    made.download(clock=clock, concurrency=slowly)
    assert set(made.outcomes().values()) == {"OK"}


# Row 4: 403.


def test_a_signature_that_ran_out_is_asked_for_once_more(world: Callable[..., World]) -> None:
    made = world({"v1": at("douyin", "71"), **healthy("douyin", 3)})
    made.faults[page("douyin", "71")] = ("expired",)
    made.download()
    assert set(made.outcomes().values()) == {"OK"}
    assert made.asked(page("douyin", "71")) == 2
    secrets = [path for path in made.home.raw.rglob("*") if path.is_file()]
    assert not [path for path in secrets if b"x-signature=" in path.read_bytes()]


@pytest.mark.parametrize("platform", ["plain", "kuaishou"])
def test_403_for_all_is_the_host_and_for_one_is_the_item(
    platform: str, world: Callable[..., World]
) -> None:
    made = world(healthy(platform, 30))
    host = "pictures.example" if platform == "plain" else "www.kuaishou.com"
    made.faults |= {host: "403", f"{host}/robots.txt": "404"}
    clock, slowly = Hurried(), {host: 1}
    made.download(clock=clock, concurrency=slowly)
    assert {outcome.partition(" ")[0] for outcome in made.outcomes().values()} == {"BLOCKED"}
    assert made.asked(host) < 60
    clock.ahead += 86_400
    del made.faults[host]
    one = cover(platform, named(platform, 1003))
    made.faults[one] = "403"
    made.download(clock=clock, concurrency=slowly)
    found = made.outcomes()
    assert found.pop("ok3") == "REJECTED forbidden"
    assert set(found.values()) == {"OK"}


# A run always ends.


ENDS = {
    "slow_header": {"TRANSIENT"},
    "slow_body:20": {"TRANSIENT"},
    "reset": {"TRANSIENT"},
    "503": {"TRANSIENT"},
    "redirect_loop": {"REJECTED"},
    "429:5": {"BLOCKED"},
    "412": {"BLOCKED"},
}


@pytest.mark.parametrize(
    ("fault", "robots"),
    [*((fault, False) for fault in ENDS), ("slow_header", True), ("503", True), ("412", True)],
)
def test_a_run_ends_whatever_all_hosts_do_and_a_later_one_completes(
    fault: str, robots: bool, world: Callable[..., World]
) -> None:
    ends = ENDS[fault]
    made = world({f"{p}{n}": at(p, named(p, n)) for p in STAGES for n in range(4)})
    made.faults["*"] = fault
    if not robots:
        hosts = {key.partition("/")[0] for p in STAGES for key in (cover(p, named(p, 0)),)}
        hosts |= {form.partition("/")[0] for form in PAGES.values()}
        made.faults |= {f"{host}/robots.txt": "404" for host in hosts}
    clock, began = Hurried(), time.monotonic()
    report = made.download(clock=clock)
    assert time.monotonic() - began < 8
    found = {outcome.partition(" ")[0] for outcome in made.outcomes().values()}
    assert found <= ends | {"TRANSIENT", "BLOCKED"}
    assert report.exit_code == (0 if found == {"REJECTED"} else 4)
    made.faults.clear()
    clock.ahead += 86_400
    made.download(clock=clock, retry=(*ends, "TRANSIENT", "BLOCKED"))
    assert set(made.outcomes().values()) == {"OK"}


def test_a_body_that_drips_is_left_long_before_its_deadline(world: Callable[..., World]) -> None:
    made = world({"slow": at("plain", "a"), **healthy("plain", 3)})
    made.faults[cover("plain", "a")] = "slow_body:40"
    patient = Deadlines(connect=5, first_byte=20, total=60, slowest=1024, window=0.2)
    began = time.monotonic()
    made.download(deadlines=patient)
    assert time.monotonic() - began < 8
    assert made.outcomes().pop("slow") == "TRANSIENT too_slow"


def test_the_origin_is_unplugged_in_the_middle(world: Callable[..., World]) -> None:
    made = world({f"{p}{n}": at(p, named(p, n)) for p in STAGES for n in range(10)}, latency=0.01)

    class Unplug(Tell):
        done = 0

        def settled(self, lane: Any, outcome: Outcome, n: int) -> None:
            self.done += n
            if self.done >= 15 > self.done - n:
                made.unplug()

    hosts = ("bilibili.com", "kuaishou.com", "douyin.com", "qpic.cn", "pictures.example")
    began = time.monotonic()
    assert made.download(tell=Unplug(), concurrency=dict.fromkeys(hosts, 1)).exit_code == 4
    assert time.monotonic() - began < 8
    rows = made.rows()
    left = {item for item, row in rows.items() if row["outcome"] != "OK"}
    assert {rows[item]["outcome"] for item in left} <= {"TRANSIENT", "BLOCKED"}
    assert 10 <= len(rows) - len(left) < 50
    made.origin.requests.clear()
    with made:
        made.download()
        assert set(made.outcomes().values()) == {"OK"}
        held = {cover(item[:-1], named(item[:-1], int(item[-1]))) for item in rows.keys() - left}
        assert not held & {key.partition("?")[0] for key in made.origin.requests}


def test_a_host_that_is_down_is_not_asked_for_all_that_wait(world: Callable[..., World]) -> None:
    made = world(healthy("plain", 400) | {"other": at("qpic", "a")})
    made.faults |= {"pictures.example": "503", "pictures.example/robots.txt": "404"}
    made.download(concurrency={"pictures.example": 2}, base=0.002)
    found = made.outcomes()
    assert found.pop("other") == "OK"
    assert {outcome.partition(" ")[0] for outcome in found.values()} == {"TRANSIENT"}
    assert "TRANSIENT host_down" in found.values()
    assert made.asked("pictures.example") < 400


def test_a_host_that_says_nothing_but_429_is_left_within_hours(world: Callable[..., World]) -> None:
    made = world(healthy("plain", 100))
    made.faults |= {"pictures.example": "429:60", "pictures.example/robots.txt": "404"}
    clock = Hurried()
    made.download(concurrency={"pictures.example": 4}, clock=clock)
    assert {outcome.partition(" ")[0] for outcome in made.outcomes().values()} == {"BLOCKED"}
    assert clock.ahead < 3 * 3600
    assert made.asked("pictures.example") < 400


# A host that one picture alone leads to says nothing about the others.


@pytest.mark.parametrize("fault", ["503", "412", "slow_header", "reset"])
def test_a_redirect_to_a_bad_host_hurts_only_what_leads_there(
    fault: str, world: Callable[..., World]
) -> None:
    made = world(healthy("plain", 15))
    made.faults |= {"bad.example": fault, "bad.example/robots.txt": fault}
    bad = [f"ok{n}" for n in (0, 3, 6, 9)]
    for item in bad:
        key = made.urls[NAME][item].partition("://")[2]
        made.faults[key] = "redirect:https://bad.example/a.jpg"
    made.download(concurrency={"pictures.example": 1})
    found = made.outcomes()
    assert {found.pop(item).partition(" ")[0] for item in bad} <= {"TRANSIENT", "BLOCKED"}
    assert set(found.values()) == {"OK"}


def test_one_of_three_picture_hosts_that_is_down_leaves_the_others(
    world: Callable[..., World],
) -> None:
    made = world(healthy("bilibili", 18))
    made.faults |= {"i1.hdslb.com": "503"}
    made.download(concurrency={"bilibili.com": 1})
    found = made.outcomes()
    there = {i for i in found if cover("bilibili", named("", 1000 + int(i[2:]))).startswith("i1")}
    assert {found[item].partition(" ")[0] for item in there} == {"TRANSIENT"}
    assert {found[item] for item in found.keys() - there} == {"OK"}


# Rows 10, 19, 20, 23, 33, 34: the way there, without a mirror.


def direct(made: World, **more: Any) -> dict[str, Any]:
    """Options of a download that asks hosts themselves; `a.test` is this machine, if anything is."""
    return {"mirror": "", "allow_host": ("a.test", "b.test"), **more}


def resolving(monkeypatch: pytest.MonkeyPatch, found: Callable[[str], list[str]]) -> list[str]:
    """Resolve names by `found`; returns the list of what is looked up."""
    asked: list[str] = []

    async def resolve(self: object, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        asked.append(host)
        return [
            {
                "hostname": host,
                "host": ip,
                "port": port,
                "family": socket.AF_INET6 if ":" in ip else socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            for ip in found(host)
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    return asked


def local(port: int, count: int = 10, host: str = "a.test") -> dict[str, str]:
    """Addresses whose path names the host again, as the origin reads it."""
    return {f"v{n}": f"http://{host}:{port}/pictures.example/p{n}.jpg" for n in range(count)}


DRAWN = {f"pictures.example/p{n}.jpg": draw("plain", f"p{n}") for n in range(10)}


def port_of(made: World) -> int:
    return int(made.base.rpartition(":")[2])


@pytest.mark.parametrize("ips", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.1", "::1"]])
def test_each_host_is_looked_up_once_and_broken_ipv6_is_passed_over(
    ips: list[str], world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world({"v0": "http://a.test/a.jpg"}, files=DRAWN)
    made.map(local(port_of(made)))
    asked = resolving(monkeypatch, lambda _: ips)
    made.download(**direct(made))
    assert set(made.outcomes().values()) == {"OK"}
    assert asked == ["a.test"]


@pytest.mark.parametrize(
    ("number", "reason", "most"),
    [(socket.EAI_NONAME, "no_such_host", 10), (socket.EAI_AGAIN, "dns", 90)],
)
def test_names_that_are_not_found(
    number: int,
    reason: str,
    most: int,
    world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(host: str) -> list[str]:
        if host == "b.test":
            raise socket.gaierror(number, "not found")
        return ["127.0.0.1"]

    made = world({"v0": "http://a.test/a.jpg"}, files=DRAWN)
    port = port_of(made)
    bad = {f"bad{n}": f"http://b.test:{port}/pictures.example/p{n}.jpg" for n in range(20)}
    made.map(local(port) | bad)
    asked = resolving(monkeypatch, found)
    made.download(**direct(made))
    outcomes = made.outcomes()
    assert {outcomes[item].partition(" ")[0] for item in bad} == {"TRANSIENT"}
    assert {outcomes[f"v{n}"] for n in range(10)} == {"OK"}
    assert asked.count("b.test") <= most
    said = {row["detail"] for item, row in made.rows().items() if item in bad}
    assert (
        any(reason in (text or "") for text in said) or f"TRANSIENT {reason}" in outcomes.values()
    )


PRIVATE = (
    *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fc00::1", "fe80::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "ff02::1", "fec0::1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"),  # an IPv4 address inside
)


def test_names_that_lead_to_private_addresses(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[Any] = []
    made = world({f"v{n}": f"http://n{n}.example/a.jpg" for n in range(len(PRIVATE))})
    resolving(monkeypatch, lambda host: [PRIVATE[int(host[1:].partition(".")[0])]])
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: connected.append(to))
    made.download(mirror="")
    assert connected == []
    assert set(made.outcomes().values()) == {"REJECTED private_address"}


def test_addresses_of_this_machine_however_they_are_written(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = (
        *("127.0.0.1", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]", "①②⑦.0.0.1"),
        *("2130706433", "127.1", "0177.0.0.1", "0", "127.0.0.1."),
    )
    connected: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: connected.append(to))
    made = world({f"v{n}": f"http://{host}/a.jpg" for n, host in enumerate(hosts)})
    made.download(mirror="")
    assert connected == []
    found = {hosts[int(i[1:])]: outcome for i, outcome in made.outcomes().items()}
    settled = {"REJECTED private_address", "CONFIG address"}
    assert {host: outcome for host, outcome in found.items() if outcome not in settled} == {}


@contextmanager
def listening(backlog: int = 16) -> Iterator[socket.socket]:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        line.listen(backlog)
        yield line


def port_of_line(line: socket.socket) -> int:
    return int(line.getsockname()[1])


def test_a_port_where_nothing_listens_and_one_that_never_accepts(
    world: Callable[..., World],
) -> None:
    with listening() as closed:
        gone = port_of_line(closed)
    with listening(0) as deaf, socket.socket() as first, socket.socket() as second:
        for line in (first, second):  # its queue is full then
            line.setblocking(False)
            line.connect_ex(deaf.getsockname())
        hosts = (f"127.0.0.1:{gone}", f"127.0.0.1:{port_of_line(deaf)}")
        made = world({f"{n}": f"http://{host}/a.jpg" for n, host in enumerate(hosts)})
        began = time.monotonic()
        made.download(mirror="", allow_host=hosts)
        assert time.monotonic() - began < 8
    assert {row["outcome"] for row in made.rows().values()} == {"TRANSIENT"}
    said = [f"{row['reason']} {row['detail']}" for row in made.rows().values()]
    assert "refused" in said[0]
    assert "connect_timeout" in said[1]


@contextmanager
def tls_server(folder: Path, *, broken: bool) -> Iterator[int]:
    """A server with a certificate that nobody vouches for, or that hangs up in the handshake."""
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=a -days 1"
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*made.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")

    def serve() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line:
                if broken:
                    line.recv(5)
                    continue
                try:
                    context.wrap_socket(line, server_side=True).close()
                except (ssl.SSLError, OSError):
                    continue

    with listening() as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield port_of_line(server)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("broken", "outcome"), [(False, ("CONFIG", "certificate")), (True, ("TRANSIENT", "t"))]
)
def test_tls_that_fails_is_never_turned_off(
    broken: bool, outcome: tuple[str, str], world: Callable[..., World], tmp_path: Path
) -> None:
    with tls_server(tmp_path, broken=broken) as port:
        host = f"127.0.0.1:{port}"
        made = world({"v1": f"https://{host}/a.jpg"})
        made.download(mirror="", allow_host=(host,))
    (row,) = made.rows().values()
    assert row["outcome"] == outcome[0]
    if not broken:
        assert outcome[1] in f"{row['reason']} {row['detail']}"


def test_where_https_cannot_be_had_an_address_of_http_is_asked_as_it_stands(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world({"v0": "http://a.test/a.jpg"}, files=DRAWN)
    made.map(local(port_of(made), host="puui.qpic.cn"))
    resolving(monkeypatch, lambda _: ["127.0.0.1"])
    report = made.download(mirror="", allow_host=("puui.qpic.cn",), concurrency={"qpic.cn": 1})
    assert set(made.outcomes().values()) == {"OK"}
    assert {row["final_url"].partition(":")[0] for row in made.rows().values()} == {"http"}
    assert sum(report.requests.values()) <= 10 + 6  # https is tried once, and its robots.txt


class Proxy(BaseHTTPRequestHandler):
    """Gives the picture of any address that ends so, to who has the password."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Proxy-Authorization")))  # type: ignore[attr-defined]
        allowed = self.headers.get("Proxy-Authorization") == "Basic dXNlcjpzZWNyZXQ="
        name = self.path.rpartition("/")[2]
        body = draw("plain", name.removesuffix(".jpg")) if name.endswith(".jpg") else b""
        self.send_response(407 if not allowed else 200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("password", ["secret", "swordfish"])
def test_the_proxy_of_the_environment_is_used_and_its_password_kept_secret(
    password: str, world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world({f"v{n}": f"http://pictures.example/p{n}.jpg" for n in range(3)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        monkeypatch.setenv("http_proxy", f"http://user:{password}@127.0.0.1:{server.server_port}")
        report = made.download(mirror="")
        asked = {path for path, _ in server.asked}  # type: ignore[attr-defined]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        count = len(server.asked)  # type: ignore[attr-defined]
        made.download(retry=("CONFIG", "TRANSIENT", "BLOCKED"))
        assert len(server.asked) == count  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    if password == "secret":
        assert asked == {
            f"http://pictures.example/{n}" for n in ("robots.txt", "p0.jpg", "p1.jpg", "p2.jpg")
        }
    assert set(made.outcomes().values()) == {"OK"}
    left = [path for path in made.home.raw.rglob("*") if path.is_file()]
    assert not [path for path in left if password.encode() in path.read_bytes()]
    assert password not in repr(report)


# Rows 24, 31, 32: addresses.


def test_oddly_written_addresses_are_asked_once_encoded_and_kept_raw(
    world: Callable[..., World],
) -> None:
    keys = {
        "  https://pictures.example/a b.jpg": "pictures.example/a%20b.jpg",
        "https://pictures.example/封面.jpg": "pictures.example/%E5%B0%81%E9%9D%A2.jpg",
        "//pictures.example/c.jpg": "pictures.example/c.jpg",
        "https://pictures.example/d.jpg?x=1&amp;y=2": "pictures.example/d.jpg?x=1&y=2",
        "https://pictures.example/e.jpg#top": "pictures.example/e.jpg",
        "https://pictures.example/f%2Fg.jpg": "pictures.example/f%2Fg.jpg",
        "https://pictures.example/h+i.jpg": "pictures.example/h+i.jpg",
        "HTTPS://Pictures.Example/J.jpg": "pictures.example/J.jpg",
        "https://bücher.example/k.jpg": "xn--bcher-kva.example/k.jpg",
        "https://pictures.example:443/l.jpg\r": "pictures.example/l.jpg",
        "https://pictures.example/%E5%B0%81.jpg": "pictures.example/%E5%B0%81.jpg",
    }
    items = {f"v{n}": raw for n, raw in enumerate(keys)}
    drawn = {key: draw("plain", key) for key in keys.values()}
    made = world(items, files=drawn)
    made.mapping.write_bytes(b"\xef\xbb\xbf" + made.mapping.read_bytes())
    made.download()
    assert made.outcomes() == dict.fromkeys(items, "OK")
    for n, (raw, key) in enumerate(keys.items()):
        assert made.bytes_of(f"v{n}") == drawn[key]
        assert made.rows()[f"v{n}"]["raw_url"].strip() == raw.strip()
    assert set(drawn) <= set(made.origin.requests)


def test_what_is_no_web_address_is_the_mappings_fault(
    world: Callable[..., World], tmp_path: Path
) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(draw("plain", "secret"))
    scheme = (f"file://{secret}", "ftp://pictures.example/a.jpg", "gopher://a.example/a.jpg")
    scheme = (
        *scheme,
        "data:image/gif;base64\\,R0lGODlhAQABAAAAACw=",
        "javascript:alert(1)",
        str(secret),
    )
    broken = (
        "https://",
        "https:///a.jpg",
        "http://a b.example/x.jpg",
        "https://a.example:99999/x.jpg",
    )
    other = ("https://www.example.com/", "https://elsewhere.example/page.html")
    items = {f"v{n}": raw for n, raw in enumerate((*scheme, *broken, *other))}
    made = world(items | healthy("plain"))
    made.download()
    found = made.outcomes()
    assert {found.pop(f"ok{n}") for n in range(HEALTHY)} == {"OK"}
    said = {items[item]: outcome for item, outcome in found.items()}
    assert {raw: said[raw] for raw in scheme if said[raw] != "CONFIG scheme"} == {}
    assert {raw: said[raw] for raw in broken if said[raw] != "CONFIG address"} == {}
    assert {raw: said[raw] for raw in other if said[raw] != "CONFIG unknown_platform"} == {}


def test_ids_that_differ_in_case_only_are_two_videos(world: Callable[..., World]) -> None:
    made = world({"v1": at("bilibili", "BV1aB"), "v2": at("bilibili", "BV1Ab")})
    made.download()
    assert made.bytes_of("v1") == draw("bilibili", "BV1aB")
    assert made.bytes_of("v2") == draw("bilibili", "BV1Ab")


# Rows 14, 30: one picture for many.


def test_one_address_of_several_items_and_datasets_is_asked_once(
    world: Callable[..., World],
) -> None:
    same = {f"v{n}": at("bilibili", "BVsame") for n in range(3)}
    made = world({"alpha": same, "beta": {"other": at("bilibili", "BVsame"), **healthy("plain")}})
    report = made.download()
    assert report.counts == {"alpha": {"covers": {"OK": 3}}, "beta": {"covers": {"OK": 11}}}
    assert made.asked(page("bilibili", "BVsame")) == 1
    assert made.asked(cover("bilibili", "BVsame")) == 1
    assert made.rows("beta")["other"]["sha256"] == made.rows()["v2"]["sha256"]


@pytest.mark.parametrize(
    ("count", "order"),
    [
        (4, "at once"),
        (5, "at once"),
        (5, "the last later"),
        (5, "one by one"),
        (7, "the last later"),
    ],
)
def test_one_picture_at_five_addresses_of_a_host_is_no_cover(
    count: int, order: str, world: Callable[..., World]
) -> None:
    items = {f"v{n}": at("qpic", f"k{n}") for n in range(count)}
    cuts = {"at once": [count], "the last later": [count - 1, count]}.get(
        order, range(1, count + 1)
    )
    made = world(items)
    keys = [*(cover("qpic", f"k{n}") for n in range(count)), cover("kuaishou", "x")]
    made.faults |= dict.fromkeys(keys, "placeholder")
    for cut in cuts:
        others = healthy("qpic", 3) | {"elsewhere": at("kuaishou", "x")}
        made.map({**dict(list(items.items())[:cut]), **others})
        made.download()
    found = made.outcomes()
    assert {found[f"ok{n}"] for n in range(3)} | {found["elsewhere"]} == {"OK"}
    expected = "OK" if count < 5 else "REJECTED one_for_many"
    assert {found[item] for item in items} == {expected}
    blobs = [path for path in (made.home.raw / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 3 + 1


def test_a_backup_gives_what_the_origin_has_only_a_placeholder_for(
    world: Callable[..., World], tmp_path: Path
) -> None:
    made = world({f"v{n}": at("qpic", f"k{n}") for n in range(6)})
    made.faults |= {cover("qpic", f"k{n}"): "placeholder" for n in range(6)}
    backup = tmp_path / "backup"
    backup.mkdir()
    for n in range(3):
        (backup / f"v{n}.jpg").write_bytes(draw("qpic", f"k{n}"))
    made.download(backup=(str(backup),))
    assert list(made.outcomes().values()) == ["OK_BACKUP"] * 3 + ["REJECTED one_for_many"] * 3
    assert made.bytes_of("v1") == draw("qpic", "k1")


# Row 28: a picture that takes the decoder down.


def test_a_picture_that_crashed_a_run_is_refused_alone(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(healthy("plain"))
    sha256 = hashlib.sha256(draw("plain", named("plain", 1003))).hexdigest()
    made.home.raw.mkdir(parents=True)
    (made.home.raw / ".decoding").write_bytes(bytes(SLOT) + sha256.encode())  # slot 1 of 2
    tried: list[bytes] = []
    monkeypatch.setattr(arrived, "crashes", lambda data: tried.append(data) or True)
    made.download()
    found = made.outcomes()
    assert found.pop("ok3") == "REJECTED decoder_crash"
    assert set(found.values()) == {"OK"}
    assert tried == [draw("plain", named("plain", 1003))]
    assert (made.home.raw / ".decoding").read_bytes() == b""


SCRIPT = """
import json, os
from pathlib import Path
from downloader import arrived
from downloader.download import download
from downloader.options import Options, Tell
from ninerec_data.catalog import find
from ninerec_data.home import Home
class Said(Tell):
    def settled(self, lane, outcome, n):
        print(outcome, flush=True)
real = arrived.make_picture
def make_picture(data, recipe):
    if b"killer" in data:
        os.abort()
    return real(data, recipe)
arrived.make_picture = make_picture
{before}
options = Options(parts=("covers",), mirror={base!r}, mapping=Path({mapping!r}), base=0.01)
report = download(Home(Path({home!r})), [find("alpha")[0]], options, Said())
print(json.dumps(report.counts))
"""


def script(made: World, before: str = "") -> list[str]:
    """A download in a process of its own, which tells each outcome."""
    places = {"base": made.base, "mapping": str(made.mapping), "home": str(made.home)}
    return [sys.executable, "-c", SCRIPT.format(before=before, **places)]


# What the interpreter that tries a picture does: it dies of this one.
DEADLY = """
import io, os, sys
if "make_picture(sys.stdin" in " ".join(sys.orig_argv):
    data = sys.stdin.buffer.read()
    if b"killer" in data:
        os.abort()
    sys.stdin = io.TextIOWrapper(io.BytesIO(data))
"""


def test_a_decoder_that_takes_the_process_down_does_it_once(
    world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world({**healthy("plain"), "bad": at("plain", "killer")})
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}")
    killed = subprocess.run(script(made), capture_output=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGABRT, killed.stderr
    done = subprocess.run(script(made), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = made.outcomes()
    assert found.pop("bad") == "REJECTED decoder_crash"
    assert set(found.values()) == {"OK"}


# Rows 35, 36, 40, 49: this machine.


def test_a_full_disk_ends_the_run_and_what_came_before_stays(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(healthy("plain", 30))
    real, written = Path.write_bytes, []

    def write_bytes(path: Path, data: bytes) -> int:
        if path.name.startswith(".tmp-"):
            if len(written) >= 7:
                real(path, data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
        return real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(CheckFailed, match=r"disk|space"):
            made.download(concurrency={"pictures.example": 1})
    found = list(made.outcomes().values())
    assert 1 <= found.count("OK") <= 7
    assert set(found) == {"OK", "TRANSIENT"}
    names = [path.name for path in (made.home.raw / "blobs").rglob("*") if path.is_file()]
    assert not [name for name in names if name.startswith(".tmp-")]
    assert len(names) == 7
    made.download()
    assert set(made.outcomes().values()) == {"OK"}
    assert made.asked("pictures.example") <= 30 + 64


def test_a_low_limit_of_open_files_is_raised_as_far_as_we_may(world: Callable[..., World]) -> None:
    made = world({f"{p}{n}": at(p, named(p, n)) for p in STAGES for n in range(30)}, latency=0.05)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (48, 4096))"
    done = subprocess.run(script(made, limit), capture_output=True, timeout=60, check=False)
    assert {outcome.partition(" ")[0] for outcome in made.outcomes().values()} <= {
        "OK",
        "TRANSIENT",
    }
    assert done.returncode == 0, done.stderr.decode()
    assert set(made.outcomes().values()) == {"OK"}


def test_a_second_download_of_a_home_is_refused(world: Callable[..., World]) -> None:
    made = world(healthy("plain"))
    with lock(made.home.raw / ".download.lock"), pytest.raises(UsageError, match="another ninerec"):
        made.download()
    assert made.asked("pictures.example") == 0


def test_an_interrupted_run_keeps_what_it_had_and_the_next_asks_for_the_rest_only(
    world: Callable[..., World],
) -> None:
    made = world(healthy("plain", 60), latency=0.03)
    slowly = "Options.__init__.__kwdefaults__.update(concurrency={'pictures.example': 2})"
    with subprocess.Popen(
        script(made, slowly), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout
        for _ in range(10):
            assert child.stdout.readline() == b"OK\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert b"KeyboardInterrupt" in said
    found = list(made.outcomes().values())  # the account is written
    assert 10 <= found.count("OK") < 60
    assert set(found) == {"OK", "TRANSIENT"}
    made.origin.requests.clear()
    made.download()
    assert set(made.outcomes().values()) == {"OK"}
    assert made.asked("pictures.example") == 60 - found.count("OK")


def test_clocks_that_jump_by_days(world: Callable[..., World]) -> None:
    class Jumping(Hurried):
        turns = 0

        def now(self) -> float:
            self.turns += 1
            return super().now() + (-1) ** self.turns * 86_400 * 3

    made = world(healthy("plain") | {"v1": at("bilibili", "BV1")})
    made.faults[cover("plain", named("plain", 1003))] = ("429date:3",)
    clock = Jumping()
    made.download(clock=clock)
    assert set(made.outcomes().values()) == {"OK"}
    assert clock.ahead < 86_400


# Rows 41, 43, 44, 47, 48: what is asked for, and what comes of it.


def test_a_mapping_that_changed_between_runs(world: Callable[..., World]) -> None:
    said: list[str] = []

    class Said(Tell):
        def say(self, text: str) -> None:
            said.append(text)

    items = {"same": at("plain", "a"), "moved": at("plain", "b"), "left": at("plain", "c")}
    made = world(
        {**items, "gone": at("plain", "d"), "was": at("plain", "e")},
        files={f"pictures.example/{n}.jpg": draw("plain", n) for n in "bgh"},
    )
    made.faults |= {cover("plain", "d"): "404", cover("plain", "e"): "404"}
    made.download()
    made.map(
        {
            "same": at("plain", "a"),
            "moved": at("plain", "g"),  # its cover is held: it stays
            "was": at("plain", "h"),  # was gone, and has another address now
            "new": at("plain", "b"),
        }
    )
    made.origin.requests.clear()
    report = made.download(tell=Said())
    found = made.outcomes()
    assert {item: found[item] for item in ("same", "moved", "was", "new")} == dict.fromkeys(
        ("same", "moved", "was", "new"), "OK"
    )
    assert "gone" not in found  # what is held stays in the account, what is not is left out
    assert made.bytes_of("was") == draw("plain", "h")
    assert made.asked("pictures.example") == made.asked("pictures.example/h.jpg") == 1
    assert sum(report.counts[NAME]["covers"].values()) == len(found)
    assert any("1 new" in text and "2 changed" in text for text in said)


def test_a_cover_that_was_replaced_is_refused_and_the_backup_asked(
    world: Callable[..., World], tmp_path: Path
) -> None:
    made = world({"v1": at("plain", "a"), "v2": at("plain", "b"), "v3": at("plain", "c")})
    expected = {
        f"v{n}": hashlib.sha256(draw("plain", name)).hexdigest()
        for n, name in ((1, "a"), (2, "before"))
    }
    made.download(expected={NAME: expected})
    assert made.outcomes() == {"v1": "OK", "v2": "REJECTED sha256", "v3": "OK"}
    backup = tmp_path / "backup"
    backup.mkdir()
    for name, outcome in (("other", "REJECTED sha256"), ("before", "OK_BACKUP")):
        (backup / "v2.jpg").write_bytes(draw("plain", name))
        made.download(expected={NAME: expected}, backup=(str(backup),))
        assert made.outcomes()["v2"] == outcome
    assert made.bytes_of("v2") == draw("plain", "before")


def test_the_small_variant_is_another_picture_and_says_so(world: Callable[..., World]) -> None:
    made = world(healthy("bilibili", 2) | {"qpic": at("qpic", "a")})
    made.download(cover_size="small")
    rows = made.rows()
    assert {row["outcome"] for row in rows.values()} == {"OK"}
    assert "@" in rows["ok0"]["final_url"]
    assert {row["variant"] for row in rows.values()} == {"small"}
    asked = sum(made.origin.requests.values())
    made.download()  # remembered
    assert sum(made.origin.requests.values()) == asked


def test_a_hostile_zip_as_backup(world: Callable[..., World], tmp_path: Path) -> None:
    made = world({f"v{n}": at("qpic", f"k{n}") for n in (0, 3, 4, 5, 6, 7)})
    made.faults["puui.qpic.cn"] = "404"
    path = tmp_path / "backup.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("v0.jpg", draw("qpic", "k0"))
        packed.writestr("v3.jpg", bytes(65 << 20))  # as many zeros in 65 KB
        packed.writestr("v4.jpg", draw("qpic", "k4"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("v4.jpg", draw("qpic", "last"))
        packed.writestr("v5.jpg", b"<html>not found</html>")
        packed.writestr("封面/v7.jpg".encode("gbk").decode("cp437"), draw("qpic", "k7"))
        packed.writestr("v6.jpg", draw("qpic", "k6"), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at_v6 = data.rindex(b"JFIF", 0, data.index(b"PK\x01\x02"))
    data[at_v6 + 200] ^= 0xFF  # its CRC is wrong now
    path.write_bytes(data)
    made.download(backup=(str(path),))
    found = {item: outcome.partition(" ")[0] for item, outcome in made.outcomes().items()}
    held = dict.fromkeys(("v0", "v4", "v7"), "OK_BACKUP")
    assert found == dict.fromkeys(("v3", "v5", "v6"), "GONE") | held
    assert [made.bytes_of(item) for item in held] == [draw("qpic", n) for n in ("k0", "last", "k7")]


@pytest.mark.parametrize("name", ["../../../../v0.jpg", "/tmp/evil/v0.jpg", "C:/evil/v0.jpg"])
def test_a_zip_that_climbs_out_of_its_folder_is_refused(
    name: str, world: Callable[..., World], tmp_path: Path
) -> None:
    made = world({"v0": at("qpic", "k0")})
    path = tmp_path / "backup.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, draw("qpic", "k0"))
    with pytest.raises(CheckFailed, match=f"--backup .*backup.zip.*{name}"):
        made.download(backup=(str(path),))
    assert sum(made.origin.requests.values()) == 0


TITLES = {
    "plain": ("Title", "Title"),
    "emoji": ("美食 🍜👩‍🍳 x", "美食 🍜👩‍🍳 x"),
    "control": ("a\0b\x08c\nd\te", "a b c d e"),
    "entities": ("&amp; &lt;b&gt; &quot;", "&amp; &lt;b&gt; &quot;"),
    "direction": ("\u202eabc\u202c \ufeffx", "\u202eabc\u202c \ufeffx"),
    "script": ("</script><script>alert(1)</script>", "</script><script>alert(1)</script>"),
    "long": ("字" * 5000, "字" * 2000),
    "half": ("half \ud83d pair", "half ? pair"),
    "empty": ("   ", None),
}


@pytest.mark.parametrize("platform", PAGES)
def test_odd_titles_of_pages_arrive_on_one_line(platform: str, world: Callable[..., World]) -> None:
    ids = {kind: named(platform, n) for n, kind in enumerate(TITLES) if kind != "half"}
    texts = {ids[kind]: TITLES[kind][0] for kind in ids}
    made = world({kind: at(platform, name) for kind, name in ids.items()}, titles=texts.__getitem__)
    made.download()
    assert set(made.outcomes().values()) == {"OK"}
    found = {item: row["title"] for item, row in made.rows().items()}
    expected = {kind: TITLES[kind][1] for kind in ids}
    if platform == "bilibili":
        expected["script"] = found["script"]  # ends the page's own script; read elsewhere, or not
    assert found == expected


# What is sent.


@pytest.mark.parametrize("netrc", [False, True])
def test_requests_are_honest_and_carry_nothing_of_the_user(
    netrc: bool, world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if netrc:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    made = world({f"{p}{n}": at(p, named(p, n)) for p in STAGES for n in range(3)})
    made.faults["*"] = "cookie"
    agent = "ninerec/9 (+mailto:someone@example.org)"
    made.download(user_agent=agent)
    assert set(made.outcomes().values()) == {"OK"}
    pictures = {cover(p, named(p, n)) for p in STAGES for n in range(3)}
    for key, headers in made.origin.headers.items():
        names = {name.lower() for name in headers}
        assert not names & {"cookie", "authorization", "x-forwarded-for", "origin"}, key
        assert headers["User-Agent"] == agent
        if key.partition("?")[0] in pictures:
            assert headers["Accept-Encoding"] == "identity"
        referer = headers.get("Referer", "")
        assert referer in ("", "https://www.bilibili.com/")
        assert not referer or "hdslb.com" in key or "bilibili.com" in key


def test_robots_are_heeded_and_asked_for_once(world: Callable[..., World]) -> None:
    barred = "User-agent: *\nDisallow: /\n"
    made = world(
        healthy("plain") | {f"k{n}": at("kuaishou", f"k{n}") for n in range(5)},
        robots={"www.kuaishou.com": barred},
    )
    assert made.download().exit_code == 0
    found = made.outcomes()
    assert {found[f"k{n}"] for n in range(5)} == {"OPTED_OUT robots"}
    assert {found[f"ok{n}"] for n in range(HEALTHY)} == {"OK"}
    assert made.asked("www.kuaishou.com") == 0
    assert made.origin.requests["www.kuaishou.com/robots.txt"] == 1


def test_a_picture_that_leads_to_a_login_is_the_hosts_doing(world: Callable[..., World]) -> None:
    made = world(healthy("plain") | {"v1": at("plain", "a"), "v2": at("qpic", "b")})
    made.faults |= {cover("plain", "a"): "login", cover("qpic", "b"): "login"}
    made.download()
    found = made.outcomes()
    assert {found.pop("v1"), found.pop("v2")} == {"BLOCKED login"}
    assert set(found.values()) == {"OK"}


def test_https_that_fails_for_one_picture_is_not_given_up_for_all(
    world: Callable[..., World],
) -> None:
    made = world(healthy("qpic"))
    key = cover("qpic", named("qpic", 1003))
    made.faults[key] = "redirect_loop"
    made.download(concurrency={"qpic.cn": 1})
    final = [row["final_url"] for row in made.rows().values() if row["outcome"] == "OK"]
    assert len(final) == HEALTHY - 1
    assert {url.partition(":")[0] for url in final} == {"https"}


def test_an_address_of_http_may_be_led_back_to_http(world: Callable[..., World]) -> None:
    made = world(healthy("qpic", 3))
    made.faults |= {cover("qpic", named("qpic", 1000 + n)): "downgrade" for n in range(3)}
    made.download()
    assert set(made.outcomes().values()) == {"OK"}


def test_the_account_and_the_journal_say_the_same(world: Callable[..., World]) -> None:
    made = world({f"{p}{n}": at(p, named(p, n)) for p in STAGES for n in range(4)})
    made.faults |= {
        cover("qpic", named("qpic", 1)): "404",
        cover("plain", named("plain", 2)): "html",
    }
    report = made.download()
    with sqlite3.connect(made.home.raw / "journal.sqlite") as journal:
        counted = dict(journal.execute("select outcome, count(*) from items group by 1"))
    journal.close()
    rows = [row["outcome"] for row in made.rows().values()]
    assert report.counts[NAME]["covers"] == counted == {o: rows.count(o) for o in set(rows)}
    assert sorted(report.reasons[NAME]) == [("GONE", "http_404", 1), ("REJECTED", "html", 1)]
    assert json.dumps(report.counts)
