"""SIGKILL while covers are settled: a reader finds the old store, the new one or none, and no work is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from covered import (
    NAME,
    WITH_COVER,
    Covered,
    clone,
    counted,
    known,
    make_covered,
    picture,
    write_covers,
)
from releases import digests, leftovers

from ninerec_data import MissingData
from ninerec_data.files import sha256_file
from ninerec_data.shards import shard_of
from ninerec_data.verify import verify

# Runs a command line that kills itself before its nth call of one function of `os`.
KILLED = """
import os, signal, sys
name, left = sys.argv[1], int(sys.argv[2])
real = getattr(os, name)
def counted(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, counted)
from ninerec.main import main
sys.exit(main(sys.argv[3:]))
"""
# A shard is two files that are put in place (its tar, its receipt); a folder is linked, moved aside,
# put in place and, with what waited beside it, removed.
MOMENTS = [
    *(("replace", 2), ("replace", 3), ("replace", 6), ("link", 9)),
    *(("rename", 1), ("rename", 2), ("rmdir", 1), ("rmdir", 5)),
]


@pytest.fixture(autouse=True)
def _known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(tmp_path / "catalog", monkeypatch)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return counted(monkeypatch)


def kill(made: Covered, function: str, number: int) -> int:
    """Run `ninerec prepare`, which dies before that call; returns the exit code."""
    words = ["prepare", made.name, "--jobs", "2", "--home", str(made.home.root)]
    command = [sys.executable, "-c", KILLED, function, str(number), *words]
    return subprocess.run(command, capture_output=True, check=False).returncode


def state(made: Covered, stores: dict[str, dict[str, str]]) -> str:
    """Which of the whole stores a reader finds; `none` where there is nothing. Fails for anything else."""
    if not made.prepared.exists():
        with pytest.raises(MissingData, match="not prepared"):
            made.open()
        return "none"
    found = digests(made.prepared)
    (name,) = (name for name, wanted in stores.items() if wanted == found)
    made.open()
    assert [check.name for check in verify(made.prepared) if check.ok is False] == []
    return name


def waiting(made: Covered) -> set[int]:
    """The shards beside the dataset that are whole and have their receipt."""
    found = set()
    for receipt in made.prepared.parent.glob(f".{NAME}.covers-*/[!.]*.json"):
        facts = json.loads(receipt.read_text())
        if sha256_file(receipt.with_suffix(".tar")) == facts["sha256"]:
            found.add(shard_of(facts["rows"][0]["item"]))
    return found


def test_a_run_that_settles_covers_killed_between_changes_of_the_disk(
    tmp_path: Path, decoded: list[Any]
) -> None:
    unsettled = make_covered(tmp_path / "one", covers=False)
    unsettled.prepare()
    write_covers(unsettled.covers)
    unsettled.import_from(unsettled.folder / "release")
    calm = clone(unsettled, tmp_path / "calm")
    stores = {"old": digests(calm.prepared)}
    calm.prepare()
    stores["new"] = digests(calm.prepared)
    found = {}
    for number, moment in enumerate(MOMENTS):
        made = clone(unsettled, tmp_path / f"killed{number}")
        assert kill(made, *moment) == -9, moment
        found[moment] = stands, done = state(made, stores), waiting(made)
        del decoded[:]
        made.prepare(jobs=1 + number % 3)
        todo = [n for n in WITH_COVER if shard_of(n) not in done]
        assert len(decoded) == (0 if stands == "new" else len(todo)), moment
        assert digests(made.prepared) == stores["new"], moment
        assert leftovers(made.home.root) == [], moment
        beside = {path.name for path in made.prepared.parent.iterdir()}
        assert beside == {NAME, f".{NAME}.lock"}, moment
    assert {stands for stands, _ in found.values()} == {"old", "none", "new"}
    assert {0, 1, 2, 3} >= {len(done) for _, done in found.values()} >= {0, 1, 3}


def test_a_run_with_a_late_cover_killed_between_changes_of_the_disk(
    tmp_path: Path, decoded: list[Any]
) -> None:
    """The store that stands has covers of its own, and the tables must never point into the others."""
    settled = make_covered(tmp_path / "one")
    settled.prepare()
    (settled.covers / "v1001.jpg").write_bytes(picture(1001))
    calm = clone(settled, tmp_path / "calm")
    stores = {"old": digests(calm.prepared)}
    calm.prepare()
    stores["new"] = digests(calm.prepared)
    found = set()
    for number, moment in enumerate([("replace", 3), ("rename", 2), ("rmdir", 2)]):
        made = clone(settled, tmp_path / f"killed{number}")
        assert kill(made, *moment) == -9, moment
        stands, done = state(made, stores), waiting(made)
        del decoded[:]
        made.prepare()
        assert len(decoded) == (0 if stands == "new" or done else 1), moment
        assert digests(made.prepared) == stores["new"], moment
        assert leftovers(made.home.root) == [], moment
        found.add(stands)
    assert found == {"old", "none", "new"}
