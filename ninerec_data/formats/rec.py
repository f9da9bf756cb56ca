"""The REC family (NineRec's BERT4Rec-image, GRU4Rec-text, DSSM-variant; MicroLens, PixelRec code): `.inter` files.

X.inter or X.csv   header item_id,user_id,timestamp in any order, comma or TAB; RecBole's `name:type` is understood.
                   The timestamp is often no time but the position in the user's sequence (PAPERS_AND_CODE 1.5).
text.csv           optional: with a header that begins with item_id, or without one: the id, then columns of text
cover              optional: <item_id>.jpg; also cover.zip, cover.tar, X.lmdb

Options: stem (default any); title_column: which column of a headerless text.csv is the title, counted
from 0 (default 1; the authors' Bili files have it in 3); language of that title (default "en").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_headed_table, read_table
from ninerec_data.formats.lines import refuse_line
from ninerec_data.formats.pairs import WANTED, header_of, pairs_from_header, scan_pairs
from ninerec_data.release import FileReport, Release, Role

__all__ = ["read", "roles"]

# No sequence is this long and no log this old (12 January 1970): smaller numbers are positions.
POSITIONS_BELOW = 1_000_000


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """Interactions; titles and covers where there are any."""
    stem = options.get("stem", "*")
    return (
        Role(
            name="interactions",
            patterns=(f"{stem}.inter", f"{stem}.csv"),
            about="item_id,user_id,timestamp",
        ),
        Role(
            name="items",
            patterns=("text.csv", f"{stem}.item"),
            required=False,
            about="item_id and its texts",
        ),
        covers_role("cover", "covers", lmdb=(stem,), about="<item_id>.jpg"),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset."""
    items: pl.DataFrame | None = None
    reports: tuple[FileReport, ...] = ()
    if "items" in files:
        items, report = _items(files["items"], options)
        reports = (report,)
    path = files["interactions"]
    interactions, notes = scan_pairs(path, pairs_from_header(path, {name: name for name in WANTED}))
    interactions, said = _without_positions(interactions)
    return Release(interactions=interactions, items=items, files=reports, notes=(*notes, *said))


def _items(path: Path, options: Mapping[str, Any]) -> tuple[pl.DataFrame, FileReport]:
    title = f"title_{options.get('language', 'en')}"
    header, separator = header_of(path)
    if header and header[0].lower().split(":")[0] == "item_id":
        rename = {name.lower(): name.split(":")[0] for name in header}
        rename.update(
            {name.lower(): title for name in header if name.lower().split(":")[0] == "title"}
        )
        return read_headed_table(
            path, Table(columns=("item_id",), separator=separator), rename=rename
        )
    position = int(options.get("title_column", 1))
    if not 0 < position < len(header):
        refuse_line(
            path, 1, f"title_column is {position}, but there are {len(header)} columns from 0"
        )
    names = [title if k == position else f"column_{k}" for k in range(1, len(header))]
    return read_table(path, Table(columns=("item_id", *names), separator=separator))


def _without_positions(rows: pl.LazyFrame) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Positions under the name timestamp give the order and become null; times stay as they are."""
    time = pl.col("timestamp")
    least, most = rows.select(time.min().alias("a"), time.max()).collect(engine="streaming").row(0)
    if least is None or least < 0 or most >= POSITIONS_BELOW:
        return rows, ()
    note = "timestamp holds positions in the sequence, no times: order kept, times null"
    falls = (time.diff() < 0).any().over("user_id").any()
    if rows.select(falls).collect().item():
        first = pl.col("row").min().over("user_id")
        rows = (
            rows.with_row_index("row")
            .with_columns(first=first)
            .sort("first", "timestamp", "row")
            .drop("row", "first")
        )
        note += "; rows sorted by them"
    return rows.with_columns(pl.lit(None, pl.Int64).alias("timestamp")), (note,)
