"""RecBole's atomic files: `<name>/<name>.inter`, `.item` and a `.yaml` that asks for our split.

The interactions are the windows of the split's training users, so that RecBole's own leave-one-out finds
our validation and test targets; the items are the split's candidates.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ninerec_data.dataset import Dataset
from ninerec_data.export import refuse_ids, titles_of, with_ids
from ninerec_data.slices import rows_of

__all__ = ["write"]

# What pandas, which reads for RecBole, takes for no value, and RecBole's padding.
_NO_ID = r"#N/A( N/A)?|#NA|-?1\.#(IND|QNAN)|-?nan|-?NaN|<NA>|N/A|n/a|NA|NULL|null|None|\[PAD\]"
# White space and control characters: they separate words, or would end the line.
_BETWEEN_WORDS = r"[\s\p{Cc}]+"


def write(ds: Dataset, folder: Path) -> None:
    """Write the three files. Raises UsageError for ids that RecBole would tear or take for none."""
    refuse_ids(ds, rf"[ \t\r\n]|^({_NO_ID})$", "a blank, TAB, line break or 'NA'", to="recbole")
    inside = folder / ds.name
    inside.mkdir()
    train = pl.DataFrame(ds.sequences).filter(pl.col("role") == "train")
    rows = rows_of(train["start"].to_numpy(), train["end"].to_numpy())
    windows = with_ids(ds, pl.DataFrame(ds.interactions)[rows])
    time = "position" if windows["timestamp"].null_count() else "timestamp"
    types = {"user_id": "token", "item_id": "token", time: "float"}
    _write_atomic(windows, types, inside / f"{ds.name}.inter")
    titles = titles_of(ds)
    items = pl.DataFrame(ds.items).filter(pl.Series(ds.in_pool[1:]))
    words = pl.col(titles).str.replace_all(_BETWEEN_WORDS, " ").str.strip_chars()
    types = {"item_id": "token", **dict.fromkeys(titles, "token_seq")}
    _write_atomic(items.with_columns(words), types, inside / f"{ds.name}.item")
    counts = f"{train.height:,} users, {len(rows):,} interactions, {items.height:,} candidates"
    said = _yaml(ds, counts, time, ", ".join(types))
    (inside / f"{ds.name}.yaml").write_text(said, encoding="utf-8")


def _write_atomic(frame: pl.DataFrame, types: dict[str, str], path: Path) -> None:
    columns = [pl.col(name).alias(f"{name}:{kind}") for name, kind in types.items()]
    frame.select(columns).write_csv(path, separator="\t")


def _yaml(ds: Dataset, counts: str, time: str, item_columns: str) -> str:
    split = ds.protocol.split
    order = "" if time == "timestamp" else " Not all have times: position orders them."
    return f"""\
# {counts}: protocol {ds.protocol.name} {ds.protocol.hash},
# the last {split.keep_last} interactions of users with {split.min_interactions} or more.{order}
# In the folder above this one: run_recbole(model="SASRec", dataset="{ds.name}",
#   config_file_list=["{ds.name}/{ds.name}.yaml"], config_dict={{"data_path": "."}})
# A loss over all items, such as SASRec's CE, also needs "train_neg_sample_args": None.
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
TIME_FIELD: {time}
load_col: {{inter: [user_id, item_id, {time}], item: [{item_columns}]}}
MAX_ITEM_LIST_LENGTH: {split.keep_last - 3}
eval_args: {{split: {{LS: valid_and_test}}, group_by: user, order: TO, mode: full}}
metrics: [Hit, NDCG]
topk: [10]
valid_metric: Hit@10
"""
