"""The prepared store: numbering, texts, order, and bytes that follow from the input alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Toy, make_toy, read_json, varied, write_catalog

from ninerec.main import parse
from ninerec_data import CheckFailed, MissingData, open_dataset
from ninerec_data.release import Release
from ninerec_data.tables import build_tables, cut_text


def rows(
    *triples: tuple[str, str, int | None], issue: dict[int, str] | None = None
) -> pl.LazyFrame:
    """Interactions as a reader gives them: (user, item, time), some with an issue."""
    issue = issue or {}
    return pl.LazyFrame(
        {
            "user_id": [u for u, _, _ in triples],
            "item_id": [i for _, i, _ in triples],
            "timestamp": [t for _, _, t in triples],
            "issue": [issue.get(n) for n in range(len(triples))],
        },
        schema_overrides={"timestamp": pl.Int64, "issue": pl.String},
    )


def build(
    folder: Path, release: Release, *, text: dict[str, list[str]] | None = None, max_words: int = 30
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    folder.mkdir(exist_ok=True)
    result = build_tables(
        release, folder, text=text or {"en": ["title_en"]}, max_words=max_words, dataset="toy"
    )
    tables = ("items", "users", "interactions")
    return result, {t: pq.read_table(folder / f"{t}.parquet").to_pylist() for t in tables}


ITEMS = pl.DataFrame(
    {
        "item_id": ["b", "a", "b", "c"],
        "title_en": ["first b", "A", "last b", None],
        "tag": list("wxyz"),
    }
)
RELEASE = Release(
    interactions=rows(
        ("u2", "x", 5), ("u1", "b", 7), ("u2", "a", 5), ("u2", "b", 4), ("u1", "a", 7), ("u2", "y", 9),
    ),
    items=ITEMS,
    users=pl.DataFrame({"user_id": ["u1", "u3"], "age": [30, 40]}),
)  # fmt: skip


def test_items_are_numbered_in_table_order_then_by_first_appearance(tmp_path: Path) -> None:
    result, tables = build(tmp_path, RELEASE)
    assert [(r["item"], r["item_id"]) for r in tables["items"]] == [
        (1, "b"), (2, "a"), (3, "c"), (4, "x"), (5, "y"),
    ]  # fmt: skip
    counts = result["counts"]
    assert (counts["item_table"], counts["items_without_row"]) == (3, 2)
    assert (counts["items_never_used"], counts["item_ids_repeated"]) == (1, 1)


def test_a_repeated_item_keeps_its_first_place_and_last_row(tmp_path: Path) -> None:
    _, tables = build(tmp_path, RELEASE)
    first = tables["items"][0]
    assert (first["item_id"], first["title_en"], first["tag"]) == ("b", "last b", "y")


def test_an_item_without_a_row_has_no_title_and_an_unsettled_cover(tmp_path: Path) -> None:
    _, tables = build(tmp_path, RELEASE)
    x = tables["items"][3]
    assert (x["title_en"], x["text_en"], x["title_from"], x["tag"]) == (None, None, None, None)
    assert x["cover"] == "unsettled"
    assert tables["items"][0]["title_from"] == "release"


def test_users_are_numbered_by_first_appearance_with_their_own_columns(tmp_path: Path) -> None:
    _, tables = build(tmp_path, RELEASE)
    assert tables["users"] == [
        {"user": 0, "user_id": "u2", "start": 0, "end": 4, "age": None},
        {"user": 1, "user_id": "u1", "start": 4, "end": 6, "age": 30},
    ]


def test_rows_stand_by_user_then_time_and_equal_times_keep_the_file_order(tmp_path: Path) -> None:
    result, tables = build(tmp_path, RELEASE)
    got = [
        tuple(r[k] for k in ("user", "item", "timestamp", "position"))
        for r in tables["interactions"]
    ]
    assert got == [
        (0, 1, 4, 0), (0, 4, 5, 1), (0, 2, 5, 2), (0, 5, 9, 3), (1, 1, 7, 0), (1, 2, 7, 1),
    ]  # fmt: skip
    assert result["counts"]["equal_timestamps"] == 2


def test_rows_without_a_time_come_first_in_file_order(tmp_path: Path) -> None:
    triples = [("u", "a", 3), ("u", "b", None), ("u", "c", 1), ("u", "d", None)]
    release = Release(interactions=rows(*triples))
    result, tables = build(tmp_path, release)
    ids = [r["item_id"] for r in tables["items"]]
    assert [ids[r["item"] - 1] for r in tables["interactions"]] == ["b", "d", "c", "a"]
    assert result["counts"]["without_timestamp"] == 2
    assert result["counts"]["equal_timestamps"] == 0


def test_a_users_rows_may_lie_apart_in_the_file(tmp_path: Path) -> None:
    triples = [("u", "a", None), ("v", "b", None), ("u", "c", None), ("v", "a", None)]
    _, tables = build(tmp_path, Release(interactions=rows(*triples)))
    got = [(r["user"], r["item"], r["position"]) for r in tables["interactions"]]
    assert got == [(0, 1, 0), (0, 3, 1), (1, 2, 0), (1, 1, 1)]


def test_an_item_whose_id_is_zero_is_an_item(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["7", "0"], "title_en": ["seven", "zero"]})
    _, tables = build(
        tmp_path, Release(interactions=rows(("0", "0", 1), ("0", "7", 2)), items=items)
    )
    assert [(r["item"], r["item_id"]) for r in tables["items"]] == [(1, "7"), (2, "0")]
    assert [r["item"] for r in tables["interactions"]] == [2, 1]


def test_repeats_stay_and_are_counted(tmp_path: Path) -> None:
    triples = [("u", "a", 1), ("u", "a", 2), ("u", "a", 2), ("v", "a", 1)]
    result, tables = build(tmp_path, Release(interactions=rows(*triples)))
    assert len(tables["interactions"]) == 4
    assert result["counts"]["repeated_user_item_pairs"] == 2


def test_rows_in_are_rows_kept_and_rows_reported(tmp_path: Path) -> None:
    frame = rows(
        ("u", "a", 1), ("u", "b", 2), ("v", "a", 3), ("v", "c", 4),
        issue={1: "blank line", 3: "no items"},
    )  # fmt: skip
    result, tables = build(tmp_path, Release(interactions=frame))
    account = result["files"][0]
    assert (account["rows"], account["kept"]) == (4, 2)
    assert account["dropped"] == {"blank line": 1, "no items": 1}
    assert [r["item_id"] for r in tables["items"]] == ["a"]


def test_a_release_without_rows_is_refused(tmp_path: Path) -> None:
    frame = rows(("u", "a", 1), issue={0: "blank line"})
    with pytest.raises(CheckFailed, match=r"toy has no interactions: 1 rows read \(1 blank line\)"):
        build(tmp_path, Release(interactions=frame))


def test_ids_that_do_not_join_are_refused_with_both_looks(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["v1", "v2"]})
    frame = rows(("u", "1", 1), ("u", "2", 2), ("u", "3", 3))
    with pytest.raises(CheckFailed, match=r"3 of 3 items .*such as 1, 2.* look like v1, v2"):
        build(tmp_path, Release(interactions=frame, items=items))


def cut(text: str | None, language: str, words: int) -> str | None:
    column = pl.DataFrame({"t": [text]}, schema={"t": pl.String})
    return column.select(cut_text(pl.col("t"), language, words)).item()


@pytest.mark.parametrize(
    ("text", "language", "words", "expected"),
    [
        ("one two three four", "en", 3, "one two three"),
        ("one two", "en", 3, "one two"),
        ("  one\t two\n\nthree ", "en", 2, "one two"),
        ("Case, and \"quotes\" stay!", "en", 9, "Case, and \"quotes\" stay!"),
        ("one \u200b two three", "en", 2, "one two"),
        ("\ufeffone\u0008 two", "en", 9, "one two"),
        ("一二三四五", "zh", 3, "一二三"),
        ("一 二三", "zh", 3, "一 二"),
        ("一二 三", "zh", 3, "一二"),
        ("一二三", "zh", 3, "一二三"),
        ("吃\U0001f60b了", "zh", 2, "吃\U0001f60b"),
        (" ", "en", 3, None),
        ("\u200b", "zh", 3, None),
        ("", "en", 3, None),
        (None, "en", 3, None),
    ],
)  # fmt: skip
def test_text_is_cut_by_words_or_characters(
    text: str | None, language: str, words: int, expected: str | None
) -> None:
    assert cut(text, language, words) == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(alphabet="ab \t\n\u3000\u200b\ufeff", max_size=20), st.integers(1, 4))
def test_cutting_words_is_the_plain_split(text: str, words: int) -> None:
    plain = [w.replace("\u200b", "").replace("\ufeff", "") for w in text.split()]
    assert (cut(text, "en", words) or "") == " ".join([w for w in plain if w][:words])


def test_texts_of_several_columns_are_joined(tmp_path: Path) -> None:
    items = pl.DataFrame(
        {"item_id": ["a", "b"], "title_en": ["T", None], "about": ["one two", "three"]}
    )
    release = Release(interactions=rows(("u", "a", 1), ("u", "b", 2)), items=items)
    _, tables = build(tmp_path, release, text={"en": ["title_en", "about", "absent"]}, max_words=2)
    assert [r["text_en"] for r in tables["items"]] == ["T one", "three"]
    assert [r["title_en"] for r in tables["items"]] == ["T", None]


OURS = ("item", "title_from", "cover", "shard", "offset", "size", "width", "height")


def test_columns_of_the_release_named_like_ours_are_renamed_and_noted(tmp_path: Path) -> None:
    own = {name: [f"own {name}"] for name in (*OURS, "text_en", "release_size")}
    items = pl.DataFrame({"item_id": ["a"], "title_en": ["T"], **own})
    users = pl.DataFrame({"user_id": ["u"], "user": ["x"], "start": [7], "end": [8]})
    release = Release(interactions=rows(("u", "a", 1)), items=items, users=users)
    result, tables = build(tmp_path, release, text={"en": ["title_en", "size"]})
    (item,), (user,) = tables["items"], tables["users"]
    assert (item["item"], item["cover"], item["text_en"]) == (1, "unsettled", "T own size")
    assert (item["title_from"], item["shard"], item["width"]) == ("release", None, None)
    renamed = {f"release_{name}": f"own {name}" for name in (*OURS, "text_en") if name != "size"}
    assert {name: item[name] for name in renamed} == renamed
    assert (item["release_size"], item["release_release_size"]) == ("own release_size", "own size")
    assert user == {
        "user": 0, "user_id": "u", "start": 0, "end": 1,
        "release_user": "x", "release_start": 7, "release_end": 8,
    }  # fmt: skip
    assert "users: the release's column start is release_start" in result["notes"]
    assert len(result["notes"]) == len(own) - 1 + 3


# The whole of prepare: bytes, stages, what may stand in the folder.


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    file, histories = varied(users=5)
    return make_toy(tmp_path, file, histories, layout="ninerec")


def test_the_same_release_elsewhere_gives_the_same_bytes(toy: Toy, tmp_path: Path) -> None:
    file, histories = varied(users=5)
    other = make_toy(tmp_path / "far" / "away", file, histories, layout="ninerec")
    left = digest(toy.prepare(users=6, seed=1).folder)
    assert left == digest(other.prepare(users=6, seed=1).folder)
    assert len(left) == 8


_PREPARE = """
import sys
from ninerec.main import main
sys.exit(main(["prepare", "toy", "--from", sys.argv[1], "--warm", "2", "--json", "--home", sys.argv[2]]))
"""


def test_threads_change_no_byte(toy: Toy, tmp_path: Path) -> None:
    found = []
    for threads in ("1", "2"):
        home = tmp_path / f"home{threads}"
        done = subprocess.run(
            [sys.executable, "-c", _PREPARE, str(toy.folder / "release"), str(home)],
            env={**os.environ, **toy.environment, "POLARS_MAX_THREADS": threads},
            check=True,
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout)["done"] == ["tables", "split"]
        found.append(digest(home / "prepared" / "toy"))
    assert found[0] == found[1]
    assert len(found[0]) == 9  # warm splits hold interactions of their own


def test_a_second_prepare_does_nothing(toy: Toy) -> None:
    assert toy.prepare().done == ("tables", "split")
    before = {p: p.stat().st_mtime_ns for p in toy.home.prepared("toy").rglob("*")}
    assert toy.prepare().done == ()
    assert {p: p.stat().st_mtime_ns for p in toy.home.prepared("toy").rglob("*")} == before


def test_another_split_redoes_the_split_alone_and_keeps_the_first(toy: Toy) -> None:
    first = toy.prepare()
    assert toy.prepare(keep_last=13).done == ("split",)
    assert toy.prepare("strict").done == ("split",)
    assert toy.prepare().done == ()
    assert len(list((first.folder / "splits").iterdir())) == 3


def test_shorter_texts_redo_the_tables_and_keep_every_split(toy: Toy) -> None:
    toy.prepare(keep_last=13)
    before = digest(toy.prepare().folder / "splits")
    made = toy.prepare(max_words=2)
    assert made.done == ("tables",)
    assert digest(made.folder / "splits") == before
    assert len(before) == 8
    ds = open_dataset(toy.name, home=toy.home)
    assert set(ds.text("en")) == {"Title, of"}


def test_a_changed_release_redoes_the_tables_and_drops_its_splits(toy: Toy) -> None:
    made = toy.prepare(keep_last=13)
    file = toy.folder / "release" / "Toy_behaviour.tsv"
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()  # the raw store holds a hard link to the old bytes
    file.write_text("".join(lines[:-1]))
    toy.import_files()
    again = toy.prepare()
    assert again.done == ("tables", "split")
    assert again.tables["counts"]["users"] == made.tables["counts"]["users"] - 1
    assert [p.name for p in (again.folder / "splits").iterdir()] == [again.protocol.split.hash]


@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("items.parquet", ("tables",)),
        ("manifest.json", ("tables",)),
        ("splits/*/sequences.parquet", ("split",)),
    ],
)
def test_a_damaged_file_is_made_again(toy: Toy, name: str, redone: tuple[str, ...]) -> None:
    folder = toy.prepare().folder
    good = digest(folder)
    (damaged,) = folder.glob(name)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert toy.prepare().done == redone
    assert digest(folder) == good


def test_a_raw_file_changed_in_place_is_said(toy: Toy) -> None:
    toy.prepare()
    with (toy.folder / "release" / "Toy_behaviour.tsv").open("a") as file:
        file.write("u999\ti1 i2 i3 i4 i5\n")
    with pytest.raises(CheckFailed, match=r"changed since it was imported .* ninerec import toy"):
        toy.prepare()


def test_a_new_keep_last_in_the_catalog_becomes_the_default_split(toy: Toy) -> None:
    """The catalog's own split fields are inputs too: open_dataset must not go on with the old ones."""
    toy.open()
    change_catalog(toy, "keep_last = 9")
    assert toy.open().protocol.split.keep_last == 9


def change_catalog(toy: Toy, keys: str) -> None:
    (toy.folder / "new").mkdir()
    write_catalog(toy.folder / "new", layout="ninerec", keys=keys)
    toy.environment["NINEREC_CATALOG"] = str(toy.folder / "new" / "catalog")


def test_new_terms_rewrite_the_manifests_alone(toy: Toy) -> None:
    folder = toy.prepare().folder
    before = digest(folder)
    change_catalog(toy, 'terms = { text = "ask first" }')
    made = toy.prepare()
    assert made.done == ("manifest",)
    after = digest(folder)
    split = f"splits/{made.protocol.split.hash}/manifest.json"
    assert {name for name in before if before[name] != after[name]} == {"manifest.json", split}
    assert made.tables["terms"]["text"] == made.split["terms"]["text"] == "ask first"
    assert toy.prepare().done == ()


def test_nothing_prepared_holds_a_path_or_a_user_name(toy: Toy) -> None:
    folder = toy.prepare(users=6).folder
    words = [str(toy.folder), toy.folder.name, str(Path.home()), "/tmp/", os.sep + "release"]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in words:
                assert word.encode() not in content, (path.name, word)


def test_manifests_hold_no_time_and_no_duration(toy: Toy) -> None:
    folder = toy.prepare().folder
    stages = {"tables": folder, "split": next((folder / "splits").iterdir())}
    for stage, place in stages.items():
        manifest = read_json(place / "manifest.json")
        assert manifest["stage"] == stage
        assert set(manifest) <= {
            "schema", "stage", "dataset", "recipe", "parameters", "inputs", "outputs", "counts",
            "files", "notes", "split_defaults", "split_hash", "published", "versions", "terms",
            "items_without_covers", "covers",
        }  # fmt: skip
        for name, facts in manifest["outputs"].items():
            assert facts["size"] == (place / name).stat().st_size


def test_a_failed_stage_leaves_the_old_one_whole(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy.prepare().folder
    good = digest(folder)

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ninerec_data.prepare.build_split", fail)
        with pytest.raises(KeyboardInterrupt):
            toy.prepare(keep_last=13)
        patch.setattr("ninerec_data.prepare.build_tables", fail)
        with pytest.raises(KeyboardInterrupt):
            toy.prepare(max_words=2)
    assert digest(folder) == good
    left = [p.name for p in folder.parent.rglob(".*") if p.name != ".toy.lock"]
    assert left == []
    assert toy.prepare().done == ()


def test_a_changed_table_is_refused_on_opening(toy: Toy) -> None:
    folder = toy.prepare().folder
    with (folder / "users.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckFailed, match=r"users\.parquet changed since the manifest"):
        open_dataset("toy", home=toy.home)


@pytest.mark.parametrize(
    "split",
    [
        {"keep_last": 13},
        {"users": 6},
        {"users": 6, "seed": 3},
        {"warm": 2},
        {"min_interactions": 6},
    ],
)
def test_an_unprepared_split_is_said_with_the_command_that_makes_it(
    toy: Toy, split: dict[str, int]
) -> None:
    toy.prepare()
    with pytest.raises(MissingData, match="run: ninerec prepare toy") as caught:
        open_dataset("toy", home=toy.home, **split)
    command = str(caught.value).partition("run: ninerec ")[2].split()
    _, args = parse(command)
    from ninerec.options import split_options

    assert split_options(args) == split


def test_an_unprepared_dataset_is_said_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="run: ninerec prepare bili_food"):
        open_dataset("bili_food", home=tmp_path)


def test_a_store_of_another_schema_is_refused_with_the_command(toy: Toy) -> None:
    folder = toy.prepare().folder
    manifest = read_json(folder / "manifest.json")
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(CheckFailed, match=r"schema version 99; .*Run: ninerec prepare toy"):
        open_dataset("toy", home=toy.home)
    assert toy.prepare().done == ("tables",)
