"""`ninerec list` and `ninerec show`: what they print, and what they leave unsaid and unimported."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ninerec import list as list_verb
from ninerec import show as show_verb
from ninerec.options import local_state, raw_files
from ninerec_data.catalog import catalog, find
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.home import Home
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


def prepare(home: Path, name: str) -> None:
    folder = home / "prepared" / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


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
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("bili_food", "prepared"),
        ("qb", "imported"),
    ]


def test_list_local_shows_what_the_catalog_lacks(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(home, "gone_from_catalog")
    call(home, "list", "--local", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["datasets"] == [{"name": "gone_from_catalog", "local": "prepared"}]


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


def test_list_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from ninerec import list as verb\n"
        "verb.run(argparse.Namespace(home=None, json=False, local=False))\n"
        "heavy = {'polars', 'pyarrow', 'numpy', 'torch', 'requests', 'aiohttp'}\n"
        "print('heavy:', *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = done.stdout.splitlines()
    assert (rows[0].split()[0], rows[-1]) == ("name", "heavy:")
