"""The items that covers are asked for: those of the item table and those of the mapping, each with its address."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from downloader.addresses import clean, redacted
from downloader.answers import Fault
from ninerec_data.catalog import Entry
from ninerec_data.errors import CheckFailed
from ninerec_data.files import hash_of, sha256_file
from ninerec_data.formats import reader
from ninerec_data.home import Home
from ninerec_data.item_rows import Address
from ninerec_data.raw import RawFile, held_files

__all__ = ["find_mappings", "read_from", "universe"]

HEADERS = ("url", "address", "link", "page")


def find_mappings(home: Home, entry: Entry, own: Path | None) -> list[Path]:
    """The mappings at hand, the first counts most: the user's, the release's, the published preview."""
    if own is not None:
        return [own]
    folder = home.raw / "files" / entry.release
    previews = (folder / s.file for s in entry.sources if s.asset == "mapping" and s.file)
    held = held_files(home, entry.name).get("urls")
    return [
        *([held.path] if held else []),
        *(path for path in previews if path.suffix == ".csv" and path.exists()),
    ]


def read_from(home: Home, entry: Entry, mappings: list[Path]) -> str:
    """Changes where any file changes that the universe follows from."""
    held = held_files(home, entry.name)
    tables = {role: held[role].sha256 for role in held if role.startswith("items")}
    return hash_of([tables, [sha256_file(path) for path in mappings], entry.name])


def universe(home: Home, entry: Entry, mappings: list[Path]) -> list[Address]:
    """Every item of the item table, where the release is held, and of the mappings.

    Raises CheckFailed for a mapping with a row that cannot be read, or without a row of this dataset.
    """
    titles = _titles(entry, held_files(home, entry.name))
    found: dict[str, Address] = {}
    for path in mappings:
        for item_id, raw in _rows(path, entry):
            if item_id not in found:
                found[item_id] = _address(item_id, raw, untitled=not titles.get(item_id))
    for item_id, titled in titles.items():
        found.setdefault(item_id, Address(item_id=item_id, untitled=not titled))
    return list(found.values())


def _titles(entry: Entry, held: Mapping[str, RawFile]) -> dict[str, bool]:
    """The items of the release's table, and whether each has a title."""
    needed = [role.name for role in reader(entry.format).roles(entry.options) if role.required]
    if any(role not in held for role in needed):
        return {}
    import polars as pl

    paths = {role: file.path for role, file in held.items()}
    items = reader(entry.format).read(paths, entry.options).items
    if items is None:
        return {}
    columns = [name for name in items.columns if name.startswith("title_")]
    titled = pl.any_horizontal(pl.col(columns).is_not_null()) if columns else pl.lit(value=False)
    return dict(items.select("item_id", titled.alias("titled")).iter_rows())


def _rows(path: Path, entry: Entry) -> list[tuple[str, str]]:
    """item_id, address of a mapping's rows for this dataset, in file order, a header left out."""
    from ninerec_data.formats.ninerec import read_urls

    frame = read_urls(path)
    if frame.height and str(frame["url"][0]).lower() in HEADERS:
        frame = frame.slice(1)
    if "dataset" in frame.columns:
        names = {entry.name.lower(), str(entry.options.get("stem", "")).lower()}
        known: Any = frame["dataset"].unique().to_list()
        frame = frame.filter(frame["dataset"].str.to_lowercase().is_in(list(names)))
        if not frame.height:
            said = ", ".join(sorted(known)[:12])
            msg = f"{path} maps no item of {entry.name}; its datasets are {said}. Name another: --mapping FILE"
            raise CheckFailed(msg)
    return list(frame.select("item_id", "url").iter_rows())


def _address(item_id: str, raw: str, *, untitled: bool) -> Address:
    shown = redacted(raw)  # it goes into the provenance, which is passed on
    try:
        url = clean(raw)
    except Fault as fault:
        return Address(item_id=item_id, raw=shown, reason=fault.reason, untitled=untitled)
    if "@" in url.split("/", 3)[2]:  # no password is sent to a site, nor kept
        return Address(item_id=item_id, raw=shown, reason="password", untitled=untitled)
    return Address(item_id=item_id, raw=shown, url=url, untitled=untitled)
