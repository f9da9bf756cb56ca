"""Covers fetched, resized and packed: `ninerec download` and `prepare` beside img2dataset, at the same work.

    pip install img2dataset==1.47.0        # in an environment of its own; wants Python below 3.13
    python benchmarks/download.py --img2dataset ENV/bin/img2dataset --nginx /usr/sbin/nginx --sweep

Pictures of 1920x1080 (quality 85-90, 4:2:0) are drawn from a seed: crops of the photographs, or soft noise
without them, each with a tone, a grain and a title of its own. One nginx serves them to both from loopback.
Both leave the same: a 224x224 center crop, JPEG at quality 95, 4:2:0, WebDataset shards with a text and
JSON for each, sha256 of what came. img2dataset runs with its best settings: --sweep tries 12, and its
defaults, and takes the fastest. Ours is two processes, `download --keep resized` and `prepare`, that count
as one; the start of every process counts.

The two take turns; compare ratios within one run only, and look at `load_before`. CPU is of the whole
process tree without nginx, which is apart. Written is what reached the file system, kept is what lies there
at the end. PSNR is against a full decode and Pillow's antialiased bicubic, of the crop itself, or of the
whole picture that is then cropped as img2dataset does it: each takes the reference that is kinder to it.
Prints JSON; exit 1 where a bar is missed, 3 where a program lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from covers import psnr
from download_corpus import DATA, SIDE, address, draw_corpus, key_of, pixels, references
from download_setup import (
    Cost,
    Settings,
    catalog_of,
    fetch,
    measured,
    ours,
    pictures_in,
    serving,
    theirs,
    tree_of,
    write_list,
    write_release,
)

SIZE = (1920, 1080)
SWEEP = [(p, t, s) for p in (1, 2) for t in (8, 16, 32) for s in (500, 1000)]
DEFAULTS = (1, 256, 10_000)  # of img2dataset
COVERS = "home/prepared/fetched/covers"
FEW = 20  # pictures of the run that shows what starting costs
COMPARED = 100  # pictures whose PSNR is taken
# Ours to theirs in images per second; ours less theirs in dB.
BARS = {"ratio": 2.0, "psnr_mean_more": 0.0, "psnr_worst_more": 0.0}


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs need. pin: the `taskset` words of clients. server: address and session of nginx."""

    work: Path
    tree: Path
    items: int
    img2dataset: Path
    pin: list[str]
    server: tuple[str, int]

    def set_up(self) -> None:
        """Write the release and the list that the two read."""
        urls = {f"v{item}": address(item) for item in range(self.items)}
        write_release(self.work / "release", urls)
        write_list(self.work / "urls.parquet", urls, self.server[0])


def run_theirs(bench: Bench, settings: Settings) -> dict[str, Any]:
    out = bench.work / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    command = theirs(bench.img2dataset, bench.work / "urls.parquet", out, settings)
    return _run(bench, {"img2dataset": command}, out, out)


def run_ours(bench: Bench) -> dict[str, Any]:
    home, release = bench.work / "home", bench.work / "release"
    shutil.rmtree(home, ignore_errors=True)
    known = ours("import", home, str(release / "release"))
    measured(known, bench.work / "import.log", catalog_of(release))
    commands = {"download": fetch(home, bench.server[0]), "prepare": ours("prepare", home)}
    return _run(bench, commands, bench.work / COVERS, home)


def _run(bench: Bench, commands: dict[str, list[str]], shards: Path, left: Path) -> dict[str, Any]:
    """Run commands one after the other as one measured unit. Raises SystemExit where a picture lacks."""
    before, steps = tree_of(bench.server[1])[1], {}
    for name, command in commands.items():
        log, env = bench.work / f"{name}.log", catalog_of(bench.work / "release")
        steps[name] = measured([*bench.pin, *command], log, env)
    served, found = tree_of(bench.server[1])[1] - before, dict(pictures_in(shards)[0])
    if len(found) != bench.items:
        raise SystemExit(f"{shards} has {len(found)} of {bench.items} pictures")
    costs = list(steps.values())
    whole = Cost(
        seconds=sum(cost.seconds for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        peak_mib=max(cost.peak_mib for cost in costs),
        written_mb=sum(cost.written_mb for cost in costs),
        code=0,
    )
    kept = sum(path.stat().st_size for path in left.rglob("*") if path.is_file())
    result = _figures(whole, bench.items) | {
        "kept_mb": round(kept / 1e6, 1),
        "nginx_cpu_ms_per_image": round(1000 * served / bench.items, 2),
    }
    if len(steps) > 1:
        result["steps"] = {name: _figures(cost, bench.items) for name, cost in steps.items()}
    return result


def _figures(cost: Cost, items: int) -> dict[str, Any]:
    return {
        "images_per_second": round(items / cost.seconds, 1),
        "seconds": round(cost.seconds, 2),
        "cpu_ms_per_image": round(1000 * cost.cpu / items, 2),
        "peak_mib": round(cost.peak_mib),
        "written_mb": round(cost.written_mb, 1),
    }


def sweep(bench: Bench) -> tuple[Settings, dict[str, Any]]:
    """The fastest settings of img2dataset, and what each gave."""
    runs = {}
    for settings in [*SWEEP, DEFAULTS]:
        runs[settings] = run_theirs(bench, settings)
        say(f"img2dataset {settings}: {runs[settings]['images_per_second']} images/s")
    best = max(runs, key=lambda settings: runs[settings]["images_per_second"])
    return best, {"/".join(map(str, settings)): run for settings, run in runs.items()}


def quality(bench: Bench, folder: Path) -> dict[str, float]:
    """PSNR of pictures drawn evenly from all. Raises SystemExit where one is not 224x224."""
    found, near = dict(pictures_in(folder)[0]), []
    for name in sorted(found)[:: max(bench.items // COMPARED, 1)][:COMPARED]:
        made = pixels(found[name])
        if made.shape != (SIDE, SIDE, 3):
            raise SystemExit(f"{folder}: {name} is {made.shape}")
        original = bench.tree / key_of(name)
        near.append([psnr(one, made) for one in references(original.read_bytes())])
    kinder = max(zip(*near, strict=True), key=statistics.mean)
    return {"psnr_mean": round(statistics.mean(kinder), 2), "psnr_worst": round(min(kinder), 2)}


def take_turns(
    bench: Bench, settings: Settings, rounds: int, discard: int
) -> dict[str, list[dict[str, Any]]]:
    """The rounds of both that count, who begins in turn."""
    runs: dict[str, list[dict[str, Any]]] = {"img2dataset": [], "ours": []}
    for turn in range(-discard, rounds):
        for name in sorted(runs, reverse=turn % 2 == 1):
            found = run_ours(bench) if name == "ours" else run_theirs(bench, settings)
            say(f"round {turn + 1}, {name}: {found['images_per_second']} images/s")
            if turn >= 0:
                runs[name].append(found)
    return runs


def compare(bench: Bench, settings: Settings, rounds: int, discard: int) -> dict[str, Any]:
    """Medians and ratios of the rounds; what starting costs, from one run of few pictures."""
    runs = take_turns(bench, settings, rounds, discard)
    few = replace(bench, work=bench.work / "few", items=FEW)
    few.work.mkdir(exist_ok=True)
    few.set_up()
    start = {"img2dataset": run_theirs(few, settings), "ours": run_ours(few)}
    shards = {"img2dataset": bench.work / "theirs", "ours": bench.work / COVERS}
    medians: dict[str, dict[str, float]] = {}
    for name, some in runs.items():
        plain = [key for key in some[0] if key != "steps"]
        medians[name] = {key: statistics.median(run[key] for run in some) for key in plain}
        afterwards = medians[name]["seconds"] - start[name]["seconds"]
        rate = round((bench.items - FEW) / afterwards, 1)
        medians[name] |= {"start_seconds": start[name]["seconds"], "rate_once_started": rate}
        medians[name] |= quality(bench, shards[name])
    mine, other = medians["ours"], medians["img2dataset"]
    pairs = zip(runs["ours"], runs["img2dataset"], strict=True)
    ratios = [a["images_per_second"] / b["images_per_second"] for a, b in pairs]
    found = {
        "ratio": statistics.median(ratios),
        "psnr_mean_more": mine["psnr_mean"] - other["psnr_mean"],
        "psnr_worst_more": mine["psnr_worst"] - other["psnr_worst"],
    }
    return {
        "median": medians,
        "ratio_of_rounds": [round(ratio, 2) for ratio in ratios],
        "ratio_once_started": round(mine["rate_once_started"] / other["rate_once_started"], 2),
        "ratio_of_cpu": round(other["cpu_ms_per_image"] / mine["cpu_ms_per_image"], 2),
        **{name: round(value, 2) for name, value in found.items()},
        "bars": BARS,
        "missed": [name for name, bar in BARS.items() if found[name] < bar],
        "runs": runs,
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def version_of(program: Path) -> str:
    asked = "from importlib.metadata import version; print(version('img2dataset'))"
    python = program.resolve().parent / "python"
    return subprocess.check_output([python, "-c", asked], text=True).strip()


def program_at(name: str, given: Path | None) -> Path:
    """A program by option or from $PATH. Raises SystemExit(3) where it lacks."""
    found = shutil.which(str(given or name))
    if not found:
        say(f"{name} is not {f'at {given}' if given else 'on $PATH'}; name it with --{name} PATH")
        raise SystemExit(3)
    return Path(found).absolute()


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that both benchmarks of the downloader have."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--img2dataset", type=Path, help="its command (from $PATH)")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "ninerec-bench"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that has images/photos")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--nginx", type=Path, help="its program (from $PATH)")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--discard", type=int, default=0, help="rounds before those that count")
    parser.add_argument("--settings", default="2,16,500", help="processes, threads, shard size")
    parser.add_argument("--sweep", action="store_true", help="look for the best settings first")
    parser.add_argument("--sweep-only", action="store_true", help="img2dataset alone")
    parser.add_argument(
        "--apart", action="store_true", help="nginx on one core, clients on another"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    work, load = args.folder, os.getloadavg()[0]
    img2dataset, nginx = (program_at(n, getattr(args, n)) for n in ("img2dataset", "nginx"))
    first, second = (str(core) for core in sorted(os.sched_getaffinity(0))[:2])
    places = (first, second) if args.apart else (f"{first},{second}",) * 2
    work.mkdir(parents=True, exist_ok=True)
    tree = draw_corpus(work, args.items, args.seed, SIZE, args.data)
    sizes = [len(path.read_bytes()) / 1000 for path in tree.rglob("*.jpg")]  # now they are cached
    result: dict[str, Any] = {
        "items": args.items,
        "seed": args.seed,
        "corpus": tree.name,
        "kilobytes": {
            "mean": round(statistics.mean(sizes)),
            "tenths": [round(size) for size in statistics.quantiles(sizes, n=10)],
        },
        "load_before": load,
        "cores": dict(zip(("nginx", "clients"), places, strict=True)),
        "img2dataset": version_of(img2dataset),
    }
    with serving(nginx, tree, work, ["taskset", "-c", places[0]]) as server:
        bench = Bench(work, tree, args.items, img2dataset, ["taskset", "-c", places[1]], server)
        bench.set_up()
        processes, threads, shard = map(int, args.settings.split(","))
        settings = processes, threads, shard
        if args.sweep or args.sweep_only:
            settings, result["sweep"] = sweep(bench)
        result["settings"] = "/".join(map(str, settings))
        if not args.sweep_only:
            result |= compare(bench, settings, args.rounds, args.discard)
    print(json.dumps(result, indent=2))
    return 1 if result.get("missed") else 0


if __name__ == "__main__":
    sys.exit(main())
