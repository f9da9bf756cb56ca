"""PixelRec: CSV files with header lines (PAPERS_AND_CODE 1.5).

interactions   item_id, user_id, timestamp; in any order, named by the header
item info      item_id, view_number, ..., title, tag, description; CSV-quoted
cover          <item_id>.jpg; also cover.zip, cover.tar, X.lmdb

Options: stem (default "PixelRec"), such as "Pixel200K"; interactions, items (file name patterns, where the
defaults below do not fit); language of the titles (default "zh").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_headed_table
from ninerec_data.formats.pairs import WANTED, pairs_from_header, scan_pairs
from ninerec_data.release import Release, Role

__all__ = ["read", "roles"]


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """Interactions, item info and covers."""
    stem = options.get("stem", "PixelRec")
    interactions = options.get("interactions")
    items = options.get("items")
    return (
        Role(
            name="interactions",
            patterns=(interactions,)
            if interactions
            else (f"{stem}_interaction*.csv", f"{stem}.csv"),
            about="item_id,user_id,timestamp",
        ),
        Role(
            name="items",
            patterns=(items,) if items else (f"{stem}_item*.csv", "item_info.csv"),
            about="item_id,...,title,tag,description",
        ),
        covers_role("cover", "covers", lmdb=(stem,), about="<item_id>.jpg"),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset; the item info's counters stay under their own names."""
    title = f"title_{options.get('language', 'zh')}"
    table = Table(columns=("item_id", title))
    items, report = read_headed_table(files["items"], table, rename={"title": title})
    path = files["interactions"]
    interactions, notes = scan_pairs(path, pairs_from_header(path, {name: name for name in WANTED}))
    return Release(interactions=interactions, items=items, files=(report,), notes=notes)
