"""`ninerec clean`: what goes, what stays, what it frees, and that nothing goes unasked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from releases import (
    CATALOG,
    NAME,
    Said,
    check_refusal,
    digests,
    leftovers,
    say,
    write_catalog,
    write_release,
)
from test_kill import kill_at

from ninerec_data import Home, MissingData, open_dataset
from ninerec_data.catalog import Entry, find
from ninerec_data.cleaning import leftovers as left_of
from ninerec_data.files import lock
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare
from ninerec_data.raw import held_files, hold, known_digests, remember_digests
from ninerec_data.verify import verify

Captured = pytest.CaptureFixture[str]
SIBLING = "smaller"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / f"{SIBLING}.toml").write_text(CATALOG, encoding="utf-8")
    return write_catalog(folder, monkeypatch)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `small` as it is prepared, for all tests; no path stands in it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        entry = write_catalog(folder / "catalog", patch)
        import_release(Home(folder), entry, write_release(folder / "release"))
        return prepare(Home(folder), entry).folder


@pytest.fixture
def store(home: Path, entry: Entry, release: Path, made: Path) -> Path:
    """`small`, imported from files that the user keeps, and prepared."""
    import_release(Home(home), entry, release)
    (home / "prepared").mkdir()
    (home / "prepared" / ".small.lock").touch()
    return shutil.copytree(made, home / "prepared" / NAME)


def clean(capsys: Captured, *words: object) -> tuple[Said, Any]:
    said = say(capsys, "clean", *words, "--json")
    return said, json.loads(said.out) if said.code == 0 else None


def parts(found: Any, home: Path) -> list[tuple[str, str]]:
    """(what, path in the home) of each part."""
    return [(p["what"], str(Path(p["path"]).relative_to(home))) for p in found["parts"]]


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def left(home: Path, *names: str, size: int = 1000) -> int:
    """What a killed run leaves under these names of prepared/; returns its bytes."""
    for name in names:
        (home / "prepared" / name / "splits").mkdir(parents=True)
        (home / "prepared" / name / "splits" / "half").write_bytes(b"x" * size)
    return size * len(names)


def test_the_prepared_dataset_goes_and_everything_else_stays(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    for name in ("runs/small-1", "features/small", "prepared/smaller", "raw/blobs/aa"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("kept")
    size = bytes_of(store)
    rest = {name: d for name, d in digests(home).items() if not name.startswith("prepared/small/")}
    said, found = clean(capsys, NAME, "--yes")
    assert (said.code, found["dataset"], found["removed"], found["frees"]) == (0, NAME, True, size)
    assert parts(found, home) == [("prepared", "prepared/small")]
    assert digests(home) == rest
    assert not store.exists()
    assert set(held_files(Home(home), NAME)) == {"interactions", "items"}
    with pytest.raises(MissingData, match=r"small is not prepared .* ninerec prepare small"):
        open_dataset(NAME, home=home)
    assert say(capsys, "prepare", NAME).code == 0  # the raw files are still held


def test_what_killed_runs_left_goes_with_it(capsys: Captured, home: Path, store: Path) -> None:
    mine = (".tmp-small-abcd12_9", ".old-small-abcd1234", ".small.covers-0a1b2c3d")
    others = (
        ".tmp-small-er-abcd1234",
        ".tmp-smaller-abcd1234",
        ".smaller.covers-0a1b2c3d",
        ".small",
    )
    size = bytes_of(store) + left(home, *mine)
    left(home, *others)
    _, found = clean(capsys, NAME, "--yes")
    assert parts(found, home)[0] == ("prepared", "prepared/small")
    assert sorted(parts(found, home)[1:]) == sorted(("leftover", f"prepared/{n}") for n in mine)
    assert found["frees"] == size
    assert {p.name for p in (home / "prepared").iterdir()} == {*others, ".small.lock"}


def test_a_store_that_a_killed_run_left_aside_only_is_that_dataset(
    capsys: Captured, home: Path, store: Path
) -> None:
    store.rename(store.with_name(".old-small-abcd1234"))
    _, found = clean(capsys, NAME, "--yes")
    assert parts(found, home) == [("prepared", "prepared/.old-small-abcd1234")]
    assert [p.name for p in (home / "prepared").iterdir()] == [".small.lock"]


def test_dry_run_says_what_would_go_and_writes_nothing(
    capsys: Captured, home: Path, store: Path
) -> None:
    (home / "prepared" / ".small.lock").unlink()
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    said, found = clean(capsys, NAME, "--raw", "--dry-run")
    assert (said.code, found["removed"]) == (0, False)
    assert parts(found, home) == [
        ("prepared", "prepared/small"),
        ("journal", "raw/journal.sqlite"),
        ("raw", "raw/files/small-release/small"),
    ]
    told = say(capsys, "clean", NAME, "--raw", "--dry-run")
    assert told.code == 0
    assert [line.split()[0] for line in told.out.splitlines()] == [
        *("what", "prepared", "journal", "raw"),
    ]
    assert "runs, features and files outside the home stay\n" in told.err
    assert told.err.endswith(" kB\n")
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


# Raw files.


def test_linked_raw_files_free_nothing_while_the_user_has_them(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    before = digests(release)
    size = bytes_of(store)
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert [part["frees"] for part in found["parts"]] == [size, 0, 0]
    assert not (home / "raw/files/small-release/small").exists()
    assert held_files(Home(home), NAME) == {}
    assert digests(release) == before


def test_the_last_name_of_a_raw_file_frees_it(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    (release / "Downstream/Small/Small_pair.csv").unlink()
    size = (home / "raw/files/small-release/small/Small_pair.csv").stat().st_size
    _, found = clean(capsys, NAME, "--raw", "--dry-run")
    assert found["parts"][-1]["frees"] == size


def test_a_file_with_two_names_among_what_goes_is_freed_once(
    capsys: Captured, home: Path, store: Path
) -> None:
    size = bytes_of(store)
    work = home / "prepared" / ".small.covers-0a1b2c3d"
    work.mkdir()
    (work / "00000.tar").write_bytes(b"x" * 5000)
    os.link(work / "00000.tar", store / "00000.tar")
    _, found = clean(capsys, NAME, "--dry-run")
    assert [part["frees"] for part in found["parts"]] == [size, 5000]
    os.link(work / "00000.tar", home / "a-third-name")
    assert clean(capsys, NAME, "--dry-run")[1]["frees"] == size


def test_unpacked_raw_files_go(capsys: Captured, home: Path, entry: Entry, release: Path) -> None:
    archive = home.parent / "release.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(release.rglob("*.csv")):
            file.write(path, path.name)
    import_release(Home(home), entry, archive)
    held = home / "raw/files/small-release/small"
    (held.parent / ".tmp-small-abcd1234").mkdir()  # an import of it was killed before
    size = bytes_of(held)
    assert clean(capsys, NAME, "--dry-run")[1]["parts"] == []
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert (found["frees"], list(held.parent.iterdir())) == (size, [])
    assert archive.exists()


def test_files_outside_the_home_are_forgotten_and_stay(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    covers = release / "Small_cover"
    covers.mkdir()
    (covers / "v1.jpg").write_bytes(b"jpeg")
    place = Home(home)
    hold(place, NAME, "small-release", {"covers": covers}, {"covers": "x"})
    hold(place, SIBLING, "small-release", {"covers": home.parent}, {"covers": "x"})
    for source in (covers, home.parent, Path("/nobody/holds/this")):
        remember_digests(place, source, {("v1.jpg", 4, 0): "digest"})
    clean(capsys, NAME, "--raw", "--yes")
    assert (covers / "v1.jpg").read_bytes() == b"jpeg"
    assert known_digests(place, covers) == {}
    assert known_digests(place, home.parent) != {}
    with contextlib.closing(sqlite3.connect(home / "raw/journal.sqlite")) as journal:
        assert journal.execute("select dataset, role from files").fetchall() == [
            (SIBLING, "covers")
        ]
        assert journal.execute("select count(*) from digests").fetchone() == (1,)


def test_a_raw_file_that_another_dataset_uses_stays(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    shutil.rmtree(release)
    shared = home / "raw/files/small-release/small/Small_item.csv"
    hold(Home(home), SIBLING, "small-release", {"items": shared}, {"items": str(shared)})
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert parts(found, home)[-1] == ("raw", "raw/files/small-release/small/Small_pair.csv")
    assert [path.name for path in shared.parent.iterdir()] == ["Small_item.csv"]
    assert held_files(Home(home), NAME) == {}
    assert held_files(Home(home), SIBLING)["items"].path == shared
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert (found["parts"], shared.exists()) == ([], True)


def test_a_folder_that_another_dataset_uses_stays_whole(
    capsys: Captured, home: Path, store: Path
) -> None:
    folder = home / "raw/files/small-release/small"
    hold(Home(home), SIBLING, "small-release", {"covers": folder}, {"covers": "x"})
    before = digests(folder)
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert [part["what"] for part in found["parts"]] == ["prepared", "journal"]
    assert digests(folder) == before


def test_a_damaged_journal_is_no_hindrance_but_for_raw(
    capsys: Captured, home: Path, store: Path
) -> None:
    (home / "raw/journal.sqlite").write_text("this is no database, however long it may be")
    check_refusal(say(capsys, "clean", NAME, "--raw", "--yes"), 1, "cannot use the journal")
    assert store.exists()
    assert clean(capsys, NAME, "--yes")[1]["removed"] is True


# Nothing is followed out of the home.


def test_links_go_and_what_they_point_to_stays(capsys: Captured, home: Path, store: Path) -> None:
    outside = home.parent / "outside"
    store.rename(outside)
    store.symlink_to(outside)
    raw = home / "raw/files/small-release/small"
    raw.rename(home.parent / "raw-outside")
    raw.symlink_to(home.parent / "raw-outside")
    work = home / "prepared/.small.covers-0a1b2c3d"
    work.mkdir()
    (work / "inside").symlink_to(outside)
    before = {**digests(outside), **digests(home.parent / "raw-outside")}
    told = say(capsys, "clean", NAME, "--raw", "--dry-run").out
    assert f"{store} -> {outside} (stays)\n" in told
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert found["frees"] == sum(
        len(str(p)) for p in (outside, outside, home.parent / "raw-outside")
    )
    assert not any(os.path.lexists(path) for path in (store, raw, work))
    assert {**digests(outside), **digests(home.parent / "raw-outside")} == before


def test_a_release_that_is_a_link_is_not_entered(
    capsys: Captured, home: Path, store: Path, release: Path
) -> None:
    files = home / "raw/files/small-release"
    files.rename(home.parent / "elsewhere")
    files.symlink_to(home.parent / "elsewhere")
    before = digests(home.parent / "elsewhere")
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert [part["what"] for part in found["parts"]] == ["prepared", "journal"]
    assert digests(home.parent / "elsewhere") == before


@pytest.mark.parametrize("name", ["..", ".", "../prepared", "small/..", "/etc", "sm*", ".small"])
def test_a_name_is_no_path_and_no_pattern(
    capsys: Captured, home: Path, store: Path, name: str
) -> None:
    left(home, ".small")
    before = digests(home)
    check_refusal(say(capsys, "clean", name, "--yes"), 2, f"unknown dataset '{name}'")
    assert digests(home) == before


# Which dataset.


def test_a_dataset_that_the_catalog_lacks_can_be_cleaned(
    capsys: Captured, home: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NINEREC_CATALOG")
    _, found = clean(capsys, NAME, "--raw", "--yes")
    assert [part["what"] for part in found["parts"]] == ["prepared", "journal", "raw"]
    assert not store.exists()
    check_refusal(say(capsys, "clean", NAME, "--yes"), 2, "unknown dataset 'small'")


def test_a_folder_without_manifest_can_be_cleaned(
    capsys: Captured, home: Path, store: Path
) -> None:
    (store / "manifest.json").unlink()
    assert clean(capsys, NAME, "--yes")[1]["removed"] is True
    assert not store.exists()


def test_nothing_to_remove_is_said_and_makes_no_home(
    capsys: Captured, home: Path, entry: Entry
) -> None:
    said = say(capsys, "clean", NAME, "--raw")
    assert (said.code, said.out) == (0, "")
    assert said.err == f"{home} holds nothing of small to remove\n"
    assert clean(capsys, NAME)[1] == {"dataset": NAME, "removed": False, "frees": 0, "parts": []}
    assert not home.exists()


def test_a_name_for_one_split_does_not_remove_them_all(capsys: Captured, home: Path) -> None:
    (home / "prepared/bili_500k").mkdir(parents=True)
    said = say(capsys, "clean", "bili_warm20", "--yes")
    check_refusal(said, 2, "bili_warm20 is bili_500k --warm 20", "ninerec clean bili_500k")
    assert (home / "prepared/bili_500k").exists()
    assert find("mind")[0].name == "mind_small"  # a name that means a whole dataset may be used
    (home / "prepared/mind_small").mkdir()
    assert clean(capsys, "mind", "--yes")[1]["removed"] is True
    assert not (home / "prepared/mind_small").exists()


@pytest.mark.parametrize("words", [(), (NAME, "--leftovers"), ("--leftovers", "--raw")])
def test_one_dataset_or_the_leftovers_of_all(capsys: Captured, home: Path, words: Any) -> None:
    check_refusal(say(capsys, "clean", *words), 2, "DATASET", "--leftovers")


# What killed runs left, of every dataset.


def test_leftovers_go_and_the_datasets_stay(capsys: Captured, home: Path, store: Path) -> None:
    gone = (".tmp-small-abcd1234", ".old-small-abcd1234", ".tn.covers-0a1b2c3d")
    # The last is the only whole store of qb, which the next prepare puts back.
    stay = ("small", ".small.lock", ".hidden", ".tmp-x", ".old-qb-abcd1234")
    size = left(home, *gone)
    left(home, *stay[2:])
    before = digests(store)
    assert left_of(Home(home)) == {
        NAME: [home / "prepared" / name for name in sorted(gone[:2])],
        "tn": [home / "prepared" / gone[2]],
    }
    _, found = clean(capsys, "--leftovers", "--yes")
    assert (found["dataset"], found["removed"], found["frees"]) == (None, True, size)
    assert {part["dataset"] for part in found["parts"]} == {NAME, "tn"}
    assert {p.name for p in (home / "prepared").iterdir()} == {*stay, ".tn.lock"}
    assert digests(store) == before
    said = say(capsys, "clean", "--leftovers")
    assert said.err == f"{home} holds nothing of killed runs to remove\n"


def test_leftovers_that_a_run_at_work_uses_stay(capsys: Captured, home: Path) -> None:
    left(home, ".tmp-qb-abcd1234", ".tmp-tn-abcd1234")
    with lock(Home(home).lock_of("qb")):
        said, found = clean(capsys, "--leftovers", "--yes")
    assert parts(found, home) == [("leftover", "prepared/.tmp-tn-abcd1234")]
    assert said.err.startswith("qb: another ninerec process is at work here")
    assert sorted(left_of(Home(home))) == ["qb"]


# Asking, and who else is at work.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y\n", "YES\n", "n\n", "\n", "", "yet\n"])
def test_a_terminal_is_asked(
    capsys: Captured, home: Path, store: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    said = say(capsys, "clean", NAME)
    agreed = answer.strip().lower() in ("y", "yes")
    assert (said.code, store.exists()) == (0, not agreed)
    assert "kB? [y/N] " in said.err
    assert ("kB freed" in said.out, "nothing was removed" in said.err) == (agreed, not agreed)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ((NAME,), "ninerec clean small --yes"),
        ((NAME, "--raw"), "ninerec clean small --raw --yes"),
        (("--leftovers",), "ninerec clean --leftovers --yes"),
    ],
)
def test_without_a_terminal_it_wants_yes(
    capsys: Captured, home: Path, store: Path, words: Any, command: str
) -> None:
    left(home, ".tmp-small-abcd1234")
    before = digests(home)
    check_refusal(say(capsys, "clean", *words, "--json"), 2, command, "--dry-run", " kB")
    assert digests(home) == before


def test_the_command_names_the_home_that_was_named(
    capsys: Captured, home: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = home.rename(home.with_name("another home"))
    said = say(capsys, "clean", NAME, "--home", moved)
    check_refusal(said, 2, f"run: ninerec clean small --home '{moved}' --yes ")


@pytest.mark.parametrize("shared", [False, True])
def test_a_dataset_that_another_process_is_at_is_left(
    capsys: Captured, home: Path, store: Path, shared: bool
) -> None:
    before = digests(home)
    with lock(Home(home).lock_of(NAME), shared=shared):  # shared: a sibling copies its covers
        check_refusal(say(capsys, "clean", NAME, "--yes"), 2, "another ninerec process is at work")
    assert digests(home) == before


def test_raw_files_that_another_process_is_at_are_left(
    capsys: Captured, home: Path, store: Path
) -> None:
    before = digests(home)
    with lock(home / "raw/.small-release.lock", shared=True):
        said = say(capsys, "clean", NAME, "--raw", "--yes")
        check_refusal(said, 2, "another ninerec process is at work", ".small-release.lock")
        assert digests(home) == before
        assert say(capsys, "clean", NAME, "--yes").code == 0  # needs no raw file


# Killed.


def test_killed_anywhere_what_is_there_is_whole_or_not_prepared(
    home: Path, entry: Entry, store: Path, release: Path
) -> None:
    left(home, ".old-small-abcd1234")
    codes = []
    for change in range(1, 60, 4):
        codes.append(kill_at(change, "clean", NAME, "--raw", "--yes"))
        if store.exists():
            assert [check.name for check in verify(store) if check.ok is False] == []
        held = held_files(Home(home), NAME)
        assert all(file.path.exists() for file in held.values())
        if codes[-1] == 0:
            break
    assert codes == [-9] * (len(codes) - 1) + [0]
    assert len(codes) > 3
    assert not store.exists()
    assert held_files(Home(home), NAME) == {}
    assert leftovers(home) == []
    import_release(Home(home), entry, release)
    assert prepare(Home(home), entry).done == ("tables", "split")


def test_what_a_killed_clean_left_is_cleared_by_prepare(
    home: Path, entry: Entry, store: Path
) -> None:
    wanted = digests(store)
    assert kill_at(3, "clean", NAME, "--yes") == -9  # after the rename, before any deletion
    (aside,) = (home / "prepared").glob(".tmp-small-????????")
    assert digests(aside) == wanted
    assert not store.exists()
    prepare(Home(home), entry)
    assert digests(store) == wanted
    assert leftovers(home) == []


def test_clean_imports_nothing_heavy(home: Path, entry: Entry, store: Path) -> None:
    code = (
        "import sys; from ninerec.main import main\n"
        f"assert main(['clean', '{NAME}', '--raw', '--yes']) == 0\n"
        "print('heavy:', *sorted({'polars', 'pyarrow', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"
    assert not store.exists()
