"""Item encoder `text`: any transformers text model over the title, pooled -> Linear -> GELU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from baselines.config import Config
from baselines.weights import refuse_misfit
from loaders import Batch, load_tokenizer
from ninerec_data import Dataset, MissingData, NineRecError, UsageError

__all__ = ["TextEncoder", "load_backbone", "load_text_model", "mean_of_valid", "tokenizer_folder"]

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

    def __init__(self, backbone: Any, *, dim: int, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal = backbone.config.model_type in CAUSAL
        self.project = nn.Linear(backbone.config.hidden_size, dim)
        if frozen:
            backbone.requires_grad_(False)

    @classmethod
    def needs(cls, config: Config) -> dict[str, Any]:
        """What `Sequences` must be opened with."""
        return {
            "content": ("text",),
            "tokenizer": tokenizer_folder(config.model.text_model),
            "language": config.data.language or None,
            "max_tokens": config.data.max_tokens,
        }

    @classmethod
    def of(cls, config: Config, ds: Dataset) -> Self:  # noqa: ARG003
        """The encoder of a configuration; the errors are those of `load_text_model`."""
        m = config.model
        backbone, _ = load_text_model(m.text_model, m.weights, config.data.max_tokens)
        return cls(backbone, dim=m.dim, frozen=m.frozen)

    def blocks(self) -> list[str]:
        """Names of the backbone's layers, bottom to top."""
        count = self.backbone.config.num_hidden_layers
        lists = (
            (name, part)
            for name, part in self.backbone.named_modules()
            if isinstance(part, nn.ModuleList)
        )
        return next(
            [f"{name}.{at}" for at in range(count)] for name, part in lists if len(part) == count
        )

    def forward(self, batch: Batch) -> Tensor:
        states, mask = self._states(batch)
        pooled = states[:, 0]
        if self.causal:
            pooled = mean_of_valid(states, mask)
        vectors: Tensor = torch.nn.functional.gelu(self.project(pooled))
        return vectors

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(U, N, D) states projected without GELU, and (U, N) bool: True = a token of a title.

        Zero where there is none; an item without a title has none at all.
        """
        states, mask = self._states(batch)
        if batch.has_text is not None:
            mask = mask & batch.has_text[:, None]
        return self.project(states) * mask[..., None], mask

    def _states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Last states (U, N, H) and the mask (U, N)."""
        if batch.tokens is None or batch.token_mask is None:
            msg = "the text encoder got a batch without tokens; open Sequences with content=('text',) and a tokenizer"
            raise ValueError(msg)
        mask = batch.token_mask
        out = self.backbone(input_ids=batch.tokens, attention_mask=mask.long())
        return out.last_hidden_state, mask


def mean_of_valid(tokens: Tensor, mask: Tensor) -> Tensor:
    """(U, T, D) tokens and (U, T) mask -> (U, D), the mean of the valid ones; zero where none is."""
    return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def load_text_model(
    name: str, weights: Literal["pretrained", "none"], max_tokens: int
) -> tuple[Any, Tokenizer]:
    """A text model and its tokenizer; the errors are those of `load_backbone` and `load_tokenizer`.

    Raises UsageError for titles longer than the model has places, or a tokenizer of more words than it knows.
    """
    backbone, tokenizer = load_backbone(name, weights), load_tokenizer(tokenizer_folder(name))
    places = getattr(backbone.config, "max_position_embeddings", max_tokens)
    words, known = tokenizer.get_vocab_size(), backbone.config.vocab_size
    if max_tokens > places or words > known:
        msg = f"the text model '{name}' has {places} places and {known:,} words, for max_tokens = {max_tokens}"
        raise UsageError(
            f"{msg} and a tokenizer of {words:,} words; lower the first, or mend its folder"
        )
    return backbone, tokenizer


def load_backbone(model: str, weights: Literal["pretrained", "none"]) -> Any:
    """A transformers text model by local folder or hub name.

    weights: "pretrained" reads them (safetensors, or a state dict with weights_only); "none" builds
    the config with random weights.
    Raises MissingData with the ways out where the model cannot be read or fetched, UsageError for a
    model with a decoder behind its encoder, CheckFailed for weights that leave a tensor of it unfilled
    (a pooler apart: it is not used).
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()  # its table of tensors: `_refuse_unfilled` says what matters
    logging.disable_progress_bar()
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
            backbone, report = AutoModel.from_pretrained(
                name, trust_remote_code=False, output_loading_info=True,
                ignore_mismatched_sizes=True, **extra,
            )  # fmt: skip
            _refuse_unfilled(model, report)
    except NineRecError:
        raise
    except Exception as error:  # what readers raise on bad bytes is not theirs to promise
        raise MissingData(_no_model(model, error)) from error
    return backbone.float().train()  # some are published in half precision


def _refuse_unfilled(model: str, report: Mapping[str, Any]) -> None:
    """Where transformers would print a table and go on with random tensors."""
    refuse_misfit(
        f"the weights of the text model {model}",
        missing=[key for key in report["missing_keys"] if not key.startswith("pooler.")],
        another_shape=[
            f"{key}: {tuple(got)} for {tuple(want)}" for key, got, want in report["mismatched_keys"]
        ],
        way_out="give the folder they were saved with, or train from its config alone: --weights none",
    )


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
