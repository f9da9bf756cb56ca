"""`ninerec list`: every dataset of the catalog in one table, or what of it is on disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ninerec.options import aligned, as_typed, figure, local_state, print_json, readable, say
from ninerec_data.catalog import Alias, Entry, aliases, catalog
from ninerec_data.cleaning import leftovers, raw_folders, size_of
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home, find_home
from ninerec_data.manifest import n_items, read_manifest
from ninerec_data.protocol import get_protocol

__all__ = ["add_parser", "run"]

Facts = dict[str, Any]
Row = tuple[str, Entry | None, Facts]  # name, entry (None: not in the catalog), facts of the disk

_EXAMPLES = """examples:
  ninerec list                 # name, size, modalities, access and terms of every dataset
  ninerec list --local --json  # what this home holds, for a program to read
"""
_HEAD = (
    *("name", "role", "users", "items", "interactions"),
    *("modalities", "languages", "access", "terms"),
)
_FIGURES = (2, 3, 4)  # columns of _HEAD
_LOCAL_HEAD = ("name", "on disk", "splits", "covers", "raw", "prepared")
_SIZES = (4, 5)  # columns of _LOCAL_HEAD


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
        "--local",
        action="store_true",
        help="what this home holds: splits, covers, bytes; only datasets imported or prepared in it",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the catalog, or what is on disk; returns the exit code."""
    home = find_home(args.home)
    if args.local:
        _list_local(home, args.json)
        return 0
    rows: list[Row] = [(name, entry, {}) for name, entry in catalog().items()]
    others = aliases().values()
    if args.json:
        named = {a.name: {"target": a.target, "split": dict(a.split)} for a in others}
        print_json({"datasets": _documents(rows), "aliases": named})
        return 0
    table = [_cells(name, entry) for name, entry in catalog().items()]
    print("\n".join(aligned([_HEAD, *table], right=_FIGURES)))
    print("\nother names:")
    print("\n".join(f"  {line}" for line in aligned(list(map(_alias_cells, others)))))
    say("`ninerec show NAME` says more about one of them")
    return 0


def _list_local(home: Home, as_json: bool) -> None:
    rows = _local_rows(home)
    left = size_of(path for paths in leftovers(home).values() for path in paths)
    if as_json:
        print_json({"datasets": _documents(rows), "aliases": {}, "leftover_bytes": left})
        return
    if rows:
        table = [_local_cells(name, entry, facts) for name, entry, facts in rows]
        print("\n".join(aligned([_LOCAL_HEAD, *table], right=_SIZES)))
    else:
        say(f"nothing is imported or prepared under {home}")
    if left:
        say(
            f"killed runs left {readable(left)}; what no run uses goes with: ninerec clean --leftovers"
        )


def _local_rows(home: Home) -> list[Row]:
    """What is imported or prepared here; last, what is prepared under a name not in the catalog."""
    rows: list[Row] = [
        (name, entry, _facts(home, name, state))
        for name, entry in catalog().items()
        if (state := local_state(home, name))
    ]
    found = sorted(path.parent.name for path in home.root.glob("prepared/*/manifest.json"))
    others = [name for name in found if name not in catalog()]
    return rows + [(name, None, _facts(home, name, "prepared")) for name in others]


def _facts(home: Home, name: str, state: str) -> Facts:
    """State, bytes, splits and covers of a dataset on disk, by its manifests alone."""
    folder = home.prepared(name)
    facts: Facts = {
        "local": state,
        "raw_bytes": size_of(raw_folders(home, name)),
        "prepared_bytes": size_of([folder]) if state == "prepared" else 0,
        "splits": {},
        "covers": None,
    }
    try:
        if tables := read_manifest(folder / "manifest.json"):
            facts |= {"splits": _splits(folder / "splits", tables), "covers": _covers(tables)}
    except CheckFailed as error:
        say(str(error))
    return facts


def _splits(folder: Path, tables: Facts) -> dict[str, Facts]:
    """Hash -> the fields of a split that `prepare` without options would set otherwise."""
    default = asdict(get_protocol("ninerec-2023", **tables["split_defaults"]).split)
    return {
        path.parent.name: {
            key: value
            for key, value in (read_manifest(path) or {}).get("parameters", {}).items()
            if value != default[key]
        }
        for path in sorted(folder.glob("[!.]*/manifest.json"))
    }


def _covers(tables: Facts) -> Facts:
    if "covers" not in tables:
        return {"unsettled": n_items(tables)}
    return {key: tables["covers"]["counts"][key] for key in ("ok", "missing", "broken")}


def _local_cells(name: str, entry: Entry | None, facts: Facts) -> list[str]:
    splits = [" ".join(f"{k}={v}" for k, v in s.items()) for s in facts["splits"].values()]
    covers = [f"{n:,} {cover}" for cover, n in (facts["covers"] or {}).items() if n]
    return [
        name,
        facts["local"] + ("" if entry else ", not in the catalog"),
        "; ".join(fields or "default" for fields in splits) or "-",
        ", ".join(covers) or "-",
        readable(facts["raw_bytes"]),
        readable(facts["prepared_bytes"]),
    ]


def _cells(name: str, entry: Entry) -> list[str]:
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


def _documents(rows: Sequence[Row]) -> list[Facts]:
    datasets = []
    for name, entry, on_disk in rows:
        facts: Facts = {"name": name}
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
        datasets.append(facts | on_disk)
    return datasets
