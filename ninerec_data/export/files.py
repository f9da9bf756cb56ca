"""Plain files: items.csv, users.csv, interactions.csv and covers/, which the `generic` format reads again."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import polars.selectors as cs

from ninerec_data.dataset import Dataset
from ninerec_data.export import refuse_ids, with_ids
from ninerec_data.shards import key_of
from ninerec_data.tables import ITEM_COLUMNS, USER_COLUMNS

__all__ = ["write"]


def write(ds: Dataset, folder: Path) -> None:
    """Write the three tables without what `prepare` makes anew, and a JPEG for every item that has one."""
    refuse_ids(ds, r"[,\t\r\n]", "a comma, TAB or line break", to="files")
    of_items = cs.by_name(*ITEM_COLUMNS) | cs.starts_with("text_")
    for name, table, made in (
        ("items", ds.items, of_items),
        ("users", ds.users, cs.by_name(*USER_COLUMNS)),
    ):
        own = pl.DataFrame(table).select(~(made | cs.nested()))
        own.write_csv(folder / f"{name}.csv")
    rows = with_ids(ds, pl.DataFrame(ds.interactions)).drop("position")
    if rows["timestamp"].null_count() == rows.height:
        rows = rows.drop("timestamp")
    rows.write_csv(folder / "interactions.csv")
    if not ds.has_covers:
        return
    (folder / "covers").mkdir()
    for item, item_id in enumerate(ds.item_ids, start=1):
        if jpeg := ds.cover(item):
            (folder / "covers" / f"{key_of(item_id)}.jpg").write_bytes(jpeg)
