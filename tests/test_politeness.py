"""Governors in a time of the test's own: rate, places, pauses, refusals and restarts are exact, and none is real."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downloader.answers import Fault, Outcome
from downloader.politeness import (
    IMAGES,
    LEAST_RATE,
    OPEN,
    PAGES,
    Clock,
    Governor,
    Governors,
    HostState,
    Limits,
    backoff,
    retry_after,
)

NOW = datetime(2026, 3, 2, 13, 50, tzinfo=UTC).timestamp()
FAST = Limits(4, 16, None, None)


class FakeClock(Clock):
    """Time stands still until a test moves it; those asleep wake in order."""

    def __init__(self, now: float = NOW) -> None:
        self.start, self.seconds = now, 0.0
        self.asleep: list[tuple[float, int, asyncio.Future[None]]] = []
        self.count = 0

    def now(self) -> float:
        return self.start + self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.count += 1
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self.asleep, (self.seconds + seconds, self.count, bell))
        await bell

    async def settle(self) -> None:
        """Let all tasks run as far as they get without time."""
        for _ in range(300):
            await asyncio.sleep(0)

    async def to(self, seconds: float) -> None:
        """Move to a moment, waking who sleeps until then."""
        await self.settle()
        while self.asleep and self.asleep[0][0] <= seconds:
            when, _, bell = heapq.heappop(self.asleep)
            if not bell.done():
                self.seconds = max(self.seconds, when)
                bell.set_result(None)
                await self.settle()
        self.seconds = seconds
        await self.settle()


def governor(limits: Limits = FAST, clock: Clock | None = None, **more: Any) -> Governor:
    return Governor("a.example", limits, clock or FakeClock(), **more)


class Asker:
    """Takes a turn, notes when it began, and holds it until told how it ended."""

    def __init__(self, host: Governor, clock: FakeClock) -> None:
        self.host, self.clock = host, clock
        self.began: float | None = None
        self.verdict: asyncio.Future[Callable[[], None] | None] = asyncio.Future()
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        async with self.host.turn():
            self.began = self.clock.monotonic()
            if report := await self.verdict:
                report()

    def end(self, report: Callable[[], None] | None = None) -> None:
        self.verdict.set_result(report)

    @property
    def fault(self) -> Fault | None:
        error = self.task.exception() if self.task.done() and not self.task.cancelled() else None
        assert error is None or isinstance(error, Fault)
        return error


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 10))


async def refused(host: Governor) -> Fault:
    with pytest.raises(Fault) as caught:
        async with host.turn():
            pass
    assert not caught.value.asked
    return caught.value


# Retry-After


def at(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "99999999"}, 86400),
        ({"retry-after": "9" * 5000}, 86400),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": at(90)}, 90),
        ({"retry-after": "Monday, 02-Mar-26 13:51:30 GMT"}, 90),
        ({"retry-after": "Mon Mar  2 13:51:30 2026"}, 90),
        ({"retry-after": at(-90)}, 0),
        ({"retry-after": at(9e6)}, 86400),
        ({"retry-after": at(90), "date": at(60)}, 30),
        ({"retry-after": at(-3570), "date": at(-3600)}, 30),
        ({"retry-after": at(90), "date": "yesterday"}, 90),
        ({"retry-after": "120", "date": at(60)}, 120),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "40"}, 40),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "40"}, None),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "x"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api"; t=55; r=0'}, 55),
        ({"ratelimit": '"api";r=10;t=55'}, None),
        ({"ratelimit": '"api";r=0'}, None),
        ({"ratelimit": '"second";r=3;t=1, "day";r=0;t=700, "hour";r=0;t=60'}, 700),
        ({"retry-after": "7", "ratelimit": '"api";r=0;t=55'}, 7),
        ({"retry-after": "soon", "ratelimit": '"api";r=0;t=55'}, 55),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_dates_are_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        assert retry_after({"retry-after": "Mon Mar  2 13:51:30 2026"}, NOW) == 90
        assert retry_after({"retry-after": at(90), "date": "Mon Mar  2 13:50:30 2026"}, NOW) == 60
    time.tzset()


WORDS = st.sampled_from(
    [
        *"0123456789-:,;=. ",
        "Mon",
        "Mar",
        "GMT",
        "2026",
        "99999",
        "r=0",
        ";t=",
        "+9999",
        "nan",
        "1e9",
        "\x00",
        "٣",
    ]
)
TEXT = st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=14).map("".join))


@settings(max_examples=60, deadline=None)
@given(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT))
def test_retry_after_takes_any_text(values: tuple[str, ...]) -> None:
    names = ("retry-after", "date", "ratelimit", "ratelimit-remaining", "ratelimit-reset")
    found = retry_after(dict(zip(names, values, strict=True)), NOW)
    assert found is None or 0 <= found <= 86400


def test_backoff_doubles_has_a_cap_and_can_be_repeated() -> None:
    for attempt, most in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        draws = [backoff(f"key {n}", attempt) for n in range(200)]
        assert 0 <= min(draws) < most / 20
        assert most * 0.95 < max(draws) < most
        assert len(set(draws)) == 200
    assert backoff("key", 3) == backoff("key", 3)
    assert 0 <= backoff("key \ud800", 10**6, base=5, cap=7) < 7


# Rate and places


def test_rate_is_obeyed_exactly_without_bursts() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(8, 8, 0.5, 0.5), clock)
        askers = [Asker(host, clock) for _ in range(6)]
        await clock.to(7)
        assert [asker.began for asker in askers] == [0, 2, 4, 6, None, None]
        await clock.to(100)
        assert [asker.began for asker in askers] == [0, 2, 4, 6, 8, 10]
        late = [Asker(host, clock) for _ in range(2)]  # idle time saves nothing up
        await clock.to(103)
        assert [asker.began for asker in late] == [100, 102]
        for asker in askers + late:
            asker.end()

    play(scene)


def test_rate_that_changes_counts_from_the_last_request() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(8, 8, 1.0, 1.0), clock)
        first, second = Asker(host, clock), Asker(host, clock)
        await clock.to(0.5)
        host.bad()
        await clock.to(1.9)
        assert second.began is None
        await clock.to(2)
        assert (first.began, second.began) == (0, 2)
        host.delay = 30.0
        third = Asker(host, clock)
        assert host.rate == pytest.approx(1 / 30)
        await clock.to(31.9)
        assert third.began is None
        await clock.to(32)
        assert third.began == 32
        for asker in (first, second, third):
            asker.end()

    play(scene)


def test_places_are_given_first_come_first_served() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(2, 2, None, None), clock)
        askers = [Asker(host, clock) for _ in range(5)]
        await clock.settle()
        for n in range(5):
            assert [asker.began is not None for asker in askers] == [m < n + 2 for m in range(5)]
            assert host.in_flight == min(2, 5 - n)
            askers[n].end()
            await clock.settle()
        assert host.in_flight == 0
        assert clock.seconds == 0

    play(scene)


def test_good_answers_raise_a_place_per_window_and_a_slow_one_none() -> None:
    clock = FakeClock()
    host = governor(Limits(4, 6, 0.5, 2.0), clock)
    for _ in range(5):
        host.good(0.2)
    assert host.concurrency == 5
    assert host.rate == pytest.approx(0.55)
    host.good(5.0)
    assert host.rate == pytest.approx(0.55)
    for _ in range(1000):
        host.good(0.2)
    assert (host.concurrency, host.rate) == (6, 2.0)


def test_one_burst_of_faults_halves_once() -> None:
    clock = FakeClock()
    host = governor(Limits(16, 16, 2.0, 2.0), clock)
    for _ in range(20):
        host.bad()
    assert (host.concurrency, host.rate) == (8, 1.0)
    clock.seconds = 1.0
    host.bad()
    host.throttled(None)
    assert (host.concurrency, host.rate) == (4, 0.5)
    for _ in range(20):
        clock.seconds += 1
        host.bad()
    assert (host.concurrency, host.rate) == (1, LEAST_RATE)


def test_user_may_go_slower_than_the_floor() -> None:
    host = governor(Limits(1, 1, 0.01, 0.01))
    host.bad()
    assert host.rate == 0.01


STEP = st.tuples(
    st.sampled_from(["good", "bad", "throttled", "block", "turn", "restart"]),
    st.one_of(st.none(), st.floats()),
    st.floats(0, 4000),
)
MAYBE = st.one_of(st.none(), st.floats(0.001, 100))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), MAYBE, MAYBE, st.lists(STEP, max_size=30))
def test_whatever_happens_the_limits_hold(
    start: int,
    most: int,
    rate: float | None,
    most_rate: float | None,
    steps: list[tuple[str, float | None, float]],
) -> None:
    async def scene() -> None:
        clock = FakeClock()
        limits = Limits(start, most, rate, most_rate)
        host = governor(limits, clock)
        for step, value, passed in steps:
            before = host.state()
            if step == "good":
                host.good(abs(value or 0.0))
            elif step == "throttled":
                host.throttled(value)
            elif step == "block":
                host.block("412")
            elif step == "bad":
                host.bad()
            elif step == "restart":
                host = governor(limits, clock, state=before)
            after = host.state()
            assert 1 <= after.concurrency <= most
            assert (after.rate is None) == (rate is None and most_rate is None)
            if after.rate is not None:
                top = most_rate or math.inf
                assert min(LEAST_RATE, top) <= after.rate <= top
            if step != "good":
                assert after.concurrency <= before.concurrency
                assert (after.rate or 0) <= (before.rate or 0)
            else:
                assert after.concurrency >= before.concurrency
                assert (after.rate or 0) >= (before.rate or 0)
            assert after.paused_until >= before.paused_until - 1e-6
            assert after.paused_until <= clock.now() + 86400
            assert after.open_until <= clock.now() + limits.longest_cool_down
            clock.seconds += passed

    coroutine = scene()
    with pytest.raises(StopIteration):
        coroutine.send(None)  # nothing in it waits


# Pauses


def test_pause_holds_who_waits_and_is_never_shortened() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(1, 4, None, None), clock)
        first, second = Asker(host, clock), Asker(host, clock)
        await clock.settle()
        first.end(lambda: host.throttled(100.0))
        await clock.to(10)
        assert second.began is None
        assert host.why == "paused 90 s"
        host.throttled(5.0)
        host.throttled(None)
        host.throttled(math.nan)
        host.throttled(-math.inf)
        assert host.why == "paused 90 s"
        await clock.to(99)
        assert second.began is None
        host.throttled(20.0)
        await clock.to(118)
        assert second.began is None
        await clock.to(200)
        assert second.began == 119
        assert host.why == ""
        second.end()

    play(scene)


def test_pause_without_a_length_grows_until_a_good_answer() -> None:
    clock = FakeClock()
    host = governor(clock=clock)
    lengths = []
    for _ in range(6):
        host.throttled(None)
        host.throttled(None)  # of the same burst
        lengths.append(host.state().paused_until - clock.now())
        clock.seconds += 61
    tries = [backoff("a.example", attempt, base=8.0) for attempt in range(6)]
    assert lengths == pytest.approx(tries, abs=1e-5)
    host.good(1.0)
    host.throttled(None)
    assert host.state().paused_until - clock.now() == pytest.approx(tries[0], abs=1e-5)


def test_pause_longer_than_is_waited_out_is_a_fault_also_for_those_waiting() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(1, 1, None, None), clock)
        askers = [Asker(host, clock) for _ in range(50)]
        await clock.settle()
        askers[0].end(lambda: host.throttled(4000.0))
        await clock.settle()
        faults = [asker.fault for asker in askers[1:]]
        assert {(f.outcome, f.reason, f.pause) for f in faults if f} == {
            (Outcome.BLOCKED, "host_paused", 4000.0)
        }
        assert None not in faults
        assert clock.seconds == 0
        await clock.to(401)
        assert (await refused(host)).reason == "host_paused"  # the run's patience is spent

    play(scene)


def test_pause_and_refusal_wake_who_waits_while_others_are_under_way() -> None:
    async def scene() -> None:
        clock = FakeClock()
        for stop, reason in (
            (lambda host: host.throttled(4000.0), "host_paused"),
            (lambda host: host.block("http_412"), "host_blocked"),
        ):
            host = governor(Limits(1, 1, None, None), clock)
            first, second = Asker(host, clock), Asker(host, clock)
            await clock.settle()
            stop(host)
            await clock.settle()
            assert (second.fault and second.fault.reason) == reason
            first.end()

    play(scene)


def test_one_long_pause_is_not_waited_out_however_patient_the_run() -> None:
    async def scene() -> None:
        host = governor(patience=math.inf)
        host.throttled(3601.0)
        assert (await refused(host)).reason == "host_paused"

    play(scene)


def test_patience_is_for_all_pauses_of_a_run() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock, patience=100)
        for start in (0, 50):
            host.throttled(50.0)
            asker = Asker(host, clock)
            await clock.to(start + 50)
            assert asker.began == start + 50
            asker.end()
        await clock.settle()
        host.throttled(1.0)
        fault = await refused(host)
        assert (fault.outcome, fault.reason) == (Outcome.BLOCKED, "host_paused")
        await clock.to(101)
        async with host.turn():  # no pause, no need for patience
            pass

    play(scene)


# The breaker


def test_block_fails_all_who_wait_at_once_and_counts_one_burst_once() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        askers = [Asker(host, clock) for _ in range(60)]
        await clock.settle()
        for asker in askers[:4]:
            asker.end(lambda: host.block("http_412"))
        await clock.settle()
        assert [asker.began for asker in askers] == [0] * 4 + [None] * 56
        for asker in askers[4:]:
            assert asker.fault is not None
            assert (asker.fault.outcome, asker.fault.reason) == (Outcome.BLOCKED, "host_blocked")
            assert asker.fault.blocks
            assert asker.fault.detail == "a.example blocked until 14:05 UTC: http_412"
        assert clock.seconds == 0
        assert host.state() == HostState("a.example", None, 1, 0.0, 1, NOW + 900)
        assert host.why == "blocked until 14:05 UTC"
        host.good(0.1)  # of one that was under way: says nothing of now
        assert (await refused(host)).reason == "host_blocked"
        assert host.state().opened == 1
        for _ in range(5):
            host.good(0.1)
        await clock.to(900)
        probes = [Asker(host, clock) for _ in range(5)]
        await clock.settle()
        assert [probe.began for probe in probes] == [900] + [None] * 4
        for probe in probes:
            probe.end()

    play(scene)


@pytest.mark.parametrize("limits", [FAST, OPEN, PAGES])
def test_after_the_cool_down_one_probes_alone_and_its_answer_frees_the_rest(limits: Limits) -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(limits, clock)
        host.block("http_412")
        await clock.to(900)
        askers = [Asker(host, clock) for _ in range(40)]
        await clock.to(2000)
        assert [asker.began for asker in askers] == [900] + [None] * 39
        askers[0].end(lambda: host.good(0.2))
        await clock.to(2001)
        assert host.state().opened == 0
        assert askers[1].began == 2000
        assert sum(asker.began is not None for asker in askers) <= 3
        for asker in askers[1:]:
            asker.end(lambda: host.good(0.2))
        await clock.to(3000)
        assert all(asker.began for asker in askers)

    play(scene)


def test_probe_waits_for_those_still_under_way() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        old = [Asker(host, clock) for _ in range(2)]
        await clock.settle()
        old[0].end(lambda: host.block("http_412"))
        await clock.to(901)
        probe = Asker(host, clock)
        await clock.settle()
        assert probe.began is None
        old[1].end()
        await clock.settle()
        assert probe.began == 901
        probe.end()

    play(scene)


def test_refusals_in_a_row_double_the_cool_down_to_a_day() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        lengths = []
        for _ in range(10):
            async with host.turn():
                before = clock.seconds
                host.block("http_412")
            lengths.append(round(host.state().open_until - clock.now()))
            await clock.to(before + lengths[-1] - 1)
            assert (await refused(host)).reason == "host_blocked"
            await clock.to(before + lengths[-1])
        assert lengths == [900 * 2**n for n in range(7)] + [86400] * 3
        host.good(0.1)
        await clock.to(clock.seconds + 2)
        host.block("http_412")
        assert round(host.state().open_until - clock.now()) == 900

    play(scene)


def test_good_answer_that_reads_as_a_refusal_counts_in_the_row() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        for length in (900, 1800, 3600):
            async with host.turn():
                host.good(0.1)  # status 200
            host.block("captcha")  # once the page is read
            assert round(host.state().open_until - clock.now()) == length
            await clock.to(clock.seconds + length)

    play(scene)


def test_probe_that_is_refused_fails_the_rest() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        host.block("http_412")
        await clock.to(900)
        askers = [Asker(host, clock) for _ in range(10)]
        await clock.settle()
        askers[0].end(lambda: host.block("captcha"))
        await clock.settle()
        assert [asker.fault and asker.fault.reason for asker in askers[1:]] == ["host_blocked"] * 9
        assert clock.seconds == 900
        assert host.state().open_until == NOW + 900 + 1800

    play(scene)


def test_fatal_fails_who_waits_and_who_comes() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(1, 1, None, None), clock)
        first, second = Asker(host, clock), Asker(host, clock)
        await clock.settle()
        host.fatal("no_such_host")
        await clock.settle()
        assert second.fault is not None
        assert (second.fault.outcome, second.fault.reason) == (Outcome.TRANSIENT, "no_such_host")
        assert (await refused(host)).reason == "no_such_host"
        assert host.why == "given up: no_such_host"
        first.end()

    play(scene)


# Cancellation


def test_cancelled_turns_leak_nothing() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(2, 2, 1.0, 1.0), clock)
        askers = [Asker(host, clock) for _ in range(6)]
        await clock.to(5)
        assert host.in_flight == 2
        askers[2].task.cancel()  # the head of the queue
        askers[4].task.cancel()  # one behind it
        askers[0].task.cancel()  # one with a place
        await clock.settle()
        assert askers[3].began == 5
        assert host.in_flight == 2
        askers[1].end()
        askers[3].end()
        await clock.to(6)
        assert askers[5].began == 6
        askers[5].end()
        await clock.settle()
        assert host.in_flight == 0
        assert not [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_ring"]

    play(scene)


def test_cancelled_in_the_very_moment_of_waking() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(Limits(1, 1, None, None), clock)
        askers = [Asker(host, clock) for _ in range(3)]
        await clock.settle()
        askers[0].end()
        while askers[0].task in asyncio.all_tasks():
            await asyncio.sleep(0)
        askers[1].task.cancel()  # its bell has rung, it has not run yet
        await clock.settle()
        assert askers[1].task.cancelled()
        assert askers[2].began == 0
        assert host.in_flight == 1
        askers[2].end()

    play(scene)


def test_cancelled_probe_leaves_the_probe_to_the_next() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(clock=clock)
        host.block("http_412")
        await clock.to(900)
        askers = [Asker(host, clock) for _ in range(4)]
        await clock.settle()
        askers[1].task.cancel()
        askers[0].task.cancel()
        await clock.settle()
        assert [asker.began for asker in askers] == [None if n in (1, 3) else 900 for n in range(4)]
        assert host.state().opened == 1
        askers[2].end(lambda: host.good(1.0))
        await clock.settle()
        assert askers[3].began == 900
        askers[3].end()

    play(scene)


# Restarts


def test_pauses_and_refusals_survive_a_restart() -> None:
    async def scene() -> None:
        clock = FakeClock()
        host = governor(PAGES, clock)
        host.throttled(300.0)
        state = host.state()
        assert state == HostState("a.example", 0.25, 1, NOW + 300, 0, 0.0)
        later = FakeClock(NOW + 100)  # another process: its monotonic clock began anew
        again = governor(PAGES, later, state=state)
        assert again.why == "paused 200 s"
        asker = Asker(again, later)
        await later.to(300)
        assert asker.began == 200
        asker.end(lambda: again.block("http_412"))
        await later.settle()
        blocked = again.state()
        assert (blocked.opened, blocked.open_until) == (1, NOW + 100 + 300 + 900)

        open_still = governor(PAGES, FakeClock(NOW + 1200), state=blocked)
        assert (await refused(open_still)).detail == "a.example blocked until 14:11 UTC"
        over = governor(PAGES, FakeClock(NOW + 5000), state=blocked)
        async with over.turn():
            over.block("http_412")  # the second in a row
        assert over.state().open_until == NOW + 5000 + 1800

    play(scene)


def test_stale_states_do_not_matter_and_absurd_ones_are_bounded() -> None:
    async def scene() -> None:
        stale = HostState("a.example", None, 4, NOW - 5, 0, NOW - 5)
        host = governor(state=stale, patience=0)
        async with host.turn():
            assert host.why == ""
        assert host.state() == HostState("a.example", None, 4)

        absurd = HostState("a.example", 1e9, 10**6, NOW * 10, 99, NOW * 10)
        host = governor(PAGES, state=absurd)
        assert (host.rate, host.concurrency) == (2.0, 2)
        assert host.state().paused_until == NOW + 86400
        assert host.state().open_until == NOW + 86400
        slow = governor(PAGES, state=HostState("a.example", 1e-9, -3))
        assert (slow.rate, slow.concurrency) == (LEAST_RATE, 1)

    play(scene)


def test_wall_clock_that_jumps_moves_no_pause() -> None:
    clock = FakeClock()
    host = governor(clock=clock)
    host.throttled(60.0)
    clock.start += 86400 * 365
    assert host.why == "paused 60 s"
    assert host.state().paused_until == clock.now() + 60


# All hosts


def test_governors_know_what_the_user_fixed() -> None:
    clock = FakeClock()
    kept = {
        "i0.hdslb.com": HostState("i0.hdslb.com", None, 9),
        "old.example": HostState("old.example", 0.5, 1, 0.0, 2, NOW + 60),
    }
    governors = Governors(
        lambda host: IMAGES if host.endswith("hdslb.com") else PAGES,
        clock,
        kept=kept,
        rate={"Example.org": 7.0, "slow.example.org": 0.25},
        concurrency={"hdslb.com": 3, "port.example:8080": 5},
    )
    assert governors.of("i0.hdslb.com").concurrency == 3
    assert governors.of("i0.hdslb.com").rate is None
    assert governors.of("nothdslb.com").concurrency == IMAGES.concurrency
    assert governors.of("www.example.org").rate == 7.0
    assert governors.of("example.org:8443").rate == 7.0
    assert governors.of("a.slow.example.org").rate == 0.25
    assert governors.of("notexample.org").rate == PAGES.rate
    assert governors.of("port.example:8080").concurrency == 5
    assert governors.of("port.example").concurrency == 1
    assert governors.of("example.org").limits.most_rate == 7.0
    assert governors.of("example.org") is governors.of("example.org")
    states = {state.host: state for state in governors.states()}
    assert states["old.example"] == kept["old.example"]
    assert states["i0.hdslb.com"].concurrency == 3
    assert set(states) == set(governors.made) | {"old.example"}


def test_real_clock_tells_time() -> None:
    async def scene() -> None:
        clock = Clock()
        begun = clock.monotonic()
        await clock.sleep(0.002)
        assert clock.monotonic() > begun
        assert clock.now() > NOW - 86400 * 365 * 2
        host = Governor("a.example", Limits(1, 1, 500.0, 500.0), clock)
        for _ in range(3):
            async with host.turn():
                host.good(0.0)
        assert clock.monotonic() - begun >= 0.004

    play(scene)
