"""raw/blobs/aa/<sha256>: pictures as they were fetched, stored once by content (DESIGN 3.1).

A blob is written under another name and renamed, so one that has its name is whole. It is not flushed to the
disk one by one: after a power cut those that the journal knows are looked at again (`whole`).
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from ninerec_data.errors import CheckFailed
from ninerec_data.files import full_disk_is_said
from ninerec_data.home import Home

__all__ = ["Blobs"]

_UNFINISHED = ".tmp-"


class Blobs:
    """The store of one home. Any thread may put and read."""

    def __init__(self, home: Home) -> None:
        self.folder = home.raw / "blobs"

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Keep bytes and return their sha256 (64 hex digits). Raises CheckFailed where the disk is full."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        if self.whole(sha256, len(data)):
            return sha256
        with full_disk_is_said(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{_UNFINISHED}{uuid4().hex}")
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return sha256

    def whole(self, sha256: str, size: int) -> bool:
        """Whether a blob is there in its full size."""
        try:
            path = f"{self.folder}/{sha256[:2]}/{sha256}"  # 150,000 times at a start
            return os.stat(path).st_size == size  # noqa: PTH116
        except FileNotFoundError:
            return False

    def read(self, sha256: str) -> bytes:
        """The bytes, checked. Raises CheckFailed where they are not what their name says, or absent.

        What is damaged is put aside, so that the next download finds it lost and fetches it again.
        """
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != sha256:
            said = "is damaged" if data else "is gone"
            with suppress(OSError):  # a disk that is read only
                path.replace(path.with_name(f"{sha256}.damaged"))
            raise CheckFailed(f"the blob {path} {said}; fetch it again: ninerec download DATASET")
        return data

    def sweep(self) -> None:
        """Clear what killed runs left half written. Call under the download's lock."""
        for left in self.folder.glob(f"??/{_UNFINISHED}*"):
            left.unlink(missing_ok=True)
