"""The tables of a release of Bili_2M's size, from CSV to prepared, beside what the plain part of it costs.

    python benchmarks/tables.py                    # a quarter of an hour on two cores, 3 GB of disk
    python benchmarks/tables.py --rows 1000000     # a try

A release in NineRec's layout is drawn from a seed: 24,497,157 interactions, every one of 2,000,000 users
(5 to some 200 rows) and 144,146 items at least once, skewed popularity, rows in the order of time; and
the item table with two titles. `ninerec prepare` makes the tables and the default split of it. The others
read the same CSV, sort it by user and time, drop users with fewer than 5 rows, keep the last 23 of each
and write Parquet, no more: polars the way one writes it down, polars by a list a user (the fastest of
eight plans that were tried), duckdb and pandas. Each run is a process of its own, start included, in turn,
`--rounds` times, with the peak memory that the operating system accounts to it.

The seconds of the leak report, measured inside, do not count; `verify` is no part of `prepare`; `import`,
which hashes and links, is timed once for itself. All must keep the same number of rows. What must hold:
at most 1.7 times the seconds of plain polars (median of the rounds' ratios), a peak under 8 GiB.

Prints JSON; exit 1 where one of these does not hold.
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
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Bili_2M (NineRec, Table 1). The process that waits imports little: a child's peak begins with its parent's.
USERS, ITEMS, ROWS = 2_000_000, 144_146, 24_497_157
START, SPAN = 1_577_836_800, 80_000_000  # 2020-01-01 UTC, and the seconds that the release covers
BLOCK = 1 << 21  # rows written at once
DATASET, STEM = "bili_2m", "Bili_2M"
FEWEST, KEPT = 5, 23
RATIO, PEAK_GIB = 1.7, 8
NAMES = ("ninerec", "polars", "polars_lists", "duckdb", "pandas")


def draw(folder: Path, rows: int, seed: int) -> None:
    """Write <STEM>_pair.csv and <STEM>_item.csv, scaled down to so many rows."""
    import numpy as np
    import polars as pl

    users, items = max(USERS * rows // ROWS, 2), max(ITEMS * rows // ROWS, 2)
    rng = np.random.default_rng(seed)
    more = rng.lognormal(1.0, 1.1, users)
    lengths = FEWEST + np.minimum(more * (rows - FEWEST * users) / more.sum(), 195).astype(np.int64)
    lengths += np.bincount(rng.integers(0, users, rows - lengths.sum()), minlength=users)
    user = np.repeat(rng.permutation(users), lengths)
    joined = rng.random(users)[user] ** 0.7
    times = START + ((joined + (1 - joined) * rng.random(rows)) * SPAN).astype(np.int64)
    order = np.argsort(times, kind="stable")
    user, times = user[order], times[order]
    popularity = np.cumsum(rng.permutation(1 / (30 + np.arange(items)) ** 0.9))
    item = np.searchsorted(popularity, rng.random(rows) * popularity[-1])
    item[rng.permutation(rows)[:items]] = np.arange(items)
    columns = pl.format("u{}", pl.col("user") + 1), pl.format("v{}", pl.col("item") + 1), "time"
    with (folder / f"{STEM}_pair.csv").open("wb") as file:
        for at in range(0, rows, BLOCK):
            block = slice(at, at + BLOCK)
            part = {"user": user[block], "item": item[block], "time": times[block]}
            pl.DataFrame(part).select(columns).write_csv(file, include_header=False)
    with (folder / f"{STEM}_item.csv").open("w", encoding="utf-8") as file:
        for n in rng.permutation(items) + 1:
            words = " ".join(f"word{n * k % 977}" for k in range(1, 9))
            file.write(f'v{n},"第{n}个视频，{n % 89}号","Title {n}, {words}"\n')


# Run by name in a process of its own: (the CSV, or ninerec's home; the file to write).


def ninerec(home: Path, out: Path) -> None:
    """`ninerec prepare`; writes the seconds of the leak report to `out`."""
    from ninerec.main import main
    from ninerec_data import splitting

    make, seconds = splitting._leaks, []

    def leaks(*of: Any) -> Any:
        began = time.perf_counter()
        report = make(*of)
        seconds.append(time.perf_counter() - began)
        return report

    splitting._leaks = leaks
    code = main(["prepare", DATASET, "--home", str(home)])
    out.write_text(str(sum(seconds)), encoding="utf-8")
    if code:
        raise SystemExit(code)


def polars(csv: Path, out: Path) -> None:
    import polars as pl

    rows = pl.scan_csv(csv, has_header=False, new_columns=["user", "item", "time"])
    rows = rows.sort("user", "time", maintain_order=True)
    kept = rows.filter(pl.len().over("user") >= FEWEST).group_by("user", maintain_order=True)
    kept.tail(KEPT).sink_parquet(out, engine="streaming")


def polars_lists(csv: Path, out: Path) -> None:
    import polars as pl

    rows = pl.scan_csv(csv, has_header=False, new_columns=["user", "item", "time"])
    last = pl.col("item", "time").sort_by("time", maintain_order=True).tail(KEPT)
    users = rows.group_by("user").agg(last, n=pl.len()).filter(pl.col("n") >= FEWEST).drop("n")
    users.sort("user").explode("item", "time").sink_parquet(out, engine="streaming")


def duckdb(csv: Path, out: Path) -> None:
    import duckdb as engine

    columns = "{'user': 'VARCHAR', 'item': 'VARCHAR', 'time': 'BIGINT'}"
    engine.execute(
        f"""copy (select * from read_csv('{csv}', header = false, columns = {columns})
        qualify count(*) over (partition by "user") >= {FEWEST}
        and row_number() over (partition by "user" order by time desc) <= {KEPT}
        order by "user", time) to '{out}' (format parquet)"""
    )


def pandas(csv: Path, out: Path) -> None:
    import pandas as pd

    rows = pd.read_csv(csv, names=["user", "item", "time"], engine="pyarrow")
    rows = rows.sort_values(["user", "time"], kind="stable", ignore_index=True)
    groups = rows.groupby("user", sort=False)
    rows = rows[groups["item"].transform("size") >= FEWEST]
    rows.groupby("user", sort=False).tail(KEPT).to_parquet(out, index=False)


def run(command: list[str]) -> dict[str, float]:
    """Wall and processor seconds and peak GiB of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    said = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}: {said}")
    return {
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gib": used.ru_maxrss / 2**20,
    }


def contend(name: str, folder: Path) -> dict[str, float]:
    """One run of one contender, and the rows it kept."""
    home, out = folder / "home", folder / f"{name}.out"
    prepared = home / "prepared" / DATASET
    shutil.rmtree(prepared, ignore_errors=True)
    source = home if name == "ninerec" else folder / "release" / f"{STEM}_pair.csv"
    used = run([sys.executable, __file__, "--only", name, str(source), str(out)])
    if name == "ninerec":
        used["leak_report_seconds"] = float(out.read_text(encoding="utf-8"))
        used["seconds"] -= used["leak_report_seconds"]
        manifest = json.loads(next(prepared.glob("splits/*/manifest.json")).read_bytes())
        return {**used, "rows_kept": manifest["counts"]["interactions"]}
    import pyarrow.parquet as pq

    return {**used, "rows_kept": pq.read_metadata(out).num_rows}


def measure(folder: Path, rows: int, rounds: int, seed: int, names: tuple[str, ...]) -> Any:
    release, home = folder / "release", folder / "home"
    release.mkdir()
    drawn = run([sys.executable, __file__, "--only", "draw", str(release), str(rows), str(seed)])
    imports = [sys.executable, "-m", "ninerec", "import", DATASET, str(release)]
    imported = run([*imports, "--home", str(home)])
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(contend(name, folder))
    kept = {name: used[0]["rows_kept"] for name, used in runs.items()}
    if len(set(kept.values())) > 1:
        raise SystemExit(f"the contenders keep different numbers of rows: {kept}")
    ours = runs["ninerec"]
    ratios = {
        name: [one["seconds"] / other["seconds"] for one, other in zip(ours, used, strict=True)]
        for name, used in runs.items()
        if name != "ninerec"
    }
    ratio = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    peak = max(used["peak_gib"] for used in ours)
    return {
        "rows": rows,
        "rows_kept": kept["ninerec"],
        "csv_mb": round((release / f"{STEM}_pair.csv").stat().st_size / 1e6),
        "seed": seed,
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in ("polars", "numpy", "pyarrow", *names[3:])},
        "draw_seconds": round(drawn["seconds"], 2),
        "import_seconds": round(imported["seconds"], 2),
        "runs": {
            name: {key: [round(used[key], 2) for used in all_] for key in all_[0]}
            for name, all_ in runs.items()
        },
        "ratios_to": ratio,
        "must_hold": {
            # Of fewer rows a process's start is too large a part.
            f"at most {RATIO} times plain polars": rows < ROWS or ratio["polars"] <= RATIO,
            f"peak memory under {PEAK_GIB} GiB": peak < PEAK_GIB,
        },
    }


def main() -> None:
    if sys.argv[1:2] == ["--only"]:
        name, first, second, *rest = sys.argv[2:]
        if name == "draw":
            draw(Path(first), int(second), int(rest[0]))
        else:
            globals()[name](Path(first), Path(second))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", nargs="+", choices=NAMES[1:], default=NAMES[1:], help="others")
    args = parser.parse_args()
    names = tuple(dict.fromkeys((*NAMES[:2], *args.beside)))
    with tempfile.TemporaryDirectory(prefix="tables-") as folder:
        found = measure(Path(folder), args.rows, args.rounds, args.seed, names)
    print(json.dumps(found, indent=2))
    sys.exit(not all(found["must_hold"].values()))


if __name__ == "__main__":
    main()
