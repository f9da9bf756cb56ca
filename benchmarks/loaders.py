"""Covers and sequence batches per second, beside the ways that other code reads them.

    pip install -e '.[bench,export]'         # for this benchmark only
    python benchmarks/loaders.py             # some five minutes on two cores; 11 GB of disk, and of memory to cache it
    python benchmarks/loaders.py --items 1000 --rounds 3

20,000 covers of 224x224, quality 95, 4:2:0, are imported and prepared as a user would: 400 pictures, each a
crop of a photograph (soft noise where those are absent), many times over, so that drawing them costs little.
Everything reads the same JPEGs, from the page cache; what runs alternates, batch by batch, so that what else
the machine does falls on all alike, and medians of the rounds count. Compare ratios only, on idle cores.

images      832 random items a batch, in one thread and in two, to uint8. `bare` is decoding alone of bytes
            in memory with the same codec, its pixels dropped: the limit.
sequences   train batches of 64 users of bili_food's real sequences with negatives, its items given drawn
            covers; on one core, ready in host memory. The reference's store holds 224x224 pictures, which
            favours it: released stores hold full-size ones.
ids         the same without content, on one core.

Prints JSON; exit 1 where a bar is missed. Without the real data the last two are skipped, and say so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Python puts this file's folder first, where `loaders` would be this file.
sys.path.sort(key=lambda path: Path(path) == Path(__file__).parent)

import _loaders_peers as peers
import numpy as np
import torch
from _loaders_peers import LMDB_Image  # noqa: F401 - see _loaders_peers.Store
from download_corpus import DATA, photographs

from loaders import Images, Loader, Sequences, make_loader
from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.catalog import find
from ninerec_data.export import export
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare

ITEMS, BATCH, USERS = 20_000, 832, 64
PICTURES, CROP = 400, (140, 240)  # how many, and how high: some 16 KB each when enlarged to 224
CATALOG = 'title = "Drawn"\nformat = "generic"\nrelease = "drawn"\ntext = { en = ["title_en"] }\n'
REAL = Path("ninerec") / "Downstream_datasets" / "Bili_Food"
TO_BARE, FROM_JPEG, DECODED = 0.7, 5, 20  # what ours must reach
IDS, IDS_USERS = 5, 200_000  # one of the two
Timed = Callable[[], int]  # gives how many of what it counts it made
Rates = Mapping[str, np.ndarray[Any, Any]]


def draw(folder: Path, data: Path, seed: int) -> list[Path]:
    """Pictures to link covers to."""
    rng, photos, paths = np.random.default_rng(seed), photographs(data), []
    folder.mkdir()
    for number in range(PICTURES):
        photo = photos[number % len(photos)]
        high = int(rng.integers(*CROP))
        wide = high * 16 // 9
        left, top = rng.integers(photo.width - wide), rng.integers(photo.height - high)
        crop = photo.resize((peers.SIDE,) * 2, box=(left, top, left + wide, top + high))
        paths.append(folder / f"{number}.jpg")
        crop.save(paths[-1], quality=95, subsampling="4:2:0")
    return paths


def cover(folder: Path, item_ids: list[str], pictures: list[Path]) -> None:
    """Give every item one of the pictures."""
    folder.mkdir(parents=True)
    for item_id, picture in zip(item_ids, itertools.cycle(pictures)):
        (folder / f"{item_id}.jpg").hardlink_to(picture)


def drawn_dataset(work: Path, items: int, pictures: list[Path]) -> Dataset:
    """A release in the generic layout, brought in as a user would."""
    (work / "catalog").mkdir()
    (work / "catalog" / "drawn.toml").write_text(CATALOG)
    os.environ["NINEREC_CATALOG"] = str(work / "catalog")
    release, ids = work / "release", [f"v{n}" for n in range(1, items + 1)]
    cover(release / "covers", ids, pictures)
    rows = (f"u{n // 10},{item_id}" for n, item_id in enumerate(ids))
    titles = (f"{item_id},A title" for item_id in ids)
    (release / "interactions.csv").write_text("\n".join(["user_id,item_id", *rows]))
    (release / "items.csv").write_text("\n".join(["item_id,title_en", *titles]))
    return prepared(work, "drawn", release)


def real_dataset(work: Path, data: Path, pictures: list[Path]) -> Dataset:
    """bili_food, its items given drawn covers."""
    ds = prepared(work, "bili_food", data / REAL)
    cover(work / f"{REAL.name}_cover", ds.item_ids, pictures)
    return prepared(work, "bili_food", work / f"{REAL.name}_cover")


def prepared(work: Path, name: str, release: Path) -> Dataset:
    """Import what `release` has of a dataset, prepare it again and open it."""
    home, entry = Home(work / "home"), find(name)[0]
    import_release(home, entry, release)
    prepare(home, entry)
    return open_dataset(name, home=home)


def alternate(ways: Mapping[str, Timed], rounds: int) -> Rates:
    """Counts a second of wall and of processor time, (2, rounds) by way.

    Each runs once without being timed, then once a round; none always comes first.
    """
    for way in ways.values():
        way()
    found = {name: np.zeros((2, rounds)) for name in ways}
    for turn in range(rounds):
        for at in np.roll(range(len(ways)), turn):
            name = list(ways)[at]
            wall, cpu = time.perf_counter(), time.process_time()
            count = ways[name]()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            found[name][:, turn] = np.divide(count, spent)
    return found


def medians(found: Rates, digits: int = 0, clock: int = 0) -> dict[str, float]:
    """Of wall time, or with `clock` 1 of processor time."""
    return {name: round(float(np.median(rates[clock])), digits) for name, rates in found.items()}


def ratio(found: Rates, one: str, other: str) -> dict[str, float]:
    """Of one way's rate to another's, median of the rounds; `cpu` tells what a busy machine did to `wall`."""
    wall, cpu = np.median(found[one] / found[other], axis=1)
    return {"wall": round(float(wall), 2), "cpu": round(float(cpu), 2)}


def image_ways(ds: Dataset, work: Path) -> Callable[[int], dict[str, peers.Way]]:
    """Make every store; gives the ways with some threads."""
    jpegs = [b"", *(ds.cover(item) or b"" for item in range(1, ds.n_items + 1))]
    export(ds, "files", work / "files")
    export(ds, "lmdb", work / "lmdb")
    peers.write_parquet(work / "rows.parquet", jpegs)
    peers.write_raw(work / "raw.npy", jpegs)
    store = peers.Store(work / "lmdb" / f"{ds.name}.lmdb", ds)
    shards = list((ds.folder / "covers").glob("*.tar"))

    def ways(threads: int) -> dict[str, peers.Way]:
        parts = peers.Parts(threads)
        return {
            "ours": Images(ds, threads=threads).of,
            "bare": peers.bare(jpegs, parts),
            "ours_decoded": Images(ds, threads=threads, decoded=True).of,
            "raw_memmap": peers.raw(work / "raw.npy", parts),
            "files_pillow": peers.files(work / "files" / "covers", ds, parts),
            "lmdb_reference_float32": peers.reference(store, parts),
            "parquet_random_rows": peers.parquet(work / "rows.parquet", parts),
            "webdataset_sequential": peers.sequential(shards, parts),
        }

    return ways


def images(ds: Dataset, work: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Images a second of every way."""
    make, every = image_ways(ds, work), np.arange(1, ds.n_items + 1)
    result: dict[str, Any] = {"ours_to_bare": {}}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ways = make(threads)
        for name in ("ours_decoded", "raw_memmap"):  # until all of it is mapped
            for at in range(0, ds.n_items, BATCH):
                ways[name](every[at : at + BATCH])
        timed = {
            name: partial(take, way, np.random.default_rng(seed), ds.n_items)
            for name, way in ways.items()
        }
        found = alternate(timed, rounds)
        result[f"threads_{threads}"] = medians(found)
        result[f"threads_{threads}_per_cpu_second"] = medians(found, clock=1)
        pair = alternate({name: timed[name] for name in ("ours", "bare")}, 3 * rounds)
        result["ours_to_bare"][threads] = ratio(pair, "ours", "bare")
    return result


def take(way: peers.Way, rng: np.random.Generator, n_items: int) -> int:
    way(rng.integers(1, n_items + 1, BATCH))
    return BATCH


def reference_users(loader: Any, batches: int) -> int:
    return sum(len(mask) for _, mask in itertools.islice(loader, batches))


def our_users(loader: Loader, epochs: Iterator[int], batches: int) -> int:
    """The last batches of the next epoch."""
    rest = loader.at(next(epochs), len(loader) - batches)
    return sum(len(batch.users) for batch in rest)


def sequences(ds: Dataset, work: Path, rounds: int) -> dict[str, Any]:
    """Whole batches a second on one core."""
    torch.set_num_threads(1)
    export(ds, "lmdb", work)
    dataset = peers.Reference(ds, peers.Store(work / f"{ds.name}.lmdb", ds))
    reference = torch.utils.data.DataLoader(dataset, USERS, shuffle=True)
    ours, decoded = (
        make_loader(Sequences(ds, "train", ("image",), threads=1, decoded=cached), USERS)
        for cached in (False, True)
    )
    ways = {
        "reference": partial(reference_users, reference, 1),
        "ours": partial(our_users, ours, itertools.count(), 4),
        "ours_decoded": partial(our_users, decoded, itertools.count(), 16),
    }
    found = {name: users / USERS for name, users in alternate(ways, rounds).items()}
    shown = [len(batch.unique_items) for batch in ours.at(0, len(ours) - 9)]
    return {
        "batches_per_second": medians(found, 2),
        "reference_slots_a_batch": 2 * USERS * (dataset.length + 1),
        "our_images_a_batch": round(float(np.median(shown))),
        "ours_to_reference": ratio(found, "ours", "reference"),
        "decoded_to_reference": ratio(found, "ours_decoded", "reference"),
    }


def ids(ds: Dataset, rounds: int) -> dict[str, Any]:
    """Users a second on one core, of whole epochs without content."""
    torch.set_num_threads(1)
    reference = torch.utils.data.DataLoader(peers.Reference(ds), USERS, shuffle=True)
    ours = make_loader(Sequences(ds, "train"), USERS)
    ways = {
        "reference": partial(reference_users, reference, len(reference)),
        "ours": partial(our_users, ours, itertools.count(), len(ours)),
    }
    found = alternate(ways, rounds)
    return {"users_per_second": medians(found), "to_reference": ratio(found, "ours", "reference")}


def held(found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether what must hold does."""
    bare = found["images_per_second"]["ours_to_bare"]
    must = {
        f"{n} threads: at least {TO_BARE} of bare decoding": bare[n]["wall"] >= TO_BARE
        for n in bare
    }
    if "skipped" in found:
        return must
    whole, alone = found["sequences"], found["ids"]
    enough = alone["to_reference"]["wall"] >= IDS or alone["users_per_second"]["ours"] >= IDS_USERS
    return must | {
        f"whole batches at least {FROM_JPEG} times the reference": (
            whole["ours_to_reference"]["wall"] >= FROM_JPEG
        ),
        f"from the decoded cache at least {DECODED} times": (
            whole["decoded_to_reference"]["wall"] >= DECODED
        ),
        f"ids at least {IDS} times the reference, or {IDS_USERS:,} users a second": enough,
    }


def compare(work: Path, data: Path, items: int, rounds: int, seed: int) -> dict[str, Any]:
    """Run everything."""
    pictures = draw(work / "pictures", data, seed)
    ds = drawn_dataset(work, items, pictures)
    mean = np.mean([len(ds.cover(item) or b"") for item in range(1, items + 1)])
    found = {
        "covers": f"{items:,} names of {PICTURES} pictures, {mean / 1000:.2f} KB on average",
        "images_per_second": images(ds, work, rounds, seed),
    }
    if not (data / REAL).is_dir():
        skipped = f"sequences and ids: no {REAL} in {data}; name its folder with --data"
        return found | {"skipped": skipped}
    real = real_dataset(work, data, pictures)
    return found | {
        "sequences": sequences(real, work / "real", rounds),
        "ids": ids(real, 5 * rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    named = ("torch", "torchvision", "pillow", "simplejpeg", "lmdb", "pyarrow", "webdataset")
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    about = {
        "rounds": args.rounds,
        "seed": args.seed,
        "load_before": os.getloadavg()[0],
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in named},
    }
    with tempfile.TemporaryDirectory(prefix="loaders-") as folder:
        found = compare(Path(folder), args.data, args.items, args.rounds, args.seed)
    must = held(found)
    print(json.dumps(about | found | {"must_hold": must}, indent=2))
    return 0 if all(must.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
