"""Fusion of an item's text and image to one vector (PAPERS_AND_CODE 3.5).

x and y are the means of the projected text and image tokens, LN one LayerNorm shared by both:

    sum     W_x LN(x) + W_y LN(y)
    concat  W [LN(x); LN(y)]
    gate    W_o( sigmoid(W_x LN(x)) * W_y LN(y) )

The layers that give the vector start at a tenth of the papers' Xavier weights: theirs turn normed vectors
into scores so far apart that an in-batch softmax is long in getting out of them (docs/models.md, Fusion).

What an item lacks takes no part: it is 0 in a sum or a concatenation, 1 in a product. The papers
have no such items. A fusion is a module of `FUSIONS`, made with the width D and called with
text (U, T, D), its mask (U, T), image (U, T', D), its mask (U, T'); it gives (U, D).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from baselines.item_text import mean_of_valid
from baselines.weights import xavier

__all__ = ["FUSIONS"]

NORM_EPS = 1e-6
START = 0.1


class Coarse(nn.Module):
    """A fusion of two vectors: means over the valid tokens, then the shared LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, text: Tensor, text_mask: Tensor, image: Tensor, image_mask: Tensor) -> Tensor:
        x = self.norm(mean_of_valid(text, text_mask))
        y = self.norm(mean_of_valid(image, image_mask))
        return self.mix(x, y, text_mask.any(1, keepdim=True), image_mask.any(1, keepdim=True))

    def mix(self, x: Tensor, y: Tensor, has_x: Tensor, has_y: Tensor) -> Tensor:
        """(U, D) and (U, D) to (U, D); has_x and has_y (U, 1) bool say which are there."""
        raise NotImplementedError


class Sum(Coarse):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.text, self.image = (xavier(nn.Linear(dim, dim), START) for _ in range(2))

    def mix(self, x: Tensor, y: Tensor, has_x: Tensor, has_y: Tensor) -> Tensor:
        return torch.where(has_x, self.text(x), 0) + torch.where(has_y, self.image(y), 0)


class Concat(Coarse):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.both = xavier(nn.Linear(2 * dim, dim), START)

    def mix(self, x: Tensor, y: Tensor, has_x: Tensor, has_y: Tensor) -> Tensor:
        pair = torch.cat([torch.where(has_x, x, 0), torch.where(has_y, y, 0)], dim=1)
        out: Tensor = self.both(pair)
        return out


class Gate(Coarse):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.text, self.image = (xavier(nn.Linear(dim, dim)) for _ in range(2))
        self.out = xavier(nn.Linear(dim, dim), START)

    def mix(self, x: Tensor, y: Tensor, has_x: Tensor, has_y: Tensor) -> Tensor:
        gate = torch.where(has_x, self.text(x).sigmoid(), 1)
        out: Tensor = self.out(gate * torch.where(has_y, self.image(y), 1))
        return out


FUSIONS: Mapping[str, type[nn.Module]] = {"sum": Sum, "concat": Concat, "gate": Gate}
