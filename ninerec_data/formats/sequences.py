"""Sequence files: one user and their items a line, `user TAB i1 i2 ...`, lazily, every line accounted for."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ninerec_data.formats.lines import (
    first_where,
    look,
    mended_note,
    refuse_line,
    scan_text,
    trimmed,
)

__all__ = ["scan_sequences"]


def scan_sequences(path: Path) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Read `user TAB i1 i2 ...` lines lazily into the interactions of a Release, and notes on the file.

    One row per item, in file order, repeats kept, timestamps null. Rows with an issue: "blank line",
    "empty user id", "no items", "empty item id", and "user repeated: earlier line replaced" (a later
    line of the same user that has items replaces the earlier one, PAPERS_AND_CODE 2.1 step 3).
    Raises CheckFailed with the line for a line without a TAB, with two, or with a lone carriage return.
    """
    seen = look(path)
    parts = pl.col("line").str.splitn("\t", 2).struct
    user, rest = parts.field("field_0"), parts.field("field_1")
    lines = scan_text(path).select(
        "n",
        raw_user=user,
        user_id=trimmed(user),
        tab=rest.is_not_null(),
        trailing=rest.str.ends_with(" "),
        # Only what separates: an item of invisible characters alone is reported, not trimmed away.
        rest=rest.fill_null("").str.strip_chars(" \t\r"),
    )
    has_items = (pl.col("user_id") != "") & (trimmed(pl.col("rest")) != "")
    facts = _sequence_facts(path, lines, has_items)
    issue = _line_issue(has_items, repeated=facts["users"] < facts["lines_with_items"])
    # A run of blanks between ids is one separator; there is none at the ends here.
    piece = pl.col("rest").str.replace_all("  +", " ").str.split(" ")
    rows = lines.select("user_id", item_id=piece, issue=issue).explode(
        "item_id", empty_as_null=True
    )
    if not seen.plain:
        rows = rows.with_columns(trimmed(pl.col("item_id")))
    empty = pl.when(pl.col("item_id") == "").then(pl.lit("empty item id"))
    interactions = rows.select(
        _null_if_empty("user_id"),
        _null_if_empty("item_id"),
        pl.lit(None, pl.Int64).alias("timestamp"),
        pl.coalesce("issue", empty).alias("issue"),
    )
    mended = facts["mended_users"] + (0 if seen.plain else _mended_items(lines))
    notes = list(seen.notes())
    if facts["trailing"]:
        notes.append(f"blanks at the end of {facts['trailing']:,} lines removed")
    return interactions, (*notes, *mended_note(mended))


def _null_if_empty(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(pl.col(name)).alias(name)


def _line_issue(has_items: pl.Expr, *, repeated: bool) -> pl.Expr:
    user, rest = pl.col("user_id"), trimmed(pl.col("rest"))
    issue = (
        pl.when((user == "") & (rest == ""))
        .then(pl.lit("blank line"))
        .when(user == "")
        .then(pl.lit("empty user id"))
        .when(rest == "")
        .then(pl.lit("no items"))
    )
    if not repeated:  # the usual case, and the window below is the one step that does not stream
        return issue
    last = pl.col("n") == pl.col("n").filter(has_items).max().over("user_id")
    return issue.when(~last).then(pl.lit("user repeated: earlier line replaced"))


def _sequence_facts(path: Path, lines: pl.LazyFrame, has_items: pl.Expr) -> dict[str, int]:
    """One pass over the lines: refusals, and what the lazy frame needs to know beforehand."""
    user, rest = pl.col("user_id"), pl.col("rest")
    asked = lines.select(
        first_where(~pl.col("tab") & (user != ""), "no_tab"),
        first_where(rest.str.contains("\t", literal=True), "tabs"),
        first_where((user + rest).str.contains("\r", literal=True), "cr"),
        has_items.sum().alias("lines_with_items"),
        user.filter(has_items).n_unique().alias("users"),
        pl.col("trailing").sum(),
        ((pl.col("raw_user") != user) & (user != "")).sum().alias("mended_users"),
    )
    facts = asked.collect(engine="streaming").row(0, named=True)
    for name, reason in (
        ("no_tab", "no TAB between the user and the items"),
        ("tabs", "more than one TAB; `user TAB item item ...` is expected"),
        ("cr", "a carriage return inside the line"),
    ):
        if facts[name] is not None:
            refuse_line(path, facts[name], reason)
    return facts


def _mended_items(lines: pl.LazyFrame) -> int:
    """How many item ids of a file that is not plain have something to trim."""
    piece = pl.col("rest").str.split(" ").explode(empty_as_null=True)
    clean = trimmed(pl.col("rest"))
    changed = ((pl.col("rest") != clean) & (clean != "")).sum()
    count: int = lines.select(piece).select(changed).collect(engine="streaming").item()
    return count
