"""The account of every item: one row each, failures included, readable anywhere, without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from origins import NAME, World, at, cover, page
from test_download_prepare import IDS, SMALL, Calm, made, mapped, said, take_in

from downloader.download import download
from downloader.options import Tell
from downloader.origin_pages import draw
from ninerec_data.catalog import find
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.home import Home
from ninerec_data.item_journal import item_journal
from ninerec_data.outcomes import Outcome
from ninerec_data.pictures import Recipe
from ninerec_data.provenance import (
    SCHEMA,
    DownloadedCovers,
    codecs_hash,
    finish_downloads,
    release_covers,
)
from ninerec_data.raw import held_files

DAY = 86_400.0
T0 = datetime(2031, 5, 6, 7, 8, 9, 250_000, UTC)


def path_of(home: Home, name: str = NAME) -> Path:
    return home.raw / "files" / name / name / "covers.provenance.parquet"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The journal's clock: what is in the list."""
    seconds = [T0.timestamp()]
    monkeypatch.setattr("ninerec_data.item_journal.time.time", lambda: seconds[0])
    return seconds


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """One item of each kind of end; no release is held."""
    items = {
        "ok": at("bilibili", "BV1"),
        "twin": at("bilibili", "BV1"),
        "gone": at("qpic", "p1"),
        "page": at("plain", "page"),
        "ftp": "ftp://pictures.example/a.jpg",
        "late": at("plain", "late"),
    }
    with Calm(tmp_path, monkeypatch, items) as started:
        started.faults[cover("qpic", "p1")] = "404"
        started.faults[cover("plain", "page")] = "html"
        started.faults[cover("plain", "late")] = "503"
        yield started


# The rows


def test_every_item_has_one_row_and_the_sums_are_the_report_s(world: World) -> None:
    report = world.download()
    assert world.outcomes() == {
        "ok": "OK",
        "twin": "OK",
        "gone": "GONE http_404",
        "page": "BLOCKED html",  # its host gave no picture
        "ftp": "CONFIG scheme",
        "late": "TRANSIENT http_503",
    }
    table = pq.read_table(path_of(world.home))
    assert table["item_id"].to_pylist() == sorted(world.urls[NAME])
    counted = dict(pl.from_arrow(table)["outcome"].value_counts().iter_rows())
    assert counted == report.counts[NAME]["covers"]
    assert set(counted) <= set(Outcome)


def test_a_row_of_a_cover_says_all_that_is_known_of_it(world: World, now: list[float]) -> None:
    world.download(keep="both", recipe=SMALL)
    row = world.rows()["ok"]
    made_at = {name: row.pop(name) for name in ("first_seen", "last_seen")}
    assert made_at == dict.fromkeys(made_at, T0)
    assert world.bytes_of("ok") == draw("bilibili", "BV1")
    url = f"https://{cover('bilibili', 'BV1')}"
    held = {name: row.pop(name) for name in ("sha256", "resized", "resized_size", "etag")}
    assert all(held.values())
    assert row == {
        "item_id": "ok",
        "outcome": "OK",
        "reason": "",
        "detail": "",
        "source": url.split("/")[2],
        "raw_url": at("bilibili", "BV1"),
        "final_url": url,
        "modified": "Wed, 01 Mar 2023 00:00:00 GMT",
        "variant": "",
        "kind": "jpeg",
        "recipe": SMALL.hash,
        "codecs": codecs_hash(),
        "title": "Title of BV1 标题",
        "status": 200,
        "hops": 0,
        "width": 160,
        "height": 100,
        "attempts": 1,
        "size": len(draw("bilibili", "BV1")),
        "kept": True,
        "confirmed": False,
    }


def test_a_row_of_a_failure_says_why_and_names_no_picture(world: World, now: list[float]) -> None:
    world.download()
    row = world.rows()["gone"]
    assert (row["status"], row["attempts"], row["raw_url"]) == (404, 1, at("qpic", "p1"))
    empty = ("sha256", "size", "kind", "width", "kept", "resized", "final_url")
    assert [row[name] for name in empty] == [None] * len(empty)
    assert (row["first_seen"], row["last_seen"]) == (T0, T0)
    row = world.rows()["ftp"]
    assert row["raw_url"] == "ftp://pictures.example/a.jpg"
    assert (row["attempts"], row["first_seen"], row["last_seen"]) == (None, None, None)


def test_types_and_times_are_plain_to_polars_and_pandas(world: World, now: list[float]) -> None:
    world.download()
    path = path_of(world.home)
    assert pq.read_schema(path).remove_metadata() == SCHEMA
    frame = pl.read_parquet(path)
    assert frame.schema["last_seen"] == pl.Datetime("ms", "UTC")
    assert frame.filter(item_id="ok")["last_seen"].item() == T0
    pandas = pytest.importorskip("pandas")
    plain = pandas.read_parquet(path).set_index("item_id")
    assert plain.loc["ok", "last_seen"] == pandas.Timestamp(T0)
    assert str(plain["last_seen"].dt.tz) == "UTC"
    assert plain.loc["gone", "status"] == 404
    assert plain.loc["page", "outcome"] == "BLOCKED"
    assert list(plain.index) == frame["item_id"].to_list()


def test_the_same_journal_gives_the_same_bytes(world: World) -> None:
    world.download()
    path = path_of(world.home)
    before = path.read_bytes()
    world.download(retry=())
    assert path.read_bytes() == before


def test_what_was_never_asked_for_is_transient_without_a_time(world: World) -> None:
    report = world.download(offline=True)
    assert report.counts[NAME]["covers"] == {"CONFIG": 1, "TRANSIENT": 5}
    assert report.exit_code == 4
    row = world.rows()["ok"]
    assert (row["outcome"], row["first_seen"], row["last_seen"]) == ("TRANSIENT", None, None)


# Tombstones


def test_a_tombstone_is_confirmed_by_a_second_look_a_day_later(
    world: World, now: list[float]
) -> None:
    looks: list[tuple[float, bool]] = []
    for after in (0, DAY - 1, DAY):
        now[0] = T0.timestamp() + after
        world.download(retry=(Outcome.GONE,))
        looks.append((after, world.rows()["gone"]["confirmed"]))
    assert looks == [(0, False), (DAY - 1, False), (DAY, True)]
    row = world.rows()["gone"]
    assert (row["first_seen"], row["last_seen"]) == (T0, T0 + timedelta(days=1))
    assert row["attempts"] == 3


def test_time_alone_confirms_nothing_and_a_block_begins_anew(
    world: World, now: list[float]
) -> None:
    world.download()
    now[0] += 2 * DAY
    world.download()  # GONE is not asked again
    assert not world.rows()["gone"]["confirmed"]
    world.faults[cover("qpic", "p1")] = "503"
    world.download(retry=(Outcome.GONE,))
    assert world.outcomes()["gone"] == "TRANSIENT http_503"
    world.faults[cover("qpic", "p1")] = "404"
    world.download()
    assert world.outcomes()["gone"] == "GONE http_404"
    assert not world.rows()["gone"]["confirmed"]


def test_a_cover_that_is_held_stays_held_when_its_address_is_gone(world: World) -> None:
    world.download(keep="resized", recipe=SMALL)
    world.faults[page("bilibili", "BV1")] = "gone_page"
    world.download(keep="original")
    row = world.rows()["ok"]
    assert (row["outcome"], row["kept"], row["confirmed"]) == ("OK", False, False)


# Backups


def test_a_hit_in_a_backup_says_where(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup" / "deep"
    folder.mkdir(parents=True)
    for item_id in ("gone", "ftp", "ok"):
        (folder / f"{item_id}.jpg").write_bytes(draw("backup", item_id))
    report = world.download(backup=(str(tmp_path / "backup"),))
    assert report.counts[NAME]["covers"] == {"BLOCKED": 1, "OK": 2, "OK_BACKUP": 2, "TRANSIENT": 1}
    row = world.rows()["gone"]
    assert row["source"] == str(folder / "gone.jpg")
    assert (row["reason"], row["confirmed"], row["kept"]) == ("", False, True)
    assert world.bytes_of("gone") == draw("backup", "gone")
    assert world.rows()["ok"]["source"] == cover("bilibili", "BV1").split("/")[0]


# Secrets

USER, WORD, MARK = "someone", "pass0word", "5ecret5ignature"


def raw_bytes(home: Home) -> bytes:
    """Every byte under raw/ but those of the mapping and the pictures."""
    files = (path for path in home.raw.rglob("*") if path.is_file() and "blobs" not in path.parts)
    return b"".join(path.read_bytes() for path in files)


class Seen(Tell):
    """Everything that is told, and the journal as it is in the middle of a run."""

    def __init__(self, home: Home) -> None:
        self.home, self.text = home, b""

    def say(self, text: str) -> None:
        self.text += text.encode()

    def settled(self, *_: Any) -> None:
        self.text += raw_bytes(self.home)


def test_no_signed_address_is_kept_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {
        "douyin": at("douyin", "7"),
        "kuaishou": at("kuaishou", "k"),
        "led": at("plain", "led"),
        "refused": at("plain", "refused"),
    }
    signed = f"X-Amz-Signature={MARK}&Expires=99"
    with Calm(tmp_path, monkeypatch, items) as world:
        there = "pictures.example/there.jpg"
        world.origin.sites.files[there] = draw("plain", "there")  # type: ignore[index]
        world.faults[cover("plain", "led")] = f"redirect:https://{there}?{signed}"
        world.faults[cover("plain", "refused")] = f"redirect:https://10.0.0.1/x.jpg?{signed}"
        seen = Seen(world.home)
        report = download(world.home, world.entries, world.options(), seen)
        assert report.counts[NAME]["covers"] == {"OK": 3, "REJECTED": 1}
        assert world.asked(f"{there}?{signed}") == 1
        assert world.rows()["led"]["final_url"] == f"https://{there}?..."
        everything = seen.text + raw_bytes(world.home) + repr(report).encode()
        for word in (MARK, "x-signature", "x-expires=", "clientCacheKey", "tag=1-"):
            assert word.encode() not in everything, word


def test_no_password_of_a_backup_is_kept_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"backup.example/{NAME}/v1.jpg": draw("backup", "v1")}
    with Calm(tmp_path, monkeypatch, mapped(IDS[:3]), files=files) as world:
        world.faults["puui.qpic.cn"] = "404"
        spec = f"https://{USER}:{WORD}@backup.example/{{dataset}}/{{item}}.jpg?token={MARK}"
        world.download(backup=(spec,))
        assert world.outcomes() == {"v0": "GONE http_404", "v1": "OK_BACKUP", "v2": "GONE http_404"}
        assert world.rows()["v1"]["source"] == f"https://backup.example/{NAME}/v1.jpg?..."
        for word in (WORD, MARK, f"{USER}:"):
            assert word.encode() not in raw_bytes(world.home), word


def test_no_password_or_signature_of_a_mapping_is_in_the_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = {
        "a": f"https://{USER}:{WORD}@pictures.example/a.jpg",
        "b": f"https://pictures.example/b.jpg?token={MARK}",
    }
    with Calm(tmp_path, monkeypatch, items) as world:
        world.download()
        assert world.rows()["b"]["outcome"] == "OK"
        for word in (WORD, MARK):
            assert word.encode() not in path_of(world.home).read_bytes(), word


# Reading it


@pytest.mark.parametrize("harm", ["cut", "text", "empty"])
def test_a_damaged_provenance_is_one_error_that_says_what_to_do(
    world: World, tmp_path: Path, harm: str
) -> None:
    world.map(mapped(start="q"))
    take_in(world.home, tmp_path / "tables")
    world.download()
    path = path_of(world.home)
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"no parquet", "empty": b""}[harm])
    with pytest.raises(CheckFailed, match=f"ninerec download {NAME} --parts covers") as told:
        made(world.home)
    assert str(path) in str(told.value)
    world.download()
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


def test_a_lost_provenance_is_written_anew_by_the_next_download(
    world: World, tmp_path: Path
) -> None:
    world.map(mapped(start="q"))
    take_in(world.home, tmp_path / "tables")
    world.download()
    asked = world.asked("")
    path_of(world.home).unlink()
    with pytest.raises(MissingData, match=f"ninerec download {NAME} --parts covers"):
        made(world.home)
    world.download()
    assert world.asked("") == asked
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


def test_provenance_of_a_killed_download_is_written_once_it_is_wanted(world: World) -> None:
    entry = find(NAME)[0]
    world.download()
    before = path_of(world.home).read_bytes()
    path_of(world.home).unlink()
    finish_downloads(world.home, entry)  # it ended: nothing to finish
    assert not path_of(world.home).exists()
    with item_journal(world.home) as items:
        known = items.download(NAME)
        known["is_open"] = bool(known.pop("open")) or True
        items.mark(NAME, **known)
    finish_downloads(world.home, entry)
    assert path_of(world.home).read_bytes() == before
    assert held_files(world.home, NAME)["covers"].path == path_of(world.home)
    assert release_covers(world.home, entry) is None


def test_a_home_without_downloads_is_left_as_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    finish_downloads(home, find("bili_food")[0])
    assert not home.raw.exists()


def test_the_provenance_may_move_with_its_home(world: World, tmp_path: Path) -> None:
    """Blobs are found from where the provenance lies, not from where it was written."""
    world.download(keep="both", recipe=SMALL)
    moved = world.home.root.rename(tmp_path / "moved")
    source = DownloadedCovers(path_of(Home(moved)))
    assert [file.name for file in source.found()] == ["ok", "twin"]
    assert source.read("ok") == source.read("twin") == draw("bilibili", "BV1")
    assert len(source.stock(SMALL)) == 1
    assert source.stock(Recipe(size=64)) == {}
    assert all(stocked.path and stocked.path.exists() for stocked in source.stock(SMALL).values())


def test_a_newer_provenance_may_have_more_columns(world: World) -> None:
    world.download()
    table = pq.read_table(path_of(world.home))
    more = table.append_column("more", pa.array(["x"] * len(table)))
    pq.write_table(more, path_of(world.home))
    assert len(DownloadedCovers(path_of(world.home)).found()) == 2
