"""What `clean` removes of a dataset, what that frees, and the removal; sizes on disk for `list --local`.

No link is followed: of a symbolic link the link goes, what it points to stays. A prepared dataset is renamed
aside before it is deleted, and the journal forgets raw files before they go, so that a removal killed
half-way leaves nothing that looks whole and is not.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ninerec_data.blobs import Blobs
from ninerec_data.files import lock
from ninerec_data.home import Home
from ninerec_data.item_journal import has_items, item_journal
from ninerec_data.raw import journal

__all__ = ["Part", "leftovers", "raw_folders", "removable", "remove", "size_of"]

# How `staged_folder` and the covers stage name folders: the endings are tempfile's or a recipe's hash.
_LEFT = re.compile(r"\.(?:tmp|old)-(.+)-[a-z0-9_]{8}|\.(.+)\.covers-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to remove. what: prepared | leftover | raw | journal (the entries of the dataset in it) | blobs.

    frees: bytes of the files whose last name goes with it.
    """

    dataset: str
    what: str
    path: Path
    frees: int


def leftovers(home: Home) -> dict[str, list[Path]]:
    """Dataset -> what killed prepares left beside it, and those at work use; never the last whole store."""
    found: dict[str, list[Path]] = {}
    for path in sorted(home.root.glob("prepared/.*")):
        match = _LEFT.fullmatch(path.name)
        name = match[1] or match[2] if match else ""
        last = path.name.startswith(".old-") and not os.path.lexists(home.prepared(name))
        if name and not last:
            found.setdefault(name, []).append(path)
    return found


def raw_folders(home: Home, name: str) -> list[Path]:
    """What the raw store itself holds of a dataset, and what killed imports left of it there."""
    pattern = f".tmp-{escape(name)}-????????"
    releases = [path for path in sorted(home.raw.glob("files/*")) if not path.is_symlink()]
    found = [path for release in releases for path in (release / name, *release.glob(pattern))]
    return [path for path in found if os.path.lexists(path)]


def size_of(paths: Iterable[Path]) -> int:
    """Bytes at and under some paths, each file once whatever its names."""
    return sum({_inode(s): s.st_size for path in paths for _, s in _files(path)}.values())


def removable(home: Home, names: Iterable[str], what: Collection[str]) -> list[Part]:
    """What is on disk of these datasets. what: some of prepared, leftover, and raw, which brings journal and blobs."""
    parts = []
    names_seen: Counter[tuple[int, int]] = Counter()
    for name in names:
        for kind, path in _found(home, name, what):
            frees = 0
            for _, stat in _files(path) if kind != "journal" else ():
                names_seen[_inode(stat)] += 1
                if names_seen[_inode(stat)] == stat.st_nlink:
                    frees += stat.st_size
            parts.append(Part(name, kind, path, frees))
        if "raw" in what and (blobs := _blobs(home, name)):
            parts.append(Part(name, "blobs", home.raw / "blobs", sum(blobs.values())))
    return parts


def remove(home: Home, name: str, what: Collection[str]) -> list[Part]:
    """Remove what `removable` finds of one dataset, and return it.

    Raises UsageError where another process is at work on the dataset or, for raw, on its release.
    """
    releases = set()
    if "raw" in what:
        releases |= {release for dataset, release, _ in _journal(home) if dataset == name}
        releases |= {path.parent.name for path in raw_folders(home, name)}
    with ExitStack() as locks:
        locks_of_raw = [home.raw / f".{r}.lock" for r in sorted(releases)]
        locks_of_raw += [home.raw / ".download.lock"] if "raw" in what else []
        for path in (home.lock_of(name), *locks_of_raw):
            locks.enter_context(lock(path))
        parts = removable(home, [name], what)
        for path in [_aside(p.path, name) for p in parts if p.what in ("prepared", "leftover")]:
            _delete(path)
        if any(part.what == "journal" for part in parts):
            with journal(home) as connection:
                connection.execute("delete from files where dataset = ?", (name,))
                connection.execute(
                    "delete from digests where source not in (select path from files)"
                )
        if "raw" in what and has_items(home):
            blobs = _blobs(home, name)
            with item_journal(home) as items:
                items.forget(name)
            for sha256 in blobs:
                Blobs(home).path(sha256).unlink(missing_ok=True)
        for part in parts:
            if part.what == "raw":
                _delete(part.path)
    return parts


def _blobs(home: Home, name: str) -> dict[str, int]:
    """Blobs that no other dataset needs, and their bytes: also what killed runs and other recipes left."""
    if not has_items(home):
        return {}
    with item_journal(home) as items:
        needed = items.needed_without(name)
    return {p.name: s.st_size for p, s in _files(home.raw / "blobs") if p.name not in needed}


def _found(home: Home, name: str, what: Collection[str]) -> Iterator[tuple[str, Path]]:
    store = home.prepared(name)
    if "prepared" in what:
        # A prepare killed between two renames left the store aside only.
        aside = store.parent.glob(f".old-{escape(name)}-????????")
        yield from (("prepared", p) for p in ([store] if os.path.lexists(store) else aside))
    if "leftover" in what:
        yield from (("leftover", path) for path in leftovers(home).get(name, ()))
    if "raw" in what:
        rows = _journal(home)
        if any(dataset == name for dataset, *_ in rows):
            yield "journal", home.raw / "journal.sqlite"
        used = [Path(path).resolve() for dataset, _, path in rows if dataset != name]
        for folder in raw_folders(home, name):
            files = [path for path, _ in _files(folder)]
            free = [p for p in files if not any(p.resolve().is_relative_to(u) for u in used)]
            yield from (("raw", path) for path in ([folder] if free == files else free))
        mine = {release for dataset, release, _ in rows if dataset == name}
        for release in sorted(mine - {release for dataset, release, _ in rows if dataset != name}):
            archives = sorted((home.raw / "files" / release).glob("*"))  # that downloads left
            yield from (("raw", p) for p in archives if p.is_file() and not p.name.startswith("."))


def _journal(home: Home) -> list[tuple[str, str, str]]:
    """Dataset, release and path of every file that the journal holds."""
    if not (home.raw / "journal.sqlite").exists():
        return []
    with journal(home) as connection:
        return connection.execute("select dataset, release, path from files").fetchall()


def _files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file and link at or under a path, and its facts."""
    with suppress(FileNotFoundError):  # a run at work moves things
        if path.is_symlink() or not path.is_dir():
            yield path, path.lstat()
        else:
            for inside in sorted(path.iterdir()):
                yield from _files(inside)


def _inode(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _aside(path: Path, name: str) -> Path:
    """Rename it to what `sweep` clears."""
    return path.rename(path.with_name(f".tmp-{name}-{os.urandom(4).hex()}"))


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
