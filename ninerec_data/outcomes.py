"""The outcomes of an item, or of a release file: each ends in exactly one (DESIGN 4)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["AGAIN", "HELD", "Outcome"]


class Outcome(StrEnum):
    """What came of asking for it."""

    OK = "OK"  # held, from where it was published
    OK_BACKUP = "OK_BACKUP"  # held, from the user's backup
    GONE = "GONE"  # the origin says it exists no more
    BLOCKED = "BLOCKED"  # the origin will not talk to us now; says nothing about the item
    TRANSIENT = "TRANSIENT"  # a fault on the way
    REJECTED = "REJECTED"  # something came that is not what was asked for; the reason says what
    OPTED_OUT = "OPTED_OUT"  # robots.txt or X-Robots-Tag asks not to
    CONFIG = "CONFIG"  # an address or setting of ours that cannot work
    UNMAPPED = "UNMAPPED"  # no address is known, and no backup holds it


HELD = (Outcome.OK, Outcome.OK_BACKUP)
AGAIN = (Outcome.BLOCKED, Outcome.TRANSIENT)  # the only ones that a later run tries unasked
