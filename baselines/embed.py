"""`embed`: run an encoder once over every item and keep what it says as a bundle of frozen features."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import get_model_weights
from tqdm import tqdm

from baselines.item_image import IMAGE_MODELS, PUBLISHED, load_image_model, normalised
from baselines.item_text import CAUSAL, load_text_model, mean_of_valid, tokenizer_folder
from baselines.results import choose_device
from loaders import Images
from loaders.features import Features, item_order, write_bundle
from loaders.titles import title_tokens
from ninerec_data import CheckFailed, Dataset, Home, MissingData, UsageError
from ninerec_data.errors import refuse_unknown
from ninerec_data.files import hash_of, sha256_file

__all__ = ["Encoding", "embed"]

CHUNK = 64  # items at a time; fixed, so that the sums are the same ones each time
SEED = 0  # of random weights
KINDS_OF_WEIGHTS = {"pretrained": "pretrained", "none": f"random, seed {SEED}"}  # as recipes say it
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What encodes the items, and how; None = the default.

    encoder: a text model's folder or hub name, or the name of an image model.
    language, layer, pooling, max_tokens: of text. Layer 0 is the embeddings, 1 the first block's output, -1 the
        last one's (default). Default pooling: the first token, of left-to-right models the mean; 30 tokens.
    image_size: of images; default the size they are prepared at.
    weights: "pretrained", "none" (random ones of a fixed seed), or a file of weights for an image model.
    dtype: of what is kept. The encoder itself computes in float32.
    """

    encoder: str
    field: Literal["text", "image"] = "text"
    language: str | None = None
    layer: int | None = None
    pooling: Literal["cls", "mean"] | None = None
    max_tokens: int | None = None
    image_size: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    weights: str = "pretrained"

    @property
    def source(self) -> Literal["pretrained", "none"]:
        """Where weights come from that no file gives."""
        return "none" if self.weights == "none" else "pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The work in hand: which items, how a chunk of them becomes vectors (C, F), and the recipe of it."""

    items: Ints
    encode: Callable[[Ints], Tensor]
    recipe: dict[str, Any]


def embed(
    home: Home,
    ds: Dataset,
    how: Encoding,
    *,
    name: str = "",
    device: str = "auto",
    chunk: int = CHUNK,
    say: Callable[[str], None] = print,
) -> Path:
    """Encode every item once, in eval mode (PAPERS_AND_CODE 3.7), and return the bundle's folder.

    name: of the bundle; default the encoder's. Where just this bundle is there already nothing is done.
    Items without the text or cover get a zero row. A kill leaves nothing behind.
    Raises UsageError for options that do not fit, MissingData for a model or covers that are not there,
    CheckFailed where a number is not finite.
    """
    on, why = choose_device(device)
    _refuse_what_the_field_has_not(how)
    torch.manual_seed(SEED)
    job = (_text if how.field == "text" else _image)(ds, how, on)
    if not len(job.items):
        msg = f"no item of {ds.name} has {how.field}; choose another --field or --language"
        raise UsageError(msg)
    weights = KINDS_OF_WEIGHTS.get(how.weights, Path(how.weights).name)
    made_by = {"encoder": _named(how.encoder), "weights": weights, "dtype": how.dtype}
    recipe = {"field": how.field, **made_by, **job.recipe}
    name = re.sub(r"[^\w.-]+", "-", name or recipe["encoder"].rpartition("/")[2]).lstrip(".")
    short = hash_of({**recipe, "items": item_order(ds)})
    folder = home.features(ds.name) / f"{name}-{short}"
    if _is_there(folder, ds):
        say(f"{folder} is there already: nothing to do")
        return folder
    say(f"{ds.name}: {len(job.items):,} of {ds.n_items:,} items with {how.field}; {why}")
    features, present = _run(job, ds.n_items, getattr(torch, how.dtype), chunk)
    write_bundle(folder, ds, features, present, recipe)
    return folder


@torch.no_grad()
def _run(job: Job, n_items: int, dtype: torch.dtype, chunk: int) -> tuple[Tensor, Tensor]:
    """(n_items + 1, F) features and which of them are present."""
    width = job.encode(job.items[:1]).shape[1]
    features = torch.zeros(n_items + 1, width, dtype=dtype)
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        tqdm(total=len(job.items), desc="items", disable=None) as bar,
    ):
        for at in range(0, len(job.items), chunk):
            some = job.items[at : at + chunk]
            features[torch.from_numpy(some)] = job.encode(some).to("cpu", dtype)
            bar.update(len(some))
    present = torch.zeros(n_items + 1, dtype=torch.bool)
    present[torch.from_numpy(job.items)] = True
    return features, present


def _text(ds: Dataset, how: Encoding, device: torch.device) -> Job:
    """Titles through a transformers model, the longest first: like lengths share a chunk."""
    if not ds.languages:
        raise UsageError(f"{ds.name} has no text; embed its covers: --field image")
    language, max_tokens = how.language or ds.languages[-1], how.max_tokens or 30
    try:
        folder = tokenizer_folder(how.encoder)
        model, tokenizer = load_text_model(how.encoder, how.source, max_tokens)
    except MissingData as error:
        raise MissingData(str(error).replace("--text-model", "--encoder")) from error
    model = model.eval().to(device)
    layers, causal = model.config.num_hidden_layers, model.config.model_type in CAUSAL
    pooling = how.pooling or ("mean" if causal else "cls")
    layer = -1 if how.layer is None else how.layer
    _refuse_layer(model.config, how, pooling, layer)
    layer %= layers + 1
    titles = title_tokens(ds, tokenizer, language=language, max_tokens=max_tokens)
    items = 1 + np.flatnonzero([bool(text) for text in ds.text(language)])

    def encode(some: Ints) -> Tensor:
        tokens, mask = (torch.from_numpy(values).to(device) for values in titles.of(some))
        out = model(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True)
        states = out.hidden_states[layer]  # the last is `last_hidden_state`
        if pooling == "cls":
            return states[:, 0]  # type: ignore[no-any-return]
        return mean_of_valid(states, mask)

    recipe = {
        "revision": _revision(how, folder),
        "tokenizer": hash_of(tokenizer.to_str()),
        "content": ds.fingerprint["items.parquet"],
        "language": language,
        "layer": layer,
        "pooling": pooling,
        "max_tokens": max_tokens,
    }
    longest_first = np.argsort(-np.diff(titles.start)[items], kind="stable")
    return Job(items=items[longest_first], encode=encode, recipe=recipe)


def _image(ds: Dataset, how: Encoding, device: torch.device) -> Job:
    """Covers through a torchvision model: what it pools, before its head (PAPERS_AND_CODE 3.7)."""
    images = Images(ds, how.image_size)
    file = "" if how.weights in KINDS_OF_WEIGHTS else how.weights
    try:
        model: nn.Module = load_image_model(how.encoder, how.source, file)
    except MissingData as error:
        raise MissingData(f"{error}. `ninerec embed` takes a file as --weights FILE") from error
    kind = IMAGE_MODELS[how.encoder]
    setattr(model, kind.head, nn.Identity())
    model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(some: Ints) -> Tensor:
        return model(normalised(images.of(some)[0].to(device)))  # type: ignore[no-any-return]

    revision: Any = None  # of random weights
    if file:
        path = Path(file).expanduser()
        revision = {path.name: sha256_file(path)}
    elif how.source == "pretrained":  # the published file's name ends in its sha256
        revision = Path(get_model_weights(kind.build)[PUBLISHED].url).name
    recipe = {"revision": revision, "content": ds.covers_index, "image_size": images.size}
    return Job(items=np.flatnonzero(ds.has_cover), encode=encode, recipe=recipe)


def _refuse_layer(config: Any, how: Encoding, pooling: str, layer: int) -> None:
    """Raise UsageError for a layer that the model does not have, or a pooling that says nothing of it."""
    layers = config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        least = f"-1 (the last) to {-layers - 1}"
        msg = f"--layer {layer}: '{how.encoder}' has layers 0 (embeddings) to {layers}, or {least}"
        raise UsageError(msg)
    if pooling == "cls" and config.model_type in CAUSAL:
        msg = f"--pooling cls: '{how.encoder}' reads left to right, its first token knows no other; use --pooling mean"
        raise UsageError(msg)


def _refuse_what_the_field_has_not(how: Encoding) -> None:
    if how.field == "text" and how.encoder in IMAGE_MODELS:
        raise UsageError(f"'{how.encoder}' is an image model; add --field image")
    if how.field == "text" and how.weights not in KINDS_OF_WEIGHTS:
        msg = f"--weights {how.weights}: a text model's weights lie in its folder; expected pretrained or none"
        raise UsageError(msg)
    text = ("language", "layer", "pooling", "max_tokens")
    for option in ("image_size",) if how.field == "text" else text:
        if (value := getattr(how, option)) is not None:
            msg = f"--{option.replace('_', '-')} {value} means nothing for --field {how.field}; leave it out"
            raise UsageError(msg)
    if how.field == "image":
        refuse_unknown("image model", how.encoder, IMAGE_MODELS)


def _is_there(folder: Path, ds: Dataset) -> bool:
    """Whether the bundle is there and whole; a damaged one is made anew."""
    try:
        return folder.is_dir() and bool(Features.open(folder, ds))
    except (CheckFailed, UsageError):
        return False


def _named(encoder: str) -> str:
    """How a recipe names an encoder: a folder by its last part, for its path says nothing elsewhere."""
    path = Path(encoder).expanduser()
    return path.resolve().name if path.exists() else encoder


def _revision(how: Encoding, folder: Path) -> str | dict[str, str]:
    """The hub's commit of a model by name (its snapshot's folder), else the sha256 of each file it is made of."""
    if not Path(how.encoder).expanduser().exists():
        return folder.name
    files = [folder / "config.json"]
    if how.source == "pretrained":
        weights = sorted(folder.glob("model*.safetensors"))
        files += weights or sorted(folder.glob("pytorch_model*.bin"))
    return {file.name: sha256_file(file) for file in files}
