"""Full-catalogue evaluation by counting: rank = 1 + candidates that score higher. No sampling, no sort.

A final score is a product in float64 of float32 vectors, rounded to float32 once, so that the order
of a sum (which differs with block sizes) cannot move a rank; the target's score is read from the
very product that ranks it.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from baselines.metrics import Ranks
from baselines.model import Recommender
from baselines.world import ALONE, World
from loaders import Batch, Sequences
from ninerec_data import CheckFailed

__all__ = ["evaluate", "item_table", "rank_block"]

SCORES_IN_MEMORY = 1 << 26  # float64 scores of one block of users


def evaluate(
    model: Recommender,
    sequences: Sequences,
    *,
    batch_size: int = 512,
    exact: bool = True,
    world: World = ALONE,
) -> Ranks:
    """Rank the target of every sequence among its candidates, in the order of `sequences`.

    Candidates are the split's pool and, outside it, the target itself (DESIGN 5, cold and new);
    the history the protocol masks is taken out.
    exact: user encoder and scores in float64, so that neither batch size nor user order can move a
        rank; without it (validation between epochs, and on MPS, which has no float64) in float32.
    world: its ranks share the items to encode and the users to rank; all get all ranks, no row twice.
    Raises CheckFailed for scores that are not finite.
    """
    ds = sequences.ds
    device = next(model.parameters()).device
    misses = ds.protocol.target_in_history == "misses"
    was_training = model.training
    model.eval()
    with torch.no_grad():
        dtype = torch.float64 if exact and device.type != "mps" else torch.float32
        table = item_table(model, sequences, world=world).to(device, dtype)
        users = copy.deepcopy(model.user_encoder).to(dtype) if exact else model.user_encoder
        in_pool = torch.from_numpy(ds.in_pool).to(device)
        block = max(1, min(batch_size, SCORES_IN_MEMORY // len(table)))
        order = np.argsort(sequences.lengths, kind="stable")  # like lengths together: few pads
        parts = []
        for at in range(world.rank * block, len(order), world.size * block):
            batch = sequences.batch(order[at : at + block]).to(device)
            x = _look_up(table, batch.unique_items, batch.inputs)
            states = users(x, batch.input_mask, batch)[:, -1]
            counted = rank_block(states, table, in_pool, batch, target_misses=misses)
            columns = (batch.users, batch.targets, *counted)
            parts.append([order[at : at + block], *(c.cpu().numpy() for c in columns)])
    model.train(was_training)
    parts = [part for share in world.gathered(parts) for part in share]
    if not parts:
        none = np.zeros(0, np.int64)
        return Ranks(none, none, none, none, none, none > 0)
    place, *found = (np.concatenate(column) for column in zip(*parts, strict=True))
    back = np.argsort(place)
    return Ranks(*(column[back] for column in found))


def item_table(
    model: Recommender, sequences: Sequences, *, chunk: int = 512, world: World = ALONE
) -> Tensor:
    """(n_items + 1, D) float32 vectors of every item, row 0 zero, encoded in chunks that ranks share."""
    device = next(model.parameters()).device
    end = sequences.ds.n_items + 1
    starts = range(1, end, chunk)
    share = starts if len(starts) < world.size else starts[world.rank :: world.size]
    rows = {}
    for at in share:
        batch = sequences.items(np.arange(at, min(at + chunk, end))).to(device)
        rows[at] = model.item_encoder(batch).float()
    if share is not starts:
        every = world.rows(torch.cat([rows[at] for at in share]))
        chunks = [
            torch.split(each, [min(chunk, end - at) for at in starts[rank :: world.size]])
            for rank, each in enumerate(every)
        ]
        rows = {at: chunks[i % world.size][i // world.size] for i, at in enumerate(starts)}
    return torch.cat([torch.zeros_like(rows[1][:1]), *(rows[at] for at in starts)])


def rank_block(
    states: Tensor,
    table: Tensor,
    in_pool: Tensor,
    batch: Batch,
    *,
    target_misses: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count, for each of B users, the candidates above and level with the target.

    states (B, D), table (n_items + 1, D), in_pool (n_items + 1,) bool; of the batch the targets (B,)
    and the flat masked history (H,), repeats allowed.
    Returns greater, equal, candidates (B,) int64 and missed (B,) bool.
    """
    targets, history_items, history_rows = batch.targets, batch.history_items, batch.history_rows
    if history_items is None or history_rows is None:
        msg = "a training batch cannot be ranked: open Sequences with part='valid' or 'test'"
        raise ValueError(msg)
    scores = (states @ table.T).float()  # (B, n_items + 1)
    if not torch.isfinite(scores).all():
        msg = (
            "the model's scores are not finite (NaN or infinity), so nothing can be ranked; "
            "train again with lower rates (--set train.lr=..., --set train.item_lr=...)"
        )
        raise CheckFailed(msg)
    goal = scores.gather(1, targets[:, None])
    row = torch.arange(len(targets), device=targets.device)
    candidate = in_pool.repeat(len(targets), 1)
    candidate[history_rows, history_items] = False
    in_history = torch.zeros_like(targets, dtype=torch.bool)
    in_history[history_rows[history_items == targets[history_rows]]] = True
    candidate[row, targets] = False
    greater = ((scores > goal) & candidate).sum(1)
    equal = ((scores == goal) & candidate).sum(1)
    missed = in_history if target_misses else torch.zeros_like(in_history)
    return greater, equal, candidate.sum(1) + 1, missed


def _look_up(table: Tensor, unique_items: Tensor, inverse: Tensor) -> Tensor:
    """(B, T, D) vectors of the sequences, zero at pads."""
    numbers = torch.cat([torch.zeros_like(unique_items[:1]), unique_items])
    return table[numbers[inverse]]
