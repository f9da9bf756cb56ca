"""A folder as the Hugging Face hub lays datasets out: Parquet tables, WebDataset shards, a dataset card.

`datasets.load_dataset(FOLDER, name)` reads a table: items, users, interactions, sequences. It has one reader
for all configurations of a folder, so the shards are a folder of their own: `load_dataset(FOLDER/covers)`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ninerec_data.dataset import Dataset
from ninerec_data.export import facts_of, terms_of, titles_of
from ninerec_data.shards import shard_name
from ninerec_data.slices import rows_of
from ninerec_data.tables import write_parquet

__all__ = ["tables_of", "write"]

_CARD = """
- `items`: `item` (1, 2, ...; row i is item i + 1), the release's `item_id` and columns; `text_*` is the cut text;
  of the split `split_train_count`, `split_group` (warm, cold, new) and `split_in_pool` (is a candidate).
- `users`: `user` (0, 1, ...), the release's `user_id` and columns.
- `interactions`: `user`, `item`, `timestamp` (UTC seconds; null where the release has none), `position`; sorted by
  user, oldest first.
- `sequences`: the split; `items` are rows `start` to `end` of the interactions. The last is the test target; of a
  `train` row the last but one is the validation target, and those before are the train rows.
- `covers/` is a folder of its own, `load_dataset("FOLDER/covers")`: WebDataset shards with `jpg`, `txt` and `json`.
"""


def write(ds: Dataset, folder: Path) -> None:
    """Write the tables, the shards and README.md."""
    tables = tables_of(ds)
    for name, frame in tables.items():
        (folder / name).mkdir()
        write_parquet(frame, folder / name / f"{name}.parquet")
    covers = _copy_covers(ds, folder / "covers") if ds.has_covers else 0
    counts = ", ".join(f"{frame.height:,} {name}" for name, frame in tables.items())
    split = f"protocol {ds.protocol.name} {ds.protocol.hash}, split {ds.protocol.split.hash}"
    card = f"# {facts_of(ds)[0]}\n\n{counts}, {covers:,} covers; {split}.\n{_CARD}\n{terms_of(ds)}"
    _write_card(folder, _front_matter(ds, tables), card)


def tables_of(ds: Dataset) -> dict[str, pl.DataFrame]:
    """The Parquet tables by name: the store's, with what the split says of items and users."""
    items = pl.DataFrame(ds.items).with_columns(
        split_train_count=pl.Series(ds.train_count[1:]),
        split_group=pl.Series(ds.group[1:]),
        split_in_pool=pl.Series(ds.in_pool[1:]),
    )
    users, sequences = pl.DataFrame(ds.users), pl.DataFrame(ds.sequences)
    start, end = sequences["start"].to_numpy(), sequences["end"].to_numpy()
    ends = np.concatenate([[0], np.cumsum(end - start)])
    lists = pa.LargeListArray.from_arrays(ends, ds.item_of_row[rows_of(start, end)])
    return {
        "items": items,
        "users": users.drop("start", "end"),
        "interactions": pl.DataFrame(ds.interactions),
        "sequences": sequences.with_columns(
            user_id=users["user_id"].gather(sequences["user"]), items=pl.Series(lists)
        ),
    }


def _copy_covers(ds: Dataset, folder: Path) -> int:
    """Copy the shards that hold something, with a card that names their columns; returns the number of covers."""
    shards = pl.Series(ds.items["shard"]).drop_nulls()
    if shards.is_empty():
        return 0
    folder.mkdir()
    for shard in shards.unique().sort():
        shutil.copyfile(ds.folder / "covers" / shard_name(shard), folder / shard_name(shard))
    # Without types a title that the first items lack would be taken for no text at all.
    titles = dict.fromkeys(("item_id", *titles_of(ds)), "string")
    kinds = {"txt": "string", "__key__": "string", "__url__": "string", "jpg": "image"}
    features = [
        *_features(kinds),
        {"name": "json", "struct": _features({"item": "int64", **titles})},
    ]
    config = {"config_name": "default", "data_files": "*.tar"}
    said = "The terms of use are in the folder above.\n"
    _write_card(folder, {"configs": [config], "dataset_info": {"features": features}}, said)
    return len(shards)


def _features(kinds: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": kind} for name, kind in kinds.items()]


def _front_matter(ds: Dataset, tables: dict[str, pl.DataFrame]) -> dict[str, Any]:
    """What the hub and `datasets` read."""
    terms, rows = ds.manifest["terms"], tables["interactions"].height
    sizes = ("1K", "10K", "100K", "1M", "10M", "100M")
    low = min(max(len(str(rows)) - 4, 0), 4)
    return {
        "pretty_name": facts_of(ds)[0],
        "license": "other",
        "license_name": terms["key"],
        "license_link": terms["url"] or "TERMS.txt",
        "language": list(ds.languages),
        "tags": ["recommendation", "sequential-recommendation", "multimodal"],
        "size_categories": ["n<1K" if rows < 1000 else f"{sizes[low]}<n<{sizes[low + 1]}"],
        "configs": [
            {"config_name": name, "data_files": f"{name}/{name}.parquet"} for name in tables
        ],
    }


def _write_card(folder: Path, head: dict[str, Any], card: str) -> None:
    """README.md with its front matter; JSON is YAML."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    text = "\n".join(["---", *lines, "---", card])
    (folder / "README.md").write_text(text, encoding="utf-8")
