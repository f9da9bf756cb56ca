"""Group 5: ranks against a plain argsort, metrics against the enumeration of random orders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy import Toy, make_model, make_toy, masked_items, varied

import baselines.evaluate as evaluation
from baselines.evaluate import evaluate, item_table, rank_block
from baselines.item_id import IdEncoder
from baselines.metrics import Ranks
from baselines.model import Recommender
from loaders import Batch, Sequences
from ninerec_data import CheckFailed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Histories of every length; some targets stand in the history already."""
    file, histories = varied(users=25)
    for user in ("u3", "u12", "u20"):
        histories[user][-1] = histories[user][-4]
    histories["u10"][-1] = histories["u10"][2]  # in the history, older than the window
    return make_toy(tmp_path_factory.mktemp("toy"), file, histories)


def constant(model: Recommender) -> Recommender:
    """A scorer that gives every item the same score: each has the vector of item 1.

    Not a constant vector: a normalised state sums to nearly 0, and its product would be rounding alone.
    """
    assert isinstance(model.item_encoder, IdEncoder)
    weight = model.item_encoder.table.weight.data
    weight[:] = weight[1].clone()
    return model


def plain_ranks(model: Recommender, sequences: Sequences) -> list[int]:
    """One user at a time: states with full left padding in float64, then a plain argsort."""
    ds, length = sequences.ds, sequences.max_length
    table = model.item_encoder.table.weight.detach().double().clone()
    table[0] = 0
    barred = masked_items(sequences)
    users = ds.users["user_id"].to_pylist()
    number = {item: n + 1 for n, item in enumerate(ds.item_ids)}
    encoder = make_model(ds).user_encoder
    encoder.load_state_dict(model.user_encoder.state_dict())
    encoder.double()
    ranks = []
    for at in range(len(sequences)):
        rows = ds.item_of_row[sequences.start[at] : sequences.target[at] + 1].tolist()
        slots = [0] * (length + 1 - len(rows)) + rows
        inputs = torch.tensor([slots[:-1]])
        with torch.no_grad():
            state = encoder(table[inputs], inputs > 0)[0, -1]
            scores = (table @ state).numpy()
        history = {number[i] for i in barred[users[sequences.user[at]]]} - {slots[-1]}
        pool = {*np.flatnonzero(ds.in_pool).tolist(), slots[-1]}
        ranks.append(plain.rank_by_argsort(scores, slots[-1], history, pool))
    return ranks


def table_of(ranks: Ranks) -> list[tuple[Any, ...]]:
    columns = (ranks.users, ranks.targets, ranks.greater, ranks.equal, ranks.candidates,
               ranks.missed)  # fmt: skip
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("protocol", ["ninerec-2023", "strict"])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_ranks_are_those_of_a_plain_argsort(toy: Toy, protocol: str, part: str) -> None:
    sequences = Sequences(toy.open(protocol), part)
    model = make_model(sequences.ds)
    ranks = evaluate(model, sequences)
    assert (ranks.greater + 1).tolist() == plain_ranks(model, sequences)
    assert not ranks.equal.any()
    assert ranks.users.tolist() == sequences.user.tolist()


def test_metrics_are_those_of_the_plain_ranks(toy: Toy) -> None:
    sequences = Sequences(toy.open("strict"), "test")
    model = make_model(sequences.ds)
    expected = plain_ranks(model, sequences)
    for ties in ("mean", "expected"):
        metrics = evaluate(model, sequences).metrics(cutoffs=(1, 10, 20), ties=ties)
        for k in (1, 10, 20):
            hits = [plain.hr(r, k) for r in expected]
            gains = [plain.ndcg(r, k) for r in expected]
            assert metrics[f"hr@{k}"] == pytest.approx(100 * np.mean(hits))
            assert metrics[f"ndcg@{k}"] == pytest.approx(100 * np.mean(gains))


@pytest.mark.parametrize("part", ["valid", "test", "cold-outside", "new-outside"])
def test_batch_size_changes_no_rank(toy: Toy, part: str) -> None:
    sequences = Sequences(toy.open(users=6, seed=2), part)
    model = make_model(sequences.ds)
    expected = table_of(evaluate(model, sequences))
    assert expected
    for batch_size in (1, 5, 13):
        assert table_of(evaluate(model, sequences, batch_size=batch_size)) == expected


def test_chunks_change_no_rank(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = Sequences(toy.open(), "test")
    model = make_model(sequences.ds)
    expected = table_of(evaluate(model, sequences))
    monkeypatch.setattr(evaluation, "SCORES_IN_MEMORY", 3 * (sequences.ds.n_items + 1))
    assert table_of(evaluate(model, sequences)) == expected
    whole = item_table(model, sequences)
    for chunk in (1, 7):
        assert torch.equal(item_table(model, sequences, chunk=chunk), whole)


def test_user_order_changes_no_rank(toy: Toy, tmp_path: Path) -> None:
    turned = dict(reversed(list(toy.histories.items())))
    other = make_toy(tmp_path, toy.item_file, turned)
    found = []
    for each in (toy, other):
        ds = each.open()
        model = make_model(ds)
        ids = ds.users["user_id"].to_pylist()
        rows = table_of(evaluate(model, Sequences(ds, "test")))
        found.append({ids[user]: rest for user, *rest in rows})
    assert found[0] == found[1]
    assert list(found[0]) == list(reversed(found[1]))


def test_float32_validation_agrees_where_scores_are_apart(toy: Toy) -> None:
    sequences = Sequences(toy.open(), "valid")
    model = make_model(sequences.ds)
    assert table_of(evaluate(model, sequences, exact=False)) == table_of(evaluate(model, sequences))


def test_evaluation_leaves_the_model_as_it_was(toy: Toy) -> None:
    sequences = Sequences(toy.open(), "valid")
    model = make_model(sequences.ds).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, sequences)
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_under_strict_a_constant_scorer_gets_ten_over_the_candidates(toy: Toy) -> None:
    ds = toy.open("strict")
    ranks = evaluate(constant(make_model(ds)), Sequences(ds, "test"))
    used = {i for items in toy.histories.values() for i in items}
    expected = [
        10 / len(used - (set(items[:-1]) - {items[-1]}))
        for items in toy.histories.values()
        if len(items) >= 5
    ]
    metrics = ranks.metrics(cutoffs=ds.protocol.cutoffs, ties=ds.protocol.ties)
    assert metrics["hr@10"] == pytest.approx(100 * np.mean(expected), rel=1e-12)
    assert ranks.random_hit(10) == pytest.approx(100 * np.mean(expected), rel=1e-12)


def test_as_released_a_constant_scorer_takes_the_middle_and_misses(toy: Toy) -> None:
    ds = toy.open()
    ranks = evaluate(constant(make_model(ds)), Sequences(ds, "test"))
    assert ranks.metrics(ties=ds.protocol.ties) == {"hr@10": 0.0, "ndcg@10": 0.0}


def test_candidates_are_the_pool_without_the_history(toy: Toy) -> None:
    ds = toy.open()
    split = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    ranks = evaluate(make_model(ds), Sequences(ds, "test"))
    expected = [
        len(set(split.pool) - (split.mask_test[u] - {s[-1]})) for u, s in split.test.items()
    ]
    assert ranks.candidates.tolist() == expected


def test_a_target_in_the_history_misses_as_released_and_stays_under_strict(toy: Toy) -> None:
    users = {"ninerec-2023": {"u3", "u12", "u20"}, "strict": set()}
    for protocol, expected in users.items():
        ds = toy.open(protocol)
        ranks = evaluate(make_model(ds), Sequences(ds, "test"))
        ids = ds.users["user_id"].to_pylist()
        assert {ids[u] for u in ranks.users[ranks.missed]} == expected
    window = toy.open()
    ranks = evaluate(constant(make_model(window)), Sequences(window, "test"))
    best = Ranks(ranks.users, ranks.targets, ranks.greater * 0, ranks.equal * 0, ranks.candidates,
                 ranks.missed)  # fmt: skip
    assert best.metrics()["hr@10"] == pytest.approx(100 * (1 - 3 / len(ranks)))


def test_a_new_target_outside_the_pool_is_ranked_among_the_pool_and_itself(toy: Toy) -> None:
    ds = toy.open(users=6, seed=2)
    sequences = Sequences(ds, "new-outside")
    ranks = evaluate(constant(make_model(ds)), sequences)
    pool = set(np.flatnonzero(ds.in_pool).tolist())
    targets = ranks.targets.tolist()
    assert not pool.issuperset(targets)
    for at, target in enumerate(targets):
        inputs = set(ds.item_of_row[sequences.first[at] : sequences.target[at]].tolist())
        assert target not in inputs or ranks.missed[at]
        assert ranks.candidates[at] == len(pool - inputs | {target})
        assert ranks.equal[at] == ranks.candidates[at] - 1


def block(scores: list[float], target: int, history: list[int], *, misses: bool = True) -> Ranks:
    """Rank one user whose item i + 1 has the score scores[i]."""
    values = torch.tensor([0.0, *scores])[:, None]
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        users=torch.tensor([0]),
        unique_items=torch.tensor([target]),
        inverse=torch.tensor([[0, 1]]),
        mask=torch.tensor([[False, True]]),
        predict=torch.tensor([[False]]),
        copies=torch.ones(1, dtype=torch.int64),
        log_popularity=torch.zeros(1),
        history_items=torch.tensor(history, dtype=torch.int64) if history else none,
        history_rows=torch.zeros(len(history), dtype=torch.int64),
    )
    in_pool = torch.tensor([False, *[True] * len(scores)])
    counted = rank_block(torch.ones(1, 1), values, in_pool, batch, target_misses=misses)
    one = np.array([0]), np.array([target])
    return Ranks(*one, *(column.numpy() for column in counted))


def test_rank_one_gives_a_hit_and_an_ndcg_of_one() -> None:
    ranks = block([3.0, 9.0, 1.0], 2, [])
    for ties in ("mean", "expected"):
        assert ranks.metrics(ties=ties) == {"hr@10": 100.0, "ndcg@10": 100.0}


@pytest.mark.parametrize(("place", "hit"), [(9, 1), (10, 1), (11, 0), (12, 0)])
def test_rank_ten_is_in_and_rank_eleven_is_out(place: int, hit: int) -> None:
    scores = [float(-n) for n in range(20)]
    ranks = block(scores, place, [])
    for ties in ("mean", "expected"):
        metrics = ranks.metrics(ties=ties)
        assert metrics["hr@10"] == 100.0 * hit
        assert metrics["ndcg@10"] == pytest.approx(100.0 * hit / math.log2(place + 1))


def test_history_above_the_target_does_not_count() -> None:
    scores = [float(-n) for n in range(20)]
    assert block(scores, 12, [1, 5, 1]).greater.tolist() == [9]
    assert block(scores, 12, [1, 5, 1]).candidates.tolist() == [18]
    assert block(scores, 12, [15]).greater.tolist() == [11]


def test_a_masked_target_is_marked_by_its_protocol() -> None:
    scores = [float(-n) for n in range(20)]
    as_released = block(scores, 3, [1, 3], misses=True)
    assert as_released.missed.tolist() == [True]
    assert as_released.metrics()["hr@10"] == 0.0
    stays = block(scores, 3, [1, 3], misses=False)
    assert (stays.missed.tolist(), stays.greater.tolist()) == ([False], [1])
    assert stays.candidates.tolist() == [19]


def test_the_pad_is_no_candidate() -> None:
    """Row 0 scores 0, above every item here."""
    assert block([-1.0, -2.0], 2, []).greater.tolist() == [1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(CheckFailed, match="scores are not finite"):
        block([1.0, bad, 2.0], 1, [])


def test_a_model_full_of_nan_is_refused(toy: Toy) -> None:
    sequences = Sequences(toy.open(), "test")
    model = make_model(sequences.ds)
    with torch.no_grad():
        model.user_encoder.norm.weight[0] = math.nan
    with pytest.raises(CheckFailed, match=r"nothing can be ranked; .*--set train.lr"):
        evaluate(model, sequences)


def test_a_training_part_cannot_be_ranked(toy: Toy) -> None:
    sequences = Sequences(toy.open(), "train")
    with pytest.raises(ValueError, match="part='valid' or 'test'"):
        evaluate(make_model(sequences.ds), sequences)


def one_rank(greater: int, equal: int) -> Ranks:
    array = np.array
    return Ranks(array([0]), array([1]), array([greater]), array([equal]),
                 array([greater + equal + 1]), array([False]))  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(0, 6), st.integers(1, 12))
@example(9, 1, 10)
@example(10, 3, 10)
def test_ties_are_those_of_all_random_orders(greater: int, equal: int, k: int) -> None:
    rank, hit, gain = plain.over_random_orders(greater, equal, k)
    ranks = one_rank(greater, equal)
    expected = ranks.metrics(cutoffs=(k,), ties="expected")
    assert expected[f"hr@{k}"] == pytest.approx(100 * hit)
    assert expected[f"ndcg@{k}"] == pytest.approx(100 * gain)
    mean = ranks.metrics(cutoffs=(k,), ties="mean")
    assert mean[f"hr@{k}"] == 100 * plain.hr(rank, k)
    assert mean[f"ndcg@{k}"] == pytest.approx(100 * plain.ndcg(rank, k))


def test_the_mean_over_sequences_is_the_mean_over_its_parts(toy: Toy) -> None:
    ds = toy.open()
    ranks = evaluate(make_model(ds), Sequences(ds, "test"))
    half = np.arange(len(ranks)) % 2 == 0
    parts = [(ranks.only(half), half.sum()), (ranks.only(~half), (~half).sum())]
    total = sum(part.metrics()["ndcg@10"] * n for part, n in parts) / len(ranks)
    assert ranks.metrics()["ndcg@10"] == pytest.approx(total)


def test_an_empty_part_has_no_ranks_and_no_metrics(tmp_path: Path) -> None:
    same = {f"u{k}": list("abcdefg") for k in range(12)}
    ds = make_toy(tmp_path, list("abcdefg"), same).open()
    ranks = evaluate(make_model(ds), Sequences(ds, "new", negatives=False))
    assert len(ranks) == 12
    ranks = evaluate(make_model(ds), Sequences(ds, "cold", negatives=False))
    assert len(ranks) == 0
    assert math.isnan(ranks.metrics()["hr@10"])
