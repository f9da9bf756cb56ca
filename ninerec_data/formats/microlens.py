"""MicroLens: interactions as sequences or as timed pairs, titles with naive commas (PAPERS_AND_CODE 1.5).

X_pairs.csv        user, item, timestamp with a header line (also userID, videoID)
X_pairs.tsv        user TAB items, ordered by time
X_title_en.csv     item,title: split at the first comma only; a header `item,title` is passed over
X_covers           <item>.jpg; also X_covers.zip, X_covers.tar, X_covers.lmdb

Options: stem (default "MicroLens-100k"); language of the titles (default "en").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, has_header, read_table
from ninerec_data.formats.pairs import pairs_from_header, scan_pairs
from ninerec_data.formats.sequences import scan_sequences
from ninerec_data.release import Release, Role

__all__ = ["read", "roles"]

NAMES = {
    "user": "user_id",
    "userid": "user_id",
    "user_id": "user_id",
    "item": "item_id",
    "itemid": "item_id",
    "item_id": "item_id",
    "videoid": "item_id",
    "timestamp": "timestamp",
}


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """Interactions (the timed pairs first), titles and covers."""
    stem = options.get("stem", "MicroLens-100k")
    return (
        Role(
            name="interactions",
            patterns=(f"{stem}_pairs.csv", f"{stem}_pairs.tsv"),
            about="user,item,timestamp, or one user and their items a line",
        ),
        Role(
            name="items",
            patterns=(f"{stem}_title*.csv",),
            about="item,title",
        ),
        covers_role(f"{stem}_covers", f"{stem}_cover", lmdb=(f"{stem}_image",)),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset; the kind of interactions file is told by its suffix (.csv: pairs)."""
    columns = ("item_id", f"title_{options.get('language', 'en')}")
    table = Table(columns=columns, quoted=False, rest_in_last=True)
    path = files["items"]
    skip = int(any(has_header(path, (name, "title"), table) for name in ("item", "item_id")))
    items, report = read_table(path, table, skip=skip)
    path = files["interactions"]
    if path.suffix.lower() == ".csv":
        interactions, notes = scan_pairs(path, pairs_from_header(path, NAMES))
    else:
        interactions, notes = scan_sequences(path)
    return Release(interactions=interactions, items=items, files=(report,), notes=notes)
