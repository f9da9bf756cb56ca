"""Checks of prepared covers: shards against the index, the index against items.parquet, JPEGs by decoding."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import simplejpeg

from ninerec_data import draws
from ninerec_data.cover_shards import COVER_COLUMNS, cover_counts
from ninerec_data.engine import in_order
from ninerec_data.manifest import INDEX, covers_of_store
from ninerec_data.shards import SHARD_ITEMS, Covers, key_of, shard_name

__all__ = ["SAMPLE", "check_covers"]

SAMPLE = 200  # covers decoded where not all are asked for
Verdict = tuple[str, str, bool, str]  # level, name, ok, found


def check_covers(
    folder: Path, tables: dict[str, Any], covers: dict[str, Any], decode: int | None
) -> Iterator[Verdict]:
    """Yield the verdicts on covers whose bytes are those of their manifest.

    decode: how many covers to decode, drawn without order; None decodes all.
    """
    settled = tables.get("covers") == covers_of_store(covers)
    found = "settled" if settled else "the tables are newer: run prepare"
    yield "structure", "covers are those of the tables", settled, found
    if not settled:
        return
    index = pl.read_parquet(folder / "covers" / INDEX, glob=False)
    items = pl.read_parquet(folder / "items.parquet", glob=False)
    same = all(items[name].equals(index[name]) for name in COVER_COLUMNS)
    yield "structure", "items.parquet repeats the covers' index", same, f"{index.height:,} items"
    counts = cover_counts(index.iter_rows(named=True))
    same = all(covers["counts"][key] == value for key, value in counts.items())
    yield "values", "cover counts are the manifest's", same, f"{counts['ok']:,} ok"
    ids = items["item_id"].to_list()
    tasks = [
        (folder / "covers" / shard_name(shard), index.slice(shard * SHARD_ITEMS, SHARD_ITEMS), ids)
        for shard in range(len(covers["inputs"]))
    ]
    bad = [
        path.name
        for (path, *_), good in zip(tasks, in_order(_fits, None, tasks), strict=True)
        if not good
    ]
    found = f"not: {', '.join(bad)}" if bad else f"{len(tasks)} shards"
    yield "structure", "the index points at every JPEG of its shard", not bad, found
    if not bad:
        yield _decoded(folder, index, covers["parameters"]["recipe"]["size"], decode)


def _fits(_: None, task: tuple[Path, pl.DataFrame, list[str]]) -> bool:
    """Whether a tar holds just the members that its rows of the index say, at their places."""
    path, rows, ids = task
    wanted = [
        (f"{key_of(ids[item - 1])}.jpg", offset, size)
        for item, offset, size in rows.select("item", "offset", "size").iter_rows()
        if size
    ]
    try:
        with tarfile.open(path) as tar:
            members = list(tar)
    except tarfile.TarError:
        return False
    found = [(m.name, m.offset_data, m.size) for m in members[::3]]
    keys = [name.removesuffix(".jpg") for name, *_ in wanted]
    names = [name for key in keys for name in (f"{key}.jpg", f"{key}.txt", f"{key}.json")]
    return found == wanted and [m.name for m in members] == names


def _decoded(folder: Path, index: pl.DataFrame, size: int, decode: int | None) -> Verdict:
    covers = Covers.of(folder / "covers", index)
    items = np.flatnonzero(covers.size)
    if decode is not None and decode < len(items):
        items = np.sort(items[draws.permutation(len(items), 0)[:decode]])
    parts = np.array_split(items, -(-len(items) // 100) or 1)
    shared = (covers, size)
    bad = [item for some in in_order(_undecodable, shared, parts) for item in some]
    found = f"not: items {', '.join(map(str, bad[:5]))}" if bad else f"{len(items):,} decoded"
    return "values", f"covers are JPEGs of {size}x{size}", not bad, found


def _undecodable(shared: tuple[Covers, int], items: Any) -> list[int]:
    covers, size = shared
    bad = []
    for item in items:
        try:
            pixels = simplejpeg.decode_jpeg(covers[item], strict=True)
        except ValueError:
            pixels = None
        if pixels is None or pixels.shape != (size, size, 3):
            bad.append(int(item))
    return bad
