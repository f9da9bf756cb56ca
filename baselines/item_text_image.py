"""Item encoder `text+image`: the tokens of both, fused (PAPERS_AND_CODE 3.4 and 3.5)."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from baselines.config import Config
from baselines.fusion import FUSIONS
from baselines.item_image import ImageEncoder
from baselines.item_text import TextEncoder
from baselines.weights import xavier
from loaders import Batch
from ninerec_data import Dataset

__all__ = ["TextImageEncoder"]


class TextImageEncoder(nn.Module):
    """Titles and covers -> (U, D): each one's tokens projected to D, then one of the `FUSIONS`.

    The papers give a ResNet's image as its replaced head's output; that is the projection of the
    mean over the grid, equal to the mean of the projected grid that is taken here for every model.
    """

    def __init__(self, text: TextEncoder, image: ImageEncoder, fusion: str = "gate") -> None:
        super().__init__()
        self.text, self.image = text, image
        xavier(text.project)  # as the papers have it before a fusion
        self.fusion = FUSIONS[fusion](image.project.out_features)

    @classmethod
    def needs(cls, config: Config) -> dict[str, Any]:
        """What `Sequences` must be opened with."""
        both = TextEncoder.needs(config) | ImageEncoder.needs(config)
        return both | {"content": ("text", "image")}

    @classmethod
    def of(cls, config: Config, ds: Dataset) -> Self:
        """The encoder of a configuration; raises what its two parts do."""
        return cls(TextEncoder.of(config, ds), ImageEncoder.of(config, ds), config.model.fusion)

    def forward(self, batch: Batch) -> Tensor:
        vectors: Tensor = self.fusion(*self.text.tokens(batch), *self.image.tokens(batch))
        return vectors
