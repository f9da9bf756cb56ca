"""raw/terms.json: under what terms data were fetched, when that was accepted, and the hash of their text."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from ninerec_data.catalog import Terms
from ninerec_data.errors import CheckFailed
from ninerec_data.files import atomic_write, canonical_json
from ninerec_data.home import Home

__all__ = ["accept", "accepted", "hash_of_terms"]


def hash_of_terms(terms: Terms) -> str:
    """sha256 of the text and its address: other words must be accepted anew."""
    return hashlib.sha256(f"{terms.text}\n{terms.url}".encode()).hexdigest()


def accepted(home: Home, terms: Terms) -> bool:
    """Whether these very words were accepted in this home."""
    return bool(_read(home).get(terms.key, {}).get("sha256") == hash_of_terms(terms))


def accept(home: Home, terms: Terms, how: str) -> None:
    """Note that terms were accepted. how: `asked` (at a prompt) or `--accept-terms`."""
    held = _read(home)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    held[terms.key] = {
        "sha256": hash_of_terms(terms),
        "accepted": when,
        "how": how,
        "url": terms.url,
    }
    atomic_write(home.raw / "terms.json", canonical_json(held))


def _read(home: Home) -> dict[str, dict[str, str]]:
    path = home.raw / "terms.json"
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text("utf-8"))
        if isinstance(held, dict) and all(isinstance(row, dict) for row in held.values()):
            return held
    except ValueError:
        pass
    raise CheckFailed(
        f"{path} is damaged; move it away and accept the terms again: ninerec download"
    )
