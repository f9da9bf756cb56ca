"""How a download is shown: its plan, how it gets on, and what came of it."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from tqdm import tqdm

from downloader.options import Options, Report, Tell
from downloader.plan import HostPlan, Plan, waiting
from ninerec.options import print_table, readable, say
from ninerec_data.catalog import Entry
from ninerec_data.home import Home
from ninerec_data.outcomes import AGAIN, Outcome
from ninerec_data.provenance import is_provenance
from ninerec_data.raw import held_files

if TYPE_CHECKING:
    from downloader.covers import Covers, Lane
    from downloader.politeness import Governor

__all__ = ["View", "duration", "end_lines", "outcomes", "plan_lines", "plan_tables"]

HOSTS = 6  # lines of hosts at most
REASONS = 5  # of a dataset, likewise
BEAT = 0.3  # seconds between two drawings of the bars
_UNITS = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))


def duration(seconds: float) -> str:
    """As people say it: `9 min`, `2.5 days`."""
    unit, size = next((u for u in _UNITS if seconds >= 1.5 * u[1]), _UNITS[-1])
    return f"{max(seconds / size, 1):.{int(unit in ('days', 'h'))}f} {unit}"


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan in few lines."""
    for name, file in plan.files.items():
        yield f"plan: fetch {name} ({_size(file['bytes'])}) for {', '.join(file['datasets'])}"
    total: Counter[str] = Counter()
    for counts in plan.covers.values():
        total.update(counts)
    if known := ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in total.items() if n):
        yield f"plan: covers: {known}"
    yield from (f"plan: {said}" for said in _unknown(plan))
    yield from (f"plan: by hand: {said}" for said in plan.by_hand)
    if plan.hosts:
        requests = sum(host.requests for host in plan.hosts)
        size = readable(sum(host.bytes for host in plan.hosts))
        first = plan.hosts[0]
        yield (
            f"plan: about {requests:,} requests and {size} of pictures from {_hosts(plan)} (estimated); "
            f"{duration(first.seconds)} at the earliest, for {first.host}"
        )
        yield from (f"plan: {host.host} is {host.why}" for host in plan.hosts if host.why)
    if not (plan.files or plan.hosts):
        yield "plan: nothing to fetch"


def _hosts(plan: Plan) -> str:
    return "1 host" if len(plan.hosts) == 1 else f"{len(plan.hosts)} hosts"


def _unknown(plan: Plan) -> Iterator[str]:
    if names := [name for name, counts in plan.covers.items() if not any(counts.values())]:
        yield f"the items of {', '.join(names)} are known once the files are here"


def plan_tables(plan: Plan) -> None:
    """The whole plan on stdout."""
    files = [
        {"file to fetch": name, "size": _size(file["bytes"]), "for": ", ".join(file["datasets"])}
        for name, file in plan.files.items()
    ]
    covers = [
        {"covers of": name} | {what.replace("_", " "): n for what, n in counts.items()}
        for name, counts in plan.covers.items()
        if any(counts.values())
    ]
    for table in (files, covers, [_host_row(host) for host in plan.hosts]):
        if table:
            print_table(table)
            print()
    for said in (*_unknown(plan), *(f"by hand: {said}" for said in plan.by_hand)):
        print(said)
    if not (plan.files or plan.hosts):
        print("nothing to fetch")


def _host_row(host: HostPlan) -> dict[str, Any]:
    """Requests, bytes and time are estimates."""
    rate = "no limit" if host.rate is None else f"{host.rate:g} to {host.most_rate:g} a second"
    return {
        "host asked first": host.host,
        "addresses": host.addresses,
        "requests": host.requests,
        "pictures": f"~{readable(host.bytes)}",
        "rate": rate,
        "at once": f"{host.concurrency} to {host.most}",
        "at the earliest": duration(host.seconds),
        "now": host.why or "may be asked",
    }


def _size(size: int | None) -> str:
    return "size not published" if size is None else readable(size)


def outcomes(report: Report) -> None:
    """The closing table on stdout."""
    seen = {o for parts in report.counts.values() for counts in parts.values() for o in counts}
    rows = [
        {"dataset": name, "part": part, **{o.value: counts.get(o) for o in Outcome if o in seen}}
        for name, parts in report.counts.items()
        for part, counts in parts.items()
        if counts
    ]
    print_table(rows)


def end_lines(
    home: Home, entries: Sequence[Entry], options: Options, report: Report
) -> Iterator[str]:
    """Why something was not had, and what to do next."""
    for name, reasons in report.reasons.items():
        if reasons:
            said = [f"{n:,} {_why(*why)}" for *why, n in reasons[:REASONS]]
            yield f"{name}: no cover: {', '.join(said)}{', ...' * (len(reasons) > REASONS)}"
    yield from report.said
    every = {o for parts in report.counts.values() for counts in parts.values() for o in counts}
    for host, why in waiting(home, options).items() if every & set(AGAIN) else ():
        yield f"{host} is {why}"
    if every & set(AGAIN):
        yield "BLOCKED and TRANSIENT are asked again by the same command, later"
    if Outcome.CONFIG in every:
        yield "CONFIG is asked again once what is wrong is mended: the same command with --retry config"
    if Outcome.GONE in every and (unsure := sum(_unsure(home, entry.name) for entry in entries)):
        yield (
            f"{unsure:,} GONE were seen so once; a second look 24 hours later makes it sure: "
            "the same command with --retry gone"
        )
    if ready := [entry.name for entry in entries if "interactions" in held_files(home, entry.name)]:
        yield f"next: ninerec prepare {ready[0]}" + (
            f" (likewise {', '.join(ready[1:])})" if ready[1:] else ""
        )


def _why(outcome: str, reason: str) -> str:
    return f"{outcome} ({'no address is known' if outcome == Outcome.UNMAPPED else reason})"


def _unsure(home: Home, name: str) -> int:
    """Items that are GONE by one look, or by looks too near each other."""
    covers = held_files(home, name).get("covers")
    if covers is None or not is_provenance(covers.path):
        return 0
    with pq.ParquetFile(covers.path) as file:  # `read_table` imports seconds of more
        table = file.read(["outcome", "confirmed"])
    rows = zip(table["outcome"].to_pylist(), table["confirmed"].to_pylist(), strict=True)
    return sum(outcome == Outcome.GONE and not confirmed for outcome, confirmed in rows)


class View(Tell):
    """Progress on stderr: bars on a terminal, else a plain line every 10 seconds. Use it as a context manager."""

    def __init__(self, every: float = 10.0) -> None:
        """every: seconds between plain lines."""
        self._bars = sys.stderr.isatty()
        self._every = BEAT if self._bars else every
        self._covers: Covers | None = None
        self._addresses = 0
        self._outcomes: Counter[str] = Counter()
        self._settled: Counter[str] = Counter()  # by host
        self._file: tuple[str, int, int | None, int, float] | None = None
        self._lines: list[tqdm[Any]] = []
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._draw_on, name="progress", daemon=True)

    def __enter__(self) -> View:
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beat.join()
        self._clear()

    def say(self, text: str) -> None:
        with tqdm.external_write_mode(sys.stderr):
            say(text)

    def file(self, name: str, held: int, total: int | None) -> None:
        known = self._file
        since = known[3:] if known and known[0] == name else (held, time.monotonic())
        self._file = (name, held, total, *since)

    def begin(self, covers: Covers, addresses: int) -> None:
        self._file, self._covers, self._addresses = None, covers, addresses

    def settled(self, lane: Lane, outcome: Outcome, n: int) -> None:
        self._settled[lane.host] += n
        self._outcomes[str(outcome)] += n

    def end(self) -> None:
        self._covers = self._file = None

    def _draw_on(self) -> None:
        while not self._over.wait(self._every):
            now = self._now()
            if not self._bars:
                if now:
                    say("; ".join(line.strip() for line in now))
                continue
            for number in range(len(self._lines), len(now)):
                self._lines.append(
                    tqdm(bar_format="{desc}", position=number, leave=False, file=sys.stderr)
                )
            width = shutil.get_terminal_size().columns - 1
            for line, text in zip(self._lines, now + [""] * len(self._lines), strict=False):
                line.set_description_str(text[:width])

    def _clear(self) -> None:
        for line in reversed(self._lines):
            line.close()
        self._lines.clear()

    def _now(self) -> list[str]:
        """How it stands: one line in all, and one for each of a few busy hosts."""
        if self._file:
            name, held, total, at_first, since = self._file
            speed = (held - at_first) / max(time.monotonic() - since, 0.001)
            said = f"{readable(held)} of {readable(total)}" if total else readable(held)
            return [f"{name}: {said}, {readable(int(speed))} a second"]
        covers = self._covers  # which the end of the run sets to None, in another thread
        if not covers:
            return []
        n = sum(list(self._outcomes.values()))
        parts = [f"{count:,} {outcome}" for outcome, count in sorted(self._outcomes.items())]
        client = covers.client
        whole = f"covers: {n:,} of {self._addresses:,} settled"
        busy = [lane for lane in list(covers.lanes.values()) if lane.open]
        return [
            ", ".join([whole, *parts, readable(client.bytes)]),
            *(self._host(lane, client.governors.made.get(lane.host)) for lane in busy[:HOSTS]),
        ]

    def _host(self, lane: Lane, governor: Governor | None) -> str:
        n = self._settled[lane.host]
        said = f"  {lane.host}: {n:,} of {n + lane.open:,}"
        if governor is None:
            return said
        rate = f"{governor.rate:.1f} a second at most, " if governor.rate else ""
        return f"{said}, {rate}{governor.in_flight} at once" + (
            f", {governor.why}" if governor.why else ""
        )
