"""`ninerec download`: its plan, terms, documents, exit codes and the ways it can be stopped."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from releases import Said, check_refusal, say

from downloader import download as downloading
from downloader.options import Report
from downloader.origin import Origin, serving
from downloader.origin_pages import draw
from ninerec.download_view import View, duration
from ninerec_data.catalog import catalog
from ninerec_data.outcomes import Outcome

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

COVERS = 4
TABLE = """\
title = "{0}, for tests"
format = "ninerec"
options = {{ stem = "{0}" }}
text = {{ zh = ["title_zh"], en = ["title_en"] }}
modalities = ["text", "image"]
access = "{1}"
terms = {{ text = "Drawn for tests of {0}.", url = "https://terms.example/{0}" }}
"""
SOURCE = """
[[sources]]
assets = {0}
kind = "{1}"
url = "https://data.example/{2}"
file = "{2}"
note = "made here"
"""
FILES = (
    ("interactions", "http", "pair"),
    ("titles", "http", "item"),
    ("mapping", "mapping", "url"),
)


class Site:
    """Datasets `one` and `two`, whose files and covers the origin has, and `handy`, to be fetched by hand."""

    def __init__(self, folder: Path, capsys: Captured) -> None:
        self.home, self.catalog, self._capsys = folder / "home", folder / "catalog", capsys
        self.faults: dict[str, str] = {}
        self.catalog.mkdir()
        files: dict[str, bytes] = {}
        for name in ("one", "two"):
            rows = [f"u{u},v{u % 5},16000000{u:02}\n" for u in range(40)]
            files[f"{name}_pair.csv"] = "".join(rows).encode()
            files[f"{name}_item.csv"] = "".join(f"v{n},标题,Title\n" for n in range(5)).encode()
            urls = [f"v{n},https://pictures.example/{name}/{n}.jpg\n" for n in range(COVERS)]
            files[f"{name}_url.csv"] = "".join(urls).encode()
            sources = [SOURCE.format([a], kind, f"{name}_{f}.csv") for a, kind, f in FILES]
            self._table(name, "public", "".join(sources).replace("'", '"'))
        hand = SOURCE.format(["interactions", "titles"], "page", "").replace("'", '"')
        self._table("handy", "manual", hand.replace('file = ""\n', ""))
        self.files = {f"data.example/{name}": data for name, data in files.items()}
        for name in ("one", "two"):
            for n in range(COVERS):
                self.files[f"pictures.example/{name}/{n}.jpg"] = draw("", f"{name}{n}")
        self.origin = Origin(files=self.files, faults=lambda key, _: self.faults.get(key))

    def _table(self, name: str, access: str, sources: str) -> None:
        (self.catalog / f"{name}.toml").write_text(TABLE.format(name, access) + sources)

    def __call__(self, *words: object, mirror: bool = True) -> Said:
        """`ninerec download` with these words, through the origin."""
        more = ["--mirror", self.origin.base] if mirror else []
        return say(self._capsys, "download", *words, *more)

    def asked(self, start: str = "") -> int:
        counts = self.origin.requests.items()
        return sum(n for k, n in counts if k.startswith(start) and not k.endswith("robots.txt"))


@pytest.fixture
def site(tmp_path: Path, home: Path, monkeypatch: Patch, capsys: Captured) -> Iterator[Site]:
    made = Site(tmp_path, capsys)
    monkeypatch.setenv("NINEREC_CATALOG", str(made.catalog))
    for name in ("NINEREC_CONTACT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with serving(made.origin):
        yield made


def test_a_new_user_gets_all_of_it_and_is_told_what_comes_next(site: Site) -> None:
    said = site("one", "--accept-terms")
    assert said.code == 0
    assert [line.split() for line in said.out.splitlines()] == [
        ["dataset", "part", "OK", "UNMAPPED"],
        ["one", "interactions", "1", "-"],
        ["one", "titles", "1", "-"],
        ["one", "covers", "4", "1"],
    ]
    assert "  Drawn for tests of one.\n  https://terms.example/one\n" in said.err
    assert "plan: fetch one_pair.csv (size not published) for one\n" in said.err
    assert "plan: the items of one are known once the files are here\n" in said.err
    assert said.err.index("plan: ") < said.err.index(
        "one: no cover: 1 UNMAPPED (no address is known)"
    )
    assert said.err.endswith("next: ninerec prepare one\n")


def test_dry_run_writes_nothing_and_asks_nobody(site: Site) -> None:
    said = site("one", "two", "--dry-run", mirror=False)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1].split() == [
        "one_pair.csv",
        *("size", "not", "published"),
        "one",
    ]
    assert "the items of one, two are known once the files are here\n" in said.out
    assert "--contact YOU@EXAMPLE.ORG or $NINEREC_CONTACT" in said.out
    assert not site.home.exists()
    assert not site.origin.requests


def test_dry_run_shows_hosts_with_estimates(site: Site) -> None:
    mapping = site.catalog.parent / "own.csv"
    mapping.write_bytes(site.files["data.example/one_url.csv"])
    words = ("one", "--dry-run", "--parts", "covers", "--mapping", mapping, "--contact", "a@b.c")
    lines = site(*words, "--concurrency", "pictures.example=2", mirror=False).out.splitlines()
    assert lines[1].split() == ["one", "0", "4", "0", "0"]
    assert lines[4].split() == [
        *("pictures.example", "4", "4", "~160.0", "kB", "no", "limit", "2", "to", "2", "1", "s"),
        *("may", "be", "asked"),
    ]
    made = json.loads(site(*words, "--json", mirror=False).out)
    assert (made["files"], made["left_out"]) == ({}, {})
    assert made["covers"] == {"one": {"held": 0, "to_ask": 4, "unmapped": 0, "settled": 0}}
    assert [(host["host"], host["requests"]) for host in made["hosts"]] == [("pictures.example", 4)]
    assert not site.home.exists()


def test_terms_are_accepted_once(site: Site) -> None:
    said = site("one", "two")
    check_refusal(said, 5, "(one, two)", "--accept-terms")
    assert "Drawn for tests of one." in said.err
    assert "Drawn for tests of two." in said.err
    assert not site.origin.requests
    assert not site.home.exists()
    assert site("one", "--parts", "titles", "--accept-terms").code == 0
    assert json.loads((site.home / "raw/terms.json").read_text())["one"]["how"] == "--accept-terms"
    again = site("one", "--parts", "titles")
    assert (again.code, "Drawn for tests" in again.err) == (0, False)
    check_refusal(site("one", "two"), 5, "(two)")


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 5), ("", 5)])
def test_terms_are_asked_for_on_a_terminal(
    site: Site, monkeypatch: Patch, typed: str, code: int
) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    said = site("one", "--parts", "titles", "--json")
    assert (said.code, "accept? [y/N] " in said.err) == (code, True)
    assert (site.home / "raw/terms.json").exists() == (code == 0)
    if code == 0:
        assert json.loads(said.out) == {"one": {"titles": {"OK": 1}}}


def test_json_is_one_document(site: Site) -> None:
    said = site("one", "two", "one", "--accept-terms", "--json")
    parts = {"interactions": {"OK": 1}, "titles": {"OK": 1}, "covers": {"OK": 4, "UNMAPPED": 1}}
    assert json.loads(said.out) == {"one": parts, "two": parts}


def test_what_is_blocked_or_gone_is_asked_again_as_told(site: Site) -> None:
    gone, blocked = (f"pictures.example/one/{n}.jpg" for n in (0, 3))
    site.faults |= {gone: "404", blocked: "captcha"}
    said = site("one", "--accept-terms", "--concurrency", "pictures.example=1")
    assert said.code == 4
    counts = [line.split() for line in said.out.splitlines()]
    assert counts[0][2:] == ["OK", "GONE", "BLOCKED", "UNMAPPED"]
    assert counts[3][2:] == ["2", "1", "1", "1"]
    assert "pictures.example is blocked until " in said.err
    assert "asked again by the same command, later" in said.err
    assert "1 GONE were seen so once" in said.err
    assert "--retry gone" in said.err
    asked = site.asked()
    assert site("one", "--retry", "none").code == 4
    assert site.asked() == asked
    site.faults.clear()
    assert site("one", "--retry", "gone").code == 4  # the host is not asked before its time
    assert site.asked() == asked


def test_second_run_asks_nobody_for_what_is_held(site: Site) -> None:
    site.faults["pictures.example/one/1.jpg"] = "404"
    assert site("one", "--accept-terms").code == 0
    asked = site.asked()
    said = site("one", "--retry", "BLOCKED, transient")
    assert (said.code, site.asked()) == (0, asked)
    assert "plan: covers: 3 held, 1 unmapped, 1 settled\nplan: nothing to fetch\n" in said.err
    del site.faults["pictures.example/one/1.jpg"]
    again = site("one", "--retry", "gone", "--json")
    assert json.loads(again.out)["one"]["covers"] == {"OK": 4, "UNMAPPED": 1}
    assert site.asked() == asked + 1


def test_offline_asks_nobody_and_needs_no_terms(site: Site) -> None:
    said = site("one", "--offline", mirror=False)
    assert said.code == 4
    assert not site.origin.requests
    assert "terms of use" not in said.err
    assert "--contact" not in said.err


def test_file_to_be_fetched_by_hand_ends_with_3_and_its_command(site: Site) -> None:
    said = site("handy", "--accept-terms")
    assert said.code == 3
    assert "plan: by hand: handy: interactions, titles: made here" in said.err
    assert said.err.splitlines()[-1].endswith("then: ninerec import handy PATH")
    assert not site.origin.requests


def test_all_takes_what_can_be_fetched_and_says_what_cannot(site: Site, monkeypatch: Patch) -> None:
    own = {name: entry for name, entry in catalog().items() if name in ("one", "two", "handy")}
    monkeypatch.setattr("ninerec.download.catalog", lambda: own)
    made = json.loads(site("--all", "--dry-run", "--json").out)
    assert list(made["covers"]) == ["one", "two"]
    assert [list(made["left_out"]), len(made["left_out"]["handy"])] == [["handy"], 1]
    said = site("--all", "--accept-terms", "--json")
    assert (said.code, list(json.loads(said.out))) == (0, ["one", "two"])
    assert "left out, for a person must fetch them: handy\n" in said.err
    assert said.err.splitlines()[-1].endswith("then: ninerec import handy PATH")
    assert "Drawn for tests of handy." not in said.err
    assert "next: ninerec prepare one (likewise two)\n" in said.err


def test_alias_stands_for_its_dataset(site: Site) -> None:
    made = json.loads(site("mind", "mind_small", "--dry-run", "--json").out)
    assert {file["datasets"][0] for file in made["files"].values()} == {"mind_small"}
    assert [len(file["datasets"]) for file in made["files"].values()] == [1, 1]


def test_who_asks_is_said_to_the_site(site: Site, monkeypatch: Patch) -> None:
    monkeypatch.setenv("NINEREC_CONTACT", "a@b.example")
    site("one", "--accept-terms")
    agents = {headers["User-Agent"] for headers in site.origin.headers.values()}
    assert len(agents) == 1
    assert agents.pop().endswith(" (research dataset downloader; a@b.example)")


def test_covers_that_another_machine_had_are_expected(site: Site, tmp_path: Path) -> None:
    site("one", "--accept-terms")
    (path,) = site.home.glob("raw/files/*/one/covers.provenance.parquet")
    site.files["pictures.example/one/2.jpg"] = draw("", "another")
    words = ("one", "--accept-terms", "--home", tmp_path / "second", "--expect", path, "--json")
    assert json.loads(site(*words).out)["one"]["covers"] == {"OK": 3, "REJECTED": 1, "UNMAPPED": 1}
    check_refusal(site("two", "--expect", path), 2, path, "is of one", "--expect")
    check_refusal(site("one", "--expect", path, "--cover-size", "small"), 2, "--cover-size")


def test_placeholder_of_ones_own_is_gone(site: Site) -> None:
    digest = hashlib.sha256(site.files["pictures.example/one/2.jpg"]).hexdigest().upper()
    said = site("one", "--accept-terms", "--placeholder", digest, "--json")
    assert json.loads(said.out)["one"]["covers"] == {"GONE": 1, "OK": 3, "UNMAPPED": 1}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["--all"]),
        ("one --all", ["--all", "not both"]),
        ("on", ["unknown dataset 'on'", "did you mean 'one'?"]),
        ("one --parts covrs", ["'covrs'", "did you mean 'covers'?"]),
        ("one --retry gon", ["'gon'", "did you mean 'gone'?", "opted_out"]),
        ("one --retry none,gone", ["'none'"]),
        ("one --retry ok", ["'ok'"]),
        ("one --rate pictures.example", ["'pictures.example'", "HOST=N"]),
        ("one --rate pictures.example=0", ["'pictures.example=0'", "above 0"]),
        ("one --rate pictures.example=nan", ["above 0"]),
        ("one --rate =2", ["'=2'"]),
        ("one --concurrency pictures.example=1.5", ["whole number"]),
        ("one two --mapping own.csv", ["own.csv", "one dataset"]),
        ("one --mirror http://[", ["'http://['", "no base"]),
        ("one --mirror data.example", ["'data.example'"]),
        ("one --placeholder abc", ["'abc'", "64 hex digits"]),
        ("one --expect nothing.parquet", ["nothing.parquet", "covers.provenance.parquet"]),
        ("one --contact a\nb", [r"'a\nb'", "--contact"]),
        ("one --keep all", ["'all'"]),
    ],
)
def test_wrong_use_is_one_message(site: Site, words: str, parts: list[str]) -> None:
    said = site(*words.split(" ") if words else (), mirror=False)
    check_refusal(said, 2, *parts)
    assert not site.home.exists()


def test_mapping_that_is_not_there(site: Site) -> None:
    check_refusal(site("one", "--mapping", "own.csv"), 3, "own.csv")


def test_backup_that_no_server_gives_is_the_networks_fault(site: Site) -> None:
    words = ("one", "--accept-terms", "--parts", "covers")
    site.faults["backup.example/covers.zip"] = "401"
    said = site(*words, "--backup", "https://backup.example/covers.zip")
    assert said.code == 4
    assert said.err.splitlines()[-1].startswith(
        "error: --backup https://backup.example/covers.zip cannot be had: CONFIG http_401"
    )


def test_another_download_at_work_and_a_damaged_journal(site: Site, tmp_path: Path) -> None:
    from ninerec_data.files import lock

    with lock(site.home / "raw/.download.lock"):
        check_refusal(site("one", "--accept-terms"), 2, ".download.lock", "wait for it to end")
    (site.home / "raw/journal.sqlite").write_bytes(b"no database, but long enough for one" * 99)
    check_refusal(site("one", "--accept-terms"), 1, "journal.sqlite")


# ---------------------------------------------------------------- stopped


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("looped", [False, True])
def test_signal_ends_it_in_order(
    site: Site, monkeypatch: Patch, number: int, code: int, looped: bool
) -> None:
    ended: list[str] = []

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), number)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)  # the loop still works
            ended.append("loop")

    def stopped(*_: object) -> Report:
        try:
            if looped:
                asyncio.run(wait())
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            ended.append("account")
        return Report()

    monkeypatch.setattr(downloading, "download", stopped)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    said = site("one", "--accept-terms", "--json")
    assert (said.code, said.out) == (code, "{}\n")
    assert ended == ["loop", "account"][not looped :]
    assert said.err.endswith("what was fetched is kept, and the same command goes on from there\n")
    assert {n: signal.getsignal(n) for n in before} == before


def test_real_run_keeps_what_it_got_and_goes_on(site: Site, monkeypatch: Patch) -> None:
    settled = View.settled

    def stop(self: View, *told: Any) -> None:
        settled(self, *told)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(View, "settled", stop)
        said = site("one", "--accept-terms", "--concurrency", "pictures.example=1")
    assert said.code == 130
    assert re.search(
        r"one +covers +1 +3 +1\n", said.out
    )  # OK, TRANSIENT, UNMAPPED: what it came to
    asked = site.asked("pictures.example")
    assert asked <= 2  # one settled, one on its way
    counts = json.loads(site("one", "--json").out)["one"]["covers"]
    assert counts == {"OK": 4, "UNMAPPED": 1}
    assert site.asked("pictures.example") <= 5


def test_second_signal_ends_it_at_once() -> None:
    code = """if True:
        import os, signal, sys, time
        from ninerec.download import _stopping
        with _stopping():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                print("still at it", flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
                print("never said", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (143, "still at it\n")
    assert done.stderr == "stopping (again: at once)\n"


def test_what_is_ignored_stays_so() -> None:
    code = """if True:
        import os, signal
        from ninerec.download import _stopping
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with _stopping() as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
        print(stopped)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n")


# ---------------------------------------------------------------- shown


def test_plain_lines_where_there_is_no_terminal(capsys: Captured) -> None:
    with View(every=0.01) as view:
        view.say("covers of one are gone")
        view.file("one.zip", 1_500_000, 3_000_000)
        time.sleep(0.05)
        view.file("one.zip", 3_000_000, None)
        time.sleep(0.05)
        view.end()
    err = capsys.readouterr().err
    assert err.startswith("covers of one are gone\n")
    assert "\none.zip: 1.5 MB of 3.0 MB, " in err
    assert "\none.zip: 3.0 MB, " in err
    assert "\r" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(site: Site, monkeypatch: Patch) -> None:
    for n in range(COVERS):
        site.faults[f"pictures.example/one/{n}.jpg"] = "slow_body:20000"
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        patch.setattr("ninerec.download_view.BEAT", 0.02)
        assert site("one", "--accept-terms").code == 0
    drawn = terminal.getvalue()
    assert "\rcovers: 0 of 4 settled" in drawn
    assert "pictures.example: 0 of 4, 4 at once" in drawn


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.1, "1 s"), (80, "80 s"), (600, "10 min"), (9000, "2.5 h"), (260_000, "3.0 days")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_outcomes_are_those_that_retry_names(capsys: Captured) -> None:
    names = [o.lower() for o in Outcome if o not in ("OK", "OK_BACKUP")]
    said = say(capsys, "download", "one", "--retry", "x")
    assert ", ".join(names) in said.err
