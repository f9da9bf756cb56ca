"""Training objectives: (states (B, T, D), item table (U+1, D), batch) -> loss. One function each.

Source: PAPERS_AND_CODE 3.2. Row 0 of the item table is the zero vector of the pads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from loaders import Batch

__all__ = ["OBJECTIVES", "bce", "in_batch"]

MASKED = -1e4  # the papers' constant, not minus infinity


def bce(states: Tensor, table: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy of what is predicted and one negative, each averaged over the places, then added."""
    if batch.negatives is None:
        msg = "the bce objective got a batch without negatives; open Sequences with negatives=True"
        raise ValueError(msg)
    real = batch.predict
    state = states[real]  # (P, D), P = places that predict
    positive = (state * table[batch.goals[real]]).sum(-1)
    negative = (state * table[batch.negatives[real]]).sum(-1)
    one, zero = torch.ones_like(positive), torch.zeros_like(negative)
    return F.binary_cross_entropy_with_logits(positive, one) + F.binary_cross_entropy_with_logits(
        negative, zero
    )


def in_batch(states: Tensor, table: Tensor, batch: Batch) -> Tensor:
    """Softmax over the items of the batch, debiased by log-popularity.

    The papers' candidates are all B(L+1) positions of the batch, repeats counted; all that hold an
    item of the user's own sequence are masked but the target's own. Here each of the U items stands
    once and its number of copies enters as log(copies): the same sum, far fewer columns. The target
    enters once. Equal to the loop definition up to float summation.
    """
    b, n = len(batch.inverse), table.shape[0]
    real = batch.predict
    own = torch.zeros(b, n, dtype=torch.bool, device=table.device)
    own.scatter_(1, batch.inverse, torch.ones_like(batch.mask))
    copies = F.pad(batch.copies, (1, 0))
    debias = F.pad(batch.log_popularity, (1, 0))
    row = torch.arange(b, device=table.device)[:, None].expand(real.shape)[real]
    target = batch.goals[real]
    logits = (states[real] @ table.T).float() - debias  # (P, U+1)
    exact = logits.gather(1, target[:, None])
    # Pads and items that are only negatives have no copies among the positions.
    logits = (logits + copies.clamp(min=1).log()).masked_fill(own[row], MASKED)
    logits = logits.masked_fill(copies == 0, MASKED).scatter(1, target[:, None], exact)
    return F.cross_entropy(logits, target)


OBJECTIVES: Mapping[str, Callable[[Tensor, Tensor, Batch], Tensor]] = {
    "bce": bce,
    "in-batch": in_batch,
}
