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
    """One batch of B sequences with T inputs and one target each; U unique items, N text tokens.

    users          (B,) int64         user of each sequence
    unique_items   (U,) int64         items 1..n_items that occur in this batch, ascending
    inverse        (B, T+1) int64     0 at pads (on the left), else 1..U: index into the unique items.
                                      Row i of a model's item table is unique item i; row 0 is zero.
                                      Inputs are [:, :-1], their next items [:, 1:], the last column the target.
    mask           (B, T+1) bool      True = an item
    negatives      (B, T) int64       inverse index of one negative a transition, stored at its input; 0 at pads
    log_popularity (U,) float32       log of each item's share of the train rows; 0 for an item never there
    tokens         (U, N) int64       token ids of each unique item, with `token_mask` (U, N) True = valid
    text           list of U strings  where no tokenizer was given
    history_items  (H,) int64         evaluation only: flat item numbers that cannot be recommended,
    history_rows   (H,) int64         and the sequence of the batch each belongs to
    """

    users: Tensor
    unique_items: Tensor
    inverse: Tensor
    mask: Tensor
    log_popularity: Tensor
    negatives: Tensor | None = None
    tokens: Tensor | None = None
    token_mask: Tensor | None = None
    text: list[str] | None = None
    history_items: Tensor | None = None
    history_rows: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """(B,) item number of each sequence's last item."""
        return self.unique_items[self.inverse[:, -1] - 1]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

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
