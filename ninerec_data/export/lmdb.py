"""Upstream's own layout: X_behaviour.tsv, X_pair.csv, X_item.csv and the LMDB of covers, X being the name.

X_pair.csv (item, user, time: the order upstream's code names, not that of its README) is written where every
interaction has a time. The LMDB holds pickles of `__main__.LMDB_Image`, as the papers' scripts leave and
read them (PAPERS_AND_CODE 1.2); pictures are 224x224.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from ninerec_data.dataset import Dataset
from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.export import refuse_ids, with_ids

__all__ = ["write"]

ROOM = 1 << 18  # bytes of map for a picture of 224 x 224 x 3 and its pages
COMMIT = 200  # pictures a transaction


def write(ds: Dataset, folder: Path) -> None:
    """Write the tables, and the LMDB where the dataset has covers."""
    refuse_ids(ds, r'[ \t\r\n,"]', "a blank, TAB, comma, quote or line break", to="lmdb")
    stem = str(folder / ds.name)
    rows = with_ids(ds, pl.DataFrame(ds.interactions))
    items = pl.col("item_id").str.join(" ")
    behaviour = rows.group_by("user_id", maintain_order=True).agg(items)
    behaviour.write_csv(f"{stem}_behaviour.tsv", include_header=False, separator="\t")
    if rows["timestamp"].null_count() == 0:
        pairs = rows.select("item_id", "user_id", "timestamp")
        pairs.write_csv(f"{stem}_pair.csv", include_header=False)
    table = pl.DataFrame(ds.items)
    titles = [
        pl.col(name) if name in table.columns else pl.lit(None, pl.String).alias(name)
        for name in ("title_zh", "title_en")
    ]
    table.select("item_id", *titles).write_csv(f"{stem}_item.csv", include_header=False)
    if ds.has_covers:
        _write_covers(ds, Path(f"{stem}.lmdb"))


def _write_covers(ds: Dataset, path: Path) -> None:
    try:
        import lmdb
    except ImportError as error:
        msg = "--to lmdb needs the package lmdb; run: pip install 'ninerec[export]'"
        raise UsageError(msg) from error
    keys: list[bytes] = []
    try:
        with lmdb.open(
            str(path), subdir=False, lock=False, map_size=ROOM * (ds.n_items + 99)
        ) as store:
            images = _images(ds)
            while some := list(itertools.islice(images, COMMIT)):
                with store.begin(write=True) as txn:
                    keys += [key for key, value in some if txn.put(key, value)]
            with store.begin(write=True) as txn:
                txn.put(b"__keys__", pickle.dumps(keys, protocol=3))
                txn.put(b"__len__", pickle.dumps(len(keys), protocol=3))
    except lmdb.Error as error:
        msg = (
            f"cannot write {path.name}: {error}; nothing half written was kept. Where the disk is full (a cover "
            "takes 148 KiB) free some space or name another --out, then run the same command again"
        )
        raise CheckFailed(msg) from error


def _images(ds: Dataset) -> Iterator[tuple[bytes, bytes]]:
    """Key and pickle of every item that has a cover, in item order."""
    for item, item_id in enumerate(ds.item_ids, start=1):
        if jpeg := ds.cover(item):
            with Image.open(io.BytesIO(jpeg)) as image:
                width, height = image.size
                pixels = image.convert("RGB").tobytes()
            state = {"channels": 3, "size": (height, width), "image": pixels, "id": item_id}
            yield item_id.encode(), _pickle_of(state)


def _pickle_of(state: dict[str, Any]) -> bytes:
    """The pickle of an object of class `__main__.LMDB_Image` with these attributes.

    Put together from opcodes, since no such class is in our `__main__`: name the class, make an object
    without arguments, set its attributes, stop.
    """
    attributes = pickle.dumps(state, protocol=3).removeprefix(pickle.PROTO + b"\x03")[:-1]
    make = pickle.GLOBAL + b"__main__\nLMDB_Image\n" + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    return pickle.PROTO + b"\x03" + make + attributes + pickle.BUILD + pickle.STOP
