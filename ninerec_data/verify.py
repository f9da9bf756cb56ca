"""`verify`: bytes, structure and values of a prepared dataset, each check with its own verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ninerec_data.errors import NineRecError
from ninerec_data.manifest import INDEX, changed_files, n_items, read_manifest, tables_manifest
from ninerec_data.protocol import Split, get_protocol, split_from
from ninerec_data.slices import rows_of
from ninerec_data.stats import compare
from ninerec_data.tables import TABLES
from ninerec_data.verify_covers import SAMPLE, check_covers

__all__ = ["PUBLISHED", "SAMPLE", "Check", "verify"]

PUBLISHED = "counts are the published ones"
SPLIT_FILES = ("items.parquet", "leaks.json", "sequences.parquet")


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict. level: bytes | structure | values; ok None = cannot be judged."""

    level: str
    name: str
    ok: bool | None
    found: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def verify(folder: Path, *, decode: int | None = SAMPLE) -> list[Check]:
    """Check a prepared dataset, its covers and every split of it.

    decode: how many covers to decode; None decodes all.
    Raises MissingData where nothing is prepared, CheckFailed for another schema version.
    """
    manifest = tables_manifest(folder)
    checks = [_bytes(folder, manifest, "tables", TABLES)]
    if checks[0].ok:
        checks += _judged(_tables(folder, manifest), "tables")
        if "covers" in manifest or (folder / "covers").exists():
            checks += _covers(folder, manifest, decode)
        splits = sorted((folder / "splits").glob("[!.]*"))
        if not splits:
            found = f"none; run: ninerec prepare {folder.name}"
            checks.append(Check("structure", "there is a split", None, found))
        for path in splits:
            split = read_manifest(path / "manifest.json")
            if split is None:
                checks.append(Check("bytes", f"split {path.name}", False, "it has no manifest"))
                continue
            checks.append(_bytes(path, split, f"split {path.name}", SPLIT_FILES))
            if checks[-1].ok:
                checks += _judged(_split(folder, path, manifest, split), f"split {path.name}")
    return checks


def _judged(checks: Iterator[Check], what: str) -> Iterator[Check]:
    """The checks; a table too odd to be judged (other columns, no rows) is itself a failed one."""
    try:
        yield from checks
    except (pa.ArrowException, LookupError, ValueError, TypeError, NineRecError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        yield Check("structure", f"the {what} can be judged", False, said)


def _bytes(folder: Path, manifest: dict[str, Any], what: str, names: tuple[str, ...]) -> Check:
    unnamed = [name for name in names if name not in manifest["outputs"]]
    changed = [*unnamed, *changed_files(folder, manifest["outputs"])]
    found = (
        f"changed or missing: {', '.join(changed)}"
        if changed
        else f"{len(manifest['outputs'])} files"
    )
    return Check("bytes", f"sha256 of the {what}", not changed, found)


def _covers(folder: Path, tables: dict[str, Any], decode: int | None) -> Iterator[Check]:
    covers = read_manifest(folder / "covers" / "manifest.json")
    if covers is None:
        yield Check("bytes", "covers", False, "they have no manifest")
        return
    whole = _bytes(folder / "covers", covers, "covers", (INDEX,))
    yield whole
    if whole.ok:
        verdicts = check_covers(folder, tables, covers, decode)
        yield from _judged((Check(*verdict) for verdict in verdicts), "covers")


def _tables(folder: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    items = pq.read_table(folder / "items.parquet", columns=["item", "item_id"])
    users = pq.read_table(folder / "users.parquet", columns=["user", "user_id", "start", "end"])
    rows = pq.read_table(folder / "interactions.parquet")
    number, ids = items["item"].to_numpy(), items["item_id"].to_pylist()
    start, end = users["start"].to_numpy(), users["end"].to_numpy()
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy()
    time = rows["timestamp"].fill_null(np.iinfo(np.int64).min).to_numpy()

    def structure(name: str, ok: Any, found: str) -> Check:
        return Check("structure", name, bool(ok), found)

    numbered = np.array_equal(number, np.arange(1, len(number) + 1))
    yield structure("items are numbered 1..M", numbered, f"{len(number):,} items")
    yield structure("item ids are distinct", len(set(ids)) == len(ids), f"{len(set(ids)):,} ids")
    numbered = np.array_equal(users["user"].to_numpy(), np.arange(len(users)))
    yield structure("users are numbered 0..N-1", numbered, f"{len(users):,} users")
    distinct = len(set(users["user_id"].to_pylist())) == len(users)
    yield structure("user ids are distinct", distinct, f"{len(users):,} users")
    pointers = start[0] == 0 and end[-1] == len(rows) and np.array_equal(start[1:], end[:-1])
    yield structure("row pointers tile the interactions", pointers, f"{len(rows):,} rows")
    owned = pointers and np.array_equal(user, np.repeat(np.arange(len(users)), end - start))
    yield structure("every row belongs to its user", owned, f"{len(users):,} slices")
    counted = owned and np.array_equal(
        rows["position"].to_numpy(), np.arange(len(rows)) - start[user]
    )
    yield structure("positions count each user's rows", counted, f"{len(rows):,} rows")
    joined = item.min() >= 1 and item.max() <= len(number)
    yield structure("every interaction joins an item", joined, f"items {item.min()}..{item.max()}")
    ordered = (time[1:] >= time[:-1]) | (user[1:] != user[:-1])
    yield structure("times never fall within a user", ordered.all(), f"{(~ordered).sum():,} falls")
    figures = {"users": len(users), "items": len(_distinct(item)), "interactions": len(rows)}
    said = {key: manifest["counts"][key] for key in figures}
    yield Check("values", "counts are the manifest's", figures == said, _figures(figures))
    yield _published(figures, manifest["published"], "store")


def _split(
    folder: Path, path: Path, tables: dict[str, Any], manifest: dict[str, Any]
) -> Iterator[Check]:
    name = f"split {path.name}: "
    split = split_from(manifest["parameters"], Split())
    own = path / "interactions.parquet"
    rows = pq.read_table(own if own.exists() else folder / "interactions.parquet")
    item, user = rows["item"].to_numpy(), rows["user"].to_numpy()
    sequences = pq.read_table(path / "sequences.parquet")
    start, end = sequences["start"].to_numpy(), sequences["end"].to_numpy()
    owner = sequences["user"].to_numpy()
    training = pc.equal(sequences["role"], "train").to_numpy()
    inside = (start >= 0) & (end <= len(rows)) & (start < end)
    whole = inside.all() and (user[start] == owner).all() and (user[end - 1] == owner).all()
    yield Check(
        "structure", name + "sequences stay in their user", bool(whole), f"{len(start):,} rows"
    )
    if not whole:
        return
    lengths = (end - start)[training]
    fits = (lengths >= min(split.min_interactions, split.keep_last)) & (lengths <= split.keep_last)
    found = f"{lengths.min()}..{lengths.max()} rows"
    yield Check("structure", name + "windows keep their bounds", bool(fits.all()), found)
    if split.covers == "drop":
        cover = pq.read_table(folder / "items.parquet", columns=["cover"])["cover"]
        bare = (~pc.equal(cover, "ok").to_numpy())[item - 1].sum()
        yield Check("values", name + "every item has a cover", not bare, f"{bare:,} rows without")
    first, last = start[training], end[training]
    counts = np.bincount(item[rows_of(first, last - 2)], minlength=n_items(tables) + 1)[1:]
    table = pq.read_table(path / "items.parquet")
    same = np.array_equal(counts, table["train_count"].to_numpy())
    yield Check("values", name + "train counts are those of the rows", same, f"{counts.sum():,}")
    wanted = np.where(counts >= split.cold_below, "warm", np.where(counts > 0, "cold", "new"))
    same = table["group"].combine_chunks().equals(pa.array(wanted))
    yield Check("values", name + "groups follow the train counts", same, f"{len(wanted):,} items")
    window = _distinct(item[rows_of(first, last)])
    pool = np.flatnonzero(table["in_pool"].to_numpy(zero_copy_only=False)) + 1
    expected = window if split.pool == "windows" else _distinct(item)
    yield Check(
        "values", name + "pool", np.array_equal(pool, expected), f"{len(pool):,} candidates"
    )
    outside = set(owner[~training]) & set(owner[training])
    found = f"{(~training).sum():,} sequences outside"
    yield Check("structure", name + "outside users do not train", not outside, found)
    published = tables["published"]
    if published and published["scope"] == "split" and split == _default_split(tables):
        figures = {
            "users": len(first),
            "items": len(window),
            "interactions": int((last - first).sum()),
        }
        yield _published(figures, published, "split")


def _distinct(items: NDArray[np.int32]) -> NDArray[np.int64]:
    """The items that occur, sorted; np.unique would sort every row."""
    return np.flatnonzero(np.bincount(items))


def _default_split(tables: dict[str, Any]) -> Split:
    """What `prepare` makes where nothing is asked: the split that the published figures are of."""
    return get_protocol("ninerec-2023", **tables["split_defaults"]).split


def _published(figures: dict[str, int], published: dict[str, Any] | None, scope: str) -> Check:
    verdict = compare(figures, published, scope)
    against = f"{_figures(figures)}; published: {_figures(published) if published else 'nothing'}"
    return Check("values", PUBLISHED, verdict, against)


def _figures(values: dict[str, Any]) -> str:
    return "/".join(
        f"{values[key]:,}" if isinstance(values[key], int) else str(values[key])
        for key in ("users", "items", "interactions")
    )
