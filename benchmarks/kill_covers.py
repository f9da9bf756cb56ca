"""Kill `ninerec prepare` with SIGKILL while it makes covers; resumed, it must leave the bytes of an undisturbed run.

    python benchmarks/kill_covers.py                       # 4,000 covers of 640x360, 50 kills
    python benchmarks/kill_covers.py --items 1200 --rounds 3

A release in NineRec's layout is drawn with a cover for each item and prepared once undisturbed for each of
two --max-words, from nothing and from the other's store, which gives the durations. Then runs are started
and killed at moments that `seed` draws as shares of that duration, until `rounds` were hit: two of three
from nothing, every third from a store with other texts, whose shards are all written anew and whose
pictures are copied. After each kill whatever has a manifest must open and verify; a run to the end must
leave the sha256 of the undisturbed one in every file under prepared/. Prints JSON; exit 1 on failure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from kill_prepare import (
    NAME,
    WORDS,
    complete,
    digests,
    draw_release,
    killed_after,
    other_words,
    start,
    state,
)
from PIL import Image

from ninerec_data.manifest import read_manifest

ROWS_OF_ITEM = 200  # as draw_release draws them
SIZE = (640, 360)
WRITTEN = re.compile(r"covers: (\d+) of (\d+) shards written")


def draw_covers(folder: Path, items: int, seed: int) -> None:
    """Write v0.jpg, v1.jpg ...: soft shapes with grain, q88 4:2:0, as large as covers of that size are."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(-12, 13, (SIZE[1], SIZE[0], 3), dtype=np.int16)
    folder.mkdir()
    for item in range(items):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        jpeg = simplejpeg.encode_jpeg(pixels, quality=88, colorsubsampling="420")
        (folder / f"v{item}.jpg").write_bytes(jpeg)


def resume(home: Path, words: str) -> tuple[int, int]:
    """Run to the end; returns the shards that had to be written and how many there are."""
    process = start(home, "prepare", "--max-words", words)
    said = process.communicate()[1].decode()
    if process.returncode:
        raise SystemExit(f"the resumed run ended with {process.returncode}: {said}")
    written = WRITTEN.search(said)
    return (int(written[1]), int(written[2])) if written else (0, shards(home))


def shards(home: Path) -> int:
    return len(list((home / "prepared" / NAME / "covers").glob("*.tar")))


def waiting(home: Path) -> int:
    """Finished shards beside the dataset."""
    return len(list((home / "prepared").glob(f".{NAME}.covers-*/[!.]*.json")))


def met(home: Path) -> str:
    """What a reader meets after a kill: absent, tables, split or covers. What has a manifest must verify."""
    found = state(home)
    manifest = read_manifest(home / "prepared" / NAME / "manifest.json") or {}
    return "covers" if "covers" in manifest else found.replace("whole", "split")


def measure(folder: Path, items: int, rounds: int, seed: int) -> dict[str, Any]:
    draw_release(folder, items * ROWS_OF_ITEM, seed)
    draw_covers(folder / "release" / "Killed_cover", items, seed)
    os.environ["NINEREC_CATALOG"] = str(folder / "catalog")
    calm, home = folder / "calm", folder / "home"
    for place in (calm, home):
        complete(place, "import", str(folder / "release"))
    seconds, wanted = {}, {}
    for kind, words in zip(("from nothing", "from other texts"), WORDS, strict=True):
        seconds[kind] = complete(calm, "prepare", "--max-words", words)
        wanted[words] = digests(calm / "prepared" / NAME)
    draw, undisturbed = random.Random(seed), dict(seconds)
    states: Counter[str] = Counter()
    runs = kills = kept = beside = total = 0
    while kills < rounds:
        runs += 1
        kind = "from nothing" if runs % 3 else "from other texts"
        if kind == "from nothing":
            shutil.rmtree(home / "prepared", ignore_errors=True)
        words, began = other_words(home), time.perf_counter()
        if killed_after(home, words, draw.random() * seconds[kind]):
            kills += 1
            states[met(home)] += 1
            beside += waiting(home)
            written, total = resume(home, words)
            kept += total - written
        else:
            seconds[kind] = min(seconds[kind], time.perf_counter() - began)
        if digests(home / "prepared" / NAME) != wanted[words]:
            raise SystemExit(f"after {kills} kills a completed run left other bytes")
    return {
        "items": items,
        "seed": seed,
        "shards": total,
        "undisturbed_seconds": {kind: round(value, 2) for kind, value in undisturbed.items()},
        "kills": kills,
        "runs_that_ended_before_their_kill": runs - kills,
        "found_after_kills": dict(sorted(states.items())),
        "completed_and_identical": runs,
        "files_compared": len(wanted[WORDS[0]]),
        "finished_shards_that_waited": beside,
        "shards_not_done_again": kept,
        "left_at_the_end": sorted(path.name for path in (home / "prepared").iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-covers-") as folder:
        found = measure(Path(folder), args.items, args.rounds, args.seed)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
