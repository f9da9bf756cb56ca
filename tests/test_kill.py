"""SIGKILL at any moment: what looks finished is, and the next run ends where an undisturbed one would."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from releases import NAME, digests, leftovers, write_catalog, write_release

from ninerec_data.catalog import Entry
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare
from ninerec_data.raw import verified_files
from ninerec_data.verify import verify

REPOSITORY = Path(__file__).resolve().parents[1]


def test_prepare_killed_at_random_moments_ends_in_the_same_bytes() -> None:
    """The benchmark itself, on 200,000 rows and six kills."""
    words = [sys.executable, "benchmarks/kill_prepare.py", "--rows", "200000", "--rounds", "6"]
    words += ["--complete-every", "3"]
    done = subprocess.run(
        [*words, "--seed", "7"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == sum(found["found_after_kills"].values()) == 6
    assert found["found_after_kills"]["absent"] > 0
    assert found["completed_and_identical"] == 2 + found["runs_that_ended_before_their_kill"]
    assert found["files_compared"] == 8
    assert found["left_at_the_end"] == [".killed.lock", "killed"]


# Runs a command line and kills itself before the nth change that it makes to the disk.
KILLED = """
import os, signal, sys
left = int(sys.argv[1])
def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
from ninerec.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    return write_catalog(tmp_path / "catalog", monkeypatch)


def kill_at(change: int, *words: object) -> int:
    """Run a command line that dies before its nth change of the disk; returns the exit code."""
    command = [sys.executable, "-c", KILLED, str(change), *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False).returncode


def test_import_of_a_zip_killed_between_changes_of_the_disk_can_be_run_again(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    release = write_release(tmp_path / "release")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(release.rglob("*.csv")):
            archive.write(path, path.name)
    whole = {"Small_pair.csv", "Small_item.csv"}
    codes = []
    for change in range(1, 60, 4):
        codes.append(kill_at(change, "import", NAME, tmp_path / "a.zip"))
        held = verified_files(Home(home), NAME)  # raises where a held file is gone or another
        assert set(held) in (set(), {"interactions", "items"})
        assert {p.name for p in (home / "raw/files/small-release").glob("small/*")} <= whole
        if codes[-1] == 0:
            break
    assert codes == [-9] * (len(codes) - 1) + [0]
    assert len(codes) > 3
    assert leftovers(home) == []


def test_prepare_killed_between_changes_of_the_disk_can_be_run_again(
    home: Path, entry: Entry, tmp_path: Path
) -> None:
    calm = Home(tmp_path / "calm")
    for place in (calm, Home(home)):
        import_release(place, entry, write_release(tmp_path / f"release-{place.root.name}"))
    prepare(Home(home), entry, max_words=3)
    wanted = digests(prepare(calm, entry).folder)
    codes = []
    for change in range(1, 120, 6):
        codes.append(kill_at(change, "prepare", NAME))
        folder = Home(home).prepared(NAME)
        if (folder / "manifest.json").exists():
            assert [check.name for check in verify(folder) if check.ok is False] == []
        if codes[-1] == 0:
            break
    assert codes == [-9] * (len(codes) - 1) + [0]
    assert len(codes) > 3
    assert digests(Home(home).prepared(NAME)) == wanted
    assert leftovers(home) == []
