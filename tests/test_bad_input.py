"""Whatever is wrong is said once: the user's own value, a way out, the exit code, and nothing half written."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
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

from ninerec_data import files as files_module
from ninerec_data import prepare as prepare_module
from ninerec_data.catalog import Entry
from ninerec_data.dataset import open_dataset
from ninerec_data.errors import CheckFailed, MissingData, UsageError

Captured = pytest.CaptureFixture[str]
Refuse = Callable[..., str]
PAIR, ITEM = "Downstream/Small/Small_pair.csv", "Downstream/Small/Small_item.csv"


@pytest.fixture(autouse=True)
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    return write_catalog(tmp_path / "catalog", monkeypatch)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture
def prepared(capsys: Captured, home: Path, release: Path) -> Path:
    """The folder of the prepared dataset."""
    assert say(capsys, "prepare", NAME, "--from", release).code == 0
    return home / "prepared" / NAME


@pytest.fixture
def refuse(capsys: Captured, home: Path) -> Refuse:
    """Run a command line that must be refused, and leave the home as it was."""

    def run(code: int, words: list[object], *parts: object) -> str:
        before, rows = digests(home), held(home)
        said = say(capsys, *words)
        message = check_refusal(said, code, *parts)
        assert (said.out, digests(home), held(home)) == ("", before, rows)
        assert leftovers(home) == []
        return message

    return run


VERBS: dict[str, list[object]] = {
    "import": ["."], "prepare": [], "verify": [], "stats": [], "show": []
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_dataset_offers_the_nearest(refuse: Refuse, verb: str) -> None:
    words = [verb, "Bili_Fod", *VERBS[verb]]
    refuse(2, words, "unknown dataset 'Bili_Fod'; did you mean 'bili_food'?", "`ninerec list`")


def test_dataset_like_no_other_is_told_where_the_names_are(refuse: Refuse) -> None:
    refuse(2, ["prepare", "9999"], "unknown dataset '9999'. `ninerec list` shows every name")


@pytest.mark.parametrize("words", [["import", NAME], ["prepare", NAME, "--from"]])
def test_path_that_is_not_there(refuse: Refuse, words: list[object]) -> None:
    refuse(3, [*words, "/no/such/folder"], "/no/such/folder does not exist", "ninerec import small")


def test_folder_without_anything_names_every_file_looked_for(
    refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    names = ["Small_pair.csv", "Small_behaviour.tsv", "Small_item.csv", "at any depth"]
    refuse(3, ["import", NAME, tmp_path / "empty"], tmp_path / "empty", *names)


def test_single_file_of_another_name_is_told_the_names(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(pair_rows())
    path = tmp_path / "pairs.csv"
    refuse(3, ["import", NAME, path], path, "neither is, nor is a zip or tar", "Small_pair.csv")


def test_file_that_lacks_is_named_with_where_it_was_looked_for(
    capsys: Captured, home: Path, release: Path
) -> None:
    (release / PAIR).unlink()
    for words in (["import", NAME, release], ["prepare", NAME, "--from", release]):
        names = ("Small_pair.csv or Small_behaviour.tsv", f"at any depth under {release}")
        check_refusal(say(capsys, *words), 3, *names, f"ninerec import {NAME} PATH")
    assert set(held(home)) == {"items"}
    check_refusal(say(capsys, "prepare", NAME), 3, "Small_pair.csv", "not imported yet")
    assert not (home / "prepared" / NAME).exists()


def test_prepare_before_import_names_both_files(refuse: Refuse) -> None:
    names = ("Small_pair.csv or Small_behaviour.tsv", "Small_item.csv", "not imported yet")
    refuse(3, ["prepare", NAME], *names, f"ninerec import {NAME} PATH")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456789\n"
HTML = "<!DOCTYPE html>\n<html><body>Too many users have viewed this file</body></html>"
UNFIT: dict[str, tuple[bytes, int, str]] = {
    "pointer": (LFS.encode(), 3, "is a Git LFS pointer, not the data"),
    "page": (HTML.encode(), 3, "is a web page"),
    "empty": (b"", 1, "is empty (0 bytes)"),
    "gzip": (b"\x1f\x8b\x08\0\0", 1, "is gzip-compressed"),
    "zip": (b"PK\3\4\0\0", 1, "is a zip archive under the name Small_pair.csv"),
    "utf16": ("u1,v1,1\n".encode("utf-16"), 1, "UTF-16"),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("verb", ["import", "prepare"])
def test_file_that_is_not_the_data_is_told_at_once(
    refuse: Refuse, release: Path, verb: str, kind: str
) -> None:
    data, code, said = UNFIT[kind]
    (release / PAIR).write_bytes(data)
    words = {"import": ["import", NAME, release], "prepare": ["prepare", NAME, "--from", release]}
    refuse(code, words[verb], release / PAIR, said)


def test_pointer_as_it_stands_in_a_public_repository(
    refuse: Refuse, release: Path, shared_data: Path
) -> None:
    (pointer,) = (shared_data / "morec" / "MIND_lfs_pointer").iterdir()
    (release / PAIR).write_bytes(pointer.read_bytes())
    refuse(3, ["import", NAME, release], release / PAIR, "is a Git LFS pointer", "`git lfs pull`")


def test_web_page_saved_as_a_zip(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "Downstream_datasets.zip"
    path.write_text(HTML)
    refuse(3, ["import", NAME, path], path, "is a web page")


def pack(path: Path, release: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (PAIR, ITEM):
            archive.write(release / name, name)
    return path


def test_truncated_archive(refuse: Refuse, tmp_path: Path, release: Path) -> None:
    path = pack(tmp_path / "a.zip", release)
    path.write_bytes(path.read_bytes()[:-30])
    refuse(1, ["import", NAME, path], path, "truncated", "fetch it again")


def test_archive_that_climbs_out(refuse: Refuse, tmp_path: Path, release: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(release / ITEM, ITEM)
        archive.add(release / PAIR, f"../{PAIR}")
    refuse(1, ["prepare", NAME, "--from", path], path, f"../{PAIR}", "climbs out")


def sequences_instead(release: Path, text: str) -> None:
    """Put a file of whole sequences in the place of the pairs."""
    (release / PAIR).unlink()
    (release / PAIR).with_name("Small_behaviour.tsv").write_text(text)


def test_ids_that_do_not_join(capsys: Captured, refuse: Refuse, release: Path) -> None:
    sequences_instead(release, "".join(f"u{k}\tw0 w{k} w2 w3 w4\n" for k in range(30)))
    assert say(capsys, "import", NAME, release).code == 0
    said = ("the ids of small do not join", "30 of 30 items", "such as w0", "look like v0")
    refuse(1, ["prepare", NAME], *said)


def test_pair_file_whose_columns_cannot_be_told(
    capsys: Captured, refuse: Refuse, release: Path
) -> None:
    (release / PAIR).write_text(pair_rows(user="", item=""))
    (release / ITEM).write_text(titles(item=""))
    assert say(capsys, "import", NAME, release).code == 0
    refuse(1, ["prepare", NAME], "Small_pair.csv: cannot tell users from items", "pair_order")


def test_line_that_cannot_be_read_is_named(capsys: Captured, refuse: Refuse, release: Path) -> None:
    (release / PAIR).write_text(pair_rows() + "u1,v1,yesterday\n")
    assert say(capsys, "import", NAME, release).code == 0
    refuse(1, ["prepare", NAME], f"line {ROWS + 1}", "u1,v1,yesterday")


def test_dataset_without_any_interaction(capsys: Captured, home: Path, release: Path) -> None:
    sequences_instead(release, "\n\n\n")
    assert say(capsys, "import", NAME, release).code == 0
    said = say(capsys, "prepare", NAME)
    assert said.code == 1
    assert "error: small has no interactions: 3 rows read" in said.err
    assert "(3 blank line)" in said.err
    assert leftovers(home) == []
    assert not (home / "prepared" / NAME).exists()


def test_dataset_without_any_interaction_names_the_way_out(capsys: Captured, release: Path) -> None:
    sequences_instead(release, "\n\n\n")
    assert say(capsys, "import", NAME, release).code == 0
    check_refusal(say(capsys, "prepare", NAME), 1, NAME)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-interactions", 1000], "lower --min-interactions, which is 1000"),
        (["--warm", 100000], "under --warm 100000 (items) and 10 (users)"),
        (["--users", 5000], "5,000 users were asked for and only 40"),
    ],
)
def test_all_users_filtered_away(
    refuse: Refuse, prepared: Path, options: list[object], said: str
) -> None:
    refuse(1, ["prepare", NAME, *options], said)
    assert len(list((prepared / "splits").iterdir())) == 1


@pytest.mark.parametrize(
    ("option", "value", "low"),
    [
        ("--min-interactions", "2", 3),
        ("--max-length", "0", 1),
        ("--users", "-4", 1),
        ("--warm", "many", 1),
        ("--seed", "-1", 0),
        ("--max-words", "0", 1),
    ],
)
def test_option_out_of_its_range(refuse: Refuse, option: str, value: str, low: int) -> None:
    said = f"argument {option}: '{value}' is no whole number of at least {low}"
    refuse(2, ["prepare", NAME, option, value], said, "`ninerec prepare --help`")


@pytest.mark.parametrize("verb", ["prepare", "stats"])
def test_unknown_protocol_offers_the_nearest(refuse: Refuse, prepared: Path, verb: str) -> None:
    said = "unknown protocol 'strikt'; did you mean 'strict'?"
    refuse(2, [verb, NAME, "--protocol", "strikt"], said)


@pytest.mark.parametrize("verb", ["verify", "stats"])
def test_dataset_that_is_not_prepared_names_the_command(refuse: Refuse, verb: str) -> None:
    refuse(3, [verb, NAME], "small is not prepared under", "ninerec prepare small")


@pytest.mark.parametrize(
    "options", [["--min-interactions", "6"], ["--max-length", "3"], ["--users", "9"]]
)
def test_command_named_for_a_split_that_is_not_there_makes_it(
    capsys: Captured, refuse: Refuse, prepared: Path, options: list[object]
) -> None:
    asked = ["stats", NAME, "--split", *options]
    message = refuse(3, asked, "has no split", *map(str, options))
    named = re.search(r"run: ninerec (.*)", message)
    assert named is not None
    assert say(capsys, *shlex.split(named[1])).code == 0
    assert say(capsys, *asked).code == 0


def test_command_named_for_a_drawn_split_makes_it(
    capsys: Captured, refuse: Refuse, prepared: Path
) -> None:
    message = refuse(3, ["stats", NAME, "--users", "9", "--seed", "3"], "has no split")
    named = re.search(r"run: ninerec (.*)", message)
    assert named is not None
    assert say(capsys, *shlex.split(named[1])).code == 0


def set_manifest(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Without --split `stats` reads the tables alone.
READ: dict[str, list[object]] = {"verify": ["verify", NAME], "stats": ["stats", NAME, "--split"]}


@pytest.mark.parametrize("where", ["", "splits/*"], ids=["tables", "split"])
@pytest.mark.parametrize("verb", ["verify", "stats"])
def test_other_schema_version_names_the_command_that_mends_it(
    capsys: Captured, refuse: Refuse, prepared: Path, verb: str, where: str
) -> None:
    before = digests(prepared)
    (folder,) = prepared.glob(where) if where else (prepared,)
    set_manifest(folder / "manifest.json", schema=99)
    said = (folder, "schema version 99; this ninerec reads version 1", "ninerec prepare small")
    refuse(1, READ[verb], *said)
    assert say(capsys, "prepare", NAME).code == 0
    assert digests(prepared) == before


@pytest.mark.parametrize("where", ["", "splits/*"], ids=["tables", "split"])
@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "\xff", '{"schema": 1}', '{"schema": 1, "outputs": {}}']
)
@pytest.mark.parametrize("verb", ["verify", "stats"])
def test_manifest_that_is_none_is_named_and_mended(
    capsys: Captured, refuse: Refuse, prepared: Path, verb: str, text: str, where: str
) -> None:
    before = digests(prepared)
    (folder,) = prepared.glob(where) if where else (prepared,)
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    refuse(1, READ[verb], folder / "manifest.json", "ninerec prepare small")
    assert say(capsys, "prepare", NAME).code == 0
    assert digests(prepared) == before


@pytest.mark.parametrize("name", ["items.parquet", "splits/*/sequences.parquet"])
@pytest.mark.parametrize("verb", ["verify", "stats"])
def test_file_changed_since_the_manifest_is_named_and_mended(
    capsys: Captured, prepared: Path, verb: str, name: str
) -> None:
    before = digests(prepared)
    (path,) = prepared.glob(name)
    path.write_bytes(path.read_bytes() + b"x")
    check_refusal(say(capsys, *READ[verb]), 1, path.name, "changed", "ninerec prepare small")
    assert say(capsys, "prepare", NAME).code == 0
    assert digests(prepared) == before


@pytest.mark.parametrize("file", ["x.docx", "plot", "no/such/folder/x.png"])
def test_plot_that_cannot_be_drawn(refuse: Refuse, prepared: Path, home: Path, file: str) -> None:
    refuse(2, ["stats", NAME, "--plot", home / file, "--json"], f"--plot {home / file}")


@pytest.mark.parametrize(
    "words",
    [["import", NAME, "RELEASE"], ["prepare", NAME], ["prepare", NAME, "--from", "RELEASE"]],
)
def test_home_that_is_a_file(
    capsys: Captured, tmp_path: Path, release: Path, words: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    words = [word.replace("RELEASE", str(release)) for word in words]
    said = say(capsys, *words, "--home", tmp_path / "file")
    check_refusal(said, 1, tmp_path / "file", "a file stands where a folder is expected")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0byte", ""], ids=["long", "nul", "empty"])
def test_path_that_no_file_can_have(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = say(capsys, "import", NAME, path)
    assert said.code in (1, 3)
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("keep_lst = 13\n", "unknown key 'keep_lst'; did you mean 'keep_last'?"),
        ("= 3", "cannot read"),
    ],
)
def test_catalog_file_that_cannot_be_meant(
    refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    folder = tmp_path / "bad"
    with pytest.raises(UsageError):
        write_catalog(folder, monkeypatch, more)
    refuse(2, ["prepare", NAME], folder / "small.toml", said)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def arrow_full(*_: object, **__: object) -> None:
    """As pyarrow says it: the number only in the text."""
    raise OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")


FULL = "no space left while writing under"


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [(pq, "write_table", arrow_full), (os, "fsync", full), (files_module, "sync", full)],
)
def test_disk_that_fills_up_in_prepare(
    capsys: Captured,
    refuse: Refuse,
    home: Path,
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    fault: Callable[..., None],
) -> None:
    assert say(capsys, "import", NAME, release).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fault)
        refuse(1, ["prepare", NAME], FULL, home / "prepared", "--home")
    assert not (home / "prepared" / NAME).exists()
    assert say(capsys, "prepare", NAME).code == 0


def test_disk_that_fills_up_in_the_split_keeps_the_tables(
    capsys: Captured, prepared: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", arrow_full)
        refuse(1, ["prepare", NAME, "--users", "9"], FULL, prepared / "splits")
    assert say(capsys, "verify", NAME).code == 0
    assert say(capsys, "prepare", NAME, "--users", "9").code == 0


def test_disk_that_fills_up_leaves_the_store_of_before(
    capsys: Captured, prepared: Path, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", arrow_full)
        refuse(1, ["prepare", NAME, "--max-words", "3"], FULL)
    assert say(capsys, "verify", NAME).code == 0


def test_disk_that_fills_up_in_an_import(
    capsys: Captured,
    refuse: Refuse,
    tmp_path: Path,
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pack(tmp_path / "a.zip", release)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        refuse(1, ["import", NAME, path], FULL, "--home")
    assert say(capsys, "import", NAME, path).code == 0


@pytest.mark.parametrize("kilobytes", [16, 24, 32, 40, 48])
def test_small_disk_that_is_really_full(
    capsys: Captured, home: Path, tmp_path: Path, release: Path, kilobytes: int
) -> None:
    path = pack(tmp_path / "a.zip", release)
    with mounted(home, f"size={kilobytes}k"):
        said = say(capsys, "prepare", NAME, "--from", path)
        message = check_refusal(said, 1, "no space left", str(home))
        assert "--home" in message
        assert leftovers(home) == []
        assert list((home / "prepared" / NAME).glob("splits/*")) == []
        # A run with more room goes on from here, whatever stage this one reached.
        subprocess.run(["mount", "-o", "remount,size=8m", str(home)], check=True)
        assert say(capsys, "prepare", NAME, "--from", path).code == 0
        assert say(capsys, "verify", NAME).code == 0


def test_interrupt_leaves_nothing(
    capsys: Captured, home: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert say(capsys, "import", NAME, release).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "file_facts", interrupt)  # the tables are written, not named
        said = say(capsys, "prepare", NAME)
    assert (said.code, said.err.splitlines()[-1]) == (130, "interrupted")
    assert leftovers(home) == []
    assert not (home / "prepared" / NAME).exists()
    assert say(capsys, "prepare", NAME).code == 0


def test_api_raises_the_same_errors(home: Path, prepared: Path) -> None:
    assert open_dataset(NAME, home=home).n_users == 40
    with pytest.raises(MissingData, match="ninerec prepare small"):
        open_dataset(NAME, home=home, warm=2)
    (prepared / "items.parquet").unlink()
    with pytest.raises(CheckFailed, match=r"items\.parquet changed since the manifest"):
        open_dataset(NAME, home=home)


def test_json_of_a_refused_command_is_empty(capsys: Captured, home: Path) -> None:
    said: Said = say(capsys, "prepare", NAME, "--json")
    assert said.out == ""
    check_refusal(said, 3, NAME)


def test_debug_shows_where(capsys: Captured, home: Path) -> None:
    said = say(capsys, "prepare", NAME, "--debug")
    assert said.err.startswith("Traceback")
    assert "\nerror: small lacks its interactions and items file" in said.err
