"""One cover settled: the bytes a release has for an item become a JPEG, or a reason why there is none.

These are the tasks of the covers stage (cover_stage.py); a Ray worker runs them too, so everything here
pickles, and a source is opened once in each process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ninerec_data.cover_sources import BadCover, Found, Source, open_source
from ninerec_data.pictures import Pixels, Recipe, make_picture

__all__ = ["TWO_FILES", "Claim", "Job", "Made", "Part", "Stocked", "settle"]

NO_FILE = "no_file"
TWO_FILES = "two_files"


@dataclass(frozen=True, slots=True)
class Stocked:
    """A picture settled before under the same recipe: where its JPEG lies, or why there is none.

    sha256: of the JPEG, where it is not known to be whole.
    """

    path: Path | None
    offset: int
    size: int
    width: int | None
    height: int | None
    reason: str | None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What every task shares. stock: digest of the published bytes -> what was made of them.

    stamp: of the files listed, so that a source that changed is not read through an old index.
    """

    path: Path
    patterns: tuple[str, ...]
    stamp: int
    recipe: Recipe
    stock: Mapping[str, Stocked]


@dataclass(frozen=True, slots=True)
class Claim:
    """An item and the files that claim to be its cover, with their digests where they are known."""

    item: int
    files: tuple[Found, ...]
    digests: tuple[str | None, ...]


Part = tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """One settled item. digests: of every file that was read, for the next time."""

    item: int
    cover: str
    reason: str | None = None
    jpeg: bytes | None = None
    width: int | None = None
    height: int | None = None
    source: str | None = None
    digests: Mapping[Found, str] = field(default_factory=dict)


def settle(job: Job, part: Part) -> list[Made]:
    """Settle some items; bad pictures are reasons.

    Raises MissingData or CheckFailed where the source itself cannot be read.
    """
    return [_settle(job, claim) for claim in part]


def _settle(job: Job, claim: Claim) -> Made:
    if not claim.files:
        return Made(claim.item, "missing", NO_FILE)
    known = set(claim.digests)
    if (
        len(known) == 1
        and (stocked := job.stock.get(next(iter(known)) or ""))
        and (made := _from_stock(claim, stocked, claim.digests[0] or "", {}))
    ):
        return made
    read: dict[Found, str] = {}
    data: bytes | Pixels | None = None
    reason = None
    for file in claim.files:
        try:
            data = _source(job.path, job.patterns, job.stamp).read(file.name)
            read[file] = _digest(data)
        except BadCover as error:
            reason, read[file] = error.reason, f"refused:{error.reason}"
    source = read[claim.files[0]]
    if len(set(read.values())) > 1:
        names = f"{TWO_FILES}: {', '.join(file.name for file in claim.files)}"
        return Made(claim.item, "broken", names, source=source, digests=read)
    if (stocked := job.stock.get(source)) and (made := _from_stock(claim, stocked, source, read)):
        return made
    if data is None:
        return Made(claim.item, "broken", reason, source=source, digests=read)
    picture = make_picture(data, job.recipe)
    cover = "ok" if picture.jpeg else "broken"
    size = (picture.width, picture.height)
    return Made(claim.item, cover, picture.reason, picture.jpeg, *size, source, digests=read)


def _from_stock(claim: Claim, stocked: Stocked, source: str, read: dict[Found, str]) -> Made | None:
    """None where the JPEG is gone or damaged: the published bytes are read then."""
    jpeg = None
    if stocked.path is not None:
        try:
            with stocked.path.open("rb") as file:
                file.seek(stocked.offset)
                jpeg = file.read(stocked.size)
        except FileNotFoundError:
            return None
        if stocked.sha256 and hashlib.sha256(jpeg).hexdigest() != stocked.sha256:
            return None
    cover = "ok" if jpeg else "broken"
    size = (stocked.width, stocked.height)
    return Made(claim.item, cover, stocked.reason, jpeg, *size, source, digests=read)


def _digest(data: bytes | Pixels) -> str:
    """The identity of published bytes: sha256; of raw pixels with their size."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(f"rgb {data.width}x{data.height} ".encode())
    digest.update(data.rgb)
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _source(path: Path, patterns: tuple[str, ...], stamp: int) -> Source:  # noqa: ARG001 - part of the key
    return open_source(path, patterns)
