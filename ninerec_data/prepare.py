"""`prepare`: raw files to a prepared dataset, stage by stage, redoing only what changed (DESIGN 3.2).

A stage is built in a temporary folder under one lock, its manifest is written last, and the folder
is renamed whole. Nothing written holds a time, a path or a user name: same input, same bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.catalog import Entry
from ninerec_data.cover_stage import CoverOptions, CoverStage
from ninerec_data.errors import MissingData, NineRecError, UsageError
from ninerec_data.files import atomic_write, canonical_json, link_files, lock, staged_folder, sweep
from ninerec_data.formats import reader
from ninerec_data.home import Home
from ninerec_data.importing import missing_message
from ninerec_data.manifest import (
    current,
    file_facts,
    n_items,
    read_manifest,
    with_facts,
    write_manifest,
)
from ninerec_data.protocol import Protocol, Split, get_protocol, split_from
from ninerec_data.provenance import PAGE_TITLES, RELEASE_COVERS, finish_downloads
from ninerec_data.raw import RawFile, verified_files
from ninerec_data.splitting import build_split
from ninerec_data.tables import TABLES, build_tables

__all__ = ["CoverOptions", "Prepared", "held_for", "prepare", "protocol_for"]

TABLE_RECIPE = 2  # raised when the same input would give other table bytes
SPLIT_RECIPE = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What one `prepare` left: the folder, the manifests, and which stages it had to do.

    covers: None where no covers are held.
    """

    folder: Path
    protocol: Protocol
    tables: Mapping[str, Any]
    covers: Mapping[str, Any] | None
    split: Mapping[str, Any]
    done: tuple[str, ...]


def prepare(
    home: Home,
    entry: Entry,
    *,
    protocol_name: str = "ninerec-2023",
    split: Mapping[str, Any] | None = None,
    max_words: int = 30,
    covers: CoverOptions | None = None,
) -> Prepared:
    """Build (or find up to date) the tables, the covers and one split of a dataset.

    split: fields of `Split` that differ from the protocol's and the catalog's.
    Raises MissingData for files not imported, CheckFailed for data that cannot be used.
    """
    if max_words < 1:
        msg = f"--max-words is {max_words}; expected at least 1"
        raise UsageError(msg)
    chosen = protocol_for(entry, protocol_name, split or {})
    folder = home.prepared(entry.name)
    with lock(home.lock_of(entry.name)):
        sweep(folder.parent, entry.name)
        done: list[str] = []
        with lock(home.raw / f".{entry.release}.lock", shared=True):  # no import meanwhile
            finish_downloads(home, entry)
            held = held_for(home, entry)
            tables = current(folder, _table_inputs(entry, held, max_words))
            if tables is None:
                tables = _do_tables(folder, entry, held, max_words)
                done.append("tables")
            tables = with_facts(folder, tables, _catalog_facts(entry), done)
            settled = None
            if "covers" not in held and covers and covers.missing == "blank":
                raise MissingData(_no_covers(entry.name))
            if "covers" in held:
                stage = CoverStage(
                    home, entry, folder, held["covers"].path, covers or CoverOptions()
                )
                tables, settled = stage.settled(tables, done)
        sweep(folder / "splits", "*")
        split_folder = folder / "splits" / chosen.split.hash
        made = current(split_folder, _split_inputs(tables, chosen.split))
        if made is None:
            made = _do_split(folder, tables, chosen)
            done.append("split")
        made = with_facts(split_folder, made, {"terms": tables["terms"]}, done)
    return Prepared(
        folder=folder,
        protocol=chosen,
        tables=tables,
        covers=settled,
        split=made,
        done=tuple(done),
    )


def protocol_for(entry: Entry, name: str, overrides: Mapping[str, Any]) -> Protocol:
    """A named protocol with the catalog's keep_last and split defaults, then the user's own fields."""
    return get_protocol(name, **{"keep_last": entry.keep_last, **entry.split, **overrides})


def held_for(home: Home, entry: Entry) -> dict[str, RawFile]:
    """The raw files of a dataset, checked. Raises MissingData and CheckFailed as `verified_files`."""
    held = verified_files(home, entry.name)
    roles = reader(entry.format).roles(entry.options)
    missing = tuple(role for role in roles if role.required and role.name not in held)
    if missing:
        raise MissingData(missing_message(entry, missing))
    return held


def _no_covers(name: str) -> str:
    return f"{name} holds no covers, so none are missing; run: ninerec import {name} PATH (of its covers)"


def _table_inputs(entry: Entry, held: Mapping[str, RawFile], max_words: int) -> dict[str, Any]:
    """Everything the bytes of the tables follow from."""
    return {
        "recipe": TABLE_RECIPE,
        "parameters": {
            "format": entry.format,
            "options": json.loads(json.dumps(dict(entry.options))),
            "text": {language: list(columns) for language, columns in entry.text.items()},
            "max_words": max_words,
        },
        "inputs": {
            role: {"name": file.path.name, "size": file.size, "sha256": file.sha256}
            for role, file in held.items()
            if file.sha256 and role not in ("covers", RELEASE_COVERS)
        },
    }


def _catalog_facts(entry: Entry) -> dict[str, Any]:
    """What the manifest repeats of the catalog for those who open the dataset without it."""
    return {
        "split_defaults": {"keep_last": entry.keep_last, **entry.split},
        "published": entry.published.as_json() if entry.published else None,
        "terms": {"key": entry.terms.key, "text": entry.terms.text, "url": entry.terms.url},
    }


def _do_tables(
    folder: Path, entry: Entry, held: Mapping[str, RawFile], max_words: int
) -> dict[str, Any]:
    log.info("%s: reading the release", entry.name)
    paths = {role: file.path for role, file in held.items()}
    release = reader(entry.format).read(paths, entry.options)
    with staged_folder(folder) as staging:
        result = build_tables(
            release,
            staging,
            text=entry.text,
            max_words=max_words,
            dataset=entry.name,
            page_titles=pl.read_parquet(paths[PAGE_TITLES]) if PAGE_TITLES in paths else None,
        )
        outputs = file_facts(staging, TABLES)
        facts = {
            **_table_inputs(entry, held, max_words),
            "outputs": outputs,
            "items_without_covers": outputs["items.parquet"]["sha256"],
            **result,
            **_catalog_facts(entry),
        }
        manifest = write_manifest(staging, "tables", entry.name, facts)
        _keep_splits(folder / "splits", staging / "splits", manifest)
        if "covers" in held:  # whose pictures need no second decoding
            link_files(folder / "covers", staging / "covers")
    return manifest


def _keep_splits(old: Path, new: Path, tables: Mapping[str, Any]) -> None:
    """Copy the splits that would come out the same from the new tables."""
    for folder in sorted(old.glob("[!.]*")):
        try:
            manifest = read_manifest(folder / "manifest.json") or {}
            wanted = _split_inputs(tables, split_from(manifest.get("parameters", {})))
        except NineRecError as error:
            log.warning("%s: dropped", error)
            continue
        if current(folder, wanted):
            shutil.copytree(folder, new / folder.name)


def _split_inputs(tables: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Everything the bytes of a split follow from: of the items their number, and covers where they matter."""
    rows = {name: tables["outputs"][name]["sha256"] for name in TABLES if name != "items.parquet"}
    if split.covers == "drop":
        rows["covers"] = tables.get("covers", {}).get("index")
    return {
        "recipe": SPLIT_RECIPE,
        "parameters": split.as_json(),
        "inputs": {**rows, "items": n_items(tables)},
    }


def _do_split(folder: Path, tables: Mapping[str, Any], chosen: Protocol) -> dict[str, Any]:
    split, name = chosen.split, tables["dataset"]
    if split.covers == "drop" and "covers" not in tables:
        raise MissingData(_no_covers(name))
    log.info("%s: split %s", name, split.hash)
    with staged_folder(folder / "splits" / split.hash) as staging:
        result = build_split(folder, staging, split, n_items(tables))
        atomic_write(staging / "leaks.json", canonical_json(result["leaks"]))
        names = tuple(sorted(path.name for path in staging.iterdir()))
        facts = {
            "split_hash": split.hash,
            **_split_inputs(tables, split),
            "outputs": file_facts(staging, names),
            "counts": result["counts"],
            "terms": tables["terms"],
        }
        return write_manifest(staging, "split", name, facts)
