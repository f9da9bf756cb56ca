"""Options that several verbs share, and how verbs speak."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["add_split_options", "at_least", "print_json", "print_table", "say", "split_options"]


def say(text: str) -> None:
    """Talk goes to stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The one JSON document of a verb."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with equal keys as an aligned table; numbers to the right, grouped."""
    if not rows:
        return
    cells = [[*rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    numeric = [all(not isinstance(row[key], str) for row in rows) for key in rows[0]]
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    for line in cells:
        shown = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        print("  ".join(shown).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def at_least(low: int) -> Callable[[str], int]:
    """The argparse type of a whole number from `low` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            msg = f"'{text}' is no whole number of at least {low}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return parse


def add_split_options(parser: argparse.ArgumentParser, *, seed: str = "--seed") -> None:
    """The options that name a protocol and its split (DESIGN 5). seed: the option of the user draw's seed."""
    group = parser.add_argument_group("split")
    group.add_argument("--protocol", metavar="NAME", help="ninerec-2023 (default) or strict")
    group.add_argument(
        "--min-interactions",
        type=at_least(3),
        metavar="N",
        help="users with fewer are left out (5)",
    )
    group.add_argument(
        "--max-length", type=at_least(1), metavar="L", help="model positions; keeps the last L + 3"
    )
    group.add_argument("--users", type=at_least(1), metavar="N", help="draw N users")
    group.add_argument(
        seed, dest="split_seed", type=at_least(0), metavar="S", help="seed of that draw (0)"
    )
    group.add_argument(
        "--warm", type=at_least(1), metavar="K", help="drop items with fewer than K interactions"
    )


def split_options(args: argparse.Namespace) -> dict[str, Any]:
    """The Split fields asked for on the command line."""
    named = {
        "min_interactions": args.min_interactions,
        "keep_last": None if args.max_length is None else args.max_length + 3,
        "users": args.users,
        "seed": args.split_seed,
        "warm": args.warm,
    }
    return {key: value for key, value in named.items() if value is not None}
