"""Weights from files: what fits is taken whole, what does not is named, nothing is run."""

from __future__ import annotations

import os
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_item_image import items_alone
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertForMaskedLM, OPTConfig

from baselines.item_image import IMAGE_MODELS, ImageModel, load_image_model
from baselines.item_text import TextEncoder, load_backbone
from baselines.weights import read_weights
from ninerec_data import CheckFailed, MissingData, UsageError

State = dict[str, Tensor]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> State:
    """Weights of the image model `small`, whose head is its tensors `3.*`."""
    monkeypatch.setitem(IMAGE_MODELS, "small", ImageModel(small, "3", lambda net, x: net(x)))
    torch.manual_seed(1)
    return small().state_dict()


def code(folder: Path) -> bytes:
    """A pickle that makes a folder where it is run."""

    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(folder),)

    return pickle.dumps(Runs(), protocol=2)


def write(state: State, path: Path) -> str:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_file_fills_everything_but_the_head(tmp_path: Path, state: State, name: str) -> None:
    """Whatever its classes were; a count of batches, which old files lack, is not asked for."""
    given = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    given["3.weight"] = torch.zeros(1000, 4)
    got = load_image_model("small", "pretrained", write(given, tmp_path / name)).state_dict()
    for key in ("0.weight", "0.bias", "1.weight", "1.running_var"):
        assert torch.equal(got[key], state[key])
    assert got["3.weight"].shape == (5, 4)
    assert got["3.weight"].any()


def test_tensors_that_do_not_fit_are_counted_and_named(tmp_path: Path, state: State) -> None:
    del state["1.weight"], state["1.bias"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(5)} | {"0.bias": torch.zeros(7)}
    file = write(state, tmp_path / "w.pth")
    with pytest.raises(CheckFailed) as caught:
        load_image_model("small", "none", file)
    found = str(caught.value)
    assert "2 missing (1.bias, 1.weight)" in found
    assert "5 unexpected (extra.0, extra.1, extra.2, ...)" in found
    assert "1 of another shape (0.bias: (7,) for (4,))" in found
    assert f"{file} for small" in found


def test_a_file_that_is_no_weights_says_so_and_runs_nothing(tmp_path: Path) -> None:
    contents = {
        "words.pth": b"hello",
        "words.safetensors": b"hello",
        "empty.pth": b"",
        "code.pth": code(tmp_path / "ran"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckFailed, match="cannot be read as weights"):
            read_weights(str(tmp_path / name))
    torch.save({"epoch": 3, "model": {}}, tmp_path / "run.pth")
    with pytest.raises(CheckFailed, match="no state dict"):
        read_weights(str(tmp_path / "run.pth"))
    with pytest.raises(MissingData, match="no file of weights"):
        read_weights(str(tmp_path / "absent.pth"))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_image_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'resnet-18'; did you mean 'resnet18'\?.*swin_b"):
        load_image_model("resnet-18", "none")


def test_published_weights_come_from_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchvision's name for them, ImageNet's first version."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(IMAGE_MODELS, "resnet18", ImageModel(small, "3", lambda net, x: net(x)))
    file = tmp_path / "hub/checkpoints/resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(1)
    given = small().state_dict()
    torch.save(given, file)
    got = load_image_model("resnet18", "pretrained").state_dict()
    assert torch.equal(got["0.weight"], given["0.weight"])
    file.write_bytes(code(tmp_path / "ran"))
    with pytest.raises(MissingData, match="could neither be read"):
        load_image_model("resnet18", "pretrained")
    assert not (tmp_path / "ran").exists()


def test_published_weights_out_of_reach_name_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing of torch's own talk goes to standard output."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refused(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torch.hub.urlopen", refused)
    ways = r"resnet18.*no route.*resnet18-f37072fd\.pth.*model\.image_weights=FILE.*--weights none"
    with pytest.raises(MissingData, match=ways):
        load_image_model("resnet18", "pretrained")
    assert not capsys.readouterr().out


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A small BERT saved with a language-model head and without a pooler."""
    small = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    BertForMaskedLM(small).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_text_model_takes_its_weights_from_a_larger_one(text_folder: Path) -> None:
    backbone = load_backbone(str(text_folder), "pretrained")
    saved = load_file(text_folder / "model.safetensors")
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, saved[f"bert.{key}"])


def test_a_text_model_left_unfilled_is_refused(text_folder: Path) -> None:
    file = text_folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["bert.embeddings.LayerNorm.weight"]
    tensors["bert.encoder.layer.0.output.dense.bias"] = torch.zeros(3)
    save_file(tensors, file, {"format": "pt"})
    fault = (
        r"1 missing \(embeddings.LayerNorm.weight\), "
        r"1 of another shape \(encoder.layer.0.output.dense.bias: \(3,\) for \(8,\)\)"
    )
    with pytest.raises(CheckFailed, match=fault):
        load_backbone(str(text_folder), "pretrained")


def test_text_weights_cut_short_are_one_message(text_folder: Path) -> None:
    file = text_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(MissingData, match=r"cannot be read .*--weights none"):
        load_backbone(str(text_folder), "pretrained")


def test_a_text_model_saved_in_half_precision_trains_in_full(tmp_path: Path) -> None:
    config = OPTConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2,
        max_position_embeddings=16, word_embed_proj_dim=8,
    )  # fmt: skip
    AutoModel.from_config(config).half().save_pretrained(tmp_path)
    encoder = TextEncoder(load_backbone(str(tmp_path), "pretrained"), dim=4)
    tokens = torch.tensor([[2, 5, 6]])
    assert encoder(items_alone(1, tokens=tokens, token_mask=tokens > 0)).dtype is torch.float32
