"""Adressa as MoRec cut it: TSV files as in morec.py, the item file CSV-quoted (559 of its 20,373 titles).

Options: those of morec.py; defaults users `*adressa*users*.tsv`, items `*adressa*base*.tsv`,
item_columns ["item_id", "title_en"] (the Norwegian titles were translated), quoted true.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.formats import morec
from ninerec_data.release import FileReport, Release, Role

__all__ = ["read", "read_items", "roles"]

DEFAULTS = {
    "users": "*adressa*users*.tsv",
    "items": "*adressa*base*.tsv",
    "item_columns": ("item_id", "title_en"),
    "quoted": True,
}


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """The users file and the items file."""
    return morec.roles({**DEFAULTS, **options})


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset as MoRec's."""
    return morec.read(files, {**DEFAULTS, **options})


def read_items(path: Path, options: Mapping[str, Any]) -> tuple[pl.DataFrame, FileReport]:
    """Read the item file alone; the users file was never public."""
    return morec.read_items(path, {**DEFAULTS, **options})
