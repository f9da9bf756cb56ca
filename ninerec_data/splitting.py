"""Stage split: row pointers into the interactions, train counts, groups, pool and a leak report (DESIGN 5).

Everything is a vector operation over flat int arrays; a user is a slice [start, end).
Train rows of a user are [start, end - 2), the validation target is row end - 2, the test target end - 1
(leave-one-out, PAPERS_AND_CODE 2.1 step 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ninerec_data import draws
from ninerec_data.errors import CheckFailed
from ninerec_data.protocol import Split
from ninerec_data.slices import rows_of
from ninerec_data.tables import write_parquet

__all__ = ["build_split"]

Ints = NDArray[np.int64]
USER_DRAW = 1  # stream number of the counter hash
GROUPS = ("new", "cold", "warm")
NEW, COLD, WARM = range(3)
# sequences.parquet holds the words, memory the places.
ROLES = ("train", "cold-outside", "new-outside")
NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class History:
    """Flat interactions: item and time of each row, and each user's slice of rows."""

    item: NDArray[np.int32]
    time: NDArray[np.int64]  # NO_TIME where the release has none
    start: Ints
    end: Ints


def build_split(prepared: Path, folder: Path, split: Split, n_items: int) -> dict[str, Any]:
    """Write sequences, items (and interactions under `warm`) and leaks.json's content; return counts and leaks.

    Raises CheckFailed where no user is left, saying at which step they went.
    """
    history = _load(prepared)
    steps = {}
    if split.warm is not None or split.covers == "drop":
        rows = len(history.item)
        covered = _covered(prepared) if split.covers == "drop" else np.ones(n_items + 1, np.bool_)
        history = _filtered(history, split, covered, folder)
        steps["interactions_left_out"] = rows - len(history.item)
        steps["users_warm"] = int((history.end > history.start).sum())
    users, chosen = _draw(history, split)
    steps["users_long_enough"] = len(users)
    end = history.end[chosen]
    start = np.maximum(history.start[chosen], end - split.keep_last)
    train_count = np.bincount(history.item[rows_of(start, end - 2)], minlength=n_items + 1)
    in_window = train_count > 0
    in_window[history.item[end - 2]] = in_window[history.item[end - 1]] = True
    pool = in_window
    if split.pool == "release":
        pool = np.bincount(history.item, minlength=n_items + 1) > 0
    group = np.where(train_count >= split.cold_below, WARM, np.where(train_count > 0, COLD, NEW))
    outside = np.setdiff1d(users, chosen, assume_unique=True)
    extra, skipped = _outside(history, outside, split, group, pool)
    _write_sequences(folder, chosen, start, end, extra)
    _write_items(folder, train_count, group, pool)
    counts = {
        **steps,
        "users": len(chosen),
        "items": int(in_window.sum()),
        "interactions": int((end - start).sum()),
        "pool": int(pool.sum()),
        "targets": {
            "valid": _by_group(group[history.item[end - 2]]),
            "test": _by_group(group[history.item[end - 1]]),
        },
        "cold_outside": int((extra["role"] == ROLES.index("cold-outside")).sum()),
        "new_outside": int((extra["role"] == ROLES.index("new-outside")).sum()),
        "outside_skipped": skipped,
    }
    return {"counts": counts, "leaks": _leaks(history, start, end)}


def _draw(history: History, split: Split) -> tuple[Ints, Ints]:
    """The users with enough interactions, and those of them that were drawn (all where no draw is asked)."""
    lengths = history.end - history.start
    users = np.flatnonzero(lengths >= split.min_interactions)
    if split.users is not None and split.users > len(users):
        msg = (
            f"{split.users:,} users were asked for and only {len(users):,} have "
            f"{split.min_interactions} or more interactions; ask for fewer with --users"
        )
        raise CheckFailed(msg)
    if len(users) == 0:
        why = f"the longest history has {int(lengths.max(initial=0))} interactions"
        way = f"lower --min-interactions, which is {split.min_interactions}"
        if split.covers == "drop":
            way = f"keep items without a cover (--missing-covers keep) or {way}"
        if split.warm is not None:
            why = f"under --warm {split.warm} (items) and {split.warm_users} (users) {why}"
            way = f"lower --warm or {way}"
        msg = f"no user of {len(lengths):,} is left: {why}; {way}"
        raise CheckFailed(msg)
    if split.users is None:
        return users, users
    order = np.argsort(draws.bits(split.seed, USER_DRAW, users), kind="stable")
    return users, np.sort(users[order[: split.users]])


def _by_group(groups: Ints) -> dict[str, int]:
    counted = np.bincount(groups, minlength=len(GROUPS))
    return dict(zip(GROUPS, counted.tolist(), strict=True))


def _load(prepared: Path) -> History:
    rows = pq.read_table(prepared / "interactions.parquet", columns=["item", "timestamp"])
    users = pq.read_table(prepared / "users.parquet", columns=["start", "end"])
    return History(
        rows["item"].to_numpy(),
        rows["timestamp"].fill_null(NO_TIME).to_numpy(),
        users["start"].to_numpy(),
        users["end"].to_numpy(),
    )


def _covered(prepared: Path) -> NDArray[np.bool_]:
    """(n_items + 1,) whether an item has a cover."""
    cover = pl.read_parquet(prepared / "items.parquet", columns=["cover"], glob=False)["cover"]
    return np.concatenate([[False], (cover == "ok").to_numpy()])


def _filtered(history: History, split: Split, covered: NDArray[np.bool_], folder: Path) -> History:
    """Drop interactions with items that are not covered; then, NineRec Table 15, items with too few
    interactions and users with too few, until neither changes."""
    n_items, n_users = len(covered), len(history.start)
    user = np.repeat(np.arange(n_users), history.end - history.start)
    rows = rows_of(history.start, history.end)
    keep = covered[history.item[rows]]
    rows, user = rows[keep], user[keep]
    while split.warm is not None:
        before = len(rows)
        keep = np.bincount(history.item[rows], minlength=n_items)[history.item[rows]] >= split.warm
        rows, user = rows[keep], user[keep]
        keep = np.bincount(user, minlength=n_users)[user] >= split.warm_users
        rows, user = rows[keep], user[keep]
        if len(rows) == before:
            break
    lengths = np.bincount(user, minlength=len(history.start))
    end = np.cumsum(lengths)
    time = history.time[rows]
    frame = pl.DataFrame(
        {
            "user": user.astype(np.int32),
            "item": history.item[rows],
            "timestamp": time,
            "position": (np.arange(len(rows)) - np.repeat(end - lengths, lengths)).astype(np.int32),
        }
    ).with_columns(pl.when(pl.col("timestamp") != NO_TIME).then("timestamp"))
    write_parquet(frame, folder / "interactions.parquet")
    return History(history.item[rows], time, end - lengths, end)


def _outside(
    history: History, users: Ints, split: Split, group: Ints, pool: NDArray[np.bool_]
) -> tuple[dict[str, Ints], int]:
    """Cut each outside user's history after each cold or new item (PAPERS_AND_CODE 2.4).

    A cut keeps at most keep_last - 2 rows, target included. Cuts with an input outside the pool
    are skipped and counted; a first row has no input and is no cut.
    """
    rows = rows_of(history.start[users], history.end[users])
    owner = np.repeat(users, history.end[users] - history.start[users])
    hit = (group[history.item[rows]] < WARM) & (rows > history.start[owner])
    target, owner = rows[hit], owner[hit]
    start = np.maximum(history.start[owner], target + 1 - (split.keep_last - 2))
    not_in_pool = np.concatenate([[0], np.cumsum(~pool[history.item])])
    good = not_in_pool[target] == not_in_pool[start]
    is_new = group[history.item[target]] == NEW
    role = np.where(is_new, ROLES.index("new-outside"), ROLES.index("cold-outside"))
    extra = {
        "user": owner[good],
        "start": start[good],
        "end": target[good] + 1,
        "role": role[good],
    }
    return extra, int((~good).sum())


def _words(codes: Ints, words: tuple[str, ...]) -> pl.Series:
    return pl.Series(codes.astype(np.uint8)).cat.to(pl.Enum(words))


def _write_sequences(
    folder: Path, users: Ints, start: Ints, end: Ints, extra: dict[str, Ints]
) -> None:
    role = np.concatenate([np.zeros(len(users), np.int64), extra["role"]])
    sequences = pl.DataFrame(
        {
            "user": np.concatenate([users, extra["user"]]).astype(np.int32),
            "start": np.concatenate([start, extra["start"]]),
            "end": np.concatenate([end, extra["end"]]),
            "role": _words(role, ROLES),
        }
    )
    write_parquet(sequences, folder / "sequences.parquet")


def _write_items(folder: Path, train_count: Ints, group: Ints, pool: NDArray[np.bool_]) -> None:
    items = pl.DataFrame(
        {
            "item": np.arange(1, len(pool), dtype=np.int32),
            "train_count": train_count[1:],
            "group": _words(group[1:], GROUPS),
            "in_pool": pool[1:],
        }
    )
    write_parquet(items, folder / "items.parquet")


def _leaks(history: History, start: Ints, end: Ints) -> dict[str, Any]:
    """What leave-one-out lets through: repeats of the target, order that rests on the file, and time.

    Counts of users, but for train_after_earliest_test, which counts train rows; those of time are
    null where the release has no timestamps.
    """
    test, valid = end - 1, end - 2
    rows, owner = rows_of(start, end - 2), np.repeat(np.arange(len(start)), end - 2 - start)
    met = np.zeros(len(start), bool)
    met[owner[history.item[rows] == history.item[test][owner]]] = True
    met |= history.item[valid] == history.item[test]
    report: dict[str, Any] = {
        "users": len(start),
        "test_target_in_own_history": int(met.sum()),
        "order_rests_on_file": int(
            ((history.time[test] == history.time[valid]) | (history.time[test] == NO_TIME)).sum()
        ),
        "test_before_newest_train": None,
        "train_after_earliest_test": None,
    }
    if (history.time[test] != NO_TIME).all() and len(rows):
        report["test_before_newest_train"] = int(
            (history.time[test] < history.time[rows].max()).sum()
        )
        report["train_after_earliest_test"] = int(
            (history.time[rows] > history.time[test].min()).sum()
        )
    return report
