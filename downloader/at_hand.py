"""Covers that are at hand: those of the release itself, and those of a backup that the user names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from downloader.addresses import redacted
from downloader.adopt import Wanted, adopt
from downloader.answers import Fault
from downloader.arrived import Arrivals
from downloader.backup import Backup, open_backup
from downloader.options import Form, Tell
from downloader.releases import bundles
from downloader.web import Web
from ninerec_data.archives import read_in_place
from ninerec_data.catalog import Entry
from ninerec_data.cover_sources import join, open_source
from ninerec_data.errors import NetworkError
from ninerec_data.formats import covers_patterns
from ninerec_data.home import Home
from ninerec_data.item_journal import ItemJournal
from ninerec_data.item_rows import Stored
from ninerec_data.outcomes import AGAIN
from ninerec_data.provenance import imported_anew, release_covers
from ninerec_data.raw import known_digests, remember_digests

__all__ = ["AtHand"]

BATCH = 64  # pictures held in memory


class AtHand:
    """Takes covers from where no origin has to be asked."""

    def __init__(
        self,
        home: Home,
        items: ItemJournal,
        arrivals: Arrivals,
        form: Form,
        tell: Tell,
        expected: Mapping[str, Mapping[str, str]],
    ) -> None:
        """expected: dataset -> item id -> sha256 that its picture must have."""
        self.home, self.items, self.arrivals = home, items, arrivals
        self.form, self.tell, self.expected = form, tell, expected
        self.backups: list[tuple[Entry, Backup]] = []

    def open(self, entry: Entry, spec: str, *, only: bool, web: Web | None) -> Backup:
        """Open a backup for a dataset. Raises NetworkError, and as `open_backup`."""
        ids = [address.item_id for address in self.items.addresses(entry.name)]
        names = covers_patterns(entry)
        try:
            backup = open_backup(
                spec, dataset=entry.name, patterns=names, item_ids=ids, only=only, web=web
            )
        except Fault as fault:
            msg = f"--backup {redacted(spec)} cannot be had: {fault}; name another, or leave it out"
            raise NetworkError(msg) from fault
        self.backups.append((entry, backup))
        return backup

    def take_backups(self) -> None:
        """Fill what has no cover, first backup first."""
        with ThreadPoolExecutor() as threads:
            for entry, backup in self.backups:
                lacking = self._lacking(entry.name)
                known = self.expected.get(entry.name, {})
                found = backup.read_all([i for i in lacking if backup.lookup(i) is not None])
                refused = 0
                while batch := list(islice(found, BATCH)):
                    taken = threads.map(self._taken, batch, (known.get(row[0]) for row in batch))
                    for (item_id, _, where), stored in zip(batch, taken, strict=True):
                        refused += stored is None
                        if stored:
                            self.items.from_backup(entry.name, item_id, stored, where)
                    last = batch[-1][1]
                    if len(batch) == BATCH and all(_on_the_way(data) for _, data, _ in batch):
                        self.tell.say(f"{entry.name}: {backup.name} is asked no more: {last!s}")
                        break
                if refused:
                    self.tell.say(
                        f"{entry.name}: {refused:,} covers of {backup.name} cannot be used"
                    )

    def _lacking(self, dataset: str) -> dict[str, str]:
        """Items without a cover in the form that is kept."""
        return self.items.without_cover(dataset, **self.form.wanted)

    def _taken(self, row: tuple[str, bytes | Fault, str], expected: str | None) -> Stored | None:
        _, data, _ = row
        try:
            return None if isinstance(data, Fault) else self.arrivals.take(data, expected)
        except Fault:
            return None

    def take_releases(self, entries: Sequence[Entry]) -> None:
        """Read in place what can be, else take it out of the published tar, which is passed over once."""
        wanted: dict[Path, list[Wanted]] = {}
        for entry in entries:
            own = release_covers(self.home, entry)
            if imported_anew(self.home, entry) or (own and not own.exists()):
                self.items.let_go_of_release(entry.name)
            lacking = self._lacking(entry.name)
            if lacking and own and own.exists():
                self._in_place(entry, own, lacking)
                lacking = self._lacking(entry.name)
            for bundle in bundles(self.home, entry):
                if lacking and "covers" in bundle.assets and bundle.target.exists():
                    want = Wanted(entry.name, covers_patterns(entry), tuple(lacking))
                    wanted.setdefault(bundle.target, []).append(want)
        for path, several in wanted.items():
            if not read_in_place(path):
                self._from_tar(path, several)

    def _in_place(self, entry: Entry, path: Path, lacking: dict[str, str]) -> None:
        ids = [address.item_id for address in self.items.addresses(entry.name)]
        source = open_source(path, covers_patterns(entry))
        try:
            joined = join(source.found(), ids, entry.name)
        finally:
            source.close()
        files = {i: found[0].name for i, found in zip(ids, joined.by_item, strict=True) if found}
        self.items.from_release(entry.name, {i: files[i] for i in lacking if i in files})

    def _from_tar(self, path: Path, wanted: list[Wanted]) -> None:
        """Pass over a tar, unless it is known not to hold any cover that is wanted."""
        stat = path.stat()
        known = known_digests(self.home, path)
        keys = {w.dataset: (w.dataset, stat.st_size, stat.st_mtime_ns) for w in wanted}
        absent = {name: set(json.loads(known.get(key, "[]"))) for name, key in keys.items()}
        left = [
            Wanted(w.dataset, w.patterns, tuple(i for i in w.items if i not in absent[w.dataset]))
            for w in wanted
        ]
        left = [want for want in left if want.items]
        if left:
            self.tell.say(
                f"{path.name}: taking its covers out, for {', '.join(w.dataset for w in left)}"
            )
            adopt(path, left, self.arrivals, self._hold)
            for want in left:
                lacking = self._lacking(want.dataset)
                absent[want.dataset] |= {i for i in want.items if i in lacking}
            seen = {keys[w.dataset]: json.dumps(sorted(absent[w.dataset])) for w in left}
            remember_digests(self.home, path, seen)

    def _hold(self, dataset: str, item_id: str, stored: Stored, name: str) -> None:
        self.items.from_release(dataset, {item_id: name}, stored)


def _on_the_way(data: bytes | Fault) -> bool:
    return isinstance(data, Fault) and data.outcome in AGAIN
