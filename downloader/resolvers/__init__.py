"""Resolvers: from an address of a mapping to its picture and title, one file per platform.

Installed packages add their own under the entry point group `ninerec.resolvers`; those are tried first.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata

from downloader.addresses import host_of, redacted
from downloader.answers import Ask, Cover, Fault, Outcome, Resolver, Response
from downloader.resolvers import bilibili, douyin, image, kuaishou, qpic
from ninerec_data.errors import UsageError

__all__ = ["GROUP", "find", "names"]

GROUP = "ninerec.resolvers"
PARTS = ("name", "start", "read", "small")
OWN: tuple[Resolver, ...] = (bilibili, kuaishou, douyin, qpic, image)


def find(url: str) -> tuple[Resolver, Ask | Cover]:
    """The resolver that takes an address, and what it asks first.

    Raises Fault CONFIG `unknown_platform` where none does, `resolver` where one fails; UsageError for an installed
    resolver that cannot be used.
    """
    for resolver in (*_installed(), *OWN):
        try:
            first = resolver.start(url)
            if first:
                host_of(first.url if isinstance(first, Ask) else first.urls[0])
                return resolver, first
        except Exception as error:
            raise Fault(Outcome.CONFIG, "resolver", _failed(resolver, error)) from error
    known = f"{redacted(url)} is neither a picture nor of {', '.join(names())}"
    raise Fault(Outcome.CONFIG, "unknown_platform", known)


def read(resolver: Resolver, url: str, response: Response) -> Cover | Ask | Fault:
    """What a resolver makes of a page; TRANSIENT `resolver` where it fails, as one does whose site has changed."""
    try:
        step = resolver.read(url, response)
        if isinstance(step, Fault | Ask) or step.urls[0]:
            return step
    except Exception as error:
        return Fault(Outcome.TRANSIENT, "resolver", _failed(resolver, error))
    return Fault(Outcome.TRANSIENT, "resolver", f"{resolver.name} gave a cover without an address")


def _failed(resolver: Resolver, error: Exception) -> str:
    return f"{resolver.name}: {type(error).__name__}: {error}"


def names() -> tuple[str, ...]:
    """The names of all resolvers, in the order they are tried. Raises UsageError as `find`."""
    return tuple(resolver.name for resolver in (*_installed(), *OWN))


@cache
def _installed() -> tuple[Resolver, ...]:
    """What other packages bring, by the names of their entry points; loaded once."""
    points = sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(_loaded(point) for point in points)


def _loaded(point: metadata.EntryPoint) -> Resolver:
    package = point.dist.name if point.dist else point.module
    wrong = f"The resolver {point.name!r} of the package {package!r} cannot be used"
    mend = f"Update it, or take it off: pip uninstall {package}"
    try:
        resolver: Resolver = point.load()
    except Exception as error:
        msg = f"{wrong}: {point.value} gave {type(error).__name__}: {error}. {mend}"
        raise UsageError(msg) from error
    lacking = [part for part in PARTS if not hasattr(resolver, part)]
    if lacking:
        msg = f"{wrong}: {point.value} has no {', no '.join(lacking)}. {mend}"
        raise UsageError(msg)
    return resolver
