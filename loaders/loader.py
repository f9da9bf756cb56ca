"""`make_loader`: batches in an order that is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.batch import Batch
from loaders.sequences import Sequences
from ninerec_data import NineRecError, UsageError, draws

__all__ = ["Loader", "make_loader"]

ORDER, BATCHES = 11, 12  # streams of the counter hash


class Loader:
    """Batches of a part, epoch after epoch.

    `at(epoch, position)` yields the batches of one epoch from a position on: the way to resume.
    Iterating yields the next epoch each time, from 0.
    The order, the batches and every draw are the same for any `workers`; rank r of `world` takes its
    slice of each global batch of `batch_size` sequences.

    shuffle: default for train only. similar: batches of like lengths are formed inside windows of this
        many batches; 1 keeps plain random batches.
    Raises UsageError for sizes that make no sense.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int = 64,
        seed: int = 0,
        *,
        shuffle: bool | None = None,
        similar: int = 1,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            msg = f"batch_size is {batch_size}; expected at least 1"
            raise UsageError(msg)
        if not 0 <= rank < world:
            msg = f"rank is {rank} of {world}; expected 0 <= rank < world"
            raise UsageError(msg)
        if workers < 0:
            raise UsageError(f"workers is {workers}; expected at least 0")
        self.sequences, self.batch_size, self.seed = sequences, batch_size, seed
        self.shuffle = sequences.part == "train" if shuffle is None else shuffle
        self.similar, self.workers = max(1, similar), workers
        self.rank, self.world = rank, world
        self._epoch = 0
        self._orders: dict[int, list[NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.sequences) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        return self.at(epoch)

    def at(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `position` on.

        Raises UsageError for a position below 0. An error of content (a shard that vanished, a damaged
        cover) is raised as it is, also from a worker.
        """
        if position < 0:
            raise UsageError(f"position is {position}; expected at least 0")
        keys = [(epoch, at) for at in range(position, len(self))]
        if not self.workers and not torch.cuda.is_available():
            yield from (self.make(*key) for key in keys)
            return
        made = torch.utils.data.DataLoader(
            _Batches(self),
            sampler=keys,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in made:
            if isinstance(batch, NineRecError):
                raise batch
            yield batch

    def make(self, epoch: int, position: int) -> Batch:
        """One batch by its place: this rank's slice of global batch `position`.

        Where an epoch's last train batch has fewer sequences than there are ranks, the others get its first
        one with nothing to predict, so that all take equal steps. Of other parts no sequence is repeated:
        such a rank gets a batch of none.
        """
        whole = self._order(epoch)[position]
        index = np.array_split(whole, self.world)[self.rank]
        idle = not len(index) and self.sequences.part == "train"
        batch = self.sequences.batch(whole[:1] if idle else index, seed=self.seed, epoch=epoch)
        if not idle:
            return batch
        return replace(
            batch,
            predict=torch.zeros_like(batch.predict),
            copies=torch.zeros_like(batch.copies),
        )

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        """The epoch's global batches. Shuffled sequences are grouped by length inside windows of
        `similar` batches, so that few pads are computed, and those batches are shuffled again."""
        if epoch not in self._orders:
            n, size = len(self.sequences), self.batch_size
            order = np.arange(n)
            if self.shuffle:
                order = draws.permutation(n, self.seed, ORDER, epoch)
                window = np.arange(n) // (size * self.similar)
                order = order[np.lexsort((self.sequences.lengths[order], window))]
            batches = [order[at : at + size] for at in range(0, n, size)]
            if self.shuffle:
                batches = [
                    batches[at] for at in draws.permutation(len(batches), self.seed, BATCHES, epoch)
                ]
            self._orders = {epoch: batches}
        return self._orders[epoch]


class _Batches(torch.utils.data.Dataset[Batch | NineRecError]):
    """Adapter: a (epoch, position) key is a whole batch.

    An error meant for the user travels as a value: torch would wrap it in a worker's traceback.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, key: tuple[int, int]) -> Batch | NineRecError:
        try:
            return self.loader.make(*key)
        except NineRecError as error:
            return error


make_loader = Loader
