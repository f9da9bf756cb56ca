"""What learns, and at which rates: the papers' parameter groups and their freezing of lower blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from baselines.config import Config
from ninerec_data import UsageError

__all__ = ["freeze_below", "parameter_groups"]

HEADS = ("project", "fusion")


def parameter_groups(model: nn.Module, config: Config) -> Iterator[dict[str, object]]:
    """Two groups: the item encoder with `train.item_*`, the user encoder with the other rates.

    The item encoder's head (its projection and fusion) goes with it as in NineRec, or with `train.head = "user"`
    to the user encoder's group as in MoRec. Weight decay covers every parameter of a group, LayerNorm
    and biases too (PAPERS_AND_CODE 3.8).
    """
    t = config.train
    groups: dict[str, list[nn.Parameter]] = {"item": [], "user": []}
    for name, parameter in model.named_parameters():
        part, *inside = name.split(".")
        head = t.head == "user" and any(word in HEADS for word in inside)
        if parameter.requires_grad:
            groups["item" if part == "item_encoder" and not head else "user"].append(parameter)
    rates = {"item": (t.item_lr, t.item_weight_decay), "user": (t.lr, t.weight_decay)}
    for group, (lr, weight_decay) in rates.items():
        if groups[group]:
            yield {"params": groups[group], "lr": lr, "weight_decay": weight_decay}


def freeze_below(encoder: nn.Module, top: int) -> None:
    """Let only the topmost `top` blocks of each backbone learn, and what comes after them.

    Blocks are a text model's layers, an image model's stages; a Swin's halving between two stages goes with
    the lower one (PAPERS_AND_CODE 3.9: parameters before the first such block, in their order, are frozen).
    Raises UsageError for more blocks than there are, and where there is no backbone.
    """
    holders: list[Any] = [
        part for part in encoder.modules() if callable(getattr(part, "blocks", None))
    ]
    if not holders:
        raise UsageError(f"model.top_blocks is {top}: this item encoder has no pretrained model")
    for holder in holders:
        names = holder.blocks()
        if top > len(names):
            msg = f"model.top_blocks is {top}; the model has {len(names)} blocks; expected 1 to {len(names)}"
            raise UsageError(msg)
        for name, parameter in holder.backbone.named_parameters():
            if name.startswith(f"{names[-top]}."):
                break
            parameter.requires_grad_(False)
