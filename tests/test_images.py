"""Covers as pixels: what other decoders make of the same bytes, from any thread, worker or cache; damage is named."""

from __future__ import annotations

import errno
import io
import json
import logging
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from covered import (
    ITEMS,
    WITH_COVER,
    Covered,
    clone,
    file_name,
    item_id,
    known,
    write_covers,
    write_tables,
)
from PIL import Image

import loaders.images
from loaders import Batch, Images, Sequences, decoded_bytes, make_loader
from ninerec_data import CheckFailed, Dataset, Home, MissingData, UsageError
from ninerec_data.pictures import Recipe

SIZE = 32
BROKEN = (26, 52)
GOOD = tuple(item for item in WITH_COVER if item not in BROKEN)
ONE = next(item for item in GOOD if item > 1100)  # of the second shard
SOME = np.array([ONE, 1, *GOOD[:9], 0, *BROKEN, GOOD[-1], ONE, 2050])
UNTITLED = 3  # items with a number that it divides have no title
Damage = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Covered]:
    """Users of items with and without cover and title; two covers are no pictures."""
    folder = tmp_path_factory.mktemp("made")
    release = write_tables(folder / "release")
    write_covers(release / "covers")
    for item in BROKEN:
        (release / "covers" / file_name(item)).write_bytes(b"no picture")
    near = [n + step for n in WITH_COVER for step in (0, 1) if n < ITEMS]
    chosen = [
        (user, near[(7 * user + 13 * step) % len(near)]) for user in range(20) for step in range(9)
    ]
    rows = [f'u{user},"{item_id(item)}"' for user, item in chosen]
    titles = [f'"{item_id(n)}",{f"Title {n}" if n % UNTITLED else ""}' for n in range(1, ITEMS + 1)]
    (release / "interactions.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    (release / "items.csv").write_text("\n".join(["item_id,title_en", *titles]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        known(folder / "catalog", patch)
        covered = Covered(folder, Home(folder / "home"))
        covered.import_from(release)
        covered.prepare(recipe=Recipe(size=SIZE))
        yield covered


@pytest.fixture(scope="module")
def ds(made: Covered) -> Dataset:
    return made.open()


@pytest.fixture
def mine(made: Covered, tmp_path: Path) -> Covered:
    """A copy that a test may damage, without a decoded cache."""
    copy = clone(made, tmp_path)
    shutil.rmtree(copy.prepared / "pixels", ignore_errors=True)
    return copy


@pytest.fixture(scope="module")
def published(ds: Dataset) -> dict[int, bytes]:
    """item -> JPEG, as `tarfile` and the members' own JSON tell it."""
    found = {}
    for path in sorted((ds.folder / "covers").glob("*.tar")):
        with tarfile.open(path) as shard:
            members = {member.name: shard.extractfile(member) for member in shard}
            for name, facts in members.items():
                if name.endswith(".json"):
                    item = json.load(facts)["item"]
                    found[item] = members[name.removesuffix("json") + "jpg"].read()
    return found


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def arrays(pixels: torch.Tensor) -> np.ndarray:
    """(U, S, S, 3)."""
    return pixels.permute(0, 2, 3, 1).numpy()


def same(a: Images, b: Images) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.of(SOME), b.of(SOME), strict=True))


def test_pixels_are_what_simplejpeg_and_pillow_decode(
    ds: Dataset, published: dict[int, bytes]
) -> None:
    assert sorted(published) == list(GOOD)
    pixels, has = Images(ds).of(np.array(GOOD))
    assert has.all()
    for item, found in zip(GOOD, arrays(pixels), strict=True):
        assert np.array_equal(found, simplejpeg.decode_jpeg(published[item], "RGB"))
        pillow = np.asarray(Image.open(io.BytesIO(published[item])).convert("RGB"))
        assert np.abs(found.astype(int) - pillow).max() <= 2  # two builds of one codec


def test_pixels_are_uint8_rgb_with_the_channels_last_in_memory(ds: Dataset) -> None:
    for images in (Images(ds), Images(ds, 16)):
        pixels, has = images.of(SOME)
        side = images.size
        assert (pixels.dtype, has.dtype) == (torch.uint8, torch.bool)
        assert pixels.shape == (len(SOME), 3, side, side)
        assert pixels.stride() == (3 * side * side, 1, 3 * side, 3)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert has.shape == (len(SOME),)
    assert Images(ds).of(np.zeros(0, np.int64))[0].shape == (0, 3, SIZE, SIZE)


def test_without_a_cover_or_with_a_broken_one_an_item_is_mid_grey_and_said_to_have_none(
    ds: Dataset,
) -> None:
    assert {ds.items["cover"][item - 1].as_py() for item in BROKEN} == {"broken"}
    for images in (Images(ds), Images(ds, 9), Images(ds, 16, decoded=True)):
        pixels, has = images.of(SOME)
        assert has.tolist() == [item in GOOD for item in SOME.tolist()]
        assert set(pixels[~has].flatten().tolist()) == {128}
        assert all(len(one.unique()) > 2 for one in pixels[has])
    assert ds.has_cover.dtype == bool
    assert np.flatnonzero(ds.has_cover).tolist() == list(GOOD)


@pytest.mark.parametrize("size", [SIZE, 13])
def test_the_number_of_threads_changes_no_pixel(ds: Dataset, size: int) -> None:
    items = np.random.default_rng(0).permutation(np.array([*GOOD, *range(1, 40)]))
    want = Images(ds, size, threads=1).of(items)
    for threads in (2, 4, None):
        found = Images(ds, size, threads=threads).of(items)
        assert all(torch.equal(x, y) for x, y in zip(found, want, strict=True))


@pytest.mark.parametrize(("size", "decoded_at"), [(8, 8), (9, 12), (13, 16), (16, 16), (31, 32)])
def test_a_smaller_size_is_decoded_at_the_next_eighth_and_resized_by_pillows_bicubic(
    ds: Dataset, published: dict[int, bytes], size: int, decoded_at: int
) -> None:
    pixels, _ = Images(ds, size).of(np.array(GOOD[:9]))
    for item, found in zip(GOOD, arrays(pixels), strict=False):
        larger = simplejpeg.decode_jpeg(published[item], "RGB", min_height=size, min_width=size)
        assert larger.shape == (decoded_at, decoded_at, 3)
        box = (size, size)
        resized = Image.fromarray(larger).resize(box, Image.Resampling.BICUBIC)
        assert np.array_equal(found, np.asarray(resized))
        whole = Image.open(io.BytesIO(published[item])).convert("RGB").resize(box)
        assert np.abs(found.astype(int) - np.asarray(whole)).mean() < 25  # the same noise


@pytest.mark.parametrize("size", [0, 7, -1, SIZE + 1])
def test_a_size_the_covers_cannot_give_is_refused(ds: Dataset, size: int) -> None:
    message = f"image size {size}: the covers of drawn are 32 pixels a side; expected 8 to 32, as with --image-size 32"
    for make in (
        Images,
        lambda ds, image_size: Sequences(ds, "test", ("image",), image_size=image_size),
    ):
        with pytest.raises(UsageError, match=message):
            make(ds, size)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_cannot_decode_is_refused(ds: Dataset, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}; expected at least 1"):
        Images(ds, threads=threads)


def cached(ds: Dataset) -> dict[str, os.stat_result]:
    return {
        path.name: path.stat() for path in (ds.folder / "pixels").iterdir() if path.suffix == ".npy"
    }


def left(ds: Dataset) -> list[str]:
    """Names under pixels/ but for locks, which are empty."""
    folder = ds.folder / "pixels"
    return sorted(p.name for p in folder.glob("*") if not p.name.endswith(".lock"))


@pytest.mark.parametrize("size", [SIZE, 13])
def test_the_decoded_cache_gives_the_same_pixels_and_is_made_once(mine: Covered, size: int) -> None:
    ds = mine.open()
    first = Images(ds, size, decoded=True)
    before = cached(ds)
    assert len(before) == 1
    assert same(first, Images(ds, size))
    assert same(Images(mine.open(), size, decoded=True), first)
    assert cached(ds) == before  # modification time and all


def test_its_size_is_told_before_it_is_made_and_true(
    mine: Covered, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = mine.open()
    told: list[int] = []
    real = Images._decode

    def decode(self: Images, *rest: Any) -> None:
        told.append(len(caplog.records))
        real(self, *rest)

    monkeypatch.setattr(Images, "_decode", decode)
    images = Images(ds, 16, decoded=True)
    assert set(told) == {1}
    need = decoded_bytes(ds, 16)
    assert need == 3 * 16 * 16 * (ITEMS + 1)
    assert (
        f"2,050 covers at 16 pixels take {need / 1e9:.2f} GB in {ds.folder / 'pixels'}"
        in caplog.text
    )
    assert caplog.records[0].levelno == logging.WARNING
    with images.cache.open("rb") as file:
        np.lib.format.read_magic(file)
        shape = np.lib.format.read_array_header_1_0(file)[0]
        assert images.cache.stat().st_size == file.tell() + need
    assert shape == (ITEMS + 1, 16, 16, 3)
    assert decoded_bytes(ds) == 3 * SIZE * SIZE * (ITEMS + 1)


def test_another_size_has_another_file_and_other_covers_replace_theirs(mine: Covered) -> None:
    ds = mine.open()
    Images(ds, 16, decoded=True)
    of_before = Images(ds, decoded=True).of(SOME)[0]
    before = cached(ds)
    assert sorted(name.split("-")[0] for name in before) == ["16", "32"]
    mine.prepare(recipe=Recipe(size=SIZE, quality=40))
    anew = mine.open()
    assert anew.covers_index != ds.covers_index
    images = Images(anew, decoded=True)
    assert same(images, Images(anew))
    assert not torch.equal(images.of(SOME)[0], of_before)
    after = cached(anew)
    assert len(after.keys() - before.keys()) == 1
    assert [name for name in after if name.startswith("32-")] == [images.cache.name]


def test_without_room_nothing_is_written(mine: Covered, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = mine.open()
    need = decoded_bytes(ds)
    for free in (need, int(need * 1.04)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(loaders.images.shutil, "disk_usage", lambda _, usage=usage: usage)
        with pytest.raises(
            UsageError, match=r"take 0\.01 GB in .*, where 0\.01 GB are free; leave `decoded` out"
        ):
            Images(ds, decoded=True)
        assert left(ds) == []


def in_child(work: Callable[[], Any]) -> tuple[Any, Any]:
    """A forked process at `work`, and the queue that will hold what it returns, or its error as text."""
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def child() -> None:
        torch.set_num_threads(1)
        try:
            answers.put(work())
        except BaseException as error:
            answers.put(repr(error))

    process = fork.Process(target=child)
    process.start()
    return process, answers


def test_where_it_cannot_be_written_the_way_without_it_is_said(mine: Covered) -> None:
    ds = mine.open()
    (ds.folder / "pixels").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be written: .*pixels.*leave `decoded` out"):
        Images(ds, decoded=True)


def test_a_finished_cache_is_read_from_a_store_that_cannot_be_written(
    mine: Covered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    ds = mine.open()
    Images(ds, decoded=True)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert same(Images(ds, decoded=True), Images(ds))
    with pytest.raises(UsageError, match=r"cannot be written: .*Read-only.*leave `decoded` out"):
        Images(ds, 16, decoded=True)


def test_a_disk_that_fills_while_it_is_made_is_said_and_nothing_is_left(mine: Covered) -> None:
    ds = mine.open()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        Images(ds, decoded=True)

    process, answers = in_child(work)
    said = answers.get()
    process.join()
    assert said.startswith(
        "UsageError('the decoded cache cannot be written: [Errno 27] File too large"
    )
    assert left(ds) == []


def test_killed_while_it_is_made_it_leaves_nothing_that_looks_finished(
    mine: Covered, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = mine.open()
    real, calls = Images._decode, 0

    def dies(self: Images, *rest: Any) -> None:
        nonlocal calls
        calls += 1
        real(self, *rest)
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Images, "_decode", dies)
        process, _ = in_child(lambda: Images(ds, decoded=True))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert cached(ds) == {}
    assert len(left(ds)) == 1  # what it had
    images = Images(mine.open(), decoded=True)
    assert same(images, Images(ds))
    assert left(ds) == [images.cache.name]


def test_processes_that_make_it_at_once_all_read_it(
    mine: Covered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun's ranks do."""
    ds = mine.open()
    barrier = multiprocessing.get_context("fork").Barrier(3)
    real = loaders.images.hash_of

    def together(value: Any) -> str:
        barrier.wait(30)
        return real(value)

    monkeypatch.setattr(loaders.images, "hash_of", together)
    children = [in_child(lambda: arrays(Images(ds, decoded=True).of(SOME)[0])) for _ in range(3)]
    found = [answers.get() for _, answers in children]
    for process, _ in children:
        process.join()
    monkeypatch.undo()
    want = arrays(Images(ds).of(SOME)[0])
    assert [one if isinstance(one, str) else np.array_equal(one, want) for one in found] == [
        True
    ] * 3
    assert len(left(ds)) == 1


def test_a_cache_that_went_or_was_cut_is_said_at_the_first_access(mine: Covered) -> None:
    ds = mine.open()
    gone, cut = Images(ds, 16, decoded=True), Images(ds, decoded=True)
    gone.cache.unlink()
    os.truncate(cut.cache, 5000)
    for images in (gone, cut):
        with pytest.raises(CheckFailed, match=rf"{images.cache}.*"):
            images.of(SOME)


@pytest.mark.parametrize("decoded", [False, True])
def test_a_pickled_copy_reads_the_same_and_carries_no_pixels(ds: Dataset, decoded: bool) -> None:
    images = Images(ds, decoded=decoded)
    images.of(SOME)
    packed = pickle.dumps(images)
    assert len(packed) < decoded_bytes(ds) / 10
    assert same(pickle.loads(packed), images)


def equal(a: Batch, b: Batch) -> bool:
    fields = ("users", "unique_items", "inverse", "negatives", "has_text", "pixels", "has_image")
    return a.text == b.text and all(torch.equal(getattr(a, f), getattr(b, f)) for f in fields)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on few cores
@pytest.mark.parametrize(("workers", "decoded"), [(1, False), (2, False), (4, False), (2, True)])
def test_workers_change_no_pixel(ds: Dataset, workers: int, decoded: bool) -> None:
    alone = Sequences(ds, content=("text", "image"), image_size=16)
    shared = Sequences(ds, content=("text", "image"), image_size=16, decoded=decoded)
    want = list(make_loader(alone, 5, seed=1).at(0))
    found = list(make_loader(shared, 5, seed=1, workers=workers).at(0))
    assert len(want) == len(found) == 4
    assert all(map(equal, want, found))


def test_items_with_a_title_or_a_cover_alone_are_data(
    ds: Dataset, published: dict[int, bytes]
) -> None:
    """Every unique item has its own text and picture, and what is missing is said."""
    sequences = Sequences(ds, content=("text", "image"))
    kinds, ids = set(), ds.item_ids
    numbers = {item_id(n): n for n in range(1, ITEMS + 1)}
    for batch in make_loader(sequences, 4, seed=0).at(0):
        assert batch.pixels.shape == (len(batch.unique_items), 3, SIZE, SIZE)
        for row, item in enumerate(batch.unique_items.tolist()):
            number = numbers[ids[item - 1]]
            assert batch.text[row] == (f"Title {number}" if number % UNTITLED else "")
            assert bool(batch.has_text[row]) == bool(batch.text[row])
            assert bool(batch.has_image[row]) == (item in published)
            if item in published:
                decoded = simplejpeg.decode_jpeg(published[item], "RGB")
                assert np.array_equal(arrays(batch.pixels)[row], decoded)
            kinds.add((bool(batch.has_text[row]), bool(batch.has_image[row])))
    assert len(kinds) == 4


def test_a_dataset_without_covers_is_sent_to_import_and_prepare(
    tmp_path: Path, made: Covered
) -> None:
    bare = Covered(tmp_path, Home(tmp_path / "home"))
    bare.import_from(write_tables(tmp_path / "release"))
    bare.prepare()
    ds = bare.open()
    message = "drawn has no prepared covers; run: ninerec import drawn PATH .*, then: ninerec prepare drawn"
    asked: list[Callable[[], Any]] = [
        lambda: Sequences(ds, content=("image",)),
        lambda: Images(ds),
        lambda: ds.cover_size,
        lambda: ds.covers_index,
    ]
    for ask in asked:
        with pytest.raises(MissingData, match=message):
            ask()
    assert ds.has_cover.tolist() == [False] * (ITEMS + 1)


def test_features_without_a_bundle_are_refused(ds: Dataset) -> None:
    with pytest.raises(
        UsageError, match=r"'features' needs a bundle: Sequences.*ninerec embed drawn"
    ):
        Sequences(ds, content=("features",))


def vanish(ds: Dataset) -> None:
    ds.covers.path(ONE).unlink()


def replaced(ds: Dataset) -> None:
    path = ds.covers.path(ONE)
    other = path.with_name("other")
    shutil.copy(path, other)
    other.replace(path)


def truncated(ds: Dataset) -> None:
    os.truncate(ds.covers.path(ONE), 10)


def folder(ds: Dataset) -> None:
    vanish(ds)
    ds.covers.path(ONE).mkdir()


def poked(at: Callable[[int], int], data: bytes) -> Damage:
    """Bytes of the JPEG changed behind the file system's back: same file, size and time."""

    def damage(ds: Dataset) -> None:
        path, size = ds.covers.path(ONE), int(ds.covers.size[ONE])
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(int(ds.covers.offset[ONE]) + at(size))
            file.write(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage


def small_jpeg() -> bytes:
    return simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))


DAMAGE = {
    "vanished": (vanish, "No such file"),
    "replaced": (replaced, "changed since the dataset was opened"),
    "truncated": (truncated, "changed since the dataset was opened"),
    "a folder": (folder, "Is a directory"),
    "no JPEG": (poked(lambda _: 0, bytes(4)), ""),
    "an end within": (poked(lambda size: size // 2 + 100, b"\xff\xd9"), ""),
    "no end": (poked(lambda size: size - 40, bytes(40)), ""),
    "a smaller picture": (poked(lambda _: 0, small_jpeg()), ""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_cover_that_cannot_be_read_is_named_at_the_first_access(mine: Covered, kind: str) -> None:
    damage, why = DAMAGE[kind]
    ds = mine.open()
    images, smaller = Images(ds), Images(ds, 16)
    others = np.array([item for item in GOOD if item <= 1000])
    images.of(others)  # of another shard: still good afterwards
    path = ds.covers.path(ONE)
    damage(ds)
    message = rf"the cover of item {ONE} \({item_id(ONE)}\) cannot be read from {path}: .*{why}.*verify drawn --repair"
    for one in (images, smaller) if kind != "a smaller picture" else (images,):
        with pytest.raises(CheckFailed, match=message):
            one.of(np.array([ONE, 1, *others]))
        one.of(others)


@pytest.mark.parametrize("kind", ["vanished", "an end within"])
def test_from_a_worker_it_is_the_same_one_error(mine: Covered, kind: str) -> None:
    ds = mine.open()
    sequences = Sequences(ds, content=("image",))
    DAMAGE[kind][0](ds)
    with pytest.raises(CheckFailed) as found:
        list(make_loader(sequences, 5, workers=2).at(0))
    assert str(ds.covers.path(ONE)) in str(found.value)
    assert "Traceback" not in str(found.value)
    assert "worker process" not in str(found.value)
    assert str(found.value).startswith("the cover of item ")


@pytest.mark.parametrize("kind", ["vanished", "no end"])
def test_a_damaged_cover_ends_the_cache_and_leaves_nothing(mine: Covered, kind: str) -> None:
    ds = mine.open()
    DAMAGE[kind][0](ds)
    with pytest.raises(CheckFailed, match=r"the cover of item .* cannot be read"):
        Images(ds, decoded=True)
    assert left(ds) == []
