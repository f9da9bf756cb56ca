"""`ninerec list`: every dataset of the catalog in one table, or what of it is on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ninerec.options import aligned, as_typed, figure, local_state, print_json, say
from ninerec_data.catalog import Alias, Entry, aliases, catalog
from ninerec_data.home import Home, find_home

__all__ = ["add_parser", "run"]

Row = tuple[str, Entry | None, str]  # name, entry (None: not in the catalog), state on disk

_EXAMPLES = """examples:
  ninerec list                 # name, size, modalities, access and terms of every dataset
  ninerec list --local --json  # what this home holds, for a program to read
"""
_HEAD = (
    *("name", "role", "users", "items", "interactions"),
    *("modalities", "languages", "access", "terms"),
)
_FIGURES = (2, 3, 4)  # columns of _HEAD


def add_parser(subparsers: Any) -> None:
    """Add the parser of `list`."""
    parser = subparsers.add_parser(
        "list",
        help="the datasets that can be named",
        description="List the catalog: published size, modalities, languages, access and terms.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--local", action="store_true", help="only datasets imported or prepared in this home"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the catalog; returns the exit code."""
    home = find_home(args.home)
    rows: list[Row]
    rows = _local_rows(home) if args.local else [(n, e, "") for n, e in catalog().items()]
    if args.json:
        print_json(_document(rows, args.local))
        return 0
    if args.local and not rows:
        say(f"nothing is imported or prepared under {home}")
        return 0
    head = (*_HEAD, "on disk") if args.local else _HEAD
    table = [_cells(name, entry) + ([state] if args.local else []) for name, entry, state in rows]
    print("\n".join(aligned([head, *table], right=_FIGURES)))
    if not args.local:
        print("\nother names:")
        print(
            "\n".join(f"  {line}" for line in aligned(list(map(_alias_cells, aliases().values()))))
        )
        say("`ninerec show NAME` says more about one of them")
    return 0


def _local_rows(home: Home) -> list[Row]:
    """What is imported or prepared here; last, what is prepared under a name not in the catalog."""
    rows: list[Row] = [
        (n, e, state) for n, e in catalog().items() if (state := local_state(home, n))
    ]
    found = sorted(path.parent.name for path in home.root.glob("prepared/*/manifest.json"))
    return rows + [(name, None, "prepared") for name in found if name not in catalog()]


def _cells(name: str, entry: Entry | None) -> list[str]:
    if entry is None:
        return [name, "not in the catalog", *["-"] * (len(_HEAD) - 2)]
    published = entry.published.as_json() if entry.published else {}
    return [
        name,
        entry.role,
        *(figure(published.get(key)) for key in ("users", "items", "interactions")),
        ",".join(entry.modalities) or "-",
        ",".join(entry.languages) or "-",
        entry.access,
        entry.terms.key,
    ]


def _alias_cells(alias: Alias) -> tuple[str, str]:
    return alias.name, f"= {alias.target}{as_typed(alias.split)}"


def _document(rows: Sequence[Row], local: bool) -> dict[str, Any]:
    datasets = []
    for name, entry, state in rows:
        facts: dict[str, Any] = {"name": name}
        if entry is not None:
            facts |= {
                "title": entry.title,
                "role": entry.role,
                "platform": entry.platform,
                "modalities": entry.modalities,
                "languages": entry.languages,
                "timestamps": entry.timestamps,
                "access": entry.access,
                "terms": entry.terms.key,
                "published": entry.published.as_json() if entry.published else None,
            }
        datasets.append(facts | ({"local": state} if local else {}))
    others = {a.name: {"target": a.target, "split": dict(a.split)} for a in aliases().values()}
    return {"datasets": datasets, "aliases": {} if local else others}
