"""What asking a server can give: a response, what a resolver makes of it, or a fault that has a name.

A `Fault` is raised or returned, and becomes the outcome of whatever was asked for (docs/download.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ninerec_data.outcomes import Outcome

__all__ = ["Ask", "Cover", "Fault", "Outcome", "Resolver", "Response", "refused"]


class Fault(Exception):
    """Why something was not had.

    reason: a stable word, such as http_404, connect_timeout, too_large. detail: what was seen, for people; never
    a secret. pause: seconds that the host asked us to wait, or None. blocks: the whole host will not talk to us.
    status: of the response that said so, if any. asked: False where the host was not asked at all, nor will be soon.
    host: the one that was or was not asked, once that is known. title: of the page that named a picture not had.
    """

    def __init__(
        self,
        outcome: Outcome,
        reason: str,
        detail: str = "",
        *,
        pause: float | None = None,
        blocks: bool = False,
        status: int | None = None,
        asked: bool = True,
    ) -> None:
        super().__init__(f"{outcome.value} {reason}" + (f": {detail}" if detail else ""))
        self.outcome, self.reason, self.detail = outcome, reason, detail
        self.pause, self.blocks, self.status, self.asked = pause, blocks, status, asked
        self.host = ""
        self.title: str | None = None


_BY_STATUS = {
    **dict.fromkeys((401, 407), Outcome.CONFIG),
    **dict.fromkeys((403, 412, 429), Outcome.BLOCKED),
    **dict.fromkeys((404, 410, 451), Outcome.GONE),
    **dict.fromkeys((408, 425), Outcome.TRANSIENT),
}
_REASONS = {403: "forbidden", 451: "legal"}


def refused(status: int, detail: str = "", *, pause: float | None = None) -> Fault:
    """What a status says that does not bring what was asked for; a redirect is none."""
    outcome = _BY_STATUS.get(status, Outcome.TRANSIENT if status >= 500 else Outcome.REJECTED)
    reason = _REASONS.get(status, f"http_{status}")
    return Fault(outcome, reason, detail, pause=pause, blocks=status == 412, status=status)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. url: the one that gave it, after redirects, as on the origin (not the mirror's).

    headers: lower-case names. body: decoded of its Content-Encoding. hops: the addresses before `url`.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    hops: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The media type alone, lower case; "" where none is given."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for this page next. headers: such as Referer; never cookies or signatures."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cover:
    """Where the picture is. urls: of the same picture, first tried first; signed ones are used at once, never kept.

    title: as the page gives it, html entities resolved once. headers: to send with the request for the picture.
    """

    urls: tuple[str, ...]
    title: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Resolver(Protocol):
    """One platform: a module (or object) with these names; pure, it never asks by itself.

    A third party adds one under the entry point group `ninerec.resolvers`.
    """

    name: str

    def start(self, url: str) -> Ask | Cover | None:
        """What to ask first for an address of the mapping; None where it is not this platform's."""

    def read(self, url: str, response: Response) -> Cover | Ask | Fault:
        """What a page says. url: the mapping's. The status may be any; `Ask` asks another page (at most two)."""

    def small(self, url: str, size: int) -> str | None:
        """The address of a smaller variant of a cover (shorter side `size` or more); None where there is none."""
