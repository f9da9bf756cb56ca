"""Metrics as pure functions of how many candidates beat and equal the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranks", "per_user"]

Floats = NDArray[np.float64]


class Ranks:
    """Where each target stands among its candidates; full precision, one entry a sequence.

    users, targets (n,) int64: whose sequence and which item.
    greater (n,) int64: candidates that score higher. equal (n,): others that score the same.
    candidates (n,): how many were ranked, target included. missed (n,) bool: the protocol counts the
    target as missed whatever its score (it stands in the masked history).
    """

    def __init__(
        self,
        users: NDArray[np.int64],
        targets: NDArray[np.int64],
        greater: NDArray[np.int64],
        equal: NDArray[np.int64],
        candidates: NDArray[np.int64],
        missed: NDArray[np.bool_],
    ) -> None:
        self.users, self.targets = users, targets
        self.greater, self.equal = greater, equal
        self.candidates, self.missed = candidates, missed

    def __len__(self) -> int:
        return len(self.users)

    def only(self, chosen: NDArray[np.bool_]) -> Ranks:
        """The ranks of some sequences."""
        columns: tuple[Any, ...] = (
            self.users,
            self.targets,
            self.greater,
            self.equal,
            self.candidates,
            self.missed,
        )
        return Ranks(*(column[chosen] for column in columns))

    def random_hit(self, k: int) -> float:
        """hr@k in percent of a scorer that draws at random: the floor of every table."""
        return (
            100.0 * float(np.minimum(1, k / self.candidates).mean()) if len(self) else float("nan")
        )

    def metrics(
        self,
        *,
        names: Sequence[str] = ("hr", "ndcg"),
        cutoffs: Sequence[int] = (10,),
        ties: Literal["mean", "expected"] = "mean",
    ) -> dict[str, float]:
        """hr@k and ndcg@k in percent, the mean over sequences; empty ranks give nan."""
        out = {}
        for k in cutoffs:
            for name, values in zip(("hr", "ndcg"), per_user(self, k, ties), strict=True):
                if name in names:
                    out[f"{name}@{k}"] = 100.0 * float(values.mean()) if len(self) else float("nan")
        return out


def per_user(ranks: Ranks, k: int, ties: Literal["mean", "expected"]) -> tuple[Floats, Floats]:
    """Hit (n,) and gain (n,) at k: 1 and 1/log2(rank + 1) for ranks up to k (PAPERS_AND_CODE 4).

    "mean": a target tied with e others takes the mean rank greater + 1 + e/2.
    "expected": the mean of the metric over the ranks greater + 1 .. greater + 1 + e, all alike likely.
    """
    alive = ~ranks.missed
    if ties == "mean":
        rank = ranks.greater + 1 + ranks.equal / 2
        within = alive & (rank <= k)
        return within.astype(float), np.where(within, 1 / np.log2(rank + 1), 0.0)
    first = np.minimum(ranks.greater, k)
    last = np.minimum(ranks.greater + ranks.equal + 1, k)
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    share = alive / (ranks.equal + 1)
    return (last - first) * share, (discount[last] - discount[first]) * share
