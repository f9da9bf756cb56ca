"""The released code's text training step, written from PAPERS_AND_CODE 2.5 and 3.1 to 3.4; for benchmarks/train.py.

Every slot of a user's sequence and of its negatives is encoded, pads and repeats too, titles padded to 30 tokens;
SASRec computes the padded grid. It takes over the weights of our model, so that both can be given the same batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.item_text import TextEncoder
from baselines.model import Recommender
from baselines.sasrec import SASRec
from loaders import Batch, Sequences

TOKENS = 30
HIDDEN = -1e9  # the additive mask


class Reference:
    """A model of ours, stepped the released way; its user encoder is exchanged in place."""

    def __init__(self, model: Recommender, sequences: Sequences) -> None:
        encoder, user_encoder = model.item_encoder, model.user_encoder
        assert isinstance(encoder, TextEncoder)
        assert isinstance(user_encoder, SASRec)
        self.bert, self.fc = encoder.backbone, encoder.project
        self.width = user_encoder.max_length + 1
        self.sasrec = model.user_encoder = PaddedSASRec(user_encoder)
        read = sequences.items(np.arange(1, sequences.ds.n_items + 1))
        assert read.tokens is not None
        assert read.token_mask is not None
        more = (0, TOKENS - read.tokens.shape[1], 1, 0)  # row 0 is the pad item: all zeros
        each = read.tokens * read.token_mask, read.token_mask
        self.content = torch.cat([F.pad(one.int(), more) for one in each], 1).numpy()  # (M+1, 60)

    def backward(self, batch: Batch, parts: int) -> float:
        """The loss of a batch, its gradients added up over so many parts."""
        users, total = _users(batch), 0.0
        transitions = sum(len(items) - 1 for items, _ in users)
        for at in range(parts):
            loss = self.loss([self.sample(*user) for user in users[at::parts]]) / transitions
            loss.backward()
            total += loss.item()
        return total

    def sample(self, items: list[int], negatives: list[int]) -> tuple[Tensor, Tensor]:
        """One user: (L+1, 2, 60) contents of items and negatives, padded on the left, and (L,) log_mask."""
        pads = self.width - len(items)
        pairs = zip([0] * pads + items, [0] * pads + negatives + [0], strict=True)
        slots = np.stack([np.stack([self.content[one] for one in pair]) for pair in pairs])
        log_mask = [0.0] * pads + [1.0] * (len(items) - 1)
        return torch.from_numpy(slots), torch.tensor(log_mask)

    def loss(self, samples: list[tuple[Tensor, Tensor]]) -> Tensor:
        """BCE of positives and of negatives, summed over the transitions."""
        slots = torch.stack([slots for slots, _ in samples]).flatten(0, 2)  # (2 B (L+1), 60)
        log_mask = torch.stack([log_mask for _, log_mask in samples])  # (B, L)
        tokens, mask = slots.long().split(TOKENS, dim=1)
        first = self.bert(input_ids=tokens, attention_mask=mask)[0][:, 0]
        items = F.gelu(self.fc(first)).view(len(samples), self.width, 2, -1)
        positive, negative = items[:, :, 0], items[:, :-1, 1]
        states, real = self.sasrec(positive[:, :-1], log_mask), log_mask != 0
        yes, no = ((states * of).sum(-1)[real] for of in (positive[:, 1:], negative))
        bce = partial(F.binary_cross_entropy_with_logits, reduction="sum")
        return bce(yes, torch.ones_like(yes)) + bce(no, torch.zeros_like(no))


class PaddedSASRec(nn.Module):
    """The released SASRec: every layer over the whole grid, attention written out; the parameters of ours."""

    def __init__(self, ours: SASRec) -> None:
        super().__init__()
        self.position, self.norm, self.blocks = ours.position, ours.norm, ours.blocks
        self.drop = ours.dropout

    def forward(self, x: Tensor, log_mask: Tensor) -> Tensor:
        """(B, L, D) items and (B, L) log_mask -> (B, L, D) states."""
        width = x.shape[1]
        visible = torch.ones(width, width).tril() * log_mask[:, None, None]
        bias = torch.where(visible != 0, 0.0, HIDDEN)  # (B, 1, L, L)
        x = self.drop(self.norm(x + self.position(torch.arange(width))))
        for block in self.blocks:
            x = block.attention_norm(x + self.drop(block.out(self._attended(block, x, bias))))
            x = block.ffn_norm(x + self.drop(block.narrow(F.relu(block.wide(x)))))
        return x

    def _attended(self, block: Any, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            part(x).view(*x.shape[:2], block.heads, -1).transpose(1, 2)
            for part in (block.query, block.key, block.value)
        )
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + bias
        mixed: Tensor = self.drop(scores.softmax(-1)) @ value
        return mixed.transpose(1, 2).flatten(2)


def _users(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Item numbers and negatives of each user, oldest first: what the released dataset holds and draws."""
    assert batch.negatives is not None
    number = torch.cat([torch.zeros(1, dtype=torch.int64), batch.unique_items])
    grids = number[batch.inverse], number[batch.negatives], batch.mask
    return [
        (items[real].tolist(), drawn[real[:-1]].tolist())
        for items, drawn, real in zip(*grids, strict=True)
    ]
