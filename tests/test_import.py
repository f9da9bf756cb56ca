"""Import: what is found, where it is held, and how a change behind its back is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from releases import (
    NAME,
    ROWS,
    Said,
    check_refusal,
    digests,
    held,
    leftovers,
    mounted,
    say,
    titles,
    write_catalog,
    write_release,
)
from releases import pairs as pair_rows
from test_archives import stored, tarred
from test_lmdb_store import write_lmdb

from ninerec_data.catalog import Entry, Terms, find
from ninerec_data.files import lock, sha256_file
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare

REPOSITORY = Path(__file__).resolve().parents[1]
TERMS = Terms(key="none", text="", url="")
Captured = pytest.CaptureFixture[str]
PAIR, ITEM = "Downstream/Small/Small_pair.csv", "Downstream/Small/Small_item.csv"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    return write_catalog(tmp_path / "catalog", monkeypatch)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, or the release on another disk than the home."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)


def test_files_are_hard_links_of_the_users(home: Path, entry: Entry, release: Path) -> None:
    done = import_release(Home(home), entry, release)
    placed = home / "raw/files/small-release/small"
    assert done.found == {
        "interactions": placed / "Small_pair.csv",
        "items": placed / "Small_item.csv",
    }
    assert done.found["items"].samefile(release / ITEM)
    assert (release / ITEM).stat().st_nlink == 2


def test_files_are_referenced_where_links_fail_and_nothing_is_copied(
    home: Path, entry: Entry, release: Path, no_links: None
) -> None:
    done = import_release(Home(home), entry, release)
    assert done.found == {"interactions": release / PAIR, "items": release / ITEM}
    assert digests(home) == {}
    assert prepare(Home(home), entry).tables["counts"]["interactions"] == ROWS


def test_import_writes_nothing_into_the_release(home: Path, entry: Entry, release: Path) -> None:
    before = digests(release)
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    assert digests(release) == before


def test_single_files_one_after_the_other_complete_the_set(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    first = say(capsys, "import", NAME, release / ITEM)
    check_refusal(first, 3, "Small_pair.csv or Small_behaviour.tsv", f"under {release / ITEM}")
    assert set(held(home)) == {"items"}
    assert say(capsys, "import", NAME, release / PAIR).code == 0
    assert set(held(home)) == {"items", "interactions"}
    assert say(capsys, "prepare", NAME).code == 0


def test_names_are_matched_without_case(home: Path, entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "SMALL_PAIR.CSV").write_text(pair_rows())
    (tmp_path / "small_Item.Csv").write_text(titles())
    assert import_release(Home(home), entry, tmp_path).missing == ()
    assert prepare(Home(home), entry).tables["counts"]["interactions"] == ROWS


def test_the_same_file_at_two_depths_is_one(home: Path, entry: Entry, release: Path) -> None:
    (release / "Small_pair.csv").write_bytes((release / PAIR).read_bytes())
    assert set(import_release(Home(home), entry, release).found) == {"interactions", "items"}


def test_two_different_files_of_one_name_are_refused_by_name(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    (release / "Small_pair.csv").write_text("u1,v1,1\n")
    said = say(capsys, "import", NAME, release)
    check_refusal(said, 1, release / PAIR, release / "Small_pair.csv", f"ninerec import {NAME}")
    assert (held(home), digests(home)) == ({}, {})


def test_better_name_wins_over_another_file_of_the_role(
    home: Path, entry: Entry, release: Path
) -> None:
    (release / "Small_behaviour.tsv").write_text("u1\tv1 v2 v3 v4 v5\n")
    found = import_release(Home(home), entry, release).found
    assert found["interactions"].name == "Small_pair.csv"


def test_folder_that_has_a_files_name_is_looked_into(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    for name, text in (("Small_pair.csv", pair_rows()), ("Small_item.csv", titles())):
        (tmp_path / "release" / name).mkdir(parents=True)
        (tmp_path / "release" / name / name).write_text(text)
    assert import_release(Home(home), entry, tmp_path / "release").missing == ()


def test_folder_of_covers_is_referenced_whole(home: Path, entry: Entry, release: Path) -> None:
    (release / "Small_cover").mkdir()
    (release / "Small_cover" / "v1.jpg").write_bytes(b"x")
    assert import_release(Home(home), entry, release).found["covers"] == release / "Small_cover"
    assert held(home)["covers"] == (str(release / "Small_cover"), None)


@pytest.mark.parametrize(
    "name", ["Small_cover.zip", "small_Cover.tar", "Small_cover.lmdb", "Small.lmdb"]
)
def test_file_of_covers_is_linked(home: Path, entry: Entry, release: Path, name: str) -> None:
    path = release / "elsewhere" / name
    path.parent.mkdir()
    if path.suffix == ".zip":
        stored(path, {"v1.jpg": b"x"})
    elif path.suffix == ".tar":
        tarred("w")(path, {"v1.jpg": b"x"})
    else:
        write_lmdb(path, {b"v1": b"x"})
        assert path.with_name(f"{name}-lock").exists()
    for origin in (release, path):
        found = import_release(Home(home), entry, origin).found["covers"]
        assert found.samefile(path)
        assert held(home)["covers"] == (str(found), sha256_file(path))


def test_folder_of_an_lmdb_is_referenced_whole(home: Path, entry: Entry, release: Path) -> None:
    path = write_lmdb(release / "Small.lmdb", {b"v1": b"x"}, subdir=True)
    for origin in (release, path):
        assert import_release(Home(home), entry, origin).found["covers"] == path


def test_lock_beside_an_lmdb_is_no_second_store_of_covers(home: Path, tmp_path: Path) -> None:
    write_lmdb(tmp_path / "bili_images.lmdb", {b"1": b"x"})
    bili = find("bili_400k")[0]
    assert import_release(Home(home), bili, tmp_path).found["covers"].name == "bili_images.lmdb"


def test_archive_with_covers_is_referenced_where_links_fail(
    home: Path, entry: Entry, tmp_path: Path, no_links: None
) -> None:
    stored(tmp_path / "a.zip", {"Small_cover/v1.jpg": b"x", PAIR: pair_rows().encode()})
    found = import_release(Home(home), entry, tmp_path / "a.zip").found
    assert found["covers"] == tmp_path / "a.zip"
    assert list(digests(home)) == ["raw/files/small-release/small/Small_pair.csv"]


def test_page_under_the_name_of_covers_is_refused(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    (release / "Small_cover.zip").write_text("<html>quota exceeded</html>")
    said = say(capsys, "import", NAME, release)
    check_refusal(said, 3, release / "Small_cover.zip", "is a web page")
    assert (held(home), digests(home)) == ({}, {})


def test_symbolic_link_stands_for_its_file(home: Path, entry: Entry, release: Path) -> None:
    (release / PAIR).rename(release / "elsewhere.csv")
    (release / PAIR).symlink_to("../../elsewhere.csv")
    found = import_release(Home(home), entry, release).found["interactions"]
    assert not found.is_symlink()
    assert found.read_text() == pair_rows()


def test_broken_symbolic_link_is_a_missing_file(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    (release / PAIR).unlink()
    (release / PAIR).symlink_to("nowhere.csv")
    check_refusal(say(capsys, "import", NAME, release), 3, release / PAIR, "does not exist")
    assert (held(home), digests(home)) == ({}, {})


def test_pipe_under_a_files_name_is_not_waited_for(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    (release / PAIR).unlink()
    os.mkfifo(release / PAIR)
    check_refusal(say(capsys, "import", NAME, release), 3, release / PAIR)


def test_folder_with_a_name_that_is_not_utf8_is_refused(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    odd = release.with_name("Donn\udce9es")
    try:
        release.rename(odd)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system knows UTF-8 names only")
    check_refusal(say(capsys, "import", NAME, odd), 1, r"Donn\udce9es", "no UTF-8 name")
    assert (held(home), digests(home)) == ({}, {})


def test_second_file_that_is_unfit_leaves_the_first_where_it_was(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    before = digests(home)
    other = write_release(release.with_name("other"))
    (other / PAIR).write_text(pair_rows() + "u1,v1,1600009999\n")
    (other / ITEM).write_text("<html>quota exceeded</html>")
    check_refusal(say(capsys, "import", NAME, other), 3, other / ITEM, "is a web page")
    assert digests(home) == before
    assert prepare(Home(home), entry).done == ()


def test_import_of_the_same_bytes_again_redoes_nothing(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    made = prepare(Home(home), entry)
    assert made.done == ("tables", "split")
    before = (made.folder / "manifest.json").stat()
    import_release(Home(home), entry, write_release(release.with_name("copy")))
    assert prepare(Home(home), entry).done == ()
    after = (made.folder / "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_import_of_other_bytes_redoes_the_tables_and_their_split(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    other = write_release(release.with_name("other"))
    (other / PAIR).write_text(pair_rows() + "u1,v1,1600009999\n")
    import_release(Home(home), entry, other)
    made = prepare(Home(home), entry)
    assert made.done == ("tables", "split")
    assert made.tables["counts"]["interactions"] == ROWS + 1


def test_another_figure_in_the_catalog_reaches_the_manifest(
    home: Path, entry: Entry, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    changed = write_catalog(release.parent / "again", monkeypatch, "keep_last = 13\n")
    made = prepare(Home(home), changed)
    assert made.done == ("manifest", "split")
    assert (made.tables["published"], made.tables["split_defaults"]) == (None, {"keep_last": 13})


def later(path: Path) -> None:
    """Give a file another time: a clock may tick too slowly to tell a change."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_touched_file_is_still_the_same(home: Path, entry: Entry, release: Path) -> None:
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    later(release / PAIR)
    assert prepare(Home(home), entry).done == ()


@pytest.mark.parametrize("linked", [True, False], ids=["link", "reference"])
def test_file_changed_in_place_after_its_import_is_noticed(
    capsys: Captured,
    home: Path,
    entry: Entry,
    release: Path,
    linked: bool,
    request: pytest.FixtureRequest,
) -> None:
    if not linked:
        request.getfixturevalue("no_links")
    path = import_release(Home(home), entry, release).found["interactions"]
    with (release / PAIR).open("r+") as file:
        file.write("w")
    later(release / PAIR)
    check_refusal(say(capsys, "prepare", NAME), 1, path, "changed since it was imported")
    assert not (home / "prepared" / NAME).exists()


def test_file_replaced_after_its_import_is_held_as_it_was(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    (release / "new").write_text("u1,v1,1\n")
    (release / "new").replace(release / PAIR)
    assert prepare(Home(home), entry).tables["counts"]["interactions"] == ROWS


def test_referenced_file_that_is_gone_is_named(
    capsys: Captured, home: Path, entry: Entry, release: Path, no_links: None
) -> None:
    import_release(Home(home), entry, release)
    (release / PAIR).unlink()
    said = say(capsys, "prepare", NAME)
    check_refusal(said, 3, release / PAIR, "are gone", f"ninerec import {NAME}")


def test_linked_file_outlives_the_users(home: Path, entry: Entry, release: Path) -> None:
    import_release(Home(home), entry, release)
    (release / PAIR).unlink()
    assert prepare(Home(home), entry).tables["counts"]["interactions"] == ROWS


def test_second_import_at_once_is_told(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    with lock(home / "raw" / ".small-release.lock"):
        check_refusal_of_lock(say(capsys, "import", NAME, release), ".small-release.lock")
    assert held(home) == {}
    assert say(capsys, "import", NAME, release).code == 0


def test_second_prepare_at_once_is_told(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    with lock(home / "prepared" / ".small.lock"):
        check_refusal_of_lock(say(capsys, "prepare", NAME), ".small.lock")
    assert not (home / "prepared" / NAME).exists()
    assert say(capsys, "prepare", NAME).code == 0


def test_prepare_while_the_release_is_imported_is_told(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    with lock(home / "raw" / ".small-release.lock"):
        check_refusal_of_lock(say(capsys, "prepare", NAME), ".small-release.lock")
    with lock(home / "raw" / ".small-release.lock", shared=True):
        assert say(capsys, "prepare", NAME).code == 0


def test_a_file_is_hashed_once(
    home: Path, entry: Entry, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    for module in ("importing", "raw"):
        monkeypatch.setattr(f"ninerec_data.{module}.sha256_file", counting)
    import_release(Home(home), entry, release)
    assert sorted(hashed) == ["Small_item.csv", "Small_pair.csv"]


def test_a_plain_name_goes_before_a_wildcard_of_another_role(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    folder.mkdir()
    (folder / "X.csv").write_text("item_id,user_id,timestamp\na,u,1\n")
    (folder / "text.csv").write_text("a,A title\n")
    own = Entry(name="own", title="", format="rec", release="own", terms=TERMS)
    found = import_release(Home(home), own, folder).found
    assert {role: path.name for role, path in found.items()} == {
        "interactions": "X.csv",
        "items": "text.csv",
    }


def check_refusal_of_lock(said: Said, name: str) -> None:
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: another ninerec process is at work here")
    assert f"{name}); wait for it to end and run this again" in said.err


def test_three_prepares_at_once_leave_what_one_leaves(
    home: Path, entry: Entry, release: Path, tmp_path: Path
) -> None:
    alone = Home(tmp_path / "alone")
    for place in (alone, Home(home)):
        import_release(place, entry, release)
    words = [sys.executable, "-m", "ninerec", "prepare", NAME]
    running = [
        subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    errors = [process.communicate()[1].decode() for process in running]
    codes = [process.returncode for process in running]
    assert codes.count(0) >= 1
    assert set(codes) <= {0, 2}, errors
    assert all("another ninerec process" in e for c, e in zip(codes, errors, strict=True) if c)
    prepare(alone, entry)
    assert digests(home / "prepared") == digests(alone.root / "prepared")
    assert leftovers(home) == []


def test_sweep_of_one_dataset_spares_the_work_of_another_whose_name_begins_alike(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    other, own = home / "prepared/.tmp-small-two-abcdefgh", home / "prepared/.tmp-small-abcdefgh"
    for folder in (other, own):
        folder.mkdir(parents=True)
    prepare(Home(home), entry)
    assert (other.exists(), own.exists()) == (True, False)


def test_what_killed_runs_left_of_any_split_or_import_is_swept(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    made = prepare(Home(home), entry)
    (made.folder / "splits" / ".tmp-0badc0de-abcdefgh").mkdir()
    (home / "raw/files/small-release/.tmp-small-abcdefgh").mkdir()
    import_release(Home(home), entry, release)
    prepare(Home(home), entry)
    assert leftovers(home) == []


@pytest.mark.parametrize("verb", ["import", "prepare", "list"])
def test_damaged_journal_is_named(
    capsys: Captured, home: Path, entry: Entry, release: Path, verb: str
) -> None:
    import_release(Home(home), entry, release)
    before = digests(home)
    journal = home / "raw" / "journal.sqlite"
    for path in journal.parent.glob("journal.sqlite-*"):
        path.unlink()
    journal.write_bytes(b"not a database, just bytes\n" * 400)
    words = {"import": [NAME, release], "prepare": [NAME], "list": ["--local"]}[verb]
    check_refusal(say(capsys, verb, *words), 1, journal, "move the file away")
    assert digests(home) == before
    journal.unlink()
    assert say(capsys, "import", NAME, release).code == 0
    assert say(capsys, "prepare", NAME).code == 0


def test_journal_of_another_shape_is_named(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    import sqlite3

    journal = home / "raw" / "journal.sqlite"
    journal.parent.mkdir(parents=True)
    connection = sqlite3.connect(journal)
    connection.execute("create table files (dataset text)")
    connection.close()
    check_refusal(say(capsys, "import", NAME, release), 1, journal)
    assert digests(home) == {}


def test_read_only_home_is_told_and_still_read(
    capsys: Captured, home: Path, entry: Entry, release: Path
) -> None:
    with mounted(home, "size=8m"):
        assert say(capsys, "prepare", NAME, "--from", release).code == 0
        before = digests(home)
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        for words in (["import", NAME, release], ["prepare", NAME]):
            check_refusal(say(capsys, *words), 1, home, "the disk is read-only", "--home DIR")
        for verb in ("verify", "stats"):
            assert say(capsys, verb, NAME).code == 0
        assert say(capsys, "list", "--local").code == 0
        assert digests(home) == before


def test_home_without_permission_is_told(
    capsys: Captured, home: Path, entry: Entry, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    check_refusal(say(capsys, "import", NAME, release), 1, home, "no permission", "--home DIR")


def test_file_of_the_raw_store_can_be_imported_itself(
    home: Path, entry: Entry, release: Path
) -> None:
    import_release(Home(home), entry, release)
    before = digests(home)
    import_release(Home(home), entry, home / "raw")
    assert digests(home) == before
    assert prepare(Home(home), entry).tables["counts"]["interactions"] == ROWS


def test_json_names_what_is_held(capsys: Captured, home: Path, entry: Entry, release: Path) -> None:
    import json

    said = say(capsys, "import", NAME, release, "--json")
    found = json.loads(said.out)
    assert found["dataset"] == NAME
    assert found["held"] == {role: path for role, (path, _) in held(home).items()}


def test_parts_with_files_of_one_name_are_told_apart_by_their_folders(
    home: Path, tmp_path: Path
) -> None:
    news = "".join(f"N{k}\tnews\tsub\tTitle {k}\tText\turl\t[]\t[]\n" for k in range(8))
    for day, part in ((1, "train"), (2, "dev")):
        folder = tmp_path / "mind" / f"MINDsmall_{part}"
        folder.mkdir(parents=True)
        (folder / "news.tsv").write_text(news)
        rows = [
            f"{u}\tU{u}\t11/1{day}/2019 9:00:00 AM\tN0 N1 N2\tN{2 + day}-1 N7-0\n" for u in (1, 2)
        ]
        (folder / "behaviors.tsv").write_text("".join(rows))
    mind = find("mind_small")[0]
    done = import_release(Home(home), mind, tmp_path / "mind")
    assert sorted(done.found) == ["interactions", "interactions_2", "items", "items_2"]
    counts = prepare(Home(home), mind).tables["counts"]
    assert (counts["users"], counts["interactions"], counts["items"]) == (2, 10, 5)
