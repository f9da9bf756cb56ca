"""Group 1: the split against a plain version with loops, lists and counters (PAPERS_AND_CODE 6.4)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import Toy, item_lists, make_toy, masked_items, read_json, varied

from loaders import Sequences
from ninerec_data import CheckFailed, Dataset, Split, UsageError, get_protocol


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    file, histories = varied(users=40)
    return make_toy(tmp_path_factory.mktemp("toy"), file, histories, layout="ninerec")


def kept_ids(ds: Dataset, role: str = "train") -> list[tuple[str, list[str]]]:
    """(user id, item ids) of each sequence of a role, in table order."""
    ids, users = ["", *ds.item_ids], ds.users["user_id"].to_pylist()
    return [
        (users[row["user"]], [ids[i] for i in ds.item_of_row[row["start"] : row["end"]]])
        for row in ds.sequences.to_pylist()
        if row["role"] == role
    ]


def pool_of(ds: Dataset) -> list[str]:
    ids = ["", *ds.item_ids]
    return [ids[i] for i in np.flatnonzero(ds.in_pool)]


def assert_same_split(ds: Dataset, expected: plain.PlainSplit, max_length: int) -> None:
    assert kept_ids(ds) == list(expected.kept.items())
    assert pool_of(ds) == expected.pool
    for part, lists in (
        ("train", expected.train),
        ("valid", expected.valid),
        ("test", expected.test),
    ):
        got = item_lists(Sequences(ds, part, max_length=max_length, negatives=False))
        assert list(got.items()) == list(lists.items()), part
    assert masked_items(Sequences(ds, "valid")) == expected.mask_valid
    assert masked_items(Sequences(ds, "test")) == expected.mask_test
    counts = dict(zip(ds.item_ids, ds.train_count[1:].tolist(), strict=True))
    assert Counter({i: n for i, n in counts.items() if n}) == expected.train_count
    groups = dict(zip(ds.item_ids, ds.group[1:].tolist(), strict=True))
    assert groups == {i: plain.group_of(n) for i, n in counts.items()}


@pytest.mark.parametrize("length", [20, 10])
def test_the_split_is_the_plain_one(toy: Toy, length: int) -> None:
    expected = plain.split(toy.item_file, toy.histories, length=length, keep_last=length + 3)
    assert_same_split(toy.open(keep_last=length + 3), expected, length)


def test_bert4recs_window_of_21_is_the_same_23_rows(toy: Toy) -> None:
    """BERT4Rec keeps L + 2 with L = 21; its sequences hold 21 items, target included."""
    expected = plain.split(toy.item_file, toy.histories, length=20, keep_last=21 + 2)
    assert max(map(len, expected.train.values())) == 21
    assert max(map(len, expected.test.values())) == 21
    assert_same_split(toy.open(), expected, 20)


def test_where_each_named_item_ends_up(toy: Toy) -> None:
    ds = toy.open()
    pool, groups = pool_of(ds), dict(zip(ds.item_ids, ds.group[1:].tolist(), strict=True))
    assert {"only_valid", "only_test"} <= set(pool)
    assert not {"only_short", "only_prefix", "never"} & set(pool)
    assert (groups["only_valid"], groups["only_test"]) == ("new", "new")


def test_the_user_of_four_is_dropped_and_the_user_of_five_trains_on_three(toy: Toy) -> None:
    train = item_lists(Sequences(toy.open(), "train", negatives=False))
    assert "u0" not in train
    assert train["u1"] == list(toy.histories["u1"][:3])


def test_nine_train_rows_are_cold_and_ten_are_warm(tmp_path: Path) -> None:
    histories = {
        f"u{n}": ["ten", *(["nine"] if n < 9 else ["x"]), "a", "b", "c"] for n in range(10)
    }
    ds = make_toy(tmp_path, ["ten", "nine", "x", "a", "b", "c"], histories).open()
    groups = dict(zip(ds.item_ids, ds.group[1:].tolist(), strict=True))
    assert groups == {
        "ten": "warm", "nine": "cold", "x": "cold", "a": "warm", "b": "new", "c": "new",
    }  # fmt: skip


def test_cold_and_new_are_the_regular_test_users_with_such_a_target(toy: Toy) -> None:
    ds = toy.open()
    expected = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    for group in ("cold", "new"):
        users = [
            u
            for u, s in expected.test.items()
            if plain.group_of(expected.train_count[s[-1]]) == group
        ]
        assert users, "the toy must hold such targets"
        assert list(item_lists(Sequences(ds, group))) == users


def test_both_layouts_of_one_release_give_one_split(tmp_path: Path) -> None:
    file, histories = varied()
    generic = make_toy(tmp_path / "a", file, histories, layout="generic").open()
    ninerec = make_toy(tmp_path / "b", file, histories, layout="ninerec").open()
    assert kept_ids(generic) == kept_ids(ninerec)
    assert pool_of(generic) == pool_of(ninerec)


def test_the_newest_interactions_are_kept_by_time_not_by_file(tmp_path: Path) -> None:
    items = [f"i{n}" for n in range(12)]
    times = {"u": [900 + n for n in range(9, -1, -1)], "v": [10, 9, 11, 100, 12]}
    histories = {"u": items[:10], "v": items[:5]}
    toy = make_toy(tmp_path, items, histories, times=times)
    kept = dict(kept_ids(toy.open(keep_last=6)))
    assert kept["u"] == items[5::-1]
    assert kept["v"] == ["i1", "i0", "i2", "i4", "i3"]


sequences = st.lists(st.sampled_from([f"i{n}" for n in range(14)]), min_size=1, max_size=14)


@settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    st.lists(sequences, min_size=2, max_size=12).filter(lambda s: any(len(x) >= 5 for x in s)),
    st.permutations([f"i{n}" for n in range(14)]),
    st.integers(4, 12),
)
def test_any_histories_split_like_the_plain_version(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[list[str]],
    file: list[str],
    keep_last: int,
) -> None:
    histories = {f"u{n}": items for n, items in enumerate(drawn)}
    ds = make_toy(tmp_path_factory.mktemp("any"), file, histories).open(keep_last=keep_last)
    length = keep_last - 3
    expected = plain.split(file, histories, length=length, keep_last=keep_last)
    assert_same_split(ds, expected, length)


@pytest.mark.parametrize(("items_from", "users_from"), [(3, 5), (8, 10), (8, 4)])
def test_warm_items_and_users_are_the_plain_loops(
    toy: Toy, items_from: int, users_from: int
) -> None:
    left = plain.warm(toy.histories, items_from=items_from, users_from=users_from)
    assert left
    assert left != toy.histories
    expected = plain.split(toy.item_file, left, length=20, keep_last=23)
    ds = toy.open(warm=items_from, warm_users=users_from)
    assert_same_split(ds, expected, 20)


def test_dropping_users_makes_items_rare_again_and_both_rules_hold_at_the_end(
    tmp_path: Path,
) -> None:
    """`d` is warm only thanks to user s, who falls below three items once `e` has gone."""
    histories = {
        "p": ["a", "b", "c", "x", "y"],
        "q": ["a", "b", "c", "x", "d"],
        "r": ["a", "b", "c", "y", "x"],
        "s": ["d", "e", "y"],
    }
    toy = make_toy(tmp_path, list("abcdexy"), histories)
    ds = toy.open(warm=2, warm_users=3)
    left = plain.warm(histories, items_from=2, users_from=3)
    assert left["q"] == ["a", "b", "c", "x"]
    assert dict(kept_ids(ds)) == {"p": histories["p"], "r": histories["r"]}
    assert not {"d", "e"} & set(pool_of(ds))


def test_warm_users_default_to_ten_items(toy: Toy) -> None:
    left = plain.warm(toy.histories, items_from=5, users_from=10)
    assert [u for u, _ in kept_ids(toy.open(warm=5))] == list(left)


def test_a_draw_takes_that_many_of_the_users_long_enough(toy: Toy) -> None:
    everyone = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    drawn = [u for u, _ in kept_ids(toy.open(users=10, seed=3))]
    assert len(drawn) == 10
    assert [u for u in everyone.users if u in set(drawn)] == drawn


def test_another_seed_draws_other_users(toy: Toy) -> None:
    draws = {tuple(u for u, _ in kept_ids(toy.open(users=10, seed=seed))) for seed in range(4)}
    assert len(draws) == 4


def test_a_draw_depends_on_the_seed_alone(toy: Toy) -> None:
    """Not on the window, the pool, the items or the words of the tables."""
    drawn = [u for u, _ in kept_ids(toy.open(users=10, seed=3))]
    for other in ({"keep_last": 13}, {"pool": "release"}, {"cold_below": 3}):
        assert [u for u, _ in kept_ids(toy.open(users=10, seed=3, **other))] == drawn


def test_a_smaller_draw_is_part_of_a_larger_one(toy: Toy) -> None:
    drawn = [{u for u, _ in kept_ids(toy.open(users=n, seed=1))} for n in (3, 9, 20)]
    assert drawn[0] < drawn[1] < drawn[2]


def test_a_drawn_split_is_the_plain_split_of_the_drawn_users(toy: Toy) -> None:
    ds = toy.open(users=12, seed=5)
    drawn = {u: toy.histories[u] for u, _ in kept_ids(ds)}
    expected = plain.split(toy.item_file, drawn, length=20, keep_last=23)
    assert_same_split(ds, expected, 20)


@pytest.mark.parametrize("keep_last", [23, 9])
@pytest.mark.parametrize("group", ["cold", "new"])
def test_outside_sequences_are_the_plain_loops(toy: Toy, group: str, keep_last: int) -> None:
    ds = toy.open(users=6, seed=2, keep_last=keep_last)
    drawn = {u: toy.histories[u] for u, _ in kept_ids(ds)}
    training = plain.split(toy.item_file, drawn, length=keep_last - 3, keep_last=keep_last)
    found, skipped = plain.outside(toy.histories, training, group=group, keep_last=keep_last)
    assert found
    assert kept_ids(ds, f"{group}-outside") == found
    assert max(len(s) for _, s in found) <= keep_last - 2
    assert not {u for u, _ in found} & set(drawn)
    counts = ds.split_manifest["counts"]
    assert counts[f"{group}_outside"] == len(found)
    other = "new" if group == "cold" else "cold"
    elsewhere = plain.outside(toy.histories, training, group=other, keep_last=keep_last)[1]
    assert counts["outside_skipped"] == skipped + elsewhere
    assert skipped + elsewhere > 0


def test_no_draw_leaves_nobody_outside(toy: Toy) -> None:
    counts = toy.open().split_manifest["counts"]
    assert (counts["cold_outside"], counts["new_outside"], counts["outside_skipped"]) == (0, 0, 0)


def test_the_strict_pool_is_every_item_with_an_interaction(toy: Toy) -> None:
    used = {i for items in toy.histories.values() for i in items}
    assert pool_of(toy.open("strict")) == [i for i in toy.item_file if i in used]


def test_strict_masks_the_whole_history_before_the_target(toy: Toy) -> None:
    ds = toy.open("strict", keep_last=8)
    for part, cut in (("valid", 2), ("test", 1)):
        masked = masked_items(Sequences(ds, part))
        assert masked == {u: set(toy.histories[u][:-cut]) for u in masked}
    assert masked["u10"] > set(toy.histories["u10"][-8:-1])


def test_leaks_of_a_release_without_times_are_counted_by_hand(tmp_path: Path) -> None:
    histories = {
        "repeats": ["a", "b", "c", "d", "a"],  # the test target stands in the train rows
        "twice": ["a", "b", "c", "d", "d"],  # and here it is the validation target
        "fresh": ["a", "b", "c", "d", "e"],
        "short": ["a", "b", "a"],
    }
    made = make_toy(tmp_path, list("abcde"), histories).prepare()
    leaks = made.folder / "splits" / made.protocol.split.hash / "leaks.json"
    assert read_json(leaks) == {
        "users": 3,
        "test_target_in_own_history": 2,
        "order_rests_on_file": 3,
        "test_before_newest_train": None,
        "train_after_earliest_test": None,
    }


def test_leaks_of_times_are_counted_by_hand(tmp_path: Path) -> None:
    items = list("abcde")
    times = {
        "early": [1, 2, 3, 4, 5],  # its test is older than late's newest train row (12)
        "late": [10, 11, 12, 20, 30],  # train rows 10, 11, 12 are newer than the earliest test (5)
        "tied": [1, 2, 3, 40, 40],
    }
    made = make_toy(tmp_path, items, dict.fromkeys(times, items), times=times).prepare()
    leaks = made.folder / "splits" / made.protocol.split.hash / "leaks.json"
    assert read_json(leaks) == {
        "users": 3,
        "test_target_in_own_history": 0,
        "order_rests_on_file": 1,
        "test_before_newest_train": 1,
        "train_after_earliest_test": 3,
    }


def test_a_repeated_target_outside_the_window_is_no_leak_of_it(tmp_path: Path) -> None:
    histories = {"u": ["z", *"abcdefgh", "z"], "v": [*"abcdefgh"]}
    made = make_toy(tmp_path, list("abcdefghz"), histories).prepare(keep_last=6)
    leaks = made.folder / "splits" / made.protocol.split.hash / "leaks.json"
    assert read_json(leaks)["test_target_in_own_history"] == 0


def test_the_pool_is_counted_in_the_manifest(toy: Toy) -> None:
    ds = toy.open()
    expected = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    counts = ds.split_manifest["counts"]
    assert counts["pool"] == len(expected.pool)
    assert counts["users"] == len(expected.users)
    assert counts["interactions"] == sum(map(len, expected.kept.values()))
    targets = Counter(plain.group_of(expected.train_count[s[-1]]) for s in expected.test.values())
    assert counts["targets"]["test"] == {g: targets[g] for g in ("new", "cold", "warm")}


def test_a_seed_without_a_draw_is_the_same_split() -> None:
    default = get_protocol("ninerec-2023").split.hash
    assert get_protocol("ninerec-2023", seed=5, warm_users=7).split.hash == default
    others = [{"users": 5}, {"users": 5, "seed": 1}, {"warm": 2}, {"warm": 2, "warm_users": 5},
              {"keep_last": 13}, {"min_interactions": 6}, {"cold_below": 5}, {"pool": "release"}]  # fmt: skip
    hashes = {get_protocol("ninerec-2023", **split).split.hash for split in others}
    assert len(hashes | {default}) == len(others) + 1


def test_two_protocols_on_one_split_have_two_hashes() -> None:
    strict = get_protocol("strict")
    as_released = get_protocol("ninerec-2023", pool="release")
    assert strict.split.hash == as_released.split.hash
    assert strict.hash != as_released.hash


def test_more_users_than_there_are_cannot_be_drawn(toy: Toy) -> None:
    with pytest.raises(CheckFailed, match=r"51 users were asked for and only 50 "):
        toy.prepare(users=51)


def test_a_floor_nobody_reaches_says_how_long_the_longest_history_is(toy: Toy) -> None:
    with pytest.raises(
        CheckFailed, match=r"longest history has 31 .* --min-interactions, which is 32"
    ):
        toy.prepare(min_interactions=32)


@pytest.mark.parametrize(
    "wrong", [{"order": "x"}, {"warm_users": 0}, {"cold_below": 0}, {"seed": -1}, {"seed": True}]
)
def test_a_split_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(UsageError, match=f"{key} is .*expected"):
        Split(**wrong)


def test_an_unknown_protocol_like_no_other_is_a_sentence_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"^unknown protocol 'zzz'\. Known: ninerec-2023, strict$"):
        get_protocol("zzz")


def test_roles_and_groups_are_words_in_a_dictionary(toy: Toy) -> None:
    folder = toy.open(users=8).split_folder
    for name, column in (("sequences", "role"), ("items", "group")):
        file = pq.ParquetFile(folder / f"{name}.parquet")
        place = file.schema_arrow.get_field_index(column)
        chunk = file.metadata.row_group(0).column(place)
        assert (chunk.has_dictionary_page, str(file.schema_arrow.field(column).type)) == (
            True,
            "string",
        )


def test_an_unknown_split_field_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="'kept_last'; did you mean 'keep_last'"):
        get_protocol("ninerec-2023", kept_last=13)
