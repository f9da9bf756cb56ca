"""A run's configuration: TOML out and in, refusals, presets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.config import make_config, to_toml
from ninerec_data import UsageError


def test_every_setting_survives_toml(tmp_path: Path) -> None:
    config = make_config(
        None,
        ["train.lr=3e-4", "model.dim=96", "model.frozen=true", "data.split.keep_last=13"],
        {"data.dataset": "toy", "train.seed": 5, "data.split.users": 40},
    )
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert make_config(file, presets=False) == config
    assert (config.train.lr, config.model.dim, config.model.frozen) == (3e-4, 96, True)
    assert config.data.split == {"keep_last": 13, "users": 40}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))),
    st.floats(1e-9, 1.0),
    st.integers(0, 2**40),
)
@example('~/models/\U0001f60b 中文 "quoted" back\\slash', 5e-5, 1)
def test_any_text_and_number_survives_toml(
    tmp_path_factory: pytest.TempPathFactory, text: str, rate: float, seed: int
) -> None:
    config = make_config(None, (), {"model.text_model": text, "train.lr": rate, "train.seed": seed})
    file = tmp_path_factory.mktemp("toml") / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert make_config(file, presets=False) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.lrr=1", r"unknown setting 'train\.lrr'; did you mean 'train\.lr'\?"),
        ("modle.dim=8", r"unknown setting 'modle\.dim'; did you mean 'model\.dim'\?"),
        ("train.epochs=ten", r"train\.epochs is 'ten'; expected a value like 200"),
        ("train.epochs=true", r"train\.epochs is True; expected a value like 200"),
        ("model.objective=in_batch", r"expected 'bce' or 'in-batch'; did you mean 'in-batch'\?"),
        ("train.lr", r"--set train\.lr: expected KEY=VALUE"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(None, [setting])


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[model]\ndim = 32\n[train]\nlr = 0.5\nepochs = 7\n")
    made = make_config(file, ["train.lr=0.25"], {"data.dataset": "bili_food", "train.epochs": 9})
    assert (made.model.dim, made.train.lr, made.train.epochs) == (32, 0.25, 9)
    assert made.train.item_lr == 1e-4  # bili_food's own row


@pytest.mark.parametrize(
    ("dataset", "lr", "dim"),
    [("bili_food", 1e-4, 256), ("bili_dance", 5e-5, 512), ("qb", 5e-5, 512)],
)
def test_presets_are_the_rows_of_nineres_table_12(dataset: str, lr: float, dim: int) -> None:
    made = make_config(None, (), {"data.dataset": dataset})
    t = made.train
    assert (made.model.item_encoder, made.model.objective) == ("id", "bce")
    assert (t.lr, t.item_lr, made.model.dim, t.batch_size) == (lr, lr, dim, 64)
    assert (t.weight_decay, t.item_weight_decay) == (0.1, 0.1)
    assert (made.model.layers, made.model.heads, made.model.dropout) == (2, 2, 0.1)


def test_the_hash_forgets_what_cannot_change_a_number() -> None:
    base = make_config().hash
    assert make_config(None, ["train.device=cpu", "train.workers=3"]).hash == base
    assert make_config(None, ["train.seed=1"]).hash != base
    assert make_config(None, ["data.split.keep_last=13"]).hash != base


@pytest.mark.parametrize(
    "setting",
    [
        "train.lr=-1",
        "train.lr=inf",
        "train.lr=nan",
        "train.epochs=0",
        "train.batch_size=0",
        "train.workers=-1",
        "model.heads=0",
        "model.dropout=2.0",
        "model.dim=-4",
    ],
)
def test_a_number_out_of_range_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        make_config(None, [setting])
