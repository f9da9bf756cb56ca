"""The two largest datasets of the suite, drawn at their exact sizes, prepared one after the other.

    python benchmarks/suite.py                    # ten minutes on two cores, 10 GB of disk
    python benchmarks/suite.py --scale 0.01       # a try

A release in NineRec's layout is drawn from a seed: Bili_500K and Bili_2M with the users, items and
interactions of Table 1, no pair twice, skewed popularity, rows in the order of time, two titles an item,
and one folder of tiny covers for both; Bili_500K's items are Bili_2M's but for a few. (tables.py draws
one table for itself, whose pairs repeat.) Each command then runs as a process of its own, with its
seconds and the peak memory that the operating system accounts to it. What must hold:

- a picture is decoded once, though both datasets have it: calls of `make_picture` are counted
- `prepare` of what is prepared does nothing; `stats` says Table 1
- opening Bili_2M takes under 2 seconds; with the arrays that a loader reads, it adds under 1 GiB (the pages of the
  shards that random access maps are the page cache's; they are in the report as RssFile)
- polars, pandas, duckdb and datasets read the same rows and types from items.parquet

Prints JSON; exit 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from ninerec_data.synthetic import MOODS, STYLES, SUBJECTS

Rng = np.random.Generator
Ints = NDArray[np.int64]
MIB = 1024  # KiB, which the operating system counts in
START, SPAN = 1_546_300_800, 110_000_000  # 2019-01-01 UTC, and the seconds that a release covers
BLOCK = 1 << 21  # rows written at once

# `ninerec ...` that also writes how many pictures it decoded.
COUNTED = """
import sys
from ninerec.main import main
from ninerec_data import covers
calls, make = [], covers.make_picture
covers.make_picture = lambda *picture: calls.append(1) or make(*picture)
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(str(len(calls)))
sys.exit(code)
"""
# What a loader reads, and what memory it has after each step: the most so far (VmHWM), its own, and of mapped files.
OPENED = """
import json, random, sys, time
import ninerec_data
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {key: int(lines[key].split()[0]) // 1024 for key in ("VmHWM", "RssAnon", "RssFile")}
mib = {"imported": memory()}
began = time.perf_counter()
ds = ninerec_data.open_dataset("bili_2m", home=sys.argv[1])
seconds, mib["opened"] = time.perf_counter() - began, memory()
arrays = ds.sequences, ds.item_of_row, ds.train_count, ds.in_pool, ds.text("en")
mib["arrays read"] = memory()
some = random.Random(0).choices(range(1, ds.n_items + 1), k=1000)
jpegs = sum((ds.cover(item) or b"").startswith(b"\\xff\\xd8") for item in some)
mib["covers read"] = memory()
print(json.dumps({"seconds_of_open_dataset": round(seconds, 3), "mib": mib, "jpegs_of_1000": jpegs}))
"""


@dataclass(frozen=True, slots=True)
class Size:
    """One dataset of Table 1. least: interactions of a user at least."""

    stem: str
    users: int
    items: int
    rows: int
    least: int

    def scaled(self, by: float) -> Size:
        users, items, rows = (round(n * by) for n in (self.users, self.items, self.rows))
        return Size(self.stem, users, items, rows, self.least)


SIZES = {
    "bili_500k": Size("Bili_500K", 500_000, 138_033, 7_845_805, 10),
    "bili_2m": Size("Bili_2M", 2_000_000, 144_146, 24_497_157, 5),
}


def draw_release(folder: Path, scale: float, seed: int) -> dict[str, float]:
    """Write both datasets and their covers into `folder`; returns what it cost."""
    began, rng = time.perf_counter(), np.random.default_rng(seed)
    small, large = (size.scaled(scale) for size in SIZES.values())
    total = large.items + small.items // 133  # the rest is Bili_500K's alone
    alone = np.arange(large.items, total)
    shared = rng.permutation(large.items)[: small.items - len(alone)]
    names = rng.choice(10 * total, total, replace=False)
    titles = pl.DataFrame({"item": names}).select(pl.format("v{}", "item"), *_titles(total, rng))
    for size, items in ((small, np.concatenate([shared, alone])), (large, np.arange(large.items))):
        items = rng.permutation(items)
        stem = folder / size.stem / size.stem
        stem.parent.mkdir(parents=True)
        titles[items].write_csv(f"{stem}_item.csv", include_header=False)
        _write_pairs(Path(f"{stem}_pair.csv"), size, names[items], rng)
    _write_covers(folder / "Source_Bili_2M_cover", names, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MIB
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mib": peak}


def _titles(n: int, rng: Rng) -> list[pl.Series]:
    """About as long as Table 1 says: 22 Chinese characters, 19 English words."""
    pairs = [pair for attribute in (SUBJECTS, STYLES, MOODS) for pair in attribute]
    columns = []
    for side, name, length, blank, comma in ((1, "zh", 11, "", "，"), (0, "en", 19, " ", ", ")):
        words = np.array([word for pair in pairs for word in pair[side].split()])
        drawn = words[rng.integers(len(words), size=(n, length))].tolist()
        texts = [blank.join(row[:4]) + comma + blank.join(row[4:]) for row in drawn]
        columns.append(pl.Series(name, texts))
    return columns


def _write_pairs(path: Path, size: Size, names: Ints, rng: Rng) -> None:
    """Write user,item,time: every user and item occurs, no pair twice, in the order of time."""
    shares = rng.lognormal(0, 1, size.users)
    more = rng.multinomial(size.rows - size.least * size.users, shares / shares.sum())
    popularity = np.cumsum(rng.lognormal(0, 2, size.items))

    def draw(n: int) -> Ints:
        return np.searchsorted(popularity, popularity[-1] * rng.random(n))

    item = draw(size.rows)
    item[:: size.rows // size.items][: size.items] = np.arange(size.items)
    pairs = np.repeat(np.arange(size.users), size.least + more) << 32 | item
    pairs.sort()
    while len(again := 1 + np.flatnonzero(pairs[1:] == pairs[:-1])):
        pairs[again] = pairs[again] >> 32 << 32 | draw(len(again))
        pairs.sort()
    rng.shuffle(pairs)
    times = np.sort(rng.integers(START, START + SPAN, size.rows))
    with path.open("wb") as file:
        for at in range(0, size.rows, BLOCK):
            user, item = 1 + (pairs[at : at + BLOCK] >> 32), pairs[at : at + BLOCK] & 0xFFFFFFFF
            rows = pl.DataFrame({"u": user, "v": names[item], "time": times[at : at + BLOCK]})
            rows = rows.select(pl.format("u{}", "u"), pl.format("v{}", "v"), "time")
            rows.write_csv(file, include_header=False)


def _write_covers(folder: Path, names: Ints, seed: int) -> None:
    """Write a tiny JPEG of noise for each item: no two alike."""
    folder.mkdir()

    def some(at: int) -> None:
        part, rng = names[at : at + 1000], np.random.default_rng([seed, at])
        pixels = rng.integers(0, 256, (len(part), 27, 48, 3), np.uint8)
        for name, picture in zip(part, pixels, strict=True):
            jpeg = simplejpeg.encode_jpeg(picture, 85, "RGB", "420")
            (folder / f"v{name}.jpg").write_bytes(jpeg)

    with ThreadPoolExecutor() as pool:
        list(pool.map(some, range(0, len(names), 1000)))


def run(folder: Path, *words: str) -> tuple[Any, dict[str, float]]:
    """Run Python with `words` to its end: what it printed as JSON, and what it cost."""
    began = time.perf_counter()
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen([sys.executable, *words], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0), err.seek(0)
        if process.returncode:
            said = err.read()[-2000:]
            raise SystemExit(f"{' '.join(words[-6:])} ended with {process.returncode}: {said}")
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss // MIB
        cost = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mib": peak}
        return json.load(out), cost


def run_all(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Run every step; by step what it said and what it cost, and the pictures each `prepare` decoded."""
    home, counter = str(folder / "home"), folder / "decoded"
    ninerec, counted = ("-m", "ninerec"), ("-c", COUNTED, str(counter))
    said, cost, decoded = {}, {}, {}

    def step(name: str, *words: str) -> None:
        said[name], cost[name] = run(folder, *words)
        if words[: len(counted)] == counted:
            decoded[name] = int(counter.read_text())

    options = ("--home", home, "--json")
    for name in SIZES:
        step(f"import {name}", *ninerec, "import", name, str(folder / "release"), *options)
        step(f"prepare {name}", *counted, "prepare", name, *options)
    step("prepare bili_2m again", *counted, "prepare", "bili_2m", *options)
    for name in SIZES:
        step(f"stats {name}", *ninerec, "stats", name, *options)
    step("open bili_2m", "-c", OPENED, home)
    return said, cost, decoded


def read_by_all(path: Path, cache: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Rows, and column -> type, of a Parquet file as each library has it."""
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    import duckdb
    import pandas as pd
    from datasets import load_dataset

    loaded = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache))
    tables = {
        "polars": pl.read_parquet(path).to_arrow(),
        "pandas": pa.Table.from_pandas(pd.read_parquet(path), preserve_index=False),
        "duckdb": duckdb.read_parquet(str(path)).to_arrow_table(),
        "datasets": loaded.data,
    }
    same = {"large_string": "string", "string_view": "string"}
    return {
        name: (table.num_rows, {f.name: same.get(str(f.type), str(f.type)) for f in table.schema})
        for name, table in tables.items()
    }


def measure(folder: Path, scale: float, seed: int) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # its memory is not ours
        drawn = pool.submit(draw_release, folder / "release", scale, seed).result()
    said, cost, decoded = run_all(folder)
    prepared = folder / "home" / "prepared"
    readers = read_by_all(prepared / "bili_2m" / "items.parquet", folder / "cache")
    index = pl.concat([pl.read_parquet(prepared / n / "covers" / "index.parquet") for n in SIZES])
    pictures, opened = index["source"].n_unique(), said["open bili_2m"]
    added = opened["mib"]["arrays read"]["VmHWM"] - opened["mib"]["imported"]["VmHWM"]
    facts = {
        "each picture was decoded once": sum(decoded.values()) == pictures,
        "prepared again, nothing was done": said["prepare bili_2m again"]["done"] == [],
        "opened in under 2 seconds": opened["seconds_of_open_dataset"] < 2,
        "opened, it adds under 1 GiB": added < 1024,
        "1,000 covers at random": opened["jpegs_of_1000"] == 1000,
        "items.parquet is the same to all": all(f == readers["polars"] for f in readers.values()),
    }
    for name, size in SIZES.items():
        size, stats = size.scaled(scale), said[f"stats {name}"]
        found = tuple(stats[key] for key in ("users", "items", "interactions"))
        facts[f"{name}: counts"] = found == (size.users, size.items, size.rows)
        facts[f"{name}: matches_published"] = stats["matches_published"] is (scale == 1)
        facts[f"{name}: every cover"] = said[f"prepare {name}"]["covers"]["ok"] == size.items
    return {
        "scale": scale,
        "cores": len(os.sched_getaffinity(0)),
        "cost": {"draw": drawn, **cost},
        "pictures": {"distinct": pictures, "decoded": decoded},
        "open bili_2m": {**opened, "added_mib": added},
        "rows of items.parquet": {name: rows for name, (rows, _) in readers.items()},
        "types of items.parquet": readers["polars"][1],
        "facts": facts,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1, help="share of the exact sizes (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="suite-", dir=args.folder))
    try:
        found = measure(folder, args.scale, args.seed)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    print(json.dumps(found, indent=2))
    return 0 if all(found["facts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
