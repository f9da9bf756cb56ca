"""What a download would do, worked out beforehand: nothing is written and nobody is asked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from downloader.addresses import host_of
from downloader.answers import Ask, Fault
from downloader.items import enter, governors, remembered
from downloader.options import Form, Options, Tell
from downloader.politeness import STEPS, Governor, Governors
from downloader.releases import asset_of, bundles, hands_for, missing_assets
from downloader.resolvers import find
from downloader.universe import find_mappings
from ninerec_data.catalog import Entry
from ninerec_data.formats import reader
from ninerec_data.home import Home
from ninerec_data.item_journal import ItemJournal, has_items, item_journal
from ninerec_data.item_rows import TABLES
from ninerec_data.outcomes import HELD, Outcome
from ninerec_data.raw import journal

__all__ = ["HostPlan", "Plan", "can_fetch", "hands", "plan", "waiting"]

ANSWER = 0.1  # seconds that an answer takes at least
PICTURES = {"1920x1080": 350_000}  # bytes of a cover of that size, on average
PICTURE = 40_000  # of any other
SAMPLE = 1000  # covers held, whose size is taken for that of the others


@dataclass(slots=True)
class HostPlan:
    """The addresses whose first request goes to one host.

    rate, most_rate: requests per second at the start and ever, None: no limit; concurrency, most: requests at once,
    likewise. why: why nothing is asked now, or "". requests, bytes (of pictures): estimated, for all the addresses.
    seconds: that it takes at least.
    """

    host: str
    rate: float | None
    most_rate: float | None
    concurrency: int
    most: int
    why: str
    addresses: int = 0
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Plan:
    """What is to be fetched.

    files: name -> bytes (None: not published) and datasets of a release file. by_hand: what a person must do.
    covers: dataset -> items held, to ask for, unmapped (no address is known) or settled otherwise; all 0 where they
    are known only once their mapping is fetched. hosts: to be asked, the longest first.
    """

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)
    covers: dict[str, dict[str, int]] = field(default_factory=dict)
    hosts: list[HostPlan] = field(default_factory=list)


def plan(home: Home, entries: Sequence[Entry], options: Options) -> Plan:
    """The plan of `download` with the same arguments.

    Raises CheckFailed for a damaged journal, and for a mapping that cannot be used.
    """
    made = Plan()
    asked: dict[str, int] = {}  # address -> bytes of its picture
    pictured = [entry for entry in entries if "image" in entry.modalities]
    for entry in entries:
        made.by_hand += hands(home, entry, options)
    if not options.offline:
        made.files = _files(home, entries, options)
    with _journal(home) as items:
        for entry in pictured if "covers" in options.parts else ():
            form = remembered(items, [e.name for e in pictured], options)
            enter(home, entry, items, options, form.variant, Tell())
            made.covers[entry.name] = _covers(entry, items, options, form, asked)
        if not options.offline:
            made.hosts = _hosts(asked, governors(items, options))
    return made


def can_fetch(home: Home, entry: Entry, options: Options) -> bool:
    """Whether all that is needed for the parts asked for is held, or can be fetched without anybody's hand."""
    if options.parts == ("covers",):
        return "image" in entry.modalities and "covers" not in _only_by_hand(home, entry, options)
    needed = {asset_of(r.name) for r in reader(entry.format).roles(entry.options) if r.required}
    return not needed & _only_by_hand(home, entry, options)


def hands(home: Home, entry: Entry, options: Options) -> list[str]:
    """What a person must fetch for the parts asked for, one message each with the command."""
    return hands_for(entry, _only_by_hand(home, entry, options))


def waiting(home: Home, options: Options) -> dict[str, str]:
    """The hosts that will not be asked yet, and until when."""
    if not has_items(home):
        return {}
    with item_journal(home) as items:
        known = governors(items, options)
        return {host: why for host in known.kept if (why := known.of(host).why)}


@contextmanager
def _journal(home: Home) -> Iterator[ItemJournal]:
    """A copy that is gone at the end; in memory while it is small."""
    with ExitStack() as stack:
        copy = stack.enter_context(closing(sqlite3.connect("")))
        if (home.raw / "journal.sqlite").exists():
            stack.enter_context(journal(home)).backup(copy)
        copy.executescript(TABLES)
        yield ItemJournal(copy)


def _only_by_hand(home: Home, entry: Entry, options: Options) -> set[str]:
    fetched = {asset for bundle in bundles(home, entry) for asset in bundle.assets}
    if "mapping" in fetched or find_mappings(home, entry, options.mapping):
        fetched.add("covers")
    return missing_assets(home, entry, options.parts, options.mapping) - fetched


def _files(home: Home, entries: Sequence[Entry], options: Options) -> dict[str, dict[str, Any]]:
    """The files that deliver what is missing; a mapping alone only where none of them holds one."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        lacking = missing_assets(home, entry, options.parts, options.mapping)
        every = [bundle for bundle in bundles(home, entry) if bundle.assets & lacking]
        left = [bundle for bundle in every if bundle.assets & lacking - {"mapping"}]
        if not any("mapping" in bundle.assets for bundle in left):
            left += sorted((b for b in every if b not in left), key=lambda b: len(b.assets))[:1]
        for bundle in left:
            if not bundle.target.exists():
                file = found.setdefault(bundle.name, {"bytes": bundle.size, "datasets": []})
                file["datasets"].append(entry.name)
    return found


def _covers(
    entry: Entry,
    items: ItemJournal,
    options: Options,
    form: Form,
    asked: dict[str, int],
) -> dict[str, int]:
    """The counts of a dataset's items; the addresses to ask for are added to `asked`."""
    urls = items.pending([entry.name], options.retry, **form.wanted)
    sizes = items.sizes(entry.name, SAMPLE)
    usual = PICTURE if form.variant else PICTURES.get(entry.resolution, PICTURE)
    for url, _ in urls:
        asked.setdefault(url, sum(sizes) // len(sizes) if sizes else usual)
    counts = items.counts(entry.name)
    made = {"held": sum(counts.get(outcome, 0) for outcome in HELD)}
    made |= {"to_ask": sum(n for _, n in urls), "unmapped": counts.get(Outcome.UNMAPPED, 0)}
    return {**made, "settled": max(0, sum(counts.values()) - sum(made.values()))}


def _hosts(asked: dict[str, int], governors: Governors) -> list[HostPlan]:
    hosts: dict[str, HostPlan] = {}
    for url, size in asked.items():
        try:
            _, start = find(url)
        except Fault:
            continue  # of no known platform
        host = host_of(start.url if isinstance(start, Ask) else start.urls[0])
        if host not in hosts:
            governor, most = governors.of(host), governors.of(host).limits
            usual = governor.rate, most.most_rate, governor.concurrency, most.most
            hosts[host] = HostPlan(host, *usual, governor.why)
        found = hosts[host]
        found.addresses += 1
        found.requests += 2 if isinstance(start, Ask) else 1  # a page, then its picture
        found.bytes += size
        found.seconds += _seconds(found.addresses - 1, governors.of(host))
    return sorted(hosts.values(), key=lambda found: -found.seconds)


def _seconds(before: int, governor: Governor) -> float:
    """What one request adds at least: the rate rises with every good answer before it."""
    limits = governor.limits
    if governor.rate is None or limits.most_rate is None:
        return ANSWER / limits.most
    return 1 / min(limits.most_rate, governor.rate + before * (limits.rate or 0.0) / STEPS)
