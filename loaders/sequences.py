"""`Sequences`: the user sequences of one part of a split, turned into batches by vector operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from loaders.batch import Batch
from loaders.content import Content
from loaders.negatives import Negatives, Sampler
from loaders.samples import SAMPLES, Places
from ninerec_data import Dataset, UsageError
from ninerec_data.errors import refuse_unknown
from ninerec_data.slices import rows_of

__all__ = ["PARTS", "Sequences"]

PARTS = ("train", "valid", "test", "cold", "new", "cold-outside", "new-outside")
Ints = NDArray[np.int64]


class Sequences:
    """One part of a prepared dataset as sequences of at most `max_length` inputs and one target.

    part: train gives s[:-2] (all its transitions are targets), valid ends at s[-2], test at s[-1];
        cold and new are the test sequences whose target has 1-9 or 0 train rows; the -outside parts
        come from users left outside the draw (PAPERS_AND_CODE 2.1 step 5, 2.4; DESIGN 5).
    content: "ids" (nothing but item numbers), "text", "image", "features".
    sample: what is predicted from what (`loaders.samples`): s2s, s2o, masked, pairs, subsequences.
        mask_rate: share of the places that masked hides; ahead: items that subsequences predicts.
    max_length: model positions L; default the split's keep_last - 3.
    negatives: whether training batches carry one seeded negative for each thing predicted, by
        `sampler`: "uniform" over the pool or by "popularity", without the user's train items.
    The rest says how content is read.
        text: tokenizer (a folder or file `loaders.load_tokenizer` reads; strings without), language
        (default the dataset's last), max_tokens. image: image_size (default as prepared), threads that
        decode, decoded (from a cache on disk, made once). features: the bundle's folder.

    `len()` is the number of sequences; of train pairs, of pairs.
    Raises UsageError for what cannot be meant, MissingData for content that was not prepared.
    """

    def __init__(
        self,
        ds: Dataset,
        part: str = "train",
        content: Sequence[str] = ("ids",),
        *,
        sample: str = "s2s",
        max_length: int | None = None,
        negatives: bool = True,
        sampler: str = "uniform",
        mask_rate: float = 0.4,
        ahead: int = 3,
        **of_content: Any,
    ) -> None:
        refuse_unknown("part", part, PARTS)
        refuse_unknown("sample", sample, SAMPLES)
        if not 0 < mask_rate <= 1 or ahead < 1:
            msg = f"mask_rate is {mask_rate} and ahead {ahead}; expected above 0 up to 1, and at least 1"
            raise UsageError(msg)
        refuse_unknown("sampler", sampler, get_args(Sampler))
        kept = ds.protocol.split.keep_last
        if max_length is not None and not 0 < max_length < kept:
            msg = f"max_length is {max_length}; expected 1 to {kept - 1}: this split keeps a user's last {kept} items"
            raise UsageError(f"{msg}; ninerec prepare {ds.name} --max-length L keeps L + 3")
        self.ds, self.part, self.sample = ds, part, sample
        self.mask_rate, self.ahead = mask_rate, ahead
        self.max_length = max_length or kept - 3
        self.user, self.first, self.last = _rows_of_part(ds, part, alone=sample == "pairs")
        self.target = self.last
        if sample == "pairs":
            self._each_pair()
        self.start = np.maximum(self.first, self.target - self.max_length)
        self.negatives: Negatives | None = None
        if negatives and part == "train":
            self.negatives = Negatives(ds, sampler, self.user, self.first, self.last)
        counts = np.maximum(ds.train_count, 1) / max(int(ds.train_count.sum()), 1)
        self.log_popularity = np.where(ds.train_count > 0, np.log(counts), 0.0).astype(np.float32)
        self.content = Content(ds, content, **of_content)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def lengths(self) -> Ints:
        """(len,) items of each sequence, target included, after the cut to max_length + 1."""
        return self.target + 1 - self.start

    def batch(self, index: Ints, *, seed: int = 0, epoch: int = 0) -> Batch:
        """Sequences `index` as one batch; all that is drawn is a function of (seed, epoch, user, place) alone."""
        index = np.asarray(index, np.int64)
        places = SAMPLES[self.sample](self, index, seed, epoch)
        shown = [self._items(places.rows, places.mask)]
        if places.later is not None and places.later_mask is not None:
            shown.append(self._items(places.later, places.later_mask))
        if self.negatives:
            shown.append(self._negatives(places, index, seed, epoch))
        unique, found = _numbered(shown, self.ds.n_items)
        copies = np.bincount(found[0].ravel(), minlength=len(unique))[1:]
        values: dict[str, Any] = {"inverse": found[0], "copies": copies}
        if places.later is not None:
            values["later"] = found[1]
        if self.negatives:
            values["negatives"] = found[-1]
        if self.part != "train":
            values["history_items"], values["history_rows"] = self._history(index)
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        return self._batch(unique[1:], self.user[index], places.mask, places.predict, **tensors)

    def items(self, items: Ints) -> Batch:
        """A batch of no sequences that holds the content of `items`: what an item encoder reads."""
        items, none = np.asarray(items, np.int64), np.zeros((0, 1), np.int64)
        values = {"inverse": none, "copies": np.zeros_like(items)}
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        return self._batch(items, none[:, 0], none > 0, none > 0, **tensors)

    def _batch(self, items: Ints, users: Ints, mask: Any, predict: Any, **values: Any) -> Batch:
        return Batch(
            users=torch.from_numpy(users),
            unique_items=torch.from_numpy(items),
            mask=torch.from_numpy(mask),
            predict=torch.from_numpy(predict),
            log_popularity=torch.from_numpy(self.log_popularity[items]),
            **values,
            **self.content.of(items),
        )

    def _items(self, rows: Ints, mask: NDArray[np.bool_]) -> Ints:
        """The items of rows, 0 where there is none."""
        return np.where(mask, self.ds.item_of_row[np.where(mask, rows, 0)], 0).astype(np.int64)

    def _negatives(self, places: Places, index: Ints, seed: int, epoch: int) -> Ints:
        """One draw for each row that is predicted, in its place."""
        rows, wanted = places.rows[:, -places.predict.shape[1] :], places.predict
        if places.later is not None and places.later_mask is not None:
            rows, wanted = places.later, places.later_mask
        out = np.zeros(wanted.shape, np.int64)
        at = np.nonzero(wanted)
        assert self.negatives is not None
        out[at] = self.negatives(index[at[0]], rows[at], seed=seed, epoch=epoch)
        return out

    def _history(self, index: Ints) -> tuple[Ints, Ints]:
        """Items before each target that the protocol bars from being recommended, flat with their rows."""
        first = self.first[index]
        if self.ds.protocol.mask == "history":
            first = self.ds.history_start[self.user[index]]
        target = self.target[index]
        items = self.ds.item_of_row[rows_of(first, target)].astype(np.int64)
        return items, np.repeat(np.arange(len(index)), target - first)

    def _each_pair(self) -> None:
        """Of train, each row of a sequence becomes a sequence whose target it is."""
        if self.part != "train":
            return
        several = self.last + 1 - self.first
        self.target = rows_of(self.first, self.last + 1)
        self.user, self.first, self.last = (
            np.repeat(column, several) for column in (self.user, self.first, self.last)
        )


def _numbered(shown: Sequence[Ints], n_items: int) -> tuple[Ints, list[Ints]]:
    """The items that are shown, ascending, 0 first; and each array with an item's place among them.

    Marks in an array of all items: a tenth of the time of `np.unique` with its inverse.
    """
    marked = np.zeros(n_items + 1, bool)
    marked[0] = True
    for items in shown:
        marked[items] = True
    unique = np.flatnonzero(marked)
    place = np.empty(n_items + 1, np.int64)
    place[unique] = np.arange(len(unique))
    return unique, [place[items] for items in shown]


def _rows_of_part(ds: Dataset, part: str, *, alone: bool) -> tuple[Ints, Ints, Ints]:
    """User, first row and target row (the last train row for train) of each sequence of a part.

    alone: keep train sequences of one item, which is a pair and no transition.
    """
    table = ds.sequences
    user, start, end = (
        table[name].to_numpy().astype(np.int64) for name in ("user", "start", "end")
    )
    wanted = part if part.endswith("-outside") else "train"
    chosen = pc.equal(table["role"], wanted).to_numpy()
    user, start, end = user[chosen], start[chosen], end[chosen]
    target = end - {"train": 3, "valid": 2}.get(part, 1)
    if part == "train" and not alone:
        several = target > start
        user, start, target = user[several], start[several], target[several]
    if part in ("cold", "new"):
        hit = ds.group[ds.item_of_row[target]] == part
        user, start, target = user[hit], start[hit], target[hit]
    return user, start, target
