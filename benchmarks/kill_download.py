"""Kill a download with SIGKILL at random moments; resumed, it must end where an undisturbed one does.

    python benchmarks/kill_download.py                       # 2,000 items, 100 kills
    python benchmarks/kill_download.py --items 200 --rounds 5

A mapping is drawn: pages of bilibili, pictures of qpic, pictures of a plain host, some addresses shared. Of them
12% are gone, a third of those in a backup; 8% answer the first time with a fault; some give a placeholder or a
single pixel for ever. A local origin serves it. One download runs undisturbed, for reference; then each round
starts another in an empty home, kills it at a moment that `seed` draws as a share of the undisturbed duration, and
runs it again, to the end. What must hold after the kill: a blob that has a name holds what the name says. After the
end: the very files of the undisturbed run, blobs and their bytes, one row of provenance for each item with the same
content but for times and attempts; every address asked at most once more, and at most as many such addresses as are
in flight at once (robots.txt, asked once a run, aside). Prints JSON; exit 1 on failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from downloader.covers import AT_ONCE
from downloader.download import download
from downloader.options import Options
from downloader.origin import Origin, serving
from downloader.origin_pages import draw
from ninerec_data.catalog import find
from ninerec_data.files import sha256_file
from ninerec_data.home import Home

NAME = "killed"
CATALOG = """\
title = "Drawn, to be killed"
format = "ninerec"
options = { stem = "Killed" }
text = { zh = ["title_zh"], en = ["title_en"] }
modalities = ["text", "image"]
"""
HEAL = ("503", "reset", "truncated", "html", "short", "empty", "429:0")  # the first time only
PLACEHOLDERS = 8
UNSAID = ("attempts", "first_seen", "last_seen")  # what a kill may change
Row = dict[str, Any]
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["downloader.download", "downloader.origin"])


@dataclass(frozen=True, slots=True)
class World:
    """What is asked for, and how it answers. of: HOST/PATH that is asked -> the address of the mapping it is for."""

    origin: Origin
    mapping: Path
    backup: Path
    of: dict[str, str]


def address(item: int) -> str:
    """Three pages, three of qpic and four plain pictures of ten; every tenth page is that of another item too."""
    if item % 10 < 3:
        return f"https://www.bilibili.com/video/BV{item - 10 * (item % 100 == 10):010d}"
    if item % 10 < 6:
        return f"http://puui.qpic.cn/qqvideo_ori/0/q{item}_228_128/0"
    return f"https://pictures.test/{item}.jpg"


def key_of(item: int) -> str:
    """What is asked of the origin first."""
    url = address(item).partition("//")[2]
    return f"{url}/" if item % 10 < 3 else url


def draw_world(folder: Path, items: int, seed: int) -> World:
    """Write the mapping, the backup and the catalog; make the origin."""
    rng = random.Random(seed)
    gone = {n for n in range(items) if rng.random() < 0.12}
    plain = [n for n in range(items) if n % 10 > 5 and n not in gone]
    heal = {key_of(n): rng.choice(HEAL) for n in range(items) if rng.random() < 0.08}
    stay = dict.fromkeys(map(key_of, plain[:PLACEHOLDERS]), "placeholder")
    stay |= dict.fromkeys(map(key_of, plain[PLACEHOLDERS::50]), "pixel")
    names = {f"BV{n:010d}" for n in gone} | {f"q{n}" for n in gone}
    files = {key_of(n): draw("plain", str(n)) for n in plain}

    def fault(key: str, before: int) -> str | None:
        return stay.get(key) or (None if before else heal.get(key))

    origin = Origin(files=files, gone=names, faults=fault, seed=seed)
    (folder / "backup").mkdir()
    for n in sorted(gone)[::3]:
        (folder / "backup" / f"v{n}.jpg").write_bytes(draw("backup", str(n)))
    mapping = folder / "Killed_url.csv"
    mapping.write_text("".join(f"v{n},{address(n)}\n" for n in range(items)))
    (folder / "catalog").mkdir()
    (folder / "catalog" / f"{NAME}.toml").write_text(CATALOG)
    of = {key_of(n): address(n) for n in range(items)}
    for n in range(items):
        if n % 10 < 3:
            bv = address(n)[-12:]
            of[origin.sites.cover_url("bilibili", bv).partition("//")[2]] = address(n)
            of[f"api.bilibili.com/x/web-interface/view?bvid={bv}"] = address(n)
    return World(origin, mapping, folder / "backup", of)


def run(home: Path, mirror: str, mapping: Path, backup: Path) -> None:
    """Download the covers in a process of its own; second tries come soon."""
    options = Options(
        parts=("covers",), mirror=mirror, mapping=mapping, backup=(str(backup),), base=0.05
    )
    sys.exit(download(Home(home), [find(NAME)[0]], options).exit_code)


def start(world: World, home: Path) -> BaseProcess:
    """Begin a download in a process that has imported all it needs."""
    words = (home, world.origin.base, world.mapping, world.backup)
    process = PROCESSES.Process(target=run, args=words)
    process.start()
    return process


def complete(world: World, home: Path) -> float:
    """Download to the end; returns its seconds."""
    began = time.perf_counter()
    process = start(world, home)
    process.join()
    if process.exitcode:
        raise SystemExit(f"a download ended with {process.exitcode}")
    return time.perf_counter() - began


def killed_after(world: World, home: Path, seconds: float) -> bool:
    """Start a download and kill it after so many seconds; False where it was done before."""
    process = start(world, home)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def refuse_partial(home: Path) -> int:
    """A blob that has a name is whole; returns how many were left without one."""
    unfinished = 0
    for path in (home / "raw" / "blobs").glob("??/*"):
        unfinished += path.name.startswith(".")
        if not path.name.startswith(".") and sha256_file(path) != f"sha256:{path.name}":
            raise SystemExit(f"{path} does not hold what it says")
    return unfinished


def held(home: Path) -> dict[str, str]:
    """Every file of the home, and what the blobs hold."""
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return {
        str(path.relative_to(home)): sha256_file(path) if "blobs" in path.parts else ""
        for path in files
    }


def account(home: Path) -> list[Row]:
    """The provenance, one row an item, without what a kill may change."""
    (path,) = (home / "raw" / "files").glob("*/*/covers.provenance.parquet")
    rows: list[Row] = pq.read_table(path).drop_columns(list(UNSAID)).to_pylist()
    return rows


def asked_again(world: World, calm: Counter[str]) -> set[str]:
    """The addresses of which something was asked more often than in the undisturbed run, by one at most."""
    found = set()
    for key, n in world.origin.requests.items():
        if n > calm[key] + 1:
            raise SystemExit(f"{key} was asked {n} times, undisturbed {calm[key]}")
        if n > calm[key] and not key.endswith("/robots.txt"):
            found.add(world.of[key])
    return found


def compare(what: str, found: Any, wanted: Any) -> None:
    """Say the first difference of two lists or dicts."""
    if found != wanted:
        pairs = (found.items(), wanted.items()) if isinstance(found, dict) else (found, wanted)
        lost, new = ([row for row in a if row not in b] for a, b in (pairs[::-1], pairs))
        said = f"{len(lost)} missing or other, such as {lost[:1]}; {len(new)} unknown: {new[:1]}"
        raise SystemExit(f"a resumed run left other {what}: {said}")


def measure(folder: Path, items: int, rounds: int, seed: int) -> dict[str, Any]:
    world = draw_world(folder, items, seed)
    os.environ["NINEREC_CATALOG"] = str(folder / "catalog")
    warm = PROCESSES.Process()  # waits for the imports of the process that the others are copies of
    warm.start()
    warm.join()
    with serving(world.origin):
        undisturbed = duration = complete(world, folder / "calm")
        calm = Counter(world.origin.requests)
        wanted = held(folder / "calm"), account(folder / "calm")
        draws, runs, unfinished, again = random.Random(seed), 0, 0, []
        while len(again) < rounds:
            home = folder / f"home{runs}"
            world.origin.requests.clear()
            runs, began = runs + 1, time.perf_counter()
            was_killed = killed_after(world, home, draws.random() * duration)
            if was_killed:
                unfinished += refuse_partial(home)
                complete(world, home)
                again.append(len(asked_again(world, calm)))
            else:
                duration = min(duration, time.perf_counter() - began)
            compare("files", held(home), wanted[0])
            compare("provenance", account(home), wanted[1])
            shutil.rmtree(home)
    if max(again) > AT_ONCE:
        raise SystemExit(f"{max(again)} addresses were asked again; in flight are {AT_ONCE}")
    outcomes = Counter(f"{row['outcome']} {row['reason']}".strip() for row in wanted[1])
    return {
        "items": items,
        "addresses": len(set(world.of.values())),
        "seed": seed,
        "undisturbed_seconds": round(undisturbed, 2),
        "undisturbed_requests": calm.total(),
        "kills": rounds,
        "runs_that_ended_before_their_kill": runs - rounds,
        "completed_and_identical": runs,
        "blobs": sum("blobs" in Path(name).parts for name in wanted[0]),
        "outcomes": dict(sorted(outcomes.items())),
        "blobs_that_kills_left_unfinished": unfinished,
        "addresses_asked_again": {"most": max(again), "mean": round(sum(again) / rounds, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-download-") as folder:
        found = measure(Path(folder), args.items, args.rounds, args.seed)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
