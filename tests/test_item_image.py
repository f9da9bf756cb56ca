"""The image item encoder against torchvision's own classes (PAPERS_AND_CODE 2.6, 3.4)."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models, transforms
from torchvision.ops import StochasticDepth

from baselines import Config
from baselines.config import Data, Model
from baselines.item_image import IMAGE_MODELS, ImageEncoder, ImageModel, load_image_model
from loaders import Batch
from ninerec_data import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

D = 12
HEADS = {"resnet18": "fc", "swin_t": "head"}


def items_alone(n: int, **content: Tensor) -> Batch:
    """A batch of n items and no sequence."""
    none = torch.zeros(0, 1, dtype=torch.int64)
    return Batch(
        users=none[:, 0],
        unique_items=torch.arange(1, n + 1),
        inverse=none,
        mask=none > 0,
        predict=none > 0,
        copies=torch.zeros(n, dtype=torch.int64),
        log_popularity=torch.zeros(n),
        **content,
    )


def image_batch(pixels: Tensor, has_image: list[bool] | None = None) -> Batch:
    return items_alone(
        len(pixels),
        pixels=pixels.contiguous(memory_format=torch.channels_last),
        has_image=torch.tensor(has_image or [True] * len(pixels)),
    )


def pictures(n: int, size: int = 64, seed: int = 0) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=made, dtype=torch.uint8)


def gelu(z: Tensor) -> Tensor:
    return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def as_torchvision_does(pixels: Tensor) -> Tensor:
    """The papers' transform, picture by picture."""
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    return torch.stack(
        [transform(np.ascontiguousarray(p.permute(1, 2, 0).numpy())) for p in pixels]
    )


@pytest.fixture(scope="module", params=["resnet18", "swin_t"])
def built(request: pytest.FixtureRequest) -> ImageEncoder:
    torch.manual_seed(0)
    encoder = ImageEncoder(load_image_model(request.param, "none"), request.param, dim=D)
    nn.init.normal_(encoder.project.bias)
    for part in encoder.backbone.modules():  # statistics that differ from those at the start
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    encoder.name = request.param  # type: ignore[assignment]
    return encoder.eval()


@pytest.fixture(scope="module")
def reference(built: ImageEncoder) -> nn.Module:
    """torchvision's model with its head replaced and the same weights."""
    head = HEADS[built.name]  # type: ignore[index]
    net = copy.deepcopy(built.backbone).to(memory_format=torch.contiguous_format)
    setattr(net, head, nn.Linear(built.project.in_features, D))
    getattr(net, head).load_state_dict(built.project.state_dict())
    return net.eval()


class Tiny(nn.Module):
    """A model that torchvision does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.top = nn.Conv2d(3, 6, 32, 32), nn.BatchNorm2d(6), nn.Linear(6, 9)


def tiny_grid(net: Tiny, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).flatten(2).transpose(1, 2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """Another image model is one entry."""
    monkeypatch.setitem(IMAGE_MODELS, "tiny", ImageModel(Tiny, "top", tiny_grid))
    torch.manual_seed(0)
    return "tiny"


def tiny_encoder(name: str, *, frozen: bool = False) -> ImageEncoder:
    return ImageEncoder(load_image_model(name, "none"), name, dim=D, frozen=frozen)


def test_pixels_reach_the_model_as_the_papers_transform_makes_them(tiny: str) -> None:
    """Exact for every value 0..255, and channels_last."""
    pixels = pictures(2, 32)
    pixels[0, 0].view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    seen: list[Tensor] = []
    encoder = tiny_encoder(tiny)
    encoder.backbone.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(image_batch(pixels))
    assert torch.equal(seen[0], as_torchvision_does(pixels))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_the_vector_is_gelu_of_the_replaced_head(built: ImageEncoder, reference: nn.Module) -> None:
    """The backbone runs channels_last, the reference does not."""
    pixels = pictures(3)
    with torch.no_grad():
        z = reference(as_torchvision_does(pixels))
        got = built(image_batch(pixels))
    assert (got - gelu(z)).abs().max() < 1e-5
    assert z.std(0).max() > 1e-3  # pictures differ


def test_tokens_are_the_places_of_the_last_map_projected(
    built: ImageEncoder, reference: nn.Module
) -> None:
    """Row by row of the grid, the items' order kept; nothing for an item without a cover."""
    pixels = pictures(3)
    maps: list[Tensor] = []
    part = reference.layer4 if built.name == "resnet18" else reference.permute  # type: ignore[comparison-overlap]
    hook = part.register_forward_hook(lambda _, args, out: maps.append(out))
    with torch.no_grad():
        reference(as_torchvision_does(pixels[[0, 2]]))
        tokens, mask = built.tokens(image_batch(pixels, [True, False, True]))
    hook.remove()
    assert mask.tolist() == [[True] * 4, [False] * 4, [True] * 4]
    assert not tokens[1].any()
    for row, found in zip((0, 2), maps[0], strict=True):
        for place in range(4):
            z = found[:, place // 2, place % 2] @ built.project.weight.T + built.project.bias
            assert (tokens[row, place] - z).abs().max() < 1e-5


def test_swin_gives_49_tokens_at_224_pixels(built: ImageEncoder) -> None:
    with torch.no_grad():
        assert built.tokens(image_batch(pictures(1, 224)))[0].shape == (1, 49, D)


def test_swin_leaves_out_a_tenth_at_its_deepest_block(built: ImageEncoder) -> None:
    paths = [part.p for part in built.modules() if isinstance(part, StochasticDepth)]
    assert paths == pytest.approx([0.1 * block / 11 for block in range(12)] if paths else [])
    assert bool(paths) == (built.name == "swin_t")


def test_an_item_without_a_cover_takes_no_part_and_gets_a_learnt_vector(tiny: str) -> None:
    """Neither the other vectors nor the BatchNorm statistics depend on its grey pixels."""
    encoder = tiny_encoder(tiny).train()
    pixels = pictures(4, 64)
    assert not encoder(image_batch(pixels, [True, False, True, True]))[1].any()
    nn.init.normal_(encoder.project.bias)
    alone = copy.deepcopy(encoder)
    got = encoder(image_batch(pixels, [True, False, True, True]))
    torch.testing.assert_close(got[[0, 2, 3]], alone(image_batch(pixels[[0, 2, 3]])))
    torch.testing.assert_close(got[1], gelu(encoder.project.bias))
    torch.testing.assert_close(encoder.backbone.norm.running_mean, alone.backbone.norm.running_mean)
    got[1].sum().backward()
    assert encoder.project.bias.grad.all()


def test_without_any_cover_the_backbone_is_not_called(tiny: str) -> None:
    encoder = tiny_encoder(tiny)
    encoder.backbone.conv.register_forward_pre_hook(lambda *_: pytest.fail("called"))
    batch = image_batch(pictures(2), [False, False])
    assert encoder(batch).shape == (2, D)
    tokens, mask = encoder.tokens(batch)
    assert (tokens.shape, mask.tolist(), tokens.any().item()) == ((2, 1, D), [[False]] * 2, False)


def test_a_frozen_backbone_learns_nothing_and_keeps_its_statistics(tiny: str) -> None:
    """Frozen: the same vectors in training as in evaluation. Not frozen: every weight gets a gradient."""
    batch = image_batch(pictures(4, 64))
    frozen = tiny_encoder(tiny, frozen=True)
    before = copy.deepcopy(frozen.backbone.state_dict())
    in_training = frozen.train()(batch)
    in_training.sum().backward()
    assert {n for n, p in frozen.named_parameters() if p.grad is not None} == {
        "project.weight",
        "project.bias",
    }
    assert {n for n, p in frozen.named_parameters() if p.requires_grad} == {
        "project.weight",
        "project.bias",
    }
    torch.testing.assert_close(frozen.backbone.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(frozen.eval()(batch), in_training)

    free = tiny_encoder(tiny).train()
    free(batch).sum().backward()
    assert all(p.grad is not None for p in free.parameters())
    assert free.backbone.norm.num_batches_tracked == 1


def test_every_weight_of_the_real_models_gets_a_gradient(built: ImageEncoder) -> None:
    built.zero_grad()
    built(image_batch(pictures(2, 32))).sum().backward()
    assert all(p.grad is not None for p in built.parameters())


def test_half_precision_changes_no_shape_and_little_of_the_values(tiny: str) -> None:
    """bf16 as the training loop runs it, with an item that lacks a cover."""
    encoder = tiny_encoder(tiny).eval()
    batch = image_batch(pictures(3), [True, False, True])
    with torch.no_grad():
        full = encoder(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half, (tokens, _) = encoder(batch), encoder.tokens(batch)
    assert tokens.dtype is torch.bfloat16
    assert (half.float() - full).abs().max() < 0.05


def test_the_head_starts_xavier_normal_with_zero_bias() -> None:
    torch.manual_seed(0)
    net = nn.Module()
    net.fc = nn.Linear(512, 2)
    project = ImageEncoder(net, "resnet18", dim=512).project
    assert not project.bias.any()
    assert project.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)


def test_what_a_configuration_needs_and_builds(tiny: str) -> None:
    config = Config(
        data=Data(image_size=64),
        model=Model(item_encoder="image", image_model=tiny, weights="none", dim=D, frozen=True),
    )
    assert ImageEncoder.needs(config) == {"content": ("image",), "image_size": 64}
    assert ImageEncoder.needs(Config())["image_size"] is None  # as prepared
    encoder = ImageEncoder.of(config, None)  # type: ignore[arg-type]
    assert (type(encoder.backbone), encoder.project.out_features, encoder.frozen) == (Tiny, D, True)


def test_the_papers_models_are_there() -> None:
    names = ["resnet18", "resnet34", "resnet50", "swin_t", "swin_s", "swin_b"]
    assert list(IMAGE_MODELS) == names
    assert all(kind.build is getattr(models, name) for name, kind in IMAGE_MODELS.items())


def test_a_json_file_makes_a_swin_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "swin.json"
    small = {
        "patch_size": [4, 4],
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": [4, 4],
    }
    file.write_text(json.dumps(small))
    net = load_image_model(str(file), "none")
    assert isinstance(net, models.SwinTransformer)
    assert net.head.in_features == 16
    encoder = ImageEncoder(net, str(file), dim=D)
    assert encoder.blocks() == ["features.1", "features.3"]
    with pytest.raises(UsageError, match="no weights are published"):
        load_image_model(str(file), "pretrained")


@pytest.mark.parametrize("text", ["[1]", "{", '{"embed_dim": 8}', '{"what": 1}', '{"depths": [1]}'])
def test_a_json_file_that_makes_no_swin_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "swin.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="makes no Swin"):
        load_image_model(str(file), "none")


def test_pictures_the_model_cannot_read_are_refused_before_training(tmp_path: Path) -> None:
    file = tmp_path / "swin.json"
    wide = {"patch_size": [64, 64], "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
    file.write_text(json.dumps({**wide, "window_size": [4, 4]}))
    config = Config(data=Data(image_size=32), model=Model(image_model=str(file), weights="none"))
    with pytest.raises(UsageError, match="cannot read pictures of 32 pixels"):
        ImageEncoder.of(config, None)  # type: ignore[arg-type]
    small = Config(data=Data(image_size=32), model=Model(image_model="resnet18", weights="none"))
    with pytest.raises(UsageError, match="needs more than 32 pixels"):
        ImageEncoder.of(small, None)  # type: ignore[arg-type]
