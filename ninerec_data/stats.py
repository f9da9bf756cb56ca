"""The paper's Table 1 row, recomputed from the store and held against the published figures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ninerec_data.dataset import Dataset
from ninerec_data.errors import UsageError
from ninerec_data.files import atomic_write
from ninerec_data.manifest import refuse_changed, tables_manifest

__all__ = ["compare", "plot", "statistics", "store_statistics"]

Ints = NDArray[np.int64]


def statistics(ds: Dataset, *, split: bool = False) -> dict[str, Any]:
    """Users, items with an interaction and interactions, of the store or of the split's windows.

    `published` repeats the paper's figures at their stated precision; `matches_published` is True or
    False where an exact figure of the same scope can be compared, else None.
    """
    if not split:
        return _figures(
            ds.folder, ds.manifest, "store", _store_counts(ds.folder), _lengths(ds.users)
        )
    rows = ds.sequences.filter(pc.equal(ds.sequences["role"], "train"))
    counts = ds.split_manifest["counts"]
    figures = {key: counts[key] for key in ("users", "items", "interactions")}
    return {
        **_figures(ds.folder, ds.manifest, "split", figures, _lengths(rows)),
        "protocol": ds.protocol.name,
        "protocol_hash": ds.protocol.hash,
        "split": dict(counts),
    }


def store_statistics(folder: Path) -> dict[str, Any]:
    """`statistics(ds, split=False)` of a prepared folder, whatever splits it holds.

    Raises MissingData where nothing is prepared, CheckFailed where a table changed since its manifest.
    """
    manifest = tables_manifest(folder)
    refuse_changed(folder.name, (folder, manifest))
    return _figures(folder, manifest, "store", _store_counts(folder), _lengths(_users(folder)))


def _figures(
    folder: Path, manifest: Mapping[str, Any], scope: str, figures: dict[str, int], lengths: Ints
) -> dict[str, Any]:
    cells = figures["users"] * figures["items"]
    return {
        "dataset": manifest["dataset"],
        "scope": scope,
        **figures,
        "average_length": round(figures["interactions"] / figures["users"], 2),
        "longest": int(lengths.max()),
        "sparsity_percent": round(100 * (1 - figures["interactions"] / cells), 4),
        "words": _words(folder),
        "published": manifest["published"],
        "matches_published": compare(figures, manifest["published"], scope),
    }


def compare(figures: dict[str, int], published: dict[str, Any] | None, scope: str) -> bool | None:
    """Whether every exact published figure of this scope is met; None where there is none."""
    if not published or published["scope"] != scope:
        return None
    exact = {key: published[key] for key in figures if isinstance(published[key], int)}
    return all(figures[key] == value for key, value in exact.items()) if exact else None


def _store_counts(folder: Path) -> dict[str, int]:
    items = _store_items(folder)
    return {
        "users": pq.read_metadata(folder / "users.parquet").num_rows,
        "items": int(pc.count_distinct(items).as_py()),
        "interactions": len(items),
    }


def _users(folder: Path) -> pa.Table:
    return pq.read_table(folder / "users.parquet", columns=["start", "end"])


def _lengths(slices: pa.Table) -> Ints:
    lengths: Ints = slices["end"].to_numpy() - slices["start"].to_numpy()
    return lengths


def _store_items(folder: Path) -> pa.ChunkedArray:
    """The item of each row of the store, whatever a split dropped."""
    return pq.read_table(folder / "interactions.parquet", columns=["item"])["item"]


def _words(folder: Path) -> dict[str, float]:
    """Mean length of the untouched titles by language: characters for zh, else words (NineRec Table 1)."""
    names = pq.read_schema(folder / "items.parquet").names
    words = {}
    for language in [name.removeprefix("text_") for name in names if name.startswith("text_")]:
        column = f"title_{language}" if f"title_{language}" in names else f"text_{language}"
        titles = pq.read_table(folder / "items.parquet", columns=[column])[column].to_pylist()
        sizes = [len(v) if language == "zh" else len(v.split()) for v in titles if v]
        words[language] = round(float(np.mean(sizes)), 2) if sizes else 0.0
    return words


def plot(store: Dataset | Path, path: Path) -> None:
    """Draw sequence lengths and item popularity (log-log) of a prepared store to an image file.

    store: a dataset or its prepared folder; the splits do not matter.
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
    folder = store if isinstance(store, Path) else store.folder
    left, right = figure.subplots(1, 2)
    lengths = _lengths(_users(folder))
    width = -(
        -int(np.ptp(lengths) + 1) // 40
    )  # whole lengths a bin, so that none is empty by rounding
    edges = np.arange(lengths.min(), lengths.max() + width + 1, width) - 0.5
    left.hist(lengths, bins=edges, log=True)
    left.set(title=f"{folder.name}: interactions per user", xlabel="interactions", ylabel="users")
    n_items = pq.read_metadata(folder / "items.parquet").num_rows
    popularity = np.sort(np.bincount(_store_items(folder), minlength=n_items + 1)[1:])[::-1]
    right.loglog(np.arange(1, len(popularity) + 1), np.maximum(popularity, 0.5))
    right.set(
        title="interactions per item", xlabel="item, most popular first", ylabel="interactions"
    )
    drawn = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(drawn, format=path.suffix.lstrip(".").lower(), metadata=metadata)
    atomic_write(path, drawn.getvalue())
