"""Written and damaged files: a reader gives a whole account of every row, or one clear error; never a traceback."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ninerec_data.errors import NineRecError
from ninerec_data.formats import reader
from ninerec_data.release import Release

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ids = st.sampled_from(["0", "1", "2", "12", "v1", "v22", "u3", "é", "0108775015"])
titles = st.text(st.sampled_from("aB ,\"'\t\n\r\x00\x08\ufeff\u200b\u3000😀标;"), max_size=6)
# Whole items of damage: what a broken copy, a spreadsheet or a wrong tool leaves in a file.
damage = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(
            [
                b"\n",
                b"\r",
                b"\r\n",
                b"\t",
                b",",
                b'"',
                b" ",
                b"\x00",
                b"\xff",
                b"\xef\xbb\xbf",
                b"-1",
                b"x",
            ]
        ),
        st.booleans(),
    ),
    max_size=4,
)


def damaged(data: bytes, changes: list[tuple[int, bytes, bool]]) -> bytes:
    """Insert a token, or put it in the place of a byte."""
    for position, token, replace in changes:
        at = position % (len(data) + 1)
        data = data[:at] + token + data[at + replace :]
    return data


def read(name: str, texts: dict[str, bytes], options: dict[str, object]) -> Release | None:
    """Read files given as `role/file name` -> bytes and collect; None where they are refused."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for key, data in texts.items():
            role, file = key.split("/")
            files[role] = Path(folder) / file
            files[role].write_bytes(data)
        try:
            release = reader(name).read(files, options)
        except NineRecError as error:
            if str(folder) not in str(error):  # the message names the file
                raise
            return None
        # The frame is lazy: it is collected while the files are there.
        rows = release.interactions.collect(engine="streaming").lazy()
        return Release(
            interactions=rows, items=release.items, users=release.users, files=release.files
        )


def check_account(release: Release) -> pl.DataFrame:
    """The contract: columns, no row without ids or a reason, rows == kept + dropped for the tables."""
    rows = release.interactions.collect()
    assert rows.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Int64,
        "issue": pl.String,
    }
    kept = rows.filter(pl.col("issue").is_null())
    for column in ("user_id", "item_id"):
        assert kept[column].null_count() == 0
        assert (kept[column] != "").all()
    for report in release.files:
        assert report.rows == report.kept + sum(report.dropped.values())
    assert release.items is not None
    assert release.items.height == sum(r.kept for r in release.files if r.role == "items")
    assert release.items["item_id"].null_count() == 0
    return rows


def as_csv(rows: list[list[str]], separator: str = ",") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()


def sequence_rows(data: bytes) -> int:
    """An independent count: one row per piece between blanks, one for a line without any."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    total = 0
    for line in lines:
        pieces = line.decode().partition("\t")[2].split(" ")
        total += max(1, sum(1 for piece in pieces if piece.strip("\r\t")))
    return total


item_rows = st.lists(st.tuples(ids, titles, titles).map(list), min_size=1, max_size=6)
sequences = st.lists(st.tuples(ids, st.lists(ids, max_size=5)), min_size=1, max_size=6).map(
    lambda rows: "".join(f"{user}\t{' '.join(items)}\n" for user, items in rows).encode()
)
times = st.sampled_from(
    ["5", "1600000000", "1600000000000", "2020-01-01", "2020-01-01T00:00:00Z", "1.5"]
)
pair_rows = st.lists(st.tuples(ids, ids, times), min_size=1, max_size=8)


@FUZZ
@given(item_rows, sequences)
def test_whole_ninerec_files_lose_nothing(items: list[list[str]], behaviour: bytes) -> None:
    release = read(
        "ninerec",
        {"interactions/X_behaviour.tsv": behaviour, "items/X_item.csv": as_csv(items)},
        {"stem": "X"},
    )
    assert release is not None
    rows = check_account(release)
    assert rows.height == sequence_rows(behaviour)
    assert release.items is not None
    assert release.items["item_id"].to_list() == [row[0] for row in items]
    assert release.items["title_zh"].fill_null("").to_list() == [row[1] for row in items]


@FUZZ
@given(item_rows, sequences, damage, damage)
def test_damaged_ninerec_files_are_accounted_or_refused(
    items: list[list[str]],
    behaviour: bytes,
    in_items: list[tuple[int, bytes, bool]],
    in_behaviour: list[tuple[int, bytes, bool]],
) -> None:
    behaviour = damaged(behaviour, in_behaviour)
    texts = {
        "interactions/X_behaviour.tsv": behaviour,
        "items/X_item.csv": damaged(as_csv(items), in_items),
    }
    release = read("ninerec", texts, {"stem": "X"})
    if release is not None:
        assert check_account(release).height == sequence_rows(behaviour)


@FUZZ
@given(pair_rows, damage, st.booleans())
def test_damaged_pair_files_are_accounted_or_refused(
    rows: list[tuple[str, str, str]], changes: list[tuple[int, bytes, bool]], item_first: bool
) -> None:
    text = damaged("".join(",".join(row) + "\n" for row in rows).encode(), changes)
    order = "item,user" if item_first else "user,item"
    texts = {"interactions/X_pair.csv": text, "items/X_item.csv": b"0,a,A\n"}
    release = read("ninerec", texts, {"stem": "X", "pair_order": order})
    if release is not None:
        lines = text.count(b"\n") + (not text.endswith(b"\n"))
        assert check_account(release).height == lines


@FUZZ
@given(sequences, st.lists(st.tuples(ids, titles).map(list), min_size=1), st.booleans(), damage)
def test_damaged_morec_files_are_accounted_or_refused(
    users: bytes, items: list[list[str]], quoted: bool, changes: list[tuple[int, bytes, bool]]
) -> None:
    users = damaged(users, changes)
    texts = {"interactions/u.tsv": users, "items/i.tsv": damaged(as_csv(items, "\t"), changes)}
    release = read("morec", texts, {"item_columns": ["item_id", "title_en"], "quoted": quoted})
    if release is not None:
        assert check_account(release).height == sequence_rows(users)
        if not quoted:  # then each line is a record
            lines = texts["items/i.tsv"].split(b"\n")
            assert release.files[0].rows == len(lines) - (lines[-1] == b"")


impressions = st.lists(
    st.tuples(
        st.sampled_from(["U1", "U2", "U3"]),
        st.sampled_from(["11/12/2019 2:14:46 PM", "11/13/2019 12:00:00 AM", "1/1/2020 1:00:00 AM"]),
        st.lists(st.sampled_from(["N1", "N2", "N3"]), max_size=4),
        st.lists(st.sampled_from(["N1-0", "N2-1", "N4-1", "N5-0"]), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)


def impression_lines(rows: list[tuple[str, str, list[str], list[str]]]) -> bytes:
    return "".join(
        f"{k}\t{user}\t{time}\t{' '.join(history)}\t{' '.join(shown)}\n"
        for k, (user, time, history, shown) in enumerate(rows)
    ).encode()


def moment(row: tuple[int, tuple[str, str, list[str], list[str]]]) -> tuple[int, int]:
    order = ["11/12/2019 2:14:46 PM", "11/13/2019 12:00:00 AM", "1/1/2020 1:00:00 AM"]
    return order.index(row[1][1]), row[0]


@FUZZ
@given(impressions)
def test_whole_mind_files_give_last_histories_and_all_clicks(
    rows: list[tuple[str, str, list[str], list[str]]],
) -> None:
    news = b"".join(b'N%d\tc\ts\t"t\ta\tu\t[]\t[]\n' % k for k in range(1, 6))
    texts = {"interactions/behaviors.tsv": impression_lines(rows), "items/news.tsv": news}
    release = read("mind", texts, {})
    assert release is not None
    got = check_account(release)
    expected = 0
    for user in {row[0] for row in rows}:
        own = [(k, row) for k, row in enumerate(rows) if row[0] == user]
        history = max(own, key=moment)[1][2]
        clicks = sum(token.endswith("-1") for _, row in own for token in row[3])
        expected += len(history) + clicks or 1
    assert got.height == expected


@FUZZ
@given(impressions, damage)
def test_damaged_mind_files_are_accounted_or_refused(
    rows: list[tuple[str, str, list[str], list[str]]], changes: list[tuple[int, bytes, bool]]
) -> None:
    text = damaged(impression_lines(rows), changes)
    release = read(
        "mind",
        {"interactions/behaviors.tsv": text, "items/news.tsv": b"N1\tc\ts\tt\ta\tu\t[]\t[]\n"},
        {},
    )
    if release is None:
        return
    got = check_account(release)
    lines = text.decode().split("\n")
    lines = lines[: len(lines) - (lines[-1] == "")]
    unreadable = sum(len(line.split("\t")) != 5 for line in lines)
    said = got["issue"].fill_null("")
    assert int((said.str.contains("columns|blank")).sum()) >= unreadable


@FUZZ
@given(
    st.lists(st.tuples(st.sampled_from(["c1", "c2"]), st.integers(0, 10**10 - 1)), min_size=1),
    damage,
)
def test_damaged_hm_files_are_accounted_or_refused(
    bought: list[tuple[str, int]], changes: list[tuple[int, bytes, bool]]
) -> None:
    header = b"t_dat,customer_id,article_id,price,sales_channel_id\n"
    body = "".join(f"2018-09-20,{who},{what},0.1,2\n" for who, what in bought).encode()
    items = b"article_id,prod_name,detail_desc\n" + b"".join(
        b'%d,"a, b",\n' % what for what in sorted({what for _, what in bought})
    )
    text = header + damaged(body, changes)
    texts = {
        "interactions/transactions_train.csv": text,
        "items/articles.csv": damaged(items, changes),
    }
    release = read("hm", texts, {})
    if release is not None:
        rows = check_account(release)
        assert rows.height == text.count(b"\n") + (not text.endswith(b"\n")) - 1
        ids_read = rows["item_id"].drop_nulls()
        assert (ids_read.str.len_chars() == 10).all()
        if not changes:
            assert ids_read.to_list() == [str(what).zfill(10) for _, what in bought]


@FUZZ
@given(pair_rows, item_rows, damage, st.sampled_from([",", "\t"]))
def test_damaged_generic_files_are_accounted_or_refused(
    rows: list[tuple[str, str, str]],
    items: list[list[str]],
    changes: list[tuple[int, bytes, bool]],
    separator: str,
) -> None:
    lines = [["user_id", "item_id", "timestamp"], *map(list, rows)]
    text = damaged(as_csv(lines, separator), changes)
    suffix = "csv" if separator == "," else "tsv"
    table = as_csv([["item_id", "title_en", "title_zh"], *items], separator)
    texts = {
        f"interactions/interactions.{suffix}": text,
        f"items/items.{suffix}": damaged(table, changes),
    }
    release = read("generic", texts, {})
    if release is not None:
        height = check_account(release).height
        assert height == text.count(b"\n") + (not text.endswith(b"\n")) - 1
        if not changes:
            assert height == len(rows)


@FUZZ
@given(
    st.binary(max_size=200),
    st.sampled_from(["ninerec", "morec", "mind", "hm", "generic", "rec", "transrec"]),
)
def test_any_bytes_are_accounted_or_refused(data: bytes, name: str) -> None:
    release = read(name, {"interactions/x.csv": data, "items/y.csv": data}, {"stem": "X"})
    if release is not None and release.items is not None:
        check_account(release)
