"""One published file, whole or not at all: from the first place that gives it, going on where a killed run stopped.

Bytes go to `.<name>.part` beside the target; `.<name>.part.json` says what they are the start of. Only a file that
passed every check takes the target's name.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downloader.addresses import redacted
from downloader.answers import Fault, Outcome, refused
from downloader.drive import open_drive, title_of
from downloader.politeness import backoff, retry_after
from downloader.web import Stream, Web
from ninerec_data.errors import CheckFailed
from ninerec_data.files import canonical_json, lock, sync
from ninerec_data.outcomes import AGAIN

__all__ = ["Fetched", "Place", "fetch_file"]

TRIES = 4  # in a row that got no further
FURTHER = 1 << 16  # bytes beyond any held before: what counts as further
LONGEST_WAIT = 60.0  # seconds that a host may ask us to wait, within a run
HEAD = 512  # bytes that tell what a file is
_MAGIC: dict[str, tuple[int, tuple[bytes, ...]]] = {
    ".zip": (0, (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    ".tar": (257, (b"ustar",)),
    **dict.fromkeys((".gz", ".tgz"), (0, (b"\x1f\x8b",))),
    **dict.fromkeys((".bz2", ".tbz2"), (0, (b"BZh",))),
    **dict.fromkeys((".xz", ".txz"), (0, (b"\xfd7zXZ\0",))),
}
_PAGES = (
    ("HTML", (b"<!doctype html", b"<html", b"<head", b"<body", b"<script"), (".html", ".htm")),
    ("XML", (b"<?xml",), (".xml",)),
    ("JSON", (b"{",), (".json", ".jsonl", ".ndjson", ".txt", "")),
)
_CLOSED = "the host is closed to the public since 2024 (PublicAccessNotPermitted); its files moved elsewhere"
Tell = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file is published. kind: `http`, `repository`, `drive`, ... note: for people."""

    kind: str
    url: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that is whole. sha256: `sha256:<hex>`. size, sent, resumed_from: bytes; sent: received in this run.

    source: the address of the place that gave it, without secrets.
    """

    path: Path
    sha256: str
    size: int
    source: str
    sent: int
    resumed_from: int


def _quiet(_held: int, _total: int | None) -> None:
    pass


def fetch_file(
    web: Web,
    places: Sequence[Place],
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    tell: Tell = _quiet,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch a file from the first of its places that gives it; a part left by a killed run is gone on with.

    size, sha256 (`sha256:<hex>`): what is expected, where known. tell: is told the bytes held and those in all.

    Raises Fault where no place gave it: the first that is worth trying again, else the last; its detail says what each
    place answered. Raises CheckFailed where there is no space for it, UsageError where another process fetches it.
    """
    refused: list[tuple[Place, Fault]] = []
    with lock(target.with_name(f".{target.name}.lock")):
        for place in places:
            fetch = _Fetch(web, place, target, size, sha256, tell)
            try:
                return fetch.run(sleep)
            except Fault as fault:
                refused.append((place, fault))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise _full(target, str(error.strerror)) from error
    if not refused:
        raise Fault(Outcome.UNMAPPED, "no_place", f"no place is known that gives {target.name}")
    telling = next((fault for _, fault in refused if fault.outcome in AGAIN), refused[-1][1])
    said = "; ".join(
        f"{place.kind} {redacted(place.url)}{place.note and f' ({place.note})'}: {fault}"
        for place, fault in refused
    )
    raise Fault(
        telling.outcome, telling.reason, said, pause=telling.pause, status=telling.status
    ) from telling


class _Fetch:
    """One file from one place."""

    def __init__(
        self, web: Web, place: Place, target: Path, size: int | None, sha256: str | None, tell: Tell
    ) -> None:
        self.web, self.place, self.target, self.tell = web, place, target, tell
        self.size, self.sha256 = size, sha256 and f"sha256:{sha256.removeprefix('sha256:').lower()}"
        self.part = target.with_name(f".{target.name}.part")
        self.note = target.with_name(f".{target.name}.part.json")
        self.url_sha256 = hashlib.sha256(place.url.encode()).hexdigest()
        self.digest = hashlib.sha256()  # of the first `hashed` bytes of the part
        self.hashed = self.sent = self.furthest = self.resumed_from = 0

    def run(self, sleep: Callable[[float], None]) -> Fetched:
        """Ask until the file is here, or until TRIES in a row got no further."""
        tries, reached = 0, 0
        if self.size is not None:
            self._find_room(self.size)
        while True:
            try:
                if not (self._once(self._noted()) or self._once({})):
                    raise Fault(Outcome.REJECTED, "content_range", "not the range asked for")
                return self._finished()
            except Fault as fault:
                if self.furthest >= reached + FURTHER:
                    tries, reached = 0, self.furthest
                tries += 1
                busy = fault.status == 429 and (fault.pause or 0) <= LONGEST_WAIT
                if tries == TRIES or not (busy or fault.outcome is Outcome.TRANSIENT):
                    raise
                wait = backoff(self.place.url, tries - 1) if fault.pause is None else fault.pause
            sleep(wait)

    def _noted(self) -> dict[str, Any]:
        """What is noted of a part that this place can go on with; {} where there is none."""
        try:
            noted: dict[str, Any] = json.loads(self.note.read_text())
            ours = noted["url_sha256"] == self.url_sha256 and _validator(noted)
            return noted if ours and self.part.stat().st_size else {}
        except (FileNotFoundError, ValueError, KeyError):  # or one that a kill left half written
            return {}

    def _once(self, noted: Mapping[str, Any]) -> bool:
        """Ask once, going on from the part that is noted; False where it cannot be gone on with."""
        held = self.part.stat().st_size if noted else 0
        headers = {"Range": f"bytes={held}-", "If-Range": _validator(noted)} if held else {}
        ask = open_drive if self.place.kind == "drive" else Web.open
        with ask(self.web, self.place.url, headers) as answer:
            start, total = _range(answer)
            if held and answer.status == 416:
                self.resumed_from = held
                return total == held
            if answer.status not in (200, 206):
                raise _refusal(answer)
            if answer.status == 206 and (start != held or not _same(answer, total, noted)):
                return False
            self._receive(answer, start, total)
            return True

    def _receive(self, answer: Stream, held: int, said: int | None) -> None:
        """Take a body in, from byte `held` of the file on."""
        chunks, total = answer.chunks(), self.size if said is None else said
        if held:
            self._hash_to(held)
        else:
            head = b""
            while len(head) < HEAD and (chunk := next(chunks, b"")):
                head += chunk
            self._begin(answer, head, total)
            chunks = itertools.chain([head], chunks)
        if not (held and self.sent):
            self.resumed_from = held
        with self.part.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                self.digest.update(chunk)
                self.sent += len(chunk)
                held = self.hashed = held + len(chunk)
                self.furthest = max(self.furthest, held)
                if total is not None and held > total:
                    raise self._wrong("size", f"more than the {total:,} bytes that are expected")
                self.tell(held, total)
        if total is not None and held < total:
            raise Fault(Outcome.TRANSIENT, "truncated", f"{held:,} of {total:,} bytes came")

    def _begin(self, answer: Stream, head: bytes, total: int | None) -> None:
        """Start the part anew, once it is plain that what comes can be the file."""
        _check_head(head, self.target.name, answer.headers.get("content-encoding", "identity"))
        if self.size not in (None, total):
            said = f"{total:,} bytes where {self.size:,} are expected"
            raise Fault(Outcome.REJECTED, "size", said)
        self._find_room(total or 0)
        self.note.unlink(missing_ok=True)
        self.part.write_bytes(b"")
        self.digest, self.hashed = hashlib.sha256(), 0
        noted = {key: answer.headers.get(key) for key in ("etag", "last-modified")}
        source = {"url": redacted(self.place.url), "url_sha256": self.url_sha256}
        self.note.write_text(canonical_json({**source, **noted, "size": total}))

    def _hash_to(self, held: int) -> None:
        if self.hashed != held:
            with self.part.open("rb") as file:
                self.digest, self.hashed = hashlib.file_digest(file, hashlib.sha256), held

    def _finished(self) -> Fetched:
        """Check the part and give it the target's name."""
        size = self.part.stat().st_size
        self._hash_to(size)
        sha256 = f"sha256:{self.digest.hexdigest()}"
        if self.size not in (None, size):
            raise self._wrong("size", f"{size:,} bytes where {self.size:,} are expected")
        if self.sha256 not in (None, sha256):
            raise self._wrong("sha256", f"{sha256} where {self.sha256} is expected")
        sync(self.part)
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)
        sync(self.target.parent)
        count = {"size": size, "sent": self.sent, "resumed_from": self.resumed_from}
        return Fetched(path=self.target, sha256=sha256, source=redacted(self.place.url), **count)

    def _wrong(self, reason: str, said: str) -> Fault:
        self.part.unlink()
        self.note.unlink(missing_ok=True)
        return Fault(Outcome.REJECTED, reason, said)

    def _find_room(self, total: int) -> None:
        need = total - (self.part.stat().st_size if self.part.exists() else 0)
        free = shutil.disk_usage(self.part.parent).free
        if need > free:
            said = f"{self.target.name} needs {need:,} more bytes and {free:,} are free"
            raise _full(self.target, said)


def _full(target: Path, said: str) -> CheckFailed:
    msg = (
        f"no space left under {target.parent}: {said}. What came so far is kept; free some space "
        "(or choose another --home) and run the same command again"
    )
    return CheckFailed(msg)


def _validator(headers: Mapping[str, Any]) -> str:
    """What If-Range may hold: a strong ETag, else Last-Modified; "" where there is neither."""
    etag = headers.get("etag") or ""
    return etag if etag.startswith('"') else headers.get("last-modified") or ""


def _range(answer: Stream) -> tuple[int, int | None]:
    """The first byte of the file that a response holds (-1: unknown), and the bytes of the whole, where it says so."""
    length = answer.headers.get("content-length", "")
    if answer.status not in (206, 416):
        return 0, int(length) if length.isdecimal() else None
    said = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("content-range", ""))
    start, total = said.groups() if said else (None, "*")
    return int(start or -1), None if total == "*" else int(total)


def _same(answer: Stream, total: int | None, noted: Mapping[str, Any]) -> bool:
    """Whether a part of a file is of the one that is noted."""
    sizes, signs = {total, noted.get("size")}, {_validator(answer.headers), _validator(noted)}
    return not noted or (len(sizes - {None}) < 2 and len(signs - {""}) < 2)


def _refusal(answer: Stream) -> Fault:
    """What a status says that is neither the file nor a redirect."""
    status = answer.status
    if status == 409 and b"PublicAccessNotPermitted" in answer.start(4096):
        return Fault(Outcome.GONE, "closed", _CLOSED, status=status)
    pause = retry_after(answer.headers, time.time()) if status in (429, 503) else None
    fault = refused(status, f"HTTP {status}", pause=pause)
    if (pause or 0) > LONGEST_WAIT:
        fault.outcome = Outcome.BLOCKED
    return fault


def _check_head(head: bytes, name: str, encoding: str) -> None:
    """Raise Fault REJECTED where the first bytes are not of what the name says."""
    suffix, bare = Path(name).suffix.lower(), head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise Fault(Outcome.REJECTED, "lfs_pointer", "a Git LFS pointer stands for the file")
    for kind, signs, suffixes in _PAGES:
        if bare.startswith(signs) and suffix not in suffixes:
            title = title_of(head.decode("utf-8", "replace"))
            raise Fault(Outcome.REJECTED, "error_page", f"{kind} in place of {name}: {title!r}")
    if encoding.lower() != "identity" and suffix not in (".gz", ".tgz"):
        raise Fault(Outcome.REJECTED, "encoding", f"sent as {encoding}, unasked")
    offset, magic = _MAGIC.get(suffix, (0, (b"",)))
    if not head or not head.startswith(magic, offset):
        raise Fault(Outcome.REJECTED, "magic", f"not a {suffix} file: it starts {head[:16]!r}")
