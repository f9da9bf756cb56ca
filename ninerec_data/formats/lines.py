"""Files of lines: what a file really is, its line ends and bytes, refusals that name a line."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl

from ninerec_data.errors import CheckFailed, MissingData

__all__ = [
    "BLANKS",
    "Look",
    "first_where",
    "look",
    "mended_note",
    "refuse_line",
    "refuse_not_data",
    "scan_text",
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
_CHUNK = 1 << 20  # bytes that stay in the processor's cache over the counts
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
    control, crlf, unended, plain, bom = 0, 0, 0, True, False
    counts = dict.fromkeys(b'" \t\r\n\x7f', 0)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            chunk += file.readline()  # so that no character and no CRLF is cut in two
            before = counts[0x0A]
            bom = bom or (before == 0 and chunk.startswith(b"\xef\xbb\xbf"))
            if not chunk.isascii():
                plain = False
                _refuse_other_than_utf8(path, chunk, before)
            octets = np.frombuffer(chunk, np.uint8)
            control += int(np.count_nonzero(octets < 0x20))
            for octet in counts:
                counts[octet] += int(np.count_nonzero(octets == octet))
            crlf += chunk.count(b"\r\n") if counts[0x0D] else 0
            unended = not chunk.endswith(b"\n")
    quotes, blanks, tabs, returns, ends, delete = counts.values()
    return Look(
        lines=ends + unended,
        crlf=crlf,
        quotes=quotes,
        blanks=blanks,
        tabs=tabs,
        plain=plain and returns == crlf and delete == 0 and control == tabs + returns + ends,
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


def mended_note(count: int) -> tuple[str, ...]:
    """The note on ids that were trimmed, where there are any."""
    said = f"{count:,} ids: blanks or invisible characters at their ends removed"
    return (said,) if count else ()
