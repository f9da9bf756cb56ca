"""Every error a user can meet, one class per way out.

NineRecError            exit 1   (base; never raised itself)
├── CheckFailed         exit 1   the data is there and wrong, or a run went wrong
├── UsageError          exit 2   a name, option or setting that cannot be meant
├── MissingData         exit 3   a file or a prepared store is not there, or must be dropped in by hand
├── NetworkError        exit 4   a server did not give what was asked
└── TermsError          exit 5   terms of use were not accepted

A message says what happened with the user's own value, what was expected, and the command to run next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckFailed",
    "MissingData",
    "NetworkError",
    "NineRecError",
    "TermsError",
    "UsageError",
    "nearest",
    "refuse_unknown",
]


class NineRecError(Exception):
    """Base of all errors with a message meant for the user."""

    exit_code = 1


class CheckFailed(NineRecError):
    """The data is there and wrong, or a run went wrong."""

    exit_code = 1


class UsageError(NineRecError):
    """A name, option or setting that cannot be meant."""

    exit_code = 2


class MissingData(NineRecError):
    """A file or a prepared store is not there, or must be dropped in by hand."""

    exit_code = 3


class NetworkError(NineRecError):
    """A server did not give what was asked."""

    exit_code = 4


class TermsError(NineRecError):
    """Terms of use were not accepted."""

    exit_code = 5


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: `; did you mean 'x'?`, or a full stop where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def refuse_unknown(what: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError where a word is none of the known ones, with the nearest and all of them."""
    if value not in (names := list(known)):
        msg = f"unknown {what} '{value}'{nearest(value, names)} Known: {', '.join(names)}"
        raise UsageError(msg)
