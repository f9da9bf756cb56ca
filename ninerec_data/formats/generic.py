"""A user's own data: three files with header lines, each as CSV, TSV or Parquet.

interactions   user_id, item_id and, where known, timestamp (seconds, milliseconds, ISO); other columns are noted
items          item_id, title_en, title_zh, ... or title (taken as title_en, or as the option `language` says)
users          user_id and features; optional
covers         a folder (or covers.zip, covers.tar, covers.lmdb) of <item_id>.jpg; optional

CSV and TSV are read with CSV quoting. Options: language (default "en").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.errors import CheckFailed
from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_headed_table
from ninerec_data.formats.lines import refuse_not_data, trimmed
from ninerec_data.formats.pairs import (
    WANTED,
    finish,
    header_of,
    left_out,
    pairs_from_header,
    scan_pairs,
)
from ninerec_data.release import FileReport, Release, Role

__all__ = ["read", "roles"]

NAMES = {name: name for name in WANTED}


def _names(stem: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{suffix}" for suffix in ("csv", "tsv", "parquet"))


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:  # noqa: ARG001 - the contract's signature
    """interactions.*, items.*, users.* and covers."""
    return (
        Role(
            name="interactions",
            patterns=_names("interactions"),
            about="user_id,item_id[,timestamp]",
        ),
        Role(name="items", patterns=_names("items"), about="item_id,title_en,..."),
        Role(name="users", patterns=_names("users"), required=False, about="user_id,..."),
        Role(name="urls", patterns=("urls.csv",), required=False, about="item_id,url"),
        covers_role("covers", about="<item_id>.jpg"),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read the three files."""
    title = {"title": f"title_{options.get('language', 'en')}"}
    items, report = _read_table(files["items"], "items", "item_id", title)
    reports = [report]
    users = None
    if "users" in files:
        users, report = _read_table(files["users"], "users", "user_id", {})
        reports.append(report)
    interactions, notes = _interactions(files["interactions"])
    return Release(
        interactions=interactions, items=items, users=users, files=tuple(reports), notes=notes
    )


def _interactions(path: Path) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    if path.suffix.lower() != ".parquet":
        return scan_pairs(path, pairs_from_header(path, NAMES, time=False))
    schema = _parquet_schema(path)
    timed = "timestamp" in schema
    frame = pl.scan_parquet(path, glob=False).with_row_index("n", offset=1)
    columns = {name: _id_text(path, schema, name) for name in WANTED[:2]}
    if timed:
        columns["timestamp"] = _time_text(path, schema["timestamp"])
    rows = frame.select(pl.col("n"), pl.lit(False).alias("blank"), **columns)
    interactions, notes = finish(path, rows, timed=timed)
    return interactions, (*notes, *left_out(list(schema)))


def _parquet_schema(path: Path) -> Mapping[str, pl.DataType]:
    refuse_not_data(path)
    try:
        return pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckFailed(
            f"{path} is not Parquet that can be read ({error}); write it again"
        ) from error


def _id_text(path: Path, schema: Mapping[str, pl.DataType], name: str) -> pl.Expr:
    """An id column as trimmed String, null as ""; refuses what no id can be."""
    if name not in schema:
        raise CheckFailed(f"{path} has no column {name}; it has {', '.join(schema)}")
    kind = schema[name]
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical) or isinstance(kind, pl.Enum)):
        raise CheckFailed(f"{path}: {name} is {kind}; store ids as strings or integers")
    return trimmed(pl.col(name).cast(pl.String)).fill_null("")


def _time_text(path: Path, kind: pl.DataType) -> pl.Expr:
    """A Parquet time column as the text of its seconds (or as it is, for text and numbers)."""
    column = pl.col("timestamp")
    if isinstance(kind, pl.Datetime | pl.Date):
        column = column.cast(pl.Datetime("us")).dt.timestamp("us").floordiv(10**6)
    elif not (kind.is_numeric() or kind == pl.String):
        raise CheckFailed(f"{path}: timestamp is {kind}; store seconds (integers) or a datetime")
    return trimmed(column.cast(pl.String)).fill_null("")


def _read_table(
    path: Path, role: str, key: str, rename: Mapping[str, str]
) -> tuple[pl.DataFrame, FileReport]:
    if path.suffix.lower() != ".parquet":
        _, separator = header_of(path)
        table = Table(columns=(key,), key=key, role=role, separator=separator)
        return read_headed_table(path, table, rename={key: key, **rename})
    identity = _id_text(path, _parquet_schema(path), key)
    frame = _read_parquet(path).with_columns(
        identity.alias(key), _changed=pl.col(key).cast(pl.String) != identity
    )
    frame = frame.rename(
        {
            old: new
            for old, new in rename.items()
            if old in frame.columns and new not in frame.columns
        }
    )
    kept = frame.filter(pl.col(key) != "")
    trimmed_ids = int(kept["_changed"].fill_null(False).sum())
    report = FileReport(
        role=role,
        rows=frame.height,
        kept=kept.height,
        dropped={f"empty {key.replace('_', ' ')}": n} if (n := frame.height - kept.height) else {},
        repaired={"id trimmed": trimmed_ids} if trimmed_ids else {},
    )
    texts = pl.col(pl.String).exclude(key)
    kept = kept.with_columns(pl.when(texts != "").then(texts).name.keep())
    return kept.select(key, pl.exclude(key, "_changed")), report


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CheckFailed(f"{path} is damaged ({error}); write it again") from error
