"""Item encoder `id`: one trained vector an item."""

from __future__ import annotations

from torch import Tensor, nn

from loaders import Batch

__all__ = ["IdEncoder"]


class IdEncoder(nn.Module):
    """Embedding of item numbers, Xavier normal (PAPERS_AND_CODE 3.4). Pads never reach it."""

    needs = ("ids",)

    def __init__(self, *, n_items: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items + 1, dim)
        nn.init.xavier_normal_(self.table.weight)

    def forward(self, batch: Batch) -> Tensor:
        """(U, D) vectors of the batch's unique items."""
        vectors: Tensor = self.table(batch.unique_items)
        return vectors
