"""A recommender in three parts: item encoder, user encoder, objective (DESIGN 6)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from baselines.config import Config
from baselines.groups import freeze_below
from baselines.objectives import OBJECTIVES
from baselines.sasrec import SASRec
from baselines.world import ALONE, World
from loaders import Batch, Sequences, load_tokenizer
from loaders.features import Features
from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.files import hash_of

__all__ = [
    "ITEM_ENCODERS",
    "Recommender",
    "build_model",
    "fingerprint_of",
    "item_encoder",
    "open_data",
    "open_part",
]

# name -> module:class. The class declares `needs(config)`, what `Sequences` must give it, and `of(config, ds)`.
ITEM_ENCODERS: Mapping[str, str] = {
    "id": "baselines.item_id:IdEncoder",
    "text": "baselines.item_text:TextEncoder",
    "image": "baselines.item_image:ImageEncoder",
    "text+image": "baselines.item_text_image:TextImageEncoder",
    "frozen": "baselines.item_frozen:FrozenEncoder",
}


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

    def forward(self, batch: Batch, world: World = ALONE) -> Tensor:
        """The loss of a training batch, a scalar; in a world, this rank's part of the global batch's loss."""
        vectors = self.item_encoder(batch)  # (U, D)
        table = torch.cat([torch.zeros_like(vectors[:1]), vectors])  # (U+1, D), row 0 = pad
        states = self.user_encoder(table[batch.inputs], batch.input_mask, batch)
        loss: Tensor
        if world.size == 1:
            loss = self.objective(states, table, batch)
            return loss
        table, batch = _whole(vectors, batch, world)
        predicted = batch.predict.sum()
        share: Tensor = predicted / world.sum(predicted.clone())
        if not predicted:  # an idle rank
            loss = (states.sum() + table.sum()) * 0.0
            return loss
        loss = self.objective(states, table, batch)
        return loss * share


def _whole(vectors: Tensor, batch: Batch, world: World) -> tuple[Tensor, Batch]:
    """The item table of the global batch, and this rank's sequences as indices into it.

    An item that several ranks encoded is read from the first of them. Content stays the rank's own: an
    objective reads the table, and of the batch what is index, mask, count or popularity.
    """
    every = torch.cat(world.rows(vectors))
    facts = (batch.unique_items, batch.copies, batch.log_popularity)
    columns = zip(*world.gathered([fact.cpu() for fact in facts]), strict=True)
    items, copies, popularity = (torch.cat(column).to(vectors.device) for column in columns)
    unique, place = torch.unique(items, return_inverse=True)
    at = torch.arange(len(items), device=items.device)
    first = torch.full_like(unique, len(items)).scatter_reduce(0, place, at, "amin")
    here = torch.searchsorted(unique, batch.unique_items) + 1
    number = torch.cat([torch.zeros_like(here[:1]), here])
    table = torch.cat([torch.zeros_like(every[:1]), every[first]])
    return table, replace(
        batch,
        unique_items=unique,
        inverse=number[batch.inverse],
        negatives=None if batch.negatives is None else number[batch.negatives],
        copies=torch.zeros_like(unique).index_add(0, place, copies),
        log_popularity=popularity[first],
    )


def item_encoder(name: str) -> Any:
    """The class of an item encoder; its module, and what that imports, is loaded now."""
    module, _, kind = ITEM_ENCODERS[name].partition(":")
    return getattr(importlib.import_module(module), kind)


def build_model(config: Config, ds: Dataset) -> Recommender:
    """The model of a configuration, its initial weights a function of the seed."""
    m = config.model
    torch.manual_seed(config.train.seed)
    items = item_encoder(m.item_encoder).of(config, ds)
    if m.top_blocks:
        freeze_below(items, m.top_blocks)
    user_encoder = SASRec(
        dim=m.dim,
        max_length=ds.protocol.split.keep_last - 3,
        layers=m.layers,
        heads=m.heads,
        dropout=m.dropout,
    )
    return Recommender(
        item_encoder=items, user_encoder=user_encoder, objective=OBJECTIVES[m.objective]
    )


def open_data(config: Config, home: Home) -> Dataset:
    """The prepared dataset and split of a configuration (see `ninerec_data.open_dataset` for its errors)."""
    d = config.data
    return open_dataset(d.dataset, home=home, protocol_name=d.protocol, **d.split)


def open_part(config: Config, ds: Dataset, part: str) -> Sequences:
    """The sequences of a part with the content the configured item encoder needs."""
    return Sequences(
        ds,
        part,
        sample=config.data.sample,
        negatives=config.model.objective == "bce",
        sampler=config.data.sampler,
        threads=config.train.threads or None,
        decoded=config.train.decoded,
        **item_encoder(config.model.item_encoder).needs(config),
    )


def fingerprint_of(config: Config, ds: Dataset) -> dict[str, str]:
    """File name -> hash of all that a run learns from: tables; tokenizer, covers or features where it reads them."""
    found = dict(ds.fingerprint)
    needs = item_encoder(config.model.item_encoder).needs(config)
    if tokenizer := needs.get("tokenizer"):
        found["tokenizer"] = hash_of(load_tokenizer(tokenizer).to_str())
    if "image" in needs["content"]:
        found["covers"] = ds.covers_index
    if "features" in needs["content"]:
        found["features"] = Features.open(needs["features"], ds).recipe["sha256"]
    return found
