"""Split and Protocol: the frozen, named, hashed answer to "how was this number made" (DESIGN 5).

Where paper, released code and good sense part, the choice is a named field here and nowhere else:

    field                 ninerec-2023 (as released)              strict
    pool                  items of the kept windows: train,       every item with an interaction
                          validation and test rows alike          in the release
    mask                  the window before the target            the whole history before the target
    target_in_history     misses (it is masked too)               stays a candidate
    ties                  mean rank (upstream: arbitrary)         expected metric over random order
    order of equal times  file order (upstream: arbitrary)        file order

Sources: PAPERS_AND_CODE 2.1 (order of steps), 4 (masking, ties), 6.7 (switches).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from ninerec_data.errors import UsageError, refuse_unknown
from ninerec_data.files import hash_of

__all__ = ["PROTOCOLS", "Protocol", "Split", "get_protocol", "split_from"]


def _at_least(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        msg = f"{name} is {value!r}; expected a whole number of at least {low}"
        raise UsageError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which interactions of a prepared dataset train, validate and test. Its hash names the folder.

    order: stable by timestamp (nulls first), file order breaking ties.
    min_interactions: users with fewer in the whole history are left out (PAPERS_AND_CODE 2.1 step 2).
    keep_last: total interactions kept per user, newest first: model positions + 3.
    users, seed: draw this many of the remaining users; None takes all.
    warm: drop items with fewer interactions, then users below `warm_users`, until neither changes
        (NineRec Table 15); None drops nothing.
    cold_below: an item with 1 .. cold_below-1 train occurrences is cold, with none new.
    covers: "drop" leaves out the interactions with items that have no cover, before anything else.
    pool: the candidates: items of the kept windows, or every item of the release with an interaction.
    """

    order: Literal["time-then-file"] = "time-then-file"
    min_interactions: int = 5
    keep_last: int = 23
    users: int | None = None
    seed: int = 0
    warm: int | None = None
    warm_users: int = 10
    covers: Literal["keep", "drop"] = "keep"
    cold_below: int = 10
    pool: Literal["windows", "release"] = "windows"

    def __post_init__(self) -> None:
        _at_least("min_interactions", self.min_interactions, 3)
        _at_least("keep_last", self.keep_last, 4)
        if self.users is not None:
            _at_least("users", self.users, 1)
        if self.warm is not None:
            _at_least("warm", self.warm, 1)
        _at_least("seed", self.seed, 0)
        _at_least("warm_users", self.warm_users, 1)
        _at_least("cold_below", self.cold_below, 1)
        if self.order != "time-then-file":
            msg = f"split order is '{self.order}'; expected 'time-then-file'"
            raise UsageError(msg)
        if self.covers not in ("keep", "drop"):
            msg = f"split covers is '{self.covers}'; expected 'keep' or 'drop'"
            raise UsageError(msg)
        if self.pool not in ("windows", "release"):
            msg = f"split pool is '{self.pool}'; expected 'windows' or 'release'"
            raise UsageError(msg)

    def as_json(self) -> dict[str, Any]:
        """The fields that matter: a seed without a draw, a user floor without warm items, kept covers do not."""
        values = asdict(self)
        if self.users is None:
            del values["seed"]
        if self.warm is None:
            del values["warm_users"]
        if self.covers == "keep":
            del values["covers"]
        return values

    @property
    def hash(self) -> str:
        return hash_of(self.as_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a model is judged on a split.

    mask: which past items cannot be recommended: those of the window, or of the whole history.
    target_in_history: a target the user met before "misses" (it is masked too) or "stays" a candidate.
    ties: rank of a target with equal scores: "mean" rank, or the "expected" metric over random order.
    selection: the validation metric that picks the checkpoint.
    """

    name: str
    split: Split = field(default_factory=Split)
    mask: Literal["window", "history"] = "window"
    target_in_history: Literal["misses", "stays"] = "misses"
    ties: Literal["mean", "expected"] = "mean"
    metrics: tuple[str, ...] = ("hr", "ndcg")
    cutoffs: tuple[int, ...] = (10,)
    selection: str = "hr@10"

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["split"] = self.split.as_json()
        values["metrics"], values["cutoffs"] = list(self.metrics), list(self.cutoffs)
        return values

    @property
    def hash(self) -> str:
        return hash_of(self.as_json())


PROTOCOLS: Mapping[str, Protocol] = {
    "ninerec-2023": Protocol(name="ninerec-2023"),
    "strict": Protocol(
        name="strict",
        split=Split(pool="release"),
        mask="history",
        target_in_history="stays",
        ties="expected",
    ),
}


def get_protocol(name: str, **split: Any) -> Protocol:
    """Return a named protocol with some split fields replaced, e.g. `get_protocol("strict", keep_last=13)`."""
    refuse_unknown("protocol", name, PROTOCOLS)
    found = PROTOCOLS[name]
    return replace(found, split=split_from(split, found.split))


def split_from(values: Mapping[str, Any], base: Split | None = None) -> Split:
    """Replace fields of a Split by name; an unknown name is refused with the nearest one."""
    known = [f.name for f in fields(Split)]
    for key in values:
        refuse_unknown("split field", key, known)
    return replace(base or Split(), **values)
