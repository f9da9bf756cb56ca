"""WebDataset shards: bytes that follow from the samples alone, read alike by everyone (DESIGN 3.2)."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import tarfile
import urllib.parse
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ninerec_data.shards import (
    SHARD_ITEMS,
    Covers,
    Sample,
    key_of,
    shard_name,
    shard_of,
    write_shard,
)

# Ids as releases have them, and as they may come: the last but two are too long for a plain tar name.
IDS = [
    "v123",
    "0108775015",
    "a.b.c",
    "images/010/0108775015.jpg",
    "two words",
    "100%",
    "100%25",
    "..",
    ".hidden",
    "__meta__",
    "标题，一",
    "ünïcode",
    "\U0001f60b",
    "tab\there",
    "q?x=1&y=[2]",
    "long-" + "x" * 250,
    "长" * 90,
    "." * 120,
    "~" * 100,
    "-plain_",
]


def sample(item: int, item_id: str, jpeg: bytes | None = None) -> Sample:
    facts = {"item": item, "item_id": item_id, "title_en": f"T {item}", "title_zh": None}
    return Sample(facts, f"text 文本 {item}", picture(item) if jpeg is None else jpeg)


def picture(item: int) -> bytes:
    """Bytes of every length up to two tar blocks and more, which no tar may mistake for its own."""
    return random.Random(item).randbytes(1 + 37 * item % 1700)


def written(samples: list[Sample]) -> tuple[bytes, list[int]]:
    file = io.BytesIO()
    offsets = write_shard(file, samples)
    return file.getvalue(), offsets


@pytest.fixture(scope="module")
def odd() -> list[Sample]:
    return [sample(item, item_id) for item, item_id in enumerate(IDS, start=1)]


def covers_of(folder: Path, samples: list[Sample], n_items: int) -> Covers:
    """Write the shards of some items as DESIGN 3.2 says, and open them for random access."""
    shard, offset, size = (np.zeros(n_items + 1, np.int64) for _ in range(3))
    folder.mkdir(exist_ok=True)
    for number in range(-(-n_items // 1000)):
        here = [s for s in samples if 1000 * number < s.facts["item"] <= 1000 * (number + 1)]
        with (folder / f"{number:05d}.tar").open("wb") as file:
            offsets = write_shard(file, here)
        for one, place in zip(here, offsets, strict=True):
            item = one.facts["item"]
            shard[item], offset[item], size[item] = number, place, len(one.jpeg)
    return Covers(folder, shard.astype(np.int32), offset, size)


def test_a_key_holds_what_no_file_system_and_no_reader_minds() -> None:
    for item_id in IDS:
        key = key_of(item_id)
        plain = {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-%"}
        assert set(key) <= plain
        assert urllib.parse.unquote(key) == item_id  # so no two ids share a key
    assert key_of("v-1_2") == "v-1_2"
    assert key_of("a.b/c d%") == "a%2Eb%2Fc%20d%25"
    assert key_of("长~") == "%E9%95%BF%7E"


@pytest.mark.parametrize(
    ("item", "shard"), [(1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (144_146, 144)]
)
def test_shard_k_holds_a_thousand_items(item: int, shard: int) -> None:
    assert shard_of(item) == shard
    assert SHARD_ITEMS == 1000
    assert shard_name(shard) == f"{shard:05d}.tar"


def test_the_same_samples_give_the_same_bytes(odd: list[Sample]) -> None:
    first, offsets = written(odd)
    turned = [Sample(dict(reversed(s.facts.items())), s.text, s.jpeg) for s in odd]
    assert written(turned) == (first, offsets)


def member(name: str, data: bytes) -> bytes:
    """A file as POSIX.1-1988 wants it in a tar: a header of 512 bytes, the data filled up to whole blocks."""
    fields = (
        name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(data)
        + b"%011o\0" % 0 + b" " * 8 + b"0" + bytes(100) + b"ustar\x0000"
    ).ljust(512, b"\0")  # fmt: skip
    header = fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
    return header + data + bytes(-len(data) % 512)


def test_the_bytes_of_a_shard_are_these() -> None:
    """A change of these bytes makes every shard of every user another one."""
    data, offsets = written([sample(1, "v1", b"one"), sample(2, "v.2", b"two" * 400)])
    facts = '{"item": %d, "item_id": "%s", "title_en": "T %d", "title_zh": null}'
    wanted = b"".join(
        [
            member("v1.jpg", b"one"),
            member("v1.txt", "text 文本 1".encode()),
            member("v1.json", (facts % (1, "v1", 1)).encode()),
            member("v%2E2.jpg", b"two" * 400),
            member("v%2E2.txt", "text 文本 2".encode()),
            member("v%2E2.json", (facts % (2, "v.2", 2)).encode()),
        ]
    )
    assert data == wanted + bytes(-len(wanted) % 10240)
    assert offsets == [512, 6 * 512 + 512]


def test_the_bytes_of_a_shard_with_long_names_are_these() -> None:
    data, offsets = written([sample(1, "v1", b"one"), sample(2, "长" * 90, b"two")])
    assert offsets == [512, 5120]
    assert hashlib.sha256(data).hexdigest() == (
        "0804ab9a27129b6dc181de578b276fd7d8c538e221ba517eba638a5b4524ec26"
    )


def test_tarfile_reads_three_members_of_each_item(odd: list[Sample]) -> None:
    data, offsets = written(odd)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        content = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    wanted = [f"{key_of(i)}.{kind}" for i in IDS for kind in ("jpg", "txt", "json")]
    assert [member.name for member in members] == wanted
    assert [member.offset_data for member in members[::3]] == offsets
    assert content[::3] == [s.jpeg for s in odd]
    assert [text.decode() for text in content[1::3]] == [s.text for s in odd]
    assert [json.loads(facts) for facts in content[2::3]] == [s.facts for s in odd]
    for member in members:
        assert member.isreg()
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert (member.uname, member.gname) == ("", "")


def test_offsets_point_at_the_jpeg_whatever_the_length_of_the_name(odd: list[Sample]) -> None:
    data, offsets = written(odd)
    for one, offset in zip(odd, offsets, strict=True):
        assert data[offset : offset + len(one.jpeg)] == one.jpeg


def test_a_shard_without_covers_is_an_empty_tar() -> None:
    data, offsets = written([])
    assert offsets == []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmembers() == []


def streamed(paths: list[Path]) -> list[dict[str, Any]]:
    """Every sample of some shards through the webdataset library, undecoded, in its order."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        names = [f"file:{path}" for path in paths]
        return list(
            webdataset.WebDataset(names, shardshuffle=False, nodesplitter=None, empty_check=False)
        )


def test_webdataset_streams_what_random_access_finds(tmp_path: Path, odd: list[Sample]) -> None:
    later = [sample(item, f"i.{item}") for item in (999, 1000, 1001, 1500, 3001)]
    samples = [*odd, *later]
    covers = covers_of(tmp_path, samples, n_items=3100)
    paths = sorted(tmp_path.glob("*.tar"))
    assert [path.name for path in paths] == [f"{n:05d}.tar" for n in range(4)]
    found = streamed(paths)
    assert [s["__key__"] for s in found] == [key_of(s.facts["item_id"]) for s in samples]
    assert [json.loads(s["json"])["item"] for s in found] == [s.facts["item"] for s in samples]
    for one, wanted in zip(found, samples, strict=True):
        item = json.loads(one["json"])["item"]
        assert one["jpg"] == covers[item] == wanted.jpeg
        assert one["txt"].decode() == wanted.text
        assert {k for k in one if not k.startswith("__")} == {"jpg", "txt", "json"}
    assert [len(streamed([path])) for path in paths] == [22, 2, 0, 1]


def test_random_access_knows_who_has_a_cover(tmp_path: Path, odd: list[Sample]) -> None:
    covers = covers_of(tmp_path, odd, n_items=30)
    assert len(covers) == len(odd)
    assert [item for item in range(31) if item in covers] == [s.facts["item"] for s in odd]
    assert [covers[item] for item in (0, len(odd) + 1, 30)] == [None] * 3


def test_a_pickled_copy_and_many_threads_read_the_same(tmp_path: Path, odd: list[Sample]) -> None:
    samples = [*odd, *(sample(item, f"i{item}") for item in range(900, 2100))]
    covers = covers_of(tmp_path, samples, n_items=2100)
    wanted = {s.facts["item"]: s.jpeg for s in samples}
    assert covers[1] == wanted[1]  # maps are open now, and are not pickled
    copy = pickle.loads(pickle.dumps(covers))
    order = random.Random(0).sample(sorted(wanted), len(wanted))
    for reader in (covers, copy):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(reader.__getitem__, order)) == [wanted[item] for item in order]
    assert len(pickle.dumps(copy)) < len(pickle.dumps(wanted)) / 5
