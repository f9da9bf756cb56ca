"""Kill `ninerec prepare` with SIGKILL at random moments; what is left must be whole, and end the same.

    python benchmarks/kill_prepare.py                       # 6 million rows (over 5 s on two cores), 50 kills
    python benchmarks/kill_prepare.py --rows 200000 --rounds 6

A release in NineRec's layout is drawn (pair.csv with times, item.csv with two titles) and prepared once
undisturbed, which gives the duration. Then runs are started and killed at moments that `seed` draws as
shares of that duration, until `rounds` were hit; one that ended before its moment is no kill, and shortens
the duration. Each asks for another --max-words than the store holds, so that it has all the work before
it and meets the moment where one store takes the place of another; every third meets no store. After each
kill whatever has a manifest must open and verify. Each run that ends, and one after each kill (or every
--complete-every kills), must leave the sha256 of the undisturbed one in every file under prepared/. Prints
JSON; exit 1 on failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ninerec_data.dataset import open_dataset
from ninerec_data.errors import MissingData
from ninerec_data.files import sha256_file
from ninerec_data.manifest import read_manifest
from ninerec_data.verify import verify

NAME = "killed"
WORDS = ("30", "29")  # of --max-words
CATALOG = """\
title = "Drawn, to be killed"
format = "ninerec"
options = { stem = "Killed" }
text = { zh = ["title_zh"], en = ["title_en"] }
published = { interactions = %d }
"""


def draw_release(folder: Path, rows: int, seed: int) -> None:
    """Write Killed_pair.csv, Killed_item.csv and the catalog: about 20 rows a user, 10 users an item."""
    rng = np.random.default_rng(seed)
    users, items = max(rows // 20, 10), max(rows // 200, 50)
    user = rng.integers(0, users, rows)
    item = (items * rng.random(rows) ** 2).astype(np.int64)  # some are far more popular
    times = 1_600_000_000 + np.sort(rng.integers(0, 40_000_000, rows))
    (folder / "release").mkdir()
    with (folder / "release" / "Killed_pair.csv").open("w", encoding="utf-8") as file:
        for block in range(0, rows, 100_000):
            part = (values[block : block + 100_000].tolist() for values in (user, item, times))
            file.writelines(f"u{u},v{i},{t}\n" for u, i, t in zip(*part, strict=True))
    with (folder / "release" / "Killed_item.csv").open("w", encoding="utf-8") as file:
        for n in range(items):
            words = " ".join(f"word{(n * k) % 977}" for k in range(1, 35))
            file.write(f'v{n},"第{n}个视频，{n % 89}号","Title {n}, {words}"\n')
    (folder / "catalog").mkdir()
    (folder / "catalog" / f"{NAME}.toml").write_text(CATALOG % rows, encoding="utf-8")


def start(home: Path, verb: str, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ninerec", verb, NAME, *words, "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def complete(home: Path, verb: str, *words: str) -> float:
    """Run one command line to its end; returns its seconds."""
    began = time.perf_counter()
    process = start(home, verb, *words)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(
            f"{verb} {' '.join(words)} ended with {process.returncode}: {said.decode()}"
        )
    return time.perf_counter() - began


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def killed_after(home: Path, words: str, seconds: float) -> bool:
    """Start a prepare and kill it after so many seconds; False where it was done before."""
    process = start(home, "prepare", "--max-words", words)
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True


def other_words(home: Path) -> str:
    """The --max-words that the store, if there is one, was not made with."""
    manifest = read_manifest(home / "prepared" / NAME / "manifest.json")
    return WORDS[0] if not manifest or manifest["parameters"]["max_words"] == 29 else WORDS[1]


def state(home: Path) -> str:
    """What a reader meets after a kill: absent, tables, or whole. What has a manifest must verify."""
    folder = home / "prepared" / NAME
    if not (folder / "manifest.json").exists():
        return "absent"
    bad = [f"{check.name} ({check.found})" for check in verify(folder) if check.ok is False]
    if bad:
        raise SystemExit(f"what looked finished was not: {bad}")
    try:
        open_dataset(NAME, home=home)
    except MissingData:
        return "tables"
    return "whole"


def measure(folder: Path, rows: int, rounds: int, seed: int, every: int) -> dict[str, Any]:
    draw_release(folder, rows, seed)
    os.environ["NINEREC_CATALOG"] = str(folder / "catalog")
    calm, home = folder / "calm", folder / "home"
    for place in (calm, home):
        complete(place, "import", str(folder / "release"))
    complete(home, "prepare", "--max-words", WORDS[0])
    wanted: dict[str, dict[str, str]] = {}
    seconds = []
    for words in WORDS:
        seconds.append(complete(calm, "prepare", "--max-words", words))
        wanted[words] = digests(calm / "prepared" / NAME)
    draw, duration = random.Random(seed), min(seconds)
    states: dict[str, int] = {"absent": 0, "tables": 0, "whole": 0}
    runs = kills = compared = left = 0
    while kills < rounds:
        runs += 1
        if runs % 3 == 0:
            shutil.rmtree(home / "prepared" / NAME, ignore_errors=True)
        words, began, share = other_words(home), time.perf_counter(), draw.random()
        if killed_after(home, words, share * duration):
            kills += 1
            states[state(home)] += 1
            left += any((home / "prepared").rglob(".tmp-*"))
            if kills % every and kills != rounds:
                continue
            complete(home, "prepare", "--max-words", words)
        else:
            duration = min(duration, time.perf_counter() - began)
        if digests(home / "prepared" / NAME) != wanted[words]:
            raise SystemExit(f"after {kills} kills a completed run left other bytes")
        compared += 1
    return {
        "rows": rows,
        "seed": seed,
        "undisturbed_seconds": [round(value, 2) for value in seconds],
        "kills": kills,
        "runs_that_ended_before_their_kill": runs - kills,
        "kills_that_left_a_temporary_folder": left,
        "found_after_kills": states,
        "completed_and_identical": compared,
        "files_compared": len(wanted[WORDS[0]]),
        "left_at_the_end": sorted(p.name for p in (home / "prepared").iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--complete-every", type=int, default=1, help="kills before a completing run"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-prepare-") as folder:
        found = measure(Path(folder), args.rows, args.rounds, args.seed, args.complete_every)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
