"""Files that are whole or absent: atomic writes, folders renamed whole, locks, hashes, canonical JSON."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ninerec_data.errors import CheckFailed, UsageError

__all__ = [
    "atomic_write",
    "canonical_json",
    "full_disk_is_said",
    "hash_of",
    "link_files",
    "link_or_copy",
    "lock",
    "sha256_file",
    "staged_folder",
    "sweep",
    "sync",
]

CHUNK = 1 << 20
SYNC_ONE_BY_ONE = 1000  # files; of more, flushing the whole system is sooner done


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and a trailing newline: equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def hash_of(value: Any) -> str:
    """First 8 hex digits of the sha256 of a JSON value: the short hash that names folders."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def sha256_file(path: Path) -> str:
    """Return `sha256:<hex>` of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a later run after a kill, sees the old bytes or all the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    with full_disk_is_said(path):
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_is_said(path: Path) -> Iterator[None]:
    """Turn 'no space left' from any writer into one clear error."""
    try:
        yield
    except OSError as error:
        said = str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in said:
            msg = (
                f"no space left while writing under {path.parent}; nothing half written was kept. "
                "Free some space (or choose another --home) and run the same command again"
            )
            raise CheckFailed(msg) from error
        raise


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success rename it to `target` whole.

    An existing target is moved aside first and removed last, so at every instant `target` is
    the old folder, the new one, or absent; never a mixture. Call under `lock` and `sweep`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_said(target):
        staging = Path(tempfile.mkdtemp(prefix=f".tmp-{target.name}-", dir=target.parent))
        try:
            staging.chmod(0o755)
            yield staging
            files = [file for file in staging.rglob("*") if file.is_file()]
            if len(files) > SYNC_ONE_BY_ONE:
                os.sync()
            else:
                for file in files:
                    sync(file)
            aside = staging.with_name(staging.name.replace(".tmp-", ".old-", 1))
            if target.exists():
                target.rename(aside)
            staging.rename(target)
            sync(target.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that is never written again; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link_files(source: Path, target: Path, without: tuple[str, ...] = ()) -> None:
    """Every finished file of a folder under a second name, at any depth; `without` names of its top."""
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if file.is_file() and inside.parts[0] not in without:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, target / inside)


def sweep(folder: Path, name: str) -> None:
    """Clear what killed runs left beside `folder/name`, and put a folder moved aside back. Call under `lock`."""
    for left in folder.glob(f".old-{name}-????????"):  # the ending is tempfile's: "a" is not "a-b"
        target = folder / left.name[len(".old-") : -len("-????????")]
        if target.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:  # killed between the two renames: the old folder is the last whole one
            left.rename(target)
    for left in folder.glob(f".tmp-{name}-????????"):
        shutil.rmtree(left, ignore_errors=True)
    for half in folder.glob(f".{name}.????????"):
        if half.suffix != ".lock":
            half.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file, alone or with other readers; who must wait is told at once, not left in silence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another ninerec process is at work here (it holds {path}); wait for it to end and run this again"
            raise UsageError(msg) from error
        yield
