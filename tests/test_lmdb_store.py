"""Upstream's LMDB: records read right, pages followed as liblmdb follows them, nothing in it run or believed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ninerec_data.errors import CheckFailed
from ninerec_data.lmdb_store import BadCover, is_lmdb, picture_of, value_places
from ninerec_data.pictures import Pixels

WIDTH, HEIGHT = 5, 4
RGB = random.Random(0).randbytes(WIDTH * HEIGHT * 3)
# As upstream's script has it: the class stands in __main__.
SCRIPT = """
import pickle, sys

class LMDB_Image:
    def __init__(self, image, id):
        self.channels, self.size, self.image, self.id = 3, (4, 5), image, id

import numpy
for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
    for number, id in enumerate(("v1", 1, numpy.int64(1))):
        with open(f"{protocol}-{number}", "wb") as file:
            pickle.dump(LMDB_Image(open("rgb", "rb").read(), id), file, protocol)
"""


class LMDB_Image:
    """A record of this module's, pickled as tests.LMDB_Image."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


GENUINE = {"channels": 3, "size": (HEIGHT, WIDTH), "image": RGB, "id": "v1"}


def record(protocol: int = 4, **changed: Any) -> bytes:
    return pickle.dumps(LMDB_Image(**{**GENUINE, **changed}), protocol)


def reason(value: bytes) -> str:
    with pytest.raises(BadCover) as caught:
        picture_of(value)
    return caught.value.reason


def write_lmdb(path: Path, values: dict[bytes, bytes], *, subdir: bool = False) -> Path:
    """A store as liblmdb writes it."""
    lmdb = pytest.importorskip("lmdb")
    store = lmdb.open(str(path), subdir=subdir, map_size=1 << 30)
    with store, store.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return path


def read_all(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        places = value_places(file, path)
        return {key: os.pread(file.fileno(), size, at) for key, (at, size) in places.items()}


# Records


def test_records_that_a_script_pickled_are_read_in_every_protocol(tmp_path: Path) -> None:
    (tmp_path / "rgb").write_bytes(RGB)
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)
    values = {path.name: path.read_bytes() for path in tmp_path.glob("[0-9]-*")}
    assert len(values) == 3 * (pickle.HIGHEST_PROTOCOL + 1)
    assert b"__main__" in values["0-0"]
    assert {picture_of(value) for value in values.values()} == {Pixels(WIDTH, HEIGHT, RGB)}


def test_class_may_come_from_any_module() -> None:
    assert picture_of(record()) == Pixels(WIDTH, HEIGHT, RGB)


def test_grey_is_repeated_and_transparency_stands_on_white() -> None:
    grey = record(channels=1, size=(1, 2), image=b"\x07\xff")
    assert picture_of(grey) == Pixels(2, 1, b"\x07\x07\x07\xff\xff\xff")
    clear, half, full = b"\0\0\0\0", b"\0\0\0\x80", b"\1\2\3\xff"
    through = picture_of(record(channels=4, size=(1, 3), image=clear + half + full))
    assert through == Pixels(3, 1, b"\xff\xff\xff" + b"\x7f\x7f\x7f" + b"\1\2\3")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_encoded_pictures_are_given_as_they_are(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, kind)
    assert picture_of(file.getvalue()) == file.getvalue()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"size": (HEIGHT, WIDTH + 1)}, "damaged"),
        ({"size": (0, 0), "image": b""}, "damaged"),
        ({"size": (-HEIGHT, -WIDTH)}, "damaged"),
        ({"size": (HEIGHT, WIDTH, 3)}, "damaged"),
        ({"size": (4.0, 5.0)}, "damaged"),
        ({"size": (True, True), "image": b"abc"}, "damaged"),
        ({"size": "45"}, "damaged"),
        ({"size": None}, "damaged"),
        ({"channels": 2}, "damaged"),
        ({"channels": True, "image": RGB[: WIDTH * HEIGHT]}, "damaged"),
        ({"channels": "3"}, "damaged"),
        ({"image": RGB[:-1]}, "damaged"),
        ({"image": RGB + b"\0"}, "damaged"),
        ({"image": "text"}, "damaged"),
        ({"image": None}, "damaged"),
        ({"size": (65536, 65536)}, "too_large"),
        ({"size": (1 << 40, 1 << 40)}, "too_large"),
        ({"size": (5001, 10_000)}, "too_large"),
    ],
)
def test_record_that_does_not_hold_its_picture_has_a_reason(
    changed: dict[str, Any], why: str
) -> None:
    assert reason(record(**changed)) == why


def test_record_without_attributes_and_other_objects_are_damaged() -> None:
    assert reason(pickle.dumps(LMDB_Image())) == "damaged"
    assert reason(pickle.dumps({"image": RGB})) == "damaged"
    assert reason(pickle.dumps(RGB)) == "damaged"
    assert reason(record()[:-40]) == "damaged"
    assert reason(b"\x80") == "damaged"


# Pickles that would run code


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.call = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def runs(marker: Path) -> dict[str, bytes]:
    """Pickles that make the marker when they are unpickled in the plain way."""
    shell, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    text = shell.encode()
    out = {f"os.system, protocol {p}": pickle.dumps(Calls(os.system, shell), p) for p in range(6)}
    out |= {f"exec, protocol {p}": pickle.dumps(Calls(exec, code), p) for p in (0, 2, 4)}
    out["eval"] = pickle.dumps(Calls(eval, f"__import__('os').system({shell!r})"))
    out["popen"] = pickle.dumps(Calls(subprocess.call, ["touch", str(marker)]))
    out["inside the id"] = record(id=Calls(os.system, shell))
    out["inside the id, protocol 0"] = record(0, id=Calls(os.system, shell))
    out["inside the size"] = record(size=(Calls(os.system, shell), 5))
    out["as a key"] = pickle.dumps({Calls(os.system, shell): 1})
    out["inst"] = b"(S'" + text + b"'\nios\nsystem\n."
    out["obj"] = b"\x80\x02(cos\nsystem\nX" + struct.pack("<I", len(text)) + text + b"o."
    out["unused"] = (
        b"\x80\x02cos\nsystem\nX"
        + struct.pack("<I", len(text))
        + text
        + b"\x85R0"
        + (record(2)[2:])
    )
    return out


NAMES = sorted(runs(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
def test_pickle_that_would_run_code_runs_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    value = runs(marker)[name]
    pickle.loads(value)
    assert marker.exists(), "the payload itself is broken"
    marker.unlink()
    assert reason(value) == "hostile_pickle"
    assert not marker.exists()


def text(word: bytes) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word


@pytest.mark.parametrize(
    "steps",
    [
        text(b"builtins") + text(b"getattr") + b"\x93",
        text(b"builtins") + text(b"object.__subclasses__") + b"\x93",
        text(b"copyreg") + text(b"_reconstructor.__globals__") + b"\x93",
        text(b"_codecs") + text(b"lookup") + b"\x93",
        text(b"tests") + text(b"LMDB_Image.__init__.__globals__") + b"\x93",
        text(b"numpy.core.multiarray") + text(b"_reconstruct") + b"\x93",
        text(b"importlib") + text(b"import_module") + b"\x93",
        b"Pv1\n",
        b"X\x02\0\0\0v1Q",
        b"\x82\x01",
        b"N2",
        b"]",
        b"\x8f",
        b"\x96" + struct.pack("<Q", 1) + b"x",
        text(b"a") + text(b"LMDB_Image") + b"\x93)}\x92",
    ],
    ids=[
        *("getattr", "subclasses", "globals", "codecs", "class's globals", "numpy array", "import"),
        *("persistent id", "binary persistent id", "extension", "dup", "list", "set", "bytearray"),
        "newobj_ex",
    ],
)
def test_steps_that_no_record_needs_are_refused(steps: bytes) -> None:
    assert reason(b"\x80\x04" + steps + b".") == "hostile_pickle"


def test_what_a_value_does_to_its_class_ends_with_it() -> None:
    image = b"ca\nLMDB_Image\n"
    poison = b"N}(" + text(b"size") + b"K\1" + text(b"__setstate__") + b"c_codecs\nencode\nu\x86b"
    assert reason(b"\x80\x02" + image + poison + b".") == "damaged"
    for inner in (image + b")\x81", b"c_codecs\nencode\n", b"cbuiltins\nobject\n"):
        reason(b"\x80\x04" + inner + poison + b".")
        assert picture_of(record()) == Pixels(WIDTH, HEIGHT, RGB)
    assert reason(pickle.dumps(LMDB_Image())) == "damaged"


@pytest.mark.parametrize(
    "claim",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 33) + b"x.",
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 33) + b"x.",
        b"\x80\x04B" + struct.pack("<I", 0xFFFF_FFF0) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 33) + b"N.",
        b"\x80\x04\x8b" + struct.pack("<i", 0x7FFF_FFF0) + b"x.",
        b"\x80\x02Nr" + struct.pack("<I", 0x7FFF_FFFF) + b".",
        b"\x80\x02Np2000000000\n.",
        b"\x80\x02I" + b"9" * 5000 + b"\n.",
        b"\x80\x04" + b"N\x94" * 100_000 + b".",
        b"\x80\x04" + text(b"_codecs") + text(b"encode") + b"\x93\x94" + 50 * b"h\0)R" + b".",
    ],
)
def test_a_few_bytes_cannot_claim_memory(claim: bytes) -> None:
    tracemalloc.start()
    try:
        assert reason(claim) in ("damaged", "hostile_pickle")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_mangled_records_are_pictures_or_have_a_reason() -> None:
    draw, seen = random.Random(1), Counter[str]()
    whole = [record(protocol) for protocol in range(6)]
    for _ in range(3000):
        value = bytearray(draw.choice(whole))
        head = draw.choice((90, len(value)))
        for _ in range(draw.randint(1, 3)):
            value[draw.randrange(min(head, len(value)))] = draw.randrange(256)
        if draw.random() < 0.2:
            del value[draw.randrange(1, len(value)) :]
        try:
            seen[type(picture_of(bytes(value))).__name__] += 1
        except BadCover as error:
            seen[error.reason] += 1
    assert seen["damaged"] > 300
    assert seen["hostile_pickle"] > 150
    assert seen["Pixels"] > 150


def test_every_step_that_is_allowed_is_one_that_pickles_have() -> None:
    from ninerec_data.lmdb_store import _ALLOWED

    assert {opcode.name for opcode in pickletools.opcodes} >= _ALLOWED


# The store


@pytest.mark.parametrize("count", [0, 1, 7, 300, 5000])
@pytest.mark.parametrize("longest", [3, 1500, 30_000])
def test_values_are_found_where_liblmdb_finds_them(
    tmp_path: Path, count: int, longest: int
) -> None:
    lmdb = pytest.importorskip("lmdb")
    draw = random.Random(count * longest)
    longest = min(longest, 30_000_000 // (count + 1))
    values = {f"v{k}".encode(): draw.randbytes(draw.randrange(longest)) for k in range(count)}
    path = write_lmdb(tmp_path / "a.lmdb", values)
    assert read_all(path) == {key.decode(): value for key, value in values.items()}
    with lmdb.open(str(path), subdir=False, map_size=1 << 30) as store:
        for part in range(3):  # pages freed and used again, the other meta page newer
            with store.begin(write=True) as transaction:
                for key in list(values)[part::4]:
                    transaction.delete(key)
                    del values[key]
                for k in range(part, count, 5):
                    values[f"w{k}".encode()] = draw.randbytes(draw.randrange(longest))
                    transaction.put(f"w{k}".encode(), values[f"w{k}".encode()])
            assert read_all(path) == {key.decode(): value for key, value in values.items()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    draw = random.Random(3)
    values = {f"{k}".encode(): draw.randbytes(draw.choice((50, 9000))) for k in range(600)}
    return write_lmdb(tmp_path / "covers.lmdb", values)


def test_truncated_store_is_refused(store: Path) -> None:
    whole = store.read_bytes()
    assert is_lmdb(whole)
    for share in (0.0001, 0.001, 0.0013, 0.01, 0.3, 0.7, 0.95, 0.998):
        store.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckFailed, match=r"covers.lmdb is a truncated or damaged LMDB store"):
            read_all(store)


def test_damage_anywhere_is_refused_or_stays_inside_the_file(store: Path) -> None:
    whole, refused, read = store.read_bytes(), 0, 0
    for seed in range(80):
        draw = random.Random(seed)
        data = bytearray(whole)
        for _ in range(draw.choice((1, 20, 9000))):
            data[draw.randrange(24, len(data))] = draw.randrange(256)
        store.write_bytes(data)
        try:
            values = read_all(store)
            with store.open("rb") as file:
                sizes = [size for _, size in value_places(file, store).values()]
            assert [len(value) for value in values.values()] == sizes
            read += 1
        except CheckFailed:
            refused += 1
    assert refused > 25
    assert read > 15


def test_store_of_another_version_says_so(store: Path) -> None:
    data = bytearray(store.read_bytes())
    data[20:24] = struct.pack("<I", 3)
    store.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"not of version 1 \(version 3, "):
        read_all(store)


def test_pages_in_a_circle_end(store: Path) -> None:
    data = bytearray(store.read_bytes())
    for meta in (0, 4096):
        root = struct.unpack_from("<Q", data, meta + 128)[0]
        if root < len(data) // 4096:
            at = struct.unpack_from("<H", data, root * 4096 + 16)[0]
            struct.pack_into("<HHH", data, root * 4096 + at, root & 0xFFFF, root >> 16, 0)
    store.write_bytes(data)
    with pytest.raises(CheckFailed, match="stands in two places"):
        read_all(store)


def test_named_databases_and_lists_of_values_are_passed_over(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "a.lmdb"
    with lmdb.open(str(path), subdir=False, max_dbs=2) as opened:
        named = opened.open_db(b"named")
        with opened.begin(write=True) as transaction:
            transaction.put(b"inside", b"x", db=named)
            transaction.put(b"v1", b"y")
    assert read_all(path) == {"v1": b"y"}
