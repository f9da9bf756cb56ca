"""H&M: the three tables of the Kaggle competition and its images.

articles.csv             article_id (10 digits), prod_name, detail_desc and 22 more columns
transactions_train.csv   t_dat, customer_id, article_id, price, sales_channel_id; days, no times
customers.csv            customer_id and features; optional
images/010/0108775015.jpg

Copies of the tables that went through a spreadsheet have lost the id's leading zero and gained an unnamed first column.
Options: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_headed_table
from ninerec_data.formats.lines import first_where, refuse_line, scan_text
from ninerec_data.formats.pairs import pairs_from_header, scan_pairs
from ninerec_data.release import Release, Role

__all__ = ["article_id", "read", "roles"]

NAMES = {"customer_id": "user_id", "article_id": "item_id", "t_dat": "timestamp"}
DIGITS = 10
PADDED = "article_id padded to 10 digits"


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:  # noqa: ARG001 - the contract's signature
    """The tables and the images."""
    return (
        Role(
            name="interactions",
            patterns=("transactions_train.csv",),
            about="t_dat,customer_id,article_id,...",
        ),
        Role(name="items", patterns=("articles.csv",), about="article_id,prod_name,..."),
        Role(name="users", patterns=("customers.csv",), required=False, about="customer_id,..."),
        covers_role("images", about="010/0108775015.jpg"),
    )


def article_id(text: str) -> str | None:
    """The id with the zeros a spreadsheet took, or None for what is no number of at most 10 digits."""
    return (
        text.zfill(DIGITS) if text.isascii() and text.isdecimal() and len(text) <= DIGITS else None
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:  # noqa: ARG001
    """Read the tables. title_en is prod_name, which stays too.

    Repeated transactions stay: the published counts include them.
    """
    table = Table(columns=("item_id", "prod_name"), mend_id=(PADDED, article_id))
    items, report = read_headed_table(files["items"], table, rename={"article_id": "item_id"})
    titled = pl.col("prod_name").alias("title_en")
    items = items.select("item_id", titled, pl.exclude("item_id"))
    reports, users = [report], None
    if "users" in files:
        people = Table(columns=("user_id",), key="user_id", role="users")
        users, report = read_headed_table(files["users"], people, rename={"customer_id": "user_id"})
        reports.append(report)
    interactions, notes = _transactions(files["interactions"])
    return Release(
        interactions=interactions, items=items, users=users, files=tuple(reports), notes=notes
    )


def _transactions(path: Path) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    layout = pairs_from_header(path, NAMES)
    raw, notes = scan_pairs(path, layout)
    item = pl.col("item_id")
    asked = raw.with_row_index("n", offset=layout.skip + 1).select(
        first_where(~item.str.contains(r"^[0-9]{1,10}$"), "wrong"),
        (item.str.len_bytes() < DIGITS).sum().alias("padded"),
    )
    wrong, padded = asked.collect(engine="streaming").row(0)
    if wrong is not None:
        refuse_line(path, wrong, "the article_id is no number of at most 10 digits")
    lines = scan_text(path).filter(pl.col("n") > layout.skip, pl.col("line") != "")
    total, distinct = (
        lines.select(pl.len().alias("total"), pl.col("line").hash().n_unique().alias("distinct"))
        .collect(engine="streaming")
        .row(0)
    )
    said = [
        *([f"{padded:,} rows: {PADDED}"] if padded else []),
        f"{total - distinct:,} rows repeat an earlier row and are kept",
    ]
    return raw.with_columns(item.str.zfill(DIGITS)), (*notes, *said)
