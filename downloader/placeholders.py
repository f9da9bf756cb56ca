"""Pictures that sites give in place of a cover that is no more: known by where they lead, or by their bytes.

What is not known here is found by its frequency: one picture at many addresses of a host is no cover of any
(ninerec_data/item_journal.py).
"""

from __future__ import annotations

__all__ = ["KNOWN_PATHS", "is_placeholder"]

# Ends of final addresses, without their query.
KNOWN_PATHS = (
    "/bfs/archive/be27fd62c99036dce67efface486fb0a88ffed06.jpg",  # bilibili: the video is no more
    "/images/transparent.gif",
    "/photo_unavailable.png",
    "/photo_unavailable_l.png",
)


def is_placeholder(url: str) -> bool:
    """Whether an address, after redirects, is that of a known placeholder."""
    return url.partition("?")[0].partition("@")[0].endswith(KNOWN_PATHS)
