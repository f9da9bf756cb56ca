"""The contract between the raw formats and preparation: what a reader is asked for and what it gives.

A format is a module in `ninerec_data/formats/` with two functions:

    def roles(options: Mapping[str, Any]) -> tuple[Role, ...]
        the files this format is made of, by what they hold

    def read(files: Mapping[str, Path], options: Mapping[str, Any]) -> Release
        files: role name -> path, required roles always present

The law every reader keeps: rows in = rows kept + rows reported. What it repairs or drops it counts;
what it cannot read it refuses with `CheckFailed` naming file, line and reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FileReport", "Release", "Role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One file (or folder) of a format.

    name: what it holds: interactions | items | users | urls | covers ...
    patterns: file names that serve, best first; shell wildcards allowed; matched without case at any depth.
    about: one phrase for messages ("users file: one user and their items a line").
    """

    name: str
    patterns: tuple[str, ...]
    required: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """The account of one file: rows == kept + sum(dropped.values()). `repaired` counts kept rows that were mended."""

    role: str
    rows: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    repaired: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "repaired": dict(sorted(self.repaired.items())),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release as read, before numbering.

    interactions: lazy, in file order, with the columns
        user_id    String
        item_id    String
        timestamp  Int64, UTC seconds; null where the release has none
        issue      String; null = keep, else the reason this row is dropped. The row stays in the frame
                   so that whoever collects it can count it; nothing is filtered silently.
    items: item_id (String, never null or empty), title_<lang> (String, untouched, null where absent), then the
        release's other columns under their own names; file order, repeated ids included.
    users: user_id, then the release's other columns; or None.
    files: the accounts of the item and user files. The account of the interactions file is made by whoever
        collects `interactions`.
    notes: what holds for the interactions as a whole ("CRLF line ends", "columns are item, user, timestamp").
    """

    interactions: pl.LazyFrame
    items: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    files: tuple[FileReport, ...] = ()
    notes: tuple[str, ...] = ()
