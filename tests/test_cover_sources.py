"""Sources of covers: what they list and give, what they refuse, and which name joins which item."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from releases import NEXT
from test_archives import patch_central, stored, tarred, zipped
from test_lmdb_store import GENUINE, LMDB_Image, write_lmdb

from ninerec_data.cover_sources import BadCover, Found, Joined, join, open_source
from ninerec_data.errors import CheckFailed, MissingData, NineRecError
from ninerec_data.pictures import Pixels

Files = dict[str, bytes]


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), shade).save(file, "JPEG")
    return file.getvalue()


COVERS: Files = {f"v{k}.jpg": jpeg(k) for k in range(12)}


def foldered(path: Path, files: Files) -> None:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def lmdb_of(path: Path, files: Files) -> None:
    write_lmdb(path, {name.encode(): data for name, data in files.items()})


KINDS: dict[str, Callable[[Path, Files], None]] = {
    "folder": foldered,
    "stored.zip": stored,
    "deflated.zip": zipped,
    "plain.tar": tarred("w"),
    "covers.lmdb": lmdb_of,
}


def read_all(path: Path, patterns: tuple[str, ...] = ()) -> dict[str, Any]:
    source = open_source(path, patterns)
    try:
        return {file.name: source.read(file.name) for file in source.found()}
    finally:
        source.close()


def reason(path: Path, name: str) -> str:
    source = open_source(path)
    try:
        with pytest.raises(BadCover) as caught:
            source.read(name)
    finally:
        source.close()
    return caught.value.reason


def refuse(path: Path, kind: type[NineRecError], *parts: str) -> None:
    """Opening or listing raises one message with the path, these parts and a way out."""
    with pytest.raises(kind) as caught:
        read_all(path)
    message = str(caught.value)
    assert [part for part in (str(path), *parts) if part not in message] == [], message
    assert "\n" not in message
    assert NEXT.search(message), message


# What a source lists and gives


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / kind, COVERS)
    source = open_source(tmp_path / kind)
    found = source.found()
    assert [file.name for file in found] == sorted(COVERS)
    assert [file.size for file in found] == [len(COVERS[file.name]) for file in found]
    assert source.path == tmp_path / kind
    source.close()
    assert read_all(tmp_path / kind) == COVERS


@pytest.mark.parametrize("kind", KINDS)
def test_reads_from_eight_threads_are_the_same(tmp_path: Path, kind: str) -> None:
    draw = random.Random(kind)
    files = {f"{k}.jpg": draw.randbytes(draw.randrange(60_000)) for k in range(40)}
    KINDS[kind](tmp_path / kind, files)
    source = open_source(tmp_path / kind)
    names = [draw.choice(list(files)) for _ in range(600)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, names)) == [files[name] for name in names]
    source.close()


def test_folder_is_read_at_any_depth_and_leaves_out_what_systems_leave_behind(
    tmp_path: Path,
) -> None:
    wanted = {"010/0108775015.jpg": b"a", "a/b/c/d.png": b"b", "top.webp": b"c"}
    clutter = (".DS_Store", "010/._0108775015.jpg", "a/Thumbs.db", "__MACOSX/010/x.jpg", ".git/x")
    foldered(tmp_path / "images", wanted | dict.fromkeys(clutter, b"x"))
    assert read_all(tmp_path / "images") == wanted
    for pack, name in ((stored, "a.zip"), (tarred("w"), "a.tar")):
        pack(
            tmp_path / name, {f"./{n}": b for n, b in wanted.items()} | dict.fromkeys(clutter, b"")
        )
        assert read_all(tmp_path / name) == wanted


def test_links_to_files_stand_for_them_and_links_to_folders_do_not(tmp_path: Path) -> None:
    foldered(tmp_path, {"covers/v1.jpg": b"one", "else/v2.jpg": b"two"})
    (tmp_path / "covers" / "v3.jpg").symlink_to(tmp_path / "else" / "v2.jpg")
    (tmp_path / "covers" / "more").symlink_to(tmp_path / "else")
    (tmp_path / "covers" / "round").symlink_to(tmp_path / "covers")
    (tmp_path / "covers" / "v4.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "covers" / "v5.jpg")
    assert read_all(tmp_path / "covers") == {"v1.jpg": b"one", "v3.jpg": b"two"}


def test_stamps_change_with_the_bytes(tmp_path: Path) -> None:
    foldered(tmp_path / "c", {"v1.jpg": b"one"})
    os.utime(tmp_path / "c" / "v1.jpg", ns=(5, 123_456_789))
    assert open_source(tmp_path / "c").found() == [Found("v1.jpg", 3, 123_456_789)]
    for name in ("stored.zip", "plain.tar", "covers.lmdb"):
        KINDS[name](tmp_path / name, {"v1.jpg": b"one"})
        os.utime(tmp_path / name, ns=(5, 77))
        assert open_source(tmp_path / name).found() == [Found("v1.jpg", 3, 77)]


@pytest.mark.parametrize("kind", ["deflated.zip", "plain.tar"])
def test_only_a_folder_of_the_covers_name_counts_where_there_is_one(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / kind
    inside = {f"Down/BILI_food_Cover/sub/{name}": data for name, data in COVERS.items()}
    KINDS[kind](path, {"Down/readme.jpg": b"x", "Down/Bili_Dance_cover/v1.jpg": b"y", **inside})
    assert read_all(path, ("Bili_Food_cover", "Bili_Food_cover.zip")) == inside
    assert len(read_all(path, ("KU_cover",))) == len(inside) + 2
    assert len(read_all(path, ("*_cover",))) == len(inside) + 1


def test_zip_written_on_windows_has_folders(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {"images\\010\\0108775015.jpg": b"x", "list.csv": b"y"})
    assert read_all(tmp_path / "a.zip", ("images",)) == {"images/010/0108775015.jpg": b"x"}


@pytest.mark.parametrize("subdir", [False, True])
def test_lmdb_as_a_file_or_a_folder_gives_pixels_and_hides_its_listings(
    tmp_path: Path, subdir: bool
) -> None:
    value = pickle.dumps(LMDB_Image(**GENUINE))
    lists = {b"__keys__": pickle.dumps([b"v1", b"v2"]), b"__len__": pickle.dumps(2)}
    path = tmp_path / "Small.lmdb"
    write_lmdb(path, {b"v1": value, **lists}, subdir=subdir)
    assert read_all(path) == {"v1": Pixels(5, 4, GENUINE["image"])}


def test_value_that_is_no_picture_leaves_the_others(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    values = {b"1": pickle.dumps(LMDB_Image(**GENUINE)), b"2": hostile, b"3": b"\x80\x04."}
    path = write_lmdb(tmp_path / "a.lmdb", values)
    assert reason(path, "2") == "hostile_pickle"
    assert reason(path, "3") == "damaged"
    source = open_source(path)
    assert isinstance(source.read("1"), Pixels)
    source.close()
    assert not marker.exists()


# What it refuses


def test_covers_over_64_mib_are_too_large_and_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with (tmp_path / "c" / "v1.jpg").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert reason(tmp_path / "c", "v1.jpg") == "too_large"
    with tarfile.open(tmp_path / "a.tar", "w") as tar, (tmp_path / "c" / "v1.jpg").open("rb") as f:
        tar.addfile(tar.gettarinfo(arcname="v1.jpg", fileobj=f), f)
    assert reason(tmp_path / "a.tar", "v1.jpg") == "too_large"


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (24, 65 << 20, "too_large"),  # a bomb says what it will be
        (24, 0xFFFF_FFFE, "too_large"),
        (24, 3000, "damaged"),  # or does not: 30,000 bytes under a claim of 3,000
        (24, 31_000, "damaged"),
        (20, 65 << 20, "too_large"),
        (20, 10, "damaged"),
        (16, 1, "damaged"),
        (42, 7, "damaged"),
    ],
)
@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip"])
def test_zip_member_whose_claims_are_false_is_refused_alone(
    tmp_path: Path, kind: str, at: int, value: int, why: str
) -> None:
    path = tmp_path / kind
    KINDS[kind](path, {"v0.jpg": b"zero", "v1.jpg": random.Random(0).randbytes(30_000)})
    patch_central(path, "v1.jpg", at, struct.pack("<I", value))
    assert reason(path, "v1.jpg") == why
    source = open_source(path)
    assert source.read("v0.jpg") == b"zero"
    source.close()


def test_zip_bomb_under_a_small_claim_inflates_no_further(tmp_path: Path) -> None:
    import tracemalloc

    zipped(tmp_path / "a.zip", {"v1.jpg": bytes(60 << 20)})
    patch_central(tmp_path / "a.zip", "v1.jpg", 24, struct.pack("<I", 1000))
    tracemalloc.start()
    try:
        assert reason(tmp_path / "a.zip", "v1.jpg") == "damaged"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("at", "value", "said"), [(8, b"\1\0", "encrypted"), (10, b"\x09\0", "packed by method 9")]
)
def test_zip_that_is_not_read_here_names_the_way_round(
    tmp_path: Path, at: int, value: bytes, said: str
) -> None:
    zipped(tmp_path / "a.zip", COVERS)
    patch_central(tmp_path / "a.zip", "v3.jpg", at, value)
    refuse(tmp_path / "a.zip", CheckFailed, "v3.jpg", said, "unpack it and import the folder")


@pytest.mark.parametrize("member", ["../v1.jpg", "a/../../v1.jpg", "/v1.jpg", "C:\\v1.jpg"])
@pytest.mark.parametrize("kind", ["stored.zip", "plain.tar"])
def test_archive_that_climbs_out_is_refused_whole(tmp_path: Path, kind: str, member: str) -> None:
    KINDS[kind](tmp_path / kind, {**COVERS, member: b"x"})
    refuse(tmp_path / kind, CheckFailed, "climbs out of its folder", member)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["c.tar", "c.zip", "covers"])
def test_compressed_tar_is_to_be_unpacked(tmp_path: Path, mode: str, name: str) -> None:
    tarred(f"w:{mode}")(tmp_path / name, COVERS)
    refuse(tmp_path / name, CheckFailed, "unpack it")


@pytest.mark.parametrize("kind", ["stored.zip", "plain.tar"])
def test_truncated_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    KINDS[kind](path, COVERS)
    whole = path.read_bytes()
    end = whole.rindex(COVERS["v11.jpg"]) + len(COVERS["v11.jpg"]) if kind == "plain.tar" else 0
    block = -(-end // 512) * 512
    for size in (1, 300, 512, 1024, 2000, len(whole) // 2, block or len(whole) - 1, end - 1):
        if size > 0:
            path.write_bytes(whole[:size])
            refuse(path, CheckFailed, "truncated, damaged or no zip")


def test_tar_with_a_damaged_header_does_not_end_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "c.tar"
    tarred("w")(path, COVERS)
    data = bytearray(path.read_bytes())
    data[data.index(b"v5.jpg")] ^= 1
    path.write_bytes(data)
    refuse(path, CheckFailed, "damaged", "other bytes")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.lmdb", "covers"])
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_are_no_source(tmp_path: Path, name: str, seed: int) -> None:
    (tmp_path / name).write_bytes(random.Random(seed).randbytes(50_000))
    refuse(tmp_path / name, CheckFailed, "no zip, plain tar or LMDB")


def test_data_of_an_lmdb_folder_may_be_damaged_too(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {b"v1": bytes(9000)}, subdir=True)
    data = path / "data.mdb"
    data.write_bytes(data.read_bytes()[:12_000])
    refuse(path, CheckFailed, "truncated or damaged LMDB store")


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"<html>Quota exceeded</html>", "is a web page"), (b"", "is empty (0 bytes)")],
)
def test_page_or_nothing_under_the_name_of_covers_is_told(
    tmp_path: Path, data: bytes, said: str
) -> None:
    (tmp_path / "X_cover.zip").write_bytes(data)
    refuse(tmp_path / "X_cover.zip", NineRecError, said)


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", MissingData, "No such file")
    foldered(tmp_path / "c", COVERS)
    source = open_source(tmp_path / "c")
    source.found()
    (tmp_path / "c" / "v1.jpg").unlink()
    with pytest.raises(MissingData, match=r"v1.jpg: No such file.*ninerec import"):
        source.read("v1.jpg")


def test_unreadable_folder_file_and_archive_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foldered(tmp_path / "c", {"a/v1.jpg": b"x", "b/v2.jpg": b"y"})
    stored(tmp_path / "c.zip", COVERS)
    scandir, opened = os.scandir, Path.open

    def refused(path: object) -> OSError:
        return PermissionError(13, "Permission denied", str(path))

    def scan(path: str | Path) -> Any:
        if Path(path).name == "b":
            raise refused(path)
        return scandir(path)

    def open_(self: Path, *words: Any, **more: Any) -> Any:
        if self.name in ("v1.jpg", "c.zip"):
            raise refused(self)
        return opened(self, *words, **more)

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(MissingData, match=r"cannot read .*v1.jpg: Permission denied"):
        open_source(tmp_path / "c").read("a/v1.jpg")
    refuse(tmp_path / "c.zip", MissingData, "Permission denied")
    monkeypatch.setattr(os, "scandir", scan)
    refuse(tmp_path / "c", MissingData, str(tmp_path / "c" / "b"), "make it readable")


def test_name_that_is_not_utf8_is_to_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    try:
        (tmp_path / "c" / "v\udce9.jpg").write_bytes(b"x")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system knows UTF-8 names only")
    with pytest.raises(CheckFailed, match=r"v\\udce9.jpg.* is no UTF-8 name"):
        open_source(tmp_path / "c").found()


@pytest.mark.parametrize("kind", ["stored.zip", "deflated.zip", "plain.tar"])
def test_damage_anywhere_is_refused_or_has_a_reason(tmp_path: Path, kind: str) -> None:
    path, draw = tmp_path / kind, random.Random(kind)
    KINDS[kind](path, COVERS)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 4, 200))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randint(1, 2 * len(data))])
        try:
            source = open_source(path)
        except NineRecError:
            refused += 1
            continue
        for file in source.found():
            try:
                assert len(source.read(file.name)) == file.size  # type: ignore[arg-type]
            except BadCover:
                refused += 1
        source.close()
    assert refused > 50


# Which name joins which item


def joined(names: list[str], ids: list[str]) -> list[tuple[str, ...]]:
    done = join([Found(name, 1, 1) for name in names], ids, "small")
    return [tuple(file.name for file in files) for files in done.by_item]


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("v1.jpg", "v1"),
        ("V_cover/deep/v1.webp", "v1"),
        ("v1", "v1"),
        ("v1.odd", "v1"),
        ("a.b.jpg", "a.b"),
        ("a.b", "a.b"),
        ("a.b.c.jpg", "a.b.c"),
        ("x/1.jpg", "x/1"),
        ("x%2F1.jpg", "x/1"),
        ("x%2F1", "x/1"),
        ("100%25.jpg", "100%"),
        ("100%.jpg", "100%"),
        ("%E5%A5%BD.png", "好"),
        ("covers/好.png", "好"),
        ("cafe\u0301.jpg", "caf\xe9"),
        ("a b.jpg", "a b"),
        ("1", "v1"),
        ("v1", "1"),
        ("1.jpg", "v1"),
        ("010/0108775015.jpg", "0108775015"),
        ("108775015.jpg", "0108775015"),
        ("108775015", "0108775015"),
        ("item.jpg", "item.jpg"),
    ],
)
def test_name_joins_its_item(name: str, item: str) -> None:
    assert joined([name], [item]) == [(name,)]
    assert joined([name, "ok.jpg"], ["ok", "other", item]) == [("ok.jpg",), (), (name,)]


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("v1.jpg", "v10"),
        ("v01.jpg", "v1"),
        ("x1", "1"),
        ("vv1", "v1"),
        ("V1.jpg", "v1"),
        ("１", "1"),
    ],
)
def test_name_of_another_item_does_not_join(name: str, item: str) -> None:
    assert joined([name, "ok.jpg"], ["ok", item]) == [("ok.jpg",), ()]


def test_exact_names_go_before_others() -> None:
    assert joined(["1", "v1"], ["v1"]) == [("v1",)]
    assert joined(["1", "v1"], ["v1", "1"]) == [("v1",), ("1",)]
    assert joined(["1"], ["v1", "1"]) == [(), ("1",)]
    assert joined(["a.b"], ["a", "a.b"]) == [(), ("a.b",)]
    assert joined(["x%2F1.jpg"], ["x/1", "x%2F1"]) == [(), ("x%2F1.jpg",)]
    assert joined(["7.jpg", "0000000007.jpg"], ["0000000007"]) == [("0000000007.jpg",)]


def test_files_beside_a_picture_do_not_disturb_it() -> None:
    files = ["v1.jpg", "v1.json", "v1.txt", "v2.txt"]
    done = join([Found(name, 1, 1) for name in files], ["v1", "v2"], "small")
    assert [[file.name for file in files] for files in done.by_item] == [["v1.jpg"], ["v2.txt"]]
    assert done.strangers == []
    assert joined(["v1.txt", "1.jpg"], ["v1"]) == [("1.jpg",)]


def test_two_pictures_of_one_item_both_claim_it() -> None:
    assert joined(["a/v1.jpg", "b/v1.JPG", "v1.png"], ["v1"]) == [
        ("a/v1.jpg", "b/v1.JPG", "v1.png")
    ]


def test_strangers_are_the_pictures_that_no_item_has() -> None:
    files = [Found(name, 1, 1) for name in ("v1.jpg", "1.jpg", "v9.jpg", "about.txt")]
    assert join(files, ["v1", "v2"], "small") == Joined(
        [(files[0],), ()], ["1.jpg", "about.txt", "v9.jpg"]
    )


def test_a_source_without_files_is_not_taken_for_covers_that_are_missing() -> None:
    with pytest.raises(CheckFailed, match=r"no file left.*ninerec import small PATH"):
        join([], ["v1", "v2"], "small")


def test_names_are_decoded_before_they_are_composed() -> None:
    """Both spellings of one letter are ids of their own."""
    apart, composed = "e\u0301", "\u00e9"
    files = [Found("e%CC%81.jpg", 1, 1), Found("%C3%A9.jpg", 1, 1)]
    assert join(files, [apart, composed], "small").by_item == [(files[0],), (files[1],)]
    assert join(files[:1], [composed], "small").by_item == [(files[0],)]


def test_names_that_do_not_join_are_shown_from_both_sides() -> None:
    files = [Found(f"IMG_{k}.jpg", 1, 1) for k in range(5000)]
    ids = [f"v{k}" for k in range(300)]
    with pytest.raises(CheckFailed) as caught:
        join(files, ids, "bili_food")
    message = str(caught.value)
    for part in (
        "names that do not join",
        "5,000",
        "'IMG_0.jpg'",
        "none",
        "300",
        "'v0'",
        "bili_food",
    ):
        assert part in message
    assert NEXT.search(message)
    two = [Found(f"v{k}.jpg", 1, 1) for k in range(2)]
    with pytest.raises(CheckFailed, match=r"such as 'v0.jpg', 'v1.jpg', 'IMG_0.jpg', 2 is named"):
        join([*two, *files], ids, "bili_food")
    three = [Found(f"v{k}.jpg", 1, 1) for k in range(3)]
    assert sum(map(len, join([*three, *files], ids, "bili_food").by_item)) == 3


def test_few_covers_of_many_items_and_many_covers_of_few_items_join() -> None:
    ids = [f"v{k}" for k in range(5000)]
    files = [Found(f"{id_}.jpg", 1, 1) for id_ in ids]
    assert sum(map(len, join(files[:3], ids, "small").by_item)) == 3
    assert sum(map(len, join(files, ids[:3], "small").by_item)) == 3


def test_join_of_150_000_names_is_quick() -> None:
    ids = [f"v{k}" for k in range(150_000)]
    files = [Found(f"{k % 100:03d}/{k}.jpg", 1, 1) for k in range(150_000)]
    start = time.process_time()
    done = join(files, ids, "large")
    assert all(len(files) == 1 for files in done.by_item)
    assert time.process_time() - start < 10  # half a second to two; quadratic would be an hour
