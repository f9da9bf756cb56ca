"""Fusions against the formulas written out item by item (PAPERS_AND_CODE 3.5), and what an item may lack."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_item_image import Tiny, items_alone, pictures, tiny_grid
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from baselines import Config
from baselines.config import Data, Model
from baselines.fusion import FUSIONS
from baselines.item_image import IMAGE_MODELS, ImageEncoder, ImageModel
from baselines.item_text import TextEncoder
from baselines.item_text_image import TextImageEncoder
from loaders import Batch
from ninerec_data import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

D = 6
KINDS = ("sum", "concat", "gate")


def norm(v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    spread = ((v - v.mean()) ** 2).mean()
    return (v - v.mean()) / torch.sqrt(spread + 1e-6) * weight + bias


def literal(kind: str, fusion: nn.Module, x: Tensor | None, y: Tensor | None) -> Tensor:
    """One item: the formula with what it lacks left out."""
    p = dict(fusion.named_parameters())

    def linear(name: str, v: Tensor) -> Tensor:
        return p[f"{name}.weight"] @ v + p[f"{name}.bias"]

    x, y = (None if v is None else norm(v, p["norm.weight"], p["norm.bias"]) for v in (x, y))
    if kind == "concat":
        none = torch.zeros(D)
        return linear("both", torch.cat([none if x is None else x, none if y is None else y]))
    wx, wy = x if x is None else linear("text", x), y if y is None else linear("image", y)
    if kind == "sum":
        return sum((v for v in (wx, wy) if v is not None), torch.zeros(D))
    opened = torch.ones(D) if wx is None else 1 / (1 + torch.exp(-wx))
    return linear("out", opened if wy is None else opened * wy)


def made(kind: str) -> nn.Module:
    """A fusion with no parameter at a value that hides its part."""
    torch.manual_seed(0)
    fusion = FUSIONS[kind](D)
    for name, parameter in fusion.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float(name == "norm.weight"))
    return fusion


# Items: both of unequal lengths, a title only, a cover only, neither.
TEXT_MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
IMAGE_MASK = torch.tensor([[1, 1], [1, 1], [0, 0], [1, 1], [0, 0]]).bool()


@pytest.mark.parametrize("kind", KINDS)
def test_each_fusion_is_its_formula(kind: str) -> None:
    """The means are small enough for the norm's 1e-6 to count; masked tokens are garbage."""
    fusion = made(kind)
    text, image = torch.randn(5, 3, D) * 1e-3, torch.randn(5, 2, D) * 1e-3
    got = fusion(text, TEXT_MASK, image, IMAGE_MASK)
    for row in range(5):
        x, y = text[row][TEXT_MASK[row]], image[row][IMAGE_MASK[row]]
        want = literal(kind, fusion, x.mean(0) if len(x) else None, y.mean(0) if len(y) else None)
        assert (got[row] - want).abs().max() < 1e-5
    torch.testing.assert_close(
        fusion(text.where(TEXT_MASK[..., None], 7), TEXT_MASK, image, IMAGE_MASK), got
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_fusion_starts_xavier_normal_small_where_it_ends_with_zero_bias(kind: str) -> None:
    torch.manual_seed(0)
    for name, layer in FUSIONS[kind](256).named_modules():
        if isinstance(layer, nn.Linear):
            width = layer.in_features + layer.out_features
            ends = kind != "gate" or name == "out"
            deviation = math.sqrt(2 / width) * (0.1 if ends else 1)
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
            assert layer.weight.abs().max() > 3 * deviation  # not uniform
            assert not layer.bias.any()


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> tuple[TextEncoder, ImageEncoder]:
    monkeypatch.setitem(IMAGE_MODELS, "tiny", ImageModel(Tiny, "top", tiny_grid))
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    text = TextEncoder(BertModel(small, add_pooling_layer=False), dim=D)
    return text, ImageEncoder(Tiny(), "tiny", dim=D)


def batch_of(has_text: list[bool], has_image: list[bool]) -> Batch:
    """Titles of unlike lengths; an item without one has the marks of an empty title."""
    n = len(has_text)
    tokens = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0], [2, 8, 3, 0], [2, 9, 4, 3], [2, 3, 0, 0]])[
        :n
    ]
    return items_alone(
        n,
        tokens=tokens,
        token_mask=tokens > 0,
        has_text=torch.tensor(has_text),
        pixels=pictures(n, 64).contiguous(memory_format=torch.channels_last),
        has_image=torch.tensor(has_image),
    )


def test_title_tokens_are_all_valid_states_projected(
    encoders: tuple[TextEncoder, ImageEncoder],
) -> None:
    """No GELU; none of an item without a title; `has_text` left out = all have one."""
    text = encoders[0].eval()
    batch = batch_of([True, True, False], [True] * 3)
    tokens, mask = text.tokens(batch)
    assert mask.sum(1).tolist() == [4, 3, 0]
    for row, length in ((0, 4), (1, 3)):
        states = text.backbone(batch.tokens[row : row + 1, :length]).last_hidden_state[0]  # type: ignore[index]
        want = states @ text.project.weight.T + text.project.bias
        torch.testing.assert_close(tokens[row, :length], want, atol=1e-5, rtol=0)
    assert not tokens[~mask].any()
    without = items_alone(3, tokens=batch.tokens, token_mask=batch.token_mask)  # type: ignore[arg-type]
    assert torch.equal(text.tokens(without)[1], batch.token_mask)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_titles_and_covers_both_learn(
    encoders: tuple[TextEncoder, ImageEncoder], kind: str
) -> None:
    """Of items with both, a title only and a cover only; an item with neither is no NaN."""
    encoder = TextImageEncoder(*encoders, kind).train()
    vectors = encoder(batch_of([True, True, True, False, False], [True, False, False, True, False]))
    assert vectors.shape == (5, D)
    assert vectors.isfinite().all()
    assert (vectors[1] - vectors[2]).abs().max() > 1e-3  # two titles, no covers
    for row, reached in {1: {"text"}, 3: {"image"}}.items():
        encoder.zero_grad()
        (vectors[row] * torch.arange(D)).sum().backward(retain_graph=True)
        firsts = {
            "text": encoder.text.backbone.embeddings.word_embeddings.weight.grad,
            "image": encoder.image.backbone.conv.weight.grad,
        }
        assert {name for name, grad in firsts.items() if grad is not None and grad.any()} == reached
    encoder.zero_grad()
    (vectors[0] * torch.arange(D)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert encoder.text.backbone.embeddings.word_embeddings.weight.grad.any()
    assert encoder.image.backbone.conv.weight.grad.any()


def test_a_batch_of_titles_alone_is_encoded(encoders: tuple[TextEncoder, ImageEncoder]) -> None:
    encoder = TextImageEncoder(*encoders, "gate")
    assert encoder(batch_of([True] * 3, [False] * 3)).isfinite().all()


def test_half_precision_fuses_too(encoders: tuple[TextEncoder, ImageEncoder]) -> None:
    batch = batch_of([True, True, False], [True, False, True])
    for kind in KINDS:
        encoder = TextImageEncoder(*encoders, kind).eval()
        with torch.no_grad():
            full = encoder(batch)
            with torch.autocast("cpu", torch.bfloat16):
                half = encoder(batch)
        assert (half.float() - full).abs().max() < 0.1


def test_the_projections_start_as_the_papers_have_them_before_a_fusion(
    encoders: tuple[TextEncoder, ImageEncoder],
) -> None:
    text = TextEncoder(encoders[0].backbone, dim=4096)
    TextImageEncoder(text, encoders[1])
    assert not text.project.bias.any()
    assert text.project.weight.std().item() == pytest.approx(math.sqrt(2 / (8 + 4096)), rel=0.02)


def test_what_a_configuration_needs_and_builds(
    encoders: tuple[TextEncoder, ImageEncoder], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Both parts' options of `Sequences`; the fusion asked for."""
    folder = tmp_path_factory.mktemp("text")
    encoders[0].backbone.config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    config = Config(
        data=Data(image_size=64, max_tokens=16),
        model=Model(
            item_encoder="text+image", text_model=str(folder), image_model="tiny",
            weights="none", fusion="concat", dim=D,
        )
    )  # fmt: skip
    assert TextImageEncoder.needs(config) == {
        "content": ("text", "image"), "tokenizer": folder, "language": None, "max_tokens": 16,
        "image_size": 64,
    }  # fmt: skip
    encoder = TextImageEncoder.of(config, None)  # type: ignore[arg-type]
    assert isinstance(encoder.fusion, FUSIONS["concat"])
    assert encoder(batch_of([True] * 3, [True] * 3)).shape == (3, D)
    with pytest.raises(UsageError, match=r"16 places and 30 words, for max_tokens = 17"):
        TextEncoder.of(replace(config, data=Data(max_tokens=17)), None)  # type: ignore[arg-type]
