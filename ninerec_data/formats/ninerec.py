"""NineRec: 11 datasets, one stem each, no header line in any file (PAPERS_AND_CODE 1.1).

X_behaviour.tsv   user TAB items oldest to newest
X_pair.csv        user, item, time or item, user, time: upstream's README and code contradict each other
X_item.csv        item, Chinese title, English title; CSV-quoted
X_url.csv         item, address of its page or cover
X_cover/          <item>.jpg; also X_cover.zip, X_cover.tar, X.lmdb

Options: stem, such as "Bili_Food" (default any); pair_order ("user,item" or "item,user"), only where the
item table cannot tell; covers (folder name; default <stem>_cover, the two sources' shared one for those).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ninerec_data.errors import CheckFailed, UsageError
from ninerec_data.formats import covers_role
from ninerec_data.formats.csv_tables import Table, read_table
from ninerec_data.formats.lines import BLANKS, look
from ninerec_data.formats.pairs import Pairs, fields_of, header_of, scan_pairs
from ninerec_data.formats.sequences import scan_sequences
from ninerec_data.release import Release, Role

__all__ = ["pair_layout", "read", "read_urls", "roles"]

ITEMS = Table(columns=("item_id", "title_zh", "title_en"))
ORDERS = {
    "user,item": ("user_id", "item_id", "timestamp"),
    "item,user": ("item_id", "user_id", "timestamp"),
}
# From this many items on, a column that covers nearly all of them is no coincidence.
ENOUGH_ITEMS = 100
SAMPLE = 1_000_000  # lines


def roles(options: Mapping[str, Any]) -> tuple[Role, ...]:
    """The files of one dataset. QB and TN have no times, so their order is in the behaviour file only."""
    stem = options.get("stem", "*")
    pair, behaviour = f"{stem}_pair.csv", f"{stem}_behaviour.tsv"
    names = (behaviour, pair) if stem in ("QB", "TN") else (pair, behaviour)
    covers = "Source_Bili_2M_cover" if stem in ("Bili_500K", "Bili_2M") else f"{stem}_cover"
    covers = options.get("covers", covers)
    return (
        Role(
            name="interactions",
            patterns=names,
            about="one user and their items a line, or one interaction a line",
        ),
        Role(
            name="items", patterns=(f"{stem}_item.csv",), about="item, Chinese title, English title"
        ),
        Role(name="urls", patterns=(f"{stem}_url.csv",), required=False, about="item, address"),
        covers_role(covers, lmdb=(stem,)),
    )


def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
    """Read one dataset; the kind of interactions file is told by its suffix (.csv: pairs)."""
    items, report = read_table(files["items"], ITEMS)
    path = files["interactions"]
    if path.suffix.lower() == ".csv":
        seen = look(path)
        layout, said = pair_layout(path, items["item_id"], options.get("pair_order"))
        interactions, notes = scan_pairs(path, layout, seen)
        notes = (*said, *notes)
    else:
        interactions, notes = scan_sequences(path)
    return Release(interactions=interactions, items=items, files=(report,), notes=notes)


def pair_layout(path: Path, items: pl.Series, order: str | None) -> tuple[Pairs, tuple[str, ...]]:
    """Decide which column of a pair file holds the users; returns the layout and notes.

    The item table decides: the column whose values are in it. Where both are (ids that are bare
    integers in both), the one that covers it; else the prefixes u... and v...; else CheckFailed.
    The file has passed `look`.
    """
    first, separator = header_of(path, ",")
    skip = int(len(first) > 2 and _names_a_time(first[2]))
    notes = (f"line 1 is a header ({', '.join(first)})",) if skip else ()
    if order is None:
        order, why = _order_from_items(path, items, skip)
    elif order in ORDERS:
        why = "as the catalog says"
    else:
        raise UsageError(f"pair_order is '{order}'; it must be {' or '.join(ORDERS)}")
    notes = (*notes, f"columns are {order},timestamp ({why})")
    return Pairs(fields=ORDERS[order], separator=separator, skip=skip), notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What the item table says of one column: distinct values, how many of them are items."""

    values: int
    hits: int
    prefixes: frozenset[str]


def _names_a_time(text: str) -> bool:
    """Whether a third field is a column's name; a damaged time is not, it must be refused, not passed over."""
    return any(word in text.lower() for word in ("time", "date")) or text.lower() == "ts"


def _order_from_items(path: Path, items: pl.Series, skip: int) -> tuple[str, str]:
    lines = fields_of(path, Pairs(fields=("a", "b", "c"), skip=skip), ("a", "b"))
    known = items.unique()
    # Items are in the item table in any part of the file, so a part may decide; coverage needs it all.
    for part, whole in ((lines.head(SAMPLE), False), (lines, True)):
        first, second = (_column(part, name, known) for name in ("a", "b"))
        for order, item, user in (("item,user", first, second), ("user,item", second, first)):
            why = _items_are(item, user, len(known) if whole else 0)
            if why:
                return order, why
    for order, item, user in (("item,user", first, second), ("user,item", second, first)):
        if item.prefixes == {"v"} and user.prefixes == {"u"}:
            return order, "ids begin with u and v"
    msg = (
        f"{path}: cannot tell users from items: {first.hits:,} of the {first.values:,} values of column 1 "
        f"and {second.hits:,} of the {second.values:,} of column 2 occur in the item table. "
        'Settle it with pair_order = "user,item" or "item,user" in the options of a catalog TOML '
        "of your own, a copy of this one under another name ($NINEREC_CATALOG names its folder)"
    )
    raise CheckFailed(msg)


def _column(lines: pl.LazyFrame, name: str, known: pl.Series) -> _Column:
    raw = lines.select(pl.col(name).unique()).collect(engine="streaming")[name].drop_nulls()
    clean = raw.str.strip_chars(BLANKS + '"')
    clean = clean.filter(clean != "").unique()
    return _Column(
        values=len(clean),
        hits=int(clean.is_in(known.implode()).sum()),
        prefixes=frozenset(clean.str.head(1).unique()),
    )


def _items_are(item: _Column, user: _Column, known: int) -> str:
    """Why the one column holds the items and the other does not, or "". known: 0 = do not ask coverage."""
    inside, other = (column.hits / max(column.values, 1) for column in (item, user))
    if (inside >= 0.9 and other < 0.5) or (inside >= 0.5 and other < 0.1):
        return f"of the items {inside:.0%} are in the item table, of the users {other:.0%}"
    if known >= ENOUGH_ITEMS and item.hits >= 0.9 * known and user.hits < 0.5 * known:
        return f"the items cover {item.hits / known:.0%} of the item table, the users {user.hits / known:.0%}"
    return ""


def read_urls(path: Path) -> pl.DataFrame:
    """Read item_id, url (String) in file order from `X_url.csv`, or from the three-column preview mapping.

    The preview (`dataset,item_id,url`) keeps its dataset column as a third one. Repeated rows stay.
    Raises CheckFailed with the line for a row that has no id or no address.
    """
    fields, _ = header_of(path, ",")
    table = Table(columns=("item_id", "url"), role="urls", rest_in_last=True, quoted=False)
    if len(fields) == 3 and not fields[1].lower().startswith(("http:", "https:")):
        table = Table(
            columns=("dataset", "item_id", "url"), role="urls", rest_in_last=True, quoted=False
        )
    frame, report = read_table(path, table)
    bad = report.rows - report.kept - report.dropped.get("blank line", 0)
    missing = frame["url"].null_count()
    if bad or missing:
        lacking = f"{bad:,} rows without an item id and {missing:,} without an address"
        raise CheckFailed(f"{path} has {lacking}; mend them and import it again")
    columns = ["item_id", "url", *(["dataset"] if "dataset" in frame.columns else [])]
    return frame.select(columns).with_columns(pl.col("url").str.strip_chars(BLANKS + '"'))
