"""Group 4: losses and their gradients against the literal loops, on identical batches."""

from __future__ import annotations

import math

import plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.objectives import OBJECTIVES, bce, in_batch
from loaders import Batch

DIM = 5
POPULARITY = {item: share / 78 for item, share in enumerate(range(1, 13), start=1)}

Rows = list[list[int]]


def batch_of(rows: Rows, negatives: Rows | None = None) -> Batch:
    """Left-pad item lists (target last) into a Batch; negatives have a draw for each transition."""
    width = max(map(len, rows))
    items = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    drawn = None
    if negatives is not None:
        drawn = torch.tensor([[0] * (width - 1 - len(row)) + row for row in negatives])
    every = torch.cat([items.flatten(), *([] if drawn is None else [drawn.flatten()])])
    unique = torch.unique(every[every > 0])
    table = torch.cat([torch.zeros(1, dtype=torch.int64), unique])
    return Batch(
        users=torch.arange(len(rows)),
        unique_items=unique,
        inverse=torch.searchsorted(table, items),
        mask=items > 0,
        predict=items[:, :-1] > 0,
        copies=(items.flatten()[:, None] == unique).sum(0),
        negatives=None if drawn is None else torch.searchsorted(table, drawn),
        log_popularity=torch.tensor([math.log(POPULARITY[i]) for i in unique.tolist()]),
    )


def leaves(batch: Batch, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random states (B, T, D) and item vectors (U, D) that gather gradients, float64."""
    torch.manual_seed(seed)
    b, width = batch.inverse.shape
    states = torch.randn(b, width - 1, DIM, dtype=torch.float64) * scale
    vectors = torch.randn(len(batch.unique_items), DIM, dtype=torch.float64) * scale
    return states.requires_grad_(), vectors.requires_grad_()


def with_zero_row(vectors: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(vectors[:1]), vectors])


def compare(
    batch: Batch, name: str, *, seed: int = 0, scale: float = 1.0, tolerance: float = 1e-9
) -> float:
    """Value and gradients of an objective against the plain loops; returns the loss."""
    results = []
    for ours in (True, False):
        states, vectors = leaves(batch, seed, scale)
        table = with_zero_row(vectors)
        if ours:
            loss = OBJECTIVES[name](states, table, batch)
        elif name == "bce":
            assert batch.negatives is not None
            loss = plain.bce(
                states, table[batch.inverse], table[batch.negatives], batch.mask[:, :-1]
            )
        else:
            numbers = [0, *batch.unique_items.tolist()]
            ids = [[numbers[p] for p in row] for row in batch.inverse.tolist()]
            loss = plain.in_batch(states, table[batch.inverse], ids, POPULARITY)
        loss.backward()
        results.append((loss.detach(), states.grad, vectors.grad))
    (value, *gradients), (expected, *wanted) = results
    assert value.item() == pytest.approx(expected.item(), abs=tolerance, rel=tolerance)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert gradient is not None
        assert want is not None
        assert (gradient - want).abs().max() < tolerance
    return float(value)


# In-batch logits are float32 in the product and float64 in the loops.
CLOSE = 2e-6

CASES: dict[str, Rows] = {
    "one user": [[1, 2, 3]],
    "users of different lengths": [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]],
    "duplicates across users": [[1, 2, 3], [2, 3, 4], [3, 1, 5]],
    "repeats within a sequence": [[1, 2, 1, 2, 1], [3, 4, 3]],
    "the same item over and over": [[1, 1, 1], [2, 3, 4]],
    "one user's item is another's": [[1, 2, 3, 4], [4, 5, 6], [5, 6]],
    "two equal users": [[1, 2, 3], [1, 2, 3]],
    "every other item is the user's own": [[1, 2, 3, 4], [4, 3], [2, 1]],
}


@pytest.mark.parametrize("name", CASES)
def test_in_batch_is_the_double_loop(name: str) -> None:
    compare(batch_of(CASES[name]), "in-batch", tolerance=CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_bce_is_the_loop(name: str) -> None:
    rows = CASES[name]
    negatives = [[12 - t % 3 for t in range(len(row) - 1)] for row in rows]
    compare(batch_of(rows, negatives), "bce")


rows_strategy = st.lists(
    st.lists(st.integers(1, 9), min_size=2, max_size=6), min_size=1, max_size=5
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows_strategy, st.integers(0, 5))
def test_in_batch_is_the_double_loop_for_any_batch(rows: Rows, seed: int) -> None:
    compare(batch_of(rows), "in-batch", seed=seed, tolerance=CLOSE)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows_strategy, st.data())
def test_bce_is_the_loop_for_any_batch(rows: Rows, data: st.DataObject) -> None:
    negatives = [
        data.draw(st.lists(st.integers(1, 12), min_size=len(r) - 1, max_size=len(r) - 1))
        for r in rows
    ]
    compare(batch_of(rows, negatives), "bce")


def test_in_batch_columns_that_are_negatives_alone_are_no_candidates() -> None:
    rows = [[1, 2, 3], [4, 5]]
    states, vectors = leaves(batch_of(rows))
    with_negatives = batch_of(rows, [[7, 8], [9]])
    more = torch.cat([vectors, torch.randn(3, DIM, dtype=torch.float64) * 50])
    alone = in_batch(states, with_zero_row(vectors), batch_of(rows))
    among = in_batch(states, with_zero_row(more), with_negatives)
    assert among.item() == pytest.approx(alone.item(), abs=1e-6)


def test_a_column_masked_by_a_constant_still_counts_where_all_scores_are_lower() -> None:
    """Masked columns hold -1e4, not minus infinity: far enough down they are the denominator."""
    batch = batch_of([[1, 2, 1]])
    states = torch.full((1, 2, 1), 200.0, dtype=torch.float64)
    vectors = torch.full((2, 1), -100.0, dtype=torch.float64)  # scores -20,000
    loss = in_batch(states, with_zero_row(vectors), batch)
    assert loss.item() > 5_000


def test_the_debiasing_favours_rare_items() -> None:
    """With equal vectors the loss is -log of 1/p over the sum of 1/p of the candidates."""
    batch = batch_of([[1, 2], [6, 12]])
    states, vectors = (torch.zeros_like(t) for t in leaves(batch))
    p = POPULARITY
    first = (1 / p[2]) / (1 / p[2] + 1 / p[6] + 1 / p[12])
    second = (1 / p[12]) / (1 / p[12] + 1 / p[1] + 1 / p[2])
    loss = in_batch(states, with_zero_row(vectors), batch)
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2, abs=1e-6)


def test_two_copies_of_an_item_count_twice_in_the_denominator() -> None:
    once = batch_of([[1, 2], [3, 4]])
    twice = batch_of([[1, 2], [3, 4], [3, 4]])
    for batch, copies in ((once, 1), (twice, 2)):
        states, vectors = (torch.zeros_like(t) for t in leaves(batch))
        p = POPULARITY
        others = copies * (1 / p[3] + 1 / p[4])
        first = math.log((1 / p[2]) / (1 / p[2] + others))
        rest = math.log((1 / p[4]) / (1 / p[4] + 1 / p[1] + 1 / p[2]))
        expected = -(first + copies * rest) / (1 + copies)
        loss = in_batch(states, with_zero_row(vectors), batch)
        assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["bce", "in-batch"])
def test_columns_of_pads_in_front_change_no_loss(name: str) -> None:
    rows = [[1, 2, 3], [4, 5]]
    negatives = [[7, 8], [9]] if name == "bce" else None
    trimmed = batch_of(rows, negatives)
    states, vectors = leaves(trimmed)
    pad = torch.nn.functional.pad
    from dataclasses import replace

    wide = replace(
        trimmed,
        inverse=pad(trimmed.inverse, (3, 0)),
        mask=pad(trimmed.mask, (3, 0)),
        predict=pad(trimmed.predict, (3, 0)),
        negatives=None if negatives is None else pad(trimmed.negatives, (3, 0)),
    )
    wide_states = torch.cat([torch.randn(2, 3, DIM, dtype=torch.float64) * 9, states], 1)
    table = with_zero_row(vectors)
    a = OBJECTIVES[name](states, table, trimmed)
    b = OBJECTIVES[name](wide_states, table, wide)
    assert a.item() == pytest.approx(b.item(), abs=1e-6)


def test_bce_of_zero_scores_is_twice_log_two() -> None:
    batch = batch_of([[1, 2, 3], [4, 5]], [[7, 8], [9]])
    states, vectors = (torch.zeros_like(t) for t in leaves(batch))
    loss = bce(states, with_zero_row(vectors), batch)
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_bce_weighs_every_transition_alike_not_every_user() -> None:
    """The mean is over transitions: the user of four steps counts four times the user of one."""
    batch = batch_of([[1, 2, 1, 2, 1], [3, 4]], [[5, 5, 5, 5], [5]])
    states = torch.ones(2, 4, 1, dtype=torch.float64)
    table = torch.tensor([0.0, 2.0, 2.0, -1.0, -1.0, 0.0], dtype=torch.float64)[:, None]
    log_loss = [math.log1p(math.exp(-score)) for score in (2.0, -1.0)]
    expected = (4 * log_loss[0] + log_loss[1]) / 5 + math.log(2)
    assert bce(states, table, batch).item() == pytest.approx(expected)


def test_bce_without_negatives_says_what_to_open() -> None:
    batch = batch_of([[1, 2]])
    states, vectors = leaves(batch)
    with pytest.raises(ValueError, match="negatives=True"):
        bce(states, with_zero_row(vectors), batch)
