"""What a download is asked for, what it says while it runs, and what it reports at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from downloader.addresses import Guard, Mirror
from downloader.answers import Outcome
from downloader.client import Deadlines, proxy_of
from downloader.politeness import IMAGES, OPEN, PAGES, Clock, Limits
from ninerec_data.outcomes import AGAIN, HELD
from ninerec_data.pictures import Recipe

if TYPE_CHECKING:
    from downloader.covers import Covers, Lane

__all__ = ["Form", "Options", "Report", "Tell", "limits_of"]

PAGE_SITES = ("bilibili.com", "kuaishou.com", "douyin.com", "iesdouyin.com")


@dataclass(frozen=True, slots=True)
class Form:
    """In which form covers are kept. keep: original | resized | both; variant: "" or "small"."""

    keep: str
    recipe: Recipe
    variant: str

    @property
    def wanted(self) -> dict[str, Any]:
        """What the journal is asked by: are originals wanted, or which recipe."""
        originals = self.keep != "resized"
        return {"originals": originals, "recipe": None if originals else self.recipe.hash}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to download; each field is an option of `ninerec download` (docs/download.md).

    Where keep, recipe or cover_size is None, it is as it was the last time.
    """

    parts: tuple[str, ...] = ("interactions", "titles", "covers")
    mirror: str = ""
    backup: tuple[str, ...] = ()
    backup_first: bool = False
    keep: str | None = None
    recipe: Recipe | None = None
    cover_size: str | None = None
    retry: tuple[Outcome, ...] = AGAIN
    rate: Mapping[str, float] = field(default_factory=dict)
    concurrency: Mapping[str, int] = field(default_factory=dict)
    allow_host: tuple[str, ...] = ()
    offline: bool = False
    mapping: Path | None = None
    expected: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )  # dataset -> item id -> sha256
    placeholders: tuple[str, ...] = ()
    user_agent: str = "ninerec"
    jobs: int | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    base: float = 1.0  # seconds of the first wait before an address is asked again
    clock: Clock = field(default_factory=Clock)

    @property
    def guard(self) -> Guard:
        """Where requests may go; the proxies of the environment are meant by the user."""
        named = (proxy_of(url) for kind, url in getproxies().items() if kind != "no")
        proxies = {f"{proxy.raw_host}:{proxy.port}" for proxy in named if proxy}
        return Guard(Mirror(self.mirror), (*self.allow_host, *proxies))


@dataclass(slots=True)
class Report:
    """What came of it. counts: dataset -> part -> outcome -> files or items; said: what people must know or do."""

    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    reasons: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    failed: bool = False  # a dataset was left out

    @property
    def exit_code(self) -> int:
        """0 all settled; 4 something left TRANSIENT or BLOCKED; 3 a file must be dropped in by hand."""
        every, files = set(), set()
        for parts in self.counts.values():
            every |= {outcome for counts in parts.values() for outcome in counts}
            files |= {o for part, counts in parts.items() if part != "covers" for o in counts}
        if every & set(AGAIN):
            return 4
        if Outcome.UNMAPPED in files:
            return 3
        return 1 if self.failed or files - set(HELD) else 0


class Tell:
    """What is told while it runs; the command line draws it."""

    def say(self, text: str) -> None: ...
    def file(self, name: str, held: int, total: int | None) -> None: ...
    def begin(self, covers: Covers, addresses: int) -> None: ...
    def settled(self, lane: Lane, outcome: Outcome, n: int) -> None: ...
    def end(self) -> None: ...


def limits_of(options: Options) -> Callable[[str], Limits]:
    """How a host may be asked: page sites slowly, others a little faster; a mirror is the user's own host."""

    def limits(host: str) -> Limits:
        if options.mirror:
            return OPEN
        name = host.partition(":")[0]
        return PAGES if any(f".{name}".endswith(f".{site}") for site in PAGE_SITES) else IMAGES

    return limits
