"""Covers beside the rest of a store: splits that drop items, runs that outlive a late cover, columns of the release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from covered import WITH_COVER, Covered, facts, item_id, known, make_covered, write_covers

from ninerec_data import open_dataset
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.files import canonical_json, hash_of, sha256_file
from ninerec_data.pictures import Recipe, codec_versions
from ninerec_data.prepare import prepare
from ninerec_data.repair import repair
from ninerec_data.verify import verify


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Covered:
    """Every second item has a cover, so that users keep enough of their rows."""
    known(tmp_path / "catalog", monkeypatch)
    made = make_covered(tmp_path / "one")
    write_covers(made.covers, range(2, 1400))
    return made


def dropped(release: Covered) -> dict[str, str]:
    return dict(prepare(release.home, release.entry, split={"covers": "drop"}).split["counts"])


def test_drop_is_a_split_of_its_own_without_the_items_that_have_no_cover(release: Covered) -> None:
    counts = dropped(release)
    prepare(release.home, release.entry)
    whole = open_dataset(release.name, home=release.home)
    ds = open_dataset(release.name, home=release.home, covers="drop")
    ok = np.array([False, *(row["cover"] == "ok" for row in facts(ds).values())])
    assert ds.protocol.split.hash != whole.protocol.split.hash
    assert not ok[whole.item_of_row].all()
    assert ok[ds.item_of_row].all()
    assert ds.item_of_row.tolist() == whole.item_of_row[ok[whole.item_of_row]].tolist()
    assert counts["interactions_left_out"] == (~ok[whole.item_of_row]).sum()
    assert not ds.in_pool[~ok].any()
    assert ds.n_items == whole.n_items  # an item keeps its number
    assert ds.interactions["position"].to_pylist()[:3] == [0, 1, 2]
    assert [c.name for c in verify(release.prepared) if c.ok is False] == []


def test_a_drop_split_of_former_covers_is_not_opened(release: Covered) -> None:
    dropped(release)
    (release.covers / "v1360.png").unlink()
    prepare(release.home, release.entry)
    with pytest.raises(MissingData, match="--missing-covers drop"):
        open_dataset(release.name, home=release.home, covers="drop")
    checks = [c for c in verify(release.prepared) if c.ok is False]
    row = facts(open_dataset(release.name, home=release.home))["v1360"]
    used = row["item"] in open_dataset(release.name, home=release.home).item_of_row
    assert bool(checks) == used
    dropped(release)
    open_dataset(release.name, home=release.home, covers="drop")


def test_drop_without_covers_says_what_to_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(tmp_path / "catalog", monkeypatch)
    bare = make_covered(tmp_path / "bare", covers=False)
    with pytest.raises(MissingData, match=r"holds no covers.*ninerec import drawn"):
        dropped(bare)


def test_drop_that_leaves_nobody_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(tmp_path / "catalog", monkeypatch)
    few = make_covered(tmp_path / "few")
    with pytest.raises(CheckFailed, match=r"no user .* is left.*--missing-covers keep"):
        dropped(few)


def test_a_late_cover_changes_no_fingerprint(release: Covered) -> None:
    """Runs on ids and texts go on: what they learnt from is the same."""
    release.prepare()
    before = release.open().fingerprint
    write_covers(release.covers, [1])
    assert release.prepare().done == ("covers",)
    assert release.open().fingerprint == before
    release.prepare(max_words=3)
    assert release.open().fingerprint != before


def test_columns_of_the_release_named_as_the_index_s_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(tmp_path / "catalog", monkeypatch)
    made = make_covered(tmp_path / "one")
    table = made.folder / "release" / "items.csv"
    head, *rows = table.read_text().splitlines()
    table.unlink()  # the raw store's link keeps the old bytes
    table.write_text("\n".join([f"{head},source,file", *(f"{row},tube,f" for row in rows)]) + "\n")
    made.import_from(made.folder / "release")
    made.prepare()
    row = facts(made.open())[item_id(WITH_COVER[0])]
    assert (row["source"], row["file"], row["cover"]) == ("tube", "f", "ok")
    assert [c.name for c in verify(made.prepared) if c.ok is False] == []


def test_repair_of_all_takes_nothing_from_a_sibling(release: Covered) -> None:
    """What a sibling copied may be the very harm; asked for anew, everything comes from the raw files."""
    release.prepare()
    jpeg = release.open().cover(26)
    shard = release.prepared / "covers" / "00000.tar"
    other = make_covered(release.folder.parent / "two", name="drawn_more", home=release.home)
    other.prepare()
    harmed = shard.read_bytes().replace(jpeg or b"", bytes(len(jpeg or b"")))
    for made in (release, other):
        tar = made.prepared / "covers" / "00000.tar"
        tar.unlink()
        tar.write_bytes(harmed)
        manifest = made.prepared / "covers" / "manifest.json"
        text = manifest.read_text()
        told = json.loads(text)
        told["outputs"]["00000.tar"] = {"sha256": sha256_file(tar), "size": tar.stat().st_size}
        manifest.write_text(canonical_json(told))
    repair(release.home, release.entry, anew=True)
    assert release.open().cover(26) == jpeg


def test_a_damaged_receipt_costs_its_shard_alone(release: Covered) -> None:
    work = hash_of([Recipe().as_json(), codec_versions()])
    folder = release.prepared.parent / f".drawn.covers-{work}"
    for name, text in (("00000-x", '{"inputs": "a", '), ("00001-x", '{"more": 1}')):
        (folder / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(text)
    release.prepare()
    assert release.open().cover(26)
    assert not folder.exists()
