"""The engine: results in the order of the tasks, errors passed on, on threads and on a Ray cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ninerec_data.engine import AHEAD, in_order
from ninerec_data.errors import CheckFailed, UsageError


def scaled(factor: int, number: int) -> int:
    time.sleep(0.003 * (number % 3))  # later tasks may end first
    return factor * number


def refused(_: None, number: int) -> int:
    if number == 5:
        msg = "five is refused"
        raise CheckFailed(msg)
    return number


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_results_come_in_the_order_of_the_tasks(jobs: int) -> None:
    assert list(in_order(scaled, 10, range(50), jobs=jobs)) == [10 * n for n in range(50)]


def test_few_tasks_are_taken_ahead() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(scaled, 1, tasks(), jobs=2)
    next(results)
    assert len(taken) <= 2 * AHEAD + 1
    results.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("ninerec")]


def test_the_first_error_ends_it() -> None:
    seen = []
    with pytest.raises(CheckFailed, match="five is refused"):
        seen.extend(in_order(refused, None, range(100), jobs=3))
    assert not [t for t in threading.enumerate() if t.name.startswith("ninerec")]


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(UsageError, match="unknown engine 'rya'; expected threads or ray"):
        list(in_order(scaled, 1, [1], engine="rya"))
