"""A download killed at any moment: nothing is lost or stored twice, and the next run ends as an undisturbed one."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from origins import NAME, World, at, page

from downloader.covers import Covers
from downloader.items import ItemsRun
from downloader.origin_pages import draw
from downloader.politeness import Governor, Governors
from ninerec_data import provenance
from ninerec_data.blobs import Blobs
from ninerec_data.item_journal import ItemJournal, item_journal

REPOSITORY = Path(__file__).resolve().parents[1]
ITEMS = {
    **{f"q{n}": at("qpic", f"a{n}") for n in range(6)},
    **{f"b{n}": at("bilibili", f"BV{n:010d}") for n in range(3)},
    "shared": at("bilibili", "BV0000000001"),
    "gone": at("qpic", "gone"),
    "kept": at("qpic", "kept"),  # gone, and in the backup
    "tiny": at("plain", "tiny"),
}
UNSAID = {"attempts", "first_seen", "last_seen"}  # what a kill may change
Row = dict[str, Any]


class Killed(BaseException):
    """The process ends here, as far as the disk can tell."""


@pytest.fixture
def calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The undisturbed run."""
    with world(tmp_path / "calm", monkeypatch) as made:
        run(made)
        yield made


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The same, before any run."""
    with world(tmp_path / "killed", monkeypatch) as made:
        yield made


def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (folder / "backup").mkdir(parents=True)
    (folder / "backup" / "kept.jpg").write_bytes(draw("backup", "kept"))
    made = World(folder, monkeypatch, ITEMS, gone={"gone", "kept"})
    made.faults |= {"pictures.example/tiny.jpg": "pixel", page("bilibili", "BV0000000002"): ["503"]}
    return made


def run(world: World) -> None:
    folder = world.home.root.parent / "backup"
    world.download(backup=(str(folder),), jobs=1)


def dies(function: Callable[..., Any], *, at: int, after: bool = False) -> Callable[..., Any]:
    """The function, which ends the process before, or after, its call number `at` (0, 1, ...)."""
    calls = itertools.count()

    def call(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        done = function(*args, **kwargs) if number < at + after else None
        if number >= at:
            raise Killed
        return done

    return call


def kill(world: World, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, **when: Any) -> None:
    """Run until a function ends the process; from then on nothing more is written."""
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, dies(getattr(owner, name), **when))
        if name != "_account" and owner is not provenance:
            patched.setattr(ItemsRun, "_account", lambda *_: None)
        with pytest.raises(Killed):
            run(world)


def account(world: World) -> dict[str, Row]:
    """Item -> its row of the provenance, but for times, attempts and where the home is."""
    rows = world.rows()
    for row in rows.values():
        row["source"] = (row["source"] or "").replace(str(world.home.root.parent), "")
    return {i: {k: v for k, v in row.items() if k not in UNSAID} for i, row in rows.items()}


def blobs(world: World) -> set[str]:
    """The blobs' names; each must be the sha256 of what it holds, and nothing else may lie there."""
    names = {path.name for path in (world.home.raw / "blobs").glob("*/*")}
    for name in names:
        Blobs(world.home).read(name)
    return names


def asked_again(world: World, calm: World) -> Counter[str]:
    """HOST/PATH -> times that it was asked beyond the undisturbed run; robots.txt is asked once a run."""
    more = world.origin.requests - calm.origin.requests
    return Counter({key: n for key, n in more.items() if not key.endswith("/robots.txt")})


def same(world: World, calm: World) -> None:
    assert account(world) == account(calm)
    assert blobs(world) == blobs(calm)
    files = [
        {str(path.relative_to(w.home.root)) for path in w.home.root.rglob("*")}
        for w in (world, calm)
    ]
    assert files[0] == files[1]


def test_the_undisturbed_run_has_every_kind_of_end(calm: World) -> None:
    ends = {
        **dict.fromkeys(ITEMS, "OK"),
        "gone": "GONE http_404",
        "kept": "OK_BACKUP",
        "tiny": "REJECTED tiny",
    }
    assert calm.outcomes() == ends
    assert len(blobs(calm)) == 10  # the shared page's picture once


@pytest.mark.parametrize("number", [0, 1, 5, 9])
@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (ItemJournal, "answered", False),  # the blob has its name, the journal knows of nothing
        (ItemJournal, "answered", True),  # the journal knows, the provenance does not
    ],
)
def test_killed_beside_a_commit(
    calm: World,
    killed: World,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    after: bool,
    number: int,
) -> None:
    kill(killed, monkeypatch, owner, name, at=number, after=after)
    known = committed(killed)
    assert len(known) == number + after
    assert blobs(killed) <= blobs(calm)
    before = Counter(killed.origin.requests)
    run(killed)
    same(killed, calm)
    again = killed.origin.requests - before
    assert not {key for key in again if key in known}  # what was committed is not asked for again
    assert max(asked_again(killed, calm).values(), default=0) <= 1


def committed(world: World) -> set[str]:
    """HOST/PATH of the addresses that have an outcome in the journal."""
    with item_journal(world.home) as items:
        rows = items._db.execute("select url from urls where outcome is not null").fetchall()
    return {url.partition("//")[2].replace("m.bilibili", "www.bilibili") for (url,) in rows}


def test_killed_before_anything_is_asked(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(killed, monkeypatch, Covers, "run", at=0)
    assert killed.asked("") == 0
    run(killed)
    same(killed, calm)
    assert not asked_again(killed, calm)


def test_killed_between_blob_and_backup(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(killed, monkeypatch, ItemJournal, "from_backup", at=0)
    assert blobs(killed) == blobs(calm)
    run(killed)
    same(killed, calm)
    assert not asked_again(killed, calm)


def test_killed_between_the_last_commit_and_the_provenance(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(killed, monkeypatch, ItemsRun, "_account", at=0)
    assert not list(killed.home.raw.rglob("*.parquet"))
    run(killed)
    same(killed, calm)
    assert not asked_again(killed, calm)


@pytest.mark.parametrize(
    ("name", "number"), [("atomic_write", 0), ("atomic_write", 1), ("hold", 0)]
)
def test_killed_while_the_provenance_is_put_in_place(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    kill(killed, monkeypatch, provenance, name, at=number)
    run(killed)
    same(killed, calm)
    assert not asked_again(killed, calm)


def test_a_killed_second_run_leaves_the_provenance_of_the_first(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(killed)
    before = account(killed)
    killed.map({**ITEMS, "late": at("qpic", "late")})
    kill(killed, monkeypatch, provenance, "atomic_write", at=0)
    assert account(killed) == before
    run(killed)
    assert killed.outcomes() == {**calm.outcomes(), "late": "OK"}


@pytest.mark.parametrize(("fault", "until"), [("429:900", "paused_until"), ("412", "open_until")])
def test_what_a_host_asked_for_outlives_a_kill(
    killed: World, monkeypatch: pytest.MonkeyPatch, fault: str, until: str
) -> None:
    killed.faults["puui.qpic.cn"] = fault
    name = "throttled" if fault.startswith("429") else "block"
    with monkeypatch.context() as patched:
        patched.setattr(Governors, "states", lambda _: [])  # nothing is saved at the end
        kill(killed, monkeypatch, Governor, name, at=0, after=True)
    with item_journal(killed.home) as items:
        (state,) = items.hosts().values()
    assert state["host"] == "puui.qpic.cn"
    assert state[until] > time.time() + 600


def test_blobs_that_were_being_written_are_cleared(calm: World, killed: World) -> None:
    for name in ("aa/.tmp-1", "aa/.tmp-2", "00/.tmp-3"):
        path = killed.home.raw / "blobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    run(killed)
    assert blobs(killed) == blobs(calm)


@pytest.mark.parametrize("name", ["covers.provenance.parquet", "page_titles.parquet"])
def test_a_provenance_that_was_being_written_is_cleared(
    calm: World, killed: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kill(killed, monkeypatch, ItemsRun, "_account", at=0)
    folder = killed.home.raw / "files" / NAME / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{name}.a1b2c3_4").write_bytes(b"half")
    run(killed)
    same(killed, calm)


def test_downloads_killed_at_random_moments_end_as_an_undisturbed_one() -> None:
    """The benchmark itself, on 200 items and five kills."""
    words = ["benchmarks/kill_download.py", "--items", "200", "--rounds", "5", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 5
    assert found["completed_and_identical"] == 5 + found["runs_that_ended_before_their_kill"]
    assert {said.partition(" ")[0] for said in found["outcomes"]} == {
        *("OK", "OK_BACKUP", "GONE", "REJECTED")
    }
    assert sum(found["outcomes"].values()) == 200
