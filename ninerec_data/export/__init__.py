"""Export: a prepared dataset in the formats of other tools, its terms with it; nothing is ever uploaded.

A format is a module here with `write(ds, folder)`, which fills an empty folder. Everything comes from the
opened dataset: interactions are the store's, or those a split keeps where it drops items (`--warm`).
Equal datasets give equal bytes.
"""

from __future__ import annotations

import glob
import importlib
import shutil
from pathlib import Path

import polars as pl

from ninerec_data.catalog import catalog
from ninerec_data.dataset import Dataset
from ninerec_data.errors import CheckFailed, UsageError, nearest
from ninerec_data.files import staged_folder
from ninerec_data.tables import title_columns

__all__ = ["FORMATS", "export", "facts_of", "refuse_ids", "terms_of", "titles_of", "with_ids"]

FORMATS = ("recbole", "hf", "lmdb", "croissant", "files")


def export(ds: Dataset, to: str, target: Path) -> Path:
    """Write a dataset to `target` in a format of FORMATS, whole or not at all; returns the folder.

    Raises UsageError for an unknown format, a target that holds something, ids that the format
    cannot carry, or a package that is not installed.
    """
    if to not in FORMATS:
        msg = f"--to {to}: no such format{nearest(to, FORMATS)} Formats: {', '.join(FORMATS)}"
        raise UsageError(msg)
    target = target.expanduser().absolute()
    dangling = target.is_symlink() and not target.exists()
    if (
        dangling
        or target == Path.cwd()
        or (target.exists() and not (target.is_dir() and not any(target.iterdir())))
    ):
        msg = f"--out {target} is not an empty folder, or the one you are in; name a new one with --out FOLDER"
        raise UsageError(msg)
    module = importlib.import_module(f"ninerec_data.export.{to}")
    for left in target.parent.glob(f".tmp-{glob.escape(target.name)}-????????"):
        shutil.rmtree(left, ignore_errors=True)  # of an export that was killed
    try:
        with staged_folder(target) as folder:
            (folder / "TERMS.txt").write_text(terms_of(ds), encoding="utf-8")
            module.write(ds, folder)
    except OSError as error:
        msg = f"cannot write to {target} ({error.strerror or error}); name another folder with --out FOLDER"
        raise CheckFailed(msg) from error
    return target


def facts_of(ds: Dataset) -> tuple[str, str]:
    """Title and BibTeX of a dataset; its name and nothing where the catalog no longer knows it."""
    entry = catalog().get(ds.name)
    return (entry.title, entry.bibtex) if entry else (ds.name, "")


def terms_of(ds: Dataset) -> str:
    """The text that goes with every export: terms of use, where they stand, what to cite."""
    terms, (_, bibtex) = ds.manifest["terms"], facts_of(ds)
    parts = (f"Terms of use of {ds.name}", terms["text"], terms["url"])
    cite = ("Cite:", bibtex) if bibtex else ()
    return "\n\n".join(part for part in (*parts, "They go with every copy.", *cite) if part) + "\n"


def refuse_ids(ds: Dataset, pattern: str, what: str, *, to: str) -> None:
    """Raise UsageError where an id matches `pattern`: the characters or words a format cannot carry."""
    for kind, column in (("item", ds.items["item_id"]), ("user", ds.users["user_id"])):
        ids = pl.Series(column)
        bad = ids.filter(ids.str.contains(pattern))
        if len(bad):
            msg = (
                f"{len(bad):,} {kind} ids of {ds.name}, such as {bad[0]!r}, are or hold {what}, which "
                f"{to} cannot carry in an id; use another format: ninerec export {ds.name} --to hf"
            )
            raise UsageError(msg)


def with_ids(ds: Dataset, rows: pl.DataFrame) -> pl.DataFrame:
    """Interactions under the release's ids: user_id, item_id, timestamp, position."""
    users, items = pl.Series(ds.users["user_id"]), pl.Series(ds.items["item_id"])
    return rows.select(
        users.gather(rows["user"]).alias("user_id"),
        items.gather(rows["item"] - 1).alias("item_id"),
        *("timestamp", "position"),
    )


def titles_of(ds: Dataset) -> list[str]:
    """The title columns of a dataset's items."""
    return title_columns(ds.items.column_names)
