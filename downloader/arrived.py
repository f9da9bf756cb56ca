"""What arrived under a picture's address: looked at, checked by decoding it, and stored.

The first bytes decide, never the media type. Decoding runs in threads; each notes what it is at in a small file, so
that a picture which takes the whole process down is known at the next start (`Notes`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from downloader.answers import Fault, Outcome
from ninerec_data.blobs import Blobs
from ninerec_data.item_rows import Stored
from ninerec_data.pictures import Recipe, make_picture
from ninerec_data.provenance import codecs_hash

__all__ = ["Arrivals", "Notes", "crashes"]

SMALLEST = 32  # pixels of a side: less is a tracking pixel or a blank
LOOK = Recipe(size=8)  # decodes all of a picture at the least cost; what is made is not kept
SLOT = 64  # bytes: a sha256 in hex
KINDS = {
    "jpeg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG",
    "gif": rb"GIF8",
    "webp": rb"RIFF....WEBP",
    "bmp": rb"BM",
    "avif": rb"....ftypavi[fs]",
    "tiff": rb"II\*\0|MM\0\*",
    "jpeg2000": rb"\0\0\0\x0cjP|\xff\x4f\xff\x51",
}
NOT_PICTURES = {"html": rb"\s*<(!doctype|html|head|body|\?xml|!--)", "json": rb"\s*[{\[]"}
_BLOCK = re.compile(
    rb"(?i)captcha|v_voucher|_riskdata_|verify you are|access denied|request was banned"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Takes in pictures. keep: original | resized | both.

    placeholders: sha256 of pictures that stand for a cover that is no more.
    """

    blobs: Blobs
    recipe: Recipe
    keep: str
    notes: Notes
    placeholders: Collection[str] = ()
    codecs: str = field(default_factory=codecs_hash)

    def take(self, data: bytes, expected: str | None = None) -> Stored:
        """Check and store. expected: the sha256 it must have, where that is known.

        Raises Fault for what is no cover, CheckFailed where the disk is full. Any thread.
        """
        kind = _kind(data)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 in self.placeholders:
            raise Fault(Outcome.GONE, "placeholder", f"the known picture {sha256[:16]}")
        if expected and sha256 != expected:
            raise Fault(
                Outcome.REJECTED, "sha256", f"{sha256[:16]}..., expected {expected[:16]}..."
            )
        if sha256 in self.notes.suspects and crashes(data):
            raise Fault(Outcome.REJECTED, "decoder_crash", "it took the process down before")
        with self.notes.decoding(sha256):
            made = make_picture(data, self.recipe if self.keep != "original" else LOOK)
        if made.jpeg is None:
            raise Fault(Outcome.REJECTED, *_word_and_rest(made.reason or "damaged"))
        if min(made.width or 0, made.height or 0) < SMALLEST:
            raise Fault(Outcome.REJECTED, "tiny", f"{made.width}x{made.height}")
        resized = self.blobs.put(made.jpeg) if self.keep != "original" else None
        if self.keep != "resized":
            self.blobs.put(data)
        return Stored(
            sha256=sha256,
            size=len(data),
            kind=kind,
            width=made.width,
            height=made.height,
            kept=self.keep != "resized",
            resized=resized,
            resized_size=len(made.jpeg) if resized else None,
            recipe=self.recipe.hash if resized else None,
            codecs=self.codecs if resized else None,
        )


def _kind(data: bytes) -> str:
    """The format by its first bytes. Raises Fault for a page, and for nothing."""
    if not data:
        raise Fault(Outcome.REJECTED, "empty")
    for kind, start in NOT_PICTURES.items():
        if re.match(start, data[:512], re.IGNORECASE):
            if _BLOCK.search(data[:65536]):
                raise Fault(Outcome.BLOCKED, "captcha", "a page that asks for proof", blocks=True)
            raise Fault(Outcome.REJECTED, kind, "a page instead of a picture")
    known = (kind for kind, start in KINDS.items() if re.match(start, data[:16], re.DOTALL))
    return next(known, "unknown")


def _word_and_rest(reason: str) -> tuple[str, str]:
    word, _, rest = reason.partition(": ")
    return word, rest


class Notes:
    """What each thread is decoding, in its slot of a file, for as long as it does.

    suspects: sha256 of the pictures that were being decoded when the last run ended without an end.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        data = path.read_bytes()
        slots = (data[at : at + SLOT].strip(b"\0") for at in range(0, len(data), SLOT))
        self.suspects = {slot.decode("ascii", "replace") for slot in slots if slot}
        self._numbers = itertools.count()
        self._own = threading.local()

    @contextlib.contextmanager
    def decoding(self, sha256: str) -> Iterator[None]:
        if not hasattr(self._own, "at"):
            self._own.at = next(self._numbers) * SLOT
        os.pwrite(self._file, sha256.encode(), self._own.at)
        yield
        os.pwrite(self._file, bytes(SLOT), self._own.at)

    def close(self) -> None:
        """The run has come to its end: nothing is suspect any more."""
        os.ftruncate(self._file, 0)
        os.close(self._file)


def crashes(data: bytes, seconds: float = 60.0) -> bool:
    """Whether decoding takes the process down, tried in one of its own."""
    code = "import sys; from ninerec_data.pictures import make_picture; make_picture(sys.stdin.buffer.read())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=data,
            timeout=seconds,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0
