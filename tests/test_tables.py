"""What makes large tables fast gives what the plain way gives: reading, numbering, sorting, looking at bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninerec_data.errors import CheckFailed
from ninerec_data.formats import lines, pairs
from ninerec_data.formats.pairs import Pairs, scan_pairs
from ninerec_data.release import Release
from ninerec_data.tables import build_tables

FEW = settings(max_examples=60, deadline=None, derandomize=True)

# Ids that are their digits under one prefix, and ids that only look so.
digits = st.integers(0, 30).map(lambda n: f"u{n}")
lookalikes = st.sampled_from(
    [
        *("u1", "u01", "u+1", "u-1", "u", "u:", "u/", "u1x", "u1 1", "uu1", "U1", "é1", "1", "01"),
        *("u4294967295", "u4294967296", "u99999999999"),
    ]
)
ids = st.one_of(st.just(digits), st.just(st.one_of(digits, lookalikes)), st.just(lookalikes))
times = st.one_of(st.none(), st.integers(-3, 3))


@st.composite
def interactions(draw: st.DrawFn) -> list[tuple[str, str, int | None]]:
    return draw(st.lists(st.tuples(draw(ids), draw(ids), times), min_size=1, max_size=14))


@FEW
@given(interactions())
def test_any_rows_are_numbered_and_ordered_like_the_plain_loops(
    rows: list[tuple[str, str, int | None]],
) -> None:
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    frame = pl.LazyFrame(rows, schema=schema, orient="row")
    release = Release(interactions=frame.with_columns(issue=pl.lit(None, pl.String)))
    with tempfile.TemporaryDirectory() as folder:
        found = build_tables(release, Path(folder), text={}, max_words=30, dataset="toy")
        tables = {
            name: pq.read_table(Path(folder) / f"{name}.parquet").to_pylist()
            for name in ("users", "items", "interactions")
        }
    users = list(dict.fromkeys(user for user, _, _ in rows))
    items = list(dict.fromkeys(item for _, item, _ in rows))
    assert [row["user_id"] for row in tables["users"]] == users
    assert [row["item_id"] for row in tables["items"]] == items
    expected, slices = [], []
    for number, user in enumerate(users):
        own = [(item, time) for who, item, time in rows if who == user]
        own.sort(key=lambda pair: (pair[1] is not None, pair[1] or 0))
        slices.append((number, len(expected), len(expected) + len(own)))
        expected += [
            (number, items.index(item) + 1, time, place) for place, (item, time) in enumerate(own)
        ]
    assert [tuple(row.values()) for row in tables["interactions"]] == expected
    assert [(row["user"], row["start"], row["end"]) for row in tables["users"]] == slices
    assert found["counts"]["items"] == len(items)
    assert found["counts"]["users"] == len(users)


LAYOUT = Pairs(fields=("user_id", "item_id", "timestamp"))
fields = st.sampled_from(["u1", "u2", "v3", "0", "", "a;b", "#", "NULL", "nan", "-"])
moments = st.sampled_from(["5", "1600000000000", "1.5", "2020-01-01", "+7", "", "x"])
full = st.tuples(fields, fields, moments).map(",".join)
line = st.one_of(full, full, full, st.sampled_from(["", ",", ",,", "u1,v1", "u1,v1,5,", "u,v,1,2"]))


def read(path: Path, layout: Pairs) -> tuple[list[tuple[str | int | None, ...]], tuple[str, ...]]:
    """The rows and notes of a pair file, or the reason why it is refused."""
    try:
        rows, notes = scan_pairs(path, layout)
    except CheckFailed as error:
        return [], (str(error),)
    return rows.collect().rows(), notes


@FEW
@given(st.lists(line, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_the_csv_reader_and_the_reader_of_lines_say_the_same(
    texts: list[str], end: str, header: bool
) -> None:
    if header:
        texts = ["user_id,item_id,timestamp", *texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X_pair.csv"
        path.write_bytes((end.join(texts) + end).encode())
        layout = Pairs(fields=LAYOUT.fields, skip=int(header))
        fast = read(path, layout)
        with patch.object(pairs, "_full_lines", return_value=None):
            assert read(path, layout) == fast


def test_full_lines_are_read_by_the_csv_reader(tmp_path: Path) -> None:
    path = tmp_path / "X_pair.csv"
    path.write_bytes(b"u1,v1,5\nu2,v1,6\n")
    with patch.object(pairs, "fields_of", side_effect=AssertionError):
        assert read(path, LAYOUT)[0] == [("u1", "v1", 5, None), ("u2", "v1", 6, None)]


@FEW
@given(st.lists(st.sampled_from([*'a,"\r\n \t\x7f\x01é', "\ufeff", "\r\n"]), min_size=1))
def test_a_look_counts_what_a_plain_count_does(parts: list[str]) -> None:
    text = "".join(parts)
    with tempfile.TemporaryDirectory() as folder, patch.object(lines, "_CHUNK", 5):
        path = Path(folder) / "X_pair.csv"
        path.write_bytes(text.encode())
        seen = lines.look(path)
    assert seen.lines == text.count("\n") + (not text.endswith("\n"))
    assert seen.crlf == text.count("\r\n")
    assert (seen.quotes, seen.blanks, seen.tabs) == tuple(text.count(c) for c in '" \t')
    assert seen.bom == text.startswith("\ufeff")
    odd = text.replace("\r\n", "").replace("\n", "").replace("\t", "")
    assert seen.plain == (odd.isascii() and (odd.isprintable() or not odd))


def test_a_byte_that_is_not_utf8_is_refused_with_its_line_in_any_chunk(tmp_path: Path) -> None:
    path = tmp_path / "X_pair.csv"
    path.write_bytes(b"u1,v1,5\n" * 9 + b"u1,v\xff,5\n")
    with patch.object(lines, "_CHUNK", 11), pytest.raises(CheckFailed, match="line 10: not UTF-8"):
        lines.look(path)
