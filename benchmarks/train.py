"""A text training step beside the released code's way, and how many items each encodes.

    python benchmarks/train.py                 # --data PATH: the folder that has ninerec and tokenizers
    python benchmarks/train.py --steps 1       # a try

bili_food's real sequences and English titles, 64 users a batch; a BERT of 6 layers, width 384, 12 heads, with
random weights; SASRec of the text/bce preset (dim 512); float32 on the CPU. A step is batch, forward, backward,
AdamW. Ours is what `ninerec train` does; the reference is in _train_reference.py. Both have the same BERT class
and the same first weights, and get the same items and negatives. The first step is one without dropout: loss
and norm of all gradients must be the same.

As a whole the reference's batch needs over 20 GB, so it goes through in parts whose gradients are added: the same
step, in the same time. Its peak as a whole is worked out: weights, gradients and moments once, and `parts` times
what a part adds to them; --parts 1 measures it.

Each way is a process of its own, its peak memory the operating system's figure. They take turns step by step, on
2 threads and on 1, so that what else the machine does falls on both: compare ratios only, of wall seconds (the
bar: 5) and of processor seconds. `encoded` counts what a full batch encodes, mean of an epoch. Prints JSON;
exit 1 where a bar is missed, 3 without the data.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Python puts this file's folder first, where `loaders` would be the benchmark of that name.
sys.path.sort(key=lambda path: Path(path) == Path(__file__).parent)

import numpy as np
import torch
from _train_reference import TOKENS, Reference

from baselines.config import Config, make_config
from baselines.groups import parameter_groups
from baselines.model import build_model, open_data, open_part
from loaders import make_loader
from ninerec_data import Home
from ninerec_data.catalog import find
from ninerec_data.importing import import_release
from ninerec_data.prepare import prepare

DATA = Path(os.environ.get("NINEREC_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
RELEASES, TOKENIZER = "ninerec/Downstream_datasets", "tokenizers/bert-base-uncased"
DATASETS, USERS = ("bili_food", "bili_dance", "qb"), 64
BERT = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
WAYS = ("ours", "reference")
FASTER = 5  # times
NEAR = 1e-4  # two losses and, relatively, two norms


class Worker:
    """One way, in a process of its own."""

    def __init__(self, way: str, folder: Path) -> None:
        config = settings("bili_food", folder)
        ds = open_data(config, Home(folder / "home"))
        sequences = open_part(config, ds, "train")
        loader = make_loader(sequences, USERS, similar=config.data.similar)
        full = (at for at in range(len(loader)) if len(loader.make(0, at).users) == USERS)
        self.loader, self.full = loader, tuple(full)  # an epoch has one smaller batch
        self.model = build_model(config, ds)
        self.reference = Reference(self.model, sequences) if way == "reference" else None
        fused = True if way == "ours" else None
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), fused=fused)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.rest = resident + 12 * trained  # gradients and two moments, in float32

    def step(self, at: int, threads: int, parts: int, *, dropout: bool = True) -> dict[str, float]:
        torch.set_num_threads(threads)
        self.model.train(dropout)
        began = time.perf_counter(), time.process_time()
        batch = self.loader.make(0, self.full[at])
        self.optimizer.zero_grad(set_to_none=True)
        if self.reference:
            loss = self.reference.backward(batch, parts)
        else:
            total = self.model(batch)
            total.backward()
            loss = total.item()
        self.optimizer.step()
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
        return {
            "wall": wall,
            "cpu": cpu,
            "loss": loss,
            "gradient": torch.stack(norms).norm().item(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "rest": self.rest / 2**30,
        }


def start(way: str, folder: Path) -> None:
    globals()["worker"] = Worker(way, folder)


def step(*of: Any, **more: Any) -> dict[str, float]:
    done: dict[str, float] = globals()["worker"].step(*of, **more)
    return done


def settings(dataset: str, folder: Path) -> Config:
    """The text/bce preset, its text model built from the config in the folder."""
    about = {"data.dataset": dataset, "model.item_encoder": "text", "train.batch_size": USERS}
    model = {"model.text_model": str(folder / "model"), "model.weights": "none"}
    return make_config(options={**about, **model})


def set_up(folder: Path, data: Path) -> None:
    """Import and prepare the datasets, and write the text model's folder."""
    home, model = Home(folder / "home"), folder / "model"
    for name in DATASETS:
        entry, _ = find(name)
        import_release(home, entry, data / RELEASES)
        prepare(home, entry)
    model.mkdir()
    (model / "tokenizer.json").write_bytes((data / TOKENIZER / "tokenizer.json").read_bytes())
    known = json.loads((data / TOKENIZER / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(known | BERT), encoding="utf-8")


def encoded(folder: Path, dataset: str) -> dict[str, float]:
    """Items and tokens that a full batch encodes, means of an epoch, beside those of every slot."""
    config = settings(dataset, folder)
    sequences = open_part(config, open_data(config, Home(folder / "home")), "train")
    batches = [b for b in make_loader(sequences, USERS).at(0) if len(b.users) == USERS]
    items = statistics.mean(len(batch.unique_items) for batch in batches)
    tokens = statistics.mean(batch.tokens.numel() for batch in batches if batch.tokens is not None)
    slots = 2 * USERS * (sequences.max_length + 1)
    return {
        "items": round(items, 1),
        "slots": slots,
        "slots_to_items": round(slots / items, 2),
        "tokens": round(tokens),
        "tokens_of_slots": slots * TOKENS,
        "tokens_of_slots_to_tokens": round(slots * TOKENS / tokens, 2),
    }


def race(folder: Path, steps: int, parts: int) -> dict[str, Any]:
    """Steps of both ways in turn, after one without dropout."""
    of = {way: ProcessPoolExecutor(1, get_context("spawn"), start, (way, folder)) for way in WAYS}
    took: dict[str, Any] = {f"threads_{n}": {way: [] for way in WAYS} for n in (2, 1)}
    try:
        first = {way: of[way].submit(step, 0, 1, parts, dropout=False).result() for way in WAYS}
        last = dict(first)
        for at, threads, way in product(range(steps), (2, 1), WAYS):
            last[way] = of[way].submit(step, 1 + at, threads, parts).result()
            took[f"threads_{threads}"][way].append((last[way]["wall"], last[way]["cpu"]))
    finally:
        for pool in of.values():
            pool.shutdown()
    peak = {way: last[way]["peak"] for way in WAYS}
    rest = last["reference"]["rest"]
    return {
        "without_dropout": {way: (first[way]["loss"], first[way]["gradient"]) for way in WAYS},
        "seconds": took,
        "peak_gib": {**peak, "reference_whole": rest + parts * (peak["reference"] - rest)},
    }


def judged(ran: dict[str, Any]) -> dict[str, Any]:
    """The run with the ratios of its paired steps and the bars that it misses."""
    ratios: dict[str, float] = {}
    for threads, took in ran["seconds"].items():
        paired = np.array(took["reference"]) / np.array(took["ours"])
        wall, cpu = np.median(paired, axis=0).round(2).tolist()
        ratios |= {threads: wall, f"{threads}_cpu": cpu}
    (loss, norm), (their_loss, their_norm) = ran["without_dropout"].values()
    same = {"loss": abs(loss - their_loss), "gradient": abs(norm - their_norm) / norm}
    missed = [name for name in ran["seconds"] if ratios[name] < FASTER]
    missed += [f"{what} without dropout" for what, apart in same.items() if not apart <= NEAR]
    return {**ran, "apart_without_dropout": same, "reference_to_ours": ratios, "missed": missed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--steps", type=int, default=3, help="of each way on 2 threads and on 1 (3)"
    )
    parser.add_argument("--parts", type=int, default=4, help="of the reference's batch (4)")
    arguments = parser.parse_args()
    if not (arguments.data / RELEASES).is_dir():
        print(f"no {arguments.data / RELEASES}; name its folder with --data", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory(prefix="train-") as made:
        folder, load = Path(made), os.getloadavg()[0]
        set_up(folder, arguments.data)
        ran = race(folder, arguments.steps, arguments.parts)
        result = {
            "processors": os.cpu_count(),
            "load_before": round(load, 2),
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "encoded": {name: encoded(folder, name) for name in DATASETS},
            "reference_parts": arguments.parts,
            **judged(ran),
        }
    print(json.dumps(result, indent=2))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
