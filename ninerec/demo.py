"""`ninerec demo`: the whole way on a small suite drawn here; every step is a command anyone can type."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ninerec.options import print_json, print_table, say
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home, find_home

_EXAMPLES = """examples:
  ninerec demo --home demo-home
  ninerec demo --home demo-home --json
"""
_SETTINGS = {
    "model.dim": 64, "train.lr": 1e-3, "train.item_lr": 1e-3, "train.patience": 20, "train.batch_size": 32,
    "train.epochs": 20,
}  # fmt: skip
# What differs: where there are more users, more steps an epoch; covers take longest.
_OWN: dict[str, dict[str, Any]] = {
    "demo_source": {"train.batch_size": 64, "train.epochs": 10},
    "text": {"train.batch_size": 64, "train.epochs": 24},
    "image": {"model.dropout": 0, "train.item_lr": 2e-3, "train.epochs": 13},
    "text+image": {
        "model.fusion": "concat",
        "train.batch_size": 64,
        "train.lr": 5e-4,
        "train.item_lr": 5e-4,
        "train.epochs": 18,
    },
}
_ENCODERS = {  # what is trained on each dataset
    "demo_source": ("id", "text"),
    "demo_food": ("id", "text", "image", "text+image"),
    "demo_dance": ("id", "text"),
}
_SCENARIOS = ("regular", "cold", "new")


def add_parser(subparsers: Any) -> None:
    """Add the parser of `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="the whole way on a small suite drawn here",
        description="Draw a suite (a source, two targets), publish it here, download, prepare, verify, train on "
        "ids, text, covers and both, compare. "
        "Uses a home of its own (default: demo-home here).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="train for N epochs at most (10 to 24)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; the table's random_hr@10 is the floor that any number has to be read against."""
    started = time.perf_counter()
    home = find_home(args.home or "demo-home")
    suite = _draw(home)
    with _environment(suite / "catalog"), _published(suite) as mirror:
        rows = _steps(home, suite, mirror, args.epochs)
    if args.json:
        print_json({"seconds": round(time.perf_counter() - started, 1), "results": rows})
        return 0
    print()
    print_table(rows)
    print(f"\nHR@10 in percent over the full catalogue; home {home}")
    print(
        "Cold items have 1-9 train occurrences, new ones none: content predicts them, ids cannot."
    )
    say(f"{time.perf_counter() - started:.0f} seconds")
    return 0


@contextlib.contextmanager
def _environment(catalog: Path) -> Iterator[None]:
    """Name the suite's catalog, said as it would be typed; the environment is as before afterwards."""
    before = dict(os.environ)
    say(f"\n$ export NINEREC_CATALOG={shlex.quote(str(catalog))}")
    os.environ["NINEREC_CATALOG"] = str(catalog)
    # Models this small gain nothing from threads, and lose much where other work shares the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        for name in ("NINEREC_CATALOG", "OMP_NUM_THREADS"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def _published(suite: Path) -> AbstractContextManager[str]:
    """A server on this machine that plays the sites on which the suite is published; yields the mirror's address."""
    from downloader.origin import Origin, serving
    from ninerec_data.synthetic import HOME

    behind: dict[str, tuple[str | None, str]] = {}
    files = {}
    for path in sorted((suite / "origin").glob("*.zip")):
        files[f"{HOME.partition('//')[2]}/{path.name}"] = path
        behind |= json.loads(path.with_suffix(".json").read_text("utf-8"))

    def picture(_platform: str, word: str) -> Path | None:
        cover = behind[word][0]
        return None if cover is None else suite / cover

    return serving(Origin(files=files, pictures=picture, titles=lambda word: behind[word][1]))


def _steps(home: Home, suite: Path, mirror: str, epochs: int | None) -> list[dict[str, Any]]:
    """Every dataset of the suite, from where it is published to two trained models; the rows of the table."""
    from ninerec_data.synthetic import SUITE

    rows = []
    say("\nthe mirror below is played by this process, for as long as it runs")
    backup = str(suite / "backup")
    said = _command(
        home, "download", *SUITE, "--mirror", mirror, "--backup", backup, "--accept-terms"
    )
    for name, parts in said.items():
        found = ", ".join(f"{n} {outcome}" for outcome, n in parts["covers"].items())
        say(f"{name}: covers {found}")
    for name in SUITE:
        _command(home, "prepare", name)
        checked = _command(home, "verify", name)
        say(f"{name}: {sum(c['ok'] is True for c in checked['checks'])} checks hold")
        rows += [_train(home, suite, name, kind, epochs) for kind in _ENCODERS[name]]
    return rows


def _draw(home: Home) -> Path:
    """Draw the suite, train its tokenizer on the titles, and describe its small models."""
    from ninerec_data.synthetic import SUITE, write_suite, write_tokenizer

    suite = home.root / "suite"
    say(f"drawing {len(SUITE)} datasets with covers and titles into {suite}")
    write_suite(suite)
    tables = sorted((suite / "release").glob("*/*_item.csv"))
    write_tokenizer(suite / "models", [title for table in tables for title in _titles(table)])
    return suite


def _titles(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [title for row in csv.reader(file) for title in row[1:]]


def _train(
    home: Home, suite: Path, name: str, item_encoder: str, epochs: int | None
) -> dict[str, Any]:
    """Train one model, evaluate the three scenarios, return its row of the table."""
    words = ["--dataset", name, "--item-encoder", item_encoder, "--objective", "in-batch"]
    settings = _SETTINGS | _OWN.get(item_encoder, {}) | _OWN.get(name, {})
    if epochs:
        settings["train.epochs"] = epochs
    for setting, value in settings.items():
        words += ["--set", f"{setting}={value}"]
    if item_encoder != "id":
        words += ["--weights", "none"]
    if "text" in item_encoder:
        words += ["--text-model", str(suite / "models")]
    if "image" in item_encoder:
        words += ["--image-model", str(suite / "models" / "swin.json"), "--image-size", "64"]
    result = _command(home, "train", *words)
    found = _command(home, "evaluate", result["run"], "--scenario", ",".join(_SCENARIOS))
    row: dict[str, Any] = {"dataset": name, "items": item_encoder}
    for scenario in _SCENARIOS:
        row[scenario] = found["scenarios"][scenario]["hr@10"]
    row["random"] = found["scenarios"]["regular"]["random_hr@10"]
    return {
        **row,
        "protocol": f"{found['protocol']} {found['protocol_hash']}",
        "run": result["run"],
    }


def _command(home: Home, *words: str) -> Any:
    """Show a command as it would be typed, run it, return its JSON document."""
    from ninerec.main import parse

    say(f"\n$ ninerec {shlex.join(words)} --home {shlex.quote(str(home))}")
    module, parsed = parse([*words, "--home", str(home), "--json"])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = module.run(parsed)
    if code:
        msg = f"the demo's step `ninerec {shlex.join(words)}` ended with exit code {code}"
        raise CheckFailed(msg)
    return json.loads(out.getvalue())
