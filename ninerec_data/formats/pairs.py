"""Files with one interaction a line: fields, ids and times, read once, with every line accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ninerec_data.formats.lines import (
    BLANKS,
    Look,
    first_where,
    look,
    mended_note,
    refuse_line,
    refuse_not_data,
    scan_text,
    trimmed,
)

__all__ = [
    "WANTED",
    "Pairs",
    "finish",
    "header_of",
    "left_out",
    "pairs_from_header",
    "scan_pairs",
]

# Larger numbers cannot be seconds (they would lie after the year 5138): milli-, micro-, nanoseconds.
_UNITS = (
    (10**17, 10**9, "nanoseconds"),
    (10**14, 10**6, "microseconds"),
    (10**11, 1000, "milliseconds"),
)
WANTED = ("user_id", "item_id", "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """How a pair file is laid out.

    fields: the name of every field of a line, in order; user_id and item_id must be among them, timestamp may.
    skip: header lines.
    """

    fields: tuple[str, ...]
    separator: str = ","
    skip: int = 0


def header_of(path: Path, separator: str | None = None) -> tuple[list[str], str]:
    """The first line's fields, trimmed and unquoted, and the separator (TAB if the line has one, else comma)."""
    refuse_not_data(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        line = file.readline().rstrip("\r\n")
    separator = separator or ("\t" if "\t" in line else ",")
    return [field.strip(BLANKS + '"') for field in line.split(separator)], separator


def pairs_from_header(path: Path, names: Mapping[str, str], *, time: bool = True) -> Pairs:
    """The layout of a file whose first line names its columns.

    names: lower-cased header name -> user_id | item_id | timestamp. RecBole's `name:type` is understood.
    Raises CheckFailed where a wanted column is missing or named twice.
    """
    header, separator = header_of(path)
    fields = [names.get(name.lower().split(":")[0], name) for name in header]
    for name in WANTED:
        count = fields.count(name)
        if count > 1 or (count == 0 and (time or name != "timestamp")):
            known = ", ".join(key for key, value in names.items() if value == name)
            found = ", ".join(header)
            refuse_line(
                path, 1, f"a header with one {name} column ({known}) is expected, not: {found}"
            )
    return Pairs(fields=tuple(fields), separator=separator, skip=1)


def fields_of(path: Path, layout: Pairs, wanted: Sequence[str]) -> pl.LazyFrame:
    """Lines split into their wanted fields: n, blank (Boolean), counted (Boolean), then Strings, untrimmed."""
    width = len(layout.fields)
    line = pl.col("line")
    if layout.skip == 0:
        line = line.str.strip_prefix("\ufeff")
    parts = line.str.split_exact(layout.separator, width).struct
    counted = (
        parts.field(f"field_{width - 1}").is_not_null() & parts.field(f"field_{width}").is_null()
    )
    return (
        scan_text(path)
        .filter(pl.col("n") > layout.skip)
        .select(
            "n",
            blank=trimmed(line) == "",
            counted=counted,
            **{name: parts.field(f"field_{layout.fields.index(name)}") for name in wanted},
        )
    )


def _full_lines(path: Path, layout: Pairs, rows: int) -> pl.DataFrame | None:
    """`fields_of` a file without quotes and blanks by the CSV reader, in half the time; None if a line is not full."""
    lines = pl.scan_csv(
        path,
        has_header=False,
        separator=layout.separator,
        quote_char=None,
        skip_lines=layout.skip,
        schema=dict.fromkeys(layout.fields, pl.String),
        row_index_name="n",
        row_index_offset=layout.skip + 1,
        glob=False,
    ).with_columns(blank=False, counted=True)
    try:
        frame = lines.collect(engine="streaming")
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == rows and not any(frame.null_count().row(0)) else None


def scan_pairs(
    path: Path, layout: Pairs, seen: Look | None = None
) -> tuple[pl.LazyFrame, tuple[str, ...]]:
    """Read a pair file into the interactions of a Release, and notes on the file.

    One row per line after the header, in file order. Rows with an issue: "blank line",
    "empty user id", "empty item id". timestamp is null where the layout names none; else integers
    (seconds; larger units by size, noted), decimals or ISO dates and times, UTC where no zone is given.
    seen: what `look(path)` said, where the caller has asked already.
    Raises CheckFailed with the line for a wrong number of fields, a torn quote, an unreadable time.
    """
    seen = seen or look(path)
    wanted = [name for name in WANTED if name in layout.fields]
    tidy = seen.plain and not (seen.quotes or seen.blanks or seen.tabs)
    # Read once: the checks below and whoever collects the result find the fields in memory.
    whole = tidy and len(wanted) == len(layout.fields)
    frame = _full_lines(path, layout, seen.lines - layout.skip) if whole else None
    if frame is None:
        frame = fields_of(path, layout, wanted).collect(engine="streaming")
    lines = frame.lazy()
    _refuse_fields(path, layout, lines, wanted, quotes=seen.quotes > 0)
    columns = {name: pl.col(name) for name in wanted}
    if seen.quotes:
        columns = {name: _unquoted(column) for name, column in columns.items()}
    mended = 0
    if not tidy:
        mended = _count_mended(lines, columns)
        columns = {name: trimmed(column) for name, column in columns.items()}
    rows = lines.select("n", "blank", **columns)
    interactions, said = finish(path, rows, timed="timestamp" in wanted)
    return interactions, (*seen.notes(), *said, *mended_note(mended), *left_out(layout.fields))


def left_out(columns: Sequence[str]) -> tuple[str, ...]:
    """A note on the columns of an interactions file that nothing reads; none where there are none."""
    names = [name or "one without a name" for name in columns if name not in WANTED]
    return (f"columns left out: {', '.join(names)}",) if names else ()


def finish(path: Path, rows: pl.LazyFrame, *, timed: bool) -> tuple[pl.LazyFrame, list[str]]:
    """Turn rows (n, blank, user_id, item_id[, timestamp], all Strings) into interactions with issues."""
    timestamp: pl.Expr = pl.lit(None, pl.Int64)
    notes: list[str] = []
    if timed:
        timestamp, notes = _timestamps(path, rows)
    user, item = pl.col("user_id"), pl.col("item_id")
    issue = (
        pl.when("blank").then(pl.lit("blank line"))
        .when(user == "").then(pl.lit("empty user id"))
        .when(item == "").then(pl.lit("empty item id"))
    )  # fmt: skip
    interactions = rows.select(
        pl.when(~pl.col("blank") & (user != "")).then(user).alias("user_id"),
        pl.when(~pl.col("blank") & (item != "")).then(item).alias("item_id"),
        timestamp.alias("timestamp"),
        issue.alias("issue"),
    )
    return interactions, notes


def _unquoted(column: pl.Expr) -> pl.Expr:
    """A CSV field without its quotes; the caller made sure that they are both there."""
    inner = column.str.slice(1, column.str.len_chars() - 2).str.replace_all('""', '"', literal=True)
    return pl.when(_wrapped(column)).then(inner).otherwise(column)


def _wrapped(column: pl.Expr) -> pl.Expr:
    return (column.str.len_bytes() > 1) & column.str.starts_with('"') & column.str.ends_with('"')


def _refuse_fields(
    path: Path, layout: Pairs, lines: pl.LazyFrame, wanted: Sequence[str], *, quotes: bool
) -> None:
    """Refuse the first line with too few or too many fields, or with a quote that does not close its field."""
    full = ~pl.col("blank")
    asked = [first_where(full & ~pl.col("counted"), "counted")]
    if quotes:
        columns = [pl.col(name) for name in wanted]
        torn = [c.str.starts_with('"') & ~_wrapped(c) for c in columns]
        asked.append(first_where(full & pl.any_horizontal(torn), "torn"))
    facts = lines.select(asked).collect(engine="streaming").row(0, named=True)
    if facts.get("torn") is not None:
        refuse_line(path, facts["torn"], "a quoted field that holds the separator or a line break")
    if facts["counted"] is not None:
        count = f"{len(layout.fields)} fields ({', '.join(layout.fields)})"
        refuse_line(
            path, facts["counted"], f"{count} separated by {layout.separator!r} are expected"
        )


def _count_mended(lines: pl.LazyFrame, columns: Mapping[str, pl.Expr]) -> int:
    """How many ids have something to trim."""
    changed = [
        ((column != trimmed(column)) & (trimmed(column) != "")).sum().alias(name)
        for name, column in columns.items()
        if name != "timestamp"
    ]
    counts = lines.filter(~pl.col("blank")).select(changed).collect(engine="streaming")
    return sum(counts.row(0))


def _integer(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.Int64, strict=False)


def _seconds(column: pl.Expr) -> pl.Expr:
    """Int64 from integers, finite decimals, ISO dates and ISO times; null for anything else."""
    decimal = column.cast(pl.Float64, strict=False)
    decimal = pl.when(decimal.is_finite()).then(decimal.floor()).cast(pl.Int64, strict=False)
    iso = [
        column.str.to_datetime(pattern, strict=False, time_unit="us", time_zone="UTC")
        for pattern in ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
    ]
    naive = [
        column.str.to_datetime(pattern, strict=False, time_unit="us").dt.replace_time_zone("UTC")
        for pattern in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f")
    ]
    day = column.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us", "UTC"))
    moments = pl.coalesce(day, *naive, *iso).dt.timestamp("us").floordiv(10**6)
    return pl.coalesce(_integer(column), decimal, moments)


def _timestamps(path: Path, rows: pl.LazyFrame) -> tuple[pl.Expr, list[str]]:
    """The expression that turns this file's times into UTC seconds, and notes; refuses what it cannot read."""
    time = pl.col("timestamp")
    seconds = _integer(time)
    wrong, counts = _time_facts(rows, seconds)
    if wrong is not None:  # not integers all through
        seconds = _seconds(time)
        wrong, counts = _time_facts(rows, seconds)
    if wrong is not None:
        expected = "seconds, milliseconds or an ISO date are expected"
        refuse_line(path, wrong, f"the timestamp cannot be read; {expected}")
    return _scaled(seconds, counts)


def _time_facts(rows: pl.LazyFrame, seconds: pl.Expr) -> tuple[int | None, tuple[int, ...]]:
    """The first line without a readable time, and how many times reach each unit's bound."""
    asked = [
        first_where(~pl.col("blank") & seconds.is_null(), "wrong"),
        *((seconds.abs() >= least).sum().alias(unit) for least, _, unit in _UNITS),
    ]
    wrong, *counts = rows.select(asked).collect(engine="streaming").row(0)
    return wrong, tuple(counts)


def _scaled(seconds: pl.Expr, counts: tuple[int, ...]) -> tuple[pl.Expr, list[str]]:
    if not any(counts):
        return seconds, []
    scaled, notes, larger = seconds, [], 0
    for (_, _, unit), count in zip(_UNITS, counts, strict=True):
        if count > larger:
            notes.append(f"{count - larger:,} timestamps were {unit}: converted to seconds")
        larger = count
    for least, divisor, _ in reversed(_UNITS):  # so that the largest unit has the last word
        scaled = pl.when(seconds.abs() >= least).then(seconds.floordiv(divisor)).otherwise(scaled)
    return scaled, notes
