"""What the journal of covers holds: its tables, its rows as they are given to it, and those of a provenance."""

from __future__ import annotations

from dataclasses import dataclass

from ninerec_data.outcomes import Outcome

__all__ = ["CONFIRMED_AFTER", "FROM_RELEASE", "ROW", "TABLES", "Address", "Answer", "Stored"]

FROM_RELEASE = "release!"  # how the source of such a cover begins
CONFIRMED_AFTER = 24 * 3600.0  # seconds between two looks that make a tombstone sure
TABLES = """
create table if not exists urls (
    url text not null, variant text not null, lane text,
    host text not null default '', outcome text, reason text, detail text,
    status integer, final_url text, hops integer, sha256 text, title text, etag text, modified text,
    attempts integer not null default 0,
    first_seen real, last_seen real, gone_since real,
    primary key (url, variant)) without rowid;
create index if not exists urls_of_picture on urls (sha256, host, outcome) where sha256 is not null;
create table if not exists items (
    dataset text not null, item_id text not null, raw_url text, url text, variant text not null default '',
    untitled integer not null default 0, outcome text, reason text, source text, sha256 text, seen real,
    primary key (dataset, item_id)) without rowid;
create index if not exists items_of_url on items (url) where url is not null;
create table if not exists blobs (
    sha256 text primary key, size integer not null, kind text, width integer, height integer,
    kept integer not null default 0, resized text, resized_size integer, recipe text, codecs text) without rowid;
create table if not exists hosts (host text primary key, state text not null) without rowid;
create table if not exists downloads (
    dataset text primary key, open integer not null, keep text, variant text, recipe text,
    read_from text) without rowid;
"""
_OF_ITEM = ("item_id", "reason", "source", "raw_url", "variant", "sha256")
_OF_URL = ("detail", "final_url", "status", "hops", "etag", "modified", "title", "attempts")
_OF_BLOB = (
    "size",
    "kind",
    "width",
    "height",
    "kept",
    "resized",
    "resized_size",
    "recipe",
    "codecs",
)
# Column of a provenance -> what it is in `items i`, `urls u`, `blobs b`.
ROW = {
    **{name: f"i.{name}" for name in _OF_ITEM},
    **{name: f"u.{name}" for name in _OF_URL},
    **{name: f"b.{name}" for name in _OF_BLOB},
    "outcome": "coalesce(i.outcome, 'TRANSIENT')",
    "confirmed": f"coalesce(i.outcome = 'GONE' and u.last_seen - u.gone_since >= {CONFIRMED_AFTER}, 0)",
    "first_seen": "cast(u.first_seen * 1000 as integer)",
    "last_seen": "cast(i.seen * 1000 as integer)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An item. raw: its address as the mapping has it; url: as asked for; None where that cannot be, `reason` says why.

    untitled: whether the release lacks its title.
    """

    item_id: str
    raw: str | None = None
    url: str | None = None
    reason: str = ""
    untitled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an address. lane: the host asked first; host, sha256: of the picture.

    final_url and detail hold no secret.
    """

    outcome: Outcome
    reason: str = ""
    detail: str = ""
    lane: str = ""
    host: str = ""
    status: int | None = None
    final_url: str | None = None
    hops: int = 0
    sha256: str | None = None
    title: str | None = None
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A picture. sha256, size, kind, width, height: of the bytes as fetched; kept: whether those are a blob.

    resized: sha256 of the blob made of it by the recipe and codecs of these hashes, or None.
    """

    sha256: str
    size: int
    kind: str
    width: int | None
    height: int | None
    kept: bool
    resized: str | None = None
    resized_size: int | None = None
    recipe: str | None = None
    codecs: str | None = None
