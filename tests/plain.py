"""Plain versions of the papers' rules, written from the facts alone: loops, lists, explicit softmax.

Nothing here imports the project. Each function is the slowest and most literal form of one rule, so that
a test that compares against it compares two independent readings (PAPERS_AND_CODE 2.1, 2.4, 3.1-3.3, 4).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Histories = Mapping[
    str, Sequence[str]
]  # user id -> item ids, oldest first; insertion order = file order


@dataclass(frozen=True, kw_only=True)
class PlainSplit:
    """Everything the leave-one-out split says, in item ids."""

    users: list[str]
    pool: list[str]  # in item-file order
    kept: dict[str, list[str]]
    train: dict[str, list[str]]
    valid: dict[str, list[str]]  # window, its last item is the target
    test: dict[str, list[str]]
    mask_valid: dict[str, set[str]]
    mask_test: dict[str, set[str]]
    train_count: Counter[str]


def split(
    item_file: Sequence[str],
    histories: Histories,
    *,
    length: int,
    keep_last: int,
    minimum: int = 5,
) -> PlainSplit:
    """Drop short users on the full sequence, keep the last rows, pool = what is left, leave one out."""
    kept: dict[str, list[str]] = {}
    for user, items in histories.items():
        if len(items) < minimum:
            continue
        kept[user] = list(items)[-keep_last:]
    occurs: Counter[str] = Counter()
    train_count: Counter[str] = Counter()
    for sequence in kept.values():
        occurs.update(sequence)
        train_count.update(sequence[:-2])
    return PlainSplit(
        users=list(kept),
        pool=[item for item in item_file if occurs[item] > 0],
        kept=kept,
        train={u: s[:-2] for u, s in kept.items()},
        valid={u: s[:-1][-(length + 1) :] for u, s in kept.items()},
        test={u: s[-(length + 1) :] for u, s in kept.items()},
        mask_valid={u: set(s[:-2]) for u, s in kept.items()},
        mask_test={u: set(s[:-1]) for u, s in kept.items()},
        train_count=train_count,
    )


def group_of(count: int, threshold: int = 10) -> str:
    """Return new for 0 train occurrences, cold for 1-9, else warm."""
    if count == 0:
        return "new"
    return "cold" if count < threshold else "warm"


def warm(histories: Histories, *, items_from: int, users_from: int) -> dict[str, list[str]]:
    """Drop rare items, then short users, and again until nothing changes."""
    left = {user: list(items) for user, items in histories.items()}
    while True:
        occurs = Counter(item for items in left.values() for item in items)
        after = {u: [i for i in items if occurs[i] >= items_from] for u, items in left.items()}
        after = {u: items for u, items in after.items() if len(items) >= users_from}
        if after == left:
            return left
        left = after


def outside(
    histories: Histories, training: PlainSplit, *, group: str, keep_last: int, minimum: int = 5
) -> tuple[list[tuple[str, list[str]]], int]:
    """Cut each outside user's history after each cold (or new) item.

    Returns the sequences (target last, at most keep_last - 2 rows, all inputs in the pool) and how many
    cuts were skipped because an input is not in the pool.
    """
    pool = set(training.pool)
    found: list[tuple[str, list[str]]] = []
    skipped = 0
    for user, items in histories.items():
        if user in training.kept or len(items) < minimum:
            continue
        for position in range(1, len(items)):
            if group_of(training.train_count[items[position]]) != group:
                continue
            window = list(items[: position + 1])[-(keep_last - 2) :]
            if all(item in pool for item in window[:-1]):
                found.append((user, window))
            else:
                skipped += 1
    return found, skipped


def sample(train: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Left-padded items (L+1) and the mask (L) of one training sequence."""
    n = len(train)
    pads = length + 1 - n
    return [0] * pads + list(train), [0] * pads + [1] * (n - 1)


def sigmoid_loss(logit: torch.Tensor, label: int) -> torch.Tensor:
    """Binary cross-entropy of one logit, written out."""
    return torch.log1p(torch.exp(-logit)) if label == 1 else torch.log1p(torch.exp(logit))


def bce(
    states: torch.Tensor, items: torch.Tensor, negatives: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Mean over real transitions of the positive loss plus the same mean of the negative loss.

    states (B, L, D); items (B, L+1, D); negatives (B, L, D), at the input index; mask (B, L) of 0/1.
    """
    positive: list[torch.Tensor] = []
    negative: list[torch.Tensor] = []
    for b in range(states.shape[0]):
        for t in range(states.shape[1]):
            if not bool(mask[b, t]):
                continue
            positive.append(sigmoid_loss((states[b, t] * items[b, t + 1]).sum(), 1))
            negative.append(sigmoid_loss((states[b, t] * negatives[b, t]).sum(), 0))
    return sum(positive) / len(positive) + sum(negative) / len(negative)  # type: ignore[return-value]


def in_batch(
    states: torch.Tensor,
    vectors: torch.Tensor,
    ids: Sequence[Sequence[int]],
    popularity: Mapping[int, float],
) -> torch.Tensor:
    """Debiased softmax over every position of every sequence of the batch, by the literal loops.

    states (B, L, D); vectors (B, L+1, D), the item vector of each slot; ids (B, L+1), 0 = pad.
    popularity: item -> share of the train rows. logits = h . e - log p, p(pad) = 1; -1e4 for pads and
    for every column whose item is in this user's own sequence, the exact target column excepted.
    """
    batch, length = states.shape[0], states.shape[1]
    losses: list[torch.Tensor] = []
    for b in range(batch):
        own = {item for item in ids[b] if item != 0}
        for t in range(length):
            if ids[b][t] == 0:
                continue
            logits: list[torch.Tensor] = []
            target = -1
            for c in range(batch):
                for s in range(length + 1):
                    item = ids[c][s]
                    p = 1.0 if item == 0 else popularity[item]
                    score = (states[b, t] * vectors[c, s]).sum() - math.log(p)
                    is_target = c == b and s == t + 1
                    if is_target:
                        target = len(logits)
                    elif item == 0 or item in own:
                        score = torch.full_like(score, -1e4)
                    logits.append(score)
            row = torch.stack(logits)
            top = row.max().detach()
            losses.append(torch.log(torch.exp(row - top).sum()) + top - row[target])
    return torch.stack(losses).mean()


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Layer norm over the last axis with eps 1e-6, written out."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * weight + bias


def sasrec(
    x: torch.Tensor, mask: torch.Tensor, weights: Mapping[str, torch.Tensor], heads: int
) -> torch.Tensor:
    """Post-LN SASRec in eval mode: x (B, L, D) at the absolute slots 0..L-1, mask (B, L) of 0/1.

    weights: position (L, D), norm.weight/bias, and per block i: i.q i.k i.v i.o (D, D, out x in),
    i.norm1.weight/bias, i.w1 (4D, D), i.b1, i.w2 (D, 4D), i.b2, i.norm2.weight/bias.
    """
    batch, length, width = x.shape
    d = width // heads
    x = layer_norm(x + weights["position"], weights["norm.weight"], weights["norm.bias"])
    blocks = 1 + max(int(k.split(".")[0]) for k in weights if k[0].isdigit())
    for i in range(blocks):
        w = {k[len(f"{i}.") :]: v for k, v in weights.items() if k.startswith(f"{i}.")}
        q, k, v = x @ w["q"].T, x @ w["k"].T, x @ w["v"].T
        attended = torch.zeros_like(x)
        for b in range(batch):
            for h in range(heads):
                cut = slice(h * d, (h + 1) * d)
                for t in range(length):
                    scores = torch.stack([q[b, t, cut] @ k[b, s, cut] for s in range(length)])
                    scores = scores / math.sqrt(d)
                    hidden = torch.tensor(
                        [0.0 if s <= t and bool(mask[b, s]) else -1e9 for s in range(length)]
                    )
                    scores = scores + hidden.to(scores)
                    share = torch.exp(scores - scores.max())
                    share = share / share.sum()
                    attended[b, t, cut] = (share[:, None] * v[b, :, cut]).sum(0)
        x = layer_norm(x + attended @ w["o"].T, w["norm1.weight"], w["norm1.bias"])
        inner = torch.clamp(x @ w["w1"].T + w["b1"], min=0)
        x = layer_norm(x + inner @ w["w2"].T + w["b2"], w["norm2.weight"], w["norm2.bias"])
    return x


def rank_by_argsort(
    scores: np.ndarray, target: int, history: Iterable[int], pool: Iterable[int] | None = None
) -> int:
    """1-based place of `target` in a descending argsort after the history is set to -inf.

    scores (M+1,), index 0 is padding and is dropped; items outside `pool` are dropped too.
    """
    masked = np.array(scores, dtype=np.float64)
    for item in history:
        masked[item] = -np.inf
    candidates = sorted(set(pool) if pool is not None else set(range(1, len(scores))))
    order = np.argsort(-masked[candidates])
    return [candidates[i] for i in order].index(target) + 1


def hr(rank: float, cutoff: int = 10) -> float:
    return 1.0 if rank <= cutoff else 0.0


def ndcg(rank: float, cutoff: int = 10) -> float:
    return 1.0 / math.log2(rank + 1) if rank <= cutoff else 0.0


def over_random_orders(better: int, tied: int, cutoff: int) -> tuple[float, float, float]:
    """Mean rank, mean HR and mean NDCG over all orders of `tied` other items with the target."""
    ranks = [better + order.index(0) + 1 for order in itertools.permutations(range(tied + 1))]
    n = len(ranks)
    return (
        sum(ranks) / n,
        sum(hr(r, cutoff) for r in ranks) / n,
        sum(ndcg(r, cutoff) for r in ranks) / n,
    )
