"""What a batch holds of its unique items: text, pixels, rows of a feature bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.features import Features
from loaders.images import Images
from loaders.titles import load_tokenizer, title_tokens
from ninerec_data import Dataset, UsageError
from ninerec_data.errors import refuse_unknown

__all__ = ["CONTENT", "Content"]

CONTENT = ("ids", "text", "image", "features")


class Content:
    """The content of items, by kind. `of(items)` gives the fields of a `Batch`."""

    def __init__(
        self,
        ds: Dataset,
        kinds: Sequence[str] | str,
        *,
        tokenizer: str | Path | None = None,
        language: str | None = None,
        max_tokens: int = 30,
        image_size: int | None = None,
        threads: int | None = None,
        decoded: bool = False,
        features: str | Path | None = None,
    ) -> None:
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        for kind in kinds:
            refuse_unknown("content", kind, CONTENT)
        given = {"text": tokenizer or language, "image": image_size, "features": features}
        for kind in given.keys() - kinds:
            if given[kind]:
                msg = f"content is {kinds}, yet an option of '{kind}' is given: {given[kind]}; add '{kind}' to content"
                raise UsageError(msg)
        self.titles = self.texts = self.has_text = self.images = self.features = None
        if "text" in kinds:
            language = language or _language(ds)
            self.texts = np.array(["", *ds.text(language)], dtype=object)
            self.has_text = self.texts != ""
            if tokenizer is not None:
                made = load_tokenizer(Path(tokenizer))
                self.titles = title_tokens(ds, made, language=language, max_tokens=max_tokens)
                self.texts = None
        if "image" in kinds:
            self.images = Images(ds, image_size, threads=threads, decoded=decoded)
        if "features" in kinds:
            if not features:
                msg = (
                    "content 'features' needs a bundle: Sequences(..., features=FOLDER), or train --features NAME; "
                    f"make one: ninerec embed {ds.name} --encoder MODEL"
                )
                raise UsageError(msg)
            self.features = Features.open(Path(features), ds)

    def of(self, items: NDArray[np.int64]) -> dict[str, Any]:
        """The fields of these items, each in their order."""
        values: dict[str, Any] = {}
        if self.has_text is not None:
            values["has_text"] = torch.from_numpy(self.has_text[items])
        if self.titles is not None:
            tokens, mask = self.titles.of(items)
            values["tokens"], values["token_mask"] = map(torch.from_numpy, (tokens, mask))
        if self.texts is not None:
            values["text"] = list(self.texts[items])
        if self.images is not None:
            values["pixels"], values["has_image"] = self.images.of(items)
        if self.features is not None:
            values["features"] = self.features.of(items)
        return values


def _language(ds: Dataset) -> str:
    if not ds.languages:
        msg = f"{ds.name} has no text; train on ids: --item-encoder id"
        raise UsageError(msg)
    return ds.languages[-1]
