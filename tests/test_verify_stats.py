"""Verify finds what was tampered with, at whichever level it shows; stats says what DESIGN 7 promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from releases import (
    EXACT,
    ITEMS,
    NAME,
    ROWS,
    USERS,
    check_refusal,
    digests,
    say,
    write_catalog,
    write_release,
)

from ninerec_data import CheckFailed, MissingData, get_protocol
from ninerec_data.files import sha256_file
from ninerec_data.stats import compare, plot, store_statistics
from ninerec_data.tables import write_parquet
from ninerec_data.verify import PUBLISHED, verify

Captured = pytest.CaptureFixture[str]
Tamper = Callable[[pl.DataFrame], pl.DataFrame]


def make(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = EXACT
) -> Path:
    write_catalog(tmp_path / "catalog", monkeypatch, more)
    release = tmp_path / "release"
    if not release.exists():
        write_release(release)
    assert say(capsys, "prepare", NAME, "--from", release).code == 0
    return tmp_path / "home" / "prepared" / NAME


@pytest.fixture
def prepared(capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make(capsys, tmp_path, monkeypatch)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def bad(folder: Path) -> list[str]:
    return [check.name for check in verify(folder) if check.ok is False]


def test_every_check_of_a_fresh_store_holds(capsys: Captured, prepared: Path) -> None:
    said = say(capsys, "verify", NAME, "--json")
    found = json.loads(said.out)
    assert (said.code, found["dataset"], found["ok"]) == (0, NAME, True)
    assert {check["ok"] for check in found["checks"]} == {True}
    levels = [check["level"] for check in found["checks"]]
    assert {level: levels.count(level) for level in levels} == {
        "bytes": 2,
        "structure": 12,
        "values": 5,
    }


def test_verify_changes_nothing(capsys: Captured, prepared: Path, home: Path) -> None:
    before = digests(home)
    say(capsys, "verify", NAME)
    assert digests(home) == before


def test_table_of_checks_says_ok_for_each(capsys: Captured, prepared: Path) -> None:
    out = say(capsys, "verify", NAME).out.splitlines()
    assert out[0].split() == ["level", "check", "found"]
    assert {line.split()[0] for line in out[1:]} == {"ok"}


TABLES = ["items.parquet", "users.parquet", "interactions.parquet"]
SPLIT = ["splits/*/items.parquet", "splits/*/sequences.parquet", "splits/*/leaks.json"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", TABLES + SPLIT)
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["flipped", "cut", "deleted"])
def test_file_that_is_not_the_one_written_is_named(
    capsys: Captured, prepared: Path, name: str, harm: Callable[[Path], None]
) -> None:
    path = only(prepared, name)
    harm(path)
    said = say(capsys, "verify", NAME)
    what = f"split {path.parent.name}" if path.parent != prepared else "tables"
    named = f"sha256 of the {what} (changed or missing: {path.name})"
    check_refusal(said, 1, named, f"remove {prepared} and run: ninerec prepare {NAME}")
    assert [line.split()[0] for line in said.out.splitlines()].count("FAILED") == 1


def test_json_of_a_failed_verify_is_one_document(capsys: Captured, prepared: Path) -> None:
    flip(prepared / "items.parquet")
    said = say(capsys, "verify", NAME, "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert found["ok"] is False
    assert [c["name"] for c in found["checks"] if c["ok"] is False] == ["sha256 of the tables"]


def edit_manifest(path: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("key", ["users", "items", "interactions"])
def test_counts_edited_in_the_manifest_are_found(
    capsys: Captured, prepared: Path, key: str
) -> None:
    edit_manifest(prepared / "manifest.json", lambda m: m["counts"].update({key: 7}))
    check_refusal(say(capsys, "verify", NAME), 1, "counts are the manifest's (40/30/260)")


def test_digest_edited_in_the_manifest_is_found(capsys: Captured, prepared: Path) -> None:
    edit_manifest(
        prepared / "manifest.json", lambda m: m["outputs"]["users.parquet"].update({"size": 1})
    )
    check_refusal(say(capsys, "verify", NAME), 1, "sha256 of the tables", "users.parquet")


@pytest.mark.parametrize("name", TABLES + SPLIT)
def test_file_struck_from_the_manifest_is_found(prepared: Path, name: str) -> None:
    path = only(prepared, name)
    edit_manifest(path.parent / "manifest.json", lambda m: m["outputs"].pop(path.name))
    assert len(bad(prepared)) == 1
    assert bad(prepared)[0].startswith("sha256 of the")


def test_split_without_a_manifest_is_found(capsys: Captured, prepared: Path) -> None:
    (prepared / "splits" / "0badc0de").mkdir()
    check_refusal(say(capsys, "verify", NAME), 1, "split 0badc0de (it has no manifest)")


def tampered(prepared: Path, name: str, change: Tamper) -> list[str]:
    """Change a table and make every sha256 right again, up to the split's inputs; the failed checks."""
    path = only(prepared, name)
    write_parquet(change(pl.read_parquet(path)), path)
    facts = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    edit_manifest(path.parent / "manifest.json", lambda m: m["outputs"].update({path.name: facts}))
    return bad(prepared)


def with_row(column: str, row: int, value: object) -> Tamper:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        here = pl.int_range(pl.len()) == row
        new = pl.when(here).then(pl.lit(value)).otherwise(column)
        return frame.with_columns(new.cast(frame.schema[column]).alias(column))

    return change


STRUCTURE: list[tuple[str, Tamper, str]] = [
    ("items.parquet", with_row("item", 3, 99), "items are numbered 1..M"),
    ("items.parquet", with_row("item_id", 3, "v4"), "item ids are distinct"),
    ("users.parquet", with_row("user", 3, 99), "users are numbered 0..N-1"),
    ("users.parquet", with_row("user_id", 3, "u4"), "user ids are distinct"),
    ("users.parquet", with_row("end", 3, 7), "row pointers tile the interactions"),
    ("users.parquet", lambda f: f.head(39), "row pointers tile the interactions"),
    ("interactions.parquet", with_row("user", 3, 5), "every row belongs to its user"),
    ("interactions.parquet", with_row("position", 3, 9), "positions count each user's rows"),
    ("interactions.parquet", with_row("item", 3, 0), "every interaction joins an item"),
    ("interactions.parquet", with_row("item", 3, 31), "every interaction joins an item"),
    ("interactions.parquet", with_row("timestamp", 3, 5), "times never fall within a user"),
    ("interactions.parquet", lambda f: f.head(0), "the tables can be judged"),
    ("interactions.parquet", lambda f: f.drop("item"), "the tables can be judged"),
    ("users.parquet", lambda f: f.rename({"end": "stop"}), "the tables can be judged"),
]


@pytest.mark.parametrize(
    ("name", "change", "check"), STRUCTURE, ids=lambda v: v if isinstance(v, str) else None
)
def test_tampered_table_with_a_right_sha256_is_found(
    prepared: Path, name: str, change: Tamper, check: str
) -> None:
    assert check in tampered(prepared, name, change)


IN_SPLIT: list[tuple[str, Tamper, str]] = [
    ("items", with_row("train_count", 3, 99), "train counts are those of the rows"),
    ("items", with_row("group", 3, "warm"), "groups follow the train counts"),
    ("items", with_row("in_pool", 3, False), "pool"),
    ("sequences", with_row("end", 3, 999), "sequences stay in their user"),
    ("sequences", with_row("start", 3, 0), "sequences stay in their user"),
    ("sequences", with_row("user", 3, 5), "sequences stay in their user"),
    ("sequences", lambda f: f.with_columns(start=pl.col("end") - 2), "windows keep their bounds"),
    ("sequences", with_row("role", 3, "cold-outside"), "train counts are those of the rows"),
]


@pytest.mark.parametrize(
    ("name", "change", "check"), IN_SPLIT, ids=lambda v: v if isinstance(v, str) else None
)
def test_tampered_split_with_a_right_sha256_is_found(
    prepared: Path, name: str, change: Tamper, check: str
) -> None:
    hashed = only(prepared, "splits/*").name
    assert f"split {hashed}: {check}" in tampered(prepared, f"splits/*/{name}.parquet", change)


def test_outside_user_that_trains_is_found(prepared: Path) -> None:
    def again(frame: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([frame, frame.head(1).with_columns(role=pl.lit("cold-outside"))])

    hashed = only(prepared, "splits/*").name
    failed = tampered(prepared, "splits/*/sequences.parquet", again)
    assert failed == [f"split {hashed}: outside users do not train"]


def test_split_parameters_that_cannot_be_meant_are_found(prepared: Path) -> None:
    hashed = only(prepared, "splits/*").name
    path = only(prepared, "splits/*/manifest.json")
    edit_manifest(path, lambda m: m["parameters"].update({"keep_lost": 3}))
    assert bad(prepared) == [f"the split {hashed} can be judged"]


WRONG = EXACT.replace(str(ROWS), str(ROWS + 1))
ROUNDED = 'published = { users = "40", items = "0.03K", interactions = "0.3K" }\n'


def test_published_mismatch_fails_and_names_another_way_out(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(capsys, tmp_path, monkeypatch, WRONG)
    said = say(capsys, "verify", NAME)
    figures = f"{PUBLISHED} (40/30/260; published: 40/30/261)"
    message = check_refusal(said, 1, "fails 1 of its checks", figures, "`ninerec show small`")
    assert "remove" not in message
    assert json.loads(say(capsys, "stats", NAME, "--json").out)["matches_published"] is False
    assert say(capsys, "stats", NAME).code == 0


@pytest.mark.parametrize("more", [ROUNDED, ""], ids=["rounded", "none"])
def test_rounded_or_unpublished_figures_are_not_judged(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    make(capsys, tmp_path, monkeypatch, more)
    said = say(capsys, "verify", NAME, "--json")
    assert said.code == 0
    judged = {check["name"]: check["ok"] for check in json.loads(said.out)["checks"]}
    assert judged[PUBLISHED] is None
    assert json.loads(say(capsys, "stats", NAME, "--json").out)["matches_published"] is None


SPLIT_ROWS = 10 * (5 + 6 * 3)  # the last six rows of users with 5, 6, 7 and 8


@pytest.mark.parametrize("wrong", [0, 1])
def test_published_figures_of_the_split_are_judged_on_the_default_split_alone(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    figures = f"users = {USERS}, interactions = {SPLIT_ROWS + wrong}"
    more = f'keep_last = 6\npublished = {{ {figures}, scope = "split" }}\n'
    make(capsys, tmp_path, monkeypatch, more)
    assert say(capsys, "prepare", NAME, "--max-length", 5).code == 0
    said = say(capsys, "verify", NAME, "--json")
    judged = [c["ok"] for c in json.loads(said.out)["checks"] if c["name"] == PUBLISHED]
    assert (said.code, judged) == (wrong, [None, not wrong])


def test_store_statistics_need_no_default_split(
    capsys: Captured, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(capsys, tmp_path, monkeypatch)
    found = json.loads(say(capsys, "stats", NAME, "--json").out)
    assert say(capsys, "prepare", NAME, "--max-length", 5).code == 0
    shutil.rmtree(folder / "splits" / get_protocol("ninerec-2023").split.hash)
    assert store_statistics(folder) == found
    plot(folder, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_store_statistics_of_a_changed_or_absent_store_are_refused(prepared: Path) -> None:
    with pytest.raises(MissingData, match="run: ninerec prepare other"):
        store_statistics(prepared.with_name("other"))
    flip(prepared / "users.parquet")
    with pytest.raises(CheckFailed, match=r"users\.parquet changed since the manifest"):
        store_statistics(prepared)


FIGURES = {"users": 1, "items": 2, "interactions": 3}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, True),
        ({"items": 5}, False),
        ({"items": "5K"}, True),
        ({"items": None}, True),
        ({"users": "1K", "items": "2K", "interactions": "3K"}, None),
        ({"scope": "split"}, None),
    ],
)
def test_only_exact_figures_of_the_scope_are_compared(
    changes: dict[str, object], verdict: bool | None
) -> None:
    assert compare(FIGURES, {**FIGURES, "scope": "store", **changes}, "store") is verdict


def test_stats_json_has_the_promised_keys(capsys: Captured, prepared: Path) -> None:
    found = json.loads(say(capsys, "stats", NAME, "--json").out)
    promised = {"dataset", "users", "items", "interactions", "published", "matches_published"}
    extra = {"scope", "average_length", "longest", "sparsity_percent", "words"}
    assert set(found) == promised | extra
    assert (found["users"], found["items"], found["interactions"]) == (USERS, ITEMS, ROWS)
    assert found["published"] == {
        "users": USERS,
        "items": ITEMS,
        "interactions": ROWS,
        "scope": "store",
        "source": "",
    }
    assert found["matches_published"] is True
    assert (found["average_length"], found["longest"]) == (6.5, 8)
    assert found["sparsity_percent"] == 78.3333
    # 标题0 to 标题9 have three characters, the other 20 four; every English title has three words
    assert found["words"] == {"zh": 3.67, "en": 3.0}


def test_stats_of_the_split_count_its_windows(capsys: Captured, prepared: Path) -> None:
    words = ["prepare", NAME, "--max-length", 3]
    assert say(capsys, *words).code == 0
    found = json.loads(say(capsys, "stats", NAME, "--split", "--json", "--max-length", 3).out)
    # the last six rows of users with 5, 6, 7 and 8
    assert (found["users"], found["interactions"], found["longest"]) == (40, 10 * (5 + 6 * 3), 6)
    assert (found["scope"], found["matches_published"]) == ("split", None)
    assert found["split"]["interactions"] == 230


def test_stats_are_counted_from_the_store_not_the_manifest(
    capsys: Captured, prepared: Path
) -> None:
    edit_manifest(prepared / "manifest.json", lambda m: m["counts"].update({"interactions": 7}))
    found = json.loads(say(capsys, "stats", NAME, "--json").out)
    assert (found["interactions"], found["matches_published"]) == (ROWS, True)


def test_stats_on_a_terminal_show_both_figures(capsys: Captured, prepared: Path) -> None:
    out = say(capsys, "stats", NAME).out
    assert "260   published (store) 260" in out
    assert out.endswith("  matches published: yes\n")


def test_plot_is_a_png_drawn_the_same_twice(
    capsys: Captured, prepared: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.PNG"):
        assert say(capsys, "stats", NAME, "--plot", tmp_path / name).code == 0
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert data == (tmp_path / "b.PNG").read_bytes()


def test_plot_of_a_full_disk_leaves_the_picture_of_before(
    capsys: Captured, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = say(capsys, "stats", NAME, "--plot", path, "--json")
    check_refusal(said, 1, "no space left while writing under", tmp_path)
    assert (said.out, path.read_bytes()) == ("", b"before")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "catalog", "home", "release"]


@pytest.mark.parametrize(
    ("name", "folder", "figures"),
    [
        ("bili_food", "Bili_Food", (6549, 1579, 39740)),
        ("bili_dance", "Bili_Dance", (10715, 2307, 83392)),
        ("qb", "QB", (17722, 6121, 133664)),
    ],
)
def test_real_release_meets_its_published_figures(
    capsys: Captured,
    home: Path,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    folder: str,
    figures: tuple[int, int, int],
) -> None:
    monkeypatch.delenv("NINEREC_CATALOG", raising=False)
    path = shared_data / "ninerec" / "Downstream_datasets" / folder
    assert say(capsys, "prepare", name, "--from", path).code == 0
    assert say(capsys, "verify", name).code == 0
    found = json.loads(say(capsys, "stats", name, "--json").out)
    assert tuple(found[key] for key in FIGURES) == figures
    assert found["matches_published"] is True


def test_pool_and_counts_of_a_split_agree_with_the_store(prepared: Path) -> None:
    """A plain recount of what `verify` judges: all but the last two rows of each user train."""
    rows = pl.read_parquet(prepared / "interactions.parquet")
    counts = np.zeros(ITEMS, int)
    for _, group in rows.sort("user", "position").group_by("user"):
        np.add.at(counts, group["item"].to_numpy()[:-2] - 1, 1)
    table = pl.read_parquet(only(prepared, "splits/*/items.parquet"))
    assert table["train_count"].to_list() == counts.tolist()
    assert counts.sum() == ROWS - 2 * USERS
