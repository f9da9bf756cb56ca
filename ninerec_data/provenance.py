"""Where each cover came from, or why there is none: one row per item, as Parquet beside the release's files.

It is written from the journal when a download ends. It is also what `prepare` reads downloaded covers through: a
source of covers (cover_sources.py) whose files are the blobs that the rows name, and those of the release itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ninerec_data.blobs import Blobs
from ninerec_data.catalog import Entry
from ninerec_data.cover_sources import BadCover, Found, Source, open_source
from ninerec_data.covers import Stocked
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.files import atomic_write, hash_of, lock, sweep
from ninerec_data.home import Home
from ninerec_data.item_journal import ItemJournal, has_items, item_journal
from ninerec_data.item_rows import FROM_RELEASE, ROW
from ninerec_data.outcomes import HELD
from ninerec_data.pictures import Pixels, Recipe, codec_versions
from ninerec_data.raw import held_files, hold, rename_role
from ninerec_data.terms import hash_of_terms

__all__ = [
    "PAGE_TITLES",
    "RELEASE_COVERS",
    "DownloadedCovers",
    "codecs_hash",
    "finish_downloads",
    "hold_downloaded",
    "imported_anew",
    "is_provenance",
    "release_covers",
]

NAME = "covers.provenance.parquet"
TITLES = "page_titles.parquet"
PAGE_TITLES = "page_titles"  # the role of titles that only pages have
RELEASE_COVERS = (
    "release_covers"  # the role that the release's own covers have beside downloaded ones
)
PAGE_TITLE = pa.schema([("item_id", pa.string()), ("title", pa.string())])
ROWS = 2_000  # written at once
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("item_id", "outcome", "reason", "detail", "source")),
        *((name, pa.string()) for name in ("raw_url", "final_url", "etag", "modified", "variant")),
        *(
            (name, pa.string())
            for name in ("sha256", "kind", "resized", "recipe", "codecs", "title")
        ),
        *((name, pa.int32()) for name in ("status", "hops", "width", "height", "attempts")),
        *((name, pa.int64()) for name in ("size", "resized_size")),
        *((name, pa.bool_()) for name in ("kept", "confirmed")),
        *((name, pa.timestamp("ms", "UTC")) for name in ("first_seen", "last_seen")),
    ]
)


def hold_downloaded(home: Home, entry: Entry, items: ItemJournal) -> Path:
    """Write the provenance of a dataset and hold it as its covers; the release's own stay held beside them."""
    own = release_covers(home, entry)
    anew = imported_anew(home, entry)
    if anew:
        rename_role(home, entry.name, "covers", RELEASE_COVERS)
    path = home.raw / "files" / entry.release / entry.name / NAME
    facts = {"dataset": entry.name, **({"beside": str(own)} if own and own.exists() else {})}
    _write(path, SCHEMA.with_metadata(facts), list(ROW), items.rows(entry.name))
    found = {"covers": path}
    if titles := items.page_titles(entry.name):
        found[PAGE_TITLES] = path.with_name(TITLES)
        _write(found[PAGE_TITLES], PAGE_TITLE, PAGE_TITLE.names, iter(titles))
    terms = hash_of_terms(entry.terms)
    origins = dict.fromkeys(found, "downloaded")
    hold(home, entry.name, entry.release, found, origins, terms, anew=anew)
    return path


def _write(
    path: Path, schema: pa.Schema, names: list[str], rows: Iterator[tuple[Any, ...]]
) -> None:
    """Write rows whose columns have these names, some at a time: as Python objects they are large."""
    sweep(path.parent, path.name)
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        while some := list(islice(rows, ROWS)):
            columns = dict(zip(names, zip(*some, strict=True), strict=True))
            made = [_array(columns[field.name], field.type) for field in schema]
            writer.write_batch(pa.record_batch(made, schema=schema))
    atomic_write(path, buffer.getvalue().to_pybytes())


def _array(values: tuple[Any, ...], kind: pa.DataType) -> pa.Array:
    if pa.types.is_boolean(kind):  # SQLite's are integers
        return pa.array(values, pa.int8()).cast(kind)
    return pa.array(values, kind)


def release_covers(home: Home, entry: Entry) -> Path | None:
    """Where the release's own covers are, if they are held."""
    held = held_files(home, entry.name)
    if "covers" in held and not is_provenance(held["covers"].path):
        return held["covers"].path
    return held[RELEASE_COVERS].path if RELEASE_COVERS in held else None


def imported_anew(home: Home, entry: Entry) -> bool:
    """Whether covers of the release were imported since the last download, or before the first."""
    held = held_files(home, entry.name).get("covers")
    return held is not None and not is_provenance(held.path)


def finish_downloads(home: Home, entry: Entry) -> None:
    """Where a download of the dataset was killed, write the provenance of what it left."""
    if not has_items(home):
        return
    with item_journal(home) as items:
        if items.download(entry.name).get("open"):
            # One at work writes it at its end; until then what was held before is good.
            with suppress(UsageError), lock(home.raw / ".download.lock"):
                hold_downloaded(home, entry, items)


def is_provenance(path: Path) -> bool:
    return path.name == NAME


def codecs_hash() -> str:
    """The decoders that a blob was resized with."""
    return hash_of(codec_versions())


class DownloadedCovers:
    """A source of covers: the blobs that a provenance names, and the files of the release's own source."""

    def __init__(self, path: Path, patterns: tuple[str, ...] = ()) -> None:
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            msg = f"{path} is damaged ({error}); write it anew: ninerec download DATASET --parts covers"
            raise CheckFailed(msg) from error
        self.path = path
        folders = path.absolute().parents  # home/raw/files/release/dataset
        if len(folders) < 5 or folders[3].name != "raw":
            raise CheckFailed(
                f"{path} lies in no home, where the covers are that it names; give those"
            )
        self._blobs = Blobs(Home(folders[4]))
        beside = (table.schema.metadata or {}).get(b"beside")
        self._beside: Source | None = (
            open_source(Path(beside.decode()), patterns) if beside else None
        )
        held = table.filter(pa.compute.is_in(table["outcome"], pa.array([str(o) for o in HELD])))
        self._rows = {row["item_id"]: row for row in held.select(_READ).to_pylist()}

    def found(self) -> list[Found]:
        """A file is named after its item; its stamp follows from its content."""
        own = {file.name: file for file in self._beside.found()} if self._beside else {}
        out = []
        for item_id, row in self._rows.items():
            if row["sha256"]:
                out.append(Found(item_id, row["size"], int(row["sha256"][:15], 16)))
            elif file := own.get(row["source"].removeprefix(FROM_RELEASE)):
                out.append(Found(item_id, file.size, file.stamp))
        return sorted(out, key=lambda file: file.name)

    def read(self, name: str) -> bytes | Pixels:
        row = self._rows[name]
        if self._beside and not row["sha256"]:
            return self._beside.read(row["source"].removeprefix(FROM_RELEASE))
        try:
            data = self._blobs.read(row["sha256"] if row["kept"] else row["resized"])
        except CheckFailed as error:
            raise BadCover("damaged") from error
        if not row["kept"]:
            msg = (
                f"the cover of item {name!r} was kept resized only, by another recipe; prepare it with "
                "the options of the download, or fetch it anew: ninerec download DATASET --parts covers --keep original"
            )
            raise CheckFailed(msg)
        return data

    def digests(self, found: Iterable[Found]) -> dict[tuple[str, int, int], str]:
        """(name, size, stamp) -> sha256 of the bytes of what was fetched: nothing has to be read for it."""
        return {
            (file.name, file.size, file.stamp): sha256
            for file in found
            if (sha256 := self._rows[file.name]["sha256"])
        }

    def stock(self, recipe: Recipe) -> Mapping[str, Stocked]:
        """sha256 of fetched bytes -> the picture made of them as they arrived, where it was by this recipe.

        By other versions of the codecs only where the original was not kept.
        """
        wanted, codecs = recipe.hash, codecs_hash()
        return {
            row["sha256"]: Stocked(
                self._blobs.path(row["resized"]),
                0,
                row["resized_size"],
                row["width"],
                row["height"],
                None,
                row["resized"],
            )
            for row in self._rows.values()
            if row["resized"]
            and row["recipe"] == wanted
            and (row["codecs"] == codecs or not row["kept"])
        }

    def close(self) -> None:
        if self._beside:
            self._beside.close()


# Columns that a source needs.
_READ = ["item_id", "source", "sha256", "size", "width", "height", "kept"]
_READ += ["resized", "resized_size", "recipe", "codecs"]
