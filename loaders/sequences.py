"""`Sequences`: the user sequences of one part of a split, turned into batches by vector operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from loaders.batch import Batch
from loaders.titles import load_tokenizer, title_tokens
from ninerec_data import CheckFailed, Dataset, UsageError, draws
from ninerec_data.errors import nearest
from ninerec_data.slices import rows_of

__all__ = ["PARTS", "Sequences"]

PARTS = ("train", "valid", "test", "cold", "new", "cold-outside", "new-outside")
CONTENT = ("ids", "text")
ORDER, BATCHES, NEGATIVES = 11, 12, 13  # streams of the counter hash
Ints = NDArray[np.int64]


class Sequences:
    """One part of a prepared dataset as sequences of at most `max_length` inputs and one target.

    part: train gives s[:-2] (all its transitions are targets), valid ends at s[-2], test at s[-1];
        cold and new are the test sequences whose target has 1-9 or 0 train rows; the -outside parts
        come from users left outside the draw (PAPERS_AND_CODE 2.1 step 5, 2.4; DESIGN 5).
    content: "ids" (nothing but item numbers), "text" (token ids with a tokenizer, strings without).
    max_length: model positions L; default the split's keep_last - 3.
    tokenizer: a folder or file `loaders.load_tokenizer` reads; language: default the dataset's last.
    negatives: whether training batches carry one seeded negative a transition, uniform over the
        pool minus the user's train items (PAPERS_AND_CODE 3.1).

    `len()` is the number of sequences.
    """

    def __init__(
        self,
        ds: Dataset,
        part: str = "train",
        content: Sequence[str] = ("ids",),
        *,
        max_length: int | None = None,
        tokenizer: str | Path | None = None,
        language: str | None = None,
        max_tokens: int = 30,
        negatives: bool = True,
    ) -> None:
        _known("part", part, PARTS)
        for kind in content:
            _known("content", kind, CONTENT)
        self.ds, self.part, self.content = ds, part, tuple(content)
        self.max_length = max_length or ds.protocol.split.keep_last - 3
        self.user, self.first, self.target = _rows_of_part(ds, part)
        self.start = np.maximum(self.first, self.target - self.max_length)
        self.pool = np.flatnonzero(ds.in_pool)
        self.negatives = negatives and part == "train"
        if self.negatives:
            self._refuse_no_negative()
        counts = np.maximum(ds.train_count, 1) / max(int(ds.train_count.sum()), 1)
        self.log_popularity = np.where(ds.train_count > 0, np.log(counts), 0.0).astype(np.float32)
        self.titles, self.texts = None, None
        if "text" in self.content:
            if not ds.languages:
                msg = f"{ds.name} has no text; train on ids: --item-encoder id"
                raise UsageError(msg)
            language = language or ds.languages[-1]
            if tokenizer is None:
                self.texts = np.array(["", *ds.text(language)], dtype=object)
            else:
                made = load_tokenizer(Path(tokenizer))
                self.titles = title_tokens(ds, made, language=language, max_tokens=max_tokens)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def lengths(self) -> Ints:
        """(len,) items of each sequence, target included, after the cut to max_length + 1."""
        return self.target + 1 - self.start

    def batch(self, index: Ints, *, seed: int = 0, epoch: int = 0) -> Batch:
        """Sequences `index` as one batch; negatives are a function of (seed, epoch, user, slot) alone."""
        target, start = self.target[index], self.start[index]
        width = int((target - start).max(initial=1)) + 1
        row = target[:, None] + np.arange(1 - width, 1)
        mask = row >= start[:, None]
        items = np.where(mask, self.ds.item_of_row[np.where(mask, row, 0)], 0).astype(np.int64)
        drawn = self._negatives(index, mask, seed, epoch) if self.negatives else None
        unique, inverse = np.unique(
            np.concatenate([[0], items.ravel(), () if drawn is None else drawn.ravel()]).astype(
                np.int64
            ),
            return_inverse=True,
        )
        inverse, shown = inverse[1:], unique[1:]
        values = {
            "users": self.user[index],
            "inverse": inverse[: items.size].reshape(items.shape),
            "mask": mask,
            **self._content(shown),
        }
        if drawn is not None:
            values["negatives"] = inverse[items.size :].reshape(drawn.shape)
        if self.part != "train":
            values["history_items"], values["history_rows"] = self._history(index)
        return self._as_batch(values, shown)

    def items(self, items: Ints) -> Batch:
        """A batch of no sequences that holds the content of `items`: what an item encoder reads."""
        none = np.zeros((0, 1), np.int64)
        values = {"users": none[:, 0], "inverse": none, "mask": none > 0, **self._content(items)}
        return self._as_batch(values, items)

    def _content(self, items: Ints) -> dict[str, NDArray[Any]]:
        content: dict[str, NDArray[Any]] = {
            "unique_items": items,
            "log_popularity": self.log_popularity[items],
        }
        if self.titles is not None:
            content["tokens"], content["token_mask"] = self.titles.of(items)
        return content

    def _as_batch(self, values: dict[str, NDArray[Any]], items: Ints) -> Batch:
        tensors = {name: torch.from_numpy(value) for name, value in values.items()}
        text = None if self.texts is None else list(self.texts[items])
        return Batch(**tensors, text=text)

    def _negatives(self, index: Ints, mask: NDArray[np.bool_], seed: int, epoch: int) -> Ints:
        """(B, T) one draw a transition, drawn again while it is one of the user's train items.

        The slot counts from the sequence's end, so trimmed pads change nothing.
        """
        need = mask[:, :-1]
        slot = np.arange(need.shape[1])[::-1]
        owner = self.user[index][:, None]
        out = np.zeros(need.shape, np.int64)
        rows, columns = np.nonzero(need)
        for attempt in range(1000):
            high = len(self.pool)
            key = (seed, NEGATIVES, epoch, owner[rows, 0], slot[columns], attempt)
            drawn = self.pool[draws.integers(high, *key)]
            taken = self._in_train(index[rows], drawn)
            out[rows, columns] = drawn
            rows, columns = rows[taken], columns[taken]
            if not len(rows):
                return out
        msg = f"{self.ds.name}: no negative found in 1,000 draws for {len(rows)} transitions"
        raise CheckFailed(msg)

    def _refuse_no_negative(self) -> None:
        """Raise CheckFailed where some user's train items are all the candidates there are."""
        longest = int((self.target + 1 - self.first).max(initial=0))
        if longest < len(self.pool):
            return
        rows = rows_of(self.first, self.target + 1)
        owner = np.repeat(np.arange(len(self)), self.target + 1 - self.first)
        met = np.unique(np.stack([owner, self.ds.item_of_row[rows]], 1), axis=0)
        if np.bincount(met[:, 0][self.ds.in_pool[met[:, 1]]]).max(initial=0) >= len(self.pool):
            msg = (
                f"{self.ds.name}: some user's train items are all {len(self.pool)} candidates, so no "
                "negative can be drawn; train with --objective in-batch"
            )
            raise CheckFailed(msg)

    def _in_train(self, index: Ints, drawn: Ints) -> NDArray[np.bool_]:
        """Whether each drawn item is among the train items of sequence `index` (all of them, uncut)."""
        first, last = self.first[index], self.target[index]
        longest = int((last + 1 - first).max(initial=1))
        row = first[:, None] + np.arange(longest)
        met = self.ds.item_of_row[np.minimum(row, last[:, None])]
        taken: NDArray[np.bool_] = (met == drawn[:, None]).any(1)
        return taken

    def _history(self, index: Ints) -> tuple[Ints, Ints]:
        """Items before each target that the protocol bars from being recommended, flat with their rows."""
        first = self.first[index]
        if self.ds.protocol.mask == "history":
            first = self.ds.history_start[self.user[index]]
        target = self.target[index]
        items = self.ds.item_of_row[rows_of(first, target)].astype(np.int64)
        return items, np.repeat(np.arange(len(index)), target - first)


def _rows_of_part(ds: Dataset, part: str) -> tuple[Ints, Ints, Ints]:
    """User, first row and target row (the last train row for train) of each sequence of a part."""
    table = ds.sequences
    user, start, end = (
        table[name].to_numpy().astype(np.int64) for name in ("user", "start", "end")
    )
    wanted = part if part.endswith("-outside") else "train"
    chosen = pc.equal(table["role"], wanted).to_numpy()
    user, start, end = user[chosen], start[chosen], end[chosen]
    target = end - {"train": 3, "valid": 2}.get(part, 1)
    if part == "train":  # one item alone has no transition to learn from
        several = target > start
        user, start, target = user[several], start[several], target[several]
    if part in ("cold", "new"):
        hit = ds.group[ds.item_of_row[target]] == part
        user, start, target = user[hit], start[hit], target[hit]
    return user, start, target


def _known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        msg = f"unknown {what} '{value}'{nearest(value, known)} Known: {', '.join(known)}"
        raise UsageError(msg)
