"""What learns and at which rates: membership by name, decay, freezing at the papers' indices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from baselines.config import make_config
from baselines.groups import freeze_below, parameter_groups
from baselines.item_image import ImageEncoder
from baselines.item_text import TextEncoder
from baselines.item_text_image import TextImageEncoder
from baselines.model import Recommender
from baselines.objectives import bce
from baselines.sasrec import SASRec
from ninerec_data import UsageError

RATES = [
    "train.lr=0.1",
    "train.item_lr=0.2",
    "train.weight_decay=0.3",
    "train.item_weight_decay=0.4",
]


def bert(layers: int, kind: str = "bert") -> Any:
    """A model of the family with few numbers in its tensors, and as many tensors as a large one."""
    from transformers import AutoConfig, AutoModel

    names = {"num_hidden_layers": layers, "hidden_size": 4, "num_attention_heads": 2}
    more = {"intermediate_size": 4, "vocab_size": 9, "max_position_embeddings": 8}
    config = AutoConfig.for_model(kind, **names, **more)
    return AutoModel.from_config(config, add_pooling_layer=False)


def swin() -> nn.Module:
    """Four stages of as many blocks as Swin-T, narrow."""
    return models.SwinTransformer(
        patch_size=[4, 4], embed_dim=4, depths=[2, 2, 6, 2], num_heads=[1] * 4, window_size=[7, 7]
    )


def model_of(items: nn.Module) -> Recommender:
    users = SASRec(dim=4, max_length=3, layers=1)
    return Recommender(item_encoder=items, user_encoder=users, objective=bce)


def groups(model: nn.Module, *settings: str) -> dict[float, set[str]]:
    """Learning rate -> the names of its parameters."""
    config = make_config(None, [*RATES, *settings], presets=False)
    names = {id(p): name for name, p in model.named_parameters()}
    found = list(parameter_groups(model, config))
    assert [(g["lr"], g["weight_decay"]) for g in found] == [(0.2, 0.4), (0.1, 0.3)]
    return {g["lr"]: {names[id(p)] for p in g["params"]} for g in found}  # type: ignore


@pytest.fixture(scope="module")
def both() -> Recommender:
    image = ImageEncoder(swin(), "swin_t", dim=4)
    return model_of(TextImageEncoder(TextEncoder(bert(2), dim=4), image, "gate"))


def test_ninerecs_groups_are_the_two_encoders_and_decay_spares_nothing(both: Recommender) -> None:
    found = groups(both)
    names = {name for name, _ in both.named_parameters()}
    assert found[0.2] == {name for name in names if name.startswith("item_encoder.")}
    assert found[0.1] == {name for name in names if name.startswith("user_encoder.")}
    assert any(name.endswith("norm.bias") for name in found[0.1])


def test_morecs_projection_and_fusion_go_with_the_user_encoder(both: Recommender) -> None:
    found = groups(both, "train.head=user")
    moved = {name for name in found[0.1] if name.startswith("item_encoder.")}
    assert moved == {
        *(f"item_encoder.{part}.project.{kind}" for part in ("text", "image") for kind in ("weight", "bias")),
        *(f"item_encoder.fusion.{name}" for name, _ in both.item_encoder.fusion.named_parameters()),
    }  # fmt: skip
    assert all(".backbone." in name for name in found[0.2])
    assert found[0.1] | found[0.2] == {name for name, _ in both.named_parameters()}


def test_a_step_takes_each_groups_rate_and_decay(both: Recommender) -> None:
    parameters = dict(both.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = torch.zeros_like(p)  # AdamW then only decays
    config = make_config(None, RATES, presets=False)
    torch.optim.AdamW(parameter_groups(both, config)).step()
    for name, p in parameters.items():
        kept = 1 - (0.2 * 0.4 if name.startswith("item_encoder.") else 0.1 * 0.3)
        assert torch.allclose(p, before[name] * kept), name
        p.grad = None


@pytest.mark.parametrize(("top", "first"), [(2, 165), (6, 101), (1, 181), (12, 5)])
def test_a_twelve_layer_bert_is_frozen_below_the_papers_index(top: int, first: int) -> None:
    encoder = TextEncoder(bert(12), dim=4)
    freeze_below(encoder, top)
    learns = [p.requires_grad for p in encoder.backbone.parameters()]
    assert learns == [False] * first + [True] * (197 - first)
    assert all(p.requires_grad for p in encoder.project.parameters())


@pytest.mark.parametrize(("top", "first"), [(1, 129), (2, 72)])
def test_a_resnet50_is_frozen_below_the_papers_index(top: int, first: int) -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(models.resnet50(), "resnet50", dim=4)
    freeze_below(encoder, top)
    learns = [p.requires_grad for p in encoder.backbone.parameters()]
    assert learns == [False] * first + [True] * (161 - 2 - first)  # without the replaced head


@pytest.mark.parametrize(
    ("top", "stages"), [(1, ("features.7",)), (2, ("features.5", "features.6", "features.7"))]
)
def test_a_swins_halving_goes_with_the_stage_below_it(top: int, stages: tuple[str, ...]) -> None:
    encoder = ImageEncoder(swin(), "swin_t", dim=4)
    freeze_below(encoder, top)
    learns = {name for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    want = {
        name
        for name, _ in encoder.backbone.named_parameters()
        if name.startswith(("norm.", *(f"{stage}." for stage in stages)))
    }
    assert learns == want


def test_blocks_that_are_not_there_are_refused(both: Recommender) -> None:
    with pytest.raises(UsageError, match=r"top_blocks is 3; the model has 2 blocks"):
        freeze_below(both.item_encoder, 3)
    with pytest.raises(UsageError, match="no pretrained model"):
        freeze_below(nn.Linear(2, 2), 1)
