"""MoRec and MMSR: TSV files without a header (PAPERS_AND_CODE 1.3, 1.4).

users    user TAB items separated by blanks, oldest to newest
items    one column (ids only), or id and text columns separated by TABs
covers   a folder, zip, tar or LMDB of <item>.jpg; the LMDB may have the item file's name (hm_50w_items.lmdb)

Options: users, items, covers (file name patterns; default `*users*.tsv`, `*items*.tsv`, none);
item_columns (default ["item_id"]); quoted: whether the item file is CSV-quoted (default false).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.errors import UsageError
from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_table
from ninerec_data.formats.sequences import scan_sequences
from ninerec_data.release import FileReport, Release, Role

__all__ = ["read", "read_items", "roles"]


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """The users file, the items file and, where the options name them, the covers."""
    users, items = options.get("users", "*users*.tsv"), options.get("items", "*items*.tsv")
    found = [
        Role(name="interactions", patterns=(users,), about="one user and their items a line"),
        Role(name="items", patterns=(items,), about="one item a line"),
    ]
    if "covers" in options:
        covers = options["covers"].removesuffix(".zip")
        found.append(covers_role(covers, lmdb=(items.removesuffix(".tsv"),)))
    return tuple(found)


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset; the sequences' repeated items stay (the published counts include them)."""
    items, report = read_items(files["items"], options)
    interactions, notes = scan_sequences(files["interactions"])
    return Release(interactions=interactions, items=items, files=(report,), notes=notes)


def read_items(path: Path, options: Mapping[str, Any]) -> tuple[pl.DataFrame, FileReport]:
    """Read the item file alone, with the columns the options name."""
    columns = tuple(options.get("item_columns", ("item_id",)))
    if "item_id" not in columns:
        raise UsageError(f"item_columns is {list(columns)}; it must name item_id")
    quoted = bool(options.get("quoted", False))
    return read_table(path, Table(columns=columns, separator="\t", quoted=quoted))
