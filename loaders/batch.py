"""The batch: each item once, sequences as indices into the unique items (DESIGN 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch of B sequences with W places each; U unique items, N text tokens, S pixels a side.

    users          (B,) int64         user of each sequence
    unique_items   (U,) int64         items 1..n_items that occur in this batch, ascending
    inverse        (B, W) int64       0 at pads (on the left), else 1..U: index into the unique items.
                                      Row i of a model's item table is unique item i; row 0 is zero
    mask           (B, W) bool        True = an item
    predict        (B, P) bool        True where something is to be predicted. P = W-1: the state at place t
                                      tells the item at t+1. P = W: the item at the place itself, which the
                                      model must not see (samples masked and pairs); of sub-sequences the
                                      last place, whose state tells `later`
    negatives      (B, P) int64       inverse index of one negative for each thing predicted, else 0
    later          (B, A) int64       sample sub-sequences only: inverse index of the items after the cut, then 0;
                                      its negatives are (B, A)
    copies         (U,) int64         how often each item stands in `inverse`
    log_popularity (U,) float32       log of each item's share of the train rows; 0 for an item never there
    tokens         (U, N) int64       token ids of each unique item, with `token_mask` (U, N) True = valid
    text           list of U strings  where no tokenizer was given
    has_text       (U,) bool          False where the dataset has no text of the item
    pixels         (U, 3, S, S) uint8 RGB, channels_last in memory; mid grey where there is no cover
    has_image      (U,) bool          False where the dataset has no cover of the item
    features       (U, F) float32     rows of a feature bundle; zero where the bundle has none
    history_items  (H,) int64         evaluation only: flat item numbers that cannot be recommended,
    history_rows   (H,) int64         and the sequence of the batch each belongs to
    """

    users: Tensor
    unique_items: Tensor
    inverse: Tensor
    mask: Tensor
    predict: Tensor
    copies: Tensor
    log_popularity: Tensor
    negatives: Tensor | None = None
    later: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    text: list[str] | None = None
    has_text: Tensor | None = None
    pixels: Tensor | None = None
    has_image: Tensor | None = None
    features: Tensor | None = None
    history_items: Tensor | None = None
    history_rows: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """(B, P) what a user encoder reads, as `inverse`; hidden places are those of `predict` where P = W."""
        return self.inverse[:, : self.predict.shape[1]]

    @property
    def input_mask(self) -> Tensor:
        """(B, P) bool, True = an item."""
        return self.mask[:, : self.predict.shape[1]]

    @property
    def goals(self) -> Tensor:
        """(B, P) what each place predicts, as `inverse`; meaningful where `predict` is True."""
        return self.inverse[:, -self.predict.shape[1] :]

    @property
    def targets(self) -> Tensor:
        """(B,) item number of each sequence's last item."""
        return self.unique_items[self.inverse[:, -1] - 1]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        ahead = torch.device(device).type != "cpu"  # to the CPU it would be read before it is there
        return self._each(lambda tensor: tensor.to(device, non_blocking=ahead))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)
