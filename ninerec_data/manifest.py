"""Manifests: what a stage was made from and what it left, read with checks, compared by sha256."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.files import atomic_write, canonical_json, sha256_file, sweep

__all__ = [
    "INDEX",
    "SCHEMA",
    "changed_files",
    "covers_of_store",
    "current",
    "file_facts",
    "manifest_or_none",
    "n_items",
    "read_manifest",
    "refuse_changed",
    "tables_manifest",
    "with_facts",
    "write_manifest",
]

SCHEMA = 1
INDEX = "index.parquet"  # of the covers: where each item's JPEG lies, or why there is none

log = logging.getLogger(__name__)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest as JSON; None where it is absent.

    Raises CheckFailed for one that does not parse or is of another schema version.
    """
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a manifest ({error}); remove {path.parent} and run: ninerec prepare {_dataset_of(path)}"
        raise CheckFailed(msg) from error
    if schema != SCHEMA:
        msg = (
            f"{path.parent} was prepared with schema version {schema}; this ninerec reads version "
            f"{SCHEMA}. Run: ninerec prepare {manifest.get('dataset', _dataset_of(path))}"
        )
        raise CheckFailed(msg)
    lacking = [
        key
        for key in ("dataset", "parameters", "inputs", "counts", "outputs")
        if key not in manifest
    ]
    if lacking:
        msg = f"{path} lacks {', '.join(lacking)}; remove {path.parent} and run: ninerec prepare {_dataset_of(path)}"
        raise CheckFailed(msg)
    return dict(manifest)


def file_facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of each file of a folder."""
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in names
    }


def changed_files(folder: Path, outputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the files that are gone or whose sha256 is not the manifest's."""
    return [
        name
        for name, facts in outputs.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != facts.get("size")
        or sha256_file(folder / name) != facts.get("sha256")
    ]


def _dataset_of(path: Path) -> str:
    return next((p.name for p in path.parents if p.parent.name == "prepared"), "DATASET")


def tables_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared dataset's tables. Raises MissingData where nothing is prepared."""
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None:
        msg = f"{folder.name} is not prepared under {folder.parent.parent}; run: ninerec prepare {folder.name}"
        raise MissingData(msg)
    return manifest


def refuse_changed(dataset: str, *stages: tuple[Path, Mapping[str, Any]]) -> None:
    """Raise CheckFailed naming every file of these (folder, manifest) stages that changed since."""
    changed = [
        str(folder / name)
        for folder, manifest in stages
        for name in changed_files(folder, manifest["outputs"])
    ]
    if changed:
        msg = f"{', '.join(changed)} changed since the manifest was written; run: ninerec prepare {dataset}"
        raise CheckFailed(msg)


def covers_of_store(covers: Mapping[str, Any]) -> dict[str, Any]:
    """What the store's manifest says of its covers; as long as it does not, items.parquet is not of them."""
    return {"index": covers["outputs"].get(INDEX, {}).get("sha256"), "counts": covers["counts"]}


def n_items(tables: Mapping[str, Any]) -> int:
    """Items 1..M of a store: those of the item table and those that only interactions name."""
    return int(tables["counts"]["item_table"] + tables["counts"]["items_without_row"])


def manifest_or_none(folder: Path) -> dict[str, Any] | None:
    """The manifest of a stage's folder; None, and a warning, where it cannot be used either."""
    try:
        return read_manifest(folder / "manifest.json")
    except CheckFailed:
        log.warning("the manifest in %s cannot be used", folder)
        return None


def current(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a stage that was made from just this and is whole; else None: make it."""
    manifest = manifest_or_none(folder)
    if manifest is None:
        return None
    same = all(manifest.get(key) == value for key, value in wanted.items())
    return manifest if same and not changed_files(folder, manifest["outputs"]) else None


def with_facts(
    folder: Path, manifest: dict[str, Any], facts: Mapping[str, Any], done: list[str]
) -> dict[str, Any]:
    """The manifest with the catalog's facts of now; where they changed it alone is written again."""
    sweep(folder, "manifest.json")
    if all(manifest.get(key) == value for key, value in facts.items()):
        return manifest
    manifest |= facts
    atomic_write(folder / "manifest.json", canonical_json(manifest))
    if "manifest" not in done:
        done.append("manifest")
    return manifest


def write_manifest(
    folder: Path, stage: str, dataset: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a stage's manifest, the last file of its folder, and return it as it will be read."""
    versions = {name: version(name) for name in ("ninerec", "numpy", "polars", "pyarrow")}
    head = {"schema": SCHEMA, "stage": stage, "dataset": dataset, "versions": versions}
    text = canonical_json({**head, **facts})
    atomic_write(folder / "manifest.json", text)
    return json.loads(text)  # type: ignore[no-any-return]
