"""The real releases: counts, published figures, first and last rows, and what is missing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain
import pytest

from loaders import Sequences
from ninerec.main import main
from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.catalog import find
from ninerec_data.importing import import_release
from ninerec_data.prepare import Prepared, prepare
from ninerec_data.stats import statistics

DOWNSTREAM = Path("ninerec") / "Downstream_datasets"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the release must give: Table 1's figures and rows of its files."""

    users: int
    items: int
    interactions: int
    cold: int
    new: int
    first: tuple[str, str]  # id and the title's beginning, Chinese
    last: tuple[str, str]
    pool: int
    stem: str


FACTS = {
    "bili_food": Facts(
        users=6_549, items=1_579, interactions=39_740, cold=1_678, new=564,
        first=("1171", "远嫁之后，"), last=("438", "肯德基的炸酱面，"), pool=1_578, stem="Bili_Food",
    ),
    "bili_dance": Facts(
        users=10_715, items=2_307, interactions=83_392, cold=2_267, new=774,
        first=("2021", "原创舞蹈《寻茶》"), last=("2278", "【KDF韩流文化节】"), pool=2_305, stem="Bili_Dance",
    ),
    "qb": Facts(
        users=17_722, items=6_121, interactions=133_664, cold=9_339, new=5_049,
        first=("v166085", "万里挑一的4个"), last=("v544232", "大叔制作的糖油粑粑"), pool=6_121, stem="QB",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module", params=list(FACTS))
def made(request: pytest.FixtureRequest, home: Home, shared_data: Path) -> Prepared:
    """Each of the three targets, imported from the shared folder of all of them."""
    entry, _ = find(request.param)
    import_release(home, entry, shared_data / DOWNSTREAM)
    return prepare(home, entry)


@pytest.fixture(scope="module")
def ds(made: Prepared, home: Home) -> Dataset:
    return open_dataset(made.tables["dataset"], home=home)


@pytest.fixture(scope="module")
def facts(ds: Dataset) -> Facts:
    return FACTS[ds.name]


@pytest.fixture(scope="module")
def behaviours(facts: Facts, shared_data: Path) -> dict[str, list[str]]:
    """The behaviour file read by two splits, as the released code does (CRLF taken off)."""
    path = shared_data / DOWNSTREAM / facts.stem / f"{facts.stem}_behaviour.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()
    return {user: items.split(" ") for user, items in (line.split("\t") for line in lines)}


def test_statistics_are_those_of_table_1(ds: Dataset, facts: Facts) -> None:
    found = statistics(ds)
    assert found["matches_published"] is True
    assert (found["users"], found["items"], found["interactions"]) == (
        facts.users, facts.items, facts.interactions,
    )  # fmt: skip


def test_every_user_is_kept_and_a_few_items_stand_before_every_window(
    ds: Dataset, facts: Facts
) -> None:
    """The targets' users all have five interactions or more; longer histories lose their oldest rows."""
    counts = ds.split_manifest["counts"]
    assert (counts["users"], counts["pool"]) == (facts.users, facts.pool)


def test_cold_and_new_test_users(ds: Dataset, facts: Facts) -> None:
    assert (len(Sequences(ds, "cold")), len(Sequences(ds, "new"))) == (facts.cold, facts.new)
    targets = ds.split_manifest["counts"]["targets"]["test"]
    warm = facts.users - facts.cold - facts.new
    assert targets == {"cold": facts.cold, "new": facts.new, "warm": warm}


def test_first_and_last_item_rows(ds: Dataset, facts: Facts) -> None:
    rows = ds.items.select(["item", "item_id", "title_zh"]).to_pylist()
    listed = ds.manifest["counts"]["item_table"]
    for row, (number, (item, title)) in zip(
        (rows[0], rows[listed - 1]), ((1, facts.first), (listed, facts.last)), strict=True
    ):
        assert (row["item"], row["item_id"]) == (number, item)
        assert row["title_zh"].startswith(title)


def test_first_and_last_user_rows(ds: Dataset, behaviours: dict[str, list[str]]) -> None:
    ids, users = ["", *ds.item_ids], ds.users.to_pylist()
    names = list(behaviours)
    for row, name in ((users[0], names[0]), (users[-1], names[-1])):
        assert row["user_id"] == name
        assert [ids[i] for i in ds.item_of_row[row["start"] : row["end"]]] == behaviours[name]


def test_the_split_is_the_plain_one(ds: Dataset, behaviours: dict[str, list[str]]) -> None:
    expected = plain.split(ds.item_ids, behaviours, length=20, keep_last=23)
    ids, users = ["", *ds.item_ids], ds.users["user_id"].to_pylist()
    rows = ds.item_of_row.tolist()
    kept = {
        users[row["user"]]: [ids[i] for i in rows[row["start"] : row["end"]]]
        for row in ds.sequences.to_pylist()
    }
    assert kept == expected.kept
    counts = dict(zip(ds.item_ids, ds.train_count[1:].tolist(), strict=True))
    assert Counter({i: n for i, n in counts.items() if n}) == expected.train_count
    assert {i for i, wanted in zip(ids, ds.in_pool, strict=True) if wanted} == set(expected.pool)


def test_nothing_is_lost_without_a_word(made: Prepared) -> None:
    for account in made.tables["files"]:
        assert account["rows"] == account["kept"] + sum(account["dropped"].values())


def test_an_item_called_zero_is_an_item(ds: Dataset, behaviours: dict[str, list[str]]) -> None:
    zeros = sum(items.count("0") for items in behaviours.values())
    if ds.name == "qb":
        assert "0" not in ds.item_ids
        return
    number = ds.item_ids.index("0") + 1
    assert zeros > 0
    assert int((ds.item_of_row == number).sum()) == zeros


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_amazon_counts_as_published_after_the_last_13(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ("--home", str(tmp_path))
    folder = str(shared_data / "morec" / "Amazon")
    run_json(capsys, "prepare", "amazon_20k", "--from", folder, *home)
    split = run_json(capsys, "stats", "amazon_20k", "--split", *home)
    assert (split["items"], split["matches_published"]) == (14_348, True)
    assert split["split"]["users"] == 21_153
    store = run_json(capsys, "stats", "amazon_20k", *home)
    assert (store["users"], store["items"]) == (21_153, 14_438)
    assert store["matches_published"] is None
    ds = open_dataset("amazon_20k", home=tmp_path)
    assert ds.protocol.split.keep_last == 13
    assert ds.manifest["counts"]["repeated_user_item_pairs"] > 0


def test_hm_with_the_item_list_alone_names_the_users_file(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(shared_data / "morec" / "HM")
    for verb in (["import", "hm_500k", folder], ["prepare", "hm_500k"]):
        assert main([*verb, "--home", str(tmp_path)]) == 3
        said = capsys.readouterr().err
        assert "hm_50w_users.tsv" in said
        assert "ninerec import hm_500k PATH" in said
    assert not (tmp_path / "prepared" / "hm_500k").exists()
