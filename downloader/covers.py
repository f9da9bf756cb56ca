"""The covers of items: every address that waits is asked for once, until each has an outcome.

Addresses wait in lanes, one for each host that is asked first; its governor says how many may be asked at once
(politeness.py). What fails on the way waits its turn again; where a host is down or blocked, what is left of its
lane is not asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from downloader.addresses import host_of, redacted
from downloader.answers import Ask, Cover, Fault, Outcome, Resolver, Response
from downloader.arrived import Arrivals
from downloader.client import Client
from downloader.placeholders import is_placeholder
from downloader.politeness import Governor, backoff
from downloader.resolvers import find, read
from downloader.resolvers.pages import leads_to_login
from ninerec_data.engine import default_jobs
from ninerec_data.item_journal import ItemJournal
from ninerec_data.item_rows import Answer, Stored

__all__ = ["Covers", "Lane"]

AT_ONCE = 64  # addresses in all the lanes: what arrives is held in memory until it is decoded
LANES = AT_ONCE // 4  # worked through at once
ATTEMPTS = 4
THROTTLED = 10  # attempts, where a host asks us to slow down
PAGES = 3  # asked for one address at most
DOWN_AFTER = (20, 30.0)  # faults of the way in a row, and seconds without another answer
DOUBTED_AT_MOST = 5  # answers in a row that a host in trouble gives too
# What arrived may have been hurt on its way: asked for once more, then believed.
SECOND_LOOK = {"empty", "truncated", "damaged", "not_a_picture"}
# What a host in trouble, or a portal before it, says too: believed once it gave a picture after saying so.
DOUBTFUL = {"forbidden", "empty_answer", "null_photo", "html", "json"}
WITHOUT_TLS = frozenset(
    ["tls", "certificate", "refused", "connect_timeout", "downgrade", "robots_unreachable"]
)


@dataclass(slots=True)
class Task:
    """One address that waits. attempt: times it was asked; doubted_at: when its answer was first doubted."""

    url: str
    attempt: int = 0
    doubted_at: float | None = None


@dataclass(slots=True)
class Lane:
    """The addresses whose first request goes to one host."""

    host: str
    heard_at: float  # when it last answered at all
    queue: asyncio.Queue[Task | None] = field(default_factory=asyncio.Queue)
    open: int = 0  # tasks without an outcome
    ended: Counter[Outcome] = field(default_factory=Counter)
    workers: int = 1
    in_a_row: int = 0  # faults of the way
    doubts: int = 0  # doubtful answers in a row
    left: int = 0  # addresses in a row whose picture's host is not asked
    well_at: float = float("-inf")  # when that was asked for which last gave a picture
    closed: Fault | None = None  # why the rest is not asked


class Covers:
    """Asks for addresses and writes what came of each into the journal. One event loop."""

    def __init__(
        self,
        items: ItemJournal,
        client: Client,
        arrivals: Arrivals,
        *,
        variant: str = "",
        expected: Mapping[str, str] | None = None,
        told: Callable[[Lane, Outcome, int], None] = lambda *_: None,
        jobs: int | None = None,
        base: float = 1.0,
    ) -> None:
        """variant: "" or "small"; expected: address -> sha256.

        told: called with each outcome and the number of addresses that have it. base: seconds of the first wait
        before an address is asked again.
        """
        self.items, self.client, self.arrivals = items, client, arrivals
        self.variant, self.expected = variant, expected or {}
        self.lanes: dict[str, Lane] = {}
        self._told, self._base = told, base
        self._jobs = jobs or default_jobs()
        self._clock = client.clock
        self._without_tls: set[str] = set()
        self._places = asyncio.Semaphore(LANES)

    async def run(self, urls: Iterable[str]) -> None:
        """Ask for every address; returns when each has an outcome."""
        for url in urls:
            self._enter(url)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="decode") as self._decoders:
            try:
                async with asyncio.TaskGroup() as group:
                    for lane in self.lanes.values():
                        group.create_task(self._lane(lane))
            except BaseExceptionGroup as several:
                raise _first(several) from None
            finally:
                self._decoders.shutdown(wait=True, cancel_futures=True)

    def _enter(self, url: str) -> None:
        try:
            _, start = find(url)
        except Fault as fault:
            self.items.answered(url, self.variant, _answer(fault, host_of(url)))
            self._told(Lane(host_of(url), self._clock.monotonic()), fault.outcome, 1)
            return
        host = host_of(start.url if isinstance(start, Ask) else start.urls[0])
        lane = self.lanes.setdefault(host, Lane(host, self._clock.monotonic()))
        lane.queue.put_nowait(Task(url))
        lane.open += 1

    async def _lane(self, lane: Lane) -> None:
        """Work through a lane: first the control item, where the host was blocked before."""
        governor = self._governor(lane)
        share = AT_ONCE // min(len(self.lanes), LANES)
        lane.workers = min(governor.limits.most, lane.open, share)
        async with self._places:
            if governor.state().opened:
                await self._is_well(lane)
            async with asyncio.TaskGroup() as group:
                for _ in range(lane.workers):
                    group.create_task(self._work(lane))

    async def _work(self, lane: Lane) -> None:
        while (task := await lane.queue.get()) is not None:
            if lane.closed is None:
                await self._settle(lane, task)
            else:
                self._skip(lane, task)

    def _governor(self, lane: Lane) -> Governor:
        return self.client.governors.of(lane.host)

    async def _settle(self, lane: Lane, task: Task) -> None:
        """Ask for one address, then write its outcome or let it wait again."""
        stored: Stored | None = None
        task.attempt += 1
        asked_at = self._clock.monotonic()
        try:
            answer, stored = await self._fetch(task.url)
            answer = replace(answer, lane=lane.host)
            lane.heard_at = self._clock.monotonic()
            lane.well_at = max(lane.well_at, asked_at)
            lane.in_a_row = lane.doubts = lane.left = 0
        except Fault as fault:
            if not fault.asked:
                self._leave(lane, task, fault)
                return
            if self._again(lane, task, fault):
                return
            answer = _answer(await self._judged(lane, task, fault), lane.host)
        self.items.answered(task.url, self.variant, answer, stored)
        self._done(lane, answer.outcome)

    def _again(self, lane: Lane, task: Task, fault: Fault) -> bool:
        """Whether the address waits for another try; it is put back then."""
        now = self._clock.monotonic()
        way = fault.outcome is Outcome.TRANSIENT
        if way:
            lane.in_a_row += 1
        else:
            lane.in_a_row = 0
            if fault.status != 429:
                lane.heard_at = now
        if lane.in_a_row >= DOWN_AFTER[0] and now - lane.heard_at >= DOWN_AFTER[1] * self._base:
            said = f"{lane.host}: {fault.reason}, {lane.in_a_row} times in a row"
            lane.closed = Fault(Outcome.TRANSIENT, "host_down", said)
            return False
        if fault.status == 429 and now - lane.heard_at >= self._governor(lane).limits.longest_pause:
            said = f"{lane.host} has asked us to slow down, and nothing else, for an hour"
            lane.closed = Fault(Outcome.BLOCKED, "http_429", said, status=429)
            return False
        hurt = fault.outcome is Outcome.REJECTED and fault.reason in SECOND_LOOK
        if _doubtful(fault) and task.doubted_at is None:
            task.doubted_at = now
            lane.queue.put_nowait(task)  # behind all that wait: by then the host has shown itself
            return True
        most = THROTTLED if fault.status == 429 else ATTEMPTS if way else 2 if hurt else 0
        if task.attempt < most:
            delay = 0.0 if fault.status == 429 else backoff(task.url, task.attempt, self._base)
            asyncio.get_running_loop().call_later(delay, lane.queue.put_nowait, task)
            return True
        return False

    async def _judged(self, lane: Lane, task: Task, fault: Fault) -> Fault:
        """What a fault means once it is known how its host is."""
        if not _doubtful(fault) or task.doubted_at is None:
            return fault
        if lane.well_at > task.doubted_at or await self._is_well(lane):
            lane.doubts = 0
            if fault.reason == "forbidden":
                return Fault(Outcome.REJECTED, "forbidden", fault.detail, status=fault.status)
            return fault
        lane.doubts += 1
        if lane.doubts >= DOUBTED_AT_MOST:
            self._governor(lane).block(fault.reason)
        said = f"{fault.detail}; no answer of {lane.host} shows that it talks to us"
        return Fault(Outcome.BLOCKED, fault.reason, said.strip("; "), status=fault.status)

    async def _is_well(self, lane: Lane) -> bool:
        """Whether the host gives a picture again that it gave before: its control item."""
        asked_at, control = self._clock.monotonic(), self.items.alive(lane.host)
        if control is None:
            return False
        try:
            await self._fetch(control)
        except Fault:
            return False
        lane.well_at = max(lane.well_at, asked_at)
        return True

    def _leave(self, lane: Lane, task: Task, fault: Fault) -> None:
        """Its host is not asked: neither is the rest of the lane, unless it is the host of this picture alone."""
        lane.left += 1
        if fault.host == lane.host or lane.left >= DOWN_AFTER[0]:
            lane.closed = fault
            self._skip(lane, task)
        else:
            why = (fault.outcome, fault.reason, fault.detail)
            self.items.not_asked([task.url], self.variant, *why)
            self._done(lane, fault.outcome)

    def _skip(self, lane: Lane, task: Task) -> None:
        """Leave it, and all that waits: the host is down, blocked, or paused for longer than this run waits."""
        why = lane.closed
        if why is None:
            return
        left = [task.url]
        while not lane.queue.empty():
            if (other := lane.queue.get_nowait()) is not None:
                left.append(other.url)
        self.items.not_asked(left, self.variant, why.outcome, why.reason, why.detail)
        self._done(lane, why.outcome, len(left))

    def _done(self, lane: Lane, outcome: Outcome, n: int = 1) -> None:
        self._told(lane, outcome, n)
        lane.ended[outcome] += n
        lane.open -= n
        if lane.open == 0:
            for _ in range(lane.workers):
                lane.queue.put_nowait(None)

    async def _fetch(self, url: str) -> tuple[Answer, Stored]:
        """From an address to its stored picture. Raises Fault."""
        resolver, start = find(url)
        found = await self._resolved(resolver, start, url)
        try:
            response = await self._picture(resolver, found)
        except Fault as fault:
            fault.title = found.title  # the page is good for that much
            if fault.status != 403 or isinstance(start, Cover):
                raise
            found = await self._resolved(resolver, start, url)  # its signature may have run out
            response = await self._picture(resolver, found)
        if response.hops and leads_to_login(response.url):
            said = f"led to {redacted(response.url)}"
            raise Fault(Outcome.BLOCKED, "login", said, status=response.status)
        if is_placeholder(response.url):
            raise Fault(Outcome.GONE, "placeholder", redacted(response.url), status=200)
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(
                self._decoders, self.arrivals.take, response.body, self.expected.get(url)
            )
        except Fault as fault:
            if fault.blocks:
                self.client.governors.of(host_of(response.url)).block(fault.reason)
            raise
        answer = Answer(
            outcome=Outcome.OK,
            host=host_of(response.url),
            status=response.status,
            final_url=redacted(response.url),
            hops=len(response.hops),
            sha256=stored.sha256,
            title=found.title,
            etag=response.headers.get("etag"),
            modified=response.headers.get("last-modified"),
        )
        return answer, stored

    async def _resolved(self, resolver: Resolver, start: Ask | Cover, url: str) -> Cover:
        """Ask the platform's pages until one names the picture."""
        step: Ask | Cover | Fault = start
        asked = url
        for _ in range(PAGES):
            if not isinstance(step, Ask):
                break
            asked = step.url
            step = read(resolver, url, await self.client.get(step.url, step.headers))
        if isinstance(step, Fault):
            if step.blocks:
                self.client.governors.of(host_of(asked)).block(step.reason)
            raise step
        if isinstance(step, Ask):
            raise Fault(Outcome.TRANSIENT, "unreadable_page", f"{PAGES} pages name no picture")
        return step

    async def _picture(self, resolver: Resolver, found: Cover) -> Response:
        """The first of a cover's addresses that answers; where https failed, only http is asked from then on."""
        urls = [
            u for u in found.urls if not (u[:6] == "https:" and host_of(u) in self._without_tls)
        ] or found.urls[-1:]
        for url in urls[:-1]:
            try:
                return await self.client.get(
                    self._variant(resolver, url), found.headers, picture=True
                )
            except Fault as fault:
                if fault.reason not in WITHOUT_TLS:
                    raise
                self._without_tls.add(host_of(url))
        return await self.client.get(self._variant(resolver, urls[-1]), found.headers, picture=True)

    def _variant(self, resolver: Resolver, url: str) -> str:
        size = self.arrivals.recipe.size
        return (resolver.small(url, size) if self.variant == "small" else None) or url


def _doubtful(fault: Fault) -> bool:
    """Whether a host that refuses everybody says this too; walls have statuses of their own, such as 202 and 405."""
    odd = fault.outcome is Outcome.REJECTED and fault.reason == f"http_{fault.status}"
    return odd or fault.reason in DOUBTFUL


def _answer(fault: Fault, lane: str) -> Answer:
    return Answer(
        outcome=fault.outcome,
        reason=fault.reason,
        detail=fault.detail[:500],
        lane=lane,
        host=lane,
        status=fault.status,
        title=fault.title,
    )


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the others."""
    error = several.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
