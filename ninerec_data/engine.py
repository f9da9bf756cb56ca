"""Work that is many like tasks: a thread pool here, a Ray cluster as an extra (DESIGN 4).

Results come in the order of the tasks, whatever finishes first, so nothing that is written from them
depends on the number of jobs. Threads suffice for pictures: decoding, resampling, encoding and hashing
release the interpreter's lock.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ninerec_data.errors import UsageError

__all__ = ["ENGINES", "default_jobs", "in_order"]

ENGINES = ("threads", "ray")
AHEAD = 3  # tasks under way or waiting to be taken, for each job
RETRIES = 5  # of a task whose Ray worker or node died; an error of its own is never tried again

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


def default_jobs() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: Iterable[Task],
    *,
    jobs: int | None = None,
    engine: str = "threads",
) -> Iterator[Result]:
    """Yield function(shared, task) for each task, in order; the first error ends it.

    function: a function of a module, so that a Ray worker finds it. jobs: threads, or tasks in flight on
    the cluster (default: its cores). At most AHEAD tasks for each job are held at once.
    Raises UsageError for an unknown engine and for Ray where it is not installed.
    """
    if engine == "threads":
        jobs = jobs or default_jobs()
        with ThreadPoolExecutor(jobs, thread_name_prefix="ninerec") as pool:
            try:
                yield from _windowed(
                    (lambda task: pool.submit(function, shared, task)),
                    (lambda future: future.result()),
                    tasks,
                    AHEAD * jobs,
                )
            finally:
                pool.shutdown(cancel_futures=True)
    elif engine == "ray":
        yield from _on_ray(function, shared, tasks, jobs)
    else:
        msg = f"unknown engine '{engine}'; expected {' or '.join(ENGINES)}"
        raise UsageError(msg)


def _windowed(
    start: Callable[[Task], Any],
    wait: Callable[[Any], Result],
    tasks: Iterable[Task],
    width: int,
) -> Iterator[Result]:
    """Start tasks while at most `width` are under way; yield what they give, first come first served."""
    under_way: deque[Any] = deque()
    for task in tasks:
        under_way.append(start(task))
        if len(under_way) >= width:
            yield wait(under_way.popleft())
    while under_way:
        yield wait(under_way.popleft())


def _on_ray(
    function: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: Iterable[Task],
    jobs: int | None,
) -> Iterator[Result]:
    """The same on the cluster of $RAY_ADDRESS, else on a local one started for this call."""
    try:
        import ray
    except ImportError as error:
        msg = "--engine ray needs Ray; run: pip install 'ninerec[ray]' (or use --engine threads)"
        raise UsageError(msg) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            msg = (
                f"no Ray cluster could be used ($RAY_ADDRESS is {os.environ.get('RAY_ADDRESS')}): {error}; "
                "start it, unset RAY_ADDRESS, or use --engine threads"
            )
            raise UsageError(msg) from error
    try:
        remote = ray.remote(max_retries=RETRIES)(function)
        common = ray.put(shared)
        jobs = jobs or int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]

        def result(reference: Any) -> Result:
            try:
                return ray.get(reference)  # type: ignore[no-any-return]
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error

        yield from _windowed(lambda t: remote.remote(common, t), result, tasks, AHEAD * jobs)
    finally:
        if ours:
            ray.shutdown()
