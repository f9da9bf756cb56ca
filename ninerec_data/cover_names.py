"""Which cover joins which item: by its name, read in several ways, best first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote

from ninerec_data.errors import CheckFailed

if TYPE_CHECKING:
    from ninerec_data.cover_sources import Found

__all__ = ["Joined", "join", "join_by_id", "place_of"]

PICTURES = frozenset(
    ("", "jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "tif", "tiff", "avif", "jp2")
)
MUST_JOIN = 0.01  # of the pictures or of the items, whichever are fewer
ARTICLE_DIGITS = 10  # of an H&M id


@dataclass(frozen=True, slots=True)
class Joined:
    """The files of each item id: none (missing), one (the cover), or several that claim it.

    strangers: names that join no item.
    """

    by_item: list[tuple[Found, ...]]
    strangers: list[str]


def join(found: Sequence[Found], item_ids: Sequence[str], dataset: str) -> Joined:
    """Join files with items by name.

    The item id is the file's name without its folders and its ending, or the whole key; else the same
    percent-decoded; else the key `123` of an id `v123` or the other way round; else an H&M id without its leading
    zeros. Of an item's files those with a picture's ending, or none, go before others, then the first of these
    readings before the next.
    Raises CheckFailed where next to nothing joins.
    """
    places = {item_id: place for place, item_id in enumerate(item_ids)}
    claims: dict[int, list[tuple[tuple[bool, int], Found]]] = {}
    strangers, pictures = [], 0
    for file in found:
        place, reading, ending = place_of(file.name, places)
        pictures += ending in PICTURES
        if place is None:
            strangers.append(file.name)
        else:
            claims.setdefault(place, []).append(((ending not in PICTURES, reading), file))
    if len(claims) < MUST_JOIN * max(min(pictures, len(item_ids)), 1):
        raise CheckFailed(_do_not_join(found, item_ids, dataset, len(claims)))
    by_item: list[tuple[Found, ...]] = [()] * len(item_ids)
    for place, files in claims.items():
        best = min(claim for claim, _ in files)
        by_item[place] = tuple(file for claim, file in files if claim == best)
        strangers += [file.name for claim, file in files if claim > best and not claim[0]]
    return Joined(by_item, sorted(strangers))


def join_by_id(found: Sequence[Found], item_ids: Sequence[str]) -> Joined:
    """Join files whose names are item ids, and nothing else, with the items; there may be none at all."""
    files = {file.name: file for file in found}
    by_item: list[tuple[Found, ...]]
    by_item = [(files[item_id],) if item_id in files else () for item_id in item_ids]
    return Joined(by_item, sorted(files.keys() - set(item_ids)))


def _decoded(text: str) -> str:
    return normalize("NFC", unquote(text))


def _other_key(text: str) -> str:
    """`123` for `v123` and `v123` for `123`."""
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdecimal()):
        return text
    return digits if digits != text else f"v{text}"


def _padded(text: str) -> str:
    return text.zfill(ARTICLE_DIGITS) if text.isascii() and text.isdecimal() else text


# How a name is read to find its item, best first.
_READINGS: tuple[Callable[[str], str], ...] = (str, unquote, _decoded, _other_key, _padded)


def place_of(name: str, places: Mapping[str, int]) -> tuple[int | None, int, str]:
    """The item that a name means, which reading said so, and the ending that was taken off."""
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = name, ""
    whole = [(text, "") for text in (name, name.rpartition("/")[2])]
    words = whole + [(text, ending.lower()) for text in (stem, stem.rpartition("/")[2])]
    for number, reading in enumerate(_READINGS):
        for text, taken in words:
            if (place := places.get(reading(text))) is not None:
                return place, number, taken
    return None, 0, ending.lower()


def _do_not_join(found: Sequence[Found], item_ids: Sequence[str], dataset: str, joined: int) -> str:
    if not found:
        return (
            f"the covers of {dataset} are gone: where they were imported from there is no file left; "
            f"put them back, or import them from where they are: ninerec import {dataset} PATH"
        )
    names, ids = (
        ", ".join(map(repr, three)) for three in ([f.name for f in found[:3]], item_ids[:3])
    )
    return (
        f"names that do not join: of {len(found):,} files of covers, such as {names}, {joined or 'none'} "
        f"is named after one of the {len(item_ids):,} items of {dataset}, such as {ids}; a cover is named "
        f"<item id>.jpg, in any folder. Import the covers of this dataset: ninerec import {dataset} PATH"
    )
