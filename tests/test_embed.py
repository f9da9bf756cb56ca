"""Frozen features: what `embed` makes, how a bundle is read and refused, and the encoder on top of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import ResNet, ResNet18_Weights
from torchvision.models.resnet import BasicBlock
from transformers import AutoModel, AutoTokenizer, OPTConfig

import baselines.embed
import loaders.features
from baselines.embed import Encoding, embed
from baselines.item_frozen import FrozenEncoder
from baselines.item_image import IMAGE_MODELS
from loaders import Images, Sequences
from loaders.features import Features, find_features, fingerprint, item_order, write_bundle
from loaders.titles import Titles
from ninerec import main as cli
from ninerec_data import CheckFailed, Dataset, MissingData, UsageError
from ninerec_data.files import sha256_file
from ninerec_data.synthetic import write_tokenizer
from tests.toy import Toy, make_toy, read_json

WORDS = ["hot", "red", "noodle", "soup", "with", "seven", "green", "onions", "and", "one", "egg"]
NAMED = ["-".join([*WORDS[: 1 + n % 11], str(n)]) for n in range(14)]
COVERED = (2, 5, 6, 13)
NO_TITLE = ["only-met", "only-met-too"]  # interactions name them, the item file does not

pytestmark = pytest.mark.usefixtures("one_thread")


def toy_of(folder: Path, named: list[str]) -> Toy:
    items = [*named, *NO_TITLE]
    histories = {f"u{n}": [items[(n + k) % len(items)] for k in range(7)] for n in range(16)}
    return make_toy(folder, named, histories)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    made = toy_of(tmp_path_factory.mktemp("toy"), NAMED)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in made.environment.items():
            patch.setenv(key, value)
        (made.folder / "release" / "covers").mkdir()
        for item in COVERED:
            picture = Image.fromarray(
                np.random.default_rng(item).integers(0, 256, (9, 16, 3), "u1")
            )
            picture.save(made.folder / "release" / "covers" / f"{NAMED[item - 1]}.png")
        made.import_files()
        made.prepare()
        yield made


@pytest.fixture(scope="module")
def ds(toy: Toy) -> Dataset:
    return toy.open()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT of three layers with weights on disk."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    write_tokenizer(folder, [f"title of {name}" for name in NAMED], vocab_size=120)
    config = read_json(folder / "config.json")
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    return with_weights(folder)


@pytest.fixture(scope="module")
def opt(bert: Path) -> Path:
    """A tiny left-to-right model whose last states are narrower than its hidden ones."""
    folder = bert.parent / "tiny-opt"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    OPTConfig(
        vocab_size=120, hidden_size=8, num_hidden_layers=2, ffn_dim=16, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=4, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    ).save_pretrained(folder)  # fmt: skip
    return with_weights(folder)


def with_weights(folder: Path) -> Path:
    from transformers import AutoConfig

    torch.manual_seed(1)
    AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def made(toy: Toy, ds: Dataset, model: Path, name: str, **options: Any) -> Features:
    chunk = options.pop("chunk", 128)
    how = Encoding(encoder=str(model), **options)
    return Features.open(embed(toy.home, ds, how, name=name, chunk=chunk, say=print), ds)


def rows(features: Features, ds: Dataset) -> Tensor:
    return features.of(np.arange(ds.n_items + 1))


@cache
def opened(model: Path, tokenizer: Path) -> tuple[Any, Any]:
    return AutoModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(tokenizer)


def alone(
    model: Path, tokenizer: Path, text: str, *, layer: int, mean: bool, tokens: int = 30
) -> Tensor:
    """One text through the model by itself."""
    loaded, words = opened(model, tokenizer)
    ids = words(text.lower(), truncation=True, max_length=tokens)["input_ids"]
    with torch.no_grad():
        out = loaded(torch.tensor([ids]), output_hidden_states=True)
    states = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
    vector: Tensor = states[0].mean(0) if mean else states[0, 0]
    return vector


@pytest.mark.parametrize(
    ("options", "layer", "mean"),
    [
        ({}, -1, False),
        ({"pooling": "mean", "max_tokens": 5}, -1, True),
        ({"layer": -2}, 2, False),
        ({"layer": 1, "pooling": "mean"}, 1, True),
    ],
)
def test_a_row_is_what_the_encoder_says_of_the_title_alone(
    toy: Toy, ds: Dataset, bert: Path, options: dict[str, Any], layer: int, mean: bool
) -> None:
    features = made(toy, ds, bert, "alone", **options)
    got, tokens = rows(features, ds), options.get("max_tokens", 30)
    assert features.recipe["max_tokens"] == tokens
    for item in (1, 6, 11):
        text = f"Title of {NAMED[item - 1]}"
        want = alone(bert, bert, text, layer=layer, mean=mean, tokens=tokens)
        assert (got[item] - want).abs().max() < 1e-5


def test_a_left_to_right_model_is_pooled_by_the_mean(
    toy: Toy, ds: Dataset, bert: Path, opt: Path
) -> None:
    features = made(toy, ds, opt, "opt")
    assert (features.width, features.recipe["pooling"]) == (4, "mean")
    want = alone(opt, bert, f"Title of {NAMED[4]}", layer=-1, mean=True)
    assert (rows(features, ds)[5] - want).abs().max() < 1e-5
    with pytest.raises(UsageError, match="--pooling mean"):
        made(toy, ds, opt, "opt", pooling="cls")


def test_rows_do_not_depend_on_the_chunks(toy: Toy, ds: Dataset, bert: Path) -> None:
    one, all_at_once = made(toy, ds, bert, "one", chunk=1), made(toy, ds, bert, "all")
    assert (rows(one, ds) - rows(all_at_once, ds)).abs().max() < 1e-6
    assert one.recipe["sha256"].startswith("sha256:")


def test_the_pad_and_items_without_a_title_are_zero(toy: Toy, ds: Dataset, bert: Path) -> None:
    features = made(toy, ds, bert, "all")
    absent = [0, *(ds.item_ids.index(name) + 1 for name in NO_TITLE)]
    assert (~features.present).nonzero()[:, 0].tolist() == absent
    zero = (rows(features, ds) == 0).all(1)
    assert zero.nonzero()[:, 0].tolist() == absent


def test_rows_come_in_the_order_asked_for(toy: Toy, ds: Dataset, bert: Path) -> None:
    features = made(toy, ds, bert, "all")
    picked = features.of(np.array([9, 3, 9]))
    assert torch.equal(picked, rows(features, ds)[[9, 3, 9]])
    assert picked.dtype == torch.float32
    assert torch.equal(picked, Features(*features.__reduce__()[1]).of(np.array([9, 3, 9])))


def test_float16_keeps_half_the_bytes(toy: Toy, ds: Dataset, bert: Path) -> None:
    whole, half = made(toy, ds, bert, "all"), made(toy, ds, bert, "half", dtype="float16")
    assert half.of(np.arange(4)).dtype == torch.float32
    assert torch.equal(rows(half, ds), rows(whole, ds).half().float())
    sizes = [(f.folder / "features.safetensors").stat().st_size for f in (whole, half)]
    assert sizes[0] - sizes[1] == (ds.n_items + 1) * 16 * 2


def test_the_same_inputs_give_the_same_bytes(toy: Toy, ds: Dataset, bert: Path) -> None:
    bundles = [made(toy, ds, bert, name).folder for name in ("first", "second")]
    assert bundles[0].name.removeprefix("first") == bundles[1].name.removeprefix("second")
    for file in ("features.safetensors", "recipe.json"):
        assert (bundles[0] / file).read_bytes() == (bundles[1] / file).read_bytes()
    assert str(toy.folder) not in (bundles[0] / "recipe.json").read_text()
    assert {file.name for file in bundles[0].iterdir()} == {"features.safetensors", "recipe.json"}


def test_the_recipe_says_how_it_was_made(toy: Toy, ds: Dataset, bert: Path) -> None:
    recipe = dict(made(toy, ds, bert, "all").recipe)
    assert len(recipe.pop("tokenizer")) == 8
    assert recipe == {
        "schema": 1,
        "dataset": "toy",
        "items": item_order(ds),
        "counts": {"items": 16, "present": 14, "width": 16},
        "sha256": fingerprint(find_features(toy.home, "toy", "all")),
        "content": ds.fingerprint["items.parquet"],
        "encoder": "tiny-bert",
        "revision": {
            name: sha256_file(bert / name) for name in ("config.json", "model.safetensors")
        },
        "weights": "pretrained",
        "field": "text",
        "language": "en",
        "layer": 3,
        "pooling": "cls",
        "max_tokens": 30,
        "dtype": "float32",
    }


def test_random_weights_are_those_of_the_seed_in_the_recipe(
    toy: Toy, ds: Dataset, bert: Path
) -> None:
    features = made(toy, ds, bert, "random", weights="none")
    assert features.recipe["weights"] == "random, seed 0"
    assert [*features.recipe["revision"]] == ["config.json"]
    before = rows(features, ds)
    torch.manual_seed(99)
    assert torch.equal(before, rows(made(toy, ds, bert, "random-again", weights="none"), ds))
    assert (before - rows(made(toy, ds, bert, "all"), ds)).abs().max() > 0.01


def test_an_identical_bundle_is_not_made_again(
    toy: Toy, ds: Dataset, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(toy, ds, bert, "kept").folder
    before = (folder / "features.safetensors").stat().st_ino
    capsys.readouterr()
    made(toy, ds, bert, "kept", layer=3)
    assert "is there already: nothing to do" in capsys.readouterr().out
    assert (folder / "features.safetensors").stat().st_ino == before


@pytest.mark.parametrize("where", ["encoding", "writing"])
def test_a_kill_leaves_nothing_that_looks_finished(
    toy: Toy, ds: Dataset, bert: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def killed(self: Titles, items: Any) -> Any:
        if len(items) == 4:  # the last chunk
            raise KeyboardInterrupt
        return real(self, items)

    def unwritten(path: Path, data: str) -> None:
        assert (path.parent / "features.safetensors").exists()
        raise KeyboardInterrupt

    real = Titles.of
    with monkeypatch.context() as patch:
        if where == "encoding":
            patch.setattr(Titles, "of", killed)
        else:
            patch.setattr(loaders.features, "atomic_write", unwritten)
        with pytest.raises(KeyboardInterrupt):
            made(toy, ds, bert, f"cut-{where}", chunk=5)
    kept = toy.home.root / "features" / "toy"
    assert [path for path in kept.glob(f"*cut-{where}*") if path.is_dir()] == []
    with pytest.raises(UsageError, match="ninerec embed toy"):
        find_features(toy.home, "toy", f"cut-{where}")
    assert made(toy, ds, bert, f"cut-{where}", chunk=5).present.sum() == 14


def test_another_order_of_items_is_refused(
    toy: Toy, ds: Dataset, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(toy, ds, bert, "all").folder
    other = toy_of(tmp_path, NAMED[::-1])
    for key, value in other.environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError, match=r"for toy \(16 items\).*ninerec embed toy --encoder tiny"):
        Features.open(folder, other.open())


def copied(features: Features, folder: Path) -> Path:
    folder.mkdir()
    for file in features.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_damage_is_refused_and_embed_mends_it(
    toy: Toy, ds: Dataset, bert: Path, tmp_path: Path
) -> None:
    features = made(toy, ds, bert, "mended")
    good = (features.folder / "features.safetensors").read_bytes()
    bad = bytearray(good)
    bad[-40] ^= 1
    for number, content in enumerate((bytes(bad), good[:-9], b"")):
        folder = copied(features, tmp_path / str(number))
        (folder / "features.safetensors").write_bytes(content)
        with pytest.raises(CheckFailed, match="damaged"):
            Features.open(folder, ds)
    (features.folder / "features.safetensors").unlink()
    with pytest.raises(CheckFailed, match="missing"):
        Features.open("mended", ds)
    again = made(toy, ds, bert, "mended")
    assert (again.folder / "features.safetensors").read_bytes() == good


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 2, "dataset": "toy", "encoder": "x"}', "schema 2, this ninerec reads 1"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_an_odd_recipe_is_refused(ds: Dataset, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(CheckFailed, match=said):
        Features.open(tmp_path, ds)


def test_a_bundle_is_found_by_name_hash_or_folder(toy: Toy, ds: Dataset, bert: Path) -> None:
    folder = made(toy, ds, bert, "named").folder
    for where in ("named", folder.name, folder, str(folder)):
        assert find_features(toy.home, "toy", where) == folder
    with pytest.raises(UsageError, match=r"did you mean 'named'.*ninerec embed toy --encoder"):
        find_features(toy.home, "toy", "nmaed")
    other = made(toy, ds, bert, "named", layer=1).folder
    with pytest.raises(UsageError, match=f"{min(folder.name, other.name)}, .*give one with"):
        find_features(toy.home, "toy", "named")


def test_what_is_not_a_bundle_is_not_written(toy: Toy, ds: Dataset, tmp_path: Path) -> None:
    rows, present = torch.zeros(17, 2), torch.arange(17) > 0
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        (rows[1:], present, UsageError, "expected features"),
        (rows, torch.ones(17, dtype=torch.bool), UsageError, "row 0"),
        (rows + 1, present, UsageError, "must be zero"),
        (rows.index_fill(0, torch.tensor([3]), math.inf), present, CheckFailed, "not finite"),
    ]
    for features, there, kind, said in wrong:
        with pytest.raises(kind, match=said):
            write_bundle(tmp_path / "own", ds, features, there, {})
    assert [*tmp_path.iterdir()] == []
    write_bundle(tmp_path / "own", ds, rows, present, {"encoder": "mine"})
    assert Features.open(tmp_path / "own", ds).recipe["encoder"] == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 4}, "--layer 4: .*layers 0"),
        ({"layer": -5}, "--layer -5: "),
        ({"max_tokens": 65}, "has 64 places and .* for max_tokens = 65"),
        ({"image_size": 64}, "--image-size 64 means nothing for --field text"),
        ({"field": "image", "pooling": "cls"}, "--pooling cls means nothing for --field image"),
        ({"weights": "w.pth"}, "--weights w.pth: .*expected pretrained or none"),
        ({"language": "zh"}, "no text in 'zh'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    toy: Toy, ds: Dataset, bert: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        made(toy, ds, bert, "never", **options)


def test_a_model_without_weights_is_told_in_words_of_embed(
    toy: Toy, ds: Dataset, bert: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((bert / name).read_bytes())
    with pytest.raises(MissingData, match=r"--encoder PATH.*--weights none"):
        made(toy, ds, tmp_path, "never")


def test_a_model_by_name_is_known_by_its_commit(
    toy: Toy, ds: Dataset, bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c0ffee").symlink_to(bert)
    monkeypatch.setattr(baselines.embed, "tokenizer_folder", lambda name: tmp_path / "c0ffee")
    real = baselines.embed.load_text_model
    monkeypatch.setattr(
        baselines.embed, "load_text_model", lambda _, *options: real(str(bert), *options)
    )
    features = made(toy, ds, Path("some/tiny-bert"), "")
    assert features.folder.name.startswith("tiny-bert-")
    assert (features.recipe["encoder"], features.recipe["revision"]) == ("some/tiny-bert", "c0ffee")


def test_a_row_is_what_an_image_model_pools_of_the_cover(
    toy: Toy, ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is not part of it; statistics are those of the weights, whatever else is in the chunk."""
    small = partial(ResNet, BasicBlock, [1, 1, 1, 1])  # a quick resnet18
    monkeypatch.setitem(IMAGE_MODELS, "resnet18", replace(IMAGE_MODELS["resnet18"], build=small))
    options: dict[str, Any] = {"field": "image", "image_size": 32}
    features = made(toy, ds, Path("resnet18"), "", weights="none", **options)
    assert features.folder.name.startswith("resnet18-")
    assert features.present.nonzero()[:, 0].tolist() == [*COVERED]
    assert (features.recipe["image_size"], features.recipe["revision"]) == (32, None)
    assert "layer" not in features.recipe
    torch.manual_seed(0)
    net = small().eval()
    pixels, _ = Images(ds, 32).of(np.array([5]))
    heads: list[Tensor] = []
    net.fc.register_forward_pre_hook(lambda _, given: heads.append(given[0]))
    with torch.no_grad():
        net(pixels / 127.5 - 1)
    assert (features.of(np.array([5])) - heads[0]).abs().max() < 1e-4 * heads[0].abs().max()
    assert rows(features, ds)[[0, 1, 3]].count_nonzero() == 0
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    own = made(toy, ds, Path("resnet18"), "", weights=str(tmp_path / "own.safetensors"), **options)
    assert torch.equal(rows(own, ds), rows(features, ds))
    sha256 = sha256_file(tmp_path / "own.safetensors")
    assert own.recipe["revision"] == {"own.safetensors": sha256}


def test_an_image_model_that_cannot_be_read_says_what_embed_takes(
    toy: Toy, ds: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short")
    with pytest.raises(MissingData, match="takes a file as --weights FILE"):
        made(toy, ds, Path("resnet18"), "never", field="image")
    with pytest.raises(UsageError, match="image model; add --field image"):
        made(toy, ds, Path("resnet18"), "never")


def test_the_frozen_vector_is_gelu_of_the_projected_row(toy: Toy, ds: Dataset, bert: Path) -> None:
    features = made(toy, ds, bert, "all")
    config: Any = SimpleNamespace(model=SimpleNamespace(features=features.folder.name, dim=300))
    assert FrozenEncoder.needs(config) == {
        "content": ("features",),
        "features": features.folder.name,
    }
    torch.manual_seed(0)
    encoder = FrozenEncoder.of(config, ds)
    weight, bias = (p.detach() for p in encoder.project.parameters())
    assert (weight.shape, int(bias.count_nonzero())) == ((300, 16), 0)
    assert abs(float(weight.std()) - math.sqrt(2 / 316)) < 0.005
    items = np.arange(1, 5)
    x = features.of(items)
    z = x @ weight.T + bias
    want = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    given = Sequences(ds, "train", **FrozenEncoder.needs(config)).items(items)
    assert (encoder(given) - want).abs().max() < 1e-5
    with pytest.raises(ValueError, match="without features"):
        encoder(Sequences(ds, "train").items(items))
    assert sorted(encoder.state_dict()) == ["project.bias", "project.weight"]


def test_the_verb_makes_features_and_says_what_comes_next(
    toy: Toy, bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.VERBS, "embed", ("ninerec.embed", "frozen features"))
    words = ["embed", "toy", "--encoder", str(bert), "--weights", "none", "--name", "my verb"]
    assert cli.main(words) == 0
    folder, counts, following = capsys.readouterr().out.splitlines()
    name = Path(folder).name
    assert name.startswith("my-verb-")
    assert counts == "16 items x 16 float32; 2 items without text have a zero row"
    assert following.endswith(f"--dataset toy --item-encoder frozen --features {name}")
    assert cli.main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["recipe"] == read_json(Path(folder) / "recipe.json")
    assert "nothing to do" in err
