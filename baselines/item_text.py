"""Item encoder `text`: any transformers text model over the title, pooled -> Linear -> GELU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loaders import Batch
from ninerec_data import MissingData, UsageError

__all__ = ["TextEncoder", "load_backbone", "tokenizer_folder"]

# Left-to-right models: their first state has seen one token only.
CAUSAL = (
    "opt",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "bloom",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
)
WITH_POOLER = ("bert", "roberta", "xlm-roberta")


class TextEncoder(nn.Module):
    """Title tokens (U, N) -> (U, D): the backbone's states pooled, projected, GELU.

    Pooled is the first token's last state, of a left-to-right model the mean over the valid tokens
    (PAPERS_AND_CODE 3.4, BERT/RoBERTa and OPT). The pooler, which the papers freeze, is not built.
    """

    needs = ("tokenizer", "max_tokens", "language")

    def __init__(self, backbone: Any, *, dim: int, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal = backbone.config.model_type in CAUSAL
        self.project = nn.Linear(backbone.config.hidden_size, dim)
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        if batch.tokens is None or batch.token_mask is None:
            msg = "the text encoder got a batch without tokens; open Sequences with content=('text',) and a tokenizer"
            raise ValueError(msg)
        mask = batch.token_mask
        states = self.backbone(input_ids=batch.tokens, attention_mask=mask.long()).last_hidden_state
        pooled = states[:, 0]
        if self.causal:
            weight = mask[..., None].to(states.dtype)
            pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        vectors: Tensor = torch.nn.functional.gelu(self.project(pooled))
        return vectors


def load_backbone(model: str, weights: Literal["pretrained", "none"]) -> Any:
    """A transformers text model by local folder or hub name.

    weights: "pretrained" reads them (safetensors, or a state dict with weights_only); "none" builds
    the config with random weights.
    Raises MissingData with the ways out where the model cannot be read or fetched, UsageError for a
    model with a decoder behind its encoder.
    """
    from transformers import AutoConfig, AutoModel

    name = str(Path(model).expanduser()) if Path(model).expanduser().exists() else model
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.is_encoder_decoder:
            msg = f"the text model '{model}' ({config.model_type}) has a decoder; give one that only encodes"
            raise UsageError(msg)
        extra = {"add_pooling_layer": False} if config.model_type in WITH_POOLER else {}
        if weights == "none":
            backbone = AutoModel.from_config(config, trust_remote_code=False, **extra)
        else:
            backbone = AutoModel.from_pretrained(name, trust_remote_code=False, **extra)
    except (OSError, ValueError) as error:
        raise MissingData(_no_model(model, error)) from error
    return backbone.train()


def tokenizer_folder(model: str) -> Path:
    """The local folder of a model's tokenizer, fetching it where the hub is reachable."""
    if Path(model).expanduser().exists():
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    wanted = ["tokenizer.json", "vocab.txt"]
    try:
        found = snapshot_download(model, allow_patterns=wanted, local_files_only=offline)
    except (OSError, ValueError) as error:
        raise MissingData(_no_model(model, error)) from error
    return Path(found)


def _no_model(model: str, error: Exception) -> str:
    why = " ".join(str(error).split())[:200]
    if Path(model).expanduser().exists():
        return (
            f"the text model in {model} cannot be read ({why}); give a folder with config.json, tokenizer and "
            "weights with --text-model PATH, or train from its config with random weights: --weights none"
        )
    return (
        f"the text model '{model}' is no local folder, and it could not be fetched by name ({why}). Give a "
        "local folder with --text-model PATH; one with a config and tokenizer alone serves with --weights none"
    )
