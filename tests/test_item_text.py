"""The text item encoder against the literal formula (PAPERS_AND_CODE 3.4), and models it cannot take."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, OPTConfig

from baselines.item_text import TextEncoder, load_backbone
from loaders import Batch
from ninerec_data import MissingData, UsageError


def text_batch(tokens: Tensor, mask: Tensor) -> Batch:
    """A batch of items alone."""
    none = torch.zeros(0, 1, dtype=torch.int64)
    return Batch(
        users=none[:, 0],
        unique_items=torch.arange(1, len(tokens) + 1),
        inverse=none,
        mask=none > 0,
        predict=none > 0,
        copies=none[:, 0],
        log_popularity=torch.zeros(len(tokens)),
        tokens=tokens,
        token_mask=mask,
    )


def test_the_text_vector_is_gelu_of_the_projected_first_token(tmp_path: Path) -> None:
    """CLS state -> Linear -> GELU; token pads change nothing."""
    small = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    small.save_pretrained(tmp_path)
    torch.manual_seed(0)
    encoder = TextEncoder(load_backbone(str(tmp_path), "none"), dim=12).eval()
    tokens = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]])
    with torch.no_grad():
        got = encoder(text_batch(tokens, tokens > 0))
        for row, length in ((0, 4), (1, 3)):
            states = encoder.backbone(tokens[row : row + 1, :length]).last_hidden_state
            z = encoder.project.weight @ states[0, 0] + encoder.project.bias
            gelu = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            assert (got[row] - gelu).abs().max() < 1e-5


def test_a_left_to_right_model_is_pooled_by_the_mean_of_valid_tokens() -> None:
    config = OPTConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2,
        max_position_embeddings=16, word_embed_proj_dim=8, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = TextEncoder(AutoModel.from_config(config), dim=4).eval()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    batch = text_batch(torch.tensor([[2, 5, 6], [2, 7, 1]]), mask)
    states = encoder.backbone(input_ids=batch.tokens, attention_mask=mask.long()).last_hidden_state
    mean = torch.stack([states[0].mean(0), states[1, :2].mean(0)])
    torch.testing.assert_close(encoder(batch), torch.nn.functional.gelu(encoder.project(mean)))


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    with pytest.raises(UsageError, match="has a decoder"):
        load_backbone(str(tmp_path), "none")


def test_a_folder_without_weights_is_named_with_its_ways_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 1}')
    with pytest.raises(MissingData, match=r"cannot be read .*--weights none"):
        load_backbone(str(tmp_path), "pretrained")


def test_a_name_that_cannot_be_fetched_says_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match=r"--text-model PATH.*--weights none"):
        load_backbone("nobody/no-such-model", "pretrained")


def test_the_published_bert_configuration_builds_without_weights(shared_data: Path) -> None:
    backbone = load_backbone(str(shared_data / "tokenizers/bert-base-uncased"), "none")
    encoder = TextEncoder(backbone, dim=16, frozen=True)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert (backbone.config.hidden_size, trained) == (768, 768 * 16 + 16)
