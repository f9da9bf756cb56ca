"""`ninerec list`: every dataset of the catalog in one table, or what of it is on disk."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ninerec_data.catalog import Alias, Entry, aliases, catalog
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home, find_home

__all__ = [
    "add_parser",
    "aligned",
    "figure",
    "local_state",
    "raw_files",
    "run",
    "split_options",
]

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
        print(json.dumps(_document(rows, args.local), indent=2, ensure_ascii=False))
        return 0
    if args.local and not rows:
        print(f"nothing is imported or prepared under {home}", file=sys.stderr)
        return 0
    head = (*_HEAD, "on disk") if args.local else _HEAD
    table = [_cells(name, entry) + ([state] if args.local else []) for name, entry, state in rows]
    print("\n".join(aligned([head, *table], right=_FIGURES)))
    if not args.local:
        print("\nother names:")
        print(
            "\n".join(f"  {line}" for line in aligned(list(map(_alias_cells, aliases().values()))))
        )
        print("`ninerec show NAME` says more about one of them", file=sys.stderr)
    return 0


def local_state(home: Home, name: str) -> str:
    """`prepared`, `imported` (raw files are registered) or an empty string."""
    if (home.prepared(name) / "manifest.json").is_file():
        return "prepared"
    return "imported" if raw_files(home, name) else ""


def raw_files(home: Home, name: str) -> dict[str, str]:
    """Role -> path of the raw files registered for a dataset; reads raw/journal.sqlite if it is there."""
    path = home.raw / "journal.sqlite"
    if not path.is_file():
        return {}
    import sqlite3

    # In a folder that cannot be written a WAL journal opens only as one that nobody changes.
    mode = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True)
        try:
            query = "select role, path from files where dataset = ? order by role"
            return dict(connection.execute(query, (name,)).fetchall())
        finally:
            connection.close()
    except sqlite3.Error as error:
        msg = (
            f"cannot read the journal {path}: {error}; if another program holds it wait for that, "
            "else move the file away and import the datasets again"
        )
        raise CheckFailed(msg) from error


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


def split_options(split: Mapping[str, Any]) -> str:
    """The options of `prepare` that make a split: ` --warm 20`."""
    return "".join(f" --{key.replace('_', '-')} {value}" for key, value in split.items())


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
    return alias.name, f"= {alias.target}{split_options(alias.split)}"


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
