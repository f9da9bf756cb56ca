"""A recommender in three parts: item encoder, user encoder, objective (DESIGN 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from baselines.config import Config
from baselines.item_id import IdEncoder
from baselines.objectives import OBJECTIVES
from baselines.sasrec import SASRec
from loaders import Batch, Sequences
from ninerec_data import Dataset, Home, open_dataset

__all__ = ["Recommender", "build_model", "open_data", "open_part", "parameter_groups"]


class Recommender(nn.Module):
    """Items to vectors, sequences to states, states and vectors to a loss."""

    def __init__(
        self,
        *,
        item_encoder: nn.Module,
        user_encoder: nn.Module,
        objective: Callable[[Tensor, Tensor, Batch], Tensor],
    ) -> None:
        super().__init__()
        self.item_encoder, self.user_encoder, self.objective = item_encoder, user_encoder, objective

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a training batch, a scalar."""
        vectors = self.item_encoder(batch)  # (U, D)
        table = torch.cat([torch.zeros_like(vectors[:1]), vectors])  # (U+1, D), row 0 = pad
        states = self.user_encoder(table[batch.inputs], batch.input_mask, batch)
        return self.objective(states, table, batch)


def build_model(config: Config, ds: Dataset) -> Recommender:
    """The model of a configuration, its initial weights a function of the seed."""
    m = config.model
    torch.manual_seed(config.train.seed)
    if m.item_encoder == "id":
        item_encoder: nn.Module = IdEncoder(n_items=ds.n_items, dim=m.dim)
    else:
        from baselines.item_text import TextEncoder, load_backbone

        item_encoder = TextEncoder(
            load_backbone(m.text_model, m.weights), dim=m.dim, frozen=m.frozen
        )
    user_encoder = SASRec(
        dim=m.dim,
        max_length=ds.protocol.split.keep_last - 3,
        layers=m.layers,
        heads=m.heads,
        dropout=m.dropout,
    )
    return Recommender(
        item_encoder=item_encoder, user_encoder=user_encoder, objective=OBJECTIVES[m.objective]
    )


def open_data(config: Config, home: Home) -> Dataset:
    """The prepared dataset and split of a configuration (see `ninerec_data.open_dataset` for its errors)."""
    d = config.data
    return open_dataset(d.dataset, home=home, protocol_name=d.protocol, **d.split)


def open_part(config: Config, ds: Dataset, part: str) -> Sequences:
    """The sequences of a part with the content the configured item encoder needs."""
    if config.model.item_encoder == "id":
        return Sequences(ds, part, negatives=config.model.objective == "bce")
    from baselines.item_text import tokenizer_folder

    return Sequences(
        ds,
        part,
        ("text",),
        tokenizer=tokenizer_folder(config.model.text_model),
        language=config.data.language or None,
        max_tokens=config.data.max_tokens,
        negatives=config.model.objective == "bce",
    )


def parameter_groups(model: Recommender, config: Config) -> Iterator[dict[str, object]]:
    """NineRec's two groups: the item encoder with its projection, and the user encoder.

    Weight decay covers every parameter of a group, LayerNorm and biases too (PAPERS_AND_CODE 3.8).
    """
    t = config.train
    rates = {
        "item_encoder": (t.item_lr, t.item_weight_decay),
        "user_encoder": (t.lr, t.weight_decay),
    }
    for part, (lr, weight_decay) in rates.items():
        trained = [p for p in getattr(model, part).parameters() if p.requires_grad]
        if trained:
            yield {"params": trained, "lr": lr, "weight_decay": weight_decay}
