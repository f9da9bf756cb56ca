"""Content against ids on the drawn suite, and content that says nothing.

    python benchmarks/content.py                          # 25 minutes on two cores
    python benchmarks/content.py --encoders text --epochs 1 --shuffled-epochs 1    # a try

Each item encoder is trained as `ninerec demo` trains it, twice: on the suite as drawn, and on a copy whose titles
and covers are shuffled: every item shows the title and the cover of one other item, drawn by a seed, and none keeps
its own. Item ids and interactions stay, so nothing in that content predicts, though a model can still tell items
apart by it. Ids are trained once, for both. What must hold of every encoder of content, in HR@10 on test targets:

- as drawn, at least 3 times ids on cold items, and 3 times a random scorer on new ones
- shuffled, within 2 standard errors of ids on cold items

A standard error is that of a mean over users. Each compared pair has the same users and targets, so a difference
is taken user by user and its error is that of the mean of these; of several seeds a user's hit is the mean. The
users share a few dozen cold targets, so their hits are not independent: `se_by_item` stands beside it for that.
Shuffled content is learnt by heart alone, which takes more epochs than the demo has: `--shuffled-epochs` (120).
How far a training got with the few rows of a cold item differs between seeds more than between users: `--seeds`.
Ranks are those of the epoch that is best on validation. Trainings run side by side, one a core, on one thread each.
Prints JSON; exit 1 where one of these does not hold.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Python puts this file's folder first, where `loaders` would be the benchmark of that name.
sys.path.sort(key=lambda path: Path(path) == Path(__file__).parent)

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.config import Config, make_config
from baselines.evaluate import evaluate
from baselines.metrics import per_user
from baselines.model import build_model, open_data, open_part
from baselines.runs import new_run
from baselines.training import train
from ninerec.demo import _OWN, _SETTINGS
from ninerec_data import Home
from ninerec_data.catalog import find
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare
from ninerec_data.synthetic import SUITE, write_suite, write_tokenizer

Array = NDArray[Any]
TIMES = 3  # ids on cold, random on new
NEAR = 2  # standard errors
K = 10
ENCODERS = ("text+image", "image", "text", "id")  # the longest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training. content: "drawn" or "shuffled", the home it takes place in; most: epochs, None = the demo's."""

    dataset: str
    encoder: str
    content: str
    seed: int
    most: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What a training came to: for each of n users of the test part, target, group of it, hit and random's chance.

    facts: its seconds and epochs.
    """

    users: Array
    targets: Array
    group: Array
    hits: Array
    chance: Array
    facts: dict[str, Any]


def settings(models: Path, job: Job) -> Config:
    """What `ninerec demo` trains with, on one thread; with epochs of one's own, all of them."""
    asked = _SETTINGS | _OWN.get(job.encoder, {}) | _OWN.get(job.dataset, {})
    asked |= {"data.dataset": job.dataset, "model.item_encoder": job.encoder}
    asked |= {"model.objective": "in-batch", "train.seed": job.seed}
    asked |= {"train.threads": 1, "train.device": "cpu"}
    if job.most:
        asked |= {"train.epochs": job.most, "train.patience": job.most}
    if job.encoder != "id":
        asked["model.weights"] = "none"
    if "text" in job.encoder:
        asked["model.text_model"] = str(models)
    if "image" in job.encoder:
        asked |= {"model.image_model": str(models / "swin.json"), "data.image_size": 64}
    return make_config(options=asked)


def shuffle(release: Path, copy: Path, seed: int) -> None:
    """Copy a dataset's release; an item's titles and cover are there those of one other item."""
    shutil.copytree(release, copy)
    stem = release.name.title()
    table, covers = copy / f"{stem}_item.csv", f"{stem}_cover"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    ring = np.random.default_rng(seed).permutation(len(rows))  # each gives to the next in it
    giver = dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
    with table.open("w", encoding="utf-8", newline="") as file:
        own = csv.writer(file, lineterminator="\n")
        own.writerows([row[0], *rows[giver[n]][1:]] for n, row in enumerate(rows))
    for n, row in enumerate(rows):
        shutil.copyfile(
            release / covers / f"{rows[giver[n]][0]}.jpg", copy / covers / f"{row[0]}.jpg"
        )


def set_up(folder: Path, datasets: list[str]) -> None:
    """Draw the suite and its small models; prepare the datasets in a home as drawn and in one shuffled."""
    write_suite(folder)
    titles = []
    for table in sorted((folder / "release").glob("*/*_item.csv")):
        with table.open(encoding="utf-8", newline="") as file:
            titles += [title for row in csv.reader(file) for title in row[1:]]
    write_tokenizer(folder / "models", titles)
    for name in datasets:
        entry, _ = find(name)
        drawn, shuffled = folder / "release" / name, folder / "release-shuffled" / name
        shuffle(drawn, shuffled, seed=0)
        for content, release in (("drawn", drawn), ("shuffled", shuffled)):
            import_release(Home(folder / content), entry, release)
            prepare(Home(folder / content), entry)


def ranked(folder: Path, job: Job) -> Ranked:
    """Train a model and rank the test targets by its best epoch."""
    torch.set_num_threads(1)
    began, cpu, home = time.perf_counter(), time.process_time(), Home(folder / job.content)
    config = settings(folder / "models", job)
    run = new_run(home, config)
    done = train(home, run, test=False, say=lambda _: None)
    ds = open_data(config, home)
    model = build_model(config, ds)
    model.load_state_dict(run.load_best())
    ranks = evaluate(model, open_part(config, ds, "test"))
    facts = {key: done[key] for key in ("epochs", "best_epoch", "params", "protocol_hash")}
    facts["seconds"] = round(time.perf_counter() - began, 1)
    facts["cpu_seconds"] = round(time.process_time() - cpu, 1)
    return Ranked(
        users=ranks.users,
        targets=np.array(ds.item_ids)[ranks.targets - 1],
        group=ds.group[ranks.targets],
        hits=per_user(ranks, K, ds.protocol.ties)[0],
        chance=np.minimum(1, K / ranks.candidates),
        facts=facts,
    )


def all_ranked(folder: Path, jobs: list[Job]) -> dict[Job, Ranked]:
    """Every training, one a core; those of a dataset have the same users and targets."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        running = {job: pool.submit(ranked, folder, job) for job in jobs}
        found = {job: each.result() for job, each in running.items()}
    for job, own in found.items():
        first = next(other for at, other in found.items() if at.dataset == job.dataset)
        for what in ("users", "targets", "group"):
            if not np.array_equal(getattr(own, what), getattr(first, what)):
                sys.exit(f"{job} has other {what} than the first training of {job.dataset}")
    return found


def mean(values: Array) -> dict[str, float]:
    """Mean and its standard error, in percent; values (n,)."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": round(100 * float(values.mean()), 2), "se": round(100 * float(error), 2)}


def apart(one: Array, other: Array, targets: Array) -> dict[str, float]:
    """Mean of n paired differences; se_by_item: the error where users with the same target count as one draw."""
    values = one - other
    _, item = np.unique(targets, return_inverse=True)
    sums = np.bincount(item, weights=values - values.mean())
    error = np.sqrt((sums**2).sum()) / len(values)
    return {**mean(values), "se_by_item": round(100 * float(error), 2)}


def ratio(one: Array, other: Array) -> float | None:
    """Of their means; None where the other's is 0."""
    return round(float(one.mean() / other.mean()), 2) if other.any() else None


def figures(own: Ranked) -> dict[str, Any]:
    """HR@10 of a training in each scenario, a random scorer's beside it."""
    out = {}
    for scenario in ("regular", "cold", "new"):
        chosen = own.group == scenario if scenario != "regular" else np.ones(len(own.group), bool)
        random = mean(own.chance[chosen])["mean"]
        out[scenario] = {**mean(own.hits[chosen]), "random": random, "n": int(chosen.sum())}
    return out


def compared(found: dict[Job, Ranked], dataset: str, encoder: str) -> dict[str, Any]:
    """An encoder of content beside ids, over all seeds; `missed` names the bars."""
    of = {
        (job.encoder, job.content, job.seed): r
        for job, r in found.items()
        if job.dataset == dataset
    }
    any_of = next(iter(of.values()))
    cold, new = any_of.group == "cold", any_of.group == "new"

    def hits(encoder: str, content: str) -> Array:
        same = [r.hits for key, r in of.items() if key[:2] == (encoder, content)]
        averaged: Array = np.mean(same, axis=0)
        return averaged

    ids, drawn, shuffled = hits("id", "drawn"), hits(encoder, "drawn"), hits(encoder, "shuffled")
    targets = any_of.targets[cold]
    lie = apart(shuffled[cold], ids[cold], targets)
    missed = []
    if drawn[cold].mean() < TIMES * ids[cold].mean() or not drawn[cold].any():
        missed.append("ids on cold")
    if drawn[new].mean() < TIMES * any_of.chance[new].mean():
        missed.append("random on new")
    if abs(lie["mean"]) > NEAR * lie["se"]:
        missed.append(f"shuffled {'above' if lie['mean'] > 0 else 'below'} ids on cold")
    return {
        "dataset": dataset,
        "encoder": encoder,
        "cold_to_ids": ratio(drawn[cold], ids[cold]),
        "new_to_random": ratio(drawn[new], any_of.chance[new]),
        "drawn_minus_ids_on_cold": apart(drawn[cold], ids[cold], targets),
        "shuffled_minus_ids_on_cold": lie,
        "shuffled_to_random_on_new": ratio(shuffled[new], any_of.chance[new]),
        "missed": missed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", nargs="+", choices=SUITE, default=["demo_food"])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS[:-1], default=ENCODERS[:-1])
    parser.add_argument("--epochs", type=int, help="of a training (the demo's)")
    parser.add_argument(
        "--shuffled-epochs", type=int, default=120, help="of shuffled content (120)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    encoders = [each for each in ENCODERS if each in (*args.encoders, "id")]
    epochs = {"drawn": args.epochs, "shuffled": args.shuffled_epochs}
    jobs = [
        Job(dataset=dataset, encoder=encoder, content=content, seed=seed, most=epochs[content])
        for encoder, dataset, seed, content in product(
            encoders, args.datasets, args.seeds, ("drawn", "shuffled")
        )
        if (encoder, content) != ("id", "shuffled")
    ]
    began, load = time.perf_counter(), os.getloadavg()[0]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with tempfile.TemporaryDirectory(prefix="content-") as made:
        folder = Path(made)
        os.environ["NINEREC_CATALOG"] = str(folder / "catalog")
        set_up(folder, args.datasets)
        found = all_ranked(folder, jobs)
    pairs = [(d, e) for d, e in product(args.datasets, encoders) if e != "id"]
    result: dict[str, Any] = {
        "processors": os.cpu_count(),
        "load_before": round(load, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "versions": {name: version(name) for name in ("torch", "torchvision", "transformers")},
        "trainings": [{**asdict(job), **own.facts, **figures(own)} for job, own in found.items()],
        "compared": [compared(found, *pair) for pair in pairs],
    }
    print(json.dumps(result, indent=2))
    return 1 if any(pair["missed"] for pair in result["compared"]) else 0


if __name__ == "__main__":
    sys.exit(main())
