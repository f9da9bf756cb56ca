"""Every sample against the papers' rule, written once more as loops over lists; draws that only their key moves."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import torch
from toy import Toy, make_toy, varied

from loaders import Batch, Sequences, make_loader
from ninerec_data import CheckFailed, Dataset, UsageError

LENGTH, KEEP = 20, 23
NAMES = ("s2s", "s2o", "masked", "pairs", "subsequences")
List = list[int]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Sequences of every length that matters; every third user comes back to what they had."""
    file, histories = varied(users=20)
    draw = random.Random(5)
    for user in list(histories)[1::3]:
        few = histories[user][: max(3, len(histories[user]) // 2)]
        histories[user] = [*few, *draw.choices(few, k=len(histories[user]) - len(few))]
    return make_toy(tmp_path_factory.mktemp("toy"), file, histories, layout="ninerec")


@pytest.fixture(scope="module")
def ds(toy: Toy) -> Dataset:
    return toy.open()


@pytest.fixture(scope="module")
def split(toy: Toy) -> plain.PlainSplit:
    return plain.split(toy.item_file, toy.histories, length=LENGTH, keep_last=KEEP)


@pytest.fixture(scope="module")
def train(ds: Dataset, split: plain.PlainSplit) -> dict[int, List]:
    """user number -> the item numbers of s[:-2], as the plain split has them."""
    return numbered(ds, split.train)


def numbered(ds: Dataset, lists: dict[str, list[str]]) -> dict[int, List]:
    item = {name: n + 1 for n, name in enumerate(ds.item_ids)}
    user = {name: n for n, name in enumerate(ds.user_ids)}
    return {user[u]: [item[i] for i in items] for u, items in lists.items()}


def rows(batch: Batch, index: torch.Tensor | None) -> list[List]:
    """Inverse indices as item numbers, 0 where there is none."""
    assert index is not None
    return torch.cat([torch.zeros(1, dtype=torch.int64), batch.unique_items])[index].tolist()


def everyone(sequences: Sequences, **key: int) -> Batch:
    return sequences.batch(np.arange(len(sequences)), **key)


def samples(batch: Batch) -> list[dict[str, Any]]:
    """Each sequence of a batch by itself, its pads cut off: what it shows, predicts and draws."""
    found = []
    places = zip(
        batch.users.tolist(),
        rows(batch, batch.inverse),
        batch.mask.tolist(),
        batch.predict.tolist(),
        rows(batch, batch.goals),
        rows(batch, batch.inverse * 0 if batch.negatives is None else batch.negatives),
        [[]] * len(batch.users) if batch.later is None else rows(batch, batch.later),
        strict=True,
    )
    for user, items, mask, predict, goals, negatives, later in places:
        assert [item > 0 for item in items] == mask == sorted(mask)  # pads on the left, and all
        real = sum(mask) - (len(mask) - len(predict))  # places that could predict
        assert not any(predict[: len(predict) - real])
        found.append(
            {
                "user": user,
                "items": [i for i in items if i],
                "predict": predict[-real:],
                "goals": [goal for goal, wanted in zip(goals, predict, strict=True) if wanted],
                "negatives": [n for n in negatives if n],
                "later": [i for i in later if i],
            }
        )
    return found


def test_s2s_predicts_the_next_item_at_every_transition(
    ds: Dataset, train: dict[int, List]
) -> None:
    for length in (LENGTH, 6):
        batch = everyone(Sequences(ds, max_length=length))
        shown = {s["user"]: s for s in samples(batch)}
        assert list(shown) == list(train)
        for at, (user, whole) in enumerate(train.items()):
            slots, transitions = plain.sample(whole[-(length + 1) :], length)
            width = batch.inputs.shape[1]
            assert rows(batch, batch.inputs)[at] == slots[:-1][-width:]
            assert batch.predict[at].tolist() == [bool(t) for t in transitions][-width:]
            assert batch.input_mask[at].tolist() == [slot > 0 for slot in slots[:-1]][-width:]
            assert shown[user]["goals"] == whole[-(length + 1) :][1:]


def test_s2o_predicts_the_last_train_item_alone(ds: Dataset, train: dict[int, List]) -> None:
    batch = everyone(Sequences(ds, sample="s2o"))
    for one in samples(batch):
        whole = train[one["user"]]
        assert one["items"] == whole
        assert one["goals"] == [whole[-1]]
    assert batch.predict[:, -1].all()
    assert batch.predict.sum() == len(batch.users)


def test_s2o_has_the_negative_that_s2s_stores_at_the_last_input(ds: Dataset) -> None:
    whole, last = everyone(Sequences(ds), epoch=3), everyone(Sequences(ds, sample="s2o"), epoch=3)
    for every, one in zip(samples(whole), samples(last), strict=True):
        assert one["negatives"] == every["negatives"][-1:]


def test_masked_hides_items_of_the_whole_train_list_and_predicts_just_those(
    ds: Dataset, train: dict[int, List]
) -> None:
    sequences = Sequences(ds, sample="masked")
    for epoch in range(20):
        batch = everyone(sequences, epoch=epoch)
        assert batch.predict.shape == batch.inverse.shape  # no shift
        assert torch.equal(batch.inputs, batch.inverse)
        for one in samples(batch):
            whole = train[one["user"]]
            assert one["items"] == whole[-21:]
            hidden = [item for item, was in zip(whole, one["predict"], strict=True) if was]
            assert one["goals"] == hidden
            assert hidden  # the released code divides by none of them where it hides none


@pytest.mark.parametrize("rate", [0.15, 0.4, 0.6])
def test_each_place_is_hidden_as_often_as_asked(
    ds: Dataset, train: dict[int, List], rate: float
) -> None:
    """Of n places each with odds p + (1-p)^n / n: where chance hides none, one of them is."""
    sequences, epochs = Sequences(ds, sample="masked", mask_rate=rate, negatives=False), 400
    hidden = torch.stack([everyone(sequences, epoch=epoch).predict for epoch in range(epochs)])
    mask = everyone(sequences).mask
    statistic = cells = 0.0
    for row, whole in enumerate(train.values()):
        n = len(whole)
        odds = rate + (1 - rate) ** n / n
        found = hidden[:, row, mask[row]].sum(0)
        statistic += float(((found - epochs * odds) ** 2 / (epochs * odds * (1 - odds))).sum())
        cells += n
    assert abs(statistic - cells) < 4.5 * math.sqrt(2 * cells)  # it has `cells` degrees of freedom


def test_places_are_hidden_apart_from_each_other(ds: Dataset, train: dict[int, List]) -> None:
    """How many of n are hidden is binomial: neither all or nothing nor a fixed share."""
    sequences = Sequences(ds, sample="masked", negatives=False)
    at, n = next((i, len(items)) for i, items in enumerate(train.values()) if len(items) == 20)
    alone = np.array([at])
    counts = Counter(int(sequences.batch(alone, epoch=e).predict.sum()) for e in range(1000))
    odds = {k: math.comb(n, k) * 0.4**k * 0.6 ** (n - k) for k in range(n + 1)}
    seen = dict.fromkeys(range(4, 13), 0.0)
    expected = dict(seen)
    for k in range(n + 1):
        expected[min(max(k, 4), 12)] += 1000 * odds[k]
        seen[min(max(k, 4), 12)] += counts[k]
    assert chi_square(seen, expected) < limit(len(seen))


def test_a_rate_of_one_hides_all_and_of_next_to_nothing_one_place_at_random(
    ds: Dataset, train: dict[int, List]
) -> None:
    batch = everyone(Sequences(ds, sample="masked", mask_rate=1.0))
    assert torch.equal(batch.predict, batch.mask)
    rare = Sequences(ds, sample="masked", mask_rate=1e-9, negatives=False)
    at = next(i for i, items in enumerate(train.values()) if len(items) == 10)
    places: Counter[int] = Counter()
    for epoch in range(600):
        (place,) = rare.batch(np.array([at]), epoch=epoch).predict[0].nonzero().flatten().tolist()
        places[place] += 1
    assert chi_square(places, dict.fromkeys(range(10), 60.0)) < limit(10)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_pairs_are_every_train_item_of_every_user_once_an_epoch(
    ds: Dataset, train: dict[int, List], batch_size: int
) -> None:
    sequences = Sequences(ds, sample="pairs", max_length=5)  # no length of a model cuts them
    want = Counter((user, item) for user, items in train.items() for item in items)
    assert len(sequences) == want.total()
    for epoch in range(2):
        found: Counter[tuple[int, int]] = Counter()
        for batch in make_loader(sequences, batch_size, seed=1).at(epoch):
            assert batch.inverse.shape[1:] == batch.predict.shape[1:] == (1,)
            assert batch.predict.all()
            assert torch.equal(batch.goals, batch.inverse)
            found.update(zip(batch.users.tolist(), batch.targets.tolist(), strict=True))
        assert found == want


def test_pairs_hold_users_of_one_train_item_too(tmp_path: Path) -> None:
    """One item has no transition, but it is a pair."""
    histories = {"u": list("abc"), "v": list("dabce")}
    ds = make_toy(tmp_path, list("abcde"), histories).open(min_interactions=3)
    batch = everyone(Sequences(ds, sample="pairs"))
    found = [(s["user"], ds.item_ids[s["items"][0] - 1]) for s in samples(batch)]
    assert sorted(found) == [(0, "a"), (1, "a"), (1, "b"), (1, "d")]
    assert everyone(Sequences(ds, sample="s2s")).users.tolist() == [1]


@pytest.mark.parametrize(("length", "ahead"), [(LENGTH, 3), (4, 2), (1, 1), (LENGTH, 50)])
def test_subsequences_are_a_prefix_and_the_next_items(
    ds: Dataset, train: dict[int, List], length: int, ahead: int
) -> None:
    sequences = Sequences(ds, sample="subsequences", max_length=length, ahead=ahead)
    for epoch in range(30):
        batch = everyone(sequences, epoch=epoch)
        assert batch.predict[:, -1].all()
        assert batch.predict.sum() == len(batch.users)
        assert batch.later.shape == batch.negatives.shape == (len(batch.users), ahead)
        assert torch.equal(batch.later > 0, batch.negatives > 0)
        for one in samples(batch):
            whole = train[one["user"]]
            cuts = [
                cut
                for cut in range(1, len(whole))
                if one["items"] == whole[:cut][-length:]
                and one["later"] == whole[cut : cut + ahead]
            ]
            assert cuts, one


def test_cuts_are_uniform_over_the_places_and_new_each_epoch(
    ds: Dataset, train: dict[int, List]
) -> None:
    sequences = Sequences(ds, sample="subsequences", negatives=False)
    at, user = next(
        (i, u) for i, (u, items) in enumerate(train.items()) if len(items) == len({*items}) == 18
    )
    cuts = [
        train[user].index(samples(sequences.batch(np.array([at]), epoch=e))[0]["items"][-1])
        for e in range(700)
    ]
    expected = dict.fromkeys(range(17), 700 / 17)  # each of the 18 places but the last
    assert chi_square(Counter(cuts), expected) < limit(17)
    follows = Counter((b - a) % 17 for a, b in itertools.pairwise(cuts))
    assert chi_square(follows, dict.fromkeys(range(17), 699 / 17)) < limit(17)


@pytest.mark.parametrize("sample", ["masked", "subsequences"])
def test_what_is_drawn_is_new_each_epoch_and_seed(ds: Dataset, sample: str) -> None:
    sequences = Sequences(ds, sample=sample, negatives=False)
    keys = ((0, 0), (0, 1), (1, 0))
    drawn = [samples(everyone(sequences, seed=seed, epoch=epoch)) for seed, epoch in keys]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        same = [x == y for x, y in zip(drawn[a], drawn[b], strict=True) if len(x["items"]) > 6]
        assert np.mean(same) < 0.3


def chi_square(seen: Any, expected: dict[int, float]) -> float:
    assert set(seen) <= set(expected)
    return sum((seen[k] - e) ** 2 / e for k, e in expected.items())


def limit(cells: int) -> float:
    """The 99.9 % quantile of chi-square with cells - 1 degrees (Wilson and Hilferty)."""
    k = cells - 1
    return k * (1 - 2 / (9 * k) + 3.09 * math.sqrt(2 / (9 * k))) ** 3


@pytest.mark.parametrize("sampler", ["uniform", "popularity"])
@pytest.mark.parametrize("sample", NAMES)
def test_each_thing_predicted_has_one_negative_that_is_none_of_the_users_train_items(
    ds: Dataset, train: dict[int, List], sample: str, sampler: str
) -> None:
    sequences = Sequences(ds, sample=sample, sampler=sampler, max_length=7)
    for epoch in range(8):
        batch = everyone(sequences, epoch=epoch)
        where = batch.predict if batch.later is None else batch.later > 0
        assert torch.equal(batch.negatives > 0, where)
        for one in samples(batch):
            assert not {*one["negatives"]} & {*train[one["user"]]}


@pytest.mark.parametrize(
    "sample", ["s2s", "masked", "pairs", "subsequences"]
)  # s2o has those of s2s
def test_negatives_are_as_frequent_as_the_sampler_says(
    ds: Dataset, split: plain.PlainSplit, train: dict[int, List], sample: str
) -> None:
    """Uniform over the pool, or in proportion to the train rows; without the user's train items."""
    at, user = next((i, u) for i, (u, items) in enumerate(train.items()) if len(items) == 20)
    pool = {ds.item_ids.index(item) + 1 for item in split.pool}
    train_rows = Counter(item for items in train.values() for item in items)
    for sampler in ("uniform", "popularity"):
        sequences = Sequences(ds, sample=sample, sampler=sampler, ahead=8)
        index = np.flatnonzero(sequences.user == user) if sample == "pairs" else np.array([at])
        weights = {i: train_rows[i] if sampler == "popularity" else 1 for i in pool}
        weights = {i: w for i, w in weights.items() if w and i not in train[user]}
        drawn: Counter[int] = Counter()
        for epoch in range(150):
            for one in samples(sequences.batch(index, seed=2, epoch=epoch)):
                drawn.update(one["negatives"])
        scale = drawn.total() / sum(weights.values())
        assert drawn.total() > 20 * len(weights)
        assert chi_square(drawn, {i: w * scale for i, w in weights.items()}) < limit(len(weights))


def test_by_popularity_new_items_are_never_drawn_and_all_others_are(
    ds: Dataset, split: plain.PlainSplit
) -> None:
    sequences = Sequences(ds, sampler="popularity")
    drawn: set[str] = set()
    for epoch in range(30):
        for one in samples(everyone(sequences, epoch=epoch)):
            drawn |= {ds.item_ids[item - 1] for item in one["negatives"]}
    assert drawn == {item for item, n in split.train_count.items() if n}
    assert not drawn & {"only_valid", "only_test", "never"}


def test_items_that_stand_once_are_drawn_alike_the_first_and_the_last_too(tmp_path: Path) -> None:
    ds = make_toy(tmp_path, list("abcdef"), {"u": list("abcde"), "v": list("defab")}).open()
    assert ds.train_count.tolist() == [0, 1, 1, 1, 1, 1, 1]
    sequences = Sequences(ds, sampler="popularity")
    drawn: Counter[int] = Counter()
    for epoch in range(300):
        drawn.update(
            n for one in samples(everyone(sequences, epoch=epoch)) for n in one["negatives"]
        )
    assert chi_square(drawn, dict.fromkeys(range(1, 7), 200.0)) < limit(6)


@pytest.mark.parametrize("sample", NAMES)
def test_batch_size_order_workers_and_world_change_no_draw(ds: Dataset, sample: str) -> None:
    sequences = Sequences(ds, sample=sample, sampler="popularity")

    def of(batches: Any) -> list[str]:
        return sorted(str(one) for batch in batches for one in samples(batch))

    want = of([everyone(sequences, seed=3, epoch=2)])
    assert len(want) == len(sequences)
    assert of([sequences.batch(np.arange(len(sequences))[::-1], seed=3, epoch=2)]) == want
    for size in (7, 500):
        assert of(make_loader(sequences, size, seed=3).at(2)) == want
    assert of(make_loader(sequences, 7, seed=3, workers=2, similar=2).at(2)) == want
    for world in (2, 3):
        ranks = [make_loader(sequences, 9, seed=3, rank=r, world=world) for r in range(world)]
        assert of(b for r in ranks for b in r.at(2) if b.predict.any()) == want


@pytest.mark.parametrize("part", ["valid", "test", "cold"])
@pytest.mark.parametrize("sample", NAMES)
def test_evaluation_predicts_the_held_out_item_from_what_stands_before_it(
    toy: Toy, ds: Dataset, split: plain.PlainSplit, sample: str, part: str
) -> None:
    lists = split.valid if part == "valid" else split.test
    bars = split.mask_valid if part == "valid" else split.mask_test
    if part == "cold":
        lists = {
            u: s for u, s in lists.items() if plain.group_of(split.train_count[s[-1]]) == "cold"
        }
    windows = numbered(ds, lists)
    sequences = Sequences(ds, part, sample=sample)
    batch = everyone(sequences)
    assert (batch.negatives, batch.later) == (None, None)
    assert batch.users.tolist() == list(windows)
    assert batch.targets.tolist() == [window[-1] for window in windows.values()]
    for one in samples(batch):
        window = windows[one["user"]]
        assert one["items"] == (window[-1:] if sample == "pairs" else window)
        assert one["goals"] == window[-1:]
    assert batch.predict.shape[1] == batch.mask.shape[1] - (sample not in ("masked", "pairs"))
    barred: dict[str, set[str]] = {user: set() for user in lists}
    assert batch.history_items is not None
    for item, row in zip(batch.history_items.tolist(), batch.history_rows.tolist(), strict=True):
        barred[ds.user_ids[batch.users[row]]].add(ds.item_ids[item - 1])
    assert barred == {user: bars[user] for user in lists}
    again = everyone(sequences, seed=8, epoch=5)
    assert samples(again) == samples(batch)


@pytest.mark.parametrize("sample", NAMES)
def test_copies_count_each_item_as_often_as_it_is_shown(ds: Dataset, sample: str) -> None:
    batch = everyone(Sequences(ds, sample=sample), epoch=1)
    shown = Counter(item for one in samples(batch) for item in one["items"])
    found = dict(zip(batch.unique_items.tolist(), batch.copies.tolist(), strict=True))
    assert {item: n for item, n in found.items() if n} == dict(shown)
    assert set(found) >= set(shown)
    assert sum(found.values()) == int(batch.mask.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": "s2"}, "unknown sample 's2'; did you mean 's2[so]'.*Known: s2s, s2o, masked"),
        ({"sample": "subsequence"}, "did you mean 'subsequences'"),
        ({"sampler": "popular"}, "unknown sampler 'popular'; did you mean 'popularity'"),
        ({"sample": "masked", "mask_rate": 0}, "mask_rate is 0 .*expected above 0"),
        ({"sample": "masked", "mask_rate": 1.5}, "mask_rate is 1.5"),
        ({"sample": "masked", "mask_rate": math.nan}, "mask_rate is nan"),
        ({"sample": "subsequences", "ahead": 0}, "ahead 0; expected"),
    ],
)
def test_what_no_sample_can_mean_is_refused(
    ds: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Sequences(ds, **options)


@pytest.mark.parametrize("sample", NAMES)
def test_a_user_whose_train_items_are_all_candidates_is_refused_by_popularity_too(
    tmp_path: Path, sample: str
) -> None:
    """d, x, y and z are candidates, but stand in no train row."""
    toy = make_toy(tmp_path, list("abcdxyz"), {"u": list("abcdx"), "v": list("cbayz")})
    drawn = everyone(Sequences(toy.open(), sample=sample)).negatives
    assert drawn is not None
    with pytest.raises(CheckFailed, match="train items are all 3 candidates"):
        Sequences(toy.open(), sample=sample, sampler="popularity")
