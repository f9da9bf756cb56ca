"""Where everything lives: one home folder with raw/, prepared/, features/ and runs/ (DESIGN 3)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Home", "find_home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The stores under one root. Building one touches no disk."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def prepared(self, dataset: str) -> Path:
        return self.root / "prepared" / dataset

    def features(self, dataset: str) -> Path:
        """The folder of a dataset's bundles of frozen features."""
        return self.root / "features" / dataset

    def lock_of(self, dataset: str) -> Path:
        """The lock file of who prepares, repairs or removes a dataset."""
        return self.root / "prepared" / f".{dataset}.lock"

    def __str__(self) -> str:
        return str(self.root)


def find_home(home: str | Path | Home | None = None) -> Home:
    """Resolve the home folder: the argument, else `$NINEREC_HOME`, else the platform's data folder."""
    if isinstance(home, Home):
        return home
    if home is None:
        home = os.environ.get("NINEREC_HOME")
    if home:
        return Home(Path(home).expanduser().absolute())
    if sys.platform == "darwin":
        base = Path("~/Library/Application Support")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share")
    return Home((base / "ninerec").expanduser())
