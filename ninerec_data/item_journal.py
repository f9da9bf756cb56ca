"""The journal of covers: what came of every address and every item, in raw/journal.sqlite (DESIGN 3.1).

An address is asked for once, whatever the number of items behind it: `urls` holds what came of it, `items` what
that means for each item of a dataset, `blobs` what is known of a picture, `hosts` how its host wants to be
treated. One result is one transaction, written at once: who is killed loses what was on its way.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ninerec_data.home import Home
from ninerec_data.item_rows import FROM_RELEASE, ROW, TABLES, Address, Answer, Stored
from ninerec_data.outcomes import AGAIN, HELD, Outcome
from ninerec_data.raw import journal

__all__ = ["ItemJournal", "has_items", "item_journal"]

ONE_FOR_MANY = 5  # addresses of a host that give one picture: it is a placeholder
CACHE = 16_000  # KiB: a journal of 150,000 items is ten times as large
# What an item that holds no cover any more is set back to.
_UNSETTLED = (
    "outcome = case when url is not null then null when raw_url is null then 'UNMAPPED' else 'CONFIG' end,"
    " reason = null, source = null, sha256 = null"
)
_NETWORKED = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "afs", "ceph", "9p"]
)


@contextmanager
def item_journal(home: Home, *, many: bool = False) -> Iterator[ItemJournal]:
    """Open the journal. many: for many small writes, so by a write-ahead log; not on network file systems.

    Without `many` it is read or changed like any file: nothing is written that is not asked for.
    """
    with journal(home) as connection:
        if not many:
            yield ItemJournal(connection)
            return
        kind = _file_system(home.raw)
        if kind not in _NETWORKED and not kind.startswith("fuse."):
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
        connection.execute(f"pragma cache_size = -{CACHE}")
        connection.executescript(TABLES)
        try:
            yield ItemJournal(connection)
        finally:
            connection.commit()
            with suppress(
                sqlite3.OperationalError
            ):  # another reads: the next download's end does it
                connection.execute("pragma busy_timeout = 500")
                connection.execute("pragma journal_mode = delete")  # readable on a read-only disk


def has_items(home: Home) -> bool:
    """Whether covers were ever downloaded into this home."""
    if not (home.raw / "journal.sqlite").exists():
        return False
    with journal(home) as connection:
        return bool(
            connection.execute("select 1 from sqlite_master where name = 'items'").fetchone()
        )


class ItemJournal:
    """All reading and writing of these tables. One thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @property
    def changes(self) -> int:
        """Rows written so far."""
        return self._db.total_changes

    def enter(self, dataset: str, addresses: Iterable[Address], variant: str) -> Counter[str]:
        """Make the items of a dataset these; returns how many are new, changed (asked for anew) or left out.

        What is held stays held, whatever becomes of its address.
        """
        rows = self._db.execute(
            "select item_id, raw_url, url, variant, untitled from items where dataset = ?",
            (dataset,),
        )
        before = {item_id: rest for item_id, *rest in rows}
        count: Counter[str] = Counter()
        changed = []
        for a in addresses:
            old = before.pop(a.item_id, None)
            if old == [a.raw, a.url, variant, a.untitled]:
                continue
            count["new" if old is None else "changed"] += 1
            outcome = None if a.url else Outcome.CONFIG if a.reason else Outcome.UNMAPPED
            changed.append(
                (dataset, a.item_id, a.raw, a.url, variant, a.untitled, outcome, a.reason)
            )
        count["left out"] = len(before)
        with self._db:
            self._db.executemany(
                "insert into items (dataset, item_id, raw_url, url, variant, untitled, outcome, reason)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)"
                " on conflict do update set raw_url = excluded.raw_url, url = excluded.url, variant = excluded.variant,"
                " untitled = excluded.untitled,"
                f" outcome = iif(outcome in {_sql(HELD)}, outcome, excluded.outcome),"
                f" reason = iif(outcome in {_sql(HELD)}, reason, excluded.reason)",
                changed,
            )
            self._db.executemany(
                "delete from items where dataset = ? and item_id = ?"
                f" and (outcome is null or outcome not in {_sql(HELD)})",
                [(dataset, item_id) for item_id in before],
            )
            self._db.execute(
                "insert or ignore into urls (url, variant) select distinct url, variant from items"
                " where dataset = ? and url is not null",
                (dataset,),
            )
            self._inherit(dataset)
        return count

    def _inherit(self, dataset: str) -> None:
        """Items whose address was asked for before, for another item or dataset, share what came of it."""
        self._db.execute(
            "update items set (outcome, reason, sha256, source, seen) ="
            " (select u.outcome, u.reason, iif(u.outcome = 'OK', u.sha256, null), u.host, u.last_seen from urls u"
            "  where u.url = items.url and u.variant = items.variant)"
            " where dataset = ? and outcome is null and url is not null",
            (dataset,),
        )

    def pending(
        self,
        datasets: Collection[str],
        retry: Collection[Outcome],
        *,
        originals: bool,
        recipe: str | None,
    ) -> list[tuple[str, int]]:
        """Addresses to ask for, in a stable order, with how many items wait for each.

        Never asked, ended in one of `retry`, or held in a form that does not do: without the original where
        `originals` are wanted, else made by another recipe than `recipe`.
        """
        again = _sql(retry) if retry else "('')"
        form = self._other_form(originals, recipe)
        return self._db.execute(
            "select i.url, count(*) from items i join urls u on u.url = i.url and u.variant = i.variant"
            " left join blobs b on b.sha256 = i.sha256"
            f" where i.dataset in {_sql(datasets)} and (i.outcome is null"
            f" or (i.outcome in {again} and u.outcome is not 'OK')"
            f" or (i.outcome = 'OK' and i.source not like '{FROM_RELEASE}%' and ({form})"
            f" and (u.outcome is null or u.outcome = 'OK' or u.outcome in {again})))"
            " group by i.url order by min(i.dataset), min(i.item_id)"
        ).fetchall()

    def _other_form(self, originals: bool, recipe: str | None) -> str:
        """SQL: whether a picture `b` is held in another form than the one wanted; "0" where none is."""
        other = "not b.kept" + ("" if originals else f" and b.recipe is not '{recipe}'")
        some = f"select 1 from blobs b where {other} limit 1"
        return other if (originals or recipe) and self._db.execute(some).fetchone() else "0"

    def answered(
        self, url: str, variant: str, answer: Answer, stored: Stored | None = None
    ) -> None:
        """Note what came of an address, for every item behind it."""
        values = {**_fields(answer), "now": time.time(), "url": url, "variant": variant}
        values["gone"] = answer.outcome is Outcome.GONE
        with self._db:
            if stored:
                self._store(stored)
            self._db.execute(
                "update urls set lane = :lane, host = :host, outcome = :outcome, reason = :reason, detail = :detail,"
                " status = :status, final_url = :final_url, hops = :hops, sha256 = :sha256,"
                " title = coalesce(:title, title), etag = :etag, modified = :modified, attempts = attempts + 1,"
                " first_seen = coalesce(first_seen, :now), last_seen = :now,"
                " gone_since = iif(:gone, coalesce(gone_since, :now), null)"
                " where url = :url and variant = :variant",
                values,
            )
            self._db.execute(
                "update items set outcome = :outcome, reason = :reason, sha256 = :sha256, source = :host,"
                " seen = :now where url = :url and variant = :variant"
                f" and (outcome is null or outcome not in {_sql(HELD)}"
                f" or (:outcome = 'OK' and source not like '{FROM_RELEASE}%'))",
                values,
            )
            if answer.sha256:
                self._refuse_one_for_many(answer.sha256, answer.host)

    def _refuse_one_for_many(self, sha256: str, host: str) -> None:
        """One picture for many addresses of a host is no cover of any of them."""
        same = "select distinct url from urls where sha256 = ? and host = ? and outcome"
        some = self._db.execute(
            f"{same} in ('OK', 'REJECTED') limit {ONE_FOR_MANY}", (sha256, host)
        )
        if len(some.fetchall()) < ONE_FOR_MANY:
            return
        why = f"reason = 'one_for_many', detail = 'the same picture at {ONE_FOR_MANY} addresses or more'"
        taken = self._db.execute(
            f"{same} = 'OK'", (sha256, host)
        ).fetchall()  # the others are refused
        self._db.executemany(
            "update items set outcome = 'REJECTED', reason = 'one_for_many', sha256 = null"
            " where outcome = 'OK' and sha256 = ? and url = ?",
            [(sha256, url) for (url,) in taken],
        )
        self._db.execute(
            f"update urls set outcome = 'REJECTED', {why} where sha256 = ? and host = ? and outcome = 'OK'",
            (sha256, host),
        )

    def not_asked(
        self, urls: Iterable[str], variant: str, outcome: Outcome, reason: str, detail: str
    ) -> None:
        """Note why addresses were left for a later run; what was said of them before stays."""
        rows = [(outcome, reason, detail, url, variant) for url in urls]
        unsettled = f"(outcome is null or outcome in {_sql(AGAIN)})"
        with self._db:
            self._db.executemany(
                "update urls set outcome = ?, reason = ?, detail = ? where url = ? and variant = ?"
                f" and {unsettled}",
                rows,
            )
            self._db.executemany(
                "update items set outcome = ?, reason = ? where ? is not null and url = ? and variant = ?"
                f" and {unsettled}",
                rows,
            )

    def from_backup(self, dataset: str, item_id: str, stored: Stored, source: str) -> None:
        """Note that an item is held from the user's backup. source: where in it."""
        self._held(dataset, {item_id: source}, Outcome.OK_BACKUP, stored)

    def from_release(
        self, dataset: str, files: Mapping[str, str], stored: Stored | None = None
    ) -> None:
        """Note items whose cover the release itself holds: item id -> name of the file in it.

        stored: what was taken out of it; None where it is read in its place.
        """
        named = {item_id: f"{FROM_RELEASE}{name}" for item_id, name in files.items()}
        self._held(dataset, named, Outcome.OK, stored)

    def let_go_of_release(self, dataset: str) -> None:
        """Forget which covers are read in their place in the release, for its covers were imported anew."""
        with self._db:
            self._db.execute(
                f"update items set {_UNSETTLED} where dataset = ? and outcome = 'OK' and sha256 is null",
                (dataset,),
            )

    def _held(
        self, dataset: str, rows: Mapping[str, str], outcome: Outcome, stored: Stored | None
    ) -> None:
        sha256 = stored.sha256 if stored else None
        with self._db:
            if stored:
                self._store(stored)
            self._db.executemany(
                "update items set outcome = ?, reason = '', sha256 = ?, source = ?, seen = ?"
                " where dataset = ? and item_id = ?",
                [
                    (outcome, sha256, source, time.time(), dataset, item_id)
                    for item_id, source in rows.items()
                ],
            )

    def _store(self, stored: Stored) -> None:
        self._db.execute(
            "insert into blobs values"
            " (:sha256, :size, :kind, :width, :height, :kept, :resized, :resized_size, :recipe, :codecs)"
            " on conflict do update set kept = kept or excluded.kept,"
            " resized = coalesce(excluded.resized, resized),"
            " resized_size = coalesce(excluded.resized_size, resized_size),"
            " recipe = coalesce(excluded.recipe, recipe), codecs = coalesce(excluded.codecs, codecs)",
            _fields(stored),
        )

    def addresses(self, dataset: str) -> list[Address]:
        """Its items, in the order of their ids."""
        rows = self._db.execute(
            "select item_id, raw_url, url from items where dataset = ? order by item_id", (dataset,)
        )
        return [Address(item_id=item_id, raw=raw, url=url) for item_id, raw, url in rows]

    def page_titles(self, dataset: str) -> list[tuple[str, str]]:
        """item_id, title of the items whose title only their page has."""
        return self._db.execute(
            "select i.item_id, u.title from items i join urls u on u.url = i.url and u.variant = i.variant"
            " where i.dataset = ? and i.untitled and u.title is not null order by i.item_id",
            (dataset,),
        ).fetchall()

    def without_cover(
        self, dataset: str, *, originals: bool = False, recipe: str | None = None
    ) -> dict[str, str]:
        """Items that hold no cover, or one in a form that does not do, as `pending` has it.

        Item id -> outcome, "" where it was never asked for.
        """
        return dict(
            self._db.execute(
                "select i.item_id, coalesce(i.outcome, '') from items i left join blobs b on b.sha256 = i.sha256"
                f" where i.dataset = ? and (i.outcome is null or i.outcome not in {_sql(HELD)}"
                f" or ({self._other_form(originals, recipe)}))",
                (dataset,),
            )
        )

    def counts(self, dataset: str) -> dict[str, int]:
        """Outcome -> items; what was never asked for counts as TRANSIENT."""
        rows = self._db.execute(
            "select coalesce(outcome, 'TRANSIENT'), count(*) from items where dataset = ? group by 1",
            (dataset,),
        )
        return dict(sorted(rows))

    def reasons(self, dataset: str) -> list[tuple[str, str, int]]:
        """Outcome, reason and number of items that hold no cover, most first."""
        return self._db.execute(
            "select coalesce(outcome, 'TRANSIENT'), iif(outcome is null, 'not asked yet',"
            " coalesce(nullif(reason, ''), 'no address')), count(*) n"
            " from items"
            f" where dataset = ? and (outcome is null or outcome not in {_sql(HELD)})"
            " group by 1, 2 order by n desc, 1, 2",
            (dataset,),
        ).fetchall()

    def rows(self, dataset: str) -> Iterator[tuple[Any, ...]]:
        """Everything known of each item, in the order of their ids; the columns are those of `ROW`, times in ms."""
        return self._db.execute(
            f"select {', '.join(ROW.values())} from items i"
            " left join urls u on u.url = i.url and u.variant = i.variant"
            " left join blobs b on b.sha256 = i.sha256 where i.dataset = ? order by i.item_id",
            (dataset,),
        )

    def alive(self, host: str) -> str | None:
        """An address asked of this host that gave a picture before: the control item of its breaker."""
        row = self._db.execute(
            "select url from urls where lane = ? and outcome = 'OK' order by last_seen desc limit 1",
            (host,),
        ).fetchone()
        return row[0] if row else None

    def blobs(self) -> Iterator[tuple[str, int, int, str | None, int | None]]:
        """sha256, size, kept, resized, resized_size of every picture that came, for whichever dataset."""
        return self._db.execute("select sha256, size, kept, resized, resized_size from blobs")

    def sizes(self, dataset: str, most: int) -> list[int]:
        """Bytes, as fetched, of some pictures that items of a dataset hold."""
        rows = self._db.execute(
            "select b.size from items i join blobs b on b.sha256 = i.sha256"
            f" where i.dataset = ? and i.outcome in {_sql(HELD)} limit ?",
            (dataset, most),
        )
        return [size for (size,) in rows]

    def needed_without(self, dataset: str) -> set[str]:
        """Names of the blobs that the other datasets need."""
        rows = self._db.execute(
            "with b as (select b.* from blobs b join items i on i.sha256 = b.sha256 where i.dataset <> ?)"
            " select sha256 from b where kept union select resized from b where resized is not null",
            (dataset,),
        )
        return {name for (name,) in rows}

    def forget(self, dataset: str) -> None:
        """Know nothing of a dataset any more, nor of addresses and pictures that only it had."""
        with self._db:
            for table in ("items", "downloads"):
                self._db.execute(f"delete from {table} where dataset = ?", (dataset,))
            self._db.execute(
                "delete from urls where url not in (select url from items where url is not null)"
            )
            self._db.execute(
                "delete from blobs where sha256 not in (select sha256 from items where sha256 is not null)"
            )

    def lost(self, pictures: Iterable[str]) -> None:
        """Forget pictures whose blobs are not there: their items are asked for again."""
        these = "sha256 in (select sha256 from lost)"
        with self._db:
            self._db.execute("create temp table lost (sha256 text primary key) without rowid")
            rows = ((sha256,) for sha256 in pictures)
            self._db.executemany("insert or ignore into lost values (?)", rows)
            self._db.execute(  # their accounts are no longer true
                f"update downloads set open = 1 where dataset in (select dataset from items where {these})"
            )
            self._db.execute(f"update items set {_UNSETTLED} where {these}")
            self._db.execute(
                f"update urls set outcome = null, reason = null, sha256 = null where {these}"
            )
            self._db.execute(f"delete from blobs where {these}")
            self._db.execute("drop table lost")

    def hosts(self) -> dict[str, dict[str, Any]]:
        """Host -> its state as last saved."""
        return {
            host: json.loads(state)
            for host, state in self._db.execute("select host, state from hosts")
        }

    def save_hosts(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        with self._db:
            self._db.executemany(
                "insert or replace into hosts values (?, ?)",
                [(host, json.dumps(state)) for host, state in states.items()],
            )

    def download(self, dataset: str) -> dict[str, Any]:
        """How a dataset was last downloaded: open (not ended), keep, variant, recipe, read_from; empty if never."""
        names = ("open", "keep", "variant", "recipe", "read_from")
        row = self._db.execute(
            f"select {', '.join(names)} from downloads where dataset = ?", (dataset,)
        ).fetchone()
        return dict(zip(names, row, strict=True)) if row else {}

    def mark(self, dataset: str, *, is_open: bool, **known: str) -> None:
        """Note that a download began or ended. Until it has ended its provenance is not written.

        known: keep, variant, recipe, and read_from: what its items followed from.
        """
        row = {"dataset": dataset, "open": is_open, **known}
        with self._db:
            self._db.execute(
                "insert or replace into downloads values (:dataset, :open, :keep, :variant, :recipe, :read_from)",
                row,
            )


def _fields(row: Answer | Stored) -> dict[str, Any]:
    return {name: _text(getattr(row, name)) for name in row.__slots__}


def _text(value: Any) -> Any:
    """What SQLite takes: a header may hold bytes that are no UTF-8."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _sql(words: Iterable[str]) -> str:
    """A list of words as SQL has it."""
    return "(" + ", ".join("'" + str(word).replace("'", "''") + "'" for word in words) + ")"


def _file_system(folder: Path) -> str:
    """The kind of file system a folder lies on, "" where that cannot be told."""
    mounts = Path("/proc/self/mounts")
    lines = [line.split() for line in mounts.read_text().splitlines()] if mounts.exists() else []
    inside = [(len(line[1]), line[2]) for line in lines if folder.resolve().is_relative_to(line[1])]
    return max(inside, default=(0, ""))[1]
