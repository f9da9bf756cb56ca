"""Item encoder `text`: any transformers text model over the title, first token -> Linear -> GELU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.errors import no_text_model
from loaders import Batch

__all__ = ["TextEncoder", "load_backbone"]


class TextEncoder(nn.Module):
    """Title tokens (U, N) -> (U, D): last hidden state of the first token, projected, GELU.

    Source: PAPERS_AND_CODE 3.4 (BERT/RoBERTa). The pooler, which the papers freeze, is not built.
    """

    needs = ("tokenizer", "max_tokens", "language")

    def __init__(self, backbone: Any, *, dim: int, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Linear(backbone.config.hidden_size, dim)
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        if batch.tokens is None or batch.token_mask is None:
            msg = "the text encoder got a batch without tokens; open Sequences with content=('text',) and a tokenizer"
            raise ValueError(msg)
        states = self.backbone(input_ids=batch.tokens, attention_mask=batch.token_mask.long())
        first = states.last_hidden_state[:, 0]
        vectors: Tensor = torch.nn.functional.gelu(self.project(first))
        return vectors


def load_backbone(model: str, weights: Literal["pretrained", "none"]) -> Any:
    """A transformers text model by local folder or hub name.

    weights: "pretrained" reads them (safetensors); "none" builds the config with random weights.
    Raises MissingData with the two ways out where the model is not a folder and cannot be fetched.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        extra = _without_pooler(config)
        if weights == "none":
            backbone = AutoModel.from_config(config, trust_remote_code=False, **extra)
        else:
            backbone = AutoModel.from_pretrained(
                model, trust_remote_code=False, use_safetensors=True, **extra
            )
    except (OSError, ValueError) as error:
        raise no_text_model(model, weights) from error
    return backbone.train()


def _without_pooler(config: Any) -> dict[str, bool]:
    """BERT-like models can leave out the pooler, which a first-token state does not use."""
    bert_like = ("bert", "roberta", "xlm-roberta", "electra", "camembert")
    return {"add_pooling_layer": False} if config.model_type in bert_like[:3] else {}


def tokenizer_folder(model: str) -> Path:
    """The local folder of a model's tokenizer, fetching it where the hub is reachable."""
    if Path(model).expanduser().exists():
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            model,
            allow_patterns=["tokenizer.json", "vocab.txt"],
            local_files_only=os.environ.get("HF_HUB_OFFLINE") == "1",
        )
    except (OSError, ValueError) as error:
        raise no_text_model(model, "pretrained") from error
    return Path(found)
