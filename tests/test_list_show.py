"""`ninerec list` and `ninerec show`: what they print, and what they leave unsaid and unimported."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ninerec import list as list_verb
from ninerec import show as show_verb
from ninerec.options import local_state, raw_files, readable
from ninerec_data.catalog import catalog, find
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.home import Home
from ninerec_data.manifest import SCHEMA
from ninerec_data.protocol import get_protocol
from ninerec_data.raw import hold


@pytest.fixture(autouse=True)
def _package_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NINEREC_CATALOG", raising=False)


def call(home: Path, *words: str) -> int:
    """Run one verb as the console script does."""
    parser = argparse.ArgumentParser(prog="ninerec")
    subparsers = parser.add_subparsers(required=True)
    list_verb.add_parser(subparsers)
    show_verb.add_parser(subparsers)
    for verb in ("list", "show"):
        subparsers.choices[verb].add_argument("--home")
        subparsers.choices[verb].add_argument("--json", action="store_true")
    args = parser.parse_args([*words, "--home", str(home)])
    code: int = args.run(args)
    return code


def prepare(home: Path, name: str, **more: Any) -> Path:
    """A store as far as its manifest says; returns its folder."""
    manifest = {
        "schema": SCHEMA,
        "dataset": name,
        "counts": {"item_table": 1500, "items_without_row": 79},
        "outputs": {},
        "parameters": {},
        "inputs": {},
        "split_defaults": {"keep_last": 13},
        **more,
    }
    return write(home / "prepared" / name, manifest)


def split(store: Path, **fields: Any) -> str:
    """A split as far as its manifest says; returns its hash."""
    made = get_protocol("ninerec-2023", **{"keep_last": 13, **fields}).split
    manifest = {"schema": SCHEMA, "dataset": store.name, "counts": {}, "outputs": {}, "inputs": {}}
    write(store / "splits" / made.hash, {**manifest, "parameters": made.as_json()})
    return made.hash


def write(folder: Path, manifest: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True))
    return folder


def local(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert call(home, "list", "--local", "--json") == 0
    return json.loads(capsys.readouterr().out)


def register(home: Path, name: str, role: str) -> str:
    """Hold one made-up file for a dataset; returns where it is."""
    file = home.parent / f"{name}-{role}"
    file.write_text("1")
    hold(Home(home), name, "made-up", {role: file}, {role: str(file)})
    return str(file)


def test_list_prints_a_row_for_every_dataset_and_alias(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(home, "list") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:35]] == list(catalog())
    assert "  bili_warm20  = bili_500k --warm 20" in rows


def test_list_states_the_published_figures(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(home, "list")
    rows = {row.split()[0]: row.split() for row in capsys.readouterr().out.splitlines() if row}
    assert rows["bili_food"][1:5] == ["target", "6,549", "1,579", "39,740"]
    assert rows["bili_food"][5:] == ["text,image", "zh,en", "public", "ninerec"]
    assert rows["amazon_20k"][2:5] == ["20K", "14,348", "129K"]
    assert rows["pixelrec"][2:5] == ["-", "408,374", "-"]


def test_list_sets_figures_to_the_right(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(home, "list")
    rows = capsys.readouterr().out.splitlines()[:35]
    end = rows[0].index("interactions") + len("interactions")
    assert {row[end - 1 : end + 2] for row in rows} >= {"s  ", "0  ", "K  ", "-  "}
    assert all(row[end : end + 2] == "  " and row[end - 1] != " " for row in rows)


def test_list_json_is_one_document(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(home, "list", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert [dataset["name"] for dataset in said["datasets"]] == list(catalog())
    assert said["datasets"][0]["published"]["items"] == 3149
    assert said["aliases"]["bili_warm20"] == {"target": "bili_500k", "split": {"warm": 20}}


def test_list_local_of_an_empty_home_prints_no_table(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(home, "list", "--local") == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "nothing is imported or prepared under" in said.err
    assert not home.exists()


def test_list_local_tells_prepared_from_imported(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home, "bili_food")
    register(home, "qb", "interactions")
    call(home, "list", "--local")
    said = capsys.readouterr()
    head, *rows = said.out.splitlines()
    assert re.split("  +", head) == ["name", "on disk", "splits", "covers", "raw", "prepared"]
    assert [row.split()[:2] for row in rows] == [["bili_food", "prepared"], ["qb", "imported"]]
    assert said.err == ""


def test_list_local_shows_what_the_catalog_lacks(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepare(home, "gone_from_catalog")
    (facts,) = local(home, capsys)["datasets"]
    assert facts == {
        "name": "gone_from_catalog",
        "local": "prepared",
        "raw_bytes": 0,
        "prepared_bytes": (folder / "manifest.json").stat().st_size,
        "splits": {},
        "covers": {"unsettled": 1579},
    }
    call(home, "list", "--local")
    assert "prepared, not in the catalog" in capsys.readouterr().out


def test_list_local_names_splits_by_what_is_not_their_default(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepare(home, "bili_food")
    hashes = [split(store), split(store, warm=20), split(store, users=50, seed=3)]
    (facts,) = local(home, capsys)["datasets"]
    assert facts["splits"] == dict(
        sorted(zip(hashes, ({}, {"warm": 20}, {"users": 50, "seed": 3}), strict=True))
    )
    call(home, "list", "--local")
    row = capsys.readouterr().out.splitlines()[1]
    assert all(f" {word}" in row for word in ("default", "warm=20", "seed=3 users=50"))


def test_list_local_counts_the_covers_by_outcome(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"ok": 1500, "missing": 79, "broken": 0, "reasons": {"no_file": 79}}
    prepare(home, "bili_food", covers={"index": "sha256:0", "counts": counts})
    prepare(home, "bili_dance")
    register(home, "qb", "items")
    found = {facts["name"]: facts["covers"] for facts in local(home, capsys)["datasets"]}
    assert found == {
        "bili_food": {"ok": 1500, "missing": 79, "broken": 0},
        "bili_dance": {"unsettled": 1579},
        "qb": None,
    }
    call(home, "list", "--local")
    rows = [row.split("  ") for row in capsys.readouterr().out.splitlines()]
    said = {row[0]: [cell.strip() for cell in row if cell.strip()][3] for row in rows[1:]}
    assert said["bili_food"] == "1,500 ok, 79 missing"
    assert said["bili_dance"] == "1,579 unsettled"


def test_list_local_counts_a_file_once_whatever_its_names(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = prepare(home, "bili_food")
    before = local(home, capsys)["datasets"][0]["prepared_bytes"]
    (store / "one.tar").write_bytes(b"x" * 3000)
    os.link(store / "one.tar", store / "two.tar")
    (store / "elsewhere").symlink_to("/usr")
    link = (store / "elsewhere").lstat().st_size
    files = home / "raw" / "files" / "NineRec" / "bili_food"
    files.mkdir(parents=True)
    (files / "a.csv").write_bytes(b"y" * 70)
    (home.parent / "kept-elsewhere").write_bytes(b"z" * 500)
    os.link(home.parent / "kept-elsewhere", files / "b.csv")
    (facts,) = local(home, capsys)["datasets"]
    assert (facts["raw_bytes"], facts["prepared_bytes"]) == (570, before + 3000 + link)


def test_list_local_tells_what_killed_runs_left(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (".tmp-qb-abcd1234", ".qb.covers-0a1b2c3d", ".old-tn-abcd1234"):
        (home / "prepared" / name).mkdir(parents=True)
        (home / "prepared" / name / "half").write_bytes(b"x" * 1000)
    (home / "prepared" / ".qb.lock").touch()
    assert local(home, capsys) == {"datasets": [], "aliases": {}, "leftover_bytes": 2000}
    call(home, "list", "--local")  # .old-tn is the last whole store of tn, which prepare puts back
    hint = "killed runs left 2.0 kB; what no run uses goes with: ninerec clean --leftovers\n"
    assert capsys.readouterr().err.endswith(hint)


def test_list_local_says_a_broken_manifest_and_lists_the_rest(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prepare(home, "bili_food") / "manifest.json").write_text("{}")
    prepare(home, "qb")
    assert call(home, "list", "--local") == 0
    said = capsys.readouterr()
    assert [row.split()[0] for row in said.out.splitlines()[1:]] == ["bili_food", "qb"]
    assert said.err.count("is not a manifest") == 1


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (98_700_000_000, "98.7 GB"),
        (2 * 10**16, "20000.0 TB"),
    ],
)
def test_bytes_are_said_as_people_read_them(size: int, said: str) -> None:
    assert readable(size) == said


def test_a_folder_without_manifest_is_not_prepared(home: Path) -> None:
    (home / "prepared" / "bili_food").mkdir(parents=True)
    assert local_state(Home(home), "bili_food") == ""


def test_raw_files_are_read_without_writing(home: Path) -> None:
    held = register(home, "qb", "items")
    before = (home / "raw" / "journal.sqlite").read_bytes()
    assert raw_files(Home(home), "qb") == {"items": held}
    assert raw_files(Home(home), "tn") == {}
    assert (home / "raw" / "journal.sqlite").read_bytes() == before


def test_raw_files_of_a_home_that_cannot_be_written_are_read() -> None:
    root = os.geteuid() == 0  # who may write anything, so somebody else reads then
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        held = register(home, "qb", "items")
        for path in (home / "raw", home, Path(folder)):
            path.chmod(0o555)
        if root:
            os.seteuid(65534)
        try:
            assert not os.access(home / "raw", os.W_OK, effective_ids=True)
            assert raw_files(Home(home), "qb") == {"items": held}
            assert local_state(Home(home), "qb") == "imported"
        finally:
            if root:
                os.seteuid(0)
            for path in (Path(folder), home, home / "raw"):
                path.chmod(0o755)


def test_an_unreadable_journal_is_said(home: Path) -> None:
    (home / "raw").mkdir(parents=True)
    (home / "raw" / "journal.sqlite").write_text("this is no database, however long it may be")
    with pytest.raises(CheckFailed, match=r"cannot use the journal .*journal\.sqlite"):
        raw_files(Home(home), "qb")


def test_show_prints_statistics_files_sources_and_terms(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(home, "show", "qb") == 0
    said = capsys.readouterr().out
    assert "published statistics (NineRec Table 1; counts the whole release)" in said
    assert "  users              17,722\n  items               6,121\n" in said
    assert "QB_behaviour.tsv  interactions  1,185,677 bytes  sha256:ff6b00e5" in said
    assert "drive: https://drive.google.com/file/d/15RlthgPczrFbP4U7l6QflSImK5wSGP5K/view" in said
    assert "timestamps     no" in said
    assert "terms (ninerec)" in said
    assert "on disk: nothing" in said


def test_show_puts_the_drive_before_the_preview_mapping(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(home, "show", "bili_dance")
    said = capsys.readouterr().out
    assert 0 < said.index("drive: https") < said.index("mapping: https")


def test_show_says_who_gives_what_was_never_public(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(home, "show", "tn_video")
    said = capsys.readouterr().out
    assert "not public: ask those who hold it, then import" in said
    assert "ask the authors of TransRec by e-mail" in said
    assert said.endswith("next: ninerec import tn_video PATH\n")


def test_show_of_an_alias_names_its_dataset(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(home, "bili_500k")
    call(home, "show", "bili_warm50")
    said = capsys.readouterr()
    assert said.err == "bili_warm50 is bili_500k --warm 50\n"
    assert said.out.startswith("bili_500k: ")
    assert said.out.endswith("next: ninerec prepare bili_500k --warm 50\n")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("", "ninerec import hm PATH"),
        ("imported", "ninerec prepare hm"),
        ("prepared", "ninerec stats hm"),
    ],
)
def test_the_next_command_follows_from_what_is_on_disk(state: str, said: str) -> None:
    assert show_verb.next_command(find("hm")[0], {}, state) == said


def test_show_json_is_one_document(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = register(home, "hm_200k", "items")
    assert call(home, "show", "hm_200k", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["split"] == {"users": 200000}
    assert said["published"]["items"] == "85,019"
    assert said["local"] == {"state": "imported", "raw": {"items": held}}
    assert said["next"] == "ninerec prepare hm_200k"


def test_show_bibtex_prints_only_that(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(home, "show", "mind_630k", "--bibtex") == 0
    said = capsys.readouterr().out
    assert said.startswith("@inproceedings{yuan2023go,")
    assert said.count("@") == 2
    assert "{wu2020mind," in said
    assert said.endswith("}\n")


def test_show_bibtex_json_is_one_document(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(home, "show", "ku", "--bibtex", "--json")
    said = json.loads(capsys.readouterr().out)
    assert (said["dataset"], said["bibtex"][:9]) == ("ku", "@article{")


def test_show_of_an_unknown_name_is_a_usage_error(home: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'bili_fod'; did you mean 'bili_food'\?"):
        call(home, "show", "bili_fod")


@pytest.mark.parametrize("name", list(catalog()))
def test_every_dataset_can_be_shown(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(home, "show", name) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


@pytest.mark.parametrize("whether", [False, True])
def test_list_imports_nothing_heavy(home: Path, whether: bool) -> None:
    split(prepare(home, "name_of_a_dataset"))
    code = (
        "import argparse, sys; from ninerec import list as verb\n"
        f"verb.run(argparse.Namespace(home=None, json=False, local={whether}))\n"
        "heavy = {'polars', 'pyarrow', 'numpy', 'torch', 'requests', 'aiohttp'}\n"
        "print('heavy:', *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = done.stdout.splitlines()
    assert (rows[0].split()[0], rows[-1]) == ("name", "heavy:")
