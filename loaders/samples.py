"""Sample builders: which rows of the interactions a batch shows, hides and predicts.

Each is a function of (seed, epoch) and of the sequences alone; all work on the same store, so that a
model of another kind is another `sample`, never another dataset (PAPERS_AND_CODE 3.1, 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ninerec_data import draws

if TYPE_CHECKING:
    from loaders.sequences import Sequences

__all__ = ["SAMPLES", "Places"]

MASKED, CUTS = 14, 15  # streams of the counter hash

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Places:
    """Rows of the interactions as places of a batch; what `mask` leaves out is no row.

    rows, mask (B, W); predict (B, P) as `Batch` has them; later, later_mask (B, A) for sub-sequences.
    """

    rows: Ints
    mask: Bools
    predict: Bools
    later: Ints | None = None
    later_mask: Bools | None = None


def s2s(of: Sequences, index: Ints, seed: int, epoch: int) -> Places:  # noqa: ARG001
    """Every transition predicts its next item; at evaluation the last one alone."""
    rows, mask = _window(of.start[index], of.target[index])
    return Places(rows, mask, mask[:, :-1] if of.part == "train" else _last(mask[:, :-1]))


def s2o(of: Sequences, index: Ints, seed: int, epoch: int) -> Places:  # noqa: ARG001
    """The same sequence, the last transition alone is predicted (NineRec's S2O framework)."""
    rows, mask = _window(of.start[index], of.target[index])
    return Places(rows, mask, _last(mask[:, :-1]))


def masked(of: Sequences, index: Ints, seed: int, epoch: int) -> Places:
    """BERT4Rec: each place is hidden with probability `mask_rate` and predicted; at evaluation the last.

    The released code may hide none of a user's places; here it is then the one whose draw is least.
    """
    rows, mask = _window(of.start[index], of.target[index])
    if of.part != "train":
        return Places(rows, mask, _last(mask))
    key = (seed, MASKED, epoch, of.user[index][:, None], of.last[index][:, None] - rows)
    drawn = np.where(mask, draws.integers(1 << 53, *key), 1 << 53)
    least = np.arange(mask.shape[1]) == drawn.argmin(1)[:, None]
    return Places(rows, mask, (drawn < of.mask_rate * (1 << 53)) | least)


def pairs(of: Sequences, index: Ints, seed: int, epoch: int) -> Places:  # noqa: ARG001
    """DSSM: one item a row and its user; the item is what is predicted."""
    rows = of.target[index][:, None]
    return Places(rows, np.ones_like(rows, bool), np.ones_like(rows, bool))


def subsequences(of: Sequences, index: Ints, seed: int, epoch: int) -> Places:
    """TransRec: each train sequence is cut at a drawn place; what is before it (C^u) predicts the next
    `ahead` items (C^e), which `later` holds. At evaluation as `s2o`."""
    if of.part != "train":
        return s2o(of, index, seed, epoch)
    first, last = of.first[index], of.last[index]
    cut = first + draws.integers(last - first, seed, CUTS, epoch, of.user[index])
    rows, mask = _window(np.maximum(first, cut + 1 - of.max_length), cut)
    later = cut[:, None] + np.arange(1, of.ahead + 1)
    return Places(rows, mask, _last(mask), later, later <= last[:, None])


def _window(start: Ints, end: Ints) -> tuple[Ints, Bools]:
    """(B, W) rows start..end of each sequence, at the right, and where they are."""
    width = int((end - start).max(initial=1)) + 1
    rows = end[:, None] + np.arange(1 - width, 1)
    return rows, rows >= start[:, None]


def _last(mask: Bools) -> Bools:
    last: Bools = np.zeros_like(mask)
    last[:, -1] = True
    return last


SAMPLES: Mapping[str, Callable[[Sequences, Ints, int, int], Places]] = {
    "s2s": s2s,
    "s2o": s2o,
    "masked": masked,
    "pairs": pairs,
    "subsequences": subsequences,
}
