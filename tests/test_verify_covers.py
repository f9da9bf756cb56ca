"""Verify of covers finds each kind of damage by the check meant for it; --repair ends in the bytes of before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from covered import NAME, WITH_COVER, Covered, clone, known, make_covered
from releases import check_refusal, digests, leftovers, say

from ninerec_data import Home
from ninerec_data.files import sha256_file
from ninerec_data.manifest import INDEX
from ninerec_data.pictures import Recipe
from ninerec_data.prepare import CoverOptions, Prepared, prepare
from ninerec_data.shards import SHARD_ITEMS
from ninerec_data.tables import write_parquet
from ninerec_data.verify import PUBLISHED, SAMPLE, verify

Captured = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]
WORDS = 29
N = len(WITH_COVER)
ONE = next(item for item in WITH_COVER if item > 1100)  # of the second shard
DEFAULT, OTHER = {}, {"min_interactions": 6}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Covered]:
    """Three shards of covers, two splits, texts of 29 words."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        known(folder / "catalog", patch)
        made = make_covered(folder)
        for split in (DEFAULT, OTHER):
            last = prepare_with(made, split)
        assert len(list((last.folder / "splits").iterdir())) == 2
        yield made


def prepare_with(made: Covered, split: Any, **covers: Any) -> Prepared:
    options = CoverOptions(**covers)
    return prepare(made.home, made.entry, split=split, max_words=WORDS, covers=options)


@pytest.fixture
def store(whole: Covered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared dataset that a test may damage, in the home that the verbs use."""
    copy = clone(whole, tmp_path)
    monkeypatch.setenv("NINEREC_HOME", str(copy.home.root))
    return copy.prepared


# Ways to harm a store; `settle` makes its manifests agree with the harm.


def rehash(path: Path) -> None:
    """Let the manifest beside a file say the digest and size that the file has now."""
    facts = {"sha256": sha256_file(path), "size": path.stat().st_size}
    edit(path.parent / "manifest.json", lambda m: m["outputs"].update({path.name: facts}))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def retable(path: Path, **columns: pl.Expr) -> None:
    """Change columns of a Parquet file, and the manifest with it."""
    write_parquet(pl.read_parquet(path).with_columns(**columns), path)
    rehash(path)


def settle(store: Path) -> None:
    """Let the tables' manifest name the covers that stand."""
    covers = json.loads((store / "covers" / "manifest.json").read_text(encoding="utf-8"))
    said = {"index": covers["outputs"][INDEX]["sha256"], "counts": covers["counts"]}
    edit(store / "manifest.json", lambda m: m.update(covers=said))


def put(path: Path, offset: int, data: bytes) -> None:
    """Other bytes at one place, in a file of its own."""
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(data)] = data
    path.unlink()
    path.write_bytes(whole)


def byte_flipped(store: Path) -> None:
    shard = store / "covers" / "00001.tar"
    put(shard, 1000, bytes([shard.read_bytes()[1000] ^ 1]))


def another_shard(store: Path) -> None:
    shutil.copyfile(store / "covers" / "00000.tar", store / "covers" / "00001.tar")


def another_shard_with_its_digest(store: Path) -> None:
    another_shard(store)
    rehash(store / "covers" / "00001.tar")


def index_tampered(store: Path) -> None:
    retable(store / "covers" / INDEX, offset=pl.col("offset") + 512)


def index_tampered_and_settled(store: Path) -> None:
    index_tampered(store)
    settle(store)


def offsets_off(store: Path) -> None:
    retable(store / "items.parquet", offset=pl.col("offset") + 512)


def index_and_offsets_off(store: Path) -> None:
    index_tampered_and_settled(store)
    offsets_off(store)


def counts_edited(store: Path) -> None:
    edit(store / "covers" / "manifest.json", lambda m: m["counts"].update(ok=N - 1))
    settle(store)


def jpeg_replaced(store: Path, item: int = ONE) -> None:
    """Garbage of equal length behind a JPEG's first bytes, every digest adjusted."""
    row = pl.read_parquet(store / "items.parquet").row(item - 1, named=True)
    shard = store / "covers" / f"{(item - 1) // SHARD_ITEMS:05d}.tar"
    put(shard, row["offset"] + 2, b"no picture " * ((row["size"] - 2) // 11))
    rehash(shard)


def pointers_off(store: Path) -> None:
    retable(store / "users.parquet", start=pl.col("start") + 1)


def train_counts_off(store: Path) -> None:
    for path in store.glob("splits/*/items.parquet"):
        retable(path, train_count=pl.col("train_count") + 1)


HARMS: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "a byte of a shard": (byte_flipped, ("sha256 of the covers",)),
    "a shard gone": (lambda s: (s / "covers/00002.tar").unlink(), ("sha256 of the covers",)),
    "the index gone": (lambda s: (s / "covers" / INDEX).unlink(), ("sha256 of the covers",)),
    "another shard": (another_shard, ("sha256 of the covers",)),
    "the interactions cut": (
        lambda s: (s / "interactions.parquet").write_bytes(b"PAR1"),
        ("sha256 of the tables",),
    ),
    "the covers' manifest gone": (lambda s: (s / "covers/manifest.json").unlink(), ("covers",)),
    "all covers gone": (lambda s: shutil.rmtree(s / "covers"), ("covers",)),
    "index tampered": (index_tampered, ("covers are those of the tables",)),
    "another shard and its digest": (
        another_shard_with_its_digest,
        ("the index points at every JPEG of its shard",),
    ),
    "index tampered and settled": (
        index_tampered_and_settled,
        ("items.parquet repeats the covers' index", "the index points at every JPEG of its shard"),
    ),
    "offsets off": (offsets_off, ("items.parquet repeats the covers' index",)),
    "index and offsets off": (
        index_and_offsets_off,
        ("the index points at every JPEG of its shard",),
    ),
    "counts edited": (counts_edited, ("cover counts are the manifest's",)),
    "a JPEG replaced": (jpeg_replaced, ("covers are JPEGs of 224x224",)),
    "row pointers off": (pointers_off, ("row pointers tile the interactions",)),
}


def failed(capsys: Captured, *words: str) -> list[str]:
    said = say(capsys, "verify", NAME, "--json", *words)
    found = json.loads(said.out)
    assert (said.code, found["ok"]) == ((0, True) if found["ok"] else (1, False))
    return [check["name"] for check in found["checks"] if check["ok"] is False]


def test_every_check_of_whole_covers_holds(capsys: Captured, store: Path) -> None:
    before = digests(store)
    for words in ((), ("--repair", "--all")):
        said = say(capsys, "verify", NAME, "--json", *words)
        found = json.loads(said.out)
        assert (said.code, found["repaired"]) == (0, [])
        assert [c for c in found["checks"] if c["ok"] is False] == []
    checks = {c["name"]: (c["level"], c["found"]) for c in found["checks"]}
    assert checks["sha256 of the covers"] == ("bytes", "4 files")
    assert checks["covers are those of the tables"] == ("structure", "settled")
    assert checks["items.parquet repeats the covers' index"] == ("structure", "2,050 items")
    assert checks["cover counts are the manifest's"] == ("values", f"{N} ok")
    assert checks["the index points at every JPEG of its shard"] == ("structure", "3 shards")
    assert checks["covers are JPEGs of 224x224"] == ("values", f"{N} decoded")
    assert digests(store) == before


@pytest.mark.parametrize(("harm", "names"), HARMS.values(), ids=HARMS)
def test_damage_is_found_by_its_check_and_repaired(
    capsys: Captured, store: Path, harm: Damage, names: tuple[str, ...]
) -> None:
    before = digests(store)
    harm(store)
    found = failed(capsys)
    assert [name for name in found if name in names] == list(names)
    assert [name for name in found if "sha256" in name and name not in names] == []
    said = say(capsys, "verify", NAME, "--repair", "--json")
    assert (said.code, json.loads(said.out)["ok"]) == (0, True), said.err
    assert json.loads(said.out)["repaired"] != []
    assert digests(store) == before
    assert leftovers(store.parent) == []


def test_damage_in_a_split_is_repaired(capsys: Captured, store: Path) -> None:
    before = digests(store)
    train_counts_off(store)
    assert [n.partition(": ")[2] for n in failed(capsys)] == [
        *("train counts are those of the rows", "groups follow the train counts")[:1] * 2,
    ]
    assert say(capsys, "verify", NAME, "--repair").code == 0
    assert digests(store) == before


def test_a_sample_may_miss_what_all_finds(
    capsys: Captured, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SAMPLE == 200
    monkeypatch.setattr("ninerec_data.verify.SAMPLE", 20)
    before = digests(store)
    missed = [item for item in WITH_COVER if item > 1000][:3]
    for item in missed:
        jpeg_replaced(store, item)
        if not [check for check in verify(store, decode=20) if check.ok is False]:
            break
    else:
        pytest.fail(f"a sample of 20 of {N} holds three covers of choice")
    checks = {check.name: check.found for check in verify(store, decode=20)}
    assert checks["covers are JPEGs of 224x224"] == "20 decoded"
    found = {check.name: check.found for check in verify(store, decode=None)}
    assert found["covers are JPEGs of 224x224"] == f"not: items {item}"
    assert (failed(capsys), failed(capsys, "--all")) == ([], ["covers are JPEGs of 224x224"])
    assert say(capsys, "verify", NAME, "--repair").code == 0  # finds nothing to repair
    assert digests(store) != before
    assert say(capsys, "verify", NAME, "--all", "--repair").code == 0
    assert digests(store) == before


def test_a_failed_check_names_the_shard_and_the_way_out(capsys: Captured, store: Path) -> None:
    byte_flipped(store)
    said = say(capsys, "verify", NAME)
    named = "sha256 of the covers (changed or missing: 00001.tar)"
    check_refusal(said, 1, named, f"ninerec verify {NAME} --repair")


@pytest.mark.parametrize(
    ("stage", "text"), [(".", ""), (".", '{"schema": 99}'), ("covers", "{}"), ("covers", "[1]")]
)
def test_a_manifest_that_cannot_be_read_is_said_and_repaired(
    capsys: Captured, store: Path, stage: str, text: str
) -> None:
    before = digests(store)
    (store / stage / "manifest.json").write_text(text)
    check_refusal(say(capsys, "verify", NAME), 1, str(store / stage))
    said = say(capsys, "verify", NAME, "--repair")
    assert said.code == 0, said.err
    after = digests(store)
    if stage == ".":  # the words of a text stood there alone; none of these has so many
        made = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        assert made["parameters"]["max_words"] == 30
        assert before.pop("manifest.json") != after.pop("manifest.json")
    assert after == before


def test_only_the_stages_that_are_damaged_are_made_anew(capsys: Captured, store: Path) -> None:
    byte_flipped(store)
    kept = {
        path: path.stat().st_ino for path in store.rglob("*") if path.name.endswith((".tar", "t"))
    }
    said = say(capsys, "verify", NAME, "--repair", "--json")
    assert json.loads(said.out)["repaired"] == ["covers"]
    assert f"{NAME}: made anew: covers\n" in said.err
    changed = {path.name for path, inode in kept.items() if path.stat().st_ino != inode}
    assert changed == {"00001.tar", INDEX, "items.parquet"}


def test_a_split_without_manifest_is_made_anew_where_it_is_known(
    capsys: Captured, store: Path
) -> None:
    before = digests(store)
    hashes = {
        json.loads(path.read_text())["parameters"]["min_interactions"]: path
        for path in store.glob("splits/*/manifest.json")
    }
    hashes[5].unlink()  # the default split
    assert failed(capsys) == [f"split {hashes[5].parent.name}"]
    assert say(capsys, "verify", NAME, "--repair").code == 0
    assert digests(store) == before
    hashes[6].unlink()  # whose parameters stood there alone
    assert say(capsys, "verify", NAME, "--repair").code == 0
    assert digests(store) == {
        name: digest for name, digest in before.items() if hashes[6].parent.name not in name
    }


def test_blank_covers_and_their_recipe_are_kept(
    capsys: Captured, whole: Covered, store: Path
) -> None:
    made = Covered(whole.folder, Home(store.parents[1]))
    recipe = Recipe(size=32, fit="center_crop", quality=70)
    prepare_with(made, DEFAULT, recipe=recipe, missing="blank")
    before = digests(store)
    pointers_off(store)
    said = say(capsys, "verify", NAME, "--repair", "--json")
    assert said.code == 0, said.err
    found = {check["name"]: check["found"] for check in json.loads(said.out)["checks"]}
    assert found["covers are JPEGs of 32x32"] == "200 decoded"
    assert digests(store) == before


# What is not repaired.


@pytest.mark.parametrize("gone", ["items.csv", "covers", "all"])
def test_without_the_raw_files_one_error_and_all_that_stood(
    capsys: Captured, whole: Covered, store: Path, gone: str
) -> None:
    byte_flipped(store)
    pointers_off(store)
    next(store.glob("splits/*/manifest.json")).unlink()
    before = digests(store)
    source = whole.folder / "release"
    held = whole.home.root / "raw/files/drawn/drawn"
    names = {"items.csv": [held / gone], "covers": [source / gone], "all": [held, source]}[gone]
    aside = [path.rename(path.with_name(f"{path.name}-aside")) for path in names]
    try:
        check_refusal(say(capsys, "verify", NAME, "--repair"), 3, f"ninerec import {NAME} PATH")
    finally:
        for path in aside:
            path.rename(path.with_name(path.name.removesuffix("-aside")))
    assert digests(store) == before


def test_raw_files_that_changed_are_refused(capsys: Captured, whole: Covered, store: Path) -> None:
    byte_flipped(store)
    before = digests(store)
    held = whole.home.root / "raw/files/drawn/drawn/items.csv"
    text = held.read_bytes()
    try:
        held.write_bytes(text.replace(b"Title 1,", b"Title X,"))
        said = say(capsys, "verify", NAME, "--repair")
        check_refusal(said, 1, "changed since it was imported", f"ninerec import {NAME}")
    finally:
        held.write_bytes(text)
    assert digests(store) == before


def test_figures_that_are_not_the_published_ones_are_not_repaired(
    capsys: Captured, store: Path
) -> None:
    figures = {"users": 7, "items": 7, "interactions": 7, "scope": "store", "source": "a paper"}
    edit(store / "manifest.json", lambda m: m.update(published=figures))
    before = digests(store)
    said = say(capsys, "verify", NAME, "--repair", "--json")
    found = json.loads(said.out)
    assert (said.code, found["ok"], found["repaired"]) == (1, False, [])
    assert [c["name"] for c in found["checks"] if c["ok"] is False] == [PUBLISHED]
    assert digests(store) == before


def test_repair_of_what_is_not_prepared_names_prepare(capsys: Captured, store: Path) -> None:
    shutil.rmtree(store)
    said = say(capsys, "verify", NAME, "--repair")
    check_refusal(said, 3, f"{NAME} is not prepared", f"ninerec prepare {NAME}")
