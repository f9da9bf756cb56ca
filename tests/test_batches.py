"""Group 2: batches against the plain sample; draws that depend on (seed, epoch, user, slot) alone."""

from __future__ import annotations

import errno
import math
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from toy import Toy, item_lists, make_toy, varied

import loaders
from loaders import Batch, Sequences, make_loader
from loaders.titles import title_tokens
from ninerec_data import CheckFailed, Dataset, MissingData, UsageError, draws

LENGTH = 20


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    file, histories = varied(users=25)
    return make_toy(tmp_path_factory.mktemp("toy"), file, histories, layout="ninerec")


@pytest.fixture(scope="module")
def ds(toy: Toy) -> Dataset:
    return toy.open()


@pytest.fixture(scope="module")
def train(ds: Dataset) -> Sequences:
    return Sequences(ds, "train")


def numbers(batch: Batch, index: torch.Tensor) -> list[list[int]]:
    """Inverse indices as item numbers, 0 at pads."""
    table = torch.cat([torch.zeros(1, dtype=torch.int64), batch.unique_items])
    return table[index].tolist()


def drawn_of(batch: Batch) -> dict[int, list[int]]:
    """user -> the negatives of their transitions, oldest first."""
    assert batch.negatives is not None
    real = batch.mask[:, :-1].tolist()
    rows = numbers(batch, batch.negatives)
    return {
        user: [n for n, wanted in zip(row, mask, strict=True) if wanted]
        for user, row, mask in zip(batch.users.tolist(), rows, real, strict=True)
    }


def same(a: Batch, b: Batch) -> bool:
    for field in fields(Batch):
        left, right = getattr(a, field.name), getattr(b, field.name)
        equal = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        if not equal:
            return False
    return True


def test_sequences_are_left_padded_like_the_plain_sample(toy: Toy, train: Sequences) -> None:
    expected = plain.split(toy.item_file, toy.histories, length=LENGTH, keep_last=23)
    number = {item: n + 1 for n, item in enumerate(train.ds.item_ids)}
    batch = train.batch(np.arange(len(train)))
    assert batch.inverse.shape == (len(train), LENGTH + 1)
    inputs = numbers(batch, batch.inverse)
    for row, items in enumerate(expected.train.values()):
        slots, transitions = plain.sample([number[i] for i in items], LENGTH)
        assert inputs[row] == slots
        assert batch.mask[row].tolist() == [slot > 0 for slot in slots]
        assert batch.mask[row, :-1].tolist() == [bool(t) for t in transitions]


def test_columns_that_are_pads_for_all_are_left_out(train: Sequences) -> None:
    short = np.flatnonzero(train.lengths <= 4)
    batch = train.batch(short)
    whole = train.batch(np.arange(len(train)))
    width = int(train.lengths[short].max())
    assert batch.inverse.shape[1] == width < LENGTH + 1
    rows = np.array(numbers(whole, whole.inverse))[short]
    assert numbers(batch, batch.inverse) == rows[:, -width:].tolist()
    assert not rows[:, :-width].any()


def test_each_item_stands_once_in_ascending_order(train: Sequences) -> None:
    batch = train.batch(np.arange(12))
    items = batch.unique_items.tolist()
    assert items == sorted(set(items))
    assert items[0] > 0
    used = set(batch.inverse.flatten().tolist()) | set(batch.negatives.flatten().tolist())
    assert used == set(range(len(items) + 1))


def test_a_negative_stands_at_its_input_and_nowhere_else(train: Sequences) -> None:
    batch = train.batch(np.arange(len(train)))
    assert batch.negatives.shape == (len(train), LENGTH)
    assert torch.equal(batch.negatives > 0, batch.mask[:, :-1])


def test_only_the_users_own_train_items_are_rejected(toy: Toy, train: Sequences) -> None:
    """All other candidates come up sooner or later, the user's validation and test items too."""
    split = plain.split(toy.item_file, toy.histories, length=LENGTH, keep_last=23)
    number = {item: n + 1 for n, item in enumerate(train.ds.item_ids)}
    pool = {number[i] for i in split.pool}
    longest = max(split.train, key=lambda u: len(split.train[u]))
    for user in ("u1", longest):
        at = np.array([list(split.train).index(user)])
        seen: set[int] = set()
        for epoch in range(600):
            seen.update(*drawn_of(train.batch(at, epoch=epoch)).values())
        assert seen == pool - {number[i] for i in split.train[user]}
        assert number[split.test[user][-1]] in seen
        assert number[split.valid[user][-1]] in seen


def test_train_items_older_than_the_models_input_are_rejected_too(ds: Dataset) -> None:
    """The rejection is by the user's whole train part, not by what a shorter model reads."""
    short = Sequences(ds, "train", max_length=3)
    whole = item_lists(Sequences(ds, "train"))
    users, ids = ds.users["user_id"].to_pylist(), ["", *ds.item_ids]
    for epoch in range(30):
        for user, drawn in drawn_of(short.batch(np.arange(len(short)), epoch=epoch)).items():
            assert not {ids[n] for n in drawn} & set(whole[users[user]])


def chi_square_limit(cells: int) -> float:
    """The 99.9 % quantile of chi-square with cells - 1 degrees (Wilson and Hilferty)."""
    k = cells - 1
    return k * (1 - 2 / (9 * k) + 3.09 * math.sqrt(2 / (9 * k))) ** 3


def test_negatives_are_uniform_over_the_pool_but_the_train_items(ds: Dataset) -> None:
    train = Sequences(ds, "train")
    at = np.array([int(np.argmax(train.lengths))])
    counts: Counter[int] = Counter()
    for epoch in range(600):
        counts.update(*drawn_of(train.batch(at, seed=11, epoch=epoch)).values())
    n, cells = sum(counts.values()), len(counts)
    assert cells == len(train.negatives.pool) - int(train.lengths.max())
    statistic = sum((c - n / cells) ** 2 for c in counts.values()) / (n / cells)
    assert statistic < chi_square_limit(cells)


def test_counter_hash_integers_are_uniform_over_any_key() -> None:
    for key in ((np.arange(70_000), 1), (1, np.arange(70_000)), (5, 6, np.arange(70_000))):
        counts = np.bincount(draws.integers(70, *key), minlength=70)
        assert ((counts - 1000) ** 2 / 1000).sum() < chi_square_limit(70)


def test_negatives_are_new_each_epoch_and_the_same_when_asked_again(train: Sequences) -> None:
    everyone = np.arange(len(train))
    first, again = train.batch(everyone, epoch=1), train.batch(everyone, epoch=1)
    assert same(first, again)
    then, other = train.batch(everyone, epoch=2), train.batch(everyone, seed=1, epoch=1)
    for batch in (then, other):
        moved = [drawn_of(batch)[u] != drawn for u, drawn in drawn_of(first).items()]
        assert np.mean(moved) > 0.9


def test_positions_and_users_draw_apart(train: Sequences) -> None:
    batch = drawn_of(train.batch(np.arange(len(train))))
    longest = [tuple(d[-4:]) for d in batch.values() if len(d) >= 4]
    assert len(set(longest)) > 0.9 * len(longest)
    assert all(len(set(d)) > 1 for d in batch.values() if len(d) >= 6)


def test_a_users_draws_do_not_depend_on_who_shares_the_batch(train: Sequences) -> None:
    whole = drawn_of(train.batch(np.arange(len(train)), seed=4, epoch=7))
    alone: dict[int, list[int]] = {}
    for at in range(len(train)):
        alone.update(drawn_of(train.batch(np.array([at]), seed=4, epoch=7)))
    mixed: dict[int, list[int]] = {}
    for part in np.array_split(np.arange(len(train))[::-1], 5):
        mixed.update(drawn_of(train.batch(part, seed=4, epoch=7)))
    assert whole == alone == mixed


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_an_epoch_holds_every_sequence_once(train: Sequences, batch_size: int) -> None:
    loader = make_loader(train, batch_size=batch_size, seed=3)
    batches = list(loader.at(2))
    assert len(batches) == len(loader) == math.ceil(len(train) / batch_size)
    users = torch.cat([b.users for b in batches]).tolist()
    assert sorted(users) == sorted(train.user.tolist())


def test_batch_size_changes_no_users_sample(train: Sequences) -> None:
    samples = []
    for batch_size in (1, 7, 500):
        found: dict[int, tuple[list[int], list[int]]] = {}
        for batch in make_loader(train, batch_size=batch_size, seed=3).at(2):
            negatives = drawn_of(batch)
            for user, row in zip(batch.users.tolist(), numbers(batch, batch.inverse), strict=True):
                found[user] = ([i for i in row if i], negatives[user])
        samples.append(found)
    assert samples[0] == samples[1] == samples[2]


def test_the_order_is_new_each_epoch_and_seed(train: Sequences) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = make_loader(train, batch_size=7, seed=seed).at(epoch)
        return torch.cat([b.users for b in batches]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


def test_validation_and_test_keep_the_splits_order(ds: Dataset) -> None:
    for part in ("valid", "test"):
        sequences = Sequences(ds, part)
        batches = make_loader(sequences, batch_size=7, seed=9).at(5)
        assert torch.cat([b.users for b in batches]).tolist() == sequences.user.tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_batch(train: Sequences, workers: int) -> None:
    alone = list(make_loader(train, batch_size=7, seed=3).at(1))
    shared = list(make_loader(train, batch_size=7, seed=3, workers=workers).at(1))
    assert len(alone) == len(shared)
    assert all(map(same, alone, shared))


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_slices_make_the_global_batch(train: Sequences, world: int) -> None:
    whole = make_loader(train, batch_size=8, seed=3).at(4)
    ranks = [make_loader(train, batch_size=8, seed=3, rank=r, world=world) for r in range(world)]
    for batch, *slices in zip(whole, *(r.at(4) for r in ranks), strict=True):
        assert torch.cat([s.users for s in slices]).tolist() == batch.users.tolist()
        drawn = {u: d for s in slices for u, d in drawn_of(s).items()}
        assert drawn == drawn_of(batch)
        items = [[i for i in row if i] for s in slices for row in numbers(s, s.inverse)]
        assert items == [[i for i in row if i] for row in numbers(batch, batch.inverse)]


@pytest.mark.parametrize("position", [0, 1, 4])
def test_an_epoch_resumes_at_any_position(train: Sequences, position: int) -> None:
    whole = list(make_loader(train, batch_size=7, seed=3).at(6))
    rest = list(make_loader(train, batch_size=7, seed=3).at(6, position))
    assert len(rest) == len(whole) - position
    assert all(map(same, whole[position:], rest))


def test_iterating_goes_from_epoch_to_epoch(train: Sequences) -> None:
    loader = make_loader(train, batch_size=7, seed=3)
    for epoch in range(2):
        assert all(map(same, loader, make_loader(train, batch_size=7, seed=3).at(epoch)))


def test_like_lengths_stand_together_when_asked_and_every_sequence_still_once(
    train: Sequences,
) -> None:
    def widths(similar: int) -> tuple[int, list[int]]:
        batches = list(make_loader(train, batch_size=4, seed=3, similar=similar).at(0))
        users = torch.cat([b.users for b in batches]).tolist()
        return sum(b.inverse.numel() for b in batches), sorted(users)

    mixed, users = widths(1)
    sorted_by_length, again = widths(100)
    assert users == again == sorted(train.user.tolist())
    assert sorted_by_length < mixed


def test_log_popularity_is_the_share_of_the_train_rows(toy: Toy, ds: Dataset) -> None:
    split = plain.split(toy.item_file, toy.histories, length=LENGTH, keep_last=23)
    total = sum(split.train_count.values())
    sequences = Sequences(ds, "test")
    batch = sequences.items(np.arange(1, ds.n_items + 1))
    expected = [
        math.log(split.train_count[i] / total) if split.train_count[i] else 0.0 for i in ds.item_ids
    ]
    assert batch.log_popularity.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_target_is_the_last_item(toy: Toy, ds: Dataset) -> None:
    split = plain.split(toy.item_file, toy.histories, length=LENGTH, keep_last=23)
    for part, lists in (("valid", split.valid), ("test", split.test)):
        sequences = Sequences(ds, part)
        targets = sequences.batch(np.arange(len(sequences))).targets.tolist()
        assert [ds.item_ids[t - 1] for t in targets] == [s[-1] for s in lists.values()]


def test_a_user_whose_train_items_fill_the_pool_is_refused(tmp_path: Path) -> None:
    histories = {"u": list("abcde"), "v": list("edcba")}
    ds = make_toy(tmp_path, list("abcde"), histories).open()
    assert drawn_of(Sequences(ds, "train").batch(np.arange(2)))
    tiny = make_toy(tmp_path / "tiny", list("abc"), {"u": list("abcab"), "v": list("cbaab")})
    with pytest.raises(CheckFailed, match="no negative can be drawn"):
        Sequences(tiny.open(), "train")


def test_no_negatives_where_none_are_asked(ds: Dataset) -> None:
    batch = Sequences(ds, "train", negatives=False).batch(np.arange(4))
    assert batch.negatives is None
    assert Sequences(ds, "test").batch(np.arange(4)).negatives is None


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "title", "of", ",", "i", *"0123456789"]
    words += [f"##{c}" for c in "0123456789_abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def test_tokens_are_those_of_the_lower_cased_title(ds: Dataset, vocabulary: Path) -> None:
    sequences = Sequences(ds, "test", ("text",), tokenizer=vocabulary)
    batch = sequences.batch(np.arange(5))
    known = loaders.load_tokenizer(vocabulary)
    for row, item in enumerate(batch.unique_items.tolist()):
        title = f"Title, of {ds.item_ids[item - 1]}".lower()
        expected = known.encode(title).ids
        tokens = batch.tokens[row][batch.token_mask[row]].tolist()
        assert tokens == expected
        assert (tokens[0], tokens[-1]) == (2, 3)
    width = batch.token_mask.sum(1).max()
    assert batch.tokens.shape == (len(batch.unique_items), width)
    assert set(batch.tokens[~batch.token_mask].tolist()) <= {0}


def test_max_tokens_counts_the_special_ones(ds: Dataset, vocabulary: Path) -> None:
    batch = Sequences(ds, "test", ("text",), tokenizer=vocabulary, max_tokens=4).batch(np.arange(5))
    assert set(batch.token_mask.sum(1).tolist()) == {4}
    assert set(batch.tokens[:, 3].tolist()) == {3}


def test_the_token_cache_gives_the_same_tokens(ds: Dataset, vocabulary: Path) -> None:
    first = Sequences(ds, "test", ("text",), tokenizer=vocabulary).batch(np.arange(5))
    cached = {p: p.read_bytes() for p in (ds.folder / "tokens").iterdir()}
    assert cached
    again = Sequences(ds, "test", ("text",), tokenizer=vocabulary).batch(np.arange(5))
    assert same(first, again)
    for path in cached:
        path.unlink()
    Sequences(ds, "test", ("text",), tokenizer=vocabulary)
    made = {p: p.read_bytes() for p in (ds.folder / "tokens").iterdir()}
    assert made.items() <= cached.items()


def test_without_a_tokenizer_the_text_itself_is_given(ds: Dataset) -> None:
    batch = Sequences(ds, "test", ("text",)).batch(np.arange(2))
    assert batch.text == [f"Title, of {ds.item_ids[i - 1]}" for i in batch.unique_items.tolist()]


def test_a_dataset_without_text_is_sent_to_ids(tmp_path: Path) -> None:
    file, histories = varied()
    ds = make_toy(tmp_path, file, histories).open()
    columns = [name for name in ds.items.column_names if not name.startswith("text_")]
    ds.items = ds.items.select(columns)
    with pytest.raises(UsageError, match="toy has no text; train on ids: --item-encoder id"):
        Sequences(ds, "test", ("text",))


def test_an_empty_title_has_one_token(ds: Dataset) -> None:
    known = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "title": 2}, unk_token="<unk>"))
    known.pre_tokenizer = Whitespace()
    texts = ["title title", *[""] * (ds.n_items - 1)]
    bare = SimpleNamespace(
        folder=ds.folder, fingerprint=ds.fingerprint, n_items=ds.n_items, text=lambda _: texts
    )
    titles = title_tokens(bare, known, language="en", max_tokens=5)
    tokens, mask = titles.of(np.array([1, 2]))
    assert (tokens.tolist(), mask.tolist()) == ([[2, 2], [1, 0]], [[True, True], [True, False]])


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_is_trained_on_without_a_cache(
    ds: Dataset, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(number, "refused", str(path))

    first = Sequences(ds, "test", ("text",), tokenizer=vocabulary, max_tokens=7).batch(np.arange(5))
    for path in (ds.folder / "tokens").iterdir():
        path.unlink()
    monkeypatch.setattr("loaders.titles.atomic_write", refuse)
    again = Sequences(ds, "test", ("text",), tokenizer=vocabulary, max_tokens=7).batch(np.arange(5))
    assert same(first, again)
    assert list((ds.folder / "tokens").iterdir()) == []


def test_a_full_disk_under_the_token_cache_is_an_error(
    ds: Dataset, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckFailed, match="no space left"):
        Sequences(ds, "test", ("text",), tokenizer=vocabulary, max_tokens=6)


def test_a_tokenizer_folder_without_one_is_said(ds: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"expected tokenizer\.json or vocab\.txt"):
        Sequences(ds, "test", ("text",), tokenizer=tmp_path)


def test_a_saved_tokenizer_json_reads_like_the_vocabulary(vocabulary: Path, tmp_path: Path) -> None:
    known = loaders.load_tokenizer(vocabulary)
    known.save(str(tmp_path / "tokenizer.json"))
    read = loaders.load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(read, Tokenizer)
    assert read.encode("title of 7").ids == known.encode("title of 7").ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "tset"}, "unknown part 'tset'; did you mean 'test'"),
        ({"part": "test", "content": ("txt",)}, "unknown content 'txt'; did you mean 'text'"),
        (
            {"part": "test", "content": ("text",), "language": "zh"},
            "has no text in 'zh'; it has: en",
        ),
        ({"part": "test", "sampler": "popular"}, "unknown sampler 'popular'; did you mean"),
        ({"max_length": 0}, "max_length is 0; expected 1 to 22: this split keeps a user's last 23"),
        ({"max_length": 23}, "--max-length L keeps"),
        ({"language": "en"}, "an option of 'text' is given: en; add 'text' to content"),
        ({"content": ("text",), "image_size": 64}, "an option of 'image' is given"),
        ({"max_length": -1}, "max_length is -1"),
    ],
)
def test_a_wrong_word_is_refused(ds: Dataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Sequences(ds, **options)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"rank": 2, "world": 2}, {"rank": -1}, {"workers": -1}]
)
def test_sizes_that_make_no_sense_are_refused(train: Sequences, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make_loader(train, **wrong)


def test_a_position_before_the_first_is_refused(train: Sequences) -> None:
    with pytest.raises(UsageError, match="position is -1"):
        next(make_loader(train, batch_size=7).at(0, -1))
    assert list(make_loader(train, batch_size=7).at(0, 99)) == []


def test_raw_ids_become_numbers_and_numbers_raw_ids(toy: Toy, ds: Dataset) -> None:
    items, users = ds.item_ids, ds.user_ids
    assert sorted(items) == sorted(toy.item_file)
    assert set(users) == set(toy.histories)
    asked = [items[4], items[0], items[4], items[-1]]
    assert ds.items_of(asked).tolist() == [5, 1, 5, ds.n_items]
    assert ds.users_of(iter(users)).tolist() == list(range(ds.n_users))
    assert ds.items_of([]).dtype == ds.users_of(users).dtype == np.int64
    with pytest.raises(UsageError, match=r"toy has no item 'i999'; ds\.item_ids holds those"):
        ds.items_of([items[0], "i999", "i998"])
    with pytest.raises(UsageError, match="toy has no user '5'"):
        ds.users_of([users[0], 5])
