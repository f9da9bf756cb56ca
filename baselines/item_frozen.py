"""Item encoder `frozen`: features that were made once (`ninerec embed`) -> Linear -> GELU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from baselines.config import Config
from baselines.weights import xavier
from loaders import Batch
from loaders.features import Features
from ninerec_data import Dataset

__all__ = ["FrozenEncoder"]


class FrozenEncoder(nn.Module):
    """Feature rows (U, F) -> (U, D). Weights Xavier normal, bias 0 (PAPERS_AND_CODE 3.7, MoRec TS)."""

    def __init__(self, *, width: int, dim: int) -> None:
        super().__init__()
        self.project = xavier(nn.Linear(width, dim))

    @classmethod
    def needs(cls, config: Config) -> dict[str, Any]:
        """What `Sequences` must give: rows of the configured bundle."""
        return {"content": ("features",), "features": config.model.features}

    @classmethod
    def of(cls, config: Config, ds: Dataset) -> FrozenEncoder:
        """As wide as the configured bundle (see `Features.open` for its errors)."""
        return cls(width=Features.open(config.model.features, ds).width, dim=config.model.dim)

    def forward(self, batch: Batch) -> Tensor:
        """(U, D) vectors of the batch's unique items."""
        if batch.features is None:
            msg = "the frozen encoder got a batch without features; open Sequences with content=('features',)"
            raise ValueError(msg)
        vectors: Tensor = nn.functional.gelu(self.project(batch.features))
        return vectors
