"""Every trap of the real releases (shared data README): real files where present, written ones everywhere."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ninerec_data.errors import CheckFailed, MissingData, UsageError
from ninerec_data.formats import FORMATS, adressa, hm, mind, morec, ninerec, reader
from ninerec_data.formats.lines import refuse_not_data
from ninerec_data.release import Release

X = {"stem": "X"}
TITLES = "v1,甲,One\nv2,乙,Two\nv3,丙,Three\n"


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def small(folder: Path, behaviour: str | bytes, items: str | bytes = TITLES) -> Release:
    files = {
        "interactions": write(folder, "X_behaviour.tsv", behaviour),
        "items": write(folder, "X_item.csv", items),
    }
    return ninerec.read(files, X)


def pairs(folder: Path, text: str | bytes, items: str = TITLES, **options: str) -> Release:
    files = {
        "interactions": write(folder, "X_pair.csv", text),
        "items": write(folder, "X_item.csv", items),
    }
    return ninerec.read(files, {**X, **options})


def table(release: Release) -> pl.DataFrame:
    return release.interactions.collect(engine="streaming")


def kept(release: Release) -> list[tuple[str, str]]:
    rows = table(release).filter(pl.col("issue").is_null())
    return list(rows.select("user_id", "item_id").iter_rows())


def issues(release: Release) -> dict[str, int]:
    rows = table(release).filter(pl.col("issue").is_not_null())
    return dict(rows.group_by("issue").len().iter_rows())


def real(shared_data: Path, stem: str) -> Release:
    folder = shared_data / "ninerec" / "Downstream_datasets" / stem
    files = {
        "interactions": folder / f"{stem}_behaviour.tsv",
        "items": folder / f"{stem}_item.csv",
    }
    return ninerec.read(files, {"stem": stem})


# The real NineRec files


@pytest.mark.parametrize(
    ("stem", "users", "items", "interactions"),
    [
        ("Bili_Food", 6_549, 1_579, 39_740),
        ("Bili_Dance", 10_715, 2_307, 83_392),
        ("QB", 17_722, 6_121, 133_664),
    ],
)
def test_real_targets_have_the_published_counts(
    shared_data: Path, stem: str, users: int, items: int, interactions: int
) -> None:
    release = real(shared_data, stem)
    rows = table(release)
    assert rows["issue"].null_count() == rows.height == interactions
    assert (rows["user_id"].n_unique(), rows["item_id"].n_unique()) == (users, items)
    assert release.items is not None
    assert release.items.height == items
    assert release.files[0].rows == release.files[0].kept == items


def test_real_qb_is_crlf_and_says_so(shared_data: Path) -> None:
    release = real(shared_data, "QB")
    assert release.notes == ("CRLF line ends (17,722 lines)",)
    assert not table(release)["item_id"].str.contains("\r").any()


def test_real_food_keeps_item_zero_and_the_order_of_its_item_table(shared_data: Path) -> None:
    release = real(shared_data, "Bili_Food")
    assert release.items is not None
    assert release.items["item_id"].head(3).to_list() == ["1171", "46", "1342"]
    assert "0" in release.items["item_id"]
    assert kept(release)[:3] == [("0", "1"), ("0", "2"), ("0", "0")]


def test_real_qb_ids_carry_their_prefixes(shared_data: Path) -> None:
    rows = table(real(shared_data, "QB"))
    assert rows.row(0)[:2] == ("u100", "v521057")
    assert rows["user_id"].str.starts_with("u").all()
    assert rows["item_id"].str.starts_with("v").all()


def test_real_titles_keep_commas_and_quotes(shared_data: Path) -> None:
    items = real(shared_data, "Bili_Dance").items
    assert items is not None
    titles = dict(items.select("item_id", "title_en").iter_rows())
    assert titles["2021"] == 'The full version of the original dance "Looking for Tea" is here!'


def test_real_url_preview_has_11000_rows_and_10994_addresses(shared_data: Path) -> None:
    urls = ninerec.read_urls(shared_data / "ninerec" / "ninerec_item_urls.csv")
    assert urls.columns == ["item_id", "url", "dataset"]
    assert (urls.height, urls["url"].n_unique(), urls["dataset"].n_unique()) == (11_000, 10_994, 11)
    assert urls.row(0) == ("1978", "https://www.kuaishou.com/short-video/3x7u7texrdg68vy", "KU")


def test_real_preview_repeats_6_addresses_in_both_bili_sources_only(shared_data: Path) -> None:
    urls = ninerec.read_urls(shared_data / "ninerec" / "ninerec_item_urls.csv")
    twice = urls.filter(pl.col("url").is_duplicated()).group_by("url").agg("dataset")
    assert twice.height == 6
    assert {frozenset(names) for names in twice["dataset"]} == {frozenset({"Bili_2M", "Bili_500K"})}


def test_real_preview_shares_537_ids_with_qb(shared_data: Path) -> None:
    urls = ninerec.read_urls(shared_data / "ninerec" / "ninerec_item_urls.csv")
    ids = urls.filter(pl.col("dataset") == "QB")["item_id"].unique()
    used = table(real(shared_data, "QB"))["item_id"].unique()
    assert ids.is_in(used.implode()).sum() == 537


# The real MoRec, MIND and H&M files


def test_real_amazon_keeps_20380_repeated_items(shared_data: Path) -> None:
    folder = shared_data / "morec" / "Amazon"
    files = {
        "interactions": folder / "amazon_2w_users.tsv",
        "items": folder / "amazon_2w_items.tsv",
    }
    rows = table(morec.read(files, {}))
    assert rows["issue"].null_count() == rows.height == 129_744
    assert (rows["user_id"].n_unique(), rows["item_id"].n_unique()) == (21_153, 14_438)
    assert rows.height - rows.select("user_id", "item_id").n_unique() == 20_380


def test_real_adressa_titles_are_csv_quoted(shared_data: Path) -> None:
    path = shared_data / "morec" / "Adressa" / "Adressa_news_base.tsv"
    items, report = adressa.read_items(path, {})
    assert (items.height, report.rows, report.dropped) == (20_373, 20_373, {})
    assert not items["title_en"].str.starts_with('"').all()
    raw, _ = morec.read_items(path, {"item_columns": ["item_id", "title_en"], "quoted": False})
    assert (items["title_en"] != raw["title_en"]).sum() == 559


def test_real_hm_item_list_has_86733_ids_and_no_carriage_return(shared_data: Path) -> None:
    items, _ = morec.read_items(shared_data / "morec" / "HM" / "hm_50w_items.tsv", {})
    assert items["item_id"].n_unique() == items.height == 86_733
    assert items["item_id"].head(2).to_list() == ["v27903", "v46388"]


def test_real_lfs_pointer_is_named_with_the_size_it_stands_for(shared_data: Path) -> None:
    path = shared_data / "morec" / "MIND_lfs_pointer" / "mind_large_users_base.tsv"
    with pytest.raises(MissingData, match=r"Git LFS pointer.*120,008,296 bytes.*git lfs pull"):
        refuse_not_data(path)


def real_mind(shared_data: Path) -> Release:
    folder = shared_data / "mind" / "MINDsmall_train"
    files = {"interactions": folder / "behaviors.tsv", "items": folder / "news.tsv"}
    return mind.read(files, {})


def test_real_mind_news_are_not_mangled_by_quotes(shared_data: Path) -> None:
    items = real_mind(shared_data).items
    assert items is not None
    assert items.height == items["item_id"].n_unique() == 2_000
    raw = (shared_data / "mind/MINDsmall_train/news.tsv").read_text().split("\n")
    assert items["title_en"].to_list() == [line.split("\t")[3] or None for line in raw[:2_000]]


def test_real_mind_counts_each_history_once(shared_data: Path) -> None:
    release = real_mind(shared_data)
    rows = table(release)
    assert release.notes[0].startswith("5,000 impressions of 4,637 users")
    assert rows["issue"].null_count() == rows.height == 146_474
    assert rows["timestamp"].null_count() == 138_932  # history items
    assert rows["user_id"].n_unique() == 4_637


def test_real_mind_repeats_inside_histories_stay(shared_data: Path) -> None:
    history = table(real_mind(shared_data)).filter(pl.col("timestamp").is_null())
    repeats = history.height - history.select("user_id", "item_id").n_unique()
    assert repeats == 1_980  # 2,499 when a history is counted for each of its impressions


def test_real_mind_times_are_12_hour(shared_data: Path) -> None:
    rows = table(real_mind(shared_data)).filter(pl.col("user_id") == "U81994")
    assert rows["timestamp"].max() == 1_573_568_086  # 11/12/2019 2:14:46 PM, as UTC


def real_hm(shared_data: Path) -> Release:
    names = {"interactions": "transactions_train", "items": "articles", "users": "customers"}
    files = {role: shared_data / "hm" / f"{name}.csv" for role, name in names.items()}
    return hm.read(files, {})


def test_real_hm_articles_get_their_zero_back(shared_data: Path) -> None:
    release = real_hm(shared_data)
    assert release.items is not None
    assert release.items.height == release.files[0].repaired[hm.PADDED] == 4_903
    assert release.items["item_id"][0] == "0108775015"
    assert set(release.items["item_id"].str.len_chars()) == {10}
    assert release.items["title_en"][0] == "Strap top"


def test_real_hm_has_57_empty_descriptions_and_an_unnamed_column(shared_data: Path) -> None:
    release = real_hm(shared_data)
    assert release.items is not None
    assert release.items["detail_desc"].null_count() == 57
    assert release.files[0].notes == ("unnamed column 1 left out",)
    assert len(release.items.columns) == 26


def test_real_hm_keeps_910_repeated_transactions(shared_data: Path) -> None:
    release = real_hm(shared_data)
    rows = table(release)
    assert rows["issue"].null_count() == rows.height == 10_000
    assert "910 rows repeat an earlier row and are kept" in release.notes
    assert rows["item_id"][0] == "0663713001"
    assert rows["timestamp"].unique().to_list() == [1_537_401_600]  # 2018-09-20 UTC


def test_real_hm_joins_its_articles(shared_data: Path) -> None:
    release = real_hm(shared_data)
    assert release.items is not None
    used = table(release)["item_id"].unique()
    assert used.is_in(release.items["item_id"].implode()).sum() > 0.9 * len(used)


# The same traps in written files


def test_crlf_is_no_part_of_the_last_item(tmp_path: Path) -> None:
    release = small(tmp_path, b"u1\tv1 v2\r\nu2\tv2 v1\r\n")
    assert kept(release) == [("u1", "v1"), ("u1", "v2"), ("u2", "v2"), ("u2", "v1")]
    assert "CRLF line ends (2 lines)" in release.notes


def test_item_zero_is_real(tmp_path: Path) -> None:
    release = small(tmp_path, "0\t0 1\n", "1,b,B\n0,a,A\n")
    assert kept(release) == [("0", "0"), ("0", "1")]
    assert release.items is not None
    assert release.items["item_id"].to_list() == ["1", "0"]  # the table's own order


def test_trailing_and_double_blanks_make_no_item(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1  v2 \nu2\tv3   \n")
    assert kept(release) == [("u1", "v1"), ("u1", "v2"), ("u2", "v3")]
    assert issues(release) == {}
    assert "blanks at the end of 2 lines removed" in release.notes


def test_byte_order_mark_is_no_part_of_the_first_user(tmp_path: Path) -> None:
    release = small(tmp_path, "\ufeffu1\tv1\n", "\ufeff" + TITLES)
    assert kept(release) == [("u1", "v1")]
    assert "byte-order mark at the start removed" in release.notes
    assert release.items is not None
    assert release.items["item_id"][0] == "v1"


def test_byte_order_mark_before_a_quote_leaves_the_quote_a_quote(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1\n", '\ufeff"v1","a, b",A\n')
    assert release.items is not None
    assert release.items.rows() == [("v1", "a, b", "A")]
    assert kept(pairs(tmp_path, '\ufeff"u1","v1",5\n')) == [("u1", "v1")]


def test_invisible_characters_around_ids_go_and_are_counted(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\u200b\tv1\u200b \x08v2\n", "v1\u200b,a,A\nv2,b,B\n")
    assert kept(release) == [("u1", "v1"), ("u1", "v2")]
    assert "3 ids: blanks or invisible characters at their ends removed" in release.notes
    assert release.files[0].repaired == {"id trimmed": 1}


def test_an_id_of_invisible_characters_only_is_reported(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1 \u200b v2 \ufeff\nu2\t\u200b\n")
    assert kept(release) == [("u1", "v1"), ("u1", "v2")]
    assert issues(release) == {"empty item id": 2, "no items": 1}


def test_repeated_items_in_a_sequence_stay(tmp_path: Path) -> None:
    assert kept(small(tmp_path, "u1\tv1 v1 v2 v1\n")) == [
        ("u1", "v1"),
        ("u1", "v1"),
        ("u1", "v2"),
        ("u1", "v1"),
    ]


def test_items_missing_from_the_table_and_unused_items_stay(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1 v9\n")
    assert kept(release) == [("u1", "v1"), ("u1", "v9")]
    assert release.items is not None
    assert release.items["item_id"].to_list() == ["v1", "v2", "v3"]


def test_blank_lines_empty_users_and_empty_lines_are_rows_with_a_reason(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1\n\n \n\tv1 v2\nu2\t\nu3\t \n")
    assert kept(release) == [("u1", "v1")]
    assert issues(release) == {"blank line": 2, "empty user id": 2, "no items": 2}
    assert table(release).height == 7


def test_the_later_line_of_a_user_replaces_the_earlier_one(tmp_path: Path) -> None:
    release = small(tmp_path, "u1\tv1 v2\nu2\tv3\nu1\tv3\nu2\t\n")
    assert kept(release) == [("u2", "v3"), ("u1", "v3")]
    assert issues(release) == {"user repeated: earlier line replaced": 2, "no items": 1}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("u1\tv1\nu2 v1 v2\n", 2, "no TAB"),
        ("u1\tv1\tv2\n", 1, "more than one TAB"),
        ("u1\tv1\nu2\tv1\rv2\n", 2, "carriage return"),
        (b"u1\tv1\nu2\tv\xff\n", 2, "not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    tmp_path: Path, text: str | bytes, line: int, reason: str
) -> None:
    with pytest.raises(CheckFailed, match=rf"X_behaviour.tsv, line {line}: .*{reason}"):
        small(tmp_path, text)


def test_titles_stay_untouched(tmp_path: Path) -> None:
    titles = ["a, b", 'say ""x""', "😀", "a\x08b", "\ufeffa", "a\u200bb", " "]
    text = "".join(f'{k},"{title}",en\n' for k, title in enumerate(titles))
    release = small(tmp_path, "u\t0 1\n", text)
    assert release.items is not None
    assert release.items["title_zh"].to_list() == [t.replace('""', '"') for t in titles]
    assert release.files[0].repaired == {}


def test_an_empty_title_is_null_and_a_short_row_is_counted(tmp_path: Path) -> None:
    release = small(tmp_path, "u\tv1\n", "v1,,A\nv2,b\n")
    assert release.items is not None
    assert release.items.rows() == [("v1", None, "A"), ("v2", "b", None)]
    assert release.files[0].repaired == {"columns missing at the end": 1}


def test_bytes_that_are_not_utf8_in_a_title_are_replaced_and_counted(tmp_path: Path) -> None:
    release = small(tmp_path, "u\tv1\n", b"v1,a\xffb,A\nv2,b,B\n")
    assert release.items is not None
    assert release.items["title_zh"][0] == "a\ufffdb"
    assert release.files[0].repaired == {"not UTF-8": 1}


def test_blank_rows_and_rows_without_an_id_are_counted(tmp_path: Path) -> None:
    report = small(tmp_path, "u\tv1\n", "v1,a,A\n\n,b,B\n").files[0]
    assert (report.rows, report.kept) == (3, 1)
    assert report.dropped == {"blank line": 1, "empty item id": 1}


@pytest.mark.parametrize(
    ("items", "line"),
    [
        ('v1,a,A\nv2,"b,B\nv3,c,C\nv4,d,D\n', 2),  # never closed
        ('v1,a,A\nv2,"b,B\nv3,"c",C\n', 2),  # closed by a later title
        ('v1,a,A\nv2,"b,B\nv3,c"\n', 2),  # swallows a row
        ("v1,a,A\nv2,b,B,more\n", 2),
        ("v1,a,A\nv2,b\rv3,c,C\n", 2),
    ],
)
def test_an_item_table_that_would_lose_rows_is_refused_with_the_line(
    tmp_path: Path, items: str, line: int
) -> None:
    with pytest.raises(CheckFailed, match=rf"X_item.csv, line {line}: "):
        small(tmp_path, "u\tv1\n", items)


def test_a_title_over_two_lines_is_kept_and_noted(tmp_path: Path) -> None:
    release = small(tmp_path, "u\tv1\n", 'v1,"a\nb",A\nv2,b,B\n')
    assert release.items is not None
    assert release.items["title_zh"].to_list() == ["a\nb", "b"]
    assert release.files[0].notes == ("1 records span several lines",)


# The pair file


@pytest.mark.parametrize("text", ["u1,v1,5\nu2,v2,6\n", "v1,u1,5\nv2,u2,6\n"])
def test_either_column_order_is_told_by_the_item_table(tmp_path: Path, text: str) -> None:
    release = pairs(tmp_path, text, items="v1,a,A\nv2,b,B\n")
    assert table(release).rows() == [("u1", "v1", 5, None), ("u2", "v2", 6, None)]


@pytest.mark.parametrize("text", ["10,1,5\n11,2,6\n12,3,6\n", "1,10,5\n2,11,6\n3,12,6\n"])
def test_bare_integers_are_told_apart_by_the_item_table(tmp_path: Path, text: str) -> None:
    release = pairs(tmp_path, text, items="1,a,A\n2,b,B\n3,c,C\n")
    assert kept(release) == [("10", "1"), ("11", "2"), ("12", "3")]


@pytest.mark.parametrize("swap", [False, True])
def test_where_all_ids_are_in_the_item_table_the_column_that_covers_it_is_the_items(
    tmp_path: Path, swap: bool
) -> None:
    rows = [(str(k % 50), str(k)) for k in range(200)]
    text = "".join(f"{i},{u},1\n" if swap else f"{u},{i},1\n" for u, i in rows)
    release = pairs(tmp_path, text, items="".join(f"{k},t,T\n" for k in range(200)))
    assert kept(release) == rows


def test_an_ambiguous_order_is_refused_with_both_counts_and_the_option(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"2 of the 2 values of column 1.*2 of the 2.*pair_order"):
        pairs(tmp_path, "1,2,5\n2,1,6\n", items="1,a,A\n2,b,B\n")


def test_the_option_settles_an_ambiguous_order(tmp_path: Path) -> None:
    release = pairs(tmp_path, "1,2,5\n", items="1,a,A\n2,b,B\n", pair_order="item,user")
    assert kept(release) == [("2", "1")]
    with pytest.raises(UsageError, match="pair_order is 'users'"):
        pairs(tmp_path, "1,2,5\n", pair_order="users")


def test_prefixes_settle_the_order_where_the_item_table_does_not(tmp_path: Path) -> None:
    release = pairs(tmp_path, "v8,u1,5\nv9,u2,6\n")
    assert kept(release) == [("u1", "v8"), ("u2", "v9")]


@pytest.mark.parametrize(
    "time", ["1600000000", "1600000000000", "1600000000.0", "2020-09-13T12:26:40Z"]
)
def test_times_become_seconds(tmp_path: Path, time: str) -> None:
    release = pairs(tmp_path, f"u1,v1,{time}\n")
    assert table(release)["timestamp"].to_list() == [1_600_000_000]


def test_milliseconds_are_noted(tmp_path: Path) -> None:
    release = pairs(tmp_path, "u1,v1,1600000000000\nu1,v2,1600000000\n")
    assert "1 timestamps were milliseconds: converted to seconds" in release.notes
    assert table(release)["timestamp"].to_list() == [1_600_000_000, 1_600_000_000]


def test_a_header_of_the_pair_file_is_passed_over_and_noted(tmp_path: Path) -> None:
    release = pairs(tmp_path, "user,item,timestamp\nu1,v1,5\n")
    assert kept(release) == [("u1", "v1")]
    assert "line 1 is a header (user, item, timestamp)" in release.notes


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("u1,v1,5\nu2,v2,soon\n", 2, "timestamp cannot be read"),
        ("u1,v1,5\nu2,v2,\n", 2, "timestamp cannot be read"),
        ("u1,v1,5\nu2,v2\n", 2, "3 fields"),
        ("u1,v1,5\nu2,v2,6,7\n", 2, "3 fields"),
        ('u1,v1,5\n"u2,v2,6\n', 2, "quoted field"),
    ],
)
def test_a_pair_line_that_cannot_be_read_is_named(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    with pytest.raises(CheckFailed, match=rf"X_pair.csv, line {line}: .*{reason}"):
        pairs(tmp_path, text)


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    release = pairs(tmp_path, "u1,v3,5\nu1,v1,5\nu1,v2,5\n")
    assert [item for _, item in kept(release)] == ["v3", "v1", "v2"]


def test_pairs_with_blanks_crlf_and_empty_ids_are_accounted(tmp_path: Path) -> None:
    release = pairs(tmp_path, b" u1 ,v1,5\r\n\r\n,v2,6\r\nu2,,7\r\nu2,v2,8 \r\n")
    assert kept(release) == [("u1", "v1"), ("u2", "v2")]
    assert issues(release) == {"blank line": 1, "empty user id": 1, "empty item id": 1}
    assert "1 ids: blanks or invisible characters at their ends removed" in release.notes


def test_quoted_pair_fields_lose_their_quotes(tmp_path: Path) -> None:
    assert kept(pairs(tmp_path, '"u1","v1",5\n')) == [("u1", "v1")]


# Roles, names, files that are no data


def test_the_pair_file_is_preferred_but_for_qb_and_tn() -> None:
    first = {stem: ninerec.roles({"stem": stem})[0].patterns[0] for stem in ("DY", "QB", "TN")}
    assert first == {"DY": "DY_pair.csv", "QB": "QB_behaviour.tsv", "TN": "TN_behaviour.tsv"}


def test_the_two_bili_sources_share_their_covers() -> None:
    found = {stem: ninerec.roles({"stem": stem})[-1].patterns[0] for stem in ("Bili_500K", "KU")}
    assert found == {"Bili_500K": "Source_Bili_2M_cover", "KU": "KU_cover"}


def test_every_format_has_roles_with_required_interactions() -> None:
    for name in FORMATS:
        roles = reader(name).roles({})
        assert roles[0].name == "interactions"
        assert roles[0].required
        assert len({role.name for role in roles}) == len(roles)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ninerec'"):
        reader("ninrec")


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", CheckFailed, "is empty"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", MissingData, "web page"),
        (b"\xef\xbb\xbf\n <html>", MissingData, "web page"),
        (b"<?xml version='1.0'?><Error/>", MissingData, "web page"),
        (b"PK\x03\x04rest", CheckFailed, "zip archive"),
        (b"\x1f\x8brest", CheckFailed, "gzip"),
        (b"\xff\xfeu\x001\x00", CheckFailed, "UTF-16"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77\n",
            MissingData,
            "77 bytes",
        ),
    ],
)
def test_what_is_no_data_is_refused_by_its_bytes(
    tmp_path: Path, data: bytes, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        refuse_not_data(write(tmp_path, "X_behaviour.tsv", data))


def test_an_archive_under_its_own_name_passes(tmp_path: Path) -> None:
    refuse_not_data(write(tmp_path, "covers.zip", b"PK\x03\x04"))


def test_an_absent_file_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="does not exist"):
        refuse_not_data(tmp_path / "gone.tsv")


def test_url_files_of_a_dataset_have_two_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "X_url.csv", "v1,https://a.b/?x=1,2\r\nv2,https://a.b/2\r\n")
    assert ninerec.read_urls(path).rows() == [("v1", "https://a.b/?x=1,2"), ("v2", "https://a.b/2")]


def test_a_url_file_with_a_row_without_an_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="1 without an address"):
        ninerec.read_urls(write(tmp_path, "X_url.csv", "v1,https://a.b\nv2,\n"))
