"""Item encoder `image`: a torchvision model over the cover, pooled -> Linear -> GELU."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

from baselines.config import Config
from baselines.weights import read_weights, refuse_misfit, xavier
from loaders import Batch
from ninerec_data import Dataset, MissingData, UsageError
from ninerec_data.errors import refuse_unknown

__all__ = [
    "IMAGE_MODELS",
    "PUBLISHED",
    "ImageEncoder",
    "ImageModel",
    "image_model",
    "load_image_model",
    "normalised",
]

PUBLISHED = "IMAGENET1K_V1"  # the papers' choice, and torchvision's default but for ResNet-50
DROP_PATH = 0.1  # the papers' Swin; torchvision's own training used 0.2 to 0.5


@dataclass(frozen=True, slots=True)
class ImageModel:
    """A model of torchvision: its builder, the name of its classification head, and its last feature map.

    grid: model and pixels (P, 3, S, S) -> (P, T, F), the places of that map, T = (S / 32) squared.
    """

    build: Callable[[], Any]
    head: str
    grid: Callable[[Any, Tensor], Tensor]


def _resnet_grid(net: models.ResNet, x: Tensor) -> Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    maps: Tensor = net.layer4(net.layer3(net.layer2(net.layer1(x))))
    return maps.flatten(2).transpose(1, 2)


def _swin_grid(net: models.SwinTransformer, x: Tensor) -> Tensor:
    maps: Tensor = net.norm(net.features(x))
    return maps.flatten(1, 2)


RESNETS = (models.resnet18, models.resnet34, models.resnet50)
SWINS = (models.swin_t, models.swin_s, models.swin_b)
IMAGE_MODELS: dict[str, ImageModel] = {
    **{build.__name__: ImageModel(build, "fc", _resnet_grid) for build in RESNETS},
    **{build.__name__: ImageModel(build, "head", _swin_grid) for build in SWINS},
}


class ImageEncoder(nn.Module):
    """Covers (U, 3, S, S) uint8 -> (U, D): the mean of the backbone's last map, projected, GELU.

    Both families pool by that mean, so it is the published model with its head replaced
    (PAPERS_AND_CODE 3.4). Only covers that are there are encoded. An item without one has zero
    features, so its vector is GELU(bias): learnt, the same for all of them, zero at the start.
    A frozen backbone gets no gradient and stays in evaluation mode: its BatchNorm statistics and
    its outputs are those of the weights it came with.
    """

    def __init__(self, net: Any, name: str, *, dim: int, frozen: bool = False) -> None:
        """net: the torchvision model of this name; its head is taken away."""
        super().__init__()
        kind = image_model(name)
        self.project = xavier(nn.Linear(getattr(net, kind.head).in_features, dim))
        setattr(net, kind.head, nn.Identity())
        self.backbone = net.to(memory_format=torch.channels_last)
        self.grid, self.frozen = kind.grid, frozen
        if frozen:
            self.backbone.requires_grad_(False).eval()

    @classmethod
    def needs(cls, config: Config) -> dict[str, Any]:
        """What `Sequences` must be opened with."""
        return {"content": ("image",), "image_size": config.data.image_size or None}

    @classmethod
    def of(cls, config: Config, ds: Dataset) -> Self:
        """The encoder of a configuration; the errors are those of `load_image_model`."""
        m, size = config.model, config.data.image_size or ds.cover_size
        trained = not m.frozen and m.image_model in {build.__name__ for build in RESNETS}
        if trained and size <= 32:
            msg = f"image size {size}: a ResNet that is trained needs more than 32 pixels a side"
            raise UsageError(msg)
        net = load_image_model(m.image_model, m.weights, m.image_weights)
        encoder = cls(net, m.image_model, dim=m.dim, frozen=m.frozen)
        try:
            with torch.no_grad():
                encoder.grid(copy.deepcopy(net).eval(), torch.zeros(1, 3, size, size))
        except (RuntimeError, ArithmeticError, ValueError, IndexError) as error:
            msg = f"the image model {m.image_model} cannot read pictures of {size} pixels: {error}"
            raise UsageError(msg) from error
        return encoder

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def blocks(self) -> list[str]:
        """Names of the backbone's stages, bottom to top."""
        if hasattr(self.backbone, "layer4"):
            return [f"layer{at}" for at in (1, 2, 3, 4)]
        return [f"features.{at}" for at in range(1, len(self.backbone.features), 2)]

    def forward(self, batch: Batch) -> Tensor:
        rows, grid = self._grids(batch)
        pooled = _spread(grid.mean(1), rows, batch)
        vectors: Tensor = nn.functional.gelu(self.project(pooled))
        return vectors

    def tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(U, T, D) places of the last map, projected without GELU, and (U, T) bool: True = of a cover.

        49 places at 224 pixels; T = 1 where no item of the batch has a cover. Zero where there is none.
        """
        rows, grid = self._grids(batch)
        tokens = _spread(self.project(grid), rows, batch)
        return tokens, batch.has_image[:, None].expand(tokens.shape[:2])  # type: ignore[index]

    def _grids(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows (P,) of the items with a cover, and their maps (P, T, F)."""
        if batch.pixels is None or batch.has_image is None:
            msg = "the image encoder got a batch without covers; open Sequences with content=('image',)"
            raise ValueError(msg)
        rows = batch.has_image.nonzero().squeeze(1)
        # Ranks that share batch statistics wait for each other in the backbone: none may skip it.
        shared = any(isinstance(part, nn.SyncBatchNorm) for part in self.backbone.modules())
        if not len(rows) and not (shared and self.training):
            return rows, self.project.weight.new_zeros(0, 1, self.project.in_features)
        x = normalised(batch.pixels[rows if len(rows) else slice(1)])
        grid = self.grid(self.backbone, x.contiguous(memory_format=torch.channels_last))
        return rows, grid[: len(rows)]


def normalised(pixels: Tensor) -> Tensor:
    """uint8 as float32 of mean and deviation 0.5, the papers' for every model (PAPERS_AND_CODE 2.6)."""
    return pixels.float().div(127.5).sub(1)


def image_model(name: str) -> ImageModel:
    """A published model by name, or a Swin of one's own by a JSON file of torchvision's arguments to it.

    Raises UsageError for an unknown name and for a file that makes no Swin.
    """
    if not name.endswith(".json"):
        refuse_unknown("image model", name, IMAGE_MODELS)
        return IMAGE_MODELS[name]
    try:
        settings = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
        models.SwinTransformer(**settings)
    except (OSError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        msg = (
            f"the image model {name} makes no Swin ({error}); expected a JSON object of the arguments of "
            "torchvision.models.SwinTransformer: patch_size, embed_dim, depths, num_heads, window_size"
        )
        raise UsageError(msg) from error
    return ImageModel(partial(models.SwinTransformer, **settings), "head", _swin_grid)


def load_image_model(
    name: str, weights: Literal["pretrained", "none"], file: str = ""
) -> nn.Module:
    """The torchvision model of a name, with its classification head.

    Its weights are those of `file` (torchvision's names, the head's ignored), else by `weights`:
    ImageNet's as torchvision publishes them, kept in torch's cache, or random ones.
    Raises UsageError for an unknown name, MissingData where the weights cannot be read or fetched,
    CheckFailed where they do not fit, naming the tensors.
    """
    kind = image_model(name)
    net: nn.Module = kind.build()
    if name in IMAGE_MODELS:
        paths = [part for part in net.modules() if isinstance(part, StochasticDepth)]
        highest = max((part.p for part in paths), default=0.0)
        for part in paths:
            part.p *= DROP_PATH / highest  # deeper blocks are left out more often, as published
    if file:
        _fill(net, read_weights(file), kind.head, f"the weights in {file} for {name}")
    elif weights == "pretrained" and name not in IMAGE_MODELS:
        msg = f"no weights are published of {name}; add --weights none, or --set model.image_weights=FILE"
        raise UsageError(msg)
    elif weights == "pretrained":
        _fill(net, _published(name), kind.head, f"torchvision's weights of {name}")
    return net


def _published(name: str) -> Mapping[str, Tensor]:
    published = models.get_model_weights(name)[PUBLISHED]
    try:
        with redirect_stdout(sys.stderr):  # torch prints the address it fetches
            state: Mapping[str, Tensor] = published.get_state_dict(
                check_hash=True, weights_only=True
            )
    except Exception as error:  # no network, a full disk, or a cached file cut short
        why = " ".join(str(error).split())[:200]
        msg = (
            f"the weights of '{name}' could neither be read from torch's cache nor fetched ({why}). "
            f"Put {published.url} into {torch.hub.get_dir()}/checkpoints, give a file with "
            "--set model.image_weights=FILE, or train from random weights: --weights none"
        )
        raise MissingData(msg) from error
    return state


def _fill(net: nn.Module, state: Mapping[str, Tensor], head: str, what: str) -> None:
    """Give every tensor but the head's its values, or none of them at all."""
    own = {key: t for key, t in net.state_dict().items() if not key.startswith(f"{head}.")}
    given = {key: tensor for key, tensor in state.items() if not key.startswith(f"{head}.")}
    refuse_misfit(
        what,
        # Batches seen is a count that nothing reads; old files are without it.
        missing=[k for k in own if k not in given and not k.endswith("num_batches_tracked")],
        unexpected=[k for k in given if k not in own],
        another_shape=[
            f"{key}: {tuple(given[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
        way_out="give a state dict of this torchvision model, or name its model with model.image_model",
    )
    net.load_state_dict(given, strict=False)


def _spread(values: Tensor, rows: Tensor, batch: Batch) -> Tensor:
    """(P, ...) values of some items -> (U, ...), zero for the others."""
    out = values.new_zeros(len(batch.unique_items), *values.shape[1:])
    return out.index_copy(0, rows, values)
