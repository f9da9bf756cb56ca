"""The paper's Table 1 row, recomputed from the store and held against the published figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ninerec_data.dataset import Dataset
from ninerec_data.errors import UsageError
from ninerec_data.files import atomic_write

__all__ = ["compare", "plot", "statistics"]


def statistics(ds: Dataset, *, split: bool = False) -> dict[str, Any]:
    """Users, items with an interaction and interactions, of the store or of the split's windows.

    `published` repeats the paper's figures at their stated precision; `matches_published` is True or
    False where an exact figure of the same scope can be compared, else None.
    """
    if split:
        rows = ds.sequences.filter(np.array(ds.sequences["role"].to_pylist()) == "train")
        lengths = rows["end"].to_numpy() - rows["start"].to_numpy()
        counts = ds.split_manifest["counts"]
        figures = {key: counts[key] for key in ("users", "items", "interactions")}
    else:
        lengths = ds.users["end"].to_numpy() - ds.users["start"].to_numpy()
        items = _store_items(ds)
        figures = {
            "users": ds.users.num_rows,
            "items": int(pc.count_distinct(items).as_py()),
            "interactions": len(items),
        }
    cells = figures["users"] * figures["items"]
    published = ds.manifest["published"]
    scope = "split" if split else "store"
    out: dict[str, Any] = {
        "dataset": ds.name,
        "scope": scope,
        **figures,
        "average_length": round(figures["interactions"] / figures["users"], 2),
        "longest": int(lengths.max()),
        "sparsity_percent": round(100 * (1 - figures["interactions"] / cells), 4),
        "words": {language: _words(ds, language) for language in ds.languages},
        "published": published,
        "matches_published": compare(figures, published, scope),
    }
    if split:
        out["protocol"], out["protocol_hash"] = ds.protocol.name, ds.protocol.hash
        out["split"] = dict(ds.split_manifest["counts"])
    return out


def compare(figures: dict[str, int], published: dict[str, Any] | None, scope: str) -> bool | None:
    """Whether every exact published figure of this scope is met; None where there is none."""
    if not published or published["scope"] != scope:
        return None
    exact = {key: published[key] for key in figures if isinstance(published[key], int)}
    return all(figures[key] == value for key, value in exact.items()) if exact else None


def _store_items(ds: Dataset) -> pa.ChunkedArray:
    """The item of each row of the store, whatever the split dropped."""
    return pq.read_table(ds.folder / "interactions.parquet", columns=["item"])["item"]


def _words(ds: Dataset, language: str) -> float:
    """Mean length of the untouched titles: characters for zh, else words (NineRec Table 1)."""
    column = f"title_{language}"
    names = ds.items.column_names
    values = ds.items[column if column in names else f"text_{language}"].to_pylist()
    sizes = [len(v) if language == "zh" else len(v.split()) for v in values if v]
    return round(float(np.mean(sizes)), 2) if sizes else 0.0


def plot(ds: Dataset, path: Path) -> None:
    """Draw sequence lengths and item popularity (log-log) of the store to an image file.

    Raises UsageError for a file ending matplotlib cannot write, or a folder that is not there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        msg = f"--plot {path}: cannot draw '{path.suffix}' files; use .png or .svg"
        raise UsageError(msg)
    if not path.absolute().parent.is_dir():
        msg = f"--plot {path}: there is no folder {path.parent}; make it or name another file"
        raise UsageError(msg)
    left, right = figure.subplots(1, 2)
    left.hist(ds.users["end"].to_numpy() - ds.users["start"].to_numpy(), bins=40, log=True)
    left.set(title=f"{ds.name}: interactions per user", xlabel="interactions", ylabel="users")
    popularity = np.sort(np.bincount(_store_items(ds), minlength=ds.n_items + 1)[1:])[::-1]
    right.loglog(np.arange(1, len(popularity) + 1), np.maximum(popularity, 0.5))
    right.set(
        title="interactions per item", xlabel="item, most popular first", ylabel="interactions"
    )
    drawn = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(drawn, format=path.suffix.lstrip(".").lower(), metadata=metadata)
    atomic_write(path, drawn.getvalue())
