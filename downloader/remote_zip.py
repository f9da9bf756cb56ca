"""A zip on a server, read without fetching it: its directory by Range requests, then only the members needed.

One request for the size, one or two for the directory, one for each member. A zip that is replaced meanwhile is a
fault, never a mixture of the two.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from downloader.answers import Fault, Outcome, refused
from ninerec_data.cover_sources import BadCover, Found, _Zip
from ninerec_data.pictures import MAX_BYTES

if TYPE_CHECKING:
    from downloader.web import Stream

__all__ = ["ABSENT", "Opener", "RemoteFile", "RemoteZip", "body_of"]

ABSENT = (404, 410)  # statuses
BLOCK = 64 << 10  # bytes of a small read, and of the tail that is read first
HEADER = 512  # bytes that a member's own header has at most, as a rule
MAX_DIRECTORY = 256 << 20  # bytes: some three million members


class Opener(Protocol):
    """Asks for an address and streams the answer, with guards of its own (downloader/web.py)."""

    def open(self, url: str, headers: Mapping[str, str]) -> AbstractContextManager[Stream]:
        """The response of any status. Raises Fault where there is none."""


def body_of(answer: Stream, most: int) -> bytes:
    """The body. Raises Fault REJECTED too_large beyond `most` bytes, TRANSIENT where it breaks off."""
    data = bytearray()
    for part in answer.chunks():
        data += part
        if len(data) > most:
            raise Fault(Outcome.REJECTED, "too_large", f"more than {most:,} bytes")
    return bytes(data)


class RemoteFile:
    """A file on a server as zipfile wants it: `seek`, `tell`, `read`. size: bytes. `at` is for any thread.

    Raises Fault: REJECTED no_ranges where the server ignores ranges, TRANSIENT changed where the file is another now.
    """

    def __init__(self, url: str, web: Opener) -> None:
        self._url, self._web = url, web
        self._place, self._block = 0, (0, b"")
        self._mark: tuple[str, str | None] | None = None
        self.size = 1  # until the first response says it
        self.at(0, 1)

    def at(self, offset: int, size: int) -> bytes:
        """So many bytes from a place; fewer where the file ends."""
        end = min(offset + size, self.size)
        if not 0 <= offset < end:
            return b""
        asked = {"Range": f"bytes={offset}-{end - 1}", "Accept-Encoding": "identity"}
        with self._web.open(self._url, asked) as answer:
            self._check(answer, f"bytes {offset}-{end - 1}")
            data = body_of(answer, end - offset)
        if len(data) < end - offset:
            said = f"{len(data):,} of {end - offset:,} bytes"
            raise Fault(Outcome.TRANSIENT, "truncated", said)
        return data

    def _check(self, answer: Stream, asked: str) -> None:
        """See that this range came, and of the file that it was at first."""
        headers, status = answer.headers, answer.status
        if status == 200:
            advice = "the server gives no part of a file; download the zip and give it: --backup FILE.zip"
            raise Fault(Outcome.REJECTED, "no_ranges", advice)
        given, _, total = headers.get("content-range", "").partition("/")
        mark = total, headers.get("etag") or headers.get("last-modified")
        if self._mark and (status in (*ABSENT, 416) or (status == 206 and mark != self._mark)):
            raise Fault(Outcome.TRANSIENT, "changed", "the zip is not the one that was opened")
        if status != 206:
            raise refused(status)
        if given != asked or not total.isdecimal():
            raise Fault(Outcome.REJECTED, "wrong_range", f"{given!r} for {asked!r}")
        self._mark, self.size = mark, int(total)

    def tell(self) -> int:
        """The place of the next read."""
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        """Move the place: from the start, from where it is, or from the end."""
        self._place = max(place + (0, self._place, self.size)[whence], 0)
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read on; small reads are answered from a block, at the end of the file from its tail."""
        place, left = self._place, max(self.size - self._place, 0)
        size = left if size < 0 else min(size, left)
        if size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes")
        start, block = self._block
        if not start <= place <= place + size <= start + len(block):
            start = max(min(place, self.size - BLOCK), 0)
            block = self.at(start, max(place + size - start, BLOCK))
            self._block = start, block
        self._place += size
        return block[place - start : place - start + size]

    def close(self) -> None:
        """Let go of what was read."""
        self._block = 0, b""


class RemoteZip(_Zip):
    """The covers in a zip on a server. Raises what `RemoteFile` does, CheckFailed for what is no zip."""

    def __init__(self, url: str, file: RemoteFile) -> None:
        self._remote, self._ahead = file, threading.local()
        name = Path(
            PurePosixPath(urlsplit(url).path).name
        )  # without the query, which may be signed
        super().__init__(name, cast("BinaryIO", file), ())
        file.close()

    def found(self) -> list[Found]:
        return [Found(name, size, 0) for name, (_, size) in sorted(self._places.items())]

    def read(self, name: str) -> bytes:
        info = self._infos[name]
        if max(info.file_size, info.compress_size) > MAX_BYTES:
            raise BadCover("too_large")
        start = info.header_offset
        self._ahead.block = start, self._remote.at(start, HEADER + info.compress_size)
        return super().read(name)

    def _bytes(self, offset: int, size: int, most: int = 0) -> bytes:  # noqa: ARG002 - see `read`
        start, block = self._ahead.block
        data: bytes = block[offset - start : offset - start + size]
        if len(data) < size:  # the header was longer
            data += self._remote.at(offset + len(data), size - len(data))
        if len(data) < size:
            raise BadCover("damaged")
        return data
