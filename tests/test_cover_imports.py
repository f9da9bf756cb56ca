"""Covers imported again, gone, packed or damaged: nothing old is served, nothing is lost in silence."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from covered import Covered, known, make_covered, picture, write_covers

from ninerec_data import Home
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.importing import import_release
from ninerec_data.pictures import make_picture
from ninerec_data.prepare import CoverOptions, prepare
from ninerec_data.verify import verify

SAME_TIME = (1_600_000_000, 1_600_000_000)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Covered:
    known(tmp_path / "catalog", monkeypatch)
    return make_covered(tmp_path / "one")


def test_covers_imported_again_are_read_again_whatever_their_times_say(release: Covered) -> None:
    """`cp -p`, rsync and most archives give another file the size and time of the one before."""
    one = picture(26)
    path = release.covers / "v26.jpg"
    path.write_bytes(one)
    os.utime(path, SAME_TIME)
    release.prepare()
    path.write_bytes(picture(30).ljust(len(one), b"\0")[: len(one)])
    other = path.read_bytes()
    os.utime(path, SAME_TIME)
    release.import_from(release.folder / "release")
    assert release.prepare().done == ("covers",)
    assert release.open().cover(26) == make_picture(other).jpeg != make_picture(one).jpeg


@pytest.mark.parametrize("name", ["h[a]*?", "h%41 {b}", "标题"])
def test_a_home_of_any_name(release: Covered, tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name)
    import_release(home, release.entry, release.folder / "release")
    prepare(home, release.entry)
    assert [c.name for c in verify(home.prepared(release.name)) if c.ok is False] == []


def test_an_emptied_folder_does_not_empty_the_store(release: Covered) -> None:
    release.prepare()
    for path in release.covers.iterdir():
        path.unlink()
    with pytest.raises(CheckFailed, match="no file left"):
        release.prepare()
    assert len(release.open().covers) == 84


def test_covers_that_are_gone_are_let_go_by_importing_the_rest(release: Covered) -> None:
    shutil.rmtree(release.covers)
    with pytest.raises(MissingData, match="ninerec import drawn PATH"):
        release.prepare()
    release.import_from(release.folder / "release")
    assert release.prepare().covers is None


def test_a_compressed_tar_of_covers_is_named(release: Covered, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(release.folder / "release", folder, ignore=shutil.ignore_patterns("covers"))
    with tarfile.open(folder / "covers.tar.gz", "w:gz") as tar:
        tar.add(release.covers, "covers")
    done = import_release(Home(tmp_path / "other"), release.entry, folder)
    assert done.left_in_archive == (str(folder / "covers.tar.gz"),)


@pytest.mark.parametrize("damage", ["cut", "climbs"])
def test_a_damaged_zip_of_covers_is_refused_by_import(
    release: Covered, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(release.folder / "release", folder, ignore=shutil.ignore_patterns("covers"))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../v1.jpg" if damage == "climbs" else "v1.jpg", picture(1))
    (folder / "covers.zip").write_bytes(data.getvalue()[: -60 if damage == "cut" else None])
    home = Home(tmp_path / "other")
    with pytest.raises(CheckFailed, match=r"covers\.zip"):
        import_release(home, release.entry, folder)
    assert not list(home.root.rglob("covers.zip"))


def test_a_link_that_leads_to_itself_is_no_cover(release: Covered) -> None:
    (release.covers / "loop.jpg").symlink_to("loop.jpg")
    assert release.prepare().covers["counts"]["ok"] == 84  # type: ignore[index]


def test_blank_covers_of_nothing_say_what_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(tmp_path / "catalog", monkeypatch)
    bare = make_covered(tmp_path / "bare", covers=False)
    with pytest.raises(MissingData, match="holds no covers"):
        prepare(bare.home, bare.entry, covers=CoverOptions(missing="blank"))


def test_a_store_without_a_split_is_not_judged_whole(release: Covered) -> None:
    release.prepare()
    shutil.rmtree(release.prepared / "splits")
    check = next(c for c in verify(release.prepared) if c.name == "there is a split")
    assert (check.ok, check.found) == (None, "none; run: ninerec prepare drawn")


def test_covers_of_the_release_may_grow_between_imports(release: Covered) -> None:
    release.prepare()
    write_covers(release.covers, [1])
    release.import_from(release.folder / "release")
    release.prepare()
    assert len(release.open().covers) == 85
