"""Memory, speed and start-up of the downloader at the size of the largest datasets, and the card's own command.

    python benchmarks/download_scale.py                    # 150,000 items; the card: 282,179 items of two datasets
    python benchmarks/download_scale.py --scale 0.02       # a try

A local origin, in a process of its own, draws a tiny picture of its own for every address.

- memory: the pictures of one mapping, by --keep original and by --keep resized; peak memory (VmHWM) under 300 MB
- start-up: the same again, with nothing left to ask: under 3 seconds from the process's start to its end
- card: `ninerec download bili_500k bili_2m` from one archive on Drive with as many items as the real one, a tenth of
  the users and interactions, and bilibili's pages as the mapping; most items are in both datasets, some share a page.
  Nothing is asked for twice, no picture is stored twice, every item has its cover; run again, nothing is asked for

Prints JSON; exit 1 where one of these does not hold (memory and start-up: at full size only).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from suite import SIZES, _titles, _write_pairs, run

ITEMS = 150_000
CATALOG = """\
title = "Drawn, of tiny pictures"
format = "ninerec"
options = { stem = "Tiny" }
text = { zh = ["title_zh"], en = ["title_en"] }
modalities = ["text", "image"]
"""
# A download as a process of its own; says what came of it and the most memory it had.
DOWNLOAD = """
import json, sys, time
from pathlib import Path
from downloader.download import download
from downloader.options import Options
from ninerec_data.catalog import find
from ninerec_data.home import Home
home, names, given = sys.argv[1], sys.argv[2].split(), json.loads(sys.argv[3])
if "mapping" in given:
    given["mapping"], given["parts"] = Path(given["mapping"]), ("covers",)
began = time.perf_counter()
report = download(Home(Path(home)), [find(name)[0] for name in names], Options(**given))
took = time.perf_counter() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "outcomes": report.counts, "said": report.said, "requests": report.requests.total(),
    "seconds_of_download": round(took, 2), "vm_hwm_mib": int(peak.split()[1]) // 1024,
}))
"""
# An origin that ends with its standard input, and says then what it was asked for.
ORIGIN = """
import json, sys
from collections import Counter
from pathlib import Path
from downloader.origin import Origin, serving
files = {"drive.google.com/" + name: Path(path) for name, path in json.loads(sys.argv[1]).items()}
origin = Origin(files=files)
with serving(origin) as base:
    print(base, flush=True)
    for _ in sys.stdin:
        hosts = Counter(key.partition("/")[0] for key in origin.requests)
        more = sum(n > 1 for n in origin.requests.values())
        print(json.dumps({"addresses": dict(hosts), "asked_more_than_once": more}), flush=True)
"""


class Asked:
    """The origin from outside. base: for `--mirror`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.base = self._line()

    def counts(self) -> dict[str, Any]:
        """Addresses asked for, by host, and how many of them more than once; since it began."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def origin(files: dict[str, Path]) -> Iterator[Asked]:
    """Serve in another process. files: by their id on Drive."""
    words = [sys.executable, "-c", ORIGIN, json.dumps({k: str(path) for k, path in files.items()})]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        yield Asked(process)
        assert process.stdin
        process.stdin.close()


def downloaded(folder: Path, home: Path, names: str, **given: Any) -> dict[str, Any]:
    """Download once; what it said and what it cost."""
    said, cost = run(folder, "-c", DOWNLOAD, str(home), names, json.dumps(given))
    return {**said, "seconds": cost["seconds"], "cpu_seconds": cost["cpu_seconds"]}


def blobs(home: Path) -> int:
    return sum(1 for _ in (home / "raw" / "blobs").glob("??/*"))


def measure_memory(folder: Path, items: int) -> dict[str, Any]:
    """Both ways to keep, each from nothing and again."""
    (folder / "catalog").mkdir()
    (folder / "catalog" / "tiny.toml").write_text(CATALOG)
    os.environ["NINEREC_CATALOG"] = str(folder / "catalog")
    mapping, found = folder / "Tiny_url.csv", {}
    with mapping.open("w") as file:
        for n in range(items):
            hidden = f"{n}".encode().hex()
            file.write(f"v{n},https://i{n % 3}.hdslb.com/bfs/archive/{hidden}{'0' * 16}.jpg\n")
    for keep in ("original", "resized"):
        home = folder / keep
        with origin({}) as asked:
            given = {"mirror": asked.base, "mapping": str(mapping), "keep": keep}
            first = downloaded(folder, home, "tiny", **given)
            again = downloaded(folder, home, "tiny", **given)
            counts = asked.counts()
        rate = round(items / first["seconds_of_download"])
        first = {**first, "images_per_second": rate, "blobs": blobs(home)}
        found[keep] = {"first": first, "again": again, "origin": counts}
    return found


def draw_release(folder: Path, scale: float, seed: int) -> int:
    """Write the archive of both datasets, without covers; returns the number of pages in the mapping."""
    rng = np.random.default_rng(seed)
    small, large = (size.scaled(scale) for size in SIZES.values())
    total = large.items + small.items // 133  # the rest is Bili_500K's alone
    alone = np.arange(large.items, total)
    shared = rng.permutation(large.items)[: small.items - len(alone)]
    names = rng.choice(10 * total, total, replace=False)
    titles = pl.DataFrame({"item": names}).select(pl.format("v{}", "item"), *_titles(total, rng))
    page = np.arange(total) - (np.arange(total) % 1000 == 999)  # one of a thousand is another's
    urls = pl.DataFrame({"item": names, "page": page}).select(
        pl.format("v{}", "item"),
        pl.format("https://www.bilibili.com/video/BV{}", pl.col("page").cast(str).str.zfill(10)),
    )
    folder.mkdir()
    for size, items in ((small, np.concatenate([shared, alone])), (large, np.arange(large.items))):
        items = rng.permutation(items)
        less = type(size)(size.stem, size.users // 10, size.items, size.rows // 10, size.least)
        titles[items].write_csv(folder / f"{size.stem}_item.csv", include_header=False)
        urls[items].write_csv(folder / f"{size.stem}_url.csv", include_header=False)
        _write_pairs(folder / f"{size.stem}_pair.csv", less, names[items], rng)
    with tarfile.open(folder / "Source_datasets.tar.gz", "w:gz", compresslevel=1) as tar:
        for path in sorted(folder.glob("*.csv")):
            tar.add(path, path.name)
    return len(np.unique(page))


def measure_card(folder: Path, scale: float, seed: int) -> tuple[dict[str, Any], dict[str, bool]]:
    """Both datasets from nothing, and again."""
    from ninerec_data.catalog import find

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # its memory is not ours
        pages = pool.submit(draw_release, folder / "release", scale, seed).result()
    drive = next(s.url for s in find("bili_2m")[0].sources if s.kind == "drive")
    words = ["-m", "ninerec", "download", *SIZES, "--home", str(folder / "card")]
    with origin({drive.split("/")[5]: folder / "release" / "Source_datasets.tar.gz"}) as asked:
        words += ["--mirror", asked.base, "--accept-terms", "--json"]
        outcomes, first = run(folder, *words)
        counts = asked.counts()
        outcomes_again, again = run(folder, *words)
        same = asked.counts() == counts and outcomes_again == outcomes
    by_host = counts["addresses"]
    pictures = sum(n - 1 for host, n in by_host.items() if host.endswith(".hdslb.com"))
    items = {name: size.scaled(scale).items for name, size in SIZES.items()}
    facts = {
        "every item has its cover": all(
            outcomes[name]["covers"] == {"OK": n} for name, n in items.items()
        ),
        "each page was asked for once": by_host["www.bilibili.com"] == pages + 1,
        "each picture was asked for once": pictures == pages,
        "nothing was asked for twice": counts["asked_more_than_once"] == 0,
        "each picture is stored once": blobs(folder / "card") == pages,
        "run again, nothing was asked for": same,
    }
    cost = {"first": first, "again": again}
    found = {"items": items, "pages": pages, "outcomes": outcomes, "cost": cost, "origin": counts}
    return found, facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1, help="share of the full sizes (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("memory", "card"), help="one part alone")
    args = parser.parse_args()
    found: dict[str, Any] = {"scale": args.scale, "cores": len(os.sched_getaffinity(0))}
    facts: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="download-scale-") as name:
        folder = Path(name)
        if args.only != "memory":
            found["card"], facts = measure_card(folder, args.scale, args.seed)
        if args.only != "card":
            items = round(ITEMS * args.scale)
            found["memory"] = measure_memory(folder, items)
            for keep, runs in found["memory"].items():
                once = (
                    runs["first"]["blobs"] == items and runs["origin"]["asked_more_than_once"] == 0
                )
                facts[f"{keep}: each picture asked for and stored once"] = once
                if args.scale == 1:
                    facts[f"{keep}: under 300 MB"] = runs["first"]["vm_hwm_mib"] < 286
                    facts[f"{keep}: started in under 3 seconds"] = runs["again"]["seconds"] < 3
    print(json.dumps({**found, "facts": facts}, indent=2))
    return 0 if all(facts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
