"""What was downloaded is prepared as if the same pictures had been imported, and only what changed is done again."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from origins import CATALOG, NAME, World, at, cover, page
from releases import digests, leftovers

from downloader.client import Deadlines
from downloader.download import download
from downloader.options import Options, Tell
from downloader.origin_pages import draw
from ninerec_data import shards
from ninerec_data.blobs import Blobs
from ninerec_data.catalog import find
from ninerec_data.cleaning import removable, remove
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.pictures import Recipe
from ninerec_data.prepare import CoverOptions, Prepared, prepare
from ninerec_data.raw import held_files
from ninerec_data.repair import repair
from ninerec_data.verify import verify

IDS = tuple(f"v{n}" for n in range(8))
SMALL = Recipe(size=48)
PATCHED = ("shards", "cover_plan", "cover_shards", "verify_covers")


class Calm(World):
    """Nothing is slow here on purpose, and a machine at other work may be."""

    def options(self, **more: Any) -> Options:
        return super().options(**{"deadlines": Deadlines(), **more})


def mapped(ids: Iterable[str] = IDS, platform: str = "qpic", start: str = "p") -> dict[str, str]:
    """Item -> address: p0, p1, ..."""
    return {item_id: at(platform, f"{start}{n}") for n, item_id in enumerate(ids)}


def write_release(
    folder: Path, ids: tuple[str, ...] = IDS, *, name: str = NAME, untitled: Iterable[str] = ()
) -> Path:
    """Eight users, each with six of the items; titles but for those of `untitled`."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(u, step, ids[(u + step) % len(ids)]) for u in range(8) for step in range(6)]
    rows = [f'u{u},"{item}",{1_600_000_000 + step}\n' for u, step, item in pairs]
    (folder / f"{name}_pair.csv").write_text("".join(rows), encoding="utf-8")
    titles = {i: "" if i in untitled else f"标题 {n}" for n, i in enumerate(ids)}
    rows = [f'"{i}",{title},{title and "Title"}\n' for i, title in titles.items()]
    (folder / f"{name}_item.csv").write_text("".join(rows), encoding="utf-8")
    return folder


def take_in(home: Home, folder: Path, ids: tuple[str, ...] = IDS, **more: Any) -> None:
    """Import the tables of a release."""
    name = more.get("name", NAME)
    import_release(home, find(name)[0], write_release(folder, ids, **more))


def made(home: Home, name: str = NAME, recipe: Recipe = SMALL, **covers: Any) -> Prepared:
    return prepare(home, find(name)[0], covers=CoverOptions(recipe=recipe, **covers))


def items_of(home: Home, name: str = NAME) -> dict[str, dict[str, Any]]:
    frame = pl.read_parquet(home.prepared(name) / "items.parquet")
    return {row["item_id"]: row for row in frame.iter_rows(named=True)}


def said(home: Home, name: str = NAME) -> dict[str, str]:
    """Item -> cover and reason."""
    rows = items_of(home, name).items()
    return {i: f"{row['cover']} {row['cover_reason'] or ''}".strip() for i, row in rows}


def covers_of(home: Home, name: str = NAME) -> dict[str, str]:
    return digests(home.prepared(name) / "covers")


def in_folder(folder: Path, pictures: Mapping[str, bytes], ids: tuple[str, ...] = IDS) -> Home:
    """A home that holds the release, and these pictures as its folder of covers, named by their ids."""
    write_release(folder / "release", ids)
    held = folder / "release" / f"{NAME}_cover"
    held.mkdir()
    for item_id, data in pictures.items():
        (held / item_id).write_bytes(data)
    import_release(Home(folder / "other"), find(NAME)[0], folder / "release")
    return Home(folder / "other")


def pictures_of(world: World, name: str = NAME) -> dict[str, bytes]:
    rows = world.rows(name).values()
    return {row["item_id"]: world.bytes_of(row["item_id"], name) for row in rows if row["sha256"]}


def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no picture may be decoded by `prepare`."""

    def make(*_: Any) -> None:
        pytest.fail("a picture was decoded")

    monkeypatch.setattr("ninerec_data.covers.make_picture", make)


def of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of three items."""
    for module in PATCHED:
        monkeypatch.setattr(f"ninerec_data.{module}.SHARD_ITEMS", 3)


def damage(path: Path) -> None:
    """The same size, other bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[World]:
    """Eight items at qpic, the release imported."""
    with Calm(tmp_path, monkeypatch, mapped()) as started:
        take_in(started.home, tmp_path / "tables")
        yield started


# The same bytes as an import


def test_what_is_prepared_is_that_of_a_folder_of_the_same_pictures(
    world: World, tmp_path: Path
) -> None:
    world.faults[cover("qpic", "p2")] = "404"
    world.map({i: url for i, url in mapped().items() if i != "v5"})
    world.download()
    made(world.home)
    assert said(world.home) == dict.fromkeys(IDS, "ok") | dict.fromkeys(
        ("v2", "v5"), "missing no_file"
    )
    assert world.outcomes()["v2"] == "GONE http_404"
    assert world.outcomes()["v5"] == "UNMAPPED"
    other = in_folder(tmp_path, pictures_of(world))
    made(other)
    whole = digests(world.home.prepared(NAME))
    assert whole == digests(other.prepared(NAME))
    assert len([name for name in whole if name.startswith("covers/")]) == 3
    assert all(verdict.ok is not False for verdict in verify(world.home.prepared(NAME)))


def test_nothing_prepared_tells_when_where_or_from_where(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.map(mapped(platform="bilibili", start="BV"))
    take_in(world.home, tmp_path / "again", untitled=("v1",))
    world.download()
    made(world.home)
    seen = b"".join(p.read_bytes() for p in world.home.prepared(NAME).rglob("*") if p.is_file())
    for word in (str(tmp_path), world.base, "http:", "bilibili", "hdslb", "attempts"):
        assert word.encode() not in seen, word
    monkeypatch.setattr("ninerec_data.item_journal.time.time", lambda: 2_000_000_000.0)
    elsewhere = Home(tmp_path / "elsewhere")
    take_in(elsewhere, tmp_path / "again", untitled=("v1",))
    download(elsewhere, world.entries, world.options())
    made(elsewhere)
    assert digests(elsewhere.prepared(NAME)) == digests(world.home.prepared(NAME))


def test_a_download_without_a_single_cover_is_prepared_all_missing(world: World) -> None:
    world.faults["*"] = "404"
    assert world.download().counts[NAME]["covers"] == {"GONE": 8}
    made(world.home)
    assert said(world.home) == dict.fromkeys(IDS, "missing no_file")


def test_covers_of_items_that_the_release_lacks_are_of_no_other_item(
    world: World, tmp_path: Path
) -> None:
    """An id of the mapping is an id, not the name of a file that is read in several ways."""
    world.map({**mapped(IDS[1:]), "z/v0": at("qpic", "other"), "v0.x": at("qpic", "third")})
    world.download()
    made(world.home)
    assert said(world.home)["v0"] == "missing no_file"


# Kept resized


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
def test_resized_covers_are_the_shards_of_the_originals_and_nothing_is_decoded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Any
) -> None:
    recipe = Recipe(size=48, fit=fit)
    world.download(keep="resized", recipe=recipe)
    blobs = Blobs(world.home)
    held = {path.name for path in blobs.folder.rglob("*") if path.is_file()}
    rows = world.rows().values()
    assert held == {row["resized"] for row in rows}
    assert not held & {row["sha256"] for row in rows}
    elsewhere = Home(tmp_path / "elsewhere")
    take_in(elsewhere, tmp_path / "tables")
    download(elsewhere, world.entries, world.options(keep="original"))
    made(elsewhere, recipe=recipe)
    undecoded(monkeypatch)
    made(world.home, recipe=recipe)
    assert digests(world.home.prepared(NAME)) == digests(elsewhere.prepared(NAME))
    assert set(said(world.home).values()) == {"ok"}


def test_another_recipe_than_that_of_the_download_is_one_error_and_its_command_helps(
    world: World,
) -> None:
    world.download(keep="resized", recipe=SMALL)
    with pytest.raises(CheckFailed, match=r"ninerec download \w+ --parts covers --keep original"):
        made(world.home, recipe=Recipe(size=64))
    assert leftovers(world.home.prepared(NAME).parent) == []
    made(world.home)
    world.download(keep="original")
    made(world.home, recipe=Recipe(size=64))
    assert set(said(world.home).values()) == {"ok"}
    assert world.asked("puui.qpic.cn") == 16


def test_a_damaged_resized_cover_is_broken_and_whole_again_once_it_is_fetched(
    world: World,
) -> None:
    world.download(keep="resized", recipe=SMALL)
    path = Blobs(world.home).path(world.rows()["v3"]["resized"])
    damage(path)
    made(world.home)
    assert said(world.home) == dict.fromkeys(IDS, "ok") | {"v3": "broken damaged"}
    path.unlink(missing_ok=True)
    world.download(recipe=SMALL)
    made(world.home)
    assert said(world.home)["v3"] == "ok"


def test_a_resized_cover_that_is_gone_is_broken_like_a_damaged_one(world: World) -> None:
    world.download(keep="resized", recipe=SMALL)
    Blobs(world.home).path(world.rows()["v3"]["resized"]).unlink()
    made(world.home)
    assert said(world.home)["v3"] == "broken damaged"


def test_kept_both_nothing_is_decoded_and_another_recipe_is_made_of_the_originals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.download(keep="both", recipe=SMALL)
    assert len([p for p in Blobs(world.home).folder.rglob("*") if p.is_file()]) == 16
    made(world.home, recipe=Recipe(size=64))
    assert set(said(world.home).values()) == {"ok"}
    undecoded(monkeypatch)
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


def test_kept_both_the_original_stands_in_for_a_damaged_resized_cover(
    world: World, tmp_path: Path
) -> None:
    world.download(keep="both", recipe=SMALL)
    other = in_folder(tmp_path, pictures_of(world))
    made(other)
    damage(Blobs(world.home).path(world.rows()["v3"]["resized"]))
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}
    assert covers_of(world.home) == covers_of(other)


def test_other_codecs_make_anew_what_was_kept_whole_and_keep_what_was_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.download(keep="both", recipe=SMALL)
    monkeypatch.setattr("ninerec_data.provenance.codecs_hash", lambda: "newer")
    with monkeypatch.context() as patch:
        undecoded(patch)
        with pytest.raises(pytest.fail.Exception, match="decoded"):
            made(world.home)
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


# What is done again


def test_one_more_cover_rewrites_one_shard_and_none_rewrites_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_three(monkeypatch)
    world.faults[cover("qpic", "p4")] = "404"
    world.download()
    assert made(world.home).done == ("tables", "covers", "split")
    before = covers_of(world.home)
    stamps = {p.name: p.stat().st_ino for p in world.home.prepared(NAME).glob("covers/*.tar")}
    world.download()
    assert made(world.home).done == ()
    world.faults.clear()
    world.download(retry=("GONE",))
    assert made(world.home).done == ("covers",)
    after = covers_of(world.home)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"00001.tar", "index.parquet", "manifest.json"}
    now = {p.name: p.stat().st_ino for p in world.home.prepared(NAME).glob("covers/*.tar")}
    assert [name for name in now if now[name] != stamps[name]] == ["00001.tar"]


class Stop(Tell):
    """Copies the raw store once so many covers are settled: what a kill would leave."""

    def __init__(self, home: Home, to: Path, after: int) -> None:
        self.home, self.to, self.left = home, to, after

    def settled(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            unfinished = shutil.ignore_patterns(".tmp-*")  # threads go on meanwhile
            shutil.copytree(self.home.raw, self.to / "raw", ignore=unfinished)


def test_a_killed_download_is_prepared_as_far_as_it_came_and_goes_on(
    world: World, tmp_path: Path
) -> None:
    killed = Home(tmp_path / "killed")
    download(world.home, world.entries, world.options(), Stop(world.home, killed.root, 3))
    assert (killed.raw / "journal.sqlite-wal").exists()
    assert not list(killed.raw.rglob("covers.provenance.parquet"))
    made(killed)
    found = list(said(killed).values())
    assert (found.count("ok"), found.count("missing no_file")) == (3, 5)
    assert made(killed).done == ()
    asked = world.asked("puui.qpic.cn")
    download(killed, world.entries, world.options())
    assert world.asked("puui.qpic.cn") == asked + 5
    made(killed)
    made(world.home)
    assert digests(killed.prepared(NAME)) == digests(world.home.prepared(NAME))


def test_a_killed_download_beside_covers_of_the_release_is_prepared_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_own(world, own_covers(tmp_path / "own", "folder", ("v0", "v1")))
    killed = Home(tmp_path / "killed")
    download(world.home, world.entries, world.options(), Stop(world.home, killed.root, 3))
    made(killed)
    assert list(said(killed).values()).count("ok") == 2 + 3
    undecoded(monkeypatch)
    assert made(killed).done == ()


# Titles of pages


def test_page_titles_fill_what_the_release_leaves_empty(world: World, tmp_path: Path) -> None:
    world.map(mapped(platform="bilibili", start="BV"))
    take_in(world.home, tmp_path / "again", untitled=("v1", "v2"))
    world.faults[page("bilibili", "BV2")] = "gone_page"
    world.download()
    made(world.home)
    rows = items_of(world.home)
    assert rows["v1"]["title_from"] == "page"
    assert rows["v1"]["title_zh"] == rows["v1"]["text_zh"] == "Title of BV1 标题"
    assert rows["v1"]["title_en"] is None
    assert [rows["v2"][name] for name in ("title_from", "title_zh", "text_zh")] == [None] * 3
    assert rows["v3"]["title_from"] == "release"
    assert rows["v3"]["title_zh"] == "标题 3"
    assert {row["title_from"] for i, row in rows.items() if i not in ("v1", "v2")} == {"release"}


def test_new_page_titles_rebuild_the_tables_and_none_leave_them(
    world: World, tmp_path: Path
) -> None:
    world.map(mapped(platform="bilibili", start="BV"))
    take_in(world.home, tmp_path / "again", untitled=("v1", "v2"))
    before = made(world.home)
    assert before.done == ("tables", "split")
    world.faults[page("bilibili", "BV1")] = world.faults[page("bilibili", "BV2")] = "gone_page"
    world.download()
    assert "page_titles" not in held_files(world.home, NAME)
    after = made(world.home)
    assert after.done == ("covers",)
    same = "items_without_covers"
    assert after.tables[same] == before.tables[same]
    world.faults.clear()
    world.download(retry=("GONE",))
    again = made(world.home)
    assert again.done == ("tables", "covers")
    assert again.tables[same] != before.tables[same]
    assert items_of(world.home)["v2"]["title_from"] == "page"
    assert made(world.home).done == ()


def test_where_every_item_has_a_title_no_page_title_is_kept(world: World) -> None:
    world.map(mapped(platform="bilibili", start="BV"))
    world.download()
    assert "page_titles" not in held_files(world.home, NAME)
    made(world.home)
    assert {row["title_from"] for row in items_of(world.home).values()} == {"release"}


# The release's own covers


def own_covers(folder: Path, kind: str, ids: Iterable[str]) -> Path:
    """Covers of a release as a folder or as a zip, that `import` takes."""
    held = folder / f"{NAME}_cover"
    held.mkdir(parents=True)
    for item_id in ids:
        (held / f"{item_id}.jpg").write_bytes(draw("own", item_id))
    if kind == "folder":
        return folder
    with zipfile.ZipFile(folder / f"{NAME}_cover.zip", "w") as archive:
        for file in sorted(held.iterdir()):
            archive.write(file, f"{NAME}_cover/{file.name}")
    shutil.rmtree(held)
    return folder


def hold_own(world: World, folder: Path) -> None:
    import_release(world.home, world.entries[0], folder)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_covers_of_the_release_and_fetched_ones_are_both_in_the_shards(
    world: World, tmp_path: Path, kind: str
) -> None:
    hold_own(world, own_covers(tmp_path / "own", kind, ("v0", "v1")))
    own = held_files(world.home, NAME)["covers"].path
    report = world.download()
    assert report.counts[NAME]["covers"] == {"OK": 8}
    assert world.asked("puui.qpic.cn") == 6
    held = held_files(world.home, NAME)
    assert held["release_covers"].path == own
    assert held["covers"].path.name == "covers.provenance.parquet"
    assert len([p for p in Blobs(world.home).folder.rglob("*") if p.is_file()]) == 6
    assert world.rows()["v0"]["source"].startswith("release!")
    assert world.rows()["v0"]["source"].endswith("v0.jpg")
    made(world.home)
    drawn = {i: draw("own", i) for i in ("v0", "v1")}
    other = in_folder(tmp_path, {**pictures_of(world), **drawn})
    made(other)
    assert digests(world.home.prepared(NAME)) == digests(other.prepared(NAME))
    assert made(world.home).done == ()


def test_beside_covers_of_the_release_a_download_that_changes_nothing_leaves_nothing_to_do(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_own(world, own_covers(tmp_path / "own", "folder", ("v0", "v1")))
    world.download()
    made(world.home)
    world.download()
    undecoded(monkeypatch)
    assert made(world.home).done == ()


def test_covers_of_the_release_imported_again_stay_beside_those_fetched(
    world: World, tmp_path: Path
) -> None:
    hold_own(world, own_covers(tmp_path / "own", "folder", ("v0", "v1")))
    world.download()
    hold_own(world, tmp_path / "own")
    world.download()
    assert world.asked("puui.qpic.cn") == 6
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_covers_of_the_release_imported_from_another_place_are_read_there(
    world: World, tmp_path: Path, kind: str
) -> None:
    hold_own(world, own_covers(tmp_path / "own", "folder", ("v0", "v1")))
    world.download()
    hold_own(world, own_covers(tmp_path / "moved", kind, ("v0", "v1", "v2")))
    shutil.rmtree(tmp_path / "own")
    own = held_files(world.home, NAME)["covers"].path
    world.download()
    assert held_files(world.home, NAME)["release_covers"].path == own
    assert world.download().counts[NAME]["covers"] == {"OK": 8}
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}


# Covers inside a published tar.gz

PAIR = """\
title = "One of two in one archive"
format = "ninerec"
release = "pair"
options = {{ stem = "{name}" }}
text = {{ zh = ["title_zh"], en = ["title_en"] }}
modalities = ["text", "image"]
terms = {{ text = "Drawn for tests.", url = "https://terms.example/" }}

[[sources]]
assets = ["interactions", "titles", "covers"]
kind = "drive"
file = "Both.tar.gz"
url = "https://drive.google.com/file/d/both-of-them/view"
"""
TWO = ("alpha", "beta")


def both_in_tar(folder: Path, covers: Mapping[str, Iterable[str]]) -> Path:
    """Both.tar.gz: the tables of two datasets, and some covers of each."""
    path = folder / "Both.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in TWO:
            for file in sorted(write_release(folder / "in_tar" / name, name=name).iterdir()):
                tar.add(file, f"Both/{name}/{file.name}")
            for item_id in covers[name]:
                data = draw("own", f"{name}{item_id}")
                info = tarfile.TarInfo(f"Both/{name}/{name}_cover/{item_id}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[World]:
    """Two datasets of one release, published as one archive on Drive; two items of each have their cover in it."""
    path = both_in_tar(tmp_path, {"alpha": ("v0", "v1"), "beta": ("v0", "v2")})
    files = {"drive.google.com/both-of-them": path}
    items = {name: mapped() for name in TWO}
    with Calm(tmp_path, monkeypatch, items, files=files) as started:
        published(started, IDS)
        yield started


def published(pair: World, ids: tuple[str, ...], more: str = "") -> None:
    """Map these items of both, each to an address of its own; `more` is added to the catalog."""
    pair.map({name: mapped(ids, start=name) for name in TWO})
    for name in TWO:
        (pair.catalog / f"{name}.toml").write_text(PAIR.format(name=name) + more)


MAPPING = """
[[sources]]
assets = ["mapping"]
kind = "mapping"
file = "map.csv"
url = "https://maps.example/map.csv"
"""
EVERY = ("interactions", "titles", "covers")


def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every archive that covers are taken out of from here on."""
    from downloader import adopt

    seen: list[Path] = []
    real = adopt._members

    def members(archive: Path, *args: Any) -> Any:
        seen.append(archive)
        return real(archive, *args)

    monkeypatch.setattr(adopt, "_members", members)
    return seen


def test_covers_in_a_published_tar_are_taken_in_one_pass_for_both_datasets(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(monkeypatch)
    pair.faults[cover("qpic", "alpha7")] = pair.faults[cover("qpic", "beta7")] = "404"
    report = pair.download(parts=EVERY)
    assert [path.name for path in seen] == ["Both.tar.gz"]
    assert report.counts["beta"]["covers"] == {"GONE": 1, "OK": 7}
    assert report.counts["alpha"]["interactions"] == {"OK": 1}
    assert pair.asked("drive.google.com") == 1
    asked = {name: [pair.asked(cover("qpic", f"{name}{n}")) for n in range(7)] for name in TWO}
    assert asked == {"alpha": [0, 0, 1, 1, 1, 1, 1], "beta": [0, 1, 0, 1, 1, 1, 1]}
    assert pair.rows("beta")["v2"]["source"] == "release!Both/beta/beta_cover/v2.jpg"
    assert pair.bytes_of("v2", "beta") == draw("own", "betav2")
    for name in TWO:
        made(pair.home, name)
        assert list(said(pair.home, name).values()).count("ok") == 7
    pair.download(parts=EVERY)
    assert len(seen) == 1


def test_a_cover_taken_from_a_tar_and_lost_since_is_taken_from_it_again(
    pair: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(monkeypatch)
    published(pair, IDS[1:])
    pair.download(parts=EVERY)
    Blobs(pair.home).path(pair.rows("alpha")["v0"]["sha256"]).unlink()
    report = pair.download(parts=EVERY)
    assert report.counts["alpha"]["covers"] == {"OK": 8}
    assert len(seen) == 2


def test_covers_in_a_tar_of_items_that_came_later_are_taken_too(
    pair: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(monkeypatch)
    published(pair, IDS[2:], MAPPING)
    folder = pair.home.raw / "files" / "pair"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "Both.tar.gz", folder)
    pair.download(parts=("covers",))  # the items of the mapping alone
    report = pair.download(parts=EVERY)
    assert report.counts["alpha"]["covers"] == {"OK": 8}
    assert len(seen) == 2


def test_a_cover_of_the_release_stays_where_the_address_is_asked_for_another_dataset(
    pair: World,
) -> None:
    pair.map({name: mapped() for name in TWO})
    for name in TWO:
        (pair.catalog / f"{name}.toml").write_text(PAIR.format(name=name))
    pair.download(parts=EVERY)
    assert pair.asked(cover("qpic", "p2")) == 1  # for alpha
    assert pair.bytes_of("v2", "beta") == draw("own", "betav2")


def test_clean_of_the_last_dataset_of_a_release_removes_its_archive(pair: World) -> None:
    pair.download(parts=EVERY)
    archive = pair.home.raw / "files" / "pair" / "Both.tar.gz"
    remove(pair.home, "alpha", {"raw"})
    assert archive.exists()
    (part,) = [p for p in removable(pair.home, ["beta"], {"raw"}) if p.path == archive]
    assert part.frees == archive.stat().st_size
    remove(pair.home, "beta", {"raw"})
    assert not archive.exists()


def test_a_resized_cover_of_a_tar_or_backup_is_taken_again_where_originals_are_wanted(
    pair: World, tmp_path: Path
) -> None:
    for name in TWO:
        folder = tmp_path / "backup" / name
        folder.mkdir(parents=True)
        (folder / "v7.jpg").write_bytes(draw("own", f"{name}-backup"))
        pair.faults[cover("qpic", f"{name}7")] = "404"
    backup = (str(tmp_path / "backup"),)
    pair.download(parts=EVERY, keep="resized", recipe=SMALL, backup=backup)
    assert pair.outcomes("alpha")["v7"] == "OK_BACKUP"
    pair.download(parts=EVERY, keep="original", backup=backup)
    assert {row["kept"] for row in pair.rows("alpha").values()} == {True}
    made(pair.home, "alpha", Recipe(size=64))
    assert set(said(pair.home, "alpha").values()) == {"ok"}


# Ids


ODD = (
    *("plain", "x/y", "y", "../x", "..", "a.b.c", "a.jpg", "标题，一", "with blank", "100%", "é"),
    *("n" * 250, "/", "-", "#1"),
)


@pytest.mark.parametrize("keep", ["original", "resized"])
def test_odd_item_ids_go_through_download_and_prepare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    with Calm(tmp_path, monkeypatch, mapped(ODD)) as world:
        take_in(world.home, tmp_path / "tables", ODD)
        world.download(keep=keep, recipe=SMALL)
        assert set(world.outcomes().values()) == {"OK"}
        made(world.home)
        assert said(world.home) == dict.fromkeys(ODD, "ok")
        if keep == "original":
            for n, item_id in enumerate(ODD):
                assert world.bytes_of(item_id) == draw("qpic", f"p{n}")
        keys = {f"{shards.key_of(item_id)}.jpg" for item_id in ODD}
        with tarfile.open(world.home.prepared(NAME) / "covers" / "00000.tar") as tar:
            assert {name for name in tar.getnames() if name.endswith(".jpg")} == keys
        assert {path.name for path in tmp_path.iterdir()} <= {
            *("home", "tables", "catalog", "mapping.csv")
        }


# Verify and repair


def test_a_damaged_shard_is_repaired_from_the_blobs_without_the_network(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.download(keep="resized", recipe=SMALL)
    made(world.home)
    before = digests(world.home.prepared(NAME))
    asked = world.asked("")
    shard = world.home.prepared(NAME) / "covers" / "00000.tar"
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:-1000] + b"?" * 1000)
    assert any(verdict.ok is False for verdict in verify(world.home.prepared(NAME)))
    undecoded(monkeypatch)
    assert "covers" in repair(world.home, world.entries[0])
    assert digests(world.home.prepared(NAME)) == before
    assert world.asked("") == asked


@pytest.mark.parametrize("keep", ["original", "resized"])
def test_a_lost_blob_is_fetched_again_by_the_next_download(world: World, keep: str) -> None:
    world.download(keep=keep, recipe=SMALL)
    made(world.home)
    before = digests(world.home.prepared(NAME))
    row = world.rows()["v6"]
    path = Blobs(world.home).path(row["sha256"] if keep == "original" else row["resized"])
    path.unlink()
    asked = world.asked("puui.qpic.cn")
    world.download(recipe=SMALL)
    assert world.asked("puui.qpic.cn") == asked + 1
    assert path.exists()
    assert made(world.home).done == ()
    assert digests(world.home.prepared(NAME)) == before


def test_a_lost_cover_without_an_address_is_not_waited_for(world: World, tmp_path: Path) -> None:
    world.map(mapped(IDS[1:], start="q"))
    backup = tmp_path / "backup"
    backup.mkdir()
    (backup / "v0.jpg").write_bytes(draw("own", "v0"))
    world.download(backup=(str(backup),))
    assert world.outcomes()["v0"] == "OK_BACKUP"
    Blobs(world.home).path(world.rows()["v0"]["sha256"]).unlink()
    assert world.download().exit_code == 0
    assert world.outcomes()["v0"] == "UNMAPPED"
    world.download(backup=(str(backup),))
    assert world.bytes_of("v0") == draw("own", "v0")


def test_a_blob_cut_short_is_fetched_again(world: World) -> None:
    world.download()
    path = Blobs(world.home).path(world.rows()["v6"]["sha256"])
    path.write_bytes(path.read_bytes()[:100])
    world.download()
    assert world.bytes_of("v6") == draw("qpic", "p6")


def test_a_damaged_blob_makes_its_item_broken_until_it_is_whole_again(world: World) -> None:
    world.download()
    path = Blobs(world.home).path(world.rows()["v6"]["sha256"])
    damage(path)
    made(world.home)
    assert said(world.home) == dict.fromkeys(IDS, "ok") | {"v6": "broken damaged"}
    path.unlink(missing_ok=True)
    world.download()
    made(world.home)
    assert said(world.home)["v6"] == "ok"


def test_a_blob_that_prepare_found_damaged_is_fetched_again_by_the_next_download(
    world: World,
) -> None:
    world.download()
    damage(Blobs(world.home).path(world.rows()["v6"]["sha256"]))
    made(world.home)
    world.download()
    made(world.home)
    assert said(world.home)["v6"] == "ok"


# Clean


def blobs_in(home: Home) -> set[str]:
    return {path.name for path in Blobs(home).folder.rglob("*") if path.is_file()}


def test_clean_of_one_keeps_what_the_other_needs_and_of_both_frees_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {i: at("qpic", i) for i in IDS[:5]}
    own = {name: {i: at("qpic", f"{name}{i}") for i in IDS[5:]} for name in TWO}
    with Calm(tmp_path, monkeypatch, {name: shared | own[name] for name in TWO}) as world:
        for name in TWO:
            take_in(world.home, tmp_path / name, name=name)
        world.download(keep="both", recipe=SMALL)
        assert world.asked("puui.qpic.cn") == 11
        assert len(blobs_in(world.home)) == 22
        (part,) = [p for p in removable(world.home, ["alpha"], {"raw"}) if p.what == "blobs"]
        rows = world.rows("alpha")
        mine = [rows[i] for i in IDS[5:]]
        assert part.frees == sum(row["size"] + row["resized_size"] for row in mine)
        remove(world.home, "alpha", {"raw"})
        assert len(blobs_in(world.home)) == 16
        made(world.home, "beta")
        assert set(said(world.home, "beta").values()) == {"ok"}
        assert world.outcomes("beta") == dict.fromkeys(IDS, "OK")
        remove(world.home, "beta", {"raw"})
        assert blobs_in(world.home) == set()
        assert removable(world.home, TWO, {"raw"}) == []
        take_in(world.home, tmp_path / "beta", name="beta")
        made(world.home, "beta")
        asked = world.asked("puui.qpic.cn")
        world.download()
        assert world.asked("puui.qpic.cn") == asked + 11


def test_clean_frees_blobs_that_no_item_has_any_more(world: World) -> None:
    """Pictures of another recipe, and one picture at many addresses."""
    world.download(keep="resized", recipe=SMALL)
    world.download(keep="resized", recipe=Recipe(size=64))
    remove(world.home, NAME, {"raw"})
    assert blobs_in(world.home) == set()


def test_clean_frees_a_picture_that_was_refused_as_one_for_many(world: World) -> None:
    world.faults["puui.qpic.cn"] = "placeholder"
    world.download()
    assert world.outcomes() == dict.fromkeys(IDS, "REJECTED one_for_many")
    remove(world.home, NAME, {"raw"})
    assert blobs_in(world.home) == set()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [0, 1, 5])
def test_clean_killed_in_the_middle_leaves_nothing_that_looks_whole_and_is_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    world.download()
    whole = blobs_in(world.home)
    left = [after]
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if self.parent.parent.name == "blobs":
            if left[0] == 0:
                raise Killed
            left[0] -= 1
        real(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            remove(world.home, NAME, {"raw"})
    with pytest.raises(MissingData, match="ninerec import alpha"):
        made(world.home)
    take_in(world.home, tmp_path / "tables")
    made(world.home)
    assert set(items_of(world.home)) == set(IDS)
    assert {row["cover"] for row in items_of(world.home).values()} == {"unsettled"}
    asked = world.asked("puui.qpic.cn")
    world.download()
    assert world.asked("puui.qpic.cn") == asked + 8
    made(world.home)
    assert set(said(world.home).values()) == {"ok"}
    assert blobs_in(world.home) == whole
    remove(world.home, NAME, {"raw"})
    assert blobs_in(world.home) == set()


# Datasets without pictures


def test_covers_are_not_asked_of_a_dataset_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Calm(tmp_path, monkeypatch, mapped()) as world:
        plain = CATALOG.format(name=NAME).replace('["text", "image"]', '["text"]')
        (world.catalog / f"{NAME}.toml").write_text(plain)
        take_in(world.home, tmp_path / "tables")
        report = world.download(parts=EVERY)
        assert "covers" not in report.counts[NAME]
        assert report.exit_code == 0
        assert world.asked("") == 0
        assert not list(world.home.raw.rglob("covers.provenance.parquet"))
        assert made(world.home).covers is None
