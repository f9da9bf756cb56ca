"""MIND: news and impressions, TAB-separated, **not** CSV-quoted, in one folder a part.

news.tsv        news id, category, subcategory, title, abstract, url, title entities, abstract entities
behaviors.tsv   impression id, user id, time (US, 12 hours, read as UTC), history, shown news (`N1-0 N2-1`, 1: clicked)

The interactions of a user: the history of the last impression (by time, then by place in the files), without
times; then one row per clicked news, in file order, with the impression's time. A history
repeated over impressions counts once. A click that a later history has taken up already is reported
as such. News shown and not clicked are no interactions; the test part, without labels, gives histories only.

Options: folders, such as ["MINDsmall_train", "MINDsmall_dev"] (default: one folder of any name).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.formats.csv_tables import Table, read_table, stack_tables
from ninerec_data.formats.lines import look, scan_text, trimmed
from ninerec_data.release import Release, Role

__all__ = ["read", "roles"]

NEWS = Table(
    columns=(
        "item_id",
        "category",
        "subcategory",
        "title_en",
        "abstract_en",
        "url",
        "title_entities",
        "abstract_entities",
    ),
    separator="\t",
    quoted=False,
)
TIME = "%m/%d/%Y %I:%M:%S %p"
CLICK = r"\S*-1(?: |$)"
LABELLED = r"-[01](?: |$)"
IN_HISTORY = "click already in the last history"


def _parts(options: Mapping[str, Any]) -> list[str]:
    """The role suffix of every part: "", "_2", "_3" ..."""
    return ["", *(f"_{k}" for k in range(2, len(options.get("folders", ())) + 1))]


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """behaviors.tsv and news.tsv of every folder; the first is required."""
    folders = options.get("folders", ())
    found = []
    for k, suffix in enumerate(_parts(options)):
        folder = f"{folders[k]}/" if folders else ""
        for name, file, about in (
            ("interactions", "behaviors.tsv", "one impression a line"),
            ("items", "news.tsv", "one news a line"),
        ):
            patterns = (f"{folder}{file}",) if len(folders) > 1 else (file,)
            found.append(Role(name=name + suffix, patterns=patterns, required=k == 0, about=about))
    return tuple(found)


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read the parts that are there as one release; the news tables stand under each other, repeats kept."""
    suffixes = [s for s in _parts(options) if f"interactions{s}" in files]
    tables = [read_table(files[f"items{s}"], NEWS) for s in _parts(options) if f"items{s}" in files]
    items, reports = stack_tables(tables)
    interactions, notes = _interactions([files[f"interactions{s}"] for s in suffixes])
    return Release(interactions=interactions, items=items, files=reports, notes=notes)


def _interactions(paths: Sequence[Path]) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    notes: list[str] = []
    frames, lines = [], 0
    for path in paths:
        seen = look(path)
        frames.append(_impressions(path, lines))
        lines += seen.lines
        notes += seen.notes()
    impressions = pl.concat(frames)
    facts = _facts(impressions)
    good = impressions.filter(pl.col("issue").is_null())
    users = good.group_by("user_id").agg(
        first=pl.col("n").min(),
        last=pl.col("n").sort_by("time", "n").last(),
        clicks=pl.col("clicks").sum(),
    )
    known = good.join(users.select("user_id", "first", "last"), on="user_id")
    histories = _histories(good, users)
    parts = [histories, _clicks(known, histories, grown=facts["histories"] > facts["users"])]
    if facts["bad"]:
        parts.append(_malformed(impressions))
    if facts["odd"]:
        parts.append(_unlabelled(known))
    rows = pl.concat(parts).sort("first", "part", "n", maintain_order=True)
    rows = rows.explode("items", empty_as_null=True)
    return _rows(rows), (*notes, *_notes(facts))


def _impressions(path: Path, before: int) -> pl.LazyFrame:
    """One row per line: n (over all parts), user_id, time, history, shown, tokens, clicks, odd (no label), issue."""
    field = pl.col("line").str.split_exact("\t", 5).struct
    text = [trimmed(field.field(f"field_{k}")).fill_null("") for k in range(5)]
    squeezed = [t.str.replace_all("  +", " ") for t in text[3:]]
    counted = field.field("field_4").is_not_null() & field.field("field_5").is_null()
    moment = text[2].str.to_datetime(TIME, strict=False, time_unit="us")
    frame = scan_text(path).select(
        (pl.col("n").cast(pl.Int64) + before).alias("n"),
        blank=trimmed(pl.col("line")) == "",
        counted=counted,
        user_id=text[1],
        time=moment.dt.timestamp("us").floordiv(10**6),
        history=squeezed[0],
        shown=squeezed[1],
    )
    shown = pl.col("shown")
    tokens = shown.str.count_matches(r"\S+").cast(pl.Int64)
    labelled = shown.str.count_matches(LABELLED).cast(pl.Int64)
    issue = (
        pl.when("blank").then(pl.lit("blank line"))
        .when(~pl.col("counted")).then(pl.lit("malformed impression: not 5 columns"))
        .when(pl.col("user_id") == "").then(pl.lit("empty user id"))
        .when(pl.col("time").is_null()).then(pl.lit("malformed impression: time"))
    )  # fmt: skip
    frame = frame.with_columns(
        tokens=tokens,
        odd=tokens - labelled,
        clicks=shown.str.count_matches(CLICK).cast(pl.Int64),
        issue=issue,
    )
    test = frame.select(pl.col("odd").sum() == pl.col("tokens").sum()).collect(engine="streaming")
    if test.item():  # a part without any label: the shown news say nothing
        frame = frame.with_columns(odd=pl.lit(0, pl.Int64))
    return frame


def _facts(impressions: pl.LazyFrame) -> dict[str, int]:
    good = pl.col("issue").is_null()
    history = pl.concat_str("user_id", pl.lit("\t"), "history").hash()
    asked = impressions.select(
        impressions=good.sum(),
        bad=(~good).sum(),
        users=pl.col("user_id").filter(good).n_unique(),
        histories=history.filter(good).n_unique(),
        odd=pl.col("odd").filter(good).sum(),
        clicks=pl.col("clicks").filter(good).sum(),
        tokens=pl.col("tokens").filter(good).sum(),
    )
    return asked.collect(engine="streaming").row(0, named=True)


def _line_rows(frame: pl.LazyFrame, part: int, items: pl.Expr, issue: pl.Expr) -> pl.LazyFrame:
    return frame.select(
        "first",
        pl.lit(part, pl.Int8).alias("part"),
        "n",
        "user_id",
        pl.col("time") if part else pl.lit(None, pl.Int64).alias("time"),
        items.alias("items"),
        issue.alias("issue"),
    )


_NO_ISSUE = pl.lit(None, pl.String)


def _histories(good: pl.LazyFrame, users: pl.LazyFrame) -> pl.LazyFrame:
    """The last impression's history of every user; a user without any history or click has one row, "no items"."""
    last = good.join(users, left_on=("user_id", "n"), right_on=("user_id", "last"), suffix="_all")
    has = pl.col("history") != ""
    last = last.filter(has | (pl.col("clicks_all") == 0))
    issue = pl.when(~has).then(pl.lit("no items"))
    return _line_rows(last, 0, pl.col("history").str.split(" "), issue)


def _clicks(known: pl.LazyFrame, histories: pl.LazyFrame, *, grown: bool) -> pl.LazyFrame:
    clicked = known.filter(pl.col("clicks") > 0).with_columns(
        items=pl.col("shown").str.extract_all(CLICK)
    )
    if not grown:
        return _line_rows(clicked, 1, pl.col("items"), _NO_ISSUE)
    # Histories that grew: what they took up after this impression holds its clicks too.
    last = histories.select("user_id", later=pl.col("items"))
    own = (
        pl.when(pl.col("history") == "")
        .then(0)
        .otherwise(pl.col("history").str.split(" ").list.len())
    )
    one = (
        clicked.join(last, on="user_id", how="left")
        .with_columns(later=pl.col("later").list.slice(own))
        .explode("items", empty_as_null=True)
    )
    item = pl.col("items").str.strip_suffix(" ").str.strip_suffix("-1")
    taken = pl.col("later").list.contains(item).fill_null(False)
    issue = pl.when(taken).then(pl.lit(IN_HISTORY))
    return _line_rows(one, 1, pl.concat_list("items"), issue)


def _malformed(impressions: pl.LazyFrame) -> pl.LazyFrame:
    bad = impressions.filter(pl.col("issue").is_not_null()).with_columns(first=pl.col("n"))
    return _line_rows(bad, 3, pl.lit(None, pl.List(pl.String)), pl.col("issue"))


def _unlabelled(known: pl.LazyFrame) -> pl.LazyFrame:
    odd = pl.col("shown").str.split(" ").list.filter(~pl.element().str.contains(r"-[01]$"))
    some = known.filter(pl.col("odd") > 0)
    return _line_rows(some, 2, odd, pl.lit("shown news without a label"))


def _rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    clicked = pl.col("items").str.strip_suffix(" ").str.strip_suffix("-1")
    item = trimmed(pl.when(pl.col("part") == 1).then(clicked).otherwise(pl.col("items")))
    empty = pl.when(pl.col("item_id") == "").then(pl.lit("empty item id"))
    return rows.with_columns(item_id=item).select(
        pl.when(pl.col("user_id") != "").then(pl.col("user_id")).alias("user_id"),
        pl.when(pl.col("item_id") != "").then(pl.col("item_id")).alias("item_id"),
        pl.col("time").alias("timestamp"),
        pl.coalesce("issue", empty).alias("issue"),
    )


def _notes(facts: Mapping[str, int]) -> list[str]:
    """What the count of interactions does not show: they are history items, clicks and rows with an issue."""
    total, users = facts["impressions"], facts["users"]
    shown = facts["tokens"] - facts["clicks"] - facts["odd"]
    return [
        f"{total:,} impressions of {users:,} users; interactions are the items of the last history and the clicks",
        f"{total - users:,} histories not used: the user's last one stands for them",
        f"{shown:,} news shown and not known to be clicked are no interactions",
    ]
