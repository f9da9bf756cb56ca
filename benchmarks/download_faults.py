"""Covers from servers that fail: `ninerec download` and `prepare` beside img2dataset, as they are.

    python benchmarks/download_faults.py --img2dataset ENV/bin/img2dataset     # --only faults,killed

Small pictures, each its own, come from the local origin (downloader/origin.py), anew for each tool:

- faults: of every ten items one has a fault. Some pass when asked again, some are none to a careful reader,
  the others leave nothing to be had, and what comes instead must not be taken for a cover
- busy: the host answers so many requests a second, then 429 with Retry-After: 1
- expired: three items of ten are no more, half of them with a picture that says so instead of a 404; a backup
  holds two thirds of those
- slow: five covers come at 20 bytes a second; whoever has not ended after --limit seconds is killed
- killed: jobs killed with SIGKILL once, at a moment that `seed` draws from the seconds of an undisturbed one, and
  run again, until ten were hit; the figures are the sums of all jobs

A picture is correct when it is its own item's (over 30 dB from what a full decode gives); any other is a
false success. `ninerec download` is run again, three times at most, while it says that items are left
(exit code 4); img2dataset has no such runs, its --retries is 2. Prints JSON; exit 1 where ours has a false
success or a live item tombstoned, misses a cover that was to be had, or does not end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from download import options, program_at, say, version_of
from download_corpus import draw_corpus, key_of, nearness
from download_setup import (
    LEFT,
    NAME,
    catalog_of,
    fetch,
    killed_after,
    measured,
    ours,
    pictures_in,
    theirs,
    write_list,
    write_release,
)

from downloader.origin import Origin, serving

SIZE = (480, 270)
SETTINGS = (2, 16, 100)  # of img2dataset; small shards, since a shard is what it resumes by
OWN = 30  # dB from an item's own picture
PASSING = ("503", "500", "429:1", "reset", "short", "chunked_cut", "empty")  # on the first request
HARMLESS = ("png_as_jpg", "wrong_mime", "redirects:2", "no_length")
LASTING = (
    *("404", "410", "403", "html", "html:image/jpeg", "json", "truncated", "pixel", "pixel_bomb"),
    *("redirect_loop", *["placeholder"] * 5),
)
NOT_THERE = [
    "a backup",
    "outcomes by item",
    "Retry-After heeded",
    "failed items tried by a later run",
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the origin does. faults: by item; passing: those that fall on the first request only.

    lost: items of which no cover can be had. runs: of ours at most. world: further arguments of the origin.
    """

    faults: Mapping[str, str] = field(default_factory=dict)
    passing: Collection[str] = ()
    lost: Collection[str] = ()
    backup: Path | None = None
    runs: int = 3
    world: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, originals: Mapping[str, Path]) -> Origin:
        """A new origin that has counted no request."""

        def fault(key: str, before: int) -> str | None:
            item = key.rpartition("/")[2].removesuffix(".jpg")
            return None if item in self.passing and before else self.faults.get(item)

        files = {key_of(item): path for item, path in originals.items()}
        return Origin(files=files, faults=fault, **self.world)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things lie. originals: of each item, as HOST/PATH is served."""

    work: Path
    img2dataset: Path
    originals: Mapping[str, Path]
    limit: float

    @property
    def said(self) -> tuple[Path, dict[str, str]]:
        """Where commands write what they say, and their environment."""
        return self.work / "log", catalog_of(self.work / "release")


def scenarios(bench: Bench, seed: int) -> dict[str, Scenario]:
    """All but `killed`, by name."""
    draw, items = random.Random(seed), list(bench.originals)
    kinds = [*PASSING, *HARMLESS, *LASTING]
    faulty = draw.sample(items, len(items) // 10)
    faults = {item: kinds[n % len(kinds)] for n, item in enumerate(faulty)}
    gone = draw.sample(items, len(items) * 3 // 10)
    backup, held = bench.work / "backup", gone[: len(gone) * 2 // 3]
    shutil.rmtree(backup, ignore_errors=True)
    backup.mkdir()
    for item in held:
        shutil.copy(bench.originals[item], backup)
    slow = draw.sample(items, 5)
    return {
        "faults": Scenario(
            faults,
            passing=[item for item, fault in faults.items() if fault in PASSING],
            lost=[item for item, fault in faults.items() if fault in LASTING],
        ),
        "busy": Scenario(world={"max_rps": {key_of(items[0]).partition("/")[0]: 50}}),
        "expired": Scenario(
            {item: ("404", "placeholder")[n % 2] for n, item in enumerate(gone)},
            lost=gone[len(held) :],
            backup=backup,
        ),
        "slow": Scenario(dict.fromkeys(slow, "slow_body:20"), lost=slow, runs=1),
    }


@dataclass(frozen=True, slots=True)
class Tool:
    """One of the two, at work in a folder of its own. base: of the origin."""

    name: str
    bench: Bench
    base: str
    backup: Path | None = None

    @property
    def folder(self) -> Path:
        return self.bench.work / self.name

    @property
    def shards(self) -> Path:
        return self.folder / "prepared" / NAME / "covers" if self.name == "ours" else self.folder

    def begin(self) -> None:
        """Empty the folder; ours then holds the release."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.name == "ours":
            self.run(ours("import", self.folder, str(self.bench.work / "release" / "release")))

    def run(self, command: list[str]) -> tuple[float, int | None]:
        """Seconds and exit code; None: killed at the limit."""
        cost = measured(command, *self.bench.said, self.bench.limit)
        return cost.seconds, cost.code

    @property
    def command(self) -> list[str]:
        """What is run, and run again after a kill."""
        listing = self.bench.work / "urls.parquet"
        if self.name == "ours":
            backup = ("--backup", str(self.backup)) if self.backup else ()
            return fetch(self.folder, self.base, *backup)
        write_list(listing, {i: f"http://{key_of(i)}" for i in self.bench.originals}, self.base)
        return theirs(self.bench.img2dataset, listing, self.folder, SETTINGS)

    def finish(self, most: int) -> dict[str, Any]:
        """Run to the end: seconds, runs (`most`, while items are left), whether it ended."""
        spent, code = self.run(self.command)
        runs = 1
        while code == LEFT and runs < most:
            seconds, code = self.run(self.command)
            spent, runs = spent + seconds, runs + 1
        if self.name == "ours":
            spent += self.run(ours("prepare", self.folder))[0]
        return {"seconds": round(spent, 1), "runs": runs, "ended": code is not None}

    def outcomes(self) -> dict[str, str]:
        """Item -> outcome, of ours."""
        tables = map(pq.read_table, self.folder.rglob("covers.provenance.parquet"))
        rows = (row for table in tables for row in table.select(["item_id", "outcome"]).to_pylist())
        return {row["item_id"]: row["outcome"] for row in rows}


def score(tool: Tool, lost: Collection[str]) -> dict[str, Any]:
    """What a finished job left."""
    made, damaged = pictures_in(tool.shards)
    originals = tool.bench.originals
    correct = {
        item for item, jpeg in made if item not in lost and nearness(jpeg, originals[item]) > OWN
    }
    outcomes = tool.outcomes() if tool.name == "ours" else {}
    said_gone = {item for item, outcome in outcomes.items() if outcome == "GONE"}
    result: dict[str, Any] = {
        "to_be_had": len(originals) - len(lost),
        "correct": len(correct),
        "false_successes": len(dict(made).keys() - correct),
        "stored_twice": len(made) - len(dict(made)),
        "damaged_shards": damaged,
    }
    if tool.name == "ours":
        result["live_tombstoned"] = len(said_gone - set(lost))
        result["outcomes"] = dict(sorted(Counter(outcomes.values()).items()))
    return result


def play(bench: Bench, name: str, scenario: Scenario) -> dict[str, Any]:
    """One scenario with one tool."""
    origin = scenario.origin(bench.originals)
    with serving(origin) as base:
        tool = Tool(name, bench, base, scenario.backup)
        tool.begin()
        spent = tool.finish(scenario.runs)
        return score(tool, scenario.lost) | spent | {"requests": sum(origin.requests.values())}


def play_killed(bench: Bench, name: str, kills: int, seed: int) -> dict[str, Any]:
    """So many jobs, each killed once and run again; the sums of all."""
    draw, total, seconds = random.Random(seed), Counter[str](), 0.0
    origin = Scenario(world={"latency": 0.2}).origin(bench.originals)
    with serving(origin) as base:
        tool = Tool(name, bench, base)
        tool.begin()
        undisturbed = tool.run(tool.command)[0]
        origin.requests.clear()
        while total["kills"] < kills:
            tool.begin()
            total["jobs"] += 1
            total["kills"] += killed_after(draw.random() * undisturbed, tool.command, *bench.said)
            seconds += tool.finish(1)["seconds"]
            total.update({k: n for k, n in score(tool, ()).items() if k != "outcomes"})
    return {
        **total,
        "requests": sum(origin.requests.values()),
        "undisturbed_seconds": round(undisturbed, 1),
        "seconds_of_resumed": round(seconds, 1),
    }


def arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--items", type=int, default=600)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=float, default=300, help="seconds of one command")
    parser.add_argument("--only", default="faults,busy,expired,slow,killed", help="scenarios")
    parser.add_argument("--tools", default="img2dataset,ours")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    img2dataset, work = program_at("img2dataset", args.img2dataset), args.folder / "faults"
    work.mkdir(parents=True, exist_ok=True)
    tree = draw_corpus(args.folder, args.items, args.seed, SIZE, args.data)
    originals = {f"v{n}": tree / key_of(f"v{n}") for n in range(args.items)}
    write_release(work / "release", {item: f"http://{key_of(item)}" for item in originals})
    bench, load = Bench(work, img2dataset, originals, args.limit), os.getloadavg()[0]
    known, found = scenarios(bench, args.seed), {}
    for name in args.only.split(","):
        found[name] = {
            tool: play_killed(bench, tool, args.kills, args.seed)
            if name == "killed"
            else play(bench, tool, known[name])
            for tool in args.tools.split(",")
        }
        say(f"{name}: {json.dumps(found[name])}")
    result = {
        "items": args.items,
        "seed": args.seed,
        "load_before": load,
        "img2dataset": version_of(img2dataset),
        "settings": "/".join(map(str, SETTINGS)),
        "not_in_img2dataset": NOT_THERE,
        "found": found,
    }
    print(json.dumps(result, indent=2))
    return 0 if all(good(some["ours"]) for some in found.values() if "ours" in some) else 1


def good(some: Mapping[str, Any]) -> bool:
    """Whether ours has every cover that was to be had, nothing else, and ended."""
    bad = some["false_successes"] or some["live_tombstoned"] or not some.get("ended", True)
    return some["correct"] == some["to_be_had"] and not bad


if __name__ == "__main__":
    sys.exit(main())
