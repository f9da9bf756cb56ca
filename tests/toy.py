"""A small release on disk, imported and prepared in a home of its own: the ground of many tests."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from baselines.item_id import IdEncoder
from baselines.model import Recommender
from baselines.objectives import bce
from baselines.sasrec import SASRec
from loaders import Sequences
from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.catalog import Entry, find
from ninerec_data.importing import import_release
from ninerec_data.prepare import Prepared, prepare

Layout = Literal["generic", "ninerec"]
LENGTHS = (4, 5, 6, 12, 13, 20, 22, 23, 24, 30, 31)


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A release in `folder`, known to the catalog in `folder/catalog` as `name`, imported into `home`."""

    folder: Path
    home: Home
    name: str = "toy"
    item_file: Sequence[str]
    histories: Mapping[str, Sequence[str]]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> Entry:
        with pytest.MonkeyPatch.context() as patch:
            for key, value in self.environment.items():
                patch.setenv(key, value)
            return find(self.name)[0]

    def import_files(self) -> None:
        import_release(self.home, self.entry, self.folder / "release")

    def prepare(self, protocol: str = "ninerec-2023", **options: Any) -> Prepared:
        words = options.pop("max_words", 30)
        return prepare(
            self.home, self.entry, protocol_name=protocol, split=options, max_words=words
        )

    def open(self, protocol: str = "ninerec-2023", **split: Any) -> Dataset:
        """Prepare (where needed) and open a split."""
        self.prepare(protocol, **split)
        return open_dataset(self.name, home=self.home, protocol_name=protocol, **split)


def make_toy(
    folder: Path,
    item_file: Sequence[str],
    histories: Mapping[str, Sequence[str]],
    *,
    layout: Layout = "generic",
    times: Mapping[str, Sequence[int]] | None = None,
    keys: str = "",
    name: str = "toy",
) -> Toy:
    """Write a release and its catalog entry under `folder`, and import it.

    times: seconds of each user's interactions (generic only). keys: further lines of the catalog's TOML.
    """
    release = folder / "release"
    release.mkdir(parents=True)
    if layout == "generic":
        _write_generic(release, item_file, histories, times)
    else:
        _write_ninerec(release, item_file, histories)
    write_catalog(folder, name=name, layout=layout, keys=keys)
    environment = {"NINEREC_CATALOG": str(folder / "catalog"), "NINEREC_HOME": str(folder / "home")}
    toy = Toy(
        folder=folder,
        home=Home(folder / "home"),
        name=name,
        item_file=item_file,
        histories=histories,
        environment=environment,
    )
    toy.import_files()
    return toy


def write_catalog(folder: Path, *, name: str = "toy", layout: Layout, keys: str = "") -> None:
    """Write the dataset's TOML. A catalog is read once per folder, so change it before it is used."""
    options = 'options = { stem = "Toy" }\n' if layout == "ninerec" else ""
    text = f'title = "Toy"\nformat = "{layout}"\n{options}text = {{ en = ["title_en"] }}\n{keys}\n'
    (folder / "catalog").mkdir(exist_ok=True)
    (folder / "catalog" / f"{name}.toml").write_text(text)


def _write_generic(
    release: Path,
    item_file: Sequence[str],
    histories: Mapping[str, Sequence[str]],
    times: Mapping[str, Sequence[int]] | None,
) -> None:
    rows = ["user_id,item_id" + (",timestamp" if times else "")]
    for user, items in histories.items():
        for place, item in enumerate(items):
            rows.append(f"{user},{item}" + (f",{times[user][place]}" if times else ""))
    (release / "interactions.csv").write_text("\n".join(rows) + "\n")
    titles = [f"{item},Title of {item}" for item in item_file]
    (release / "items.csv").write_text("\n".join(["item_id,title_en", *titles]) + "\n")


def _write_ninerec(
    release: Path, item_file: Sequence[str], histories: Mapping[str, Sequence[str]]
) -> None:
    lines = [f"{user}\t{' '.join(items)}\n" for user, items in histories.items()]
    (release / "Toy_behaviour.tsv").write_text("".join(lines))
    titles = [f'{item},"题目，{item}","Title, of {item}"\n' for item in item_file]
    (release / "Toy_item.csv").write_text("".join(titles))


def varied(
    seed: int = 7, users: int = 0, items: int = 60
) -> tuple[list[str], dict[str, list[str]]]:
    """An item file and histories of every length that matters, and some more users.

    Named items stand where the split's rules part: `only_short` in a user too short to keep,
    `only_prefix` in rows older than any window, `only_valid` and `only_test` nowhere but there,
    `never` in the item file alone.
    """
    draw = random.Random(seed)
    names = [f"i{n}" for n in range(items)]
    lengths = [*LENGTHS, *(draw.randint(5, 28) for _ in range(users))]
    histories = {f"u{n}": draw.sample(names, length) for n, length in enumerate(lengths)}
    histories["u0"][1] = "only_short"
    histories["u9"][0] = "only_prefix"
    histories["u6"][-2] = "only_valid"
    histories["u7"][-1] = "only_test"
    file = [*names, "only_short", "only_prefix", "only_valid", "only_test", "never"]
    draw.shuffle(file)
    return file, histories


def item_lists(sequences: Sequences) -> dict[str, list[str]]:
    """user id -> the item ids of their sequence, read back through a batch of all of them."""
    ids = ["", *sequences.ds.item_ids]
    users = sequences.ds.users["user_id"].to_pylist()
    out = {}
    batch = sequences.batch(np.arange(len(sequences)))
    for row, user in enumerate(batch.users.tolist()):
        places = [p for p in batch.inverse[row].tolist() if p]
        out[users[user]] = [ids[batch.unique_items[p - 1]] for p in places]
    return out


def masked_items(sequences: Sequences) -> dict[str, set[str]]:
    """user id -> the item ids that evaluation bars for them."""
    ids = ["", *sequences.ds.item_ids]
    users = sequences.ds.users["user_id"].to_pylist()
    batch = sequences.batch(np.arange(len(sequences)))
    assert batch.history_items is not None
    assert batch.history_rows is not None
    out: dict[str, set[str]] = {users[user]: set() for user in batch.users.tolist()}
    pairs = zip(batch.history_items.tolist(), batch.history_rows.tolist(), strict=True)
    for item, row in pairs:
        out[users[batch.users[row]]].add(ids[item])
    return out


def make_model(ds: Dataset, *, dim: int = 8, seed: int = 0) -> Recommender:
    """An untrained ID model whose scores are all apart."""
    torch.manual_seed(seed)
    user_encoder = SASRec(dim=dim, max_length=ds.protocol.split.keep_last - 3)
    encoder = IdEncoder(n_items=ds.n_items, dim=dim)
    torch.nn.init.normal_(encoder.table.weight)
    return Recommender(item_encoder=encoder, user_encoder=user_encoder, objective=bce).eval()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
