"""Stage tables: a release as read becomes items, users and interactions with one numbering (DESIGN 3.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ninerec_data.errors import CheckFailed
from ninerec_data.release import FileReport, Release

__all__ = ["TABLES", "build_tables", "cut_text", "title_columns", "write_parquet"]

Ints = NDArray[np.int64]
TABLES = ("items.parquet", "users.parquet", "interactions.parquet")
ROW_GROUP = 1 << 20
# Releases lack rows for some items, samples for most; under this share the table is another one's.
MUST_JOIN = 0.01
ITEM_COLUMNS = (
    *("item", "title_from", "cover", "cover_reason"),
    *("shard", "offset", "size", "width", "height"),
)
USER_COLUMNS = ("user", "start", "end")
# Control, byte-order and zero-width characters: seen in the releases' titles, invisible to a reader.
_INVISIBLE = r"[\p{Cc}\p{Cf}]+"


def build_tables(
    release: Release,
    folder: Path,
    *,
    text: Mapping[str, Sequence[str]],
    max_words: int,
    dataset: str,
    page_titles: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Write the three tables into `folder` and return their counts and the account of every file.

    text: language -> item columns that form the text, joined by a blank. A release's column that has
    the name of one of ours becomes release_<name>, with a note. page_titles: item_id, title as items' pages
    give them, for those that have none; in the first language.
    Raises CheckFailed for an empty dataset and for ids that do not join the item table.
    """
    features, names, item_notes = _renamed(release.items, "items", ITEM_COLUMNS, ("text_",))
    of_users, _, user_notes = _renamed(release.users, "users", USER_COLUMNS)
    rows = release.interactions.collect(engine="streaming")
    account = _account(rows)
    if not account.kept:
        _refuse_no_rows(account, dataset)
    if account.dropped:
        rows = rows.filter(pl.col("issue").is_null())
    user, users = _numbered(rows["user_id"])
    item, seen = _numbered(rows["item_id"])
    items, item_counts = _number_items(features, seen, dataset)
    number = seen.join(items, on="item_id", how="left", maintain_order="left")["item"].to_numpy()
    lengths = np.bincount(user)
    # From here on no id is held once a row.
    time = rows["timestamp"].rechunk()
    rows = _ordered(pl.DataFrame({"user": user, "item": number[item], "timestamp": time}), lengths)
    if page_titles is not None:
        items = _with_page_titles(items, page_titles, next(iter(text), "zh"))
    parts = {lang: [names.get(part, part) for part in columns] for lang, columns in text.items()}
    write_parquet(_with_text(items, parts, max_words), folder / "items.parquet")
    write_parquet(_user_table(users, lengths, of_users), folder / "users.parquet")
    write_parquet(rows, folder / "interactions.parquet")
    counts = {
        "users": users.height,
        "interactions": rows.height,
        **item_counts,
        **_order_counts(rows),
    }
    files = [f.as_json() for f in (account, *release.files)]
    return {"counts": counts, "files": files, "notes": [*release.notes, *item_notes, *user_notes]}


def _renamed(
    table: pl.DataFrame | None, what: str, ours: tuple[str, ...], prefixes: tuple[str, ...] = ()
) -> tuple[pl.DataFrame | None, dict[str, str], list[str]]:
    """A release's table whose columns leave our names free, old name -> new name, and notes on it."""
    names: dict[str, str] = {}
    for name in table.columns if table is not None else ():
        if table is not None and (name in ours or name.startswith(prefixes)):
            new = f"release_{name}"
            while new in table.columns:
                new = f"release_{new}"
            names[name] = new
    notes = [f"{what}: the release's column {old} is {new}" for old, new in names.items()]
    return table if table is None else table.rename(names), names, notes


def _refuse_no_rows(account: FileReport, dataset: str) -> None:
    dropped = ", ".join(f"{n:,} {issue}" for issue, n in account.dropped.items()) or "none dropped"
    msg = (
        f"{dataset} has no interactions: {account.rows:,} rows read ({dropped}); get the release's "
        f"file again, then run: ninerec import {dataset} PATH"
    )
    raise CheckFailed(msg)


def _numbered(ids: pl.Series) -> tuple[NDArray[np.uint32], pl.DataFrame]:
    """Each id's number by first appearance, from 0, and the ids in that order."""
    code = _codes(ids)
    first = np.full(int(code.max()) + 1, len(ids), np.uint32)
    first[code[::-1]] = np.arange(len(ids), dtype=np.uint32)[::-1]  # the last to be written stays
    found = np.flatnonzero(first < len(ids))
    found = found[np.argsort(first[found])]
    number = np.empty(len(first), np.uint32)
    number[found] = np.arange(len(found), dtype=np.uint32)
    return number[code], ids.gather(first[found]).to_frame()


def _codes(ids: pl.Series) -> NDArray[np.uint32]:
    """Equal numbers for equal ids: their digits where all are like u12, which is fast, else any."""
    text, start = pl.col(ids.name), ids[0].rstrip("0123456789")
    digits = text.str.strip_prefix(start).cast(pl.UInt32, strict=False)
    # No sign and no leading zero, or two ids would be one number. ":" is the character after "9".
    plain = text.is_between(pl.lit(f"{start}1"), pl.lit(f"{start}:"), closed="left")
    plain = digits.is_not_null() & (plain | (text == f"{start}0"))
    read = ids.to_frame().lazy().select(digits, plain=plain.all()).collect(engine="streaming")
    code = read[ids.name].to_numpy()
    if read["plain"][0] and code.max() < 4 * len(ids):
        return code
    return ids.cast(pl.Categorical).to_physical().to_numpy()


def _ordered(rows: pl.DataFrame, lengths: Ints) -> pl.DataFrame:
    """user, item, timestamp, position: by user, then time (none first), then file order."""
    # Two stable sorts take a fraction of the time of one by two columns.
    rows = rows.sort("timestamp", maintain_order=True).sort("user", maintain_order=True)
    start = (np.cumsum(lengths) - lengths).astype(np.int32)
    position = np.arange(rows.height, dtype=np.int32) - np.repeat(start, lengths)
    return rows.with_columns(pl.col("user").cast(pl.Int32), pl.Series("position", position))


def title_columns(names: Iterable[str]) -> list[str]:
    """The columns of an item table that hold titles."""
    return [name for name in names if name.startswith("title_") and name != "title_from"]


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write deterministic Parquet: zstd, fixed row groups, delta-packed sorted integers."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    delta = {
        field.name: "DELTA_BINARY_PACKED"
        for field in table.schema
        if field.name in ("user", "timestamp", "start", "end", "position")
        and pa.types.is_integer(field.type)
    }
    dictionary = [field.name for field in table.schema if field.name not in delta]
    pq.write_table(
        table,
        path,
        compression="zstd",
        row_group_size=ROW_GROUP,
        use_dictionary=dictionary,
        column_encoding=delta or None,
        store_schema=False,
    )


def cut_text(column: pl.Expr, language: str, max_words: int) -> pl.Expr:
    """The first `max_words` words (characters for zh) of a cleaned title; null where nothing is left.

    Cleaning removes invisible characters and folds white space. NineRec 3.2 cuts at 30 "words";
    its code counts word pieces, which the tokenizer does after this cut.
    """
    seen = column.str.replace_all(r"\s+", " ").str.replace_all(_INVISIBLE, "")
    clean = seen.str.replace_all(" +", " ").str.strip_chars()  # "a \u200b b" left two blanks
    if language == "zh":
        cut = clean.str.slice(0, max_words)
    else:
        cut = clean.str.split(" ").list.head(max_words).list.join(" ")
    cut = cut.str.strip_chars()
    return pl.when(cut != "").then(cut)


def _account(rows: pl.DataFrame) -> FileReport:
    """Rows in = rows kept + rows reported, for the interactions."""
    dropped = dict(rows["issue"].drop_nulls().value_counts().iter_rows())
    kept = rows.height - sum(dropped.values())
    return FileReport(role="interactions", rows=rows.height, kept=kept, dropped=dropped)


def _number_items(
    table: pl.DataFrame | None, seen: pl.DataFrame, dataset: str
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Items 1..M: item-table order (first place, last row of a repeated id), then by first appearance."""
    if table is None:
        table = pl.DataFrame(schema={"item_id": pl.String})
    listed = table.select(pl.col("item_id").unique(maintain_order=True))
    last_rows = table.unique("item_id", keep="last", maintain_order=True)
    unlisted = seen.join(listed, on="item_id", how="anti", maintain_order="left")
    if listed.height and unlisted.height > (1 - MUST_JOIN) * seen.height:
        examples = ", ".join(unlisted["item_id"].head(3))
        msg = (
            f"the ids of {dataset} do not join: {unlisted.height:,} of {seen.height:,} items with "
            f"interactions (such as {examples}) are not in the item table, whose ids look like "
            f"{', '.join(listed['item_id'].head(3))}; import the item table that belongs to these interactions"
        )
        raise CheckFailed(msg)
    items = (
        pl.concat([listed, unlisted])
        .with_row_index("item", offset=1)
        .with_columns(pl.col("item").cast(pl.Int32))
        .join(last_rows, on="item_id", how="left", maintain_order="left")
    )
    return items, {
        "items": seen.height,
        "item_table": listed.height,
        "item_ids_repeated": table.height - listed.height,
        "items_without_row": unlisted.height,
        "items_never_used": listed.join(seen, on="item_id", how="anti").height,
    }


def _with_page_titles(items: pl.DataFrame, titles: pl.DataFrame, language: str) -> pl.DataFrame:
    """Fill what has no title in any language; those filled are marked by the column title_from."""
    column = f"title_{language}"
    names = title_columns(items.columns)
    untitled = pl.all_horizontal(pl.col(names).is_null()) if names else pl.lit(value=True)
    items = items.join(titles, on="item_id", how="left", maintain_order="left")
    return items.with_columns(
        pl.when(untitled)
        .then("title")
        .otherwise(column if column in names else pl.lit(None, pl.String))
        .alias(column),
        pl.when(untitled & pl.col("title").is_not_null()).then(pl.lit("page")).alias("title_from"),
    ).drop("title")


def _with_text(
    items: pl.DataFrame, text: Mapping[str, Sequence[str]], max_words: int
) -> pl.DataFrame:
    """Add text_<lang>, where titles come from, and the cover columns, which the covers stage settles."""
    columns = []
    for language, parts in text.items():
        have = [part for part in parts if part in items.columns]
        joined = (
            pl.concat_str(have, separator=" ", ignore_nulls=True)
            if have
            else pl.lit(None, pl.String)
        )
        columns.append(cut_text(joined, language, max_words).alias(f"text_{language}"))
    names = title_columns(items.columns)
    titled = [pl.col(name).is_not_null() for name in names]
    source = (
        pl.when(pl.any_horizontal(titled)).then(pl.lit("release"))
        if titled
        else pl.lit(None, pl.String)
    )
    if "title_from" in items.columns:
        source = pl.coalesce("title_from", source)
    leading = ["item", "item_id", *names]
    others = [name for name in items.columns if name not in (*leading, "title_from")]
    return items.with_columns(
        *columns,
        source.alias("title_from"),
        pl.lit("unsettled").alias("cover"),
        pl.lit(None, pl.String).alias("cover_reason"),
        *(pl.lit(None, pl.Int32).alias(name) for name in ("shard", "width", "height")),
        *(pl.lit(None, pl.Int64).alias(name) for name in ("offset", "size")),
    ).select(
        *leading,
        *(f"text_{language}" for language in text),
        *ITEM_COLUMNS[1:],
        *others,
    )


def _user_table(users: pl.DataFrame, lengths: Ints, features: pl.DataFrame | None) -> pl.DataFrame:
    """user, user_id, start, end: row pointers into the interactions, then the release's own columns."""
    end = np.cumsum(lengths)
    number = pl.Series("user", np.arange(len(end), dtype=np.int32))
    table = users.select(number, "user_id", start=end - lengths, end=end)
    if features is not None:
        features = features.unique("user_id", keep="last", maintain_order=True)
        table = table.join(features, on="user_id", how="left", maintain_order="left")
    return table


def _order_counts(interactions: pl.DataFrame) -> dict[str, int]:
    """What the order within users rests on: times, or the file where times are equal or absent."""
    same_user = pl.col("user") == pl.col("user").shift()
    equal = same_user & (pl.col("timestamp") == pl.col("timestamp").shift())
    pair = pl.col("user").cast(pl.Int64) * 2**32 + pl.col("item")
    counted = interactions.select(
        equal.sum().alias("equal_timestamps"),
        pl.col("timestamp").null_count().alias("without_timestamp"),
        (pl.len() - pair.n_unique()).alias("repeated_user_item_pairs"),
    )
    return counted.row(0, named=True)
