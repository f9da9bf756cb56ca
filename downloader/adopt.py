"""The covers inside a published compressed tar: read in one pass, for every dataset that it serves."""

from __future__ import annotations

import fnmatch
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from downloader.answers import Fault
from downloader.arrived import Arrivals
from ninerec_data.archives import damage_is_said
from ninerec_data.cover_names import place_of
from ninerec_data.item_rows import Stored
from ninerec_data.pictures import MAX_BYTES

__all__ = ["Wanted", "adopt"]

BATCH = 64  # pictures held in memory


@dataclass(frozen=True, slots=True)
class Wanted:
    """The items of a dataset that have no cover, and the names of its folder of covers."""

    dataset: str
    patterns: tuple[str, ...]
    items: tuple[str, ...]


def adopt(
    archive: Path,
    wanted: list[Wanted],
    arrivals: Arrivals,
    hold: Callable[[str, str, Stored, str], None],
) -> None:
    """Take in the covers of an archive; what is no picture is left to the origin.

    hold: told the dataset, the item id, what was stored and the member. Raises CheckFailed for a damaged archive.
    """
    with ThreadPoolExecutor() as threads, damage_is_said(archive, "tar"):
        members = _members(archive, wanted)
        while batch := list(islice(members, BATCH)):
            taken = threads.map(lambda row: _taken(arrivals, row[3]), batch)
            for (dataset, item_id, name, _), stored in zip(batch, taken, strict=True):
                if stored:
                    hold(dataset, item_id, stored, name)


def _taken(arrivals: Arrivals, data: bytes) -> Stored | None:
    try:
        return arrivals.take(data)
    except Fault:
        return None


def _members(archive: Path, wanted: list[Wanted]) -> Iterator[tuple[str, str, str, bytes]]:
    """dataset, item id, name and bytes of every member that is a wanted cover, each item once."""
    places = {want.dataset: {item_id: n for n, item_id in enumerate(want.items)} for want in wanted}
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if not member.isfile() or not 0 < member.size <= MAX_BYTES:
                continue
            folders = [part.lower() for part in PurePosixPath(member.name).parts[:-1]]
            data = None
            for want in wanted:
                if not any(
                    fnmatch.fnmatchcase(f, p.lower()) for f in folders for p in want.patterns
                ):
                    continue
                place, *_ = place_of(member.name, places[want.dataset])
                if place is None:
                    continue
                item_id = want.items[place]
                del places[want.dataset][item_id]
                if data is None:
                    file = tar.extractfile(member)
                    data = file.read() if file else b""
                yield want.dataset, item_id, member.name, data
