"""The drawn suite: the same bytes always, the sizes it states, and a taste that lies in the content."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ninerec_data.catalog_schema import DATASET_KEYS, PUBLISHED_KEYS, check, read_toml
from ninerec_data.synthetic import ATTRIBUTES, PULL, SUITE, write_suite, write_tokenizer

TARGETS = SUITE[1:]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One dataset as read back: item -> (Chinese, English), and each user's items, oldest first."""

    titles: dict[str, tuple[str, str]]
    sequences: list[list[str]]

    @property
    def counts(self) -> Counter[str]:
        return Counter(item for sequence in self.sequences for item in sequence[:-2])

    def users_by_count(self, low: int, high: int) -> list[list[str]]:
        """The sequences whose last item has low .. high train occurrences."""
        counts = self.counts
        return [s for s in self.sequences if low <= counts[s[-1]] <= high]


def read(release: Path, name: str) -> Drawn:
    stem = name.title()
    with (release / f"{stem}_item.csv").open(encoding="utf-8", newline="") as file:
        titles = {item: (chinese, english) for item, chinese, english in csv.reader(file)}
    sequences: dict[str, list[str]] = {}
    if name == "demo_food":
        for line in (release / f"{stem}_behaviour.tsv").read_text("utf-8").splitlines():
            user, items = line.split("\t")
            sequences[user] = items.split(" ")
    else:
        for line in (release / f"{stem}_pair.csv").read_text("utf-8").splitlines():
            user, item, _ = line.split(",")
            sequences.setdefault(user, []).append(item)
    return Drawn(titles=titles, sequences=list(sequences.values()))


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    write_suite(folder)
    return folder


@pytest.fixture(scope="module")
def suite(folder: Path) -> dict[str, Drawn]:
    return {name: read(folder / "release" / name, name) for name in SUITE}


@pytest.fixture(scope="module")
def words(folder: Path, suite: dict[str, Drawn]) -> Path:
    """A folder with the tokenizer trained on every title of the suite."""
    titles = (title for drawn in suite.values() for pair in drawn.titles.values() for title in pair)
    write_tokenizer(folder / "words", titles)
    return folder / "words"


def in_another_process(code: str, *arguments: Path) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    return done.stdout


def test_another_process_draws_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from ninerec_data.synthetic import *;"
        "write_suite(pathlib.Path(sys.argv[1]))"
    )
    in_another_process(code, tmp_path)
    for part in ("release", "catalog", "origin", "backup"):
        assert hashes(tmp_path / part) == hashes(folder / part)
    # Two tables, a mapping, a catalog entry, an archive and what is behind it; covers; half of 33 are in the backup.
    assert len(hashes(tmp_path)) == 3 * (2 + 1 + 1 + 2) + 3 * 399 + 3 * 17


def test_another_seed_draws_other_sequences_over_the_old_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "release", tmp_path / "release")
    began = time.process_time()
    write_suite(tmp_path, seed=1)
    assert time.process_time() - began < 8
    old, new = hashes(folder / "release"), hashes(tmp_path / "release")
    assert len(new) == len(old)
    assert not {old[f] for f in old if not f.endswith(".jpg")} & set(new.values())


def test_sizes(suite: dict[str, Drawn]) -> None:
    sizes = {
        name: (
            len(drawn.titles),
            len(drawn.sequences),
            min(map(len, drawn.sequences)),
            max(map(len, drawn.sequences)),
        )
        for name, drawn in suite.items()
    }
    assert sizes == {
        "demo_source": (399, 3000, 5, 20),
        "demo_food": (399, 1200, 5, 12),
        "demo_dance": (399, 1200, 5, 12),
    }


@pytest.mark.parametrize("name", SUITE)
def test_the_flaws_of_a_release_are_in_it(suite: dict[str, Drawn], name: str) -> None:
    drawn = suite[name]
    chosen = {item for sequence in drawn.sequences for item in sequence}
    assert len(chosen - set(drawn.titles)) == 1
    assert len(set(drawn.titles) - chosen) >= 1
    assert list(drawn.titles.values()).count(("", "")) == 1
    assert {"0", "v0"} & chosen
    english = [title for _, title in drawn.titles.values()]
    assert all(any(sign in title for title in english) for sign in (",", '"', "\U0001f60b"))


@pytest.mark.parametrize("name", SUITE)
def test_nobody_chooses_an_item_twice(suite: dict[str, Drawn], name: str) -> None:
    assert all(len(set(sequence)) == len(sequence) for sequence in suite[name].sequences)


def test_pairs_are_in_time_order_and_some_of_a_user_are_tied(folder: Path) -> None:
    lines = (folder / "release/demo_source/Demo_Source_pair.csv").read_text("utf-8").splitlines()
    rows = [(user, int(seconds)) for user, _, seconds in (line.split(",") for line in lines)]
    assert [seconds for _, seconds in rows] == sorted(seconds for _, seconds in rows)
    assert 500 < sum(count - 1 for count in Counter(rows).values()) < 2500


@pytest.mark.parametrize("name", TARGETS)
def test_a_fifth_of_the_test_targets_is_cold_or_new(suite: dict[str, Drawn], name: str) -> None:
    drawn = suite[name]
    assert len(drawn.users_by_count(1, 9)) >= 0.15 * 1200
    assert len(drawn.users_by_count(0, 0)) >= 0.03 * 1200


def test_the_catalog_keeps_the_schema_and_states_what_was_drawn(
    folder: Path, suite: dict[str, Drawn]
) -> None:
    for name, drawn in suite.items():
        path = folder / "catalog" / f"{name}.toml"
        table = read_toml(path)
        check(table, DATASET_KEYS, path, required=("title", "format"))
        check(table["published"], PUBLISHED_KEYS, path)
        assert table["options"] == {"stem": name.title()}
        assert table["published"] == {
            "users": len(drawn.sequences),
            "items": len({item for sequence in drawn.sequences for item in sequence}),
            "interactions": sum(map(len, drawn.sequences)),
        }


@pytest.mark.parametrize("name", SUITE)
def test_each_row_of_the_item_table_has_a_jpeg_of_320x180(
    folder: Path, suite: dict[str, Drawn], name: str
) -> None:
    covers = sorted((folder / "release" / name / f"{name.title()}_cover").iterdir())
    assert {cover.stem for cover in covers} == set(suite[name].titles)
    for cover in covers:
        with Image.open(cover) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (320, 180))


def traits(drawn: Drawn, items: list[str]) -> np.ndarray:
    """(items, values) from the English titles alone: the log of PULL where a value's word stands."""
    values = [(a, set(v[0].split())) for a, kind in enumerate(ATTRIBUTES) for v in kind]
    table = np.zeros((len(items), len(values)))
    for row, item in enumerate(items):
        title = set(re.findall("[a-z]+", drawn.titles.get(item, ("", ""))[1].lower()))
        for column, (a, names) in enumerate(values):
            table[row, column] = np.log(PULL[a]) ** 0.5 * bool(title & names)
    return table


def hit_rates(drawn: Drawn, users: list[list[str]]) -> dict[str, float]:
    """HR@10 over all items, history left out, ties in the middle, of two scorers of the last five items.

    content: attributes in common. ids: how often the two stand in one train sequence, then popularity.
    """
    items = sorted({item for sequence in drawn.sequences for item in sequence} | set(drawn.titles))
    place = {item: n for n, item in enumerate(items)}
    together = np.zeros((len(items), len(items)))
    for sequence in drawn.sequences:
        train = [place[item] for item in sequence[:-2]]
        together[np.ix_(train, train)] += 1
    content = traits(drawn, items)
    tables = {"content": content @ content.T, "ids": together + 1e-6 * together.diagonal()}
    hits = dict.fromkeys(tables, 0)
    for sequence in users:
        history, target = [place[item] for item in sequence[:-1]], place[sequence[-1]]
        for scorer, table in tables.items():
            scores = table[history[-5:]].sum(axis=0)
            scores[history] = -1
            above, level = (scores > scores[target]).sum(), (scores == scores[target]).sum()
            hits[scorer] += above + (level - 1) / 2 < 10
    return {scorer: count / len(users) for scorer, count in hits.items()}


@pytest.mark.parametrize("name", TARGETS)
def test_content_finds_cold_targets_three_times_as_often_as_ids(
    suite: dict[str, Drawn], name: str
) -> None:
    rates = hit_rates(suite[name], suite[name].users_by_count(1, 9))
    assert rates["content"] > 0.3
    assert rates["content"] >= 3 * rates["ids"]


@pytest.mark.parametrize("name", TARGETS)
def test_content_finds_new_targets_three_times_as_often_as_chance(
    suite: dict[str, Drawn], name: str
) -> None:
    rates = hit_rates(suite[name], suite[name].users_by_count(0, 0))
    assert rates["content"] >= 3 * 10 / 400
    assert rates["ids"] <= 10 / 400


def test_ids_do_find_warm_targets(suite: dict[str, Drawn]) -> None:
    drawn = suite["demo_source"]
    assert hit_rates(drawn, drawn.users_by_count(10, 10**9))["ids"] > 0.2


def test_transformers_loads_the_tokenizer_without_a_network(words: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(words)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    assert (config.model_type, config.vocab_size, config.hidden_size) == (
        "bert",
        len(tokenizer),
        64,
    )
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [
        *range(5)
    ]
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (0, 64)
    text = "Quiet MOON cake, 月光"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert tokens == ["[CLS]", "quiet", "moon", "cake", ",", "月", "光", "[SEP]"]


def test_the_tokenizer_knows_every_title_and_fits_its_model(
    words: Path, suite: dict[str, Drawn]
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    titles = [title for drawn in suite.values() for pair in drawn.titles.values() for title in pair]
    encoded = [tokenizer.encode(title) for title in titles]
    assert not any(1 in row.ids for row in encoded)
    assert max(len(row.ids) for row in encoded) <= 64


def test_the_tokenizer_trained_in_another_process_has_the_same_bytes(
    words: Path, suite: dict[str, Drawn], tmp_path: Path
) -> None:
    titles = [title for drawn in suite.values() for pair in drawn.titles.values() for title in pair]
    (tmp_path / "titles").write_text("\n".join(titles), "utf-8")
    code = (
        "import sys, pathlib; from ninerec_data.synthetic import *;"
        "titles = pathlib.Path(sys.argv[1]).read_text('utf-8').split('\\n');"
        "write_tokenizer(pathlib.Path(sys.argv[2]), titles)"
    )
    in_another_process(code, tmp_path / "titles", tmp_path / "words")
    assert hashes(tmp_path / "words") == hashes(words)
