"""The covers stage through `prepare`: what comes out, what is done again, what is never decoded twice."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from covered import (
    ITEMS,
    NAME,
    ODD,
    SIBLING,
    WITH_COVER,
    Covered,
    counted,
    facts,
    file_name,
    item_id,
    known,
    make_covered,
    picture,
    pixels,
    write_covers,
    write_tables,
)
from PIL import Image
from releases import digests, leftovers

from ninerec_data import CheckFailed, Home, MissingData
from ninerec_data import covers as covers_module
from ninerec_data.pictures import Recipe, make_picture
from ninerec_data.shards import key_of

SHARDS = ("covers/00000.tar", "covers/00001.tar", "covers/00002.tar")
N = len(WITH_COVER)


@pytest.fixture(autouse=True)
def _known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(tmp_path / "catalog", monkeypatch)


@pytest.fixture
def release(tmp_path: Path) -> Covered:
    return make_covered(tmp_path / "one")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return counted(monkeypatch)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every cover that is read from its source from here on."""
    seen: list[str] = []
    opened = covers_module._source

    def counted(*where: Any) -> Any:
        source = opened(*where)

        def noted(name: str) -> Any:
            seen.append(name)
            return source.read(name)

        return types.SimpleNamespace(read=noted)

    monkeypatch.setattr(covers_module, "_source", counted)
    return seen


def shards(made: Covered) -> dict[str, str]:
    return {name: d for name, d in digests(made.prepared).items() if name.endswith(".tar")}


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def fresh(made: Covered, folder: Path, **covers: Any) -> dict[str, str]:
    """What a first prepare of the same raw files leaves in a home of its own."""
    other = Covered(made.folder, Home(folder / "fresh"), made.name)
    other.import_from(made.folder / "release")
    other.prepare(**covers)
    return digests(other.prepared)


# What comes out.


def test_covers_become_shards_an_index_and_columns(release: Covered) -> None:
    made = release.prepare()
    assert made.done == ("tables", "covers", "split")
    assert made.covers is not None
    assert made.covers["counts"] == {
        "ok": N, "missing": ITEMS - N, "broken": 0,
        "reasons": {"no_file": ITEMS - N}, "files_that_join_no_item": 0,
    }  # fmt: skip
    assert [p.name for p in sorted((made.folder / "covers").iterdir())] == [
        "00000.tar", "00001.tar", "00002.tar", "index.parquet", "manifest.json",
    ]  # fmt: skip
    items = pq.read_table(made.folder / "items.parquet").to_pylist()
    for row in items:
        has = row["item"] in WITH_COVER
        assert (row["cover"], row["cover_reason"]) == (
            ("ok", None) if has else ("missing", "no_file")
        )
        assert row["shard"] == ((row["item"] - 1) // 1000 if has else None)
        assert (row["width"], row["height"]) == ((16, 9) if has else (None, None))
        assert (row["offset"] is None) == (row["size"] is None) == (not has)


def test_random_access_finds_what_streaming_finds_item_by_item(release: Covered) -> None:
    release.prepare()
    ds = release.open()
    assert ds.has_covers
    assert len(ds.covers) == N
    streamed = []
    for name in SHARDS:
        with tarfile.open(release.prepared / name) as tar:
            while (member := tar.next()) is not None:
                rest = [member, tar.next(), tar.next()]
                jpeg, text, about = (tar.extractfile(m).read() for m in rest)  # type: ignore
                item = json.loads(about)["item"]
                assert json.loads(about) == {
                    "item": item, "item_id": item_id(item),
                    "title_en": f"Title {item}, one two three four five",
                }  # fmt: skip
                assert member.name == f"{key_of(item_id(item))}.jpg"
                assert text.decode() == ds.text("en")[item - 1]
                assert jpeg == ds.cover(item) == ds.covers[item]
                assert f"{(item - 1) // 1000:05d}" in name
                streamed.append(item)
    assert tuple(streamed) == WITH_COVER
    assert ds.cover(1) is None
    assert ds.cover(0) is None


def test_each_cover_is_the_release_s_picture_made_by_the_recipe(release: Covered) -> None:
    release.prepare()
    ds = release.open()
    for item in (*ODD, 26, 52, 2028):
        assert ds.cover(item) == make_picture(picture(item)).jpeg
        image = Image.open(io.BytesIO(ds.cover(item) or b""))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224))


def test_jobs_places_and_file_times_change_no_byte(release: Covered, tmp_path: Path) -> None:
    release.prepare(jobs=1)
    wanted = digests(release.prepared)
    assert len(wanted) == 13
    for jobs in (2, 3):
        other = make_covered(tmp_path / "far" / "away" / f"jobs{jobs}", covers=False)
        write_covers(other.covers, sorted(WITH_COVER, reverse=True))
        for file in other.covers.iterdir():
            os.utime(file, (jobs, jobs))
        other.import_from(other.folder / "release")
        other.prepare(jobs=jobs)
        assert digests(other.prepared) == wanted


def test_nothing_prepared_holds_a_path_or_a_user_name(release: Covered, tmp_path: Path) -> None:
    release.prepare(missing="blank")
    words = [tmp_path, tmp_path.name, Path.home(), "/tmp/", "/release", "/covers"]
    for path in release.prepared.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert [word for word in words if str(word).encode() in content] == [], path.name
    for name in SHARDS:
        with tarfile.open(release.prepared / name) as tar:
            marks = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
        assert marks == {(0, 0, 0, "", "", 0o644)}
    manifest = json.loads((release.prepared / "covers" / "manifest.json").read_text())
    assert set(manifest) == {
        "schema", "stage", "dataset", "parameters", "inputs", "outputs", "counts", "versions", "terms",
    }  # fmt: skip


def test_what_is_no_cover_is_a_row_with_a_reason(release: Covered) -> None:
    folder = release.covers
    (folder / file_name(26)).write_bytes(picture(15)[:90])  # truncated
    (folder / "v52.jpg").write_bytes(picture(52))  # a second file with the same bytes
    (folder / "v78.png").write_bytes(picture(43))  # a second file with other bytes
    (folder / "deeper").mkdir()
    (folder / "deeper" / "stranger.jpg").write_bytes(picture(1))
    (folder / "notes.txt").write_text("not a picture, and no item")
    made = release.prepare(jobs=2)
    assert made.covers is not None
    counts = made.covers["counts"]
    assert (counts["ok"], counts["missing"], counts["broken"]) == (N - 2, ITEMS - N, 2)
    assert counts["reasons"] == {"no_file": ITEMS - N, "truncated": 1, "two_files": 1}
    assert counts["files_that_join_no_item"] == 2
    rows = facts(release.open())
    assert rows["v26"]["cover"] == "broken"
    assert rows["v52"]["cover"] == "ok"
    assert rows["v78"]["cover_reason"] == "two_files: v78.jpg, v78.png"
    for name in ("v26", "v78"):
        assert rows[name]["cover"] == "broken"
        assert [rows[name][c] for c in ("shard", "offset", "size")] == [None] * 3
        assert release.open().cover(rows[name]["item"]) is None


def test_names_that_join_nothing_are_refused_and_nothing_is_written(release: Covered) -> None:
    release.prepare()
    before = digests(release.prepared)
    for number, file in enumerate(sorted(release.covers.iterdir())):
        file.rename(file.with_name(f"cover {number}.jpg"))
    with pytest.raises(CheckFailed, match=r"do not join"):
        release.prepare()
    assert digests(release.prepared) == before
    assert leftovers(release.home.root) == []


def test_blank_gives_the_others_a_grey_picture_and_still_says_missing(release: Covered) -> None:
    (release.covers / "v26.jpg").write_bytes(b"no picture at all")
    kept = release.prepare().covers
    without = shards(release)
    made = release.prepare(missing="blank")
    assert made.done == ("covers",)
    assert kept is not None
    assert made.covers is not None
    assert made.covers["counts"] == kept["counts"]
    ds = release.open()
    assert len(ds.covers) == ITEMS
    rows = facts(ds)
    assert (rows["v1"]["cover"], rows["v1"]["cover_reason"]) == ("missing", "no_file")
    assert (rows["v26"]["cover"], rows["v1"]["width"]) == ("broken", None)
    for item in (1, 26, ITEMS):
        grey = np.asarray(Image.open(io.BytesIO(ds.cover(item) or b"")))
        assert grey.shape == (224, 224, 3)
        assert set(grey.flat) == {128}
    assert ds.cover(52) == make_picture(picture(52)).jpeg
    assert release.prepare(missing="keep").done == ("covers",)
    assert shards(release) == without


# The same pictures from another kind of source.


def pack(folder: Path, target: Path) -> Path:
    """A folder of covers as `target`: .zip or .tar, with a folder inside."""
    files = sorted(folder.iterdir())
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for file in files:
                archive.write(file, f"covers/{file.name}")
    else:
        with tarfile.open(target, "w") as tar:
            tar.add(folder, "covers")
    return target


def lmdb_store(path: Path, values: dict[str, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    store = lmdb.open(str(path), map_size=64 << 20)
    with store.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    store.close()
    return path


def repacked(made: Covered, folder: Path, suffix: str) -> Covered:
    """The same release with its covers packed in one file."""
    write_tables(folder / "release")
    target = folder / "release" / f"covers{suffix}"
    if suffix == ".lmdb":
        values = {item_id(n): picture(n) for n in WITH_COVER}
        lmdb_store(target, values)
    else:
        pack(made.covers, target)
    other = Covered(folder, Home(folder / "home"))
    other.import_from(folder / "release")
    return other


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".lmdb"])
def test_the_same_bytes_from_another_kind_of_source_give_the_same_shards(
    release: Covered, tmp_path: Path, suffix: str
) -> None:
    release.prepare()
    other = repacked(release, tmp_path / "packed", suffix)
    made = other.prepare(jobs=3)
    assert made.covers is not None
    assert made.covers["counts"]["ok"] == N
    assert shards(other) == shards(release)
    assert other.prepare().done == ()


class LMDB_Image:
    """As upstream's code pickles it."""

    def __init__(self, image: np.ndarray, name: str) -> None:
        self.channels, self.size = image.shape[2], image.shape[:2]
        self.image, self.id = image.tobytes(), name


def test_upstreams_lmdb_of_pixels_gives_what_the_pngs_give(
    release: Covered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release.prepare()
    module = types.ModuleType("run_lmdb")
    module.LMDB_Image = LMDB_Image  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "run_lmdb", module)
    monkeypatch.setattr(LMDB_Image, "__module__", "run_lmdb")
    values = {item_id(n): pickle.dumps(LMDB_Image(pixels(n), item_id(n))) for n in WITH_COVER}
    write_tables(tmp_path / "stored" / "release")
    lmdb_store(tmp_path / "stored" / "release" / "covers.lmdb", values)
    other = Covered(tmp_path / "stored", Home(tmp_path / "stored" / "home"))
    other.import_from(tmp_path / "stored" / "release")
    made = other.prepare()
    assert made.covers is not None
    assert made.covers["counts"]["ok"] == N
    pngs = [n for n in WITH_COVER if file_name(n).endswith("png")]
    assert len(pngs) > N / 4
    ours, theirs = other.open(), release.open()
    assert [ours.cover(n) for n in pngs] == [theirs.cover(n) for n in pngs]


# What is done again.


def test_a_second_prepare_does_nothing_and_reads_no_cover(
    release: Covered, read: list[str], decoded: list[Any]
) -> None:
    release.prepare()
    assert (len(read), len(decoded)) == (N, N)
    before = {p: identity(p) for p in release.prepared.rglob("*")}
    assert release.prepare(jobs=3).done == ()
    assert {p: identity(p) for p in release.prepared.rglob("*")} == before
    assert (len(read), len(decoded)) == (N, N)


def test_covers_that_come_later_are_settled_and_the_split_is_kept(tmp_path: Path) -> None:
    late = make_covered(tmp_path / "late", covers=False)
    made = late.prepare()
    assert made.done == ("tables", "split")
    assert made.covers is None
    ds = late.open()
    assert not ds.has_covers
    assert set(ds.items["cover"].to_pylist()) == {"unsettled"}
    with pytest.raises(MissingData, match="ninerec import drawn PATH"):
        ds.cover(26)
    split = {p.name: identity(p) for p in (made.folder / "splits").rglob("*") if p.is_file()}
    write_covers(late.covers)
    late.import_from(late.folder / "release")
    made = late.prepare()
    assert made.done == ("covers",)
    assert set(late.open().items["cover"].to_pylist()) == {"ok", "missing"}
    kept = {p.name: identity(p) for p in (made.folder / "splits").rglob("*") if p.is_file()}
    assert kept == split
    assert digests(late.prepared) == fresh(late, tmp_path)


def test_a_late_cover_rewrites_one_shard(
    release: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    release.prepare()
    before, places = shards(release), {name: identity(release.prepared / name) for name in SHARDS}
    (release.covers / "v1500.jpg").write_bytes(picture(1501))
    del decoded[:]
    assert release.prepare().done == ("covers",)
    changed = {name for name in SHARDS if shards(release)[name] != before[name]}
    moved = {name for name in SHARDS if identity(release.prepared / name) != places[name]}
    assert changed == moved == {"covers/00001.tar"}
    assert decoded == [picture(1501)]
    row = facts(release.open())["v1500"]
    assert (row["cover"], row["cover_reason"], row["shard"]) == ("ok", None, 1)
    assert release.open().cover(1500) == make_picture(picture(1501)).jpeg
    assert digests(release.prepared) == fresh(release, tmp_path)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_late_cover_in_a_packed_source_rewrites_one_shard(
    release: Covered, tmp_path: Path, decoded: list[Any], suffix: str
) -> None:
    held = repacked(release, tmp_path / "packed", suffix)
    held.prepare()
    places = {name: identity(held.prepared / name) for name in SHARDS}
    (release.covers / "v1500.jpg").write_bytes(picture(1501))
    path = held.folder / "release" / f"covers{suffix}"
    path.unlink()
    pack(release.covers, path)
    held.import_from(held.folder / "release")
    del decoded[:]
    assert held.prepare().done == ("covers",)
    moved = {name for name in SHARDS if identity(held.prepared / name) != places[name]}
    assert moved == {"covers/00001.tar"}
    assert decoded == [picture(1501)]
    assert digests(held.prepared) == fresh(held, tmp_path)


def test_a_cover_that_changed_or_went_rewrites_its_shard(
    release: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    release.prepare()
    before = shards(release)
    del decoded[:]
    (release.covers / file_name(2028)).write_bytes(picture(4 * 777))
    (release.covers / file_name(26)).unlink()
    assert release.prepare().done == ("covers",)
    after = shards(release)
    assert [name for name in SHARDS if after[name] == before[name]] == ["covers/00001.tar"]
    assert decoded == [picture(4 * 777)]
    assert facts(release.open())["v26"]["cover"] == "missing"
    assert digests(release.prepared) == fresh(release, tmp_path)


def test_other_texts_are_rewritten_and_no_picture_is_decoded(
    release: Covered, tmp_path: Path, decoded: list[Any], read: list[str]
) -> None:
    release.prepare()
    before = {n: release.open().cover(n) for n in WITH_COVER}
    del decoded[:], read[:]
    assert release.prepare(max_words=2).done == ("tables", "covers")
    assert (decoded, read) == ([], [])
    assert {n: release.open().cover(n) for n in WITH_COVER} == before
    with tarfile.open(release.prepared / SHARDS[0]) as tar:
        texts = [tar.extractfile(m).read() for m in tar if m.name.endswith(".txt")]  # type: ignore
    assert texts[:2] == [b"Title 7,", b"Title 8,"]
    other = Covered(release.folder, Home(tmp_path / "other"))
    other.import_from(release.folder / "release")
    other.prepare(max_words=2)
    assert digests(release.prepared) == digests(other.prepared)


@pytest.mark.parametrize(
    ("name", "remade"), [("00001.tar", "shard"), ("index.parquet", "all"), ("manifest.json", "all")]
)
def test_a_damaged_file_is_made_anew_from_raw(
    release: Covered, decoded: list[Any], name: str, remade: str
) -> None:
    release.prepare()
    good = digests(release.prepared)
    path = release.prepared / "covers" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if name != "manifest.json" else data[:99])
    del decoded[:]
    assert release.prepare().done == ("covers",)
    assert digests(release.prepared) == good
    inside = [n for n in WITH_COVER if 1000 < n <= 2000 or remade == "all"]
    assert len(decoded) == len(inside)
    assert release.prepare().done == ()


def test_another_recipe_is_made_from_raw_alone(release: Covered, decoded: list[Any]) -> None:
    release.prepare()
    squashed = shards(release)
    crop = Recipe(fit="center_crop")
    del decoded[:]
    assert release.prepare(recipe=crop).done == ("covers",)
    assert len(decoded) == N
    ds = release.open()
    assert all(ds.cover(n) == make_picture(picture(n), crop).jpeg for n in WITH_COVER[:9])
    assert all(shards(release)[name] != squashed[name] for name in SHARDS)
    del decoded[:]
    release.prepare()
    assert len(decoded) == N
    assert shards(release) == squashed


# Siblings: datasets of one release.


@pytest.fixture
def sibling(release: Covered, tmp_path: Path) -> Covered:
    """Another dataset of the release, with a copy of the covers and five of its own, in the same home."""
    other = make_covered(tmp_path / "two", covers=False, name=SIBLING, home=release.home)
    shutil.copytree(release.covers, other.covers)
    write_covers(other.covers, NEW)
    other.import_from(other.folder / "release")
    return other


NEW = (3, 501, 1001, 2001, 2050)


def test_a_sibling_copies_what_is_there_and_decodes_what_is_new(
    release: Covered, sibling: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    release.prepare()
    del decoded[:]
    made = sibling.prepare()
    assert made.covers is not None
    assert made.covers["counts"]["ok"] == N + len(NEW)
    assert sorted(decoded) == sorted(picture(n) for n in NEW)
    ours, theirs = sibling.open(), release.open()
    assert [ours.cover(n) for n in WITH_COVER] == [theirs.cover(n) for n in WITH_COVER]
    # Each prepared folder stands alone: the other may go, and nothing is another's file.
    inodes = {identity(p)[0] for p in release.prepared.rglob("*.tar")}
    assert inodes.isdisjoint(identity(p)[0] for p in sibling.prepared.rglob("*.tar"))
    alone = fresh(sibling, tmp_path)
    shutil.rmtree(release.prepared)
    assert digests(sibling.prepared) == alone
    assert sibling.prepare().done == ()


def test_a_tampered_shard_is_no_sibling_s_stock(
    release: Covered, sibling: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    release.prepare()
    path = release.prepared / SHARDS[1]
    data = bytearray(path.read_bytes())
    place = facts(release.open())[item_id(1009)]
    data[place["offset"] + place["size"] // 2] ^= 1
    path.write_bytes(data)
    del decoded[:]
    sibling.prepare()
    again = {*NEW, *(n for n in WITH_COVER if 1000 < n <= 2000)}
    assert sorted(decoded) == sorted(picture(n) for n in again)
    assert digests(sibling.prepared) == fresh(sibling, tmp_path)


def test_a_sibling_of_another_recipe_is_not_mixed_in(
    release: Covered, sibling: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    release.prepare(recipe=Recipe(fit="center_crop"))
    del decoded[:]
    sibling.prepare()
    assert len(decoded) == N + len(NEW)
    assert digests(sibling.prepared) == fresh(sibling, tmp_path)


# What was begun is used, and never trusted blindly.


def stopped_at(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let the run end as if by Ctrl-C before the shard of this number, counted from 0, is written."""
    from ninerec_data import cover_shards

    real = cover_shards._finish

    def finish(home: Home, plan: Any, shard: int, *rest: Any) -> Any:
        if shard == number:
            raise KeyboardInterrupt
        return real(home, plan, shard, *rest)

    patch.setattr(cover_shards, "_finish", finish)


def stop(made: Covered, number: int, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(number, patch)
        with pytest.raises(KeyboardInterrupt):
            made.prepare(**options)


def waiting(made: Covered) -> list[Path]:
    """The finished shards beside the dataset, in order."""
    return sorted(made.prepared.parent.glob(f".{made.name}.covers-*/[!.]*.tar"))


def test_a_stopped_run_is_taken_up_where_it_was(
    release: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    stop(release, 2)
    places = [identity(path) for path in waiting(release)]
    assert len(places) == 2
    del decoded[:]
    assert release.prepare().done == ("covers", "split")
    assert sorted(decoded) == sorted(picture(n) for n in WITH_COVER if n > 2000)
    assert [identity(release.prepared / name) for name in SHARDS[:2]] == places
    assert digests(release.prepared) == fresh(release, tmp_path)
    assert {p.name for p in release.prepared.parent.iterdir()} == {NAME, f".{NAME}.lock"}


def test_a_waiting_shard_that_was_tampered_with_is_made_anew(
    release: Covered, tmp_path: Path, decoded: list[Any]
) -> None:
    stop(release, 2)
    path = waiting(release)[0]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    del decoded[:]
    release.prepare()
    inside = [n for n in WITH_COVER if n <= 1000 or n > 2000]
    assert sorted(decoded) == sorted(picture(n) for n in inside)
    assert digests(release.prepared) == fresh(release, tmp_path)


def test_a_cover_that_came_between_a_stopped_run_and_the_next(
    release: Covered, tmp_path: Path
) -> None:
    """A waiting shard is stock for others: it must not be written over while its places are still used."""
    shared = picture(4 * 999)
    for item in (988, 1976, 2028):
        (release.covers / file_name(item)).write_bytes(shared)
    stop(release, 1, jobs=1)
    (release.covers / file_name(5)).write_bytes(picture(5))
    release.prepare(jobs=1)
    ds = release.open()
    assert ds.cover(2028) == ds.cover(1976) == ds.cover(988) == make_picture(shared).jpeg
    assert digests(release.prepared) == fresh(release, tmp_path)


def test_what_another_recipe_left_waiting_is_cleared(release: Covered, tmp_path: Path) -> None:
    stop(release, 2, recipe=Recipe(fit="center_crop"))
    release.prepare()
    assert digests(release.prepared) == fresh(release, tmp_path)
    assert {p.name for p in release.prepared.parent.iterdir()} == {NAME, f".{NAME}.lock"}


# Sources that change behind our back.


def test_an_lmdb_that_was_written_to_is_read_anew(tmp_path: Path) -> None:
    """The folder's time stays when data.mdb changes; an index read before must not be used."""
    write_tables(tmp_path / "stored" / "release")
    path = tmp_path / "stored" / "release" / "covers.lmdb"
    lmdb_store(path, {item_id(n): picture(n) for n in WITH_COVER[:30]})
    made = Covered(tmp_path / "stored", Home(tmp_path / "stored" / "home"))
    made.import_from(made.folder / "release")
    made.prepare()
    before = path.stat().st_mtime_ns
    lmdb_store(path, {item_id(n): picture(n) for n in WITH_COVER})
    os.utime(path, ns=(before, before))
    made.prepare()
    ds = made.open()
    assert [ds.cover(n) for n in WITH_COVER] == [make_picture(picture(n)).jpeg for n in WITH_COVER]


def test_a_damaged_zip_replaced_by_a_good_one_gives_the_cover(
    release: Covered, tmp_path: Path
) -> None:
    """A member's CRC says what should be there; that another file held other bytes is not known of this one."""
    held = repacked(release, tmp_path / "packed", ".zip")
    path = held.folder / "release" / "covers.zip"
    good = path.read_bytes()
    path.unlink()
    at = good.index(picture(26)) + 20
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    held.import_from(held.folder / "release")
    held.prepare()
    assert facts(held.open())["v26"]["cover_reason"] == "damaged"
    path.unlink()
    path.write_bytes(good)
    held.import_from(held.folder / "release")
    held.prepare()
    assert facts(held.open())["v26"]["cover"] == "ok"


# What is refused on opening.


def older(folder: Path, kept: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


REFUSED: dict[str, Callable[[Path, Path], object]] = {
    "older covers": older,
    "none": lambda folder, kept: shutil.rmtree(folder),
    "no manifest": lambda folder, kept: (folder / "manifest.json").unlink(),
    "a shard gone": lambda folder, kept: (folder / "00002.tar").unlink(),
    "a shard cut": lambda folder, kept: os.truncate(folder / "00001.tar", 10240),
    "a longer shard": lambda folder, kept: (folder / "00000.tar").open("ab").write(bytes(512)),
    "another index": lambda folder, kept: shutil.copy(kept / "index.parquet", folder),
    "another stage": lambda folder, kept: shutil.copy(folder.parent / "manifest.json", folder),
}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_covers_that_are_not_those_of_the_tables_are_refused_on_opening(
    release: Covered, tmp_path: Path
) -> None:
    release.prepare()
    older = tmp_path / "older"
    shutil.copytree(release.prepared / "covers", older)
    (release.covers / "v1500.jpg").write_bytes(picture(1501))
    release.prepare()
    good = digests(release.prepared)
    for what, damage in REFUSED.items():
        damage(release.prepared / "covers", older)
        with pytest.raises(CheckFailed, match=r"covers .*run: ninerec prepare drawn"):
            release.open()
        assert release.prepare().done == ("covers",), what
        assert digests(release.prepared) == good, what
        release.open()


def test_a_dataset_that_is_open_serves_no_other_item_s_picture(release: Covered) -> None:
    """Shards are mapped on first use: by then a late cover may have moved everything behind it."""
    release.prepare()
    ds, mapped = release.open(), release.open()
    wanted = {item: make_picture(picture(item)).jpeg for item in (26, 1009)}
    assert mapped.cover(26) == wanted[26]
    copy = pickle.dumps(mapped.covers)
    write_covers(release.covers, [1])
    release.prepare()
    assert mapped.cover(26) == wanted[26]
    for covers in (ds.covers, pickle.loads(copy)):
        for item, jpeg in wanted.items():
            with contextlib.suppress(CheckFailed):  # saying so is as good
                assert covers[item] == jpeg


# A disk that is full, or that has no links.


def test_no_space_half_way_is_one_clear_error_and_the_old_store_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = make_covered(tmp_path / "late", covers=False)
    late.prepare()
    old = digests(late.prepared)
    write_covers(late.covers)
    late.import_from(late.folder / "release")
    wanted = fresh(late, tmp_path)
    real = os.fsync
    messages = []
    while True:
        left = [1 + 3 * len(messages)]

        def fsync(fd: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(fd)

        try:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", fsync)
                late.prepare()
            break
        except CheckFailed as error:
            messages.append(str(error))
        stands = digests(late.prepared)
        assert stands in (old, wanted)  # the last thing that is synced is the folder's new name
        assert late.open().has_covers == (stands == wanted)
        assert stands == wanted or leftovers(late.home.root) == []
    assert len(messages) >= 5
    for said in messages:
        assert said.startswith("no space left while writing under")
        assert said.endswith("run the same command again")
    assert digests(late.prepared) == wanted
    assert leftovers(late.home.root) == []


def test_a_disk_without_links_gets_copies(
    release: Covered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fresh(release, tmp_path)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", refused)
    stop(release, 2)
    release.prepare()
    assert digests(release.prepared) == wanted
    assert (
        hashlib.sha256((release.prepared / SHARDS[0]).read_bytes()).hexdigest() == wanted[SHARDS[0]]
    )
