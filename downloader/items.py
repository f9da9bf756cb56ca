"""The covers of some datasets: what is at hand is taken first, then the origin is asked, then the backup.

Every item ends in one outcome. Whatever ends the run, what it got stays and the account is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from downloader.addresses import redacted
from downloader.arrived import Arrivals, Notes
from downloader.at_hand import AtHand
from downloader.client import Client
from downloader.covers import Covers
from downloader.options import Form, Options, Report, Tell, limits_of
from downloader.politeness import Governors, HostState
from downloader.universe import find_mappings, read_from, universe
from downloader.web import Web
from ninerec_data.blobs import Blobs
from ninerec_data.catalog import Entry
from ninerec_data.errors import CheckFailed, NineRecError, UsageError
from ninerec_data.home import Home
from ninerec_data.item_journal import ItemJournal, item_journal
from ninerec_data.outcomes import HELD, Outcome
from ninerec_data.pictures import Recipe
from ninerec_data.provenance import hold_downloaded, is_provenance
from ninerec_data.raw import held_files

LACKS = 5  # addresses of a host that are all gone
FILES = 4096  # open at once: sockets kept alive, blobs, archives
PATIENCE = 7 * 86400.0  # seconds of pauses that a run waits out for one host in all

__all__ = ["ItemsRun", "enter", "governors", "remembered"]


class ItemsRun:
    """One run over the items of some datasets."""

    def __init__(
        self,
        home: Home,
        entries: Sequence[Entry],
        options: Options,
        tell: Tell,
        report: Report,
        web: Web | None,
    ) -> None:
        """web: for backups behind an address; None where nothing may be asked."""
        self.home, self.entries, self.options = home, entries, options
        self.tell, self.report, self.web = tell, report, web
        self.names = [entry.name for entry in entries]
        self.left_out: list[Entry] = []
        self.read_from: dict[str, str] = {}

    @contextmanager
    def _alone(self, entry: Entry) -> Iterator[None]:
        """What is wrong with one of several datasets leaves that one out, and is said."""
        try:
            yield
        except NineRecError as error:
            if len(self.entries) == 1:
                raise
            self.left_out.append(entry)
            self.report.said.append(f"{entry.name}: its covers are left out: {error}")
            self.report.failed = True

    def run(self) -> None:
        """Settle every item. Raises CheckFailed and MissingData for a mapping or backup that cannot be used."""
        with ExitStack() as stack:
            self.items = stack.enter_context(item_journal(self.home, many=True))
            written = {entry.name for entry in self.entries if self._is_written(entry)}
            changes = self.items.changes + len(self.entries)  # each is marked as open
            self.form = remembered(self.items, self.names, self.options)
            for entry in self.entries:
                with self._alone(entry):
                    self.read_from[entry.name] = enter(
                        self.home, entry, self.items, self.options, self.form.variant, self.tell
                    )
            blobs = Blobs(self.home)
            blobs.sweep()
            self._find_lost(blobs)
            notes = Notes(self.home.raw / ".decoding")
            stack.callback(notes.close)
            self.arrivals = Arrivals(
                blobs=blobs,
                recipe=self.form.recipe,
                keep=self.form.keep,
                notes=notes,
                placeholders=self.options.placeholders,
            )
            at_hand = AtHand(
                self.home, self.items, self.arrivals, self.form, self.tell, self.options.expected
            )
            self.entries = [e for e in self.entries if e not in self.left_out]
            self.names = [entry.name for entry in self.entries]
            for spec in self.options.backup:
                self._open_backup(at_hand, spec, stack)
            try:
                self._mark(is_open=True)
                self._settle(at_hand)
            finally:
                self._account(written if self.items.changes <= changes else set())

    def _open_backup(self, at_hand: AtHand, spec: str, stack: ExitStack) -> None:
        """Open it for each dataset that it is of. Raises what it says where that is none."""
        errors = []
        for entry in self.entries:
            try:
                only = len(self.entries) == 1
                stack.callback(at_hand.open(entry, spec, only=only, web=self.web).close)
            except NineRecError as error:
                errors.append(error)
                self.report.said.append(f"{entry.name}: goes without this backup: {error}")
        if errors and len(errors) == len(self.entries):
            raise errors[0]

    def _settle(self, at_hand: AtHand) -> None:
        at_hand.take_releases(self.entries)
        if self.options.backup_first:
            at_hand.take_backups()
        urls = self.items.pending(self.names, self.options.retry, **self.form.wanted)
        if urls and not self.options.offline:
            asyncio.run(self._ask([url for url, _ in urls]))
        if not self.options.backup_first:
            at_hand.take_backups()

    async def _ask(self, urls: list[str]) -> None:
        """Ask the origin, or the mirror; how each host wants to be treated is kept for the next run."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < FILES:
            most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        options = self.options
        governed = governors(self.items, options)
        expected = {
            address.url: options.expected[name][address.item_id]
            for name in self.names
            if name in options.expected
            for address in self.items.addresses(name)
            if address.url and address.item_id in options.expected[name]
        }
        async with Client(
            options.guard,
            governed,
            user_agent=options.user_agent,
            deadlines=options.deadlines,
            clock=options.clock,
        ) as client:
            covers = Covers(
                self.items,
                client,
                self.arrivals,
                variant=self.form.variant,
                expected=expected,
                told=self.tell.settled,
                jobs=options.jobs,
                base=options.base,
            )
            self.tell.begin(covers, len(urls))
            try:
                await covers.run(urls)
            finally:
                states = {_key(state.host, options): asdict(state) for state in governed.states()}
                self.items.save_hosts(states)
                self.report.said += _lacks(covers, options.mirror) if options.mirror else []
                self.report.requests += client.requests
                self.report.bytes += client.bytes

    def _mark(self, *, is_open: bool) -> None:
        recipe = json.dumps(asdict(self.form.recipe))
        kept = {"keep": self.form.keep, "variant": self.form.variant, "recipe": recipe}
        for entry in self.entries:
            read = self.read_from[entry.name]
            self.items.mark(entry.name, is_open=is_open, read_from=read, **kept)

    def _is_written(self, entry: Entry) -> bool:
        """Whether the provenance of a dataset says all that the journal holds."""
        held = held_files(self.home, entry.name).get("covers")
        ended = self.items.download(entry.name).get("open") == 0
        if not ended or held is None or not is_provenance(held.path) or not held.path.exists():
            return False
        stat = held.path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (held.size, held.mtime_ns)

    def _account(self, written: set[str]) -> None:
        """Write the provenance, but of the datasets of which nothing changed."""
        for entry in self.entries:
            counts = self.items.counts(entry.name)
            if counts and entry.name not in written:
                hold_downloaded(self.home, entry, self.items)
            self.report.counts.setdefault(entry.name, {})["covers"] = counts
            self.report.reasons[entry.name] = self.items.reasons(entry.name)
        self._mark(is_open=False)
        self.tell.end()

    def _find_lost(self, blobs: Blobs) -> None:
        """Items whose blobs are not there any more are asked for again."""
        lost, held = set(), 0
        for sha256, size, kept, resized, resized_size in self.items.blobs():
            held += 1
            name, length = (sha256, size) if kept else (resized or "", resized_size or 0)
            if not blobs.whole(name, length):
                lost.add(sha256)
        if held == len(lost) > 1 and os.path.lexists(blobs.folder):
            msg = (
                f"none of the {len(lost):,} covers is left in {blobs.folder}: is its disk mounted? "
                "To have all of them asked for again, remove that folder and run this again"
            )
            raise CheckFailed(msg)
        if lost:
            self.tell.say(f"{len(lost):,} covers are gone from {blobs.folder}: asked for again")
            self.items.lost(lost)


def _lacks(covers: Covers, mirror: str) -> list[str]:
    """What is said of hosts of which a mirror has nothing."""
    return [
        f"{redacted(mirror)} has nothing of {lane.host}; if it is not the mirror you mean, name that one and add "
        "--retry gone"
        for lane in covers.lanes.values()
        if set(lane.ended) == {Outcome.GONE} and lane.ended[Outcome.GONE] >= LACKS
    ]


def governors(items: ItemJournal, options: Options) -> Governors:
    """How hosts are treated, going on from the run before; what a mirror does is not its host's doing."""
    kept = ((key, HostState(**state)) for key, state in items.hosts().items())
    return Governors(
        limits_of(options),
        options.clock,
        {state.host: state for key, state in kept if key == _key(state.host, options)},
        options.rate,
        options.concurrency,
        patience=PATIENCE,
        told=lambda state: items.save_hosts({_key(state.host, options): asdict(state)}),
    )


def _key(host: str, options: Options) -> str:
    return f"{redacted(options.mirror)} {host}" if options.mirror else host


def remembered(items: ItemJournal, names: Sequence[str], options: Options) -> Form:
    """The form asked for, else the one in which these datasets were downloaded before."""
    before = next((known for name in names if (known := items.download(name))), {})
    sizes = {"full": "", "small": "small", None: before.get("variant", "")}
    recipe = options.recipe or Recipe(**json.loads(before.get("recipe") or "{}"))
    return Form(options.keep or before.get("keep", "original"), recipe, sizes[options.cover_size])


def enter(
    home: Home, entry: Entry, items: ItemJournal, options: Options, variant: str, tell: Tell
) -> str:
    """Bring the items of a dataset into the journal, unless what they follow from is as it was; return that."""
    mappings = find_mappings(home, entry, options.mapping)
    known, read = items.download(entry.name), read_from(home, entry, mappings)
    if (known.get("read_from"), known.get("variant")) == (read, variant):
        return read
    if known and known["variant"] != variant and set(items.counts(entry.name)) & set(HELD):
        held = known["variant"] or "full"
        msg = (
            f"covers of {entry.name} are held that were fetched with --cover-size {held}; download it so, and alone, "
            f"or remove them first: ninerec clean {entry.name} --raw"
        )
        raise UsageError(msg)
    changes = items.enter(entry.name, universe(home, entry, mappings), variant)
    said = ", ".join(f"{n:,} {what}" for what, n in changes.items() if n)
    if known and said:
        tell.say(f"{entry.name}: the items are others than before: {said}")
    return read
