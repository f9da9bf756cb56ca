"""Item encoder `id`: one trained vector an item."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from baselines.config import Config
from loaders import Batch
from ninerec_data import Dataset

__all__ = ["IdEncoder"]


class IdEncoder(nn.Module):
    """Embedding of item numbers, Xavier normal (PAPERS_AND_CODE 3.4). Pads never reach it."""

    def __init__(self, *, n_items: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items + 1, dim)
        nn.init.xavier_normal_(self.table.weight)

    @classmethod
    def needs(cls, config: Config) -> dict[str, Any]:  # noqa: ARG003
        """What `Sequences` must give."""
        return {"content": ("ids",)}

    @classmethod
    def of(cls, config: Config, ds: Dataset) -> IdEncoder:
        """A row for each item of the dataset."""
        return cls(n_items=ds.n_items, dim=config.model.dim)

    def forward(self, batch: Batch) -> Tensor:
        """(U, D) vectors of the batch's unique items."""
        vectors: Tensor = self.table(batch.unique_items)
        return vectors
