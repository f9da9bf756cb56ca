"""The other ways to covers and to sequences that `loaders.py` times ours beside.

A `Way` takes the items of a batch and gives their pictures; its threads take equal parts of the batch.
`Reference` is the papers' dataset (PAPERS_AND_CODE 2.6, 3.1, 6.3): a user at a time, in Python.
"""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms

from ninerec_data import Dataset

SIDE = 224
ROW_GROUP = 100
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Way = Callable[[Ints], Any]
Jpegs = list[bytes]  # by item; nothing at 0


class Parts:
    """Runs work on the places of a batch, an equal part in each thread."""

    def __init__(self, threads: int) -> None:
        self.threads, self.pool = threads, ThreadPoolExecutor(threads)

    def __call__(self, count: int, work: Callable[[list[int]], None]) -> None:
        if self.threads == 1:
            work(list(range(count)))
        else:
            parts = np.array_split(np.arange(count), self.threads)
            list(self.pool.map(work, [part.tolist() for part in parts]))


def empty(count: int) -> Pixels:
    return np.empty((count, SIDE, SIDE, 3), np.uint8)


def bare(jpegs: Jpegs, parts: Parts) -> Way:
    """Decoding alone: bytes in memory, pixels dropped. No store can be faster."""

    def way(items: Ints) -> None:
        def work(places: list[int]) -> None:
            for place in places:
                simplejpeg.decode_jpeg(jpegs[items[place]], "RGB")

        parts(len(items), work)

    return way


def files(folder: Path, ds: Dataset, parts: Parts) -> Way:
    """A file a cover, read by Pillow."""
    paths = ["", *(str(folder / f"{item_id}.jpg") for item_id in ds.item_ids)]

    def way(items: Ints) -> Pixels:
        out = empty(len(items))

        def work(places: list[int]) -> None:
            for place in places:
                with Image.open(paths[items[place]]) as image:
                    out[place] = image.convert("RGB")

        parts(len(items), work)
        return out

    return way


def write_parquet(path: Path, jpegs: Jpegs) -> None:
    """JPEGs as a column, uncompressed."""
    table = pa.table({"jpeg": pa.array(jpegs[1:], pa.binary())})
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="none", use_dictionary=False)


def parquet(path: Path, parts: Parts) -> Way:
    """Random rows; a row group is read once for all the rows that a thread needs of it."""

    def way(items: Ints) -> Pixels:
        out = empty(len(items))
        items = np.sort(items)  # so that threads share no row group

        def work(places: list[int]) -> None:
            with pq.ParquetFile(path, memory_map=True) as file:
                group = -1
                for place in places:
                    if (items[place] - 1) // ROW_GROUP != group:
                        group = int(items[place] - 1) // ROW_GROUP
                        rows = file.read_row_group(group, use_threads=False)["jpeg"]
                    jpeg = rows[int(items[place] - 1) % ROW_GROUP].as_py()
                    simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out[place])

        parts(len(items), work)
        return out

    return way


def sequential(shards: Iterable[Path], parts: Parts) -> Way:
    """As many pictures as are asked for, whichever come next in the shards."""
    names = [str(path) for path in sorted(shards)]
    samples = iter(webdataset.WebDataset(names, shardshuffle=False, empty_check=False).repeat())

    def way(items: Ints) -> Pixels:
        out = empty(len(items))
        jpegs = [sample["jpg"] for sample in itertools.islice(samples, len(items))]

        def work(places: list[int]) -> None:
            for place in places:
                simplejpeg.decode_jpeg(jpegs[place], "RGB", buffer=out[place])

        parts(len(items), work)
        return out

    return way


def write_raw(path: Path, jpegs: Jpegs) -> None:
    """Pixels by item."""
    shape = (len(jpegs), SIDE, SIDE, 3)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for item in range(1, len(jpegs)):
        simplejpeg.decode_jpeg(jpegs[item], "RGB", buffer=rows[item])


def raw(path: Path, parts: Parts) -> Way:
    """Raw uint8, mapped, rows taken by number."""
    rows = np.load(path, mmap_mode="r")

    def way(items: Ints) -> Pixels:
        out = empty(len(items))

        def work(places: list[int]) -> None:
            part = slice(places[0], places[-1] + 1)
            np.take(rows, items[part], axis=0, out=out[part], mode="clip")

        parts(len(items), work)
        return out

    return way


class LMDB_Image:
    """What the reference pickles of a cover (PAPERS_AND_CODE 1.2)."""

    channels: int
    size: tuple[int, int]
    image: bytes
    id: str

    def get_image(self) -> Pixels:
        return np.frombuffer(self.image, np.uint8).reshape(*self.size, self.channels)


class Store:
    """The LMDB that `ninerec export --to lmdb` wrote, read as the reference reads such a store.

    Its values name `__main__.LMDB_Image`: the script that reads it must hold that name.
    """

    def __init__(self, path: Path, ds: Dataset) -> None:
        self.keys = [b"", *(item_id.encode() for item_id in ds.item_ids)]
        self.env = lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False
        )
        half = (0.5, 0.5, 0.5)
        steps = transforms.Resize((SIDE, SIDE)), transforms.ToTensor()
        self.transform = transforms.Compose([*steps, transforms.Normalize(half, half)])

    def read(self, item: int) -> torch.Tensor:
        """(3, 224, 224) float32."""
        with self.env.begin() as transaction:
            stored = pickle.loads(transaction.get(self.keys[item]))
        pixels: torch.Tensor = self.transform(Image.fromarray(stored.get_image()).convert("RGB"))
        return pixels


def reference(store: Store, parts: Parts) -> Way:
    """The reference's store and transforms, each item of the batch once, float32."""

    def way(items: Ints) -> torch.Tensor:
        out = torch.empty(len(items), 3, SIDE, SIDE)

        def work(places: list[int]) -> None:
            for place in places:
                out[place] = store.read(int(items[place]))

        parts(len(items), work)
        return out

    return way


class Reference(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The papers' train samples: (2, L+1) ids, or (2, L+1, 3, 224, 224) pixels, of a user and (L,) mask.

    Row 0 is the sequence, row 1 a negative for each transition, both padded on the left; pixels are put
    into float64 and turned into float32, every slot and pad (3.1, 6.3). One store is kept open.
    """

    def __init__(self, ds: Dataset, store: Store | None = None) -> None:
        table = ds.sequences
        table = table.filter(np.asarray(table["role"]) == "train")
        self.length, self.n_items, self.store = ds.protocol.split.keep_last - 3, ds.n_items, store
        bounds = zip(table["start"].to_pylist(), table["end"].to_pylist(), strict=True)
        rows = ds.item_of_row.tolist()
        sequences = (rows[start : end - 2][-self.length - 1 :] for start, end in bounds)
        self.users = [items for items in sequences if len(items) > 1]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, user: int) -> tuple[torch.Tensor, torch.Tensor]:
        items = self.users[user]
        pads, negatives = self.length + 1 - len(items), []
        for _ in items[1:]:
            negative = random.randint(1, self.n_items)
            while negative in items:
                negative = random.randint(1, self.n_items)
            negatives.append(negative)
        mask = torch.FloatTensor([0] * pads + [1] * len(negatives))
        if self.store is None:
            return torch.LongTensor([[0] * pads + items, [0] * pads + negatives + [0]]), mask
        pixels = np.zeros((2, self.length + 1, 3, SIDE, SIDE))
        for row, some in enumerate((items, negatives)):
            for place, item in enumerate(some, start=pads):
                pixels[row, place] = self.store.read(item)
        return torch.FloatTensor(pixels), mask
