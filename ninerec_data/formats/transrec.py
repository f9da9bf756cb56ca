"""TransRec: users and items with features, one modality per item (PAPERS_AND_CODE 1.6).

The release was given out by e-mail only and its layout was never published. This reads a plain one that
holds what the paper describes, as CSV with header lines:

interactions.csv   user_id, item_id, timestamp (left out where unknown)
items.csv          item_id, modality (text: an article's title; image: a video's cover), title_zh, features (category)
users.csv          user_id, features such as gender and age; optional
covers             <item_id>.jpg for the image items

Options: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.errors import CheckFailed
from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_headed_table
from ninerec_data.formats.pairs import WANTED, pairs_from_header, scan_pairs
from ninerec_data.release import Release, Role

__all__ = ["read", "roles"]

MODALITIES = ("text", "image")


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:  # noqa: ARG001 - the contract's signature
    """Interactions, items, users and covers."""
    return (
        Role(
            name="interactions", patterns=("interactions.csv",), about="user_id,item_id[,timestamp]"
        ),
        Role(name="items", patterns=("items.csv",), about="item_id,modality,title_zh,..."),
        Role(name="users", patterns=("users.csv",), required=False, about="user_id,..."),
        covers_role("covers", about="<item_id>.jpg"),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:  # noqa: ARG001
    """Read the three files. Raises CheckFailed for an item of no modality, of another, or of two."""
    table = Table(columns=("item_id", "modality", "title_zh"))
    items, report = read_headed_table(files["items"], table, rename={})
    _check_modalities(files["items"], items)
    reports, users = [report], None
    if "users" in files:
        people = Table(columns=("user_id",), key="user_id", role="users")
        users, report = read_headed_table(files["users"], people, rename={})
        reports.append(report)
    path = files["interactions"]
    layout = pairs_from_header(path, {name: name for name in WANTED}, time=False)
    interactions, notes = scan_pairs(path, layout)
    return Release(
        interactions=interactions, items=items, users=users, files=tuple(reports), notes=notes
    )


def _check_modalities(path: Path, items: pl.DataFrame) -> None:
    other = items.filter(~pl.col("modality").is_in(MODALITIES).fill_null(False))
    if other.height:
        item, modality = other.select("item_id", "modality").row(0)
        raise CheckFailed(
            f"{path}: {other.height:,} items have a modality that is neither text nor image, "
            f"such as {item!r} with {modality!r}; mend the file and import it again"
        )
    both = (
        items.group_by("item_id").agg(pl.col("modality").n_unique()).filter(pl.col("modality") > 1)
    )
    if both.height:
        example = both["item_id"].min()
        raise CheckFailed(
            f"{path}: {both.height:,} items stand there as text and as image, such as {example!r}; "
            "TransRec's items have one modality: mend the file and import it again"
        )
