"""The raw formats: a name from the catalog -> the module that reads it (contract: ninerec_data/release.py)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ninerec_data.errors import UsageError, nearest

if TYPE_CHECKING:
    from ninerec_data.catalog import Entry
    from ninerec_data.release import Release, Role

__all__ = ["FORMATS", "Format", "covers_patterns", "covers_role", "reader"]

FORMATS = {
    name: f"ninerec_data.formats.{name}"
    for name in (
        "ninerec",
        "morec",
        "mind",
        "hm",
        "adressa",
        "pixelrec",
        "microlens",
        "rec",
        "transrec",
        "generic",
    )
}


class Format(Protocol):
    """What a format module offers."""

    def roles(self, options: Mapping[str, Any]) -> tuple[Role, ...]:
        """The files this format is made of."""

    def read(self, files: Mapping[str, Path], options: Mapping[str, Any]) -> Release:
        """Read them; raises CheckFailed or MissingData for what cannot be read."""


def covers_role(*names: str, lmdb: tuple[str, ...] = (), about: str = "<item>.jpg") -> Role:
    """Covers: a folder, zip, plain tar or LMDB of these names, best first. lmdb: other names of the last."""
    from ninerec_data.release import Role

    patterns = [f"{name}{suffix}" for suffix in ("", ".zip", ".tar", ".lmdb") for name in names]
    more = [f"{name}.lmdb" for name in lmdb]
    return Role(name="covers", patterns=(*patterns, *more), required=False, about=about)


def covers_patterns(entry: Entry) -> tuple[str, ...]:
    """The names that a dataset's covers may have, best first; none where its format knows no covers."""
    roles = reader(entry.format).roles(entry.options)
    return next((role.patterns for role in roles if role.name == "covers"), ())


def reader(name: str) -> Format:
    """Import one format. Raises UsageError for an unknown name."""
    if name not in FORMATS:
        msg = f"no raw format is called '{name}'{nearest(name, FORMATS)} Formats: {', '.join(FORMATS)}"
        raise UsageError(msg)
    return cast("Format", importlib.import_module(FORMATS[name]))
