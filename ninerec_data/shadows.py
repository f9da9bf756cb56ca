"""Modules of other people that Python imports under one of our five plain names.

`python script.py` puts the script's folder first on `sys.path`, `python -m ninerec` the working folder: a
`loaders/` of the user's own there is imported in place of ours. Nothing here imports a module to judge it.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["PACKAGES", "Shadow", "shadow_behind", "shadows", "warn_of_loaders"]

PACKAGES = ("ninerec_data", "downloader", "loaders", "baselines", "ninerec")


@dataclass(frozen=True, slots=True)
class Shadow:
    """A name of ours under which Python finds a module that does not lie beside ninerec_data; str() is the message.

    theirs: the file that is imported; ours: the one that it hides.
    """

    name: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return (
            f"`{self.name}` is imported from {self.theirs}, which hides ninerec's {self.ours}; rename the first, "
            "run from a folder without it, or run `ninerec` in place of `python -m ninerec`"
        )


def shadows(*names: str, first: Path | None = None) -> list[Shadow]:
    """The shadows of some of PACKAGES (default: all) in this process.

    first: a folder that is looked through before all, as Python does for a script that lies in it.
    """
    home = Path(_file("ninerec_data", first) or __file__).resolve().parents[1]
    found = {name: _file(name, first) for name in names or PACKAGES}
    return [
        Shadow(name, theirs, str(home / name / "__init__.py"))
        for name, theirs in found.items()
        if theirs and Path(theirs).resolve().parent != home / name
    ]


def shadow_behind(error: ImportError | AttributeError) -> Shadow | None:
    """The shadow an ImportError or AttributeError comes from: a module that was loaded, or that Python names."""
    named = str(error.name).partition(".")[0]
    return next((s for s in shadows() if s.name == named or s.name in sys.modules), None)


def warn_of_loaders() -> None:
    """Warn the caller's caller, once a process, where a `loaders` is loaded that is not ours."""
    if "loaders" in sys.modules:
        for shadow in shadows("loaders"):
            _warn(shadow)


@cache
def _warn(shadow: Shadow) -> None:
    warnings.warn(str(shadow), RuntimeWarning, stacklevel=4)


def _file(name: str, first: Path | None) -> str | None:
    """The file that is or would be imported as `name`; None where there is none (a folder of no package)."""
    spec = PathFinder.find_spec(name, [str(first)]) if first else None
    if spec and spec.origin:
        return spec.origin
    if module := sys.modules.get(name):
        return getattr(module, "__file__", None) or repr(module)
    spec = importlib.util.find_spec(name)
    return spec.origin if spec else None
