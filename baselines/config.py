"""A run's configuration: frozen dataclasses, TOML in and out, unknown keys refused with the nearest name."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ninerec_data import UsageError
from ninerec_data.errors import nearest, refuse_unknown
from ninerec_data.files import hash_of

__all__ = [
    "FREE",
    "Config",
    "Data",
    "Model",
    "Train",
    "changed_settings",
    "make_config",
    "read_toml",
    "settings_of",
    "to_toml",
]


FREE = ("device", "workers", "threads", "decoded", "save_minutes")  # of [train]


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is learnt from. `split` holds the Split fields that differ from the dataset's defaults."""

    dataset: str = ""
    protocol: str = "ninerec-2023"
    language: str = ""  # "" = the dataset's last (English where there is one)
    max_tokens: int = 30  # special tokens included
    image_size: int = 0  # pixels a side, scaled on load; 0 = as prepared
    sample: Literal["s2s", "s2o"] = "s2s"  # every transition predicts, or a sequence's last alone
    sampler: Literal["uniform", "popularity"] = "uniform"  # of negatives
    similar: int = 1  # over 1: batches of like lengths, formed inside windows of this many batches
    split: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The three parts and their sizes."""

    user_encoder: Literal["sasrec"] = "sasrec"
    item_encoder: Literal["id", "text", "image", "text+image", "frozen"] = "id"
    objective: Literal["bce", "in-batch"] = "bce"
    dim: int = 512
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1
    text_model: str = "bert-base-uncased"  # a local folder or a hub name
    weights: Literal["pretrained", "none"] = "pretrained"
    image_model: str = "resnet18"  # or 34, 50, swin_t, swin_s, swin_b; a JSON file: a Swin of it
    image_weights: str = ""  # a file of weights; "" = as `weights` says
    frozen: bool = False  # keep the pretrained model's weights as they are
    top_blocks: int = 0  # over 0: only so many of its topmost layers or stages learn
    fusion: Literal["sum", "concat", "gate"] = "gate"  # of text+image
    features: str = ""  # of frozen: a bundle's name or folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """How it is learnt. `item_*` holds for the item encoder and its projection, the others for the user encoder."""

    seed: int = 0
    batch_size: int = 64
    lr: float = 1e-4
    item_lr: float = 1e-4
    weight_decay: float = 0.1
    item_weight_decay: float = 0.1
    head: Literal["item", "user"] = (
        "item"  # whose rates the item encoder's projection and fusion have
    )
    epochs: int = 200
    patience: int = 30  # epochs without a strictly better validation metric
    workers: int = 0  # processes that make batches
    threads: int = 0  # that decode covers, in each of them; 0 = the cores there are
    decoded: bool = False  # read covers from a cache of raw pixels on disk, made once
    save_minutes: float = 10.0  # between checkpoints within an epoch
    device: str = "auto"
    precision: Literal["float32", "bf16"] = (
        "bf16"  # of matrix products, where the device has bf16 units
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole run. Its hash leaves out what cannot change a number (FREE)."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @property
    def hash(self) -> str:
        values = self.as_json()
        for key in FREE:
            del values["train"][key]
        return hash_of(values)


def make_config(
    file: Path | None = None,
    settings: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    *,
    presets: bool = True,
) -> Config:
    """Presets, then a TOML file, then `a.b=c` settings, then command-line options; later ones win.

    options: dotted keys to values; None means not given.
    presets: False reads a run's own file, which holds every value.
    The preset is the published row of the dataset, item encoder and objective (baselines/presets.toml).
    """
    asked = settings_of(file, settings)
    asked.update({key: value for key, value in (options or {}).items() if value is not None})
    sections = _sections(asked)
    base = Config(data=_build(Data, "data", sections), model=_build(Model, "model", sections))
    m = base.model
    preset = _preset(base.data.dataset, m.item_encoder, m.objective) if presets else {}
    merged = _sections({**preset, **asked})
    return Config(
        data=_build(Data, "data", merged),
        model=_build(Model, "model", merged),
        train=_build(Train, "train", merged),
    )


def settings_of(file: Path | None, settings: Iterable[str] = ()) -> dict[str, Any]:
    """What a TOML file and `a.b=c` settings ask for, as dotted keys."""
    asked = _flat(read_toml(file)) if file is not None else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            msg = f"--set {setting}: expected KEY=VALUE, such as --set train.lr=1e-4"
            raise UsageError(msg)
        asked[key.strip()] = _value(text.strip())
    return asked


def changed_settings(config: Config, asked: Mapping[str, Any]) -> list[str]:
    """Dotted keys of `asked` that a run with this configuration does not have so."""
    have = _flat(config.as_json())
    have.update({f"data.split.{key}": value for key, value in config.data.split.items()})
    free = [f"train.{key}" for key in FREE]
    return [
        f"{key}={value!r} (the run has {have.get(key)!r})"
        for key, value in asked.items()
        if have.get(key) != value and key not in free
    ]


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; UsageError with its name and line where it does not parse."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} cannot be read as TOML: {error}"
        raise UsageError(msg) from error


def to_toml(config: Config) -> str:
    """The configuration as TOML that `make_config` reads back equal."""
    lines = []
    for section, values in config.as_json().items():
        nested = {key: value for key, value in values.items() if isinstance(value, dict)}
        lines.append(f"[{section}]")
        lines += [
            f"{key} = {json.dumps(v, ensure_ascii=False)}"
            for key, v in values.items()
            if key not in nested
        ]
        for key, value in nested.items():
            lines.append(f"[{section}.{key}]")
            lines += [
                f"{k} = {json.dumps(v, ensure_ascii=False)}"
                for k, v in value.items()
                if v is not None
            ]
        lines.append("")
    return "\n".join(lines)


def _preset(dataset: str, item_encoder: str, objective: str) -> dict[str, Any]:
    """The settings the papers used where published, for the parts chosen; flat dotted keys."""
    known = _presets()
    kind = f"{item_encoder}/{objective}"
    return {**known.get(kind, {}), **known.get(f"{kind}/{dataset}", {})}


@cache
def _presets() -> Mapping[str, Mapping[str, Any]]:
    text = files("baselines").joinpath("presets.toml").read_text()
    return {name: _flat(values) for name, values in tomllib.loads(text).items()}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """{a: {b: c}} -> {"a.b": c}; `data.split` stays a mapping."""
    out: dict[str, Any] = {}
    for section, inner in values.items():
        if not isinstance(inner, Mapping):
            out[section] = inner
            continue
        out.update({f"{section}.{key}": value for key, value in inner.items()})
    return out


def _sections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted keys by section, refusing unknown sections and keys with the nearest known one."""
    known = [f"{s.name}.{f.name}" for s in fields(Config) for f in fields(_CLASSES[s.name])]
    out: dict[str, dict[str, Any]] = {name: {} for name in _CLASSES}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        if key.startswith("data.split."):
            out["data"].setdefault("split", {})[key.removeprefix("data.split.")] = value
            continue
        refuse_unknown("setting", key, known)
        out[section][name] = dict(value) if name == "split" else value
    return out


def _build(kind: type[Any], section: str, sections: Mapping[str, Mapping[str, Any]]) -> Any:
    """Make one dataclass, checking each value against its default's type and its literal choices."""
    values = dict(sections[section])
    for spec in fields(kind):
        if spec.name not in values or spec.name == "split":
            continue
        value, default = values[spec.name], spec.default
        choices = _choices(str(spec.type))
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = values[spec.name] = float(value)
        if type(value) is not type(default) or (choices and value not in choices):
            want = " or ".join(map(repr, choices)) or f"a value like {default!r}"
            hint = nearest(str(value), choices) if choices else ""
            msg = f"{section}.{spec.name} is {value!r}; expected {want}{hint}"
            raise UsageError(msg)
        _in_range(f"{section}.{spec.name}", value)
    return kind(**values)


def _in_range(key: str, value: Any) -> None:
    """Refuse numbers that no run can mean; NaN and infinity are in no range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    name = key.partition(".")[2]
    at_least_one = ("dim", "layers", "heads", "batch_size", "epochs", "patience", "similar")
    if name == "dropout":
        good, want = 0 <= value < 1, "at least 0 and below 1"
    elif name in ("lr", "item_lr"):
        good, want = 0 < value < math.inf, "above 0"
    elif name in (*at_least_one, "max_tokens"):
        low = 3 if name == "max_tokens" else 1
        good, want = value >= low, f"at least {low}"
    else:
        good, want = 0 <= value < math.inf, "at least 0"
    if not good:
        msg = f"{key} is {value!r}; expected {want}"
        raise UsageError(msg)


def _choices(annotation: str) -> tuple[str, ...]:
    if not annotation.startswith("Literal["):
        return ()
    return tuple(part.strip(" \"'") for part in annotation[len("Literal[") : -1].split(","))


def _value(text: str) -> Any:
    """A command-line value as TOML reads it; a bare word is a string."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


_CLASSES: Mapping[str, type[Any]] = {"data": Data, "model": Model, "train": Train}
