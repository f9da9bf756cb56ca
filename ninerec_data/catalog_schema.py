"""What a catalog file may say: the entry's parts, the keys of a TOML and how each is checked.

A dataset's TOML carries the fields of `Entry` under their own names, except that `name` is the file's
name, `terms` is a key of _terms.toml or a table {text, url}, `papers` are keys of _papers.toml, and a
source names all its `assets` at once. Keys that the datasets of one release share stand once in
_releases.toml; a dataset's own key wins.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninerec_data.errors import UsageError, nearest

__all__ = ["Alias", "Entry", "File", "Published", "Source", "Terms", "check", "read_toml"]

Kind = str | tuple[str, ...]  # a name of `_KINDS`, or the words allowed

FORMATS = (
    *("ninerec", "morec", "mind", "hm", "adressa", "pixelrec", "microlens", "rec", "transrec"),
    "generic",
)
ASSETS = ("interactions", "titles", "users", "covers", "mapping", "archive")
SOURCE_KINDS = ("drive", "http", "repository", "mapping", "kaggle", "page", "request")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One published file (a name ending in / is a folder).

    asset: what it holds; `archive` for one that holds several.
    size: bytes; sha256: `sha256:<hex>` as `files.sha256_file` gives it; both None where not known
    from the published bytes themselves.
    """

    name: str
    asset: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One published place of one asset; of several for the same `file`, the first is tried first.

    kind: drive (a Google Drive file), http, repository (a file of a GitHub repository), mapping (a list
    of item addresses), kaggle, page (opened in a browser by hand) or request (ask who is named in `note`).
    file: the name of what it delivers.
    """

    asset: str
    kind: str
    url: str
    file: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under what terms the data are given, in our words; `url` holds the text itself."""

    key: str
    text: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The figures of the paper. An int is exact; a str ("20K") is rounded or doubtful and never fails.

    scope: `store` figures count the whole release, `split` figures what the protocol keeps of it.
    """

    users: int | str | None = None
    items: int | str | None = None
    interactions: int | str | None = None
    scope: str = "store"
    source: str = ""

    def as_json(self) -> dict[str, Any]:
        figures = {"users": self.users, "items": self.items, "interactions": self.interactions}
        return {**figures, "scope": self.scope, "source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One dataset of the catalog.

    role: source (to pre-train on), target or both. release: its folder under raw/files.
    options: what the format's `roles` and `read` need. text: language -> item columns that form the text.
    keep_last: interactions kept per user; split: other fields of `Split` that differ from the protocol's.
    access: public, manual (a file must be fetched by hand) or request (its owners give it, or nobody).
    """

    name: str
    title: str
    format: str
    role: str = "target"
    platform: str = ""
    release: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    text: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    timestamps: bool = False
    keep_last: int = 23
    access: str = "manual"
    files: tuple[File, ...] = ()
    sources: tuple[Source, ...] = ()
    terms: Terms
    papers: tuple[str, ...] = ()
    bibtex: str = ""
    published: Published | None = None
    split: Mapping[str, Any] = field(default_factory=dict)
    behaviour: str = ""
    resolution: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A second name of a dataset, with the fields of `Split` that it stands for."""

    name: str
    target: str
    split: Mapping[str, Any] = field(default_factory=dict)


DATASET_KEYS: dict[str, Kind] = {
    "name": "text",
    "title": "text",
    "format": FORMATS,
    "role": ("source", "target", "both"),
    "platform": "text",
    "release": "folder name",
    "options": "table",
    "languages": "list of texts",
    "text": "table",
    "modalities": "list of texts",
    "timestamps": "true or false",
    "keep_last": "whole number",
    "access": ("public", "manual", "request"),
    "files": "list of tables",
    "sources": "list of tables",
    "terms": "text or table",
    "papers": "list of texts",
    "bibtex": "text",
    "published": "table",
    "split": "table",
    "behaviour": "text",
    "resolution": "text",
    "note": "text",
}
FILE_KEYS: dict[str, Kind] = {
    "name": "text",
    "asset": ASSETS,
    "size": "whole number",
    "sha256": "64 hex digits",
}
SOURCE_KEYS: dict[str, Kind] = {
    "assets": "list of texts",
    "kind": SOURCE_KINDS,
    "url": "text",
    "file": "text",
    "note": "text",
}
PUBLISHED_KEYS: dict[str, Kind] = {
    "users": "whole number or text",
    "items": "whole number or text",
    "interactions": "whole number or text",
    "scope": ("store", "split"),
    "source": "text",
}
SPLIT_KEYS: dict[str, Kind] = {
    "order": "text",
    "min_interactions": "whole number",
    "users": "whole number",
    "seed": "whole number",
    "warm": "whole number",
    "warm_users": "whole number",
    "covers": ("keep", "drop"),
    "cold_below": "whole number",
    "pool": "text",
}
TERMS_KEYS: dict[str, Kind] = {"text": "text", "url": "text"}
ALIAS_KEYS: dict[str, Kind] = {"target": "text", "split": "table"}


def read_toml(path: Path) -> dict[str, Any]:
    """Read one TOML; an unreadable one is a UsageError that names it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        msg = f"cannot read the catalog file {path}: {said}; mend it (it must be UTF-8 TOML)"
        raise UsageError(msg) from error


def check(
    table: Any,
    keys: Mapping[str, Kind],
    path: Path,
    inside: str = "",
    required: tuple[str, ...] = (),
) -> None:
    """Refuse an unknown key (naming the nearest), a value of a wrong type, a required key that lacks."""
    if not isinstance(table, dict):
        raise UsageError(f"{path}: '{inside.rstrip('.')}' is {table!r}; expected a table")
    for key, value in table.items():
        if key not in keys:
            close = nearest(key, keys)
            known = f" Known: {', '.join(keys)}" if close == "." else ""
            raise UsageError(f"{path}: unknown key '{inside}{key}'{close}{known}")
        check_value(value, keys[key], path, f"{inside}{key}")
    for key in required:
        if key not in table:
            raise UsageError(
                f"{path}: the key '{inside}{key}' is missing; it must be {_said(keys[key])}"
            )


def check_value(value: Any, kind: Kind, path: Path, key: str) -> None:
    """Refuse a value that is not of its kind."""
    if isinstance(kind, str):
        if not _KINDS[kind](value):
            raise UsageError(f"{path}: '{key}' is {value!r}; expected {_said(kind)}")
    elif value not in kind:
        known = nearest(value, kind) if isinstance(value, str) else "."
        raise UsageError(f"{path}: '{key}' is {value!r}; expected {_said(kind)}{known}")


def _said(kind: Kind) -> str:
    return kind if isinstance(kind, str) else f"one of {', '.join(kind)}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_folder_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


_KINDS = {
    "text": _is_text,
    "folder name": _is_folder_name,
    "whole number": _is_number,
    "whole number or text": lambda value: _is_number(value) or _is_text(value),
    "true or false": lambda value: isinstance(value, bool),
    "list of texts": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "table": lambda value: isinstance(value, dict),
    "text or table": lambda value: isinstance(value, str | dict),
    "list of tables": lambda value: (
        isinstance(value, list) and all(isinstance(v, dict) for v in value)
    ),
    "64 hex digits": _is_hex,
}
