"""Item and user tables: small text files read record by record, every record kept, mended or reported."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from ninerec_data.formats.lines import BLANKS, refuse_line, refuse_not_data
from ninerec_data.release import FileReport

__all__ = ["Table", "read_headed_table", "read_table", "stack_tables"]

_CHUNK = 100_000  # records held as Python strings at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """How a table file is laid out.

    columns: a name for every field, in order; the first one named `key` is the id.
    quoted: CSV quoting (strict) rather than plain splitting at the separator.
    rest_in_last: split at the first separators only, the last column takes the rest of the line (naive commas).
    mend_id: repairs an id further, by a name that is counted; None = the id cannot be meant (refused).
    """

    columns: tuple[str, ...]
    key: str = "item_id"
    role: str = "items"
    separator: str = ","
    quoted: bool = True
    rest_in_last: bool = False
    mend_id: tuple[str, Callable[[str], str | None]] | None = None


@dataclass(slots=True)
class _Account:
    rows: int = 0
    kept: int = 0
    long: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)


def read_table(path: Path, table: Table, *, skip: int = 0) -> tuple[pl.DataFrame, FileReport]:
    """Read a table without a header (`skip` records are passed over, uncounted, by who knows them).

    Returns all columns as String in file order; empty fields are null, titles are otherwise untouched,
    bytes that are not UTF-8 become U+FFFD. Dropped: "blank line", "empty item id" (or user id). Repaired: "id trimmed",
    "not UTF-8", "columns missing at the end". Raises CheckFailed with the line for too many fields,
    a quote that is never closed, or a line break inside an id.
    """
    refuse_not_data(path)
    account = _Account()
    frames, chunk = [], []
    for number, (line, fields, lines) in enumerate(_records(path, table)):
        if number < skip:
            continue
        row = _row(path, table, line, fields, lines, account)
        if row:
            chunk.append(row)
        if len(chunk) == _CHUNK:
            frames.append(_frame(table, chunk))
            chunk = []
    frames.append(_frame(table, chunk))
    report = FileReport(
        role=table.role,
        rows=account.rows,
        kept=account.kept,
        dropped=dict(account.dropped),
        repaired=dict(account.repaired),
        notes=(f"{account.long:,} records span several lines",) if account.long else (),
    )
    return pl.concat(frames), report


def _empty(table: Table) -> str:
    return f"empty {table.key.replace('_', ' ')}"


def _frame(table: Table, rows: list[list[str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(table.columns, pl.String), orient="row")


def _records(path: Path, table: Table) -> Iterator[tuple[int, list[str], int]]:
    """Yield (first line number, fields, lines taken) of each record; undecodable bytes as surrogates."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        if table.quoted:
            yield from _quoted_records(path, file, table.separator)
            return
        limit = len(table.columns) - 1 if table.rest_in_last else -1
        for number, line in enumerate(_without_mark(file), 1):
            yield number, line.rstrip("\r\n").split(table.separator, limit), 1


def _quoted_records(
    path: Path, file: Iterator[str], separator: str
) -> Iterator[tuple[int, list[str], int]]:
    # newline="\n" above: a lone carriage return must not start a record behind csv's back.
    reader = csv.reader(_without_mark(file), delimiter=separator, strict=True)
    start = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            reason = "a quote that is never closed" if "end of data" in str(error) else str(error)
            refuse_line(path, start, f"the record beginning here is not CSV ({reason})")
        if fields is None:
            return
        yield start, fields, reader.line_num + 1 - start
        start = reader.line_num + 1


def _without_mark(lines: Iterator[str]) -> Iterator[str]:
    """The lines without a byte-order mark, which before a quote would make the quote part of the text."""
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line


def _row(
    path: Path, table: Table, line: int, fields: list[str], lines: int, account: _Account
) -> list[str | None] | None:
    """One record as a row of the table, or None where it is dropped; either way it is in the account."""
    width = len(table.columns)
    account.rows += 1
    if not any(field.strip(BLANKS) for field in fields):
        account.dropped["blank line" if len(fields) < 2 else _empty(table)] += 1
        return None
    if (len(fields) > width and any(fields[width:])) or (len(fields) < width and lines > 1):
        expected = f"{width} ({', '.join(table.columns)}) expected"
        refuse_line(path, line, f"{len(fields)} fields over {lines} lines, {expected}")
    mended = set()
    position = table.columns.index(table.key)
    if len(fields) < width:
        mended.add("columns missing at the end")
        fields = fields + [""] * (width - len(fields))
    fields = [_decoded(text, mended) for text in fields[:width]]
    fields[position] = _clean_id(path, table, line, fields[position], mended)
    if not fields[position]:
        account.dropped[_empty(table)] += 1
        return None
    account.long += lines > 1
    account.kept += 1
    account.repaired.update(mended)
    return [text or None for text in fields]


def _decoded(text: str, mended: set[str]) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        mended.add("not UTF-8")
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text


def _clean_id(path: Path, table: Table, line: int, text: str, mended: set[str]) -> str:
    clean = text.strip(BLANKS)
    if clean != text:
        mended.add("id trimmed")
    if any(c in clean for c in "\r\n\t"):
        refuse_line(path, line, f"a line break or TAB inside the {table.key}")
    if table.mend_id and clean:
        name, mend = table.mend_id
        better = mend(clean)
        if better is None:
            refuse_line(path, line, f"the {table.key} {clean!r} cannot be meant")
        if better != clean:
            mended.add(name)
            clean = better
    return clean


def read_headed_table(
    path: Path, table: Table, *, rename: Mapping[str, str]
) -> tuple[pl.DataFrame, FileReport]:
    """Read a table whose first record names its columns; `table.columns` are those that must be there.

    rename: lower-cased name in the file -> name here; all other columns keep theirs. Columns without a
    name (a saved index) are left out and noted. The key comes first. Raises CheckFailed for a
    missing, repeated or empty header, else as `read_table`.
    """
    refuse_not_data(path)
    _, names, _ = next(_records(path, table), (1, [], 1))
    header = [_decoded(name, set()).strip(BLANKS) for name in names]
    columns = [rename.get(name.lower(), name) for name in header]
    for name in table.columns:
        if name not in columns:
            from_names = [key for key, value in rename.items() if value == name] or [name]
            reason = f"no column {' or '.join(from_names)} among {', '.join(header)}"
            refuse_line(path, 1, reason)
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name]
    if repeated:
        refuse_line(path, 1, f"the column {repeated[0]} stands twice in the header")
    unnamed = [f"unnamed column {number}" for number, name in enumerate(columns, 1) if not name]
    placed = iter(unnamed)
    full = tuple(name or next(placed) for name in columns)
    frame, report = read_table(path, replace(table, columns=full), skip=1)
    order = [table.key, *(c for c in full if c not in unnamed and c != table.key)]
    if unnamed:
        report = replace(report, notes=(*report.notes, *(f"{name} left out" for name in unnamed)))
    return frame.select(order), report


def stack_tables(
    parts: Sequence[tuple[pl.DataFrame, FileReport]],
) -> tuple[pl.DataFrame, tuple[FileReport, ...]]:
    """Put tables of the same columns under each other; repeated ids stay."""
    return pl.concat([frame for frame, _ in parts]), tuple(report for _, report in parts)


def has_header(path: Path, names: Sequence[str], table: Table) -> bool:
    """Whether the first record is the given header (case and blanks aside)."""
    _, fields, _ = next(_records(path, table), (1, [], 1))
    return [f.strip(BLANKS).lower() for f in fields[: len(names)]] == list(names)
