"""Files of lines: what a file really is, its line ends and bytes, and sequence files (`user TAB i1 i2 ...`)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import polars as pl

from ninerec_data.errors import CheckFailed, MissingData

__all__ = [
    "BLANKS",
    "Look",
    "look",
    "refuse_line",
    "refuse_not_data",
    "scan_sequences",
    "trimmed",
]

# White space, control, byte-order and zero-width characters: never part of an id at its ends.
BLANKS = "".join(
    map(
        chr,
        itertools.chain(
            range(0x21),
            range(0x7F, 0xA1),
            (0xAD, 0x1680, 0x180E, 0x3000, 0xFEFF),
            range(0x2000, 0x2010),
            range(0x2028, 0x2030),
            range(0x205F, 0x2070),
        ),
    )
)
_CONTROL = bytes(c for c in (*range(0x20), 0x7F) if c not in b"\t\n\r")
_CHUNK = 1 << 23
_MAGIC = (
    (b"PK\x03\x04", "a zip archive", (".zip", ".xlsx", ".npz")),
    (b"PK\x05\x06", "an empty zip archive", ()),
    (b"\x1f\x8b", "gzip-compressed", (".gz", ".tgz")),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", (".zst",)),
    (b"\xfd7zXZ\x00", "xz-compressed", (".xz", ".txz")),
    (b"BZh", "bzip2-compressed", (".bz2", ".tbz2")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", (".7z",)),
    (b"Rar!", "a rar archive", (".rar",)),
    (b"\xff\xfe", "UTF-16 text, not UTF-8", ()),
    (b"\xfe\xff", "UTF-16 text, not UTF-8", ()),
    (b"PAR1", "a Parquet file", (".parquet",)),
)
_HTML = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<script")


def refuse_not_data(path: Path) -> None:
    """Refuse a file that is not what its name says, before any reader meets it.

    Raises MissingData for an absent file, a Git LFS pointer or a web page (the data is elsewhere),
    CheckFailed for an empty file, UTF-16 text, or an archive under another name.
    """
    if path.is_dir():
        raise CheckFailed(f"{path} is a folder; a file is expected: import the release again")
    if not path.is_file():
        raise MissingData(f"{path} does not exist; import or download the release again")
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise CheckFailed(f"{path} is empty (0 bytes); get it again, then import it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise MissingData(_lfs_message(path, head))
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_HTML):
        msg = (
            f"{path} is a web page ({path.stat().st_size:,} bytes of HTML or XML), not the data: most "
            "likely an error or quota page saved under the file's name; get the file itself and import it"
        )
        raise MissingData(msg)
    for magic, what, suffixes in _MAGIC:
        if head.startswith(magic) and path.suffix.lower() not in suffixes:
            hint = "save it as UTF-8" if "UTF" in what else "unpack it or give it its own suffix"
            raise CheckFailed(
                f"{path} is {what} under the name {path.name}; {hint}, then import it again"
            )


def _lfs_message(path: Path, head: bytes) -> str:
    words = head.decode("ascii", "replace").split()
    size = words[words.index("size") + 1] if "size" in words[:-1] else ""
    real = f"{int(size):,} bytes" if size.isdecimal() else "a size it does not state"
    return (
        f"{path} is a Git LFS pointer, not the data: it stands for a file of {real}. "
        "Run `git lfs pull` in the repository it came from (or download the file itself), then import it again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One pass over a text file's bytes.

    lines: line ends, and one for an unended last line. plain: ASCII only and no control bytes but TAB
    and line ends, so that no id needs trimming but for `blanks` (spaces) and `tabs`.
    """

    lines: int
    crlf: int
    quotes: int
    blanks: int
    tabs: int
    plain: bool
    bom: bool

    def notes(self) -> tuple[str, ...]:
        said = []
        if self.crlf:
            said.append(f"CRLF line ends ({self.crlf:,} lines)")
        if self.bom:
            said.append("byte-order mark at the start removed")
        return tuple(said)


def look(path: Path) -> Look:
    """Refuse what is not data or not UTF-8 (with the line), and say what bytes the file is made of."""
    refuse_not_data(path)
    lines, plain, bom = 0, True, False
    counts = dict.fromkeys((b"\r\n", b'"', b" ", b"\t", b"\r"), 0)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            chunk += file.readline()  # so that no character and no CRLF is cut in two
            bom = bom or (lines == 0 and chunk.startswith(b"\xef\xbb\xbf"))
            if not chunk.isascii():
                plain = False
                _refuse_other_than_utf8(path, chunk, lines)
            plain = plain and len(chunk.translate(None, _CONTROL)) == len(chunk)
            lines += chunk.count(b"\n") + (not chunk.endswith(b"\n"))
            for part in counts:
                counts[part] += chunk.count(part)
    crlf, quotes, blanks, tabs, returns = counts.values()
    return Look(
        lines=lines,
        crlf=crlf,
        quotes=quotes,
        blanks=blanks,
        tabs=tabs,
        plain=plain and returns == crlf,
        bom=bom,
    )


def _refuse_other_than_utf8(path: Path, chunk: bytes, lines_before: int) -> None:
    try:
        chunk.decode()
    except UnicodeDecodeError as error:
        line = lines_before + chunk.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{chunk[error.start]:02x}"
        refuse_line(path, line, f"not UTF-8 ({byte}); save the file as UTF-8")


def refuse_line(path: Path, line: int, reason: str) -> NoReturn:
    """Raise CheckFailed with file, line number, reason and the beginning of that line (of Parquet: the row)."""
    if path.suffix.lower() == ".parquet":
        raise CheckFailed(f"{path}, row {line:,}: {reason}; mend the file and import it again")
    with path.open("rb") as file:
        raw = next(itertools.islice(file, line - 1, None), b"")[:80]
    shown = raw.decode("utf-8", "replace").rstrip("\r\n")
    msg = f"{path}, line {line:,}: {reason}. It reads {shown!r}; mend the file and import it again"
    raise CheckFailed(msg)


def trimmed(column: pl.Expr) -> pl.Expr:
    """A String column without the BLANKS at its ends: the vectorised `str.strip(BLANKS)`."""
    return column.str.strip_chars(BLANKS)


def scan_text(path: Path) -> pl.LazyFrame:
    """Every line as a row, lazily: n (UInt32, from 1), line (String, without its LF or CRLF)."""
    return pl.scan_lines(path, name="line", row_index_name="n", row_index_offset=1, glob=False)


def first_where(condition: pl.Expr, name: str) -> pl.Expr:
    """The smallest line number `n` that meets a condition, or null."""
    return pl.col("n").filter(condition).min().alias(name)


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
        rest=trimmed(rest.fill_null("")),
    )
    has_items = (pl.col("user_id") != "") & (pl.col("rest") != "")
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


def mended_note(count: int) -> tuple[str, ...]:
    """The note on ids that were trimmed, where there are any."""
    said = f"{count:,} ids: blanks or invisible characters at their ends removed"
    return (said,) if count else ()


def _null_if_empty(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(pl.col(name)).alias(name)


def _line_issue(has_items: pl.Expr, *, repeated: bool) -> pl.Expr:
    user, rest = pl.col("user_id"), pl.col("rest")
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
