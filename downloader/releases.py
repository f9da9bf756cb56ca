"""The published files of a dataset: which are still needed, fetched, then taken in by the same import as any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from downloader.answers import Fault, Outcome
from downloader.files import Place, fetch_file
from downloader.universe import find_mappings
from downloader.web import Web
from ninerec_data.archives import is_archive
from ninerec_data.catalog import Entry
from ninerec_data.errors import NineRecError, UsageError
from ninerec_data.formats import reader
from ninerec_data.home import Home
from ninerec_data.importing import import_release
from ninerec_data.raw import held_files
from ninerec_data.terms import hash_of_terms

__all__ = [
    "PARTS",
    "Bundle",
    "Files",
    "asset_of",
    "bundles",
    "counted",
    "fetch_release",
    "hands_for",
    "missing_assets",
]

PARTS = {
    "interactions": ("interactions", "users"),
    "titles": ("titles",),
    "covers": ("mapping", "covers"),
}
FETCHED = ("drive", "http", "repository", "mapping")  # the kinds of source that need nobody's hand
_ASSETS = {"items": "titles", "urls": "mapping"}  # of a role, where it has another name


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One published file: what it delivers and where it is, first tried first. size, sha256: where known."""

    name: str
    assets: frozenset[str]
    places: tuple[Place, ...]
    target: Path
    size: int | None = None
    sha256: str | None = None


@dataclass(slots=True)
class Files:
    """What came of a dataset's files: asset -> outcome; said: for people, one message each."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def bundles(home: Home, entry: Entry) -> list[Bundle]:
    """The files that can be fetched for a dataset, in the catalog's order."""
    places: dict[str, list[Place]] = {}
    assets: dict[str, set[str]] = {}
    for source in entry.sources:
        if source.kind in FETCHED:
            name = source.file or _name_of(entry, source.asset)
            place = Place(kind=source.kind, url=source.url, note=source.note)
            if place not in places.setdefault(name, []):
                places[name].append(place)
            assets.setdefault(name, set()).add(source.asset)
    known = {file.name: file for file in entry.files}
    return [
        Bundle(
            name=name,
            assets=frozenset(assets[name]),
            places=tuple(places[name]),
            target=home.raw / "files" / entry.release / name,
            size=known[name].size if name in known else None,
            sha256=known[name].sha256 if name in known else None,
        )
        for name in places
    ]


def _name_of(entry: Entry, asset: str) -> str:
    """The name that the import looks for, where the source does not state one."""
    roles = reader(entry.format).roles(entry.options)
    patterns = next((role.patterns for role in roles if asset_of(role.name) == asset), (asset,))
    named = [p for p in patterns if "*" not in p and (asset != "covers" or p.endswith(".zip"))]
    return named[0] if named else f"{entry.name}.{asset}.zip"


def asset_of(role: str) -> str:
    """What a role of a format is called in the catalog."""
    base = role.rstrip("0123456789").rstrip("_")
    return _ASSETS.get(base, base)


def missing_assets(
    home: Home, entry: Entry, parts: tuple[str, ...], mapping: Path | None = None
) -> set[str]:
    """What these parts need that is not held: covers only where no mapping leads to them. mapping: the user's own."""
    held = held_files(home, entry.name)
    wanted = {asset for part in parts for asset in PARTS[part]}
    lacking = {
        asset_of(r.name) for r in reader(entry.format).roles(entry.options) if r.name not in held
    }
    mapped = bool(find_mappings(home, entry, mapping))
    if "covers" in wanted and any(source.asset == "mapping" for source in entry.sources):
        lacking -= {"covers"}
    if not mapped and any(source.asset == "mapping" for source in entry.sources):
        lacking |= {"mapping"}
    return wanted & (lacking - {"mapping"} if mapped else lacking)


def next_bundle(
    home: Home,
    entry: Entry,
    parts: tuple[str, ...],
    tried: set[str],
    mapping: Path | None = None,
) -> Bundle | None:
    """The next file to fetch: the first that delivers something missing; of several mappings the smallest."""
    lacking = missing_assets(home, entry, parts, mapping)
    left = [b for b in bundles(home, entry) if b.assets & lacking and b.name not in tried]
    others = [bundle for bundle in left if bundle.assets & lacking - {"mapping"}]
    return min(others or left, key=lambda b: 0 if others else len(b.assets), default=None)


def fetch_release(
    web: Web | None,
    home: Home,
    entry: Entry,
    parts: tuple[str, ...],
    tell: Callable[[str, int, int | None], None],
    mapping: Path | None = None,
) -> Files:
    """Fetch and import what is missing. web: None fetches nothing. tell: file, bytes held, bytes in all."""
    files = Files()
    tried: set[str] = set()
    faults: dict[str, Outcome] = {}
    while web and (bundle := next_bundle(home, entry, parts, tried, mapping)):
        tried.add(bundle.name)
        try:
            _take(web, home, entry, bundle, tell)
        except (Fault, NineRecError) as error:
            files.said.append(f"{entry.name}: {bundle.name}: {error}")
            busy = Outcome.TRANSIENT if isinstance(error, UsageError) else Outcome.REJECTED
            outcome = error.outcome if isinstance(error, Fault) else busy
            faults |= dict.fromkeys(bundle.assets, outcome)
    lacking = missing_assets(home, entry, parts, mapping)
    needed = {
        asset_of(role.name) for role in reader(entry.format).roles(entry.options) if role.required
    }
    for part in parts:
        for asset in PARTS[part]:
            if asset not in lacking and asset in needed:
                files.outcomes[asset] = Outcome.OK
            elif asset in lacking and (
                asset in faults or asset in needed or _by_hand(entry, asset)
            ):
                files.outcomes[asset] = faults.get(
                    asset, Outcome.UNMAPPED if web else Outcome.TRANSIENT
                )
    files.said += hands_for(entry, {a for a, o in files.outcomes.items() if o is Outcome.UNMAPPED})
    return files


def _take(
    web: Web, home: Home, entry: Entry, bundle: Bundle, tell: Callable[[str, int, int | None], None]
) -> None:
    """Fetch one file, unless it is there, and import it."""
    if not bundle.target.exists():
        fetch_file(
            web,
            bundle.places,
            bundle.target,
            size=bundle.size,
            sha256=bundle.sha256,
            tell=lambda held, total: tell(bundle.name, held, total),
        )
    if bundle.assets != {"mapping"} or is_archive(bundle.target):
        import_release(home, entry, bundle.target, hash_of_terms(entry.terms))


def _by_hand(entry: Entry, asset: str) -> bool:
    return any(s.asset == asset and s.kind not in FETCHED for s in entry.sources)


def hands_for(entry: Entry, assets: set[str]) -> list[str]:
    """What a person has to do for what nobody can fetch unasked."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for source in entry.sources:
        if source.asset in assets and source.kind not in FETCHED:
            places.setdefault((source.kind, source.url, source.note), []).append(source.asset)
    return [
        f"{entry.name}: {', '.join(found)}: {note or 'fetch it by hand'} ({url}); "
        f"then: ninerec import {entry.name} PATH"
        for (_, url, note), found in places.items()
    ]


def counted(files: Files, parts: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """part -> outcome -> files."""
    out: dict[str, dict[str, int]] = {}
    for part in parts:
        for asset in PARTS[part]:
            if part != "covers" and asset in files.outcomes:
                counts = out.setdefault(part, {})
                counts[files.outcomes[asset]] = counts.get(files.outcomes[asset], 0) + 1
    return out
