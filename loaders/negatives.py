"""Negatives: seeded draws from the candidates, drawn again while they are the user's own train items."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ninerec_data import CheckFailed, Dataset, draws
from ninerec_data.slices import rows_of

__all__ = ["Negatives", "Sampler"]

Sampler = Literal["uniform", "popularity"]
NEGATIVES = 13  # stream of the counter hash
TRIES = 1000

Ints = NDArray[np.int64]


class Negatives:
    """Draws for the train sequences of a split.

    sampler: "uniform" over the pool (PAPERS_AND_CODE 3.1), or by "popularity": an item as often as it
        stands in the train rows, so that new items are never drawn.
    first, last: (n,) rows of each sequence's train items.
    Raises CheckFailed where some user's train items are all the candidates there are.
    """

    def __init__(self, ds: Dataset, sampler: str, user: Ints, first: Ints, last: Ints) -> None:
        self.ds, self.user, self.first, self.last = ds, user, first, last
        weight = ds.in_pool * (ds.train_count if sampler == "popularity" else 1)
        self.pool = np.flatnonzero(weight)
        self.above = None if sampler == "uniform" else np.cumsum(weight[self.pool])
        self._refuse_no_negative()

    def __call__(self, index: Ints, rows: Ints, *, seed: int, epoch: int) -> Ints:
        """(n,) an item for each predicted row of the interactions; `index` (n,) the sequence it belongs to.

        A function of (seed, epoch, user, places between the row and the last train row) alone.
        """
        slot = self.last[index] - rows
        out = np.zeros(len(rows), np.int64)
        left = np.arange(len(rows))
        for attempt in range(TRIES):
            key = (seed, NEGATIVES, epoch, self.user[index[left]], slot[left], attempt)
            drawn = self._draw(*key)
            out[left] = drawn
            left = left[self._in_train(index[left], drawn)]
            if not len(left):
                return out
        msg = (
            f"{self.ds.name}: no negative found in {TRIES:,} draws for {len(left)} places: some users have nearly "
            "all that is ever drawn; train with --set data.sampler=uniform or --objective in-batch"
        )
        raise CheckFailed(msg)

    def _draw(self, *key: int | Ints) -> Ints:
        if self.above is None:
            return self.pool[draws.integers(len(self.pool), *key)]
        at = draws.integers(self.above[-1], *key)
        return self.pool[np.searchsorted(self.above, at, side="right")]

    def _in_train(self, index: Ints, drawn: Ints) -> NDArray[np.bool_]:
        """Whether each drawn item is among the train items of its sequence (all of them, uncut)."""
        first, last = self.first[index], self.last[index]
        longest = int((last + 1 - first).max(initial=1))
        row = first + np.arange(longest)[:, None]
        met = self.ds.item_of_row[np.minimum(row, last)]
        taken: NDArray[np.bool_] = (met == drawn).any(0)
        return taken

    def _refuse_no_negative(self) -> None:
        longest = int((self.last + 1 - self.first).max(initial=0))
        if longest < len(self.pool):
            return
        rows = rows_of(self.first, self.last + 1)
        owner = np.repeat(np.arange(len(self.first)), self.last + 1 - self.first)
        met = np.unique(np.stack([owner, self.ds.item_of_row[rows]], 1), axis=0)
        candidate = np.isin(met[:, 1], self.pool)
        if np.bincount(met[:, 0][candidate]).max(initial=0) >= len(self.pool):
            msg = (
                f"{self.ds.name}: some user's train items are all {len(self.pool)} candidates, so no "
                "negative can be drawn; train with --objective in-batch"
            )
            raise CheckFailed(msg)
