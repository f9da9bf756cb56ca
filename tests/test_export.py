"""Export: five formats, each read back by the reader it is meant for, whole or absent, the terms with it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from releases import check_refusal, digests, leftovers, mounted, say
from toy import make_toy

from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.catalog import find
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.export import FORMATS, export
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare

Captured = pytest.CaptureFixture[str]

TERMS, URL, CITE = "For research; pass nothing on.", "https://example.org/terms", "@misc{shop2021,"
CATALOG = f"""\
title = "A shop, for tests"
text = {{ zh = ["title_zh"], en = ["title_en"] }}
terms = {{ text = "{TERMS}", url = "{URL}" }}
bibtex = '''
{CITE}
  author = {{Doe, Jane and Roe, Richard}},
  year   = {{2021}}
}}
'''
"""
GENERIC = 'format = "generic"\n'
UPSTREAM = 'format = "ninerec"\noptions = { stem = "Shop" }\n'
ITEMS = 30
NAMED = ["0", "x/y.z", "a'b", "Ü"]  # the first ids; the rest are i4, i5, ...
UNLISTED, UNCOVERED, BROKEN = "i29", "i5", "i6"
UNUSED = "never"  # stands in the item table alone
TITLES = {
    "0": ("他说“好”，😋", '"Yes", he said'),
    "i4": ("标题\t4", "one\nand\r\ntwo\rthree"),
    "i7": ("", 'a lone " quote'),
    "i8": ("", ""),
}


def item_ids() -> list[str]:
    return [*NAMED, *(f"i{n}" for n in range(len(NAMED), ITEMS))]


def histories() -> dict[str, list[str]]:
    """Users of 4, 5, 6 ... 27 interactions over all items."""
    draw = random.Random(5)
    return {f"u{n}": draw.choices(item_ids(), k=4 + n) for n in range(24)}


def write_shop(folder: Path, *, timed: bool) -> None:
    """A release in the generic layout: odd titles, an item without a row, covers of which one is broken."""
    (folder / "covers").mkdir(parents=True)
    with (folder / "items.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("item_id", "title_zh", "title_en", "title_ja", "price"))
        for n, item in enumerate([*item_ids(), UNUSED]):
            if item != UNLISTED:
                late = "題" if n > 20 else ""  # the first rows do not show that this is text
                table.writerow((item, *TITLES.get(item, (f"标题{n}", f"Title {n}")), late, n))
    lines = ["user_id,item_id" + ",timestamp" * timed]
    for user, items in histories().items():
        # Pairs of equal times: what orders them is the file.
        rows = [f"{user},{item}" for item in items]
        lines += [
            f"{row},{1_600_000_000 + 40 * (k // 2)}" if timed else row for k, row in enumerate(rows)
        ]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(1)
    for item in [*item_ids(), UNUSED]:
        if item != UNCOVERED:
            tiles = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
            name = item.replace("/", "%2F")
            tiles.resize((90, 60)).save(folder / "covers" / f"{name}.jpg", quality=95)
    (folder / "covers" / f"{BROKEN}.jpg").write_bytes(b"no picture")


@dataclass(frozen=True)
class Shop:
    """A prepared dataset `shop` in a home of its own."""

    home: Home

    def open(self, **split: Any) -> Dataset:
        prepare(self.home, find("shop")[0], split=split)
        return open_dataset("shop", home=self.home, **split)


def taken_in(home: Path, release: Path) -> Shop:
    """Import `release` as the dataset `shop` of the catalog in force."""
    import_release(Home(home), find("shop")[0], release)
    return Shop(Home(home))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Shop]]:
    """The same shop with times and without."""
    folder = tmp_path_factory.mktemp("shops")
    (folder / "catalog").mkdir()
    (folder / "catalog" / "shop.toml").write_text(GENERIC + CATALOG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NINEREC_CATALOG", str(folder / "catalog"))
        for kind in ("timed", "untimed"):
            write_shop(folder / kind, timed=kind == "timed")
        yield {
            kind: taken_in(folder / f"home-{kind}", folder / kind) for kind in ("timed", "untimed")
        }


@pytest.fixture
def shop(shops: dict[str, Shop]) -> Shop:
    return shops["timed"]


@pytest.fixture
def ds(shop: Shop) -> Dataset:
    return shop.open()


@pytest.fixture(params=["timed", "untimed"])
def each(request: pytest.FixtureRequest, shops: dict[str, Shop]) -> Dataset:
    """Both datasets, one after the other."""
    return shops[request.param].open()


def read_with(
    script: str,
    *words: object,
    python: str = sys.executable,
    cwd: Path | None = None,
    **environment: str,
) -> Any:
    """The JSON that the last line of a script's stdout holds; the reader has a process of its own."""
    done = subprocess.run(
        [python, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def windows(ds: Dataset) -> dict[str, list[str]]:
    """user id -> item ids of the window of each training user."""
    users, items = ds.users["user_id"].to_pylist(), ["", *ds.item_ids]
    return {
        users[row["user"]]: [items[i] for i in ds.item_of_row[row["start"] : row["end"]]]
        for row in ds.sequences.to_pylist()
        if row["role"] == "train"
    }


def pixels_of(ds: Dataset) -> dict[str, str]:
    """item id -> sha256 of the RGB pixels of its cover."""
    covers = {name: ds.cover(n) for n, name in enumerate(ds.item_ids, start=1)}
    return {
        name: hashlib.sha256(Image.open(io.BytesIO(jpeg)).convert("RGB").tobytes()).hexdigest()
        for name, jpeg in covers.items()
        if jpeg
    }


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


# What holds for every format


def test_shop_has_the_covers_it_should(ds: Dataset) -> None:
    assert ds.has_covers
    assert {name for name in ds.item_ids if name not in pixels_of(ds)} == {UNCOVERED, BROKEN}


@pytest.mark.parametrize("to", FORMATS)
def test_export_is_the_same_bytes_twice_and_leaves_nothing_beside(
    ds: Dataset, tmp_path: Path, to: str
) -> None:
    once, again = (export(ds, to, tmp_path / name) for name in ("a", "b"))
    assert digests(once) == digests(again)
    assert leftovers(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("to", FORMATS)
def test_terms_and_citation_go_with_every_export(ds: Dataset, tmp_path: Path, to: str) -> None:
    text = (export(ds, to, tmp_path / "out") / "TERMS.txt").read_text()
    assert [said for said in (TERMS, URL, CITE) if said not in text] == []


def test_target_that_holds_something_is_refused_and_stays(ds: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="mine is not an empty folder"):
        export(ds, "files", tmp_path / "mine")
    with pytest.raises(UsageError, match=r"thesis\.txt is not an empty folder"):
        export(ds, "files", tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_empty_folder_is_a_target(ds: Dataset, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert (export(ds, "recbole", tmp_path / "new") / "shop" / "shop.inter").is_file()


def test_what_a_killed_export_left_goes_and_nothing_else(ds: Dataset, tmp_path: Path) -> None:
    (tmp_path / ".tmp-out-abcd1234").mkdir()
    (tmp_path / ".tmp-out-of-mine-abcd1234").mkdir()
    (tmp_path / ".out.settings").write_text("x")
    export(ds, "recbole", tmp_path / "out")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".out.settings", ".tmp-out-of-mine-abcd1234", "out"]


def test_unknown_format_names_the_nearest(ds: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'recbole'"):
        export(ds, "recbol", tmp_path / "out")


@pytest.mark.parametrize(
    ("to", "bad"),
    [
        ("recbole", "a b"),
        ("recbole", "NA"),
        ("recbole", "[PAD]"),
        ("lmdb", "a b"),
        ("lmdb", "a,b"),
        ("files", "a,b"),
    ],
)
def test_id_that_a_format_cannot_carry_is_refused_before_anything_is_written(
    tmp_path: Path, to: str, bad: str
) -> None:
    toy = make_toy(tmp_path / "toy", ["i1", "i2", "i3"], {"u1": ["i1", "i2", "i3", "i1", "i2"]})
    release = tmp_path / "toy" / "release"
    pl.DataFrame({"item_id": [bad, "i2", "i3"]}).write_parquet(release / "items.parquet")
    rows = {"user_id": ["u1"] * 5, "item_id": [bad, "i2", "i3", bad, "i2"]}
    pl.DataFrame(rows).write_parquet(release / "interactions.parquet")
    for name in ("items.csv", "interactions.csv"):
        (release / name).unlink()
    toy.import_files()
    ds = toy.open()
    assert bad in ds.item_ids
    with pytest.raises(UsageError, match="--to hf") as caught:
        export(ds, to, tmp_path / "out")
    assert f"1 item ids of toy, such as {bad!r}" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert (export(ds, "hf", tmp_path / "out") / "README.md").is_file()


def test_split_that_drops_items_exports_its_own_interactions(shop: Shop, tmp_path: Path) -> None:
    ds = shop.open(warm=11, warm_users=5)
    kept = ds.interactions.num_rows
    assert 0 < kept < shop.open().interactions.num_rows
    for to, name in (("files", "interactions.csv"), ("lmdb", "shop_behaviour.tsv")):
        text = (export(ds, to, tmp_path / to) / name).read_text()
        rows = text.count("\n") - 1 if to == "files" else text.count(" ") + text.count("\n")
        assert rows == kept


# recbole


def read_atomic(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_recbole_files_hold_the_windows_and_the_candidates(each: Dataset, tmp_path: Path) -> None:
    inside = export(each, "recbole", tmp_path / "out") / "shop"
    time = "timestamp" if each.interactions["timestamp"].null_count == 0 else "position"
    rows = read_atomic(inside / "shop.inter")
    assert list(rows[0]) == ["user_id:token", "item_id:token", f"{time}:float"]
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["user_id:token"], []).append(row["item_id:token"])
    assert found == windows(each)
    items = {row["item_id:token"]: row for row in read_atomic(inside / "shop.item")}
    assert list(items) == [n for n, ok in zip(each.item_ids, each.in_pool[1:], strict=True) if ok]
    assert UNUSED not in items
    assert items["0"]["title_en:token_seq"] == '"Yes", he said'
    assert items["i4"]["title_zh:token_seq"] == "标题 4"
    assert items["i4"]["title_en:token_seq"] == "one and two three"
    config = (inside / "shop.yaml").read_text()
    assert f"\nTIME_FIELD: {time}\n" in config
    assert "\nMAX_ITEM_LIST_LENGTH: 20\n" in config
    assert ("position orders them" in config) == (time == "position")


RECBOLE = """
import json, sys
from recbole.config import Config
from recbole.data import create_dataset
folder = sys.argv[1]
also = {"data_path": folder, "train_neg_sample_args": None, "use_gpu": False}
dataset = create_dataset(Config(model="SASRec", dataset="shop",
                                config_file_list=[folder + "/shop/shop.yaml"], config_dict=also))
facts = {"users": dataset.user_num - 1, "items": dataset.item_num - 1, "rows": dataset.inter_num}
for name, part in zip(("train", "valid", "test"), dataset.build()):
    feat = part.inter_feat
    rows = zip(part.id2token("user_id", feat["user_id"].numpy()), part.id2token("item_id", feat["item_id"].numpy()),
               feat["item_id_list"].numpy(), feat["item_length"].numpy())
    facts[name] = [[u, i, list(part.id2token("item_id", seen[:n]))] for u, i, seen, n in rows]
print()
print(json.dumps(facts))
"""


def test_recbole_itself_finds_our_targets_and_histories(each: Dataset, tmp_path: Path) -> None:
    """The interpreter: python -m venv V; V/bin/pip install recbole "setuptools<81" "numpy<2" "pandas<2.3"
    "scipy<1.14" "torch<2.6"; NINEREC_RECBOLE_PYTHON=V/bin/python."""
    python = os.environ.get("NINEREC_RECBOLE_PYTHON")
    if not python:
        pytest.skip(
            "RecBole needs an environment of its own; NINEREC_RECBOLE_PYTHON names its python"
        )
    folder = export(each, "recbole", tmp_path / "out")
    facts = read_with(RECBOLE, folder, python=python, cwd=tmp_path)  # it leaves logs where it runs
    ours = windows(each)
    assert facts["users"] == len(ours)
    assert facts["items"] == each.in_pool.sum()
    assert facts["rows"] == sum(map(len, ours.values()))
    for part, target in (("valid", -2), ("test", -1)):
        expected = {u: (w[target], w[:target][-20:]) for u, w in ours.items()}
        assert {u: (i, seen) for u, i, seen in facts[part]} == expected
    assert len(facts["train"]) == sum(len(w) - 3 for w in ours.values())


# hf and croissant


DATASETS = """
import hashlib, json, sys, datasets
folder, cache = sys.argv[1:]
load = lambda *where: datasets.load_dataset(*where, cache_dir=cache)["train"]
tables = {name: load(folder, name).to_list() for name in datasets.get_dataset_config_names(folder)}
digest = lambda image: hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
covers = [[row["json"], row["txt"], digest(row["jpg"])] for row in load(folder + "/covers")]
print(json.dumps({**tables, "covers": covers}))
"""


def expected_tables(ds: Dataset) -> dict[str, list[dict[str, Any]]]:
    """The rows of the hf tables, from the dataset as it is opened."""
    users, item = ds.users["user_id"].to_pylist(), ds.item_of_row
    return {
        "items": [
            {
                **row,
                "split_train_count": int(n),
                "split_group": str(group),
                "split_in_pool": bool(ok),
            }
            for row, n, group, ok in zip(
                ds.items.to_pylist(), ds.train_count[1:], ds.group[1:], ds.in_pool[1:], strict=True
            )
        ],
        "users": without(ds.users.to_pylist(), "start", "end"),
        "interactions": ds.interactions.to_pylist(),
        "sequences": [
            {
                **row,
                "user_id": users[row["user"]],
                "items": item[row["start"] : row["end"]].tolist(),
            }
            for row in ds.sequences.to_pylist()
        ],
    }


def test_datasets_loads_every_table_and_cover_of_an_hf_folder(
    each: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    folder = export(each, "hf", tmp_path / "out")
    away = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    found = read_with(DATASETS, folder, tmp_path / "cache", **away)
    covers = found.pop("covers")
    assert found == expected_tables(each)
    assert {row["item_id"]: digest for row, _, digest in covers} == pixels_of(each)
    titles = {row["item_id"]: (row["title_en"], row["title_ja"]) for row in each.items.to_pylist()}
    told = {row["item_id"]: (row["title_en"], row["title_ja"]) for row, *_ in covers}
    assert told.items() <= titles.items()


def test_hf_shards_are_those_of_the_store(ds: Dataset, tmp_path: Path) -> None:
    copied = export(ds, "hf", tmp_path / "out") / "covers" / "00000.tar"
    assert copied.read_bytes() == (ds.folder / "covers" / "00000.tar").read_bytes()
    assert copied.stat().st_nlink == 1  # to change it must not change the store


def test_hf_card_states_terms_counts_and_configurations(ds: Dataset, tmp_path: Path) -> None:
    card = (export(ds, "hf", tmp_path / "out") / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    facts = {
        key: json.loads(value) for key, value in (line.split(": ", 1) for line in head.split("\n"))
    }
    assert facts["license"] == "other"
    assert facts["license_link"] == URL
    assert facts["size_categories"] == ["n<1K"]
    assert [c["config_name"] for c in facts["configs"]] == [
        "items",
        "users",
        "interactions",
        "sequences",
    ]
    assert "31 items, 24 users, 372 interactions, 23 sequences, 29 covers" in body
    assert ds.protocol.hash in body
    assert [said for said in (TERMS, URL, CITE) if said not in body] == []


CROISSANT = """
import json, sys, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
about = dataset.metadata
plain = lambda value: value.decode() if isinstance(value, bytes) else value
tables = {
    table.id: [{key.partition("/")[2]: plain(value) for key, value in row.items()} for row in dataset.records(table.id)]
    for table in about.record_sets
}
issues = [*about.ctx.issues.errors, *about.ctx.issues.warnings]
people = [person.name for person in about.creators]
print(json.dumps({"tables": tables, "issues": issues, "creators": people, "license": about.license}))
"""


def test_mlcroissant_reads_every_record_and_has_no_complaint(each: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("mlcroissant")
    folder = export(each, "croissant", tmp_path / "out")
    found = read_with(CROISSANT, folder / "croissant.json", HOME=str(tmp_path))
    assert found["issues"] == []
    assert found["creators"] == ["Doe, Jane", "Roe, Richard"]
    assert found["license"] == [URL]
    assert found["tables"] == expected_tables(each)


def test_croissant_lists_every_file_with_its_sha256(ds: Dataset, tmp_path: Path) -> None:
    folder = export(ds, "croissant", tmp_path / "out")
    said = json.loads((folder / "croissant.json").read_text())
    files = {file["contentUrl"]: file["sha256"] for file in said["distribution"]}
    there = digests(folder)
    del there["croissant.json"]
    assert files == there
    assert set(digests(export(ds, "hf", tmp_path / "hf")).items()) == set(there.items())
    listed = [f["@id"] for t in said["recordSet"] for f in t["field"] if f.get("isArray")]
    assert listed == ["sequences/items"]
    types = {f["name"]: f["dataType"] for t in said["recordSet"] for f in t["field"]}
    kinds = ("timestamp", "item", "item_id", "split_in_pool")
    assert [types[name] for name in kinds] == ["sc:Integer", "sc:Integer", "sc:Text", "sc:Boolean"]
    assert said["conditionsOfAccess"] == TERMS
    assert said["usageInfo"] == URL
    assert said["datePublished"] == "2021"
    assert said["citeAs"].startswith(CITE)


# lmdb

# As upstream's scripts read their store: the class stands in the reader's own `__main__`.
UPSTREAM_READER = """
import hashlib, json, pickle, sys, lmdb
import numpy as np

class LMDB_Image:
    def __init__(self, image, id):
        raise AssertionError("unpickling must not call this")

    def get_image(self):
        return np.frombuffer(self.image, dtype=np.uint8).reshape(*self.size, self.channels)

store = lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
with store.begin() as reading:
    keys = pickle.loads(reading.get(b"__keys__"))
    count = pickle.loads(reading.get(b"__len__"))
    found = {}
    for key in keys:
        image = pickle.loads(reading.get(key))
        assert image.get_image().shape == (224, 224, 3) and image.id == key.decode()
        found[image.id] = hashlib.sha256(image.get_image().tobytes()).hexdigest()
print(json.dumps({"images": found, "count": count, "entries": store.stat()["entries"]}))
"""


def test_upstream_style_reader_gets_the_pixels_of_every_cover(ds: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    folder = export(ds, "lmdb", tmp_path / "out")
    found = read_with(UPSTREAM_READER, folder / "shop.lmdb")
    assert found["images"] == pixels_of(ds)
    assert found["count"] == len(found["images"])
    assert found["entries"] == found["count"] + 2


def test_lmdb_tables_are_in_the_release_s_layout(each: Dataset, tmp_path: Path) -> None:
    folder = export(each, "lmdb", tmp_path / "out")
    lines = (folder / "shop_behaviour.tsv").read_text().splitlines()
    assert lines == [f"{user}\t{' '.join(items)}" for user, items in histories().items()]
    with (folder / "shop_item.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == each.item_ids
    assert rows[0] == ["0", *TITLES["0"]]
    assert rows[each.item_ids.index(UNLISTED)] == [UNLISTED, "", ""]
    timed = each.interactions["timestamp"].null_count == 0
    assert (folder / "shop_pair.csv").exists() == timed
    if timed:  # upstream's code has the item first
        first = (folder / "shop_pair.csv").read_text().split("\n", 1)[0]
        assert first == f"{histories()['u0'][0]},u0,1600000000"


def test_lmdb_export_is_a_release_that_prepares_to_the_same_tables(
    each: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(each, "lmdb", tmp_path / "out")
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "shop.toml").write_text(UPSTREAM + CATALOG)
    monkeypatch.setenv("NINEREC_CATALOG", str(tmp_path / "catalog"))
    again = taken_in(tmp_path / "home", folder).open()
    names = ["item", "item_id", "title_zh", "title_en", "text_zh", "text_en"]
    assert again.items.select(names).equals(each.items.select(names))
    assert again.users.equals(each.users)
    assert again.interactions.equals(each.interactions)
    check_same_pictures(again, each)


def check_same_pictures(again: Dataset, ds: Dataset) -> None:
    """The same items have covers, of the same pixels but for one more JPEG."""
    assert pixels_of(again).keys() == pixels_of(ds).keys()
    for item in range(1, ds.n_items + 1):
        pair = [
            np.asarray(Image.open(io.BytesIO(jpeg)), float)
            for d in (again, ds)
            if (jpeg := d.cover(item))
        ]
        assert not pair or np.abs(pair[0] - pair[1]).mean() < 2


def test_absent_package_is_named_with_the_command(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match=r"pip install 'ninerec\[export\]'"):
        export(ds, "lmdb", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["lmdb", "files"])
def test_full_disk_leaves_nothing(ds: Dataset, tmp_path: Path, to: str) -> None:
    with mounted(tmp_path / "small", "size=256k") as small:
        with pytest.raises(CheckFailed, match="nothing half written was kept"):
            export(ds, to, small / "out")
        assert list(small.iterdir()) == []


# files


def test_files_are_a_release_that_prepares_to_the_same_tables(
    each: Dataset, tmp_path: Path
) -> None:
    folder = export(each, "files", tmp_path / "out")
    again = taken_in(tmp_path / "home", folder).open()
    of_covers = ["cover", "cover_reason", "shard", "offset", "size", "width", "height"]
    assert again.items.drop(of_covers).equals(each.items.drop(of_covers))
    assert again.users.equals(each.users)
    assert again.interactions.equals(each.interactions)
    assert again.split_manifest["outputs"] == each.split_manifest["outputs"]
    check_same_pictures(again, each)


def test_files_hold_the_release_s_columns_and_every_cover(each: Dataset, tmp_path: Path) -> None:
    folder = export(each, "files", tmp_path / "out")
    heads = {path.name: path.read_text().split("\n", 1)[0] for path in folder.glob("*.csv")}
    timed = each.interactions["timestamp"].null_count == 0
    assert heads == {
        "items.csv": "item_id,title_zh,title_en,title_ja,price",
        "users.csv": "user_id",
        "interactions.csv": "user_id,item_id" + ",timestamp" * timed,
    }
    covers = {path.name for path in (folder / "covers").iterdir()}
    assert len(covers) == len(pixels_of(each))
    assert {"x%2Fy%2Ez.jpg", "%C3%9C.jpg", "a%27b.jpg"} <= covers
    assert (folder / "covers" / "i4.jpg").read_bytes() == each.cover(each.item_ids.index("i4") + 1)


# The verb


def run(capsys: Captured, shop: Shop, *words: object) -> Mapping[str, Any]:
    said = say(capsys, "export", "shop", "--home", shop.home.root, "--json", *words)
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


def test_verb_says_what_it_wrote(
    shop: Shop, ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(capsys, shop, "--to", "files")
    there = [path for path in (tmp_path / "shop-files").rglob("*") if path.is_file()]
    assert found == {
        "dataset": "shop",
        "format": "files",
        "folder": str(tmp_path / "shop-files"),
        "files": len(there),
        "bytes": sum(path.stat().st_size for path in there),
        "protocol": "ninerec-2023",
        "protocol_hash": ds.protocol.hash,
        "terms": {"key": "shop", "text": TERMS, "url": URL},
    }
    said = say(capsys, "export", "shop", "--to", "hf", "--home", shop.home.root, "--out", "o")
    assert said.out.startswith(f"shop as hf: {tmp_path / 'o'}\n")
    assert said.out.endswith("  these terms travel with the files; nothing was uploaded\n")
    assert TERMS in said.out


def test_verb_takes_the_options_of_a_split(shop: Shop, tmp_path: Path, capsys: Captured) -> None:
    ds = shop.open(keep_last=8, min_interactions=20)
    words = ("--max-length", 5, "--min-interactions", 20)
    found = run(capsys, shop, "--to", "recbole", "--out", tmp_path / "out", *words)
    assert found["protocol_hash"] == ds.protocol.hash
    rows = read_atomic(tmp_path / "out" / "shop" / "shop.inter")
    assert len(rows) == 8 * len(windows(ds)) > 0


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("shop", "--to", "csv"), 2, ["csv", "recbole"]),
        (("shop",), 2, ["--to"]),
        (("shop", "--to", "files", "--warm", "3"), 3, ["ninerec prepare shop"]),
        (("shopp", "--to", "files"), 2, ["shopp"]),
    ],
)
def test_verb_refuses_with_one_message(
    shop: Shop,
    tmp_path: Path,
    capsys: Captured,
    words: tuple[str, ...],
    code: int,
    parts: list[str],
) -> None:
    said = say(capsys, "export", *words, "--home", shop.home.root, "--out", tmp_path / "out")
    check_refusal(said, code, *parts)
    assert list(tmp_path.iterdir()) == []
