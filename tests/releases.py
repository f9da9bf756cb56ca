"""A small release in NineRec's layout with a catalog of its own, and ways to look at a home from outside."""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ninerec.main import main
from ninerec_data.catalog import Entry, find
from ninerec_data.home import Home
from ninerec_data.raw import held_files

NAME = "small"
USERS, ITEMS, ROWS = 40, 30, 260
CATALOG = """\
title = "Small, for tests"
format = "ninerec"
release = "small-release"
options = { stem = "Small" }
text = { zh = ["title_zh"], en = ["title_en"] }
"""
EXACT = f"published = {{ users = {USERS}, items = {ITEMS}, interactions = {ROWS} }}\n"
# What a message may name as the way out.
NEXT = re.compile(
    r"ninerec \w+|--[a-z][a-z-]+|\$NINEREC_CATALOG|did you mean|mend it"
    r"|import (([a-z]+ )+again|it|the folder|the item table)"
)


def pairs(user: str = "u", item: str = "v") -> str:
    """user,item,time: user k has 5 + k % 4 rows; 40 users, 30 items, 260 rows."""
    rows = [
        f"{user}{k},{item}{(3 * k + 7 * j) % ITEMS},{1_600_000_000 + 60 * j + k}\n"
        for k in range(USERS)
        for j in range(5 + k % 4)
    ]
    return "".join(rows)


def titles(item: str = "v") -> str:
    return "".join(f'{item}{n},标题{n},"Title, number {n}"\n' for n in range(ITEMS))


def write_release(folder: Path) -> Path:
    """The release's two files in `folder/Downstream/Small`, as they lie in a download; returns `folder`."""
    inside = folder / "Downstream" / "Small"
    inside.mkdir(parents=True)
    (inside / "Small_pair.csv").write_text(pairs(), encoding="utf-8")
    (inside / "Small_item.csv").write_text(titles(), encoding="utf-8")
    return folder


def write_catalog(folder: Path, monkeypatch: pytest.MonkeyPatch, more: str = EXACT) -> Entry:
    """Make `small` a dataset that can be named; `more` is added to its TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.toml").write_text(CATALOG + more, encoding="utf-8")
    monkeypatch.setenv("NINEREC_CATALOG", str(folder))
    return find(NAME)[0]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder but locks and the journal, by path inside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock") and "journal" not in path.name
    }


def leftovers(folder: Path) -> list[str]:
    """Whatever an interrupted step would have left: temporary folders and files, half links."""
    return [
        str(path)
        for path in folder.rglob("*")
        if re.search(r"^\.(tmp|old)-|\.(part|link)$|^\..*\.\w{8}$", path.name)
    ]


def held(home: Path) -> dict[str, tuple[str, str | None]]:
    """role -> (path, sha256) of what the journal holds of `small`."""
    files = held_files(Home(home), NAME)
    return {role: (str(file.path), file.sha256) for role, file in files.items()}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def say(capsys: pytest.CaptureFixture[str], *words: object) -> Said:
    """Run one command line in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return Said(code, captured.out, captured.err)


def check_refusal(said: Said, code: int, *parts: object) -> str:
    """One line `error:`, the exit code, the user's own words and a way out; returns the message."""
    assert "Traceback" not in said.err
    assert said.err.count("error: ") == 1, said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said.code == code, last
    assert [str(part) for part in parts if str(part) not in last] == [], last
    assert NEXT.search(last), last
    return last


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small memory disk at `folder`; the test is skipped where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
