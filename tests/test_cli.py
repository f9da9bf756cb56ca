"""The console script: verbs, options of every verb, and one message with one exit code per fault."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from releases import say, write_catalog, write_release

from ninerec.main import NOT_BUILT, VERBS, main
from ninerec_data import errors

REPOSITORY = Path(__file__).resolve().parents[1]

Verb = Callable[[argparse.Namespace], int]
Fake = Callable[[Verb], None]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a verb `fake` in place that does what it is told."""

    def install(run: Verb) -> None:
        module = ModuleType("fake_verb")
        module.add_parser = lambda subparsers: subparsers.add_parser("fake").add_argument("--n")  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_verb", module)
        monkeypatch.setitem(VERBS, "fake", ("fake_verb", "does what it is told"))

    return install


def raising(error: BaseException) -> Verb:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_help_lists_every_verb_and_what_is_not_built(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n  {verb} " not in out] == []
    assert f"not built yet: {', '.join(NOT_BUILT)}" in out


def test_no_verb_prints_the_help_on_stderr(capsys: Captured) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: ninerec VERB")


def test_version_is_that_of_the_distribution(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"ninerec": "1.2.3"}[name])
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "ninerec 1.2.3\n"


def test_unknown_verb_names_the_nearest(capsys: Captured) -> None:
    assert main(["prepaer", "bili_food"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown verb 'prepaer' (`ninerec --help` lists them); did you mean 'prepare'?\n"
    )


def test_option_before_the_verb_is_told_its_place(capsys: Captured) -> None:
    assert main(["--home", "x", "list"]) == 2
    assert "'--home' stands before the verb" in capsys.readouterr().err


@pytest.mark.parametrize("verb", NOT_BUILT)
def test_verb_not_built_says_what_to_do_instead(capsys: Captured, verb: str) -> None:
    assert main([verb, "bili_food", "--help"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: `ninerec {verb}` is not built yet; {NOT_BUILT[verb]}\n"


def test_verbs_are_built_or_not() -> None:
    assert set(VERBS) & set(NOT_BUILT) == set()


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_its_own_usage_and_the_options_of_all(
    capsys: Captured, verb: str
) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: ninerec {verb} ")
    assert all(option in out for option in ("--home DIR", "--json", "--debug"))


def test_only_the_chosen_verb_is_imported(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(lambda args: 0)
    seen: list[str] = []
    real = importlib.import_module

    def record(name: str) -> ModuleType:
        seen.append(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", record)
    assert main(["fake"]) == 0
    assert seen == ["fake_verb"]


def test_verb_gets_its_own_and_the_common_options(fake: Fake) -> None:
    got: list[argparse.Namespace] = []

    def run(args: argparse.Namespace) -> int:
        got.append(args)
        return 0

    fake(run)
    assert main(["fake", "--n", "3", "--home", "here", "--json", "--debug"]) == 0
    assert main(["fake"]) == 0
    assert vars(got[0]) == {"verb": "fake", "n": "3", "home": "here", "json": True, "debug": True}
    assert vars(got[1]) == {"verb": "fake", "n": None, "home": None, "json": False, "debug": False}


def test_exit_code_is_the_verbs(fake: Fake) -> None:
    fake(lambda args: 3)
    assert main(["fake"]) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CheckFailed("a"), 1),
        (errors.UsageError("a"), 2),
        (errors.MissingData("a"), 3),
        (errors.NetworkError("a"), 4),
        (errors.TermsError("a"), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error_is_one_message_and_its_exit_code(
    capsys: Captured, fake: Fake, error: errors.NineRecError, code: int
) -> None:
    fake(raising(error))
    assert main(["fake", "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: a\n"


def test_debug_shows_the_traceback_before_the_message(capsys: Captured, fake: Fake) -> None:
    fake(raising(errors.CheckFailed("a")))
    assert main(["fake", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("\nerror: a\n")


def test_unknown_option_is_one_message(capsys: Captured, fake: Fake) -> None:
    fake(lambda args: 0)
    assert main(["fake", "--nn", "3"]) == 2
    err = capsys.readouterr().err
    assert err == "error: unrecognized arguments: --nn 3; `ninerec fake --help` lists the options\n"


def test_option_without_its_value_names_the_verb_to_ask(capsys: Captured, fake: Fake) -> None:
    fake(lambda args: 0)
    assert main(["fake", "--home"]) == 2
    assert "`ninerec fake --help` lists the options" in capsys.readouterr().err


def test_interrupt_is_one_line(capsys: Captured, fake: Fake) -> None:
    fake(raising(KeyboardInterrupt()))
    assert main(["fake"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk (items.parquet); "),
        (errno.EACCES, "no permission (items.parquet); "),
        (errno.EROFS, "the disk is read-only (items.parquet); "),
    ],
)
def test_fault_of_the_machine_names_the_file_and_the_way_out(
    capsys: Captured, fake: Fake, number: int, words: str
) -> None:
    fake(raising(OSError(number, os.strerror(number), "items.parquet")))
    assert main(["fake"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {words}")
    assert "--home DIR" in err


@pytest.mark.parametrize("error", [ValueError("two\nlines"), BrokenPipeError("two lines")])
def test_any_other_fault_is_one_line_that_asks_for_a_report(
    capsys: Captured, fake: Fake, error: Exception
) -> None:
    fake(raising(error))
    assert main(["fake"]) == 1
    assert capsys.readouterr().err == (
        f"internal error: {type(error).__name__}: two lines; run again with --debug and report it\n"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_leaves_ends_the_run_quietly(
    monkeypatch: pytest.MonkeyPatch, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "ninerec", "--help"]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_stdout_is_no_fault() -> None:
    words = f"{sys.executable} -m ninerec --help >&-"
    done = subprocess.run(words, cwd=REPOSITORY, shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_module_form_is_the_same_program() -> None:
    words = [sys.executable, "-m", "ninerec", "lst"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown verb 'lst'")


@pytest.mark.parametrize("given", ["", " , "])
def test_evaluation_of_no_scenario_names_them_all(capsys: Captured, home: Path, given: str) -> None:
    said = say(capsys, "evaluate", "run", "--scenario", given)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"error: --scenario '{given}' names none; "
        "expected some of regular, cold, new, cold-outside, new-outside\n"
    )


@pytest.mark.parametrize(("titled", "warned"), [(14, True), (15, False)])
def test_items_without_a_row_are_said_loudly_from_more_than_half(
    capsys: Captured,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    titled: int,
    warned: bool,
) -> None:
    write_catalog(tmp_path / "catalog", monkeypatch, more="")
    items = write_release(tmp_path / "release") / "Downstream" / "Small" / "Small_item.csv"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:titled]))
    said = say(capsys, "prepare", "small", "--from", tmp_path / "release", "--json")
    assert said.code == 0
    warning = "WARNING: 16 of 30 items of small have no row in its item table, hence no title;"
    assert (warning in said.err) is warned
    assert ("WARNING" in said.err) is warned


@pytest.mark.parametrize("verb", ["import", "prepare"])
def test_covers_that_stay_in_an_archive_are_said(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    write_catalog(tmp_path / "catalog", monkeypatch, more="")
    release = write_release(tmp_path / "release")
    covers = release / "Downstream" / "Small" / "Small_cover"
    covers.mkdir()
    (covers / "v1.jpg").write_bytes(b"jpeg")
    archive = tmp_path / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(release / "Downstream", "Downstream")
    words = ["import", "small", archive] if verb == "import" else ["prepare", "small", "--from"]
    said = say(capsys, *words, *([archive] if verb == "prepare" else []))
    assert said.code == 0
    told = "unpack it and import the folder to hold them (Downstream/Small/Small_cover)"
    assert f"small: covers in the archive are left there: {told}\n" in said.err
    assert "covers in the archive" not in say(capsys, "import", "small", release).err


def test_stats_count_the_store_whatever_splits_are_there(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalog(tmp_path / "catalog", monkeypatch)
    release = write_release(tmp_path / "release")
    assert say(capsys, "prepare", "small", "--from", release, "--max-length", "3").code == 0
    found = json.loads(say(capsys, "stats", "small", "--json").out)
    assert [found[key] for key in ("users", "items", "interactions")] == [40, 30, 260]
    assert say(capsys, "stats", "small", "--split").code == 3  # the default split is not there
