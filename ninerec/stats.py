"""`ninerec stats DATASET`: the paper's Table 1 row, recomputed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ninerec.options import add_split_options, print_json, say, split_options
from ninerec_data.catalog import find
from ninerec_data.dataset import Dataset, open_dataset
from ninerec_data.home import find_home

_EXAMPLES = """examples:
  ninerec stats bili_food
  ninerec stats amazon_20k --split --json
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `stats`."""
    parser = subparsers.add_parser(
        "stats",
        help="the paper's Table 1 row, recomputed",
        description="Count the store (or with --split the windows a split keeps) beside the published figures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("--split", action="store_true", help="count the split, not the store")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="lengths and long tail as .png or .svg"
    )
    add_split_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the statistics; a mismatch is `verify`'s to fail on. The store needs no split to be counted."""
    from ninerec_data.stats import plot, statistics, store_statistics

    if args.split or args.protocol or split_options(args):  # a split that is named must be there
        found = statistics(_open(args), split=args.split)
    else:
        found = store_statistics(find_home(args.home).prepared(find(args.dataset)[0].name))
    if args.plot:
        plot(_open(args), args.plot)
        say(f"drawn: {args.plot}")
    if args.json:
        print_json(found)
    else:
        _tell(found)
    return 0


def _open(args: argparse.Namespace) -> Dataset:
    entry, alias_split = find(args.dataset)
    return open_dataset(
        entry.name,
        home=find_home(args.home),
        protocol_name=args.protocol or "ninerec-2023",
        **{**alias_split, **split_options(args)},
    )


def _tell(found: dict[str, Any]) -> None:
    """The counted figures beside the published ones."""
    published = found["published"] or {}
    print(f"{found['dataset']} ({found['scope']})")
    for key in ("users", "items", "interactions"):
        said = published.get(key)
        shown = f"{said:,}" if isinstance(said, int) else said or "not published"
        print(f"  {key:16} {found[key]:>12,}   published ({published.get('scope', '-')}) {shown}")
    print(f"  {'average length':16} {found['average_length']:>12.2f}")
    print(f"  {'sparsity':16} {found['sparsity_percent']:>11.2f}%")
    for language, words in found["words"].items():
        print(f"  {'words ' + language:16} {words:>12.2f}")
    verdict = {True: "yes", False: "NO", None: "nothing exact to compare"}[
        found["matches_published"]
    ]
    print(f"  matches published: {verdict}")
