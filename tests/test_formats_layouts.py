"""The formats beside NineRec: written files, each fact of their layout once."""

from __future__ import annotations

import datetime
from pathlib import Path

import polars as pl
import pytest

from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.formats import (
    adressa,
    generic,
    hm,
    microlens,
    mind,
    morec,
    pixelrec,
    rec,
    transrec,
)
from ninerec_data.release import Release

NEWS = 'N1\tc\ts\tSay "hi\tabstract\tu\t[]\t[]\nN2\tc\ts\t"Two"\ta\tu\t[]\t[]\n'


def write(folder: Path, files: dict[str, str | bytes]) -> dict[str, Path]:
    """Write `role/file name` -> text; returns role -> path."""
    paths = {}
    for key, data in files.items():
        role, name = key.split("/")
        paths[role] = folder / name
        paths[role].write_bytes(data.encode() if isinstance(data, str) else data)
    return paths


def table(release: Release) -> list[tuple[object, ...]]:
    return release.interactions.collect(engine="streaming").rows()


# MoRec and Adressa


def test_morec_patterns_come_from_the_options() -> None:
    options = {"users": "hm_50w_users.tsv", "items": "hm_50w_items.tsv", "covers": "hm_images.zip"}
    roles = morec.roles(options)
    assert [role.patterns[0] for role in roles] == [
        "hm_50w_users.tsv",
        "hm_50w_items.tsv",
        "hm_images",
    ]
    assert {"hm_images.zip", "hm_50w_items.lmdb"} < set(roles[2].patterns)
    assert [role.required for role in roles] == [True, True, False]


def test_morec_tsv_is_not_csv_quoted_and_adressa_is(tmp_path: Path) -> None:
    files = write(
        tmp_path, {"interactions/u.tsv": "u\ta b\n", "items/i.tsv": 'a\t"One ""1"""\nb\t"Two"\n'}
    )
    columns = {"item_columns": ["item_id", "title_en"]}
    plain, quoted = morec.read(files, columns), adressa.read(files, columns)
    assert plain.items is not None
    assert quoted.items is not None
    assert plain.items["title_en"].to_list() == ['"One ""1"""', '"Two"']
    assert quoted.items["title_en"].to_list() == ['One "1"', "Two"]


def test_a_title_that_opens_with_a_quote_swallows_nothing_in_an_unquoted_tsv(
    tmp_path: Path,
) -> None:
    files = write(tmp_path, {"interactions/u.tsv": "u\ta\n", "items/i.tsv": 'a\t"One\nb\tTwo\n'})
    release = morec.read(files, {"item_columns": ["item_id", "title_en"]})
    assert release.items is not None
    assert release.items.rows() == [("a", '"One'), ("b", "Two")]


def test_a_one_column_item_list_with_crlf(tmp_path: Path) -> None:
    files = write(tmp_path, {"interactions/u.tsv": "u\tv1\n", "items/i.tsv": b"v1\r\nv2\r\n\r\n"})
    release = morec.read(files, {})
    assert release.items is not None
    assert release.items.rows() == [("v1",), ("v2",)]
    assert release.files[0].dropped == {"blank line": 1}


def test_crlf_is_no_part_of_the_last_title(tmp_path: Path) -> None:
    files = write(tmp_path, {"interactions/u.tsv": "u\ta\n", "items/i.tsv": b"a\tOne\r\n"})
    release = morec.read(files, {"item_columns": ["item_id", "title_en"]})
    assert release.items is not None
    assert release.items.rows() == [("a", "One")]


def test_an_item_list_of_one_mac_line_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, {"interactions/u.tsv": "u\tv1\n", "items/i.tsv": "v1\rv2\rv3"})
    with pytest.raises(CheckFailed, match=r"i.tsv, line 1: a line break or TAB inside the item_id"):
        morec.read(files, {})


# MIND


def mind_files(folder: Path, behaviors: str) -> dict[str, Path]:
    return write(folder, {"interactions/behaviors.tsv": behaviors, "items/news.tsv": NEWS})


def test_mind_news_keep_their_quotes_and_columns(tmp_path: Path) -> None:
    items = mind.read(mind_files(tmp_path, "1\tU1\t11/12/2019 2:14:46 PM\tN1\tN2-1\n"), {}).items
    assert items is not None
    assert items["title_en"].to_list() == ['Say "hi', '"Two"']
    assert items.columns == list(mind.NEWS.columns)


def test_mind_history_counts_once_and_clicks_come_with_their_time(tmp_path: Path) -> None:
    lines = (
        "1\tU1\t11/12/2019 2:14:46 PM\tN1 N2 N1\tN5-0 N4-1",
        "2\tU2\t11/12/2019 12:00:00 AM\tN7\tN4-0",
        "3\tU1\t11/12/2019 12:14:46 AM\tN1 N2 N1\tN6-1 N9-0",
    )
    release = mind.read(mind_files(tmp_path, "\n".join(lines)), {})
    assert table(release) == [
        ("U1", "N1", None, None),
        ("U1", "N2", None, None),
        ("U1", "N1", None, None),
        ("U1", "N4", 1_573_568_086, None),
        ("U1", "N6", 1_573_517_686, None),
        ("U2", "N7", None, None),
    ]
    assert "1 histories not used: the user's last one stands for them" in release.notes
    assert "3 news shown and not known to be clicked are no interactions" in release.notes


def test_mind_takes_the_history_of_the_last_impression_and_reports_clicks_in_it(
    tmp_path: Path,
) -> None:
    lines = (
        "1\tU1\t11/12/2019 1:00:00 PM\tN1\tN2-1 N3-1",
        "2\tU1\t11/13/2019 1:00:00 PM\tN1 N2\tN1-1",
    )
    assert table(mind.read(mind_files(tmp_path, "\n".join(lines)), {})) == [
        ("U1", "N1", None, None),
        ("U1", "N2", None, None),
        ("U1", "N2", 1_573_563_600, mind.IN_HISTORY),
        ("U1", "N3", 1_573_563_600, None),
        ("U1", "N1", 1_573_650_000, None),
    ]


def test_mind_reports_impressions_it_cannot_read(tmp_path: Path) -> None:
    lines = (
        "1\tU1\t11/12/2019 2:14:46 PM\tN1\tN2-1 N3",
        "2\tU2\tyesterday\tN1\tN2-1",
        "3\tU3\t11/12/2019 2:14:46 PM",
        "",
        "5\t\t11/12/2019 2:14:46 PM\tN1\tN2-1",
        "6\tU4\t11/12/2019 2:14:46 PM\t\tN2-0",
    )
    rows = table(mind.read(mind_files(tmp_path, "\n".join(lines) + "\n"), {}))
    assert [row[3] for row in rows] == [
        None,
        None,
        "shown news without a label",
        "malformed impression: time",
        "malformed impression: not 5 columns",
        "blank line",
        "empty user id",
        "no items",
    ]


def test_mind_folders_are_read_as_one_and_a_test_part_gives_histories_only(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    files = mind_files(tmp_path, "1\tU1\t11/12/2019 1:00:00 PM\tN1\tN2-1\n")
    more = mind_files(tmp_path / "test", "1\tU2\t11/14/2019 1:00:00 PM\tN3 N2\tN1 N2\n")
    files |= {f"{role}_2": path for role, path in more.items()}
    options = {"folders": ["MINDsmall_train", "MINDsmall_test"]}
    release = mind.read(files, options)
    assert release.items is not None
    assert release.items["item_id"].to_list() == ["N1", "N2", "N1", "N2"]
    assert [row[:2] for row in table(release)] == [
        ("U1", "N1"),
        ("U1", "N2"),
        ("U2", "N3"),
        ("U2", "N2"),
    ]
    patterns = [role.patterns for role in mind.roles(options) if not role.required]
    assert patterns == [("MINDsmall_test/behaviors.tsv",), ("MINDsmall_test/news.tsv",)]


# H&M


def hm_files(folder: Path, articles: str, transactions: str) -> dict[str, Path]:
    return write(
        folder,
        {
            "items/articles.csv": "article_id,prod_name,detail_desc\n" + articles,
            "interactions/transactions_train.csv": "t_dat,customer_id,article_id,price\n"
            + transactions,
        },
    )


def test_hm_ids_get_their_zeros_and_repeats_stay(tmp_path: Path) -> None:
    line = "2018-09-20,c1,108775015,0.1\n"
    files = hm_files(tmp_path, '0108775015,"Top, red",\n108775044,Top,"a ""b"""\n', line + line)
    release = hm.read(files, {})
    assert release.items is not None
    assert release.items.rows() == [
        ("0108775015", "Top, red", "Top, red", None),
        ("0108775044", "Top", "Top", 'a "b"'),
    ]
    assert release.files[0].repaired == {hm.PADDED: 1}
    assert table(release) == [("c1", "0108775015", 1_537_401_600, None)] * 2
    assert "1 rows repeat an earlier row and are kept" in release.notes
    assert f"2 rows: {hm.PADDED}" in release.notes


def test_hm_leaves_a_saved_index_out_and_says_so(tmp_path: Path) -> None:
    files = hm_files(tmp_path, "", "2018-09-20,c,1,0\n")
    files["items"].write_text(",article_id,prod_name\n0,1,Top\n")
    release = hm.read(files, {})
    assert release.items is not None
    assert release.items.to_dicts() == [
        {"item_id": "0000000001", "title_en": "Top", "prod_name": "Top"}
    ]
    assert release.files[0].notes == ("unnamed column 1 left out",)


def test_hm_refuses_an_id_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"articles.csv, line 3: .*'1.0' cannot be meant"):
        hm.read(hm_files(tmp_path, "1,a,\n1.0,b,\n", "2018-09-20,c,1,0\n"), {})
    with pytest.raises(CheckFailed, match=r"transactions_train.csv, line 2: .*10 digits"):
        hm.read(hm_files(tmp_path, "1,a,\n", "2018-09-20,c,12345678901,0\n"), {})


def test_hm_names_a_column_that_is_missing(tmp_path: Path) -> None:
    files = hm_files(tmp_path, "1,a,\n", "2018-09-20,c,1,0\n")
    files["items"].write_text("article_id,detail_desc\n1,x\n")
    with pytest.raises(CheckFailed, match=r"articles.csv, line 1: no column prod_name among"):
        hm.read(files, {})


# PixelRec, MicroLens, REC, TransRec


def test_pixelrec_columns_are_found_by_name(tmp_path: Path) -> None:
    info = 'item_id,view_number,title,tag,description\ni0,7,"A, b",t,"x\ny"\n'
    files = write(
        tmp_path,
        {
            "interactions/P.csv": "item_id,user_id,timestamp\ni0,u1,1600000000\n",
            "items/i.csv": info,
        },
    )
    release = pixelrec.read(files, {"stem": "P"})
    assert release.items is not None
    assert release.items.to_dicts() == [
        {"item_id": "i0", "view_number": "7", "title_zh": "A, b", "tag": "t", "description": "x\ny"}
    ]
    assert table(release) == [("u1", "i0", 1_600_000_000, None)]


def test_microlens_titles_split_at_the_first_comma_only(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {
            "interactions/M_pairs.tsv": "u1\t2 1\n",
            "items/M_title_en.csv": 'item,title\n1,a, "b", c\n2,d\n',
        },
    )
    release = microlens.read(files, {"stem": "M"})
    assert release.items is not None
    assert release.items.rows() == [("1", 'a, "b", c'), ("2", "d")]
    assert release.files[0].rows == 2
    assert table(release) == [("u1", "2", None, None), ("u1", "1", None, None)]


@pytest.mark.parametrize("header", ["user,item,timestamp", "userID,videoID,timestamp"])
def test_microlens_pairs_with_either_header(tmp_path: Path, header: str) -> None:
    files = write(
        tmp_path,
        {
            "interactions/M_pairs.csv": f"{header}\n7,1,1600000000000\n",
            "items/M_title_en.csv": "1,a\n",
        },
    )
    assert table(microlens.read(files, {"stem": "M"})) == [("7", "1", 1_600_000_000, None)]


def rec_release(folder: Path, text: str) -> Release:
    return rec.read(write(folder, {"interactions/X.inter": text}), {"stem": "X"})


def test_rec_positions_are_no_times(tmp_path: Path) -> None:
    release = rec_release(tmp_path, "item_id,user_id,timestamp\na,u,0\nb,u,1\nc,w,0\n")
    assert table(release) == [
        ("u", "a", None, None),
        ("u", "b", None, None),
        ("w", "c", None, None),
    ]
    assert release.notes == (
        "timestamp holds positions in the sequence, no times: order kept, times null",
    )


def test_columns_of_interactions_that_nothing_reads_are_noted(tmp_path: Path) -> None:
    said = ("columns left out: rating, device",)
    text = "user_id,item_id,timestamp,rating,device\nu,a,1600000000,5,tv\n"
    assert rec_release(tmp_path, text).notes == said
    titles = "item_id,title\na,A\n"
    files = write(tmp_path, {"interactions/X.csv": text, "items/i.csv": titles})
    assert generic.read(files, {}).notes == said
    assert pixelrec.read(files, {}).notes == said
    pl.read_csv(files["interactions"]).write_parquet(tmp_path / "x.parquet")
    assert generic.read({**files, "interactions": tmp_path / "x.parquet"}, {}).notes == said


def test_a_parquet_item_table_with_title_and_title_en_keeps_both(tmp_path: Path) -> None:
    files = write(tmp_path, {"interactions/X.csv": "user_id,item_id\nu,a\n"})
    frame = pl.DataFrame({"item_id": ["a"], "title": ["short"], "title_en": ["English"]})
    frame.write_parquet(tmp_path / "items.parquet")
    items = generic.read({**files, "items": tmp_path / "items.parquet"}, {}).items
    assert items is not None
    assert items.row(0, named=True) == {"item_id": "a", "title": "short", "title_en": "English"}


def test_rec_rows_out_of_position_are_put_in_order_as_numbers(tmp_path: Path) -> None:
    lines = "".join(f"i{k},u,{k}\n" for k in (10, 9, 2, 1, 0))
    release = rec_release(tmp_path, "item_id,user_id,timestamp\n" + lines + "x,w,0\n")
    assert [row[1] for row in table(release)] == ["i0", "i1", "i2", "i9", "i10", "x"]
    assert release.notes[0].endswith("; rows sorted by them")


def test_rec_times_stay_times_and_recbole_headers_are_understood(tmp_path: Path) -> None:
    text = "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t964982703.0\n"
    assert table(rec_release(tmp_path, text)) == [("u", "a", 964_982_703, None)]


def test_rec_text_column_is_the_third_for_bili(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {
            "interactions/X.inter": "item_id,user_id,timestamp\na,u,0\n",
            "items/text.csv": "a,p,q,Title\n",
        },
    )
    items = rec.read(files, {"stem": "X", "title_column": 3}).items
    assert items is not None
    assert items.to_dicts() == [
        {"item_id": "a", "column_1": "p", "column_2": "q", "title_en": "Title"}
    ]


def transrec_files(folder: Path, items: str) -> dict[str, Path]:
    return write(
        folder,
        {
            "interactions/interactions.csv": "user_id,item_id\nu,a\n",
            "items/items.csv": "item_id,modality,title_zh,category\n" + items,
            "users/users.csv": "user_id,gender,age\nu,f,30\n",
        },
    )


def test_transrec_items_have_one_modality_and_features(tmp_path: Path) -> None:
    release = transrec.read(transrec_files(tmp_path, "a,text,标题,news\nb,image,,food\n"), {})
    assert release.items is not None
    assert release.users is not None
    assert release.items.rows() == [("a", "text", "标题", "news"), ("b", "image", None, "food")]
    assert release.users.rows() == [("u", "f", "30")]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ("a,sound,x,y\n", "neither text nor image"),
        ("a,text,x,y\na,image,,y\n", "text and as image"),
    ],
)
def test_transrec_refuses_other_modalities(tmp_path: Path, items: str, reason: str) -> None:
    with pytest.raises(CheckFailed, match=reason):
        transrec.read(transrec_files(tmp_path, items), {})


# A user's own data


def test_generic_csv_with_quotes_users_and_extra_columns(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {
            "interactions/interactions.csv": '"user_id","item_id","rating","timestamp"\n"u","0",5,2020-01-01\n',
            "items/items.csv": 'item_id,title,title_zh\n0,"A, b",甲\n',
            "users/users.csv": "user_id,age\nu,30\n",
        },
    )
    release = generic.read(files, {})
    assert release.items is not None
    assert release.users is not None
    assert release.items.to_dicts() == [{"item_id": "0", "title_en": "A, b", "title_zh": "甲"}]
    assert table(release) == [("u", "0", 1_577_836_800, None)]
    assert release.users.rows() == [("u", "30")]


def test_generic_tsv_without_times(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {
            "interactions/interactions.tsv": "item_id\tuser_id\na\tu\n",
            "items/items.tsv": "item_id\ttitle_en\na\tA, b\n",
        },
    )
    release = generic.read(files, {})
    assert table(release) == [("u", "a", None, None)]
    assert release.items is not None
    assert release.items.rows() == [("a", "A, b")]


def test_generic_parquet_with_integer_ids_and_datetimes(tmp_path: Path) -> None:
    moment = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    rows = {"user_id": [1, 1, None], "item_id": [0, 5, 5], "timestamp": [moment] * 3}
    pl.DataFrame(rows).write_parquet(tmp_path / "interactions.parquet")
    items = pl.DataFrame(
        {"item_id": ["0", " 5", ""], "title": ["A", "", "C"], "price": [1.5, 2, 3]}
    )
    items.write_parquet(tmp_path / "items.parquet")
    files = {name: tmp_path / f"{name}.parquet" for name in ("interactions", "items")}
    release = generic.read(files, {"language": "zh"})
    assert table(release) == [
        ("1", "0", 1_577_836_800, None),
        ("1", "5", 1_577_836_800, None),
        (None, "5", 1_577_836_800, "empty user id"),
    ]
    assert release.items is not None
    assert release.items.rows() == [("0", "A", 1.5), ("5", None, 2.0)]
    assert release.items.columns == ["item_id", "title_zh", "price"]
    report = release.files[0]
    assert (report.rows, report.kept, dict(report.dropped)) == (3, 2, {"empty item id": 1})
    assert report.repaired == {"id trimmed": 1}


@pytest.mark.parametrize(
    ("header", "reason"),
    [("user,item", "one user_id column"), ("user_id,item_id,item_id", "one item_id column")],
)
def test_generic_names_the_columns_it_wants(tmp_path: Path, header: str, reason: str) -> None:
    files = write(
        tmp_path,
        {"interactions/interactions.csv": header + "\n1,2\n", "items/items.csv": "item_id\n1\n"},
    )
    with pytest.raises(CheckFailed, match=rf"interactions.csv, line 1: .*{reason}"):
        generic.read(files, {})


def test_generic_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    files = write(
        tmp_path,
        {"interactions/interactions.parquet": b"PAR1 but no", "items/items.csv": "item_id\n1\n"},
    )
    with pytest.raises(CheckFailed, match="not Parquet that can be read"):
        generic.read(files, {})


def test_generic_float_ids_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1.0], "item_id": ["a"]}).write_parquet(tmp_path / "i.parquet")
    files = write(tmp_path, {"items/items.csv": "item_id\na\n"})
    with pytest.raises(CheckFailed, match="user_id is Float64"):
        generic.read({**files, "interactions": tmp_path / "i.parquet"}, {})


def test_an_absent_file_is_missing_data_in_every_reader(tmp_path: Path) -> None:
    files = {"interactions": tmp_path / "a.tsv", "items": tmp_path / "b.tsv"}
    for module in (morec, adressa, mind, generic, transrec, hm):
        with pytest.raises(MissingData, match="does not exist"):
            module.read(files, {})
