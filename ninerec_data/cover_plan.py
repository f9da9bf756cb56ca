"""What a covers stage would be made from: the source listed, its names joined, the inputs of every shard.

A shard follows from its `inputs`: the recipe and the codecs, its items' ids, titles and texts, and the digests
of the files that claim to be their covers. Nothing is decoded here, and no file read whose digest is known.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.cover_names import join, join_by_id
from ninerec_data.cover_sources import open_source
from ninerec_data.covers import Claim, Stocked
from ninerec_data.files import hash_of
from ninerec_data.home import Home
from ninerec_data.pictures import Recipe, codec_versions
from ninerec_data.provenance import DownloadedCovers
from ninerec_data.raw import known_digests
from ninerec_data.shards import SHARD_ITEMS
from ninerec_data.tables import title_columns

__all__ = ["CoverPlan", "cover_parameters", "plan_covers", "shard_inputs"]

Row = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverPlan:
    """What a covers stage would be made from. inputs: of each shard; None where a file was never read."""

    path: Path
    patterns: tuple[str, ...]
    stamp: int  # of all the files it lists
    recipe: Recipe
    missing: str
    claims: list[Claim]
    facts: list[tuple[dict[str, Any], str]]
    inputs: list[str | None]
    strangers: list[str]
    stock: Mapping[str, Stocked]  # of pictures that were made as they arrived

    @property
    def parameters(self) -> dict[str, Any]:
        return cover_parameters(self.recipe, self.missing)

    @property
    def work(self) -> str:
        """Names the folder in which finished shards wait."""
        return hash_of([self.recipe.as_json(), codec_versions()])


def plan_covers(
    home: Home,
    items: pl.DataFrame,
    path: Path,
    patterns: tuple[str, ...],
    *,
    dataset: str,
    recipe: Recipe,
    missing: str,
) -> CoverPlan:
    """List the source, join its names with the items, and say what each shard would be made from.

    Raises CheckFailed for names that do not join, MissingData for a source that cannot be read.
    """
    source = open_source(path, patterns)
    try:
        found, ids = source.found(), items["item_id"].to_list()
        known = known_digests(home, path)
        stock: Mapping[str, Stocked] = {}
        if isinstance(source, DownloadedCovers):
            joined = join_by_id(found, ids)
            known |= source.digests(found)
            stock = source.stock(recipe)
        else:
            joined = join(found, ids, dataset)
    finally:
        source.close()
    if joined.strangers:
        n, some = len(joined.strangers), ", ".join(joined.strangers[:3])
        log.info("%s: %s files of covers are of no item here, such as %s", dataset, f"{n:,}", some)
    claims = [
        Claim(item, files, tuple(known.get((f.name, f.size, f.stamp)) for f in files))
        for item, files in enumerate(joined.by_item, start=1)
    ]
    facts = list(_facts(items))
    parameters = cover_parameters(recipe, missing)
    inputs = [
        shard_inputs(parameters, claims[at : at + SHARD_ITEMS], facts[at : at + SHARD_ITEMS])
        for at in range(0, len(claims), SHARD_ITEMS)
    ]
    return CoverPlan(
        path=path,
        patterns=patterns,
        stamp=hash((path.stat().st_ino, *found)),
        recipe=recipe,
        missing=missing,
        claims=claims,
        facts=facts,
        inputs=inputs,
        strangers=joined.strangers,
        stock=stock,
    )


def cover_parameters(recipe: Recipe, missing: str) -> dict[str, Any]:
    """What a shard follows from beside its items. Other codecs give other pixels, and read other kinds."""
    return {"recipe": recipe.as_json(), "missing": missing, "codecs": codec_versions()}


def _facts(items: pl.DataFrame) -> Iterator[tuple[dict[str, Any], str]]:
    """For each item the JSON of its sample, and its text: of the first language that has one."""
    titles = title_columns(items.columns)
    texts = [name for name in items.columns if name.startswith("text_")]
    text = pl.coalesce(*texts, pl.lit("")) if texts else pl.lit("")
    rows = items.select("item", "item_id", *titles, text.alias("text"))
    for row in rows.iter_rows(named=True):
        yield row, row.pop("text")


def shard_inputs(parameters: Row, claims: list[Claim], facts: list[tuple[Row, str]]) -> str | None:
    """What a shard follows from, as one sha256; None where a file's digest is not known."""
    if any(digest is None for claim in claims for digest in claim.digests):
        return None
    files = [
        [(f.name, d) for f, d in zip(c.files, c.digests, strict=True)] for c in claims if c.files
    ]
    text = json.dumps([parameters, facts, files], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
