"""`open_dataset`: a prepared dataset and one split of it, read-only, from local files only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninerec_data.errors import CheckFailed, MissingData, UsageError
from ninerec_data.home import Home, find_home
from ninerec_data.manifest import (
    covers_of_store,
    n_items,
    read_manifest,
    refuse_changed,
    tables_manifest,
)
from ninerec_data.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from ninerec_data.shards import Covers

__all__ = ["Dataset", "open_dataset"]


class Dataset:
    """A prepared dataset under one protocol. Arrays load on first use and are kept.

    Items are 1..n_items (0 pads), users 0..n_users-1. An array over items has n_items + 1 entries,
    entry 0 for the pad.
    """

    def __init__(
        self,
        folder: Path,
        chosen: Protocol,
        manifest: Mapping[str, Any],
        split_manifest: Mapping[str, Any],
        shards: tuple[tuple[int, int, int], ...] = (),
    ) -> None:
        self.folder = folder
        self._shards = shards
        self.protocol = chosen
        self.manifest = manifest
        self.split_manifest = split_manifest
        self.name: str = manifest["dataset"]
        self.n_items = n_items(manifest)
        self.n_users: int = manifest["counts"]["users"]

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}: {self.n_users:,} users, {self.n_items:,} items, "
            f"protocol {self.protocol.name} {self.protocol.hash})"
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """File name -> sha256 of every table of the store and the split; of items.parquet without its covers."""
        stages = {"": self.manifest, f"splits/{self.protocol.split.hash}/": self.split_manifest}
        found = {
            f"{folder}{name}": facts["sha256"]
            for folder, manifest in stages.items()
            for name, facts in manifest["outputs"].items()
        }
        return {**found, "items.parquet": self.manifest["items_without_covers"]}

    @property
    def split_folder(self) -> Path:
        return self.folder / "splits" / self.protocol.split.hash

    @cached_property
    def items(self) -> pa.Table:
        """items.parquet as an Arrow table; row i is item i + 1."""
        return _read(self.folder / "items.parquet")

    @cached_property
    def users(self) -> pa.Table:
        """users.parquet as an Arrow table; row u is user u."""
        return _read(self.folder / "users.parquet")

    @cached_property
    def interactions(self) -> pa.Table:
        """user, item, timestamp, position; the split's own where it removed items."""
        return self._interactions()

    def _interactions(self, *columns: str) -> pa.Table:
        own = self.split_folder / "interactions.parquet"
        return _read(own if own.exists() else self.folder / "interactions.parquet", *columns)

    @cached_property
    def sequences(self) -> pa.Table:
        """user, start, end (rows of `interactions`), role; training users first."""
        return _read(self.split_folder / "sequences.parquet")

    @cached_property
    def item_of_row(self) -> NDArray[np.int32]:
        """(rows,) the item of each interaction."""
        return self._interactions("item")["item"].to_numpy()  # type: ignore[no-any-return]

    @cached_property
    def history_start(self) -> NDArray[np.int64]:
        """(n_users,) first row of each user's whole history in `interactions`."""
        import numpy as np

        users = self._interactions("user")["user"].to_numpy()
        return np.searchsorted(users, np.arange(self.n_users))

    @cached_property
    def train_count(self) -> NDArray[np.int64]:
        """(n_items + 1,) occurrences of each item in the train rows."""
        import numpy as np

        return np.concatenate([[0], self._split_items["train_count"].to_numpy()])

    @cached_property
    def in_pool(self) -> NDArray[np.bool_]:
        """(n_items + 1,) whether an item is a candidate; False for the pad."""
        import numpy as np

        pool = self._split_items["in_pool"].to_numpy(zero_copy_only=False)
        return np.concatenate([[False], pool])

    @cached_property
    def group(self) -> NDArray[np.str_]:
        """(n_items + 1,) warm, cold or new by train count; empty for the pad."""
        import numpy as np

        return np.array(["", *self._split_items["group"].to_pylist()])

    @cached_property
    def _split_items(self) -> pa.Table:
        return _read(self.split_folder / "items.parquet")

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages whose text the store holds."""
        names = self.items.column_names
        return tuple(name.removeprefix("text_") for name in names if name.startswith("text_"))

    @property
    def has_covers(self) -> bool:
        """Whether the covers stage was done: each item's cover is ok, missing or broken."""
        return "covers" in self.manifest

    @cached_property
    def covers(self) -> Covers:
        """Random access to the covers: `covers[item]` is the JPEG's bytes, or None.

        Raises MissingData where no covers were prepared.
        """
        from ninerec_data.shards import Covers

        self._refuse_without_covers()
        return Covers.of(self.folder / "covers", self.items, self._shards)

    def _refuse_without_covers(self) -> None:
        if not self.has_covers:
            msg = (
                f"{self.name} has no prepared covers; run: ninerec import {self.name} PATH (of its covers), "
                f"then: ninerec prepare {self.name}"
            )
            raise MissingData(msg)

    @cached_property
    def has_cover(self) -> NDArray[np.bool_]:
        """(n_items + 1,) whether an item has a cover of its own; False for the pad."""
        import numpy as np
        import pyarrow.compute as pc

        return np.concatenate([[False], pc.equal(self.items["cover"], "ok").to_numpy()])

    @cached_property
    def cover_size(self) -> int:
        """Pixels a side of the prepared covers."""
        manifest = read_manifest(self.covers.folder / "manifest.json")
        return int(manifest["parameters"]["recipe"]["size"])  # type: ignore[index]

    @property
    def covers_index(self) -> str:
        """sha256 of the covers' index: of every JPEG. Other pixels give another one. MissingData as `covers`."""
        self._refuse_without_covers()
        return str(self.manifest["covers"]["index"])

    def cover(self, item: int) -> bytes | None:
        """The JPEG of one item, None where it has no cover. Raises MissingData as `covers` does."""
        return self.covers[item]

    def text(self, language: str) -> list[str]:
        """The cut text of items 1..n_items in a language; empty where an item has none."""
        if language not in self.languages:
            has = ", ".join(self.languages) or "none"
            msg = f"{self.name} has no text in '{language}'; it has: {has}. Choose one with --language"
            raise UsageError(msg)
        return [value or "" for value in self.items[f"text_{language}"].to_pylist()]

    @cached_property
    def item_ids(self) -> list[str]:
        """The release's ids of items 1..n_items."""
        return list(self.items["item_id"].to_pylist())

    @cached_property
    def user_ids(self) -> list[str]:
        """The release's ids of users 0..n_users-1."""
        return list(self.users["user_id"].to_pylist())

    def items_of(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """(n,) the numbers of items by the release's ids; UsageError names the first unknown one."""
        return self._numbers("item", self.items["item_id"], item_ids, first=1)

    def users_of(self, user_ids: Iterable[str]) -> NDArray[np.int64]:
        """(n,) the numbers of users by the release's ids; UsageError names the first unknown one."""
        return self._numbers("user", self.users["user_id"], user_ids, first=0)

    def _numbers(
        self, what: str, known: Any, ids: Iterable[str], *, first: int
    ) -> NDArray[np.int64]:
        import pyarrow as pa
        import pyarrow.compute as pc

        asked = pa.array([str(one) for one in ids], pa.string())
        found = pc.index_in(asked, known.combine_chunks().cast(pa.string()))
        if found.null_count:
            odd = asked[pc.index(found.is_null(), True).as_py()].as_py()
            raise UsageError(f"{self.name} has no {what} '{odd}'; ds.{what}_ids holds those it has")
        numbers: NDArray[np.int64] = found.to_numpy().astype("int64") + first
        return numbers


def open_dataset(
    name: str,
    *,
    home: str | Path | Home | None = None,
    protocol_name: str = "ninerec-2023",
    **split: Any,
) -> Dataset:
    """Open a prepared dataset under a protocol; local only, never downloads or prepares.

    Every table's sha256 is compared with the manifest (covers are left to `ninerec verify`).
    split: fields of `Split`, as `prepare` got them (keep_last, warm, users, seed ...).

    Raises MissingData where the dataset or this split is not prepared, CheckFailed where the folder
    is of another schema version or changed since its manifest, UsageError for an unknown name.
    """
    from ninerec_data.catalog import find
    from ninerec_data.shadows import warn_of_loaders

    warn_of_loaders()
    place = find_home(home)
    if not (place.prepared(name) / "manifest.json").exists():
        entry, alias_split = find(name)
        name, split = entry.name, {**alias_split, **split}
    folder = place.prepared(name)
    manifest = tables_manifest(folder)
    chosen = get_protocol(protocol_name, **{**manifest["split_defaults"], **split})
    split_folder = folder / "splits" / chosen.split.hash
    split_manifest = read_manifest(split_folder / "manifest.json")
    other_covers = (
        split_manifest is not None
        and chosen.split.covers == "drop"
        and split_manifest["inputs"]["covers"] != manifest.get("covers", {}).get("index")
    )
    if split_manifest is None or other_covers:
        said = _said(protocol_name, split)
        msg = (
            f"{name} has no split {chosen.split.hash} ({said}); run: ninerec prepare {name} {said}"
        )
        raise MissingData(msg)
    refuse_changed(name, (folder, manifest), (split_folder, split_manifest))
    return Dataset(folder, chosen, manifest, split_manifest, _shards(name, folder, manifest))


def _shards(
    name: str, folder: Path, manifest: Mapping[str, Any]
) -> tuple[tuple[int, int, int], ...]:
    """The identity of each shard; refused where they are of another index than items.parquet, or another size."""
    from ninerec_data.shards import identity

    if "covers" not in manifest:
        return ()
    covers = read_manifest(folder / "covers" / "manifest.json")
    try:
        if covers is not None and covers_of_store(covers) == manifest["covers"]:
            facts = [
                (covers["outputs"][shard]["size"], shard) for shard in sorted(covers["outputs"])
            ]
            stats = [(folder / "covers" / shard).stat() for _, shard in facts]
            if [stat.st_size for stat in stats] == [size for size, _ in facts]:
                return tuple(identity(stat) for stat in stats)
    except FileNotFoundError:
        pass
    msg = f"the covers in {folder / 'covers'} are not those of the tables; run: ninerec prepare {name}"
    raise CheckFailed(msg)


def _said(protocol_name: str, split: Mapping[str, Any]) -> str:
    """The `prepare` options that make a split; fields without an option are named as such."""
    words = [f"--protocol {protocol_name}"]
    for key, value in split.items():
        if key == "keep_last":
            words.append(f"--max-length {value - 3}")
        elif key == "covers":
            words.append(f"--missing-covers {value}")
        elif key in ("min_interactions", "users", "seed", "warm"):
            words.append(f"--{key.replace('_', '-')} {value}")
        else:
            words.append(f"(with {key}={value!r} in the `split` of its catalog TOML)")
    return " ".join(words)


def _read(path: Path, *columns: str) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=list(columns) or None)
