"""Upstream's LMDB stores of covers (PAPERS_AND_CODE 1.2), read without trusting them.

Keys are item ids, values pickles of `<module>.LMDB_Image`: channels, size (height, width), image (raw RGB), id.
Both the pages and the values are foreign bytes. liblmdb maps the file and believes its pages, so that a damaged
store kills the process: here they are followed with every place checked. Unpickling does what the pickle says:
here it may say no more than a record needs, and no name in it is ever imported.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ninerec_data.errors import CheckFailed
from ninerec_data.pictures import Pixels

__all__ = ["MAX_BYTES", "MAX_VALUE", "BadCover", "is_lmdb", "picture_of", "value_places"]

MAX_BYTES = 64 << 20  # of one encoded cover
MAX_PIXELS = 50_000_000  # of one record
MAX_VALUE = 4 * MAX_PIXELS + 4096  # its bytes
MAX_STEPS = 200  # a record is pickled in 30 to 50 steps
MAX_CALLS = 8  # of which it makes 1 to 5 objects

# The page format of LMDB 0.9 on 64-bit little-endian machines.
_META = struct.Struct("<16xII16xI48x2x2x32xQ8xQ")  # magic, version, page size, root, transaction
_PAGE = struct.Struct("<Q2xHH2x")  # number, flags, end of the list of nodes
_NODE = struct.Struct("<HHHH")  # size (of a branch: page) in two halves, flags, size of the key
_MAGIC = struct.pack("<I", 0xBEEFC0DE)
_BRANCH, _LEAF = 1, 2  # flags of a page
_ON_OTHER_PAGES, _NO_VALUE = 1, 6  # of a node; databases inside and lists of values are passed over
_EMPTY = (1 << 64) - 1  # the root of a store without keys


class BadCover(Exception):
    """One value is no picture; `reason` names why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_lmdb(head: bytes) -> bool:
    """Whether a file that begins so is an LMDB data file."""
    return head[16:20] == _MAGIC


def value_places(file: BinaryIO, path: Path) -> dict[str, tuple[int, int]]:
    """Key -> (offset, size) of its value; no value is read.

    Raises CheckFailed for a store that is truncated, damaged or of another version.
    """
    end = os.fstat(file.fileno()).st_size
    places = {}
    try:
        page_size, root = _newest(file, path)
        for start, page, at in _leaf_nodes(file, path, page_size, root):
            low, high, kind, key_size = _NODE.unpack_from(page, at)
            key, value, size = page[at + 8 : at + 8 + key_size], at + 8 + key_size, low | high << 16
            offset = start + value
            if kind & _ON_OTHER_PAGES:
                offset = struct.unpack_from("<Q", page, value)[0] * page_size + _PAGE.size
            if offset + size > end:
                raise _damaged(path, f"the value of {key!r} ends behind the file's {end:,} bytes")
            if not kind & _NO_VALUE:
                places[key.decode(errors="backslashreplace")] = offset, size
    except struct.error as error:
        raise _damaged(path, str(error)) from error
    return places


def _leaf_nodes(
    file: BinaryIO, path: Path, page_size: int, root: int
) -> Iterator[tuple[int, bytes, int]]:
    """Every key's node: where its page starts in the file, the page, the node's place in it."""
    end = os.fstat(file.fileno()).st_size
    pages, seen = [root] if root != _EMPTY else [], set()
    while pages:
        number = pages.pop()
        start = number * page_size
        if start + page_size > end:
            raise _damaged(path, f"page {number:,} ends behind the file's {end:,} bytes")
        if number in seen:
            raise _damaged(path, f"page {number:,} stands in two places")
        seen.add(number)
        page = os.pread(file.fileno(), page_size, start)
        own, flags, stop = _PAGE.unpack_from(page)
        if own != number or not flags & (_BRANCH | _LEAF):
            raise _damaged(path, f"page {number:,} is no page of keys")
        for at in struct.unpack_from(f"<{max(stop - _PAGE.size, 0) // 2}H", page, _PAGE.size):
            if flags & _LEAF:
                yield start, page, at
            else:
                low, high, highest, _ = _NODE.unpack_from(page, at)
                pages.append(low | high << 16 | highest << 32)


def _newest(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Page size and root page as the last transaction left them: the newer of the two meta pages."""
    head = os.pread(file.fileno(), _META.size, 0)
    _, version, page_size, root, transaction = _META.unpack(head)
    if version != 1 or page_size not in (1 << bits for bits in range(9, 17)):
        raise _damaged(path, f"version {version}, pages of {page_size:,} bytes")
    other = os.pread(file.fileno(), _META.size, page_size)
    if not is_lmdb(other):
        raise _damaged(path, "no second page of facts")
    *_, other_root, other_transaction = _META.unpack(other)
    return page_size, other_root if other_transaction > transaction else root


def _damaged(path: Path, what: str) -> CheckFailed:
    return CheckFailed(
        f"{path} is a truncated or damaged LMDB store, or not of version 1 ({what}); copy it again "
        "from where it came, or import the folder of covers it was made from"
    )


def picture_of(value: bytes) -> bytes | Pixels:
    """The picture a value holds: raw pixels of a pickled record, or the bytes of an encoded picture.

    Raises BadCover: hostile_pickle, damaged, too_large.
    """
    if value[:1] not in (b"\x80", b"c", b"("):  # pickles of objects begin so, pictures do not
        if len(value) > MAX_BYTES:
            raise BadCover("too_large")
        return value
    try:
        _refuse_other_steps(value)
        reader = _Unpickler(value)
        record = reader.load()
    except (BadCover, MemoryError):
        raise
    except Exception as error:  # whatever a mangled pickle leads to: it read data, nothing ran
        raise BadCover("damaged") from error
    if type(record) is not reader.record:
        raise BadCover("damaged")
    return _pixels(vars(record))


def _pixels(record: dict[str, Any]) -> Pixels:
    channels, size, image = (record.get(name) for name in ("channels", "size", "image"))
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if type(size) is not tuple or [type(n) for n in (*size, channels)] != [int] * 3:
        raise BadCover("damaged")
    height, width = size
    if min(size) > 0 and height * width > MAX_PIXELS:
        raise BadCover("too_large")
    if min(size) < 1 or channels not in modes or not isinstance(image, bytes):
        raise BadCover("damaged")
    if len(image) != height * width * channels:
        raise BadCover("damaged")
    if channels != 3:
        picture = Image.frombytes(modes[channels], (width, height), image).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(white, picture).convert("RGB").tobytes()
    return Pixels(width, height, image)


# Numbers, bytes, text, tuples and dicts; names, which go to `find_class`; one object and its attributes.
_STEPS = (
    "PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT BINBYTES SHORT_BINBYTES BINBYTES8 "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD"
)
_ALLOWED = frozenset(_STEPS.split())
# Modules by the names that older and newer writers have for them.
_TODAY = {"copy_reg": "copyreg", "__builtin__": "builtins"} | dict.fromkeys(
    ("numpy.core.multiarray", "numpy._core.multiarray"), "numpy.multiarray"
)


def _refuse_other_steps(value: bytes) -> None:
    """Read a pickle's steps without taking them, so that none claims memory the value has not got."""
    calls = Counter[str]()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(value)):
        calls[opcode.name] += 1
        place = int(argument or 0) if opcode.name in ("PUT", "LONG_BINPUT") else 0
        if opcode.name not in _ALLOWED or max(step, place) > MAX_STEPS:
            raise BadCover("hostile_pickle")
    if calls["REDUCE"] + calls["NEWOBJ"] > MAX_CALLS:
        raise BadCover("hostile_pickle")


class _Unpickler(pickle.Unpickler):
    """Knows `LMDB_Image`, and what pickles say around it; each value has classes of its own, soon forgotten."""

    def __init__(self, value: bytes) -> None:
        super().__init__(io.BytesIO(value))
        record = self.record = type("LMDB_Image", (), {})
        inert = type("Inert", (), {"__init__": lambda *_: None, "__setstate__": lambda *_: None})
        # Bytes in protocols 0 to 2; an object in 0 and 1; an id that is a numpy number.
        self.known: dict[str, Callable[..., Any]] = {
            "_codecs.encode": lambda text, _: str.encode(text, "latin-1"),
            "copyreg._reconstructor": lambda *_: record(),
            "builtins.object": inert,
            "numpy.dtype": inert,
            "numpy.multiarray.scalar": inert,
        }

    def find_class(self, module: str, name: str) -> Any:
        if name == "LMDB_Image":
            return self.record
        full = f"{_TODAY.get(module, module)}.{name}"
        if full not in self.known:
            raise BadCover("hostile_pickle")
        return self.known[full]
