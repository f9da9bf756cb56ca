"""Blobs: stored once by content, whole or absent, under a name that says what they hold."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ninerec_data.blobs import Blobs
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home

DATA = b"the bytes of a picture"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(Home(tmp_path))


def files(blobs: Blobs) -> list[str]:
    return sorted(str(p.relative_to(blobs.folder)) for p in blobs.folder.rglob("*") if p.is_file())


def test_a_blob_lies_under_its_sha256(blobs: Blobs) -> None:
    assert blobs.put(DATA) == SHA256
    assert blobs.path(SHA256) == blobs.folder / SHA256[:2] / SHA256
    assert blobs.path(SHA256).read_bytes() == blobs.read(SHA256) == DATA
    assert files(blobs) == [f"{SHA256[:2]}/{SHA256}"]


def test_to_make_the_store_writes_nothing(blobs: Blobs) -> None:
    assert not blobs.whole(SHA256, len(DATA))
    blobs.sweep()
    assert not blobs.folder.exists()


def test_the_same_bytes_are_stored_once(blobs: Blobs) -> None:
    blobs.put(DATA)
    before = blobs.path(SHA256).stat()
    assert blobs.put(DATA) == SHA256
    after = blobs.path(SHA256).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_no_bytes_are_a_blob_too(blobs: Blobs) -> None:
    name = blobs.put(b"")
    assert (blobs.read(name), blobs.whole(name, 0)) == (b"", True)


def test_many_threads_may_put_the_same(blobs: Blobs) -> None:
    pictures = [str(n % 7).encode() * 5000 for n in range(200)]
    with ThreadPoolExecutor(16) as threads:
        names = list(threads.map(blobs.put, pictures))
    assert len(set(names)) == 7
    assert len(files(blobs)) == 7
    assert [blobs.read(name) for name in names] == pictures


@pytest.mark.parametrize("size", [0, len(DATA) - 1, len(DATA) + 1])
def test_whole_means_of_that_size(blobs: Blobs, size: int) -> None:
    blobs.put(DATA)
    assert blobs.whole(SHA256, len(DATA))
    assert not blobs.whole(SHA256, size)


def test_a_blob_that_a_power_cut_left_short_is_written_anew(blobs: Blobs) -> None:
    blobs.put(DATA)
    blobs.path(SHA256).write_bytes(DATA[:5])
    blobs.put(DATA)
    assert blobs.read(SHA256) == DATA


@pytest.mark.parametrize(("left", "said"), [(DATA[:-1] + b"!", "is damaged"), (None, "is gone")])
def test_a_blob_that_is_not_what_it_says_is_refused(
    blobs: Blobs, left: bytes | None, said: str
) -> None:
    blobs.put(DATA)
    blobs.path(SHA256).unlink() if left is None else blobs.path(SHA256).write_bytes(left)
    with pytest.raises(CheckFailed, match=f"{SHA256} {said}; fetch it again: ninerec download"):
        blobs.read(SHA256)


def test_only_the_rename_makes_a_blob_visible(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def replace(path: Path, target: Path) -> Any:
        seen.append((path.parent == target.parent, path.read_bytes(), target.exists()))
        return os.replace(path, target)  # noqa: PTH105

    monkeypatch.setattr(Path, "replace", replace)
    blobs.put(DATA)
    assert seen == [(True, DATA, False)]


@pytest.mark.parametrize("name", ["write_bytes", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_where_the_disk_is_full_that_is_said_and_nothing_is_left(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    def full(path: Path, *_: Any) -> None:
        if name == "write_bytes":
            path.touch()
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, name, full)
        with pytest.raises(CheckFailed, match=r"no space left while writing under .*blobs"):
            blobs.put(DATA)
    assert files(blobs) == []
    assert blobs.put(DATA) == SHA256


def test_another_error_of_the_disk_is_not_swallowed(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="input/output"):
        blobs.put(DATA)
    assert files(blobs) == []


def test_what_killed_runs_left_is_swept_and_nothing_else(blobs: Blobs) -> None:
    blobs.put(DATA)
    for name in (".tmp-1", ".tmp-abc"):
        (blobs.path(SHA256).parent / name).write_bytes(b"half")
    (blobs.folder / "note.txt").write_text("of the user")
    blobs.sweep()
    assert files(blobs) == sorted([f"{SHA256[:2]}/{SHA256}", "note.txt"])
