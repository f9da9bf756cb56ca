"""WebDataset shards of covers: written byte for byte the same, read as a stream or at random (DESIGN 3.2).

Shard k holds items 1000k+1 .. 1000(k+1) in item order, three members each: <key>.jpg, <key>.txt (the text),
<key>.json (item, item_id, titles). The key is the item id with all but [A-Za-z0-9_-] percent-encoded.
A shard whose items have no cover at all is an empty tar, so that shards are numbered without gaps.
"""

from __future__ import annotations

import json
import mmap
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ninerec_data.errors import CheckFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "SHARD_ITEMS",
    "Covers",
    "Sample",
    "identity",
    "key_of",
    "shard_name",
    "shard_of",
    "write_shard",
]

SHARD_ITEMS = 1000
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one item puts into its shard: facts as JSON (item, item_id, titles), the text, the JPEG."""

    facts: dict[str, Any]
    text: str
    jpeg: bytes


def shard_of(item: int) -> int:
    """The shard of an item, from 0."""
    return (item - 1) // SHARD_ITEMS


def shard_name(shard: int) -> str:
    return f"{shard:05d}.tar"


def identity(stat: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from another that took its place."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def key_of(item_id: str) -> str:
    """An item id as a WebDataset key: no dot, no slash, nothing a file system minds."""
    return "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in item_id.encode())


def write_shard(file: BinaryIO, samples: Iterable[Sample]) -> list[int]:
    """Write samples as a tar with fixed time, owner and mode; returns the offset of each JPEG's bytes."""
    offsets = []
    for sample in samples:
        key = key_of(sample.facts["item_id"])
        facts = json.dumps(sample.facts, sort_keys=True, ensure_ascii=False).encode()
        offsets.append(_add(file, f"{key}.jpg", sample.jpeg))
        _add(file, f"{key}.txt", sample.text.encode())
        _add(file, f"{key}.json", facts)
    file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end, then up to a whole record
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return offsets


def _add(file: BinaryIO, name: str, data: bytes) -> int:
    """Append one member; returns the offset of its bytes. `TarFile.addfile` writes the same, half as fast."""
    info = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644
    info.size = len(data)
    short = len(name) <= tarfile.LENGTH_NAME
    file.write(info.tobuf(tarfile.USTAR_FORMAT if short else tarfile.PAX_FORMAT))
    offset = file.tell()
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


class Covers:
    """Random access to the covers of a prepared dataset: `covers[item]` is its JPEG, or None.

    Shards are mapped on first use and stay mapped; threads may share one object, processes get their own
    maps (a pickled copy starts without any).
    """

    def __init__(
        self,
        folder: Path,
        shard: NDArray[np.int32],
        offset: NDArray[np.int64],
        size: NDArray[np.int64],
        seen: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """Arrays are (n_items + 1,), entry 0 for the pad; size 0 where an item has no cover.

        seen: the `identity` of each shard that the arrays are of; another one is refused when it is mapped.
        """
        self.folder, self.shard, self.offset, self.size = folder, shard, offset, size
        self.seen = seen
        self._maps: dict[int, mmap.mmap] = {}

    @classmethod
    def of(cls, folder: Path, table: Any, seen: Sequence[tuple[int, int, int]] = ()) -> Covers:
        """From the columns shard, offset and size of an Arrow or polars table of all items."""
        import numpy as np

        columns = (table[name].fill_null(0).to_numpy() for name in ("shard", "offset", "size"))
        shard, offset, size = (np.concatenate([[0], column]) for column in columns)
        return cls(folder, shard, offset, size, seen)

    def __len__(self) -> int:
        """How many items have a cover."""
        return int((self.size > 0).sum())

    def __contains__(self, item: int) -> bool:
        return bool(self.size[item] > 0)

    def __getitem__(self, item: int) -> bytes | None:
        if not self.size[item]:
            return None
        offset, size = int(self.offset[item]), int(self.size[item])
        mapped = self._map(int(self.shard[item]))
        if mapped.size() < offset + size:  # of the file now: a map past its end is a SIGBUS
            raise CheckFailed(f"{self.path(item)} was cut short while it was read")
        return mapped[offset : offset + size]

    def path(self, item: int) -> Path:
        """The shard of an item's cover."""
        return self.folder / shard_name(int(self.shard[item]))

    def _map(self, shard: int) -> mmap.mmap:
        found = self._maps.get(shard)
        if found is None:
            path = self.folder / shard_name(shard)
            with path.open("rb") as file:
                if self.seen and identity(os.fstat(file.fileno())) != self.seen[shard]:
                    msg = f"{path} changed since the dataset was opened; open it again"
                    raise CheckFailed(msg)
                found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[shard] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}
