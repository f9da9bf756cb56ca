"""Politeness: how fast, and whether, one host is asked (DESIGN 4).

A `Governor` stands before each host. It adapts both its rate and its concurrency: good answers add a little, faults
halve. It pauses where the host asks for it, and stops asking a host that refuses us, until a cool-down is over.
Pauses and refusals are counted on the monotonic clock and kept by wall time, so that they survive a restart.
One event loop, no threads; a turn that is cancelled gives back all it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from downloader.answers import Fault, Outcome

__all__ = [
    "IMAGES",
    "OPEN",
    "PAGES",
    "Clock",
    "Governor",
    "Governors",
    "HostState",
    "Limits",
    "backoff",
    "retry_after",
]

DAY = 86400.0  # seconds; no host holds us longer
LEAST_RATE = 0.05  # requests per second
STEPS = 50  # good answers that add one starting rate
ONE_BURST = 1.0  # seconds in which many faults count as one
THROTTLED = 8.0  # seconds: the longest first pause where the host names none
_SAID = re.compile(r";\s*(\w+)\s*=\s*(\w+)")
T = TypeVar("T")


class Clock:
    """The time, and waiting for it: tests give another."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds, 0 to a day, after which a response's host may be asked again; None where it does not say.

    headers: lower-case names. now: seconds since 1970, UTC. `Retry-After` counts first, in seconds or as a date, which
    is read against the response's own `Date` (its clock may be wrong) and gives 0 when past. Then `RateLimit-Reset`
    and `RateLimit: ...;t=`, where nothing remains. What cannot be read, a negative number included, says nothing.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        found = [float(value)]
    elif (until := _date(value)) is not None:
        found = [until - (_date(headers.get("date", "")) or now)]
    else:
        get = headers.get
        windows = [dict(_SAID.findall(window)) for window in get("ratelimit", "").split(",")]
        windows += [{"r": get("ratelimit-remaining", ""), "t": get("ratelimit-reset", "")}]
        ends = [window.get("t", "") for window in windows if window.get("r") == "0"]
        found = [float(end) for end in ends if end.isdecimal()]
    return min(max(0.0, *found), DAY) if found else None


def _date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def backoff(key: str, attempt: int, base: float = 1.0, cap: float = 60.0) -> float:
    """Seconds to wait before trying again: anything from 0 to base * 2 ** attempt, or to cap.

    attempt: 0 after the first failure. The draw follows from key and attempt, so that runs can be repeated.
    """
    draw = int.from_bytes(
        hashlib.sha256(f"{key}\0{attempt}".encode(errors="replace")).digest()[:6]
    ) / (1 << 48)
    return draw * min(cap, base * 2.0 ** min(attempt, 100))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one host may be asked. concurrency, most: requests at once, at the start and ever.

    rate, most_rate: requests per second, likewise; None sets no limit. longest_pause: seconds of a pause that are
    waited out. cool_down, longest_cool_down: seconds that a refusal keeps us away, doubled each time in a row.
    """

    concurrency: int
    most: int
    rate: float | None
    most_rate: float | None
    longest_pause: float = 3600.0
    cool_down: float = 900.0
    longest_cool_down: float = DAY


PAGES = Limits(1, 2, 0.5, 2.0)
IMAGES = Limits(4, 16, None, None)
OPEN = Limits(64, 64, None, None)  # a mirror is the user's own host


@dataclass(frozen=True, slots=True)
class HostState:
    """What is kept of a host. paused_until, open_until: seconds since 1970, UTC. rate: None where it has no limit.

    opened: times in a row that the host refused us.
    """

    host: str
    rate: float | None = None
    concurrency: int = 1
    paused_until: float = 0.0
    opened: int = 0
    open_until: float = 0.0


class Governor:
    """Who may ask one host, and when. Report each answer within its turn: `good`, `bad`, `throttled` or `block`.

    told: called with what is to be kept whenever the host asks for a pause or refuses us.

    patience: seconds of pauses that this run waits out for this host in all, each counted whole. Set from outside:
    delay, the seconds between requests that robots.txt asks for.
    """

    def __init__(
        self,
        host: str,
        limits: Limits,
        clock: Clock,
        state: HostState | None = None,
        patience: float | None = None,
        told: Callable[[HostState], None] = lambda _: None,
    ) -> None:
        self.host, self.limits, self._clock = host, limits, clock
        self.patience = limits.longest_pause if patience is None else patience
        known = state or HostState(host, limits.rate, limits.concurrency)
        self._most = limits.most_rate or math.inf
        self._least = min(LEAST_RATE, self._most)
        start = min(limits.rate or self._most, self._most)
        self._step = start / STEPS
        wanted = start if start == math.inf else known.rate or start
        self._rate = min(self._most, max(self._least, wanted))
        self._places = float(min(limits.most, max(1, known.concurrency)))
        self.in_flight = 0
        self._gate = asyncio.Lock()  # the first in the queue holds it, and alone waits for time
        self._changed = asyncio.Event()
        self._last = self._last_cut = self._pause_end = -math.inf
        self._pauses, self._strikes, self._usual = 0.0, 0, math.nan
        self._opened, self._reason, self._dead = known.opened, "", ""
        self._before = (0, -math.inf)  # refusals in a row until a good answer, and when it came
        self.delay = 0.0
        self._pause(min(known.paused_until - clock.now(), DAY))
        left = min(known.open_until - clock.now(), limits.longest_cool_down)
        self._open_end = clock.monotonic() + left
        self._told = told

    def state(self) -> HostState:
        """What to keep, so that a later run goes on where this one is."""
        now, ends = self._clock.now(), (self._pause_end, self._open_end)
        paused, opened = (now + self._left(end) if self._left(end) else 0.0 for end in ends)
        known = self.host, self.rate, self.concurrency
        return HostState(*known, paused, self._opened, opened)

    @property
    def rate(self) -> float | None:
        """Requests per second at most; None where there is no limit."""
        rate = min(self._rate, 1 / self.delay) if self.delay else self._rate
        return None if rate == math.inf else rate

    @property
    def concurrency(self) -> int:
        """Requests at once at most."""
        return int(self._places)

    @property
    def why(self) -> str:
        """Why nothing is asked, in a few words; "" where all is well."""
        if self._dead:
            return f"given up: {self._dead}"
        if left := self._left(self._open_end):
            until = datetime.fromtimestamp(self._clock.now() + left, UTC)
            return f"blocked until {until:%H:%M} UTC"
        left = self._left(self._pause_end)
        return f"paused {math.ceil(left)} s" if left else ""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place, the rate and any pause, first come first served; then hold the place.

        After a refusal's cool-down one request goes alone, and the others wait for what comes of it.
        Raises Fault BLOCKED `host_blocked` while the host refuses us, BLOCKED `host_paused` for a pause that is not
        waited out, TRANSIENT with the reason given to `fatal`; also for those that wait already.
        """
        async with self._gate:
            while (wait := self._wait()) > 0:
                await self._for_change(wait)
            self._last = self._clock.monotonic()
            self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._changed.set()

    def good(self, seconds: float) -> None:
        """An answer came that tells of a host in health, a 404 included. seconds: it took; slow ones raise nothing."""
        usual = seconds if math.isnan(self._usual) else 0.9 * self._usual + 0.1 * seconds
        self._usual, self._strikes = usual, 0
        if self._opened and not self._left(self._open_end):
            self._opened, self._before = 0, (self._opened, self._clock.monotonic())
        if seconds <= 2 * usual:
            self._rate = min(self._most, self._rate + self._step)
            self._places = min(float(self.limits.most), self._places + 1 / self._places)
        self._changed.set()

    def bad(self) -> None:
        """A server's error, a timeout, a reset: halve. Those within a second of one that halved count as one."""
        now = self._clock.monotonic()
        if now - self._last_cut >= ONE_BURST:
            self._last_cut = now
            self._rate = max(self._least, self._rate / 2)
            self._places = max(1.0, self._places / 2)

    def throttled(self, pause: float | None) -> None:
        """The host asked us to slow down: halve, and ask nothing for `pause` seconds (None: it named none)."""
        self.bad()
        if pause is None or math.isnan(pause):
            if self._left(self._pause_end):
                return  # of the burst that began the pause
            pause = backoff(self.host, self._strikes, base=THROTTLED)
            self._strikes += 1
        self._pause(min(pause, DAY))
        self._told(self.state())

    def block(self, reason: str) -> None:
        """The host refuses us: ask nothing until a cool-down is over, then slowly. More meanwhile add nothing."""
        if self._left(self._open_end):
            return
        before, closed = self._before
        if self._clock.monotonic() - closed < ONE_BURST:
            self._opened = max(self._opened, before)  # the good answer, once read, was a refusal
        cool_down = self.limits.cool_down * 2.0 ** min(self._opened, 100)
        self._opened, self._reason = self._opened + 1, reason
        self._open_end = self._clock.monotonic() + min(cool_down, self.limits.longest_cool_down)
        self._rate, self._places = max(self._least, self._rate / 2), 1.0
        self._changed.set()
        self._told(self.state())

    def fatal(self, reason: str) -> None:
        """The host cannot be had in this run, such as a name that does not exist."""
        self._dead = reason
        self._changed.set()

    def _left(self, end: float) -> float:
        return max(0.0, end - self._clock.monotonic())

    def _pause(self, seconds: float) -> None:
        if (more := seconds - self._left(self._pause_end)) > 0:
            self._pauses += more
            self._pause_end = self._clock.monotonic() + seconds
            self._changed.set()

    def _wait(self) -> float:
        """Seconds until the first in the queue may go; infinite where only a change can tell. Raises as `turn`."""
        if self._dead:
            raise Fault(Outcome.TRANSIENT, self._dead, self.host, asked=False)
        if self._left(self._open_end):
            said = f"{self.host} {self.why}" + (f": {self._reason}" if self._reason else "")
            raise Fault(Outcome.BLOCKED, "host_blocked", said, blocks=True, asked=False)
        if left := self._left(self._pause_end):
            if left > self.limits.longest_pause or self._pauses > self.patience:
                said = f"{self.host} {self.why}"
                raise Fault(Outcome.BLOCKED, "host_paused", said, pause=left, asked=False)
            return left
        if self.in_flight >= (1 if self._opened else self.concurrency):
            return math.inf
        wait = self._last + max(1 / self._rate, self.delay) - self._clock.monotonic()
        return wait if wait > 1e-6 else 0.0  # less is the clock's own error

    async def _for_change(self, seconds: float) -> None:
        """Until something changed, or for some seconds."""
        self._changed.clear()
        timer = asyncio.create_task(self._ring(seconds))
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    async def _ring(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._changed.set()


@dataclass(slots=True)
class Governors:
    """The governor of each host, made when first asked for.

    limits_for: a host's limits. kept: states of an earlier run, by host. rate, concurrency: what the user fixed, by
    host or by a domain it lies in (the longest counts). patience: as a Governor's.
    """

    limits_for: Callable[[str], Limits]
    clock: Clock = field(default_factory=Clock)
    kept: Mapping[str, HostState] = field(default_factory=dict)
    rate: Mapping[str, float] = field(default_factory=dict)
    concurrency: Mapping[str, int] = field(default_factory=dict)
    patience: float | None = None
    told: Callable[[HostState], None] = lambda _: None
    made: dict[str, Governor] = field(default_factory=dict, init=False)

    def of(self, host: str) -> Governor:
        """The governor of a host, as `addresses.host_of` gives it."""
        if host not in self.made:
            limits = self.limits_for(host)
            if rate := _fixed(self.rate, host):
                limits = replace(limits, rate=rate, most_rate=rate)
            if places := _fixed(self.concurrency, host):
                limits = replace(limits, concurrency=places, most=places)
            kept = self.kept.get(host)
            self.made[host] = Governor(host, limits, self.clock, kept, self.patience, self.told)
        return self.made[host]

    def states(self) -> list[HostState]:
        """What to keep: of hosts asked in this run, and as it was of the others."""
        made = {host: governor.state() for host, governor in self.made.items()}
        return list({**self.kept, **made}.values())


def _fixed(given: Mapping[str, T], host: str) -> T | None:
    names = (host, host.rpartition(":")[0])  # with its port, and without
    keys = [k for k in given if any(f".{name}".endswith(f".{k.lower()}") for name in names)]
    return given[max(keys, key=len)] if keys else None
