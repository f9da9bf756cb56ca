"""The raw store: which published files belong to a dataset, by path and sha256 (DESIGN 3.1).

Files are hard-linked into raw/files/<release>/ where the file system allows, else referenced where
they are; nothing is copied. journal.sqlite says what is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.files import sha256_file
from ninerec_data.home import Home

__all__ = [
    "RawFile",
    "held_files",
    "hold",
    "known_digests",
    "place",
    "remember_digests",
    "rename_role",
    "verified_files",
]

JOURNAL_NEEDS = 1 << 16  # bytes: its first pages, log and shared memory
_TABLE = """
create table if not exists files (
    dataset text not null, role text not null, release text not null, path text not null,
    origin text not null, size integer, sha256 text, mtime_ns integer, terms text not null,
    primary key (dataset, role)
)
"""
# What a file inside a source of covers held when it had that size and time: `prepare` reads it once.
_DIGESTS = """
create table if not exists digests (
    source text not null, name text not null, size integer, stamp integer, digest text not null,
    primary key (source, name)
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """One file held for a dataset. A folder (covers) has no size, sha256 or time of its own."""

    role: str
    path: Path
    origin: str
    size: int | None
    sha256: str | None
    mtime_ns: int | None


@contextlib.contextmanager
def journal(home: Home) -> Iterator[sqlite3.Connection]:
    """Open raw/journal.sqlite, creating it on first use; commits on success.

    Rollback journal: short writes under a lock, on any file system (WAL is for a downloader's many).

    Raises CheckFailed for a damaged or locked journal, OSError where the disk is full.
    """
    home.raw.mkdir(parents=True, exist_ok=True)
    path = home.raw / "journal.sqlite"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute(_TABLE)
            connection.execute(_DIGESTS)
            with connection:
                yield connection
    except sqlite3.Error as error:
        # On a full disk sqlite may also say "disk I/O error", of its shared memory.
        if shutil.disk_usage(home.raw).free < JOURNAL_NEEDS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        msg = (
            f"cannot use the journal {path}: {error}; if another program holds it wait for that, else "
            "move the file away and take the releases in again: ninerec import DATASET PATH"
        )
        raise CheckFailed(msg) from error


def place(source: Path, home: Home, release: str, inside: str) -> Path:
    """Hard-link a file under raw/files/<release>/; where that is not possible return it where it is."""
    target = home.raw / "files" / release / inside
    if target == source:
        return source
    target.parent.mkdir(parents=True, exist_ok=True)
    linked = target.with_name(f".{target.name}.link")
    try:
        linked.unlink(missing_ok=True)
        os.link(source.resolve(), linked)  # of a symbolic link, what it stands for
        linked.replace(target)
        # A rename of two links to one file is a no-op that leaves both.
        linked.unlink(missing_ok=True)
    except OSError:
        return source.absolute()
    return target


def hold(
    home: Home,
    dataset: str,
    release: str,
    found: dict[str, Path],
    origins: dict[str, str],
    terms: str = "held by the user",
    *,
    anew: bool = True,
) -> None:
    """Record files for a dataset, all of them or none; a role held before is replaced.

    anew: covers are read anew after they were imported, whatever their times say. Those that are gone are no longer
    held once the rest was imported without them.
    """
    rows = []
    for role, path in found.items():
        stat = path.stat()
        plain = path.is_file()
        rows.append(
            (
                dataset,
                role,
                release,
                str(path),
                origins[role],
                stat.st_size if plain else None,
                sha256_file(path) if plain else None,
                stat.st_mtime_ns if plain else None,
                terms,
            )
        )
    with journal(home) as connection:
        connection.executemany("insert or replace into files values (?,?,?,?,?,?,?,?,?)", rows)
        of_covers = "from files where dataset = ? and role in ('covers', 'release_covers')"
        for (path,) in connection.execute(f"select path {of_covers}", (dataset,)).fetchall():
            if (anew and "covers" in found) or not Path(path).exists():
                connection.execute("delete from digests where source = ?", (path,))
            if not Path(path).exists():
                connection.execute(f"delete {of_covers} and path = ?", (dataset, path))


def rename_role(home: Home, dataset: str, role: str, new: str) -> None:
    """Hold the same file under another role, in place of what had it."""
    with journal(home) as connection:
        connection.execute("delete from files where dataset = ? and role = ?", (dataset, new))
        connection.execute(
            "update files set role = ? where dataset = ? and role = ?", (new, dataset, role)
        )


def held_files(home: Home, dataset: str) -> dict[str, RawFile]:
    """What the journal holds for a dataset, by role; empty where nothing was imported."""
    if not (home.raw / "journal.sqlite").exists():
        return {}
    with journal(home) as connection:
        rows = connection.execute(
            "select role, path, origin, size, sha256, mtime_ns from files where dataset = ?",
            (dataset,),
        ).fetchall()
    return {
        role: RawFile(
            role=role, path=Path(path), origin=origin, size=size, sha256=digest, mtime_ns=mtime
        )
        for role, path, origin, size, digest, mtime in sorted(rows)
    }


def known_digests(home: Home, source: Path) -> dict[tuple[str, int, int], str]:
    """(name, size, stamp) -> digest of the files of a source of covers that were read before."""
    with journal(home) as connection:
        rows = connection.execute(
            "select name, size, stamp, digest from digests where source = ?", (str(source),)
        ).fetchall()
    return {(name, size, stamp): digest for name, size, stamp, digest in rows}


def remember_digests(home: Home, source: Path, seen: dict[tuple[str, int, int], str]) -> None:
    """Note what files of a source of covers held."""
    rows = [(str(source), *file, digest) for file, digest in seen.items()]
    with journal(home) as connection:
        connection.executemany("insert or replace into digests values (?,?,?,?,?)", rows)


def verified_files(home: Home, dataset: str) -> dict[str, RawFile]:
    """`held_files`, after checking that each still is the file that was imported.

    Raises MissingData for a file that is gone, CheckFailed for one whose bytes changed.
    """
    held = held_files(home, dataset)
    for file in held.values():
        downloaded = file.origin == "downloaded"
        if not file.path.exists():
            came = "downloaded" if downloaded else f"imported from {file.origin}"
            again = "download {} --parts covers" if downloaded else "import {} PATH"
            msg = (
                f"the {file.role} of {dataset} are gone: {file.path} ({came}); "
                f"put the file back or run: ninerec {again.format(dataset)}"
            )
            raise MissingData(msg)
        if file.sha256 is None:
            continue
        stat = file.path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (file.size, file.mtime_ns):
            continue
        if sha256_file(file.path) != file.sha256:
            if downloaded:
                way = f"ninerec download {dataset} --parts covers"
                raise CheckFailed(f"{file.path} was changed; write it anew: {way}")
            msg = (
                f"{file.path} changed since it was imported as the {file.role} of {dataset}; "
                f"if that is meant, run: ninerec import {dataset} {file.path.parent}"
            )
            raise CheckFailed(msg)
    return held
