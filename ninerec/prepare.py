"""`ninerec prepare DATASET`: clean, split, tag cold and new items, write the store."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninerec.options import (
    add_split_options,
    as_typed,
    at_least,
    print_json,
    say,
    split_options,
    take_in,
)
from ninerec_data.catalog import find
from ninerec_data.engine import ENGINES
from ninerec_data.home import find_home
from ninerec_data.pictures import Recipe
from ninerec_data.prepare import CoverOptions, Prepared, prepare

_EXAMPLES = """examples:
  ninerec prepare bili_food --from ~/Downloads/Downstream_datasets.zip
  ninerec prepare bili_500k --warm 20          # also called bili_warm20
  ninerec prepare hm --missing-covers drop --jobs 8
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `prepare`."""
    parser = subparsers.add_parser(
        "prepare",
        help="clean, split, tag cold and new, write the store",
        description="Build the tables and one split of a dataset; only what changed is done again.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="PATH", help="import this first"
    )
    parser.add_argument(
        "--max-words", type=at_least(1), default=30, metavar="N", help="words of a text (30)"
    )
    add_split_options(parser, missing=("keep", "drop", "blank"))
    group = parser.add_argument_group("covers")
    group.add_argument(
        "--fit",
        choices=("squash", "center_crop"),
        default="squash",
        help="squash to 224x224 (default, as the papers) or crop the middle",
    )
    group.add_argument(
        "--decode",
        choices=("scaled", "exact"),
        default="scaled",
        help="JPEGs at a reduced size first (default) or in full",
    )
    group.add_argument("--jobs", type=at_least(1), metavar="N", help="threads (the cores)")
    group.add_argument(
        "--engine", choices=ENGINES, default="threads", help="where covers are made (threads)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare and print the counts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    entry, alias_split = find(args.dataset)
    home = find_home(args.home)
    if args.source is not None:
        take_in(home, entry, args.source)
    made = prepare(
        home,
        entry,
        protocol_name=args.protocol or "ninerec-2023",
        split={**alias_split, **split_options(args)},
        max_words=args.max_words,
        covers=CoverOptions(
            recipe=Recipe(fit=args.fit, decode=args.decode),
            missing="blank" if args.missing_covers == "blank" else "keep",
            jobs=args.jobs,
            engine=args.engine,
        ),
    )
    _warn_of_missing_rows(made)
    if args.json:
        print_json(_as_json(made))
    else:
        _tell(made)
        words = _train_words({**alias_split, **split_options(args)}, args.protocol)
        say(f"next: ninerec train --dataset {entry.name}{words}")
    return 0


def _train_words(split: Mapping[str, Any], protocol: str | None) -> str:
    """The options of `train` that mean the split which was just prepared."""
    said = dict(split)
    words = f" --protocol {protocol}" if protocol else ""
    if "keep_last" in said:
        words += f" --max-length {said.pop('keep_last') - 3}"
    if "seed" in said:
        words += f" --split-seed {said.pop('seed')}"
    return words + as_typed(said)


def _as_json(made: Prepared) -> dict[str, Any]:
    return {
        "dataset": made.tables["dataset"],
        "folder": str(made.folder),
        "done": list(made.done),
        "protocol": made.protocol.name,
        "protocol_hash": made.protocol.hash,
        "split_hash": made.protocol.split.hash,
        "counts": made.tables["counts"],
        "files": made.tables["files"],
        "notes": made.tables["notes"],
        "covers": made.covers["counts"] if made.covers else None,
        "split": made.split["counts"],
    }


def _warn_of_missing_rows(made: Prepared) -> None:
    """Fewer than 1% of the items joining is refused by the tables stage; under half is said aloud."""
    counts = made.tables["counts"]
    if counts["item_table"] and counts["items_without_row"] > counts["items"] / 2:
        name = made.tables["dataset"]
        say(
            f"WARNING: {counts['items_without_row']:,} of {counts['items']:,} items of {name} have no row in "
            "its item table, hence no title; if that is not the table of these interactions, "
            f"run: ninerec import {name} PATH"
        )


def _covers(counts: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in counts["reasons"].items())
    strangers = counts["files_that_join_no_item"]
    return (
        f"{counts['ok']:,} of {sum(counts[key] for key in ('ok', 'missing', 'broken')):,} items"
        + (f" ({reasons})" if reasons else "")
        + (f", {strangers:,} files are of no item here" if strangers else "")
    )


def _tell(made: Prepared) -> None:
    """What came out, and everything that was repaired, dropped or noted on the way."""
    counts, split = made.tables["counts"], made.split["counts"]
    for file in made.tables["files"]:
        for what in ("dropped", "repaired"):
            for reason, n in file[what].items():
                say(f"  {file['role']}: {what} {n:,}: {reason}")
        for note in file["notes"]:
            say(f"  {file['role']}: {note}")
    for note in made.tables["notes"]:
        say(f"  note: {note}")
    for key in (
        "items_without_row",
        "items_never_used",
        "equal_timestamps",
        "repeated_user_item_pairs",
    ):
        if counts[key]:
            say(f"  {key.replace('_', ' ')}: {counts[key]:,}")
    print(f"{made.tables['dataset']}: {made.folder}")
    print(
        f"  store  {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions"
    )
    if made.covers:
        print(f"  covers {_covers(made.covers['counts'])}")
    test = split["targets"]["test"]
    print(
        f"  split  {split['users']:,} users, {split['pool']:,} candidates, test targets: "
        f"{test['warm']:,} warm, {test['cold']:,} cold, {test['new']:,} new"
    )
    print(f"  protocol {made.protocol.name} {made.protocol.hash}, split {made.protocol.split.hash}")
    say("done before, nothing changed" if not made.done else f"done: {', '.join(made.done)}")
