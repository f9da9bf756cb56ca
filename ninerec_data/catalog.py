"""The catalog: every dataset that can be named, read from one TOML each.

Those of the package stand in `ninerec_data/datasets`; `$NINEREC_CATALOG` names a folder of the user's own,
with the same keys (catalog_schema.py). Importing this module reads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ninerec_data.catalog_schema import (
    ALIAS_KEYS,
    ASSETS,
    DATASET_KEYS,
    FILE_KEYS,
    PUBLISHED_KEYS,
    SOURCE_KEYS,
    SPLIT_KEYS,
    TERMS_KEYS,
    Alias,
    Entry,
    File,
    Published,
    Source,
    Terms,
    check,
    check_value,
    read_toml,
)
from ninerec_data.errors import UsageError, nearest

__all__ = [
    "Alias",
    "Entry",
    "File",
    "Published",
    "Source",
    "Terms",
    "aliases",
    "catalog",
    "find",
]

PACKAGE = Path(__file__).parent / "datasets"
# Files of shared facts; every other TOML of the folder is one dataset.
SHARED = ("_aliases.toml", "_papers.toml", "_releases.toml", "_terms.toml")


def catalog() -> Mapping[str, Entry]:
    """Every dataset by name, sorted; read once.

    Raises UsageError where a file of `$NINEREC_CATALOG` cannot be read, has a key or value that cannot
    be meant, or takes a built-in name.
    """
    return _read(os.environ.get("NINEREC_CATALOG", ""))[0]


def aliases() -> Mapping[str, Alias]:
    """The second names by name, sorted."""
    return _read(os.environ.get("NINEREC_CATALOG", ""))[1]


def find(name: str) -> tuple[Entry, Mapping[str, Any]]:
    """Return a dataset by name or alias, with the split fields that the alias stands for.

    Raises UsageError for an unknown name, naming the nearest.
    """
    entries, seconds = catalog(), aliases()
    if name in entries:
        return entries[name], {}
    if name in seconds:
        return entries[seconds[name].target], seconds[name].split
    close = nearest(name.lower(), [*entries, *seconds])
    raise UsageError(f"unknown dataset '{name}'{close} `ninerec list` shows every name")


@lru_cache(maxsize=4)
def _read(own: str) -> tuple[Mapping[str, Entry], Mapping[str, Alias]]:
    """Read the package's folder, then the user's own."""
    shared = {name: read_toml(PACKAGE / name) for name in SHARED}
    _check_shared(shared)
    entries = {path.stem: _entry(path, shared) for path in _datasets(PACKAGE)}
    seconds = {
        name: Alias(name=name, target=table["target"], split=table.get("split", {}))
        for name, table in sorted(shared["_aliases.toml"].items())
    }
    if own:
        folder = Path(own).expanduser()
        if not folder.is_dir():
            raise UsageError(
                f"$NINEREC_CATALOG is '{own}', which is no folder; name a folder of TOML files"
            )
        for path in _datasets(folder):
            if path.stem in entries or path.stem in seconds:
                raise UsageError(f"{path}: '{path.stem}' is a built-in name; rename the file")
            entries[path.stem] = _entry(path, shared)
    return MappingProxyType(dict(sorted(entries.items()))), MappingProxyType(seconds)


def _datasets(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.toml") if not path.name.startswith("_"))


def _check_shared(shared: Mapping[str, Mapping[str, Any]]) -> None:
    for name, keys in (
        ("_aliases.toml", ALIAS_KEYS),
        ("_releases.toml", DATASET_KEYS),
        ("_terms.toml", TERMS_KEYS),
    ):
        for key, table in shared[name].items():
            check(table, keys, PACKAGE / name, f"{key}.")
    for key, value in shared["_papers.toml"].items():
        check_value(value, "text", PACKAGE / "_papers.toml", key)


def _entry(path: Path, shared: Mapping[str, Mapping[str, Any]]) -> Entry:
    """Build one entry from its file, laid over what its release shares."""
    own = read_toml(path)
    check(own, DATASET_KEYS, path)
    release = own.get("release", path.stem)
    table = {**shared["_releases.toml"].get(release, {}), **own, "release": release}
    check(table, DATASET_KEYS, path, required=("title", "format"))
    if table.pop("name", path.stem) != path.stem:
        raise UsageError(
            f"{path}: 'name' is '{own['name']}'; expected '{path.stem}', the name of the file"
        )
    check(table.get("split", {}), SPLIT_KEYS, path, "split.")
    text = _text(path, table)
    papers = tuple(table.get("papers", ()))
    table |= {
        "text": text,
        "languages": tuple(table.get("languages", text)),
        "modalities": tuple(table.get("modalities", ("text",) if text else ())),
        "files": _files(path, table),
        "sources": _sources(path, table),
        "terms": _terms(path, table, shared["_terms.toml"]),
        "papers": papers,
        "bibtex": _bibtex(path, table, papers, shared["_papers.toml"]),
        "published": _published(path, table),
    }
    return Entry(name=path.stem, **table)


def _text(path: Path, table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    text = table.get("text", {})
    for language, columns in text.items():
        check_value(columns, "list of texts", path, f"text.{language}")
    return {language: tuple(columns) for language, columns in text.items()}


def _files(path: Path, table: Mapping[str, Any]) -> tuple[File, ...]:
    files = []
    for number, row in enumerate(table.get("files", ())):
        check(row, FILE_KEYS, path, f"files[{number}].", required=("name", "asset"))
        digest = row.get("sha256")
        files.append(File(**{**row, "sha256": digest and f"sha256:{digest}"}))
    return tuple(files)


def _sources(path: Path, table: Mapping[str, Any]) -> tuple[Source, ...]:
    """One source for each asset that a row names, in file order."""
    sources = []
    for number, row in enumerate(table.get("sources", ())):
        inside = f"sources[{number}]."
        check(row, SOURCE_KEYS, path, inside, required=("assets", "kind", "url"))
        for asset in row["assets"]:
            check_value(asset, ASSETS, path, f"{inside}assets")
            rest = {key: value for key, value in row.items() if key != "assets"}
            sources.append(Source(asset=asset, **rest))
    return tuple(sources)


def _terms(path: Path, table: Mapping[str, Any], known: Mapping[str, Any]) -> Terms:
    given = table.get("terms", {"text": "none stated in the catalog file", "url": ""})
    if isinstance(given, str):
        if given not in known:
            raise UsageError(
                f"{path}: 'terms' is '{given}', which _terms.toml lacks{nearest(given, known)}"
            )
        return Terms(key=given, **known[given])
    check(given, TERMS_KEYS, path, "terms.", required=("text",))
    return Terms(key=path.stem, text=given["text"], url=given.get("url", ""))


def _bibtex(
    path: Path, table: Mapping[str, Any], papers: tuple[str, ...], known: Mapping[str, Any]
) -> str:
    for key in papers:
        if key not in known:
            raise UsageError(
                f"{path}: 'papers' names '{key}', which _papers.toml lacks{nearest(key, known)}"
            )
    parts = [known[key] for key in papers] + [table.get("bibtex", "")]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _published(path: Path, table: Mapping[str, Any]) -> Published | None:
    if "published" not in table:
        return None
    check(table["published"], PUBLISHED_KEYS, path, "published.")
    return Published(**table["published"])
