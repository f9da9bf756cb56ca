"""SASRec as the papers' code has it (PAPERS_AND_CODE 3.3): post-LN blocks over absolute slots.

x = Dropout(LN(item + position))
block: x = LN(x + Attention(x)); x = LN(x + FFN(x))
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loaders import Batch
from ninerec_data import UsageError

__all__ = ["SASRec"]

NORM_EPS = 1e-6
HIDDEN = -1e9  # the additive mask of the papers' code: a row of pads attends evenly, and is ignored


class SASRec(nn.Module):
    """Sequence encoder: (B, T, D) item vectors and (B, T) mask -> (B, T, D) states.

    Left padding: the newest item always sits in slot max_length - 1. Leading columns that are pads
    for the whole batch may be cut away (T <= max_length) without changing any valid state. Pads are
    never computed: every layer but attention runs on the valid positions alone, and the states at
    pads are zero. Neither changes a valid state, so a step costs what its real transitions cost.
    """

    predicts = "next"

    def __init__(
        self, *, dim: int, max_length: int, layers: int = 2, heads: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if dim % heads:
            msg = f"dim ({dim}) must be divisible by heads ({heads})"
            raise UsageError(msg)
        self.max_length = max_length
        self.position = nn.Embedding(max_length, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.apply(_init)

    def forward(self, x: Tensor, mask: Tensor, batch: Batch | None = None) -> Tensor:  # noqa: ARG002
        width = x.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=x.device).tril()
        visible = causal & mask[:, None, None, :]  # (B, 1, T, T)
        bias = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill(
            ~visible, HIDDEN
        )
        packed = (x + self.position.weight[self.max_length - width :])[mask]  # (P, D)
        packed = self.dropout(self.norm(packed))
        for block in self.blocks:
            packed = block(packed, mask, bias)
        return _unpack(packed, mask)


class Block(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual and LayerNorm.

    Works on the P valid positions of the batch; only attention itself sees the padded (B, T) grid.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.query, self.key, self.value, self.out = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.ffn_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            _unpack(part(x), mask).view(*mask.shape, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # (B, heads, T, D/heads)
        drop = self.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=drop)
        mixed = self.out(mixed.transpose(1, 2).flatten(2)[mask])
        x = self.attention_norm(x + self.dropout(mixed))
        x = self.ffn_norm(x + self.dropout(self.narrow(F.relu(self.wide(x)))))
        return x


def _unpack(packed: Tensor, mask: Tensor) -> Tensor:
    """(P, D) valid positions -> (B, T, D), zero at pads."""
    grid = packed.new_zeros(*mask.shape, packed.shape[-1])
    grid[mask] = packed
    return grid


def _init(module: nn.Module) -> None:
    """Xavier normal for Linear and Embedding weights, zero biases, LayerNorm as it comes."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
