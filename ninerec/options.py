"""What several verbs share: how they speak, the options of a split, and what a home holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ninerec_data.catalog import Entry
from ninerec_data.errors import MissingData
from ninerec_data.home import Home
from ninerec_data.raw import held_files

__all__ = [
    "add_split_options",
    "aligned",
    "as_typed",
    "at_least",
    "figure",
    "local_state",
    "print_json",
    "print_table",
    "raw_files",
    "readable",
    "say",
    "split_options",
    "take_in",
]


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
    print("\n".join(aligned(cells, right=[at for at, right in enumerate(numeric) if right])))


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of cells in columns; the columns numbered in `right` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(widths[n]) if n in right else cell.ljust(widths[n])
            for n, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


def figure(value: int | str | None) -> str:
    """A published figure as it is printed."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else value


def readable(size: int) -> str:
    """Bytes as people read them: `12.3 MB`."""
    step = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**step:.{min(step, 1)}f} {('B', 'kB', 'MB', 'GB', 'TB')[step]}"


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


def add_split_options(
    parser: argparse.ArgumentParser,
    *,
    seed: str = "--seed",
    missing: Sequence[str] = ("keep", "drop"),
) -> None:
    """The options that name a protocol and its split (DESIGN 5).

    seed: the option of the user draw's seed. missing: what can be asked for items without a cover.
    """
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
    group.add_argument(
        "--missing-covers",
        choices=missing,
        help="items without a cover: keep them (default), drop them, a split of its own"
        + (", or give them a blank one" if "blank" in missing else ""),
    )


def split_options(args: argparse.Namespace) -> dict[str, Any]:
    """The Split fields asked for on the command line."""
    named = {
        "min_interactions": args.min_interactions,
        "keep_last": None if args.max_length is None else args.max_length + 3,
        "users": args.users,
        "seed": args.split_seed,
        "warm": args.warm,
        "covers": {"drop": "drop", None: None}.get(args.missing_covers, "keep"),
    }
    return {key: value for key, value in named.items() if value is not None}


def as_typed(split: Mapping[str, Any]) -> str:
    """Split fields as the options of `prepare` that ask for them: ` --warm 20`."""
    options = {key: f"--{key.replace('_', '-')}" for key in split} | {"covers": "--missing-covers"}
    return "".join(f" {options[key]} {value}" for key, value in split.items())


def local_state(home: Home, name: str) -> str:
    """`prepared`, `imported` (raw files are registered) or an empty string."""
    if (home.prepared(name) / "manifest.json").is_file():
        return "prepared"
    return "imported" if held_files(home, name) else ""


def raw_files(home: Home, name: str) -> dict[str, str]:
    """Role -> path of the raw files registered for a dataset."""
    return {role: str(file.path) for role, file in held_files(home, name).items()}


def take_in(home: Home, entry: Entry, path: Path) -> Mapping[str, Path]:
    """Import a release, say what is held and what stays in the archive; returns role -> path.

    Raises MissingData where required files are still missing.
    """
    from ninerec_data.importing import import_release, missing_message

    done = import_release(home, entry, path.expanduser())
    for role, held in done.found.items():
        say(f"{entry.name}: holds {role}: {held}")
    if done.left_in_archive:
        say(
            f"{entry.name}: covers in the archive are left there: unpack it and import the folder "
            f"to hold them ({', '.join(done.left_in_archive)})"
        )
    if done.missing:
        raise MissingData(missing_message(entry, done.missing, path))
    return done.found
