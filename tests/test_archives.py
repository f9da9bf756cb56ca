"""Archives: the same import as from a folder, and nothing at all from one that is hostile or damaged."""

from __future__ import annotations

import io
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import NAME, digests, held, leftovers, titles, write_catalog, write_release
from releases import pairs as pair_rows

from ninerec_data.archives import is_archive, open_archive
from ninerec_data.catalog import Entry, Terms
from ninerec_data.cover_sources import open_source
from ninerec_data.errors import CheckFailed, MissingData, NineRecError
from ninerec_data.files import sha256_file
from ninerec_data.formats import reader
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare

Files = dict[str, bytes]
Pack = Callable[[Path, Files], None]

PAIR, ITEM = "Downstream/Small/Small_pair.csv", "Downstream/Small/Small_item.csv"
FILES: Files = {PAIR: pair_rows().encode(), ITEM: titles().encode()}


def zipped(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is: backslashes too
            archive.writestr(info, data, method)


def stored(path: Path, files: Files) -> None:
    zipped(path, files, zipfile.ZIP_STORED)


def tarred(mode: str) -> Pack:
    def pack(path: Path, files: Files) -> None:
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    return pack


PACKS: dict[str, Pack] = {
    "stored.zip": stored,
    "deflated.zip": zipped,
    "plain.tar": tarred("w"),
    "packed.tar.gz": tarred("w:gz"),
    "packed.tar.bz2": tarred("w:bz2"),
    "packed.tar.xz": tarred("w:xz"),
}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    return write_catalog(tmp_path / "catalog", monkeypatch)


def refuse(home: Path, entry: Entry, path: Path, kind: type[NineRecError], *parts: str) -> None:
    """The import raises one message with these parts, and leaves the home as it was."""
    before, rows = digests(home) if home.exists() else {}, held(home)
    with pytest.raises(kind) as caught:
        import_release(Home(home), entry, path)
    message = str(caught.value)
    assert [part for part in (str(path), *parts) if part not in message] == [], message
    assert "\n" not in message
    assert (digests(home), held(home), leftovers(home)) == (before, rows, [])


@pytest.mark.parametrize("name", PACKS)
def test_import_of_an_archive_prepares_the_bytes_of_the_folder(
    home: Path, entry: Entry, tmp_path: Path, name: str
) -> None:
    folder, packed = Home(tmp_path / "from-folder"), Home(home)
    import_release(folder, entry, write_release(tmp_path / "release"))
    PACKS[name](tmp_path / name, FILES)
    done = import_release(packed, entry, tmp_path / name)
    assert done.missing == ()
    assert {role: path.read_bytes() for role, path in done.found.items()} == {
        "interactions": FILES[PAIR],
        "items": FILES[ITEM],
    }
    prepare(folder, entry)
    prepare(packed, entry)
    assert digests(packed.prepared(NAME)) == digests(folder.prepared(NAME))
    assert leftovers(home) == []


@pytest.mark.parametrize("name", ["stored.zip", "packed.tar.gz"])
def test_bytes_tell_an_archive_whatever_its_name(
    home: Path, entry: Entry, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "download"
    PACKS[name](path, FILES)
    assert is_archive(path)
    assert set(import_release(Home(home), entry, path).found) == {"interactions", "items"}


def test_file_of_lines_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "Small_pair.csv").write_bytes(FILES[PAIR])
    assert not is_archive(tmp_path / "Small_pair.csv")
    assert not is_archive(tmp_path)


def test_shadow_files_of_a_mac_are_passed_over(home: Path, entry: Entry, tmp_path: Path) -> None:
    zipped(
        tmp_path / "a.zip", {"__MACOSX/Downstream/Small/._Small_pair.csv": b"\0\5\x16\7", **FILES}
    )
    done = import_release(Home(home), entry, tmp_path / "a.zip")
    assert done.found["interactions"].read_bytes() == FILES[PAIR]


COVERS = "Downstream/Small/Small_cover"
WITH_COVERS: Files = {f"{COVERS}/v1.jpg": b"x", f"{COVERS}/v2.jpg": b"y", **FILES}


def covers_in(entry: Entry, path: Path) -> list[str]:
    """What the covers of a dataset lists, by the names that its format knows."""
    roles = reader(entry.format).roles(entry.options)
    source = open_source(path, next(role.patterns for role in roles if role.name == "covers"))
    names = [file.name for file in source.found()]
    source.close()
    return names


@pytest.mark.parametrize("name", ["stored.zip", "deflated.zip", "plain.tar"])
@pytest.mark.parametrize("called", ["", "download"])
def test_covers_in_an_archive_are_held_by_holding_the_archive(
    home: Path, entry: Entry, tmp_path: Path, name: str, called: str
) -> None:
    path = tmp_path / (called or name)
    PACKS[name](path, WITH_COVERS)
    done = import_release(Home(home), entry, path)
    assert done.left_in_archive == ()
    assert done.found["covers"] == home / "raw/files/small-release/small" / path.name
    assert done.found["covers"].samefile(path)
    assert held(home)["covers"] == (str(done.found["covers"]), sha256_file(path))
    assert covers_in(entry, done.found["covers"]) == [f"{COVERS}/v1.jpg", f"{COVERS}/v2.jpg"]
    assert done.found["items"].read_bytes() == FILES[ITEM]
    assert leftovers(home) == []


def test_archive_of_covers_alone_completes_what_is_held(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    zipped(tmp_path / "a.zip", FILES)
    assert set(import_release(Home(home), entry, tmp_path / "a.zip").found) == {
        "interactions",
        "items",
    }
    zipped(tmp_path / "b.zip", {"small_COVER/v1.jpg": b"x"})
    assert set(import_release(Home(home), entry, tmp_path / "b.zip").found) == {"covers"}
    assert set(held(home)) == {"interactions", "items", "covers"}


def test_covers_that_cannot_be_read_in_an_archive_are_left_and_named(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    for name in ("packed.tar.gz", "packed.tar.xz"):
        PACKS[name](tmp_path / name, WITH_COVERS)
        done = import_release(Home(home), entry, tmp_path / name)
        assert (done.left_in_archive, set(done.found)) == ((COVERS,), {"interactions", "items"})
    stored(tmp_path / "a.zip", {"Small.lmdb/data.mdb": b"x", "Small.lmdb/lock.mdb": b"", **FILES})
    done = import_release(Home(home), entry, tmp_path / "a.zip")
    assert (done.left_in_archive, set(done.found)) == (("Small.lmdb",), {"interactions", "items"})
    path = tmp_path / "covers.tar.gz"
    PACKS["packed.tar.gz"](path, {"Small_cover/v1.jpg": b"x"})
    refuse(home, entry, path, MissingData, "cannot be read there (Small_cover)", "unpack it")


def test_file_of_covers_in_an_archive_goes_before_its_folder(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    zipped(tmp_path / "inner.zip", {"v1.jpg": b"inner"})
    inner = (tmp_path / "inner.zip").read_bytes()
    stored(tmp_path / "a.zip", {**WITH_COVERS, "Downstream/Small_cover.zip": inner})
    done = import_release(Home(home), entry, tmp_path / "a.zip")
    assert done.found["covers"].name == "Small_cover.zip"
    assert covers_in(entry, done.found["covers"]) == ["v1.jpg"]
    assert done.left_in_archive == ()


def test_whole_kaggle_archive_of_hm_holds_its_images(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "h-and-m-personalized-fashion-recommendations.zip"
    files = {
        "articles.csv": b"article_id,prod_name\n0108775015,Strap top\n",
        "transactions_train.csv": b"t_dat,customer_id,article_id\n2018-09-20,c1,0108775015\n",
        "images/010/0108775015.jpg": b"x",
    }
    zipped(path, files)
    own = Entry(
        name="own", title="", format="hm", release="own", terms=Terms(key="none", text="", url="")
    )
    done = import_release(Home(home), own, path)
    assert covers_in(own, done.found["covers"]) == ["images/010/0108775015.jpg"]
    assert done.missing == ()


CLIMBING = [
    "../Small_pair.csv",
    "a/../../Small_pair.csv",
    "/Small_pair.csv",
    "C:\\Small_pair.csv",
    "C:/Small_pair.csv",
    "..\\Small_pair.csv",
    "\\\\server\\share\\Small_pair.csv",
]


@pytest.mark.parametrize("member", CLIMBING)
@pytest.mark.parametrize("name", ["stored.zip", "plain.tar", "packed.tar.gz"])
def test_archive_that_climbs_out_is_refused_whole(
    home: Path, entry: Entry, tmp_path: Path, name: str, member: str
) -> None:
    PACKS[name](tmp_path / name, {**FILES, member: b"u,v,1\n"})
    refuse(home, entry, tmp_path / name, CheckFailed, "climbs out of its folder", member)
    assert not (tmp_path / "Small_pair.csv").exists()


@pytest.mark.parametrize("member", ["..hidden", "a..b", "a/..b/c"])
def test_dots_in_a_name_do_not_climb(tmp_path: Path, member: str) -> None:
    zipped(tmp_path / "a.zip", {member: b"x"})
    with open_archive(tmp_path / "a.zip") as members:
        assert [m.name for m in members] == [member]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
    ids=["symbolic link", "hard link", "character device", "block device", "pipe"],
)
def test_tar_with_a_link_or_device_is_refused(
    home: Path, entry: Entry, tmp_path: Path, kind: bytes
) -> None:
    path = tmp_path / "a.tar"
    tarred("w")(path, FILES)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("Small_url.csv")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    refuse(home, entry, path, CheckFailed, "a link or device", "Small_url.csv")


def test_zip_with_a_symbolic_link_is_refused(home: Path, entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zipped(path, FILES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("Small_url.csv")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refuse(home, entry, path, CheckFailed, "a link or device", "Small_url.csv")


@pytest.mark.parametrize("name", ["deflated.zip", "packed.tar.gz"])
def test_bomb_is_refused_before_it_is_unpacked(
    home: Path, entry: Entry, tmp_path: Path, name: str
) -> None:
    PACKS[name](tmp_path / name, {ITEM: FILES[ITEM], PAIR: bytes(70 << 20)})
    refuse(home, entry, tmp_path / name, CheckFailed, "looks like a bomb", PAIR, "73,400,320")


def test_tar_member_that_claims_a_terabyte_is_refused(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(PAIR)
        info.size = 1 << 40
        archive.addfile(info)
    refuse(home, entry, path, CheckFailed, "looks like a bomb", "1,099,511,627,776")


@pytest.mark.parametrize("digits", [b"\x7f" + b"\xff" * 11, b"\xff" * 12])
def test_tar_member_whose_size_no_file_has_is_damage(
    home: Path, entry: Entry, tmp_path: Path, digits: bytes
) -> None:
    path = tmp_path / "a.tar"
    tarred("w")(path, FILES)
    with tarfile.open(path) as archive:
        info = archive.getmembers()[0]
    info.size = 0
    head = bytearray(info.tobuf())
    head[124:136] = b"\x80" + digits[1:] if digits[0] == 0x7F else digits
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:512]))
    path.write_bytes(bytes(head) + path.read_bytes()[512:])
    refuse(home, entry, path, CheckFailed)
    with pytest.raises(CheckFailed, match="truncated, damaged"):
        open_source(path)


def patch_central(path: Path, member: str, offset: int, value: bytes) -> None:
    """Overwrite a field of a member's entry in a zip's central directory."""
    data = bytearray(path.read_bytes())
    at = data.rindex(member.encode()) - 46
    assert data[at : at + 4] == b"PK\1\2"
    data[at + offset : at + offset + len(value)] = value
    path.write_bytes(data)


def test_zip_claims_are_held_against_the_size_of_the_zip(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, FILES)
    # 3 GB out of a claimed 100 MB, in a zip of some kilobytes
    patch_central(path, PAIR, 20, struct.pack("<II", 100_000_000, 3_000_000_000))
    refuse(home, entry, path, CheckFailed, "looks like a bomb", "3,000,000,000")


def test_zip_with_a_name_that_is_not_the_utf8_it_says_is_damaged(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {**FILES, "readm\xe9.txt": b"x"})
    path.write_bytes(path.read_bytes().replace("\xe9".encode(), b"\xff\xff"))
    refuse(home, entry, path, CheckFailed, "truncated, damaged")


@pytest.mark.parametrize("claim", [10, 1_000_000])
def test_zip_member_of_another_size_than_claimed_leaves_nothing(
    home: Path, entry: Entry, tmp_path: Path, claim: int
) -> None:
    path = tmp_path / "a.zip"
    stored(path, FILES)
    patch_central(path, PAIR, 24, struct.pack("<I", claim))
    refuse(home, entry, path, CheckFailed)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9, 0.999])
@pytest.mark.parametrize("name", PACKS)
def test_truncated_archive_leaves_nothing(
    home: Path, entry: Entry, tmp_path: Path, name: str, share: float
) -> None:
    path = tmp_path / name
    PACKS[name](path, {"Downstream/readme.bin": random.Random(0).randbytes(9000), **FILES})
    whole = path.read_bytes()
    size = len(whole) if name != "plain.tar" else whole.rindex(b"Title") + 9  # not the padding
    path.write_bytes(whole[: int(share * size)])
    refuse(home, entry, path, CheckFailed, "truncated", "fetch it again")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("broken", [PAIR, ITEM])
def test_needed_member_with_a_wrong_checksum_leaves_nothing(
    home: Path, entry: Entry, tmp_path: Path, broken: str
) -> None:
    path = tmp_path / "a.zip"
    stored(path, FILES)
    flip(path, path.read_bytes().index(FILES[broken]) + 5)
    refuse(home, entry, path, CheckFailed, "truncated, damaged", broken)
    assert digests(home) == {}


def test_damaged_archive_does_not_touch_what_is_held(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    stored(path, FILES)
    import_release(Home(home), entry, path)
    prepare(Home(home), entry)
    stored(path, {PAIR: FILES[PAIR] + b"u1,v1,1600009999\n", ITEM: FILES[ITEM]})
    flip(path, path.read_bytes().index(FILES[ITEM]) + 5)
    refuse(home, entry, path, CheckFailed, ITEM)
    assert prepare(Home(home), entry).done == ()


def test_tar_gz_with_a_flipped_bit_is_damaged(home: Path, entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    tarred("w:gz")(path, FILES)
    flip(path, path.stat().st_size // 2)
    refuse(home, entry, path, CheckFailed, "truncated, damaged")


@pytest.mark.parametrize(
    ("central", "local", "value", "said"),
    [(8, 6, b"\1\0", "encrypted"), (10, 8, b"\x09\0", "compression method")],
    ids=["password", "deflate64"],
)
def test_zip_that_python_cannot_unpack_names_the_way_round(
    home: Path, entry: Entry, tmp_path: Path, central: int, local: int, value: bytes, said: str
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {PAIR: FILES[PAIR]})
    patch_central(path, PAIR, central, value)
    data = bytearray(path.read_bytes())
    data[local : local + 2] = value
    path.write_bytes(data)
    with pytest.raises(CheckFailed, match=f"{said}.*unpack it and import the folder"):
        import_release(Home(home), entry, path)
    assert (digests(home), held(home)) == ({}, {})


HTML = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456789\n"


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize(
    ("data", "said"),
    [(HTML, "is a web page"), (LFS, "is a Git LFS pointer")],
    ids=["page", "pointer"],
)
def test_page_or_pointer_saved_as_an_archive_is_told(
    home: Path, entry: Entry, tmp_path: Path, suffix: str, data: bytes, said: str
) -> None:
    path = tmp_path / f"release{suffix}"
    path.write_bytes(data)
    refuse(home, entry, path, MissingData, said)


def test_empty_archive_file_is_told(home: Path, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    refuse(home, entry, tmp_path / "a.zip", CheckFailed, "is empty (0 bytes)")


def test_archive_of_other_things_names_the_files_it_lacks(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    zipped(tmp_path / "a.zip", {"readme.txt": b"x"})
    refuse(home, entry, tmp_path / "a.zip", MissingData, "Small_pair.csv", "Small_item.csv")


def test_member_that_is_a_pointer_is_named_inside_its_archive(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {**FILES, PAIR: LFS})
    refuse(home, entry, path, MissingData, f"{path}!{PAIR} is a Git LFS pointer")


def test_two_different_members_of_one_role_are_refused_by_name(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {**FILES, "old/Small_pair.csv": FILES[PAIR][:-20]})
    refuse(home, entry, path, CheckFailed, f"{path}!{PAIR}", f"{path}!old/Small_pair.csv")


def test_the_same_member_twice_is_one_file(home: Path, entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zipped(path, {**FILES, "copy/Small_pair.csv": FILES[PAIR]})
    done = import_release(Home(home), entry, path)
    assert done.found["interactions"].read_bytes() == FILES[PAIR]


@pytest.mark.parametrize("name", PACKS)
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / name, random.Random(name)
    PACKS[name](path, FILES)
    whole, refused = path.read_bytes(), 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randint(1, 2 * len(data))])
        try:
            with open_archive(path) as members:
                for member in members:
                    member.extract(tmp_path / "out")
        except NineRecError:
            refused += 1
    assert refused > 20
    assert leftovers(tmp_path) == []
