"""Where covers come from: a folder, a zip, a plain tar or upstream's LMDB (which joins which item: cover_names.py).

What was downloaded is one more source (provenance.py).

A source lists the files that may be covers and reads them one by one, from any thread; nothing is unpacked.
One file that cannot be read is a `BadCover` with a reason, a source that cannot be read at all an error.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ninerec_data.archives import damage_is_said, infos_of, refuse_unsafe
from ninerec_data.cover_names import Joined, join
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.formats.lines import refuse_not_data
from ninerec_data.lmdb_store import (
    MAX_BYTES,
    MAX_VALUE,
    BadCover,
    is_lmdb,
    picture_of,
    value_places,
)
from ninerec_data.pictures import Pixels

__all__ = ["BadCover", "Found", "Joined", "Source", "join", "open_source"]


@dataclass(frozen=True, slots=True)
class Found:
    """One file that may be a cover.

    name: where in the source, "/"-separated; of an LMDB the key. size: bytes as stored or claimed.
    stamp: changes when the bytes may have: the file's time, or the container's.
    """

    name: str
    size: int
    stamp: int


class Source(Protocol):
    """A place that covers come from."""

    path: Path

    def found(self) -> list[Found]:
        """What may be covers, sorted by name; hidden files and those that systems leave behind are not."""

    def read(self, name: str) -> bytes | Pixels:
        """One of them. Raises BadCover for what is no picture, MissingData where the file cannot be read."""

    def close(self) -> None:
        """Close what is open; the source is not read again."""


def open_source(path: Path, patterns: tuple[str, ...] = ()) -> Source:
    """Open a folder, zip, plain tar or LMDB (a file, or a folder with data.mdb), or what was downloaded.

    patterns: names of folders of covers; where an archive holds such a folder, only what lies in it counts.
    Raises MissingData for what cannot be read, CheckFailed for a damaged archive or store, or another kind of file.
    """
    with _refusal_is_said(path):
        if path.name.endswith(".provenance.parquet") and path.is_file():
            from ninerec_data.provenance import DownloadedCovers

            return DownloadedCovers(path, patterns)
        data = path / "data.mdb" if (path / "data.mdb").is_file() else path
        if data.is_dir():
            return _Folder(path)
        file = data.open("rb")
        try:
            return _packed(path, file, patterns)
        except BaseException:
            file.close()
            raise


def _packed(path: Path, file: BinaryIO, patterns: tuple[str, ...]) -> Source:
    if is_lmdb(file.read(20)):
        return _Lmdb(path, file)
    if zipfile.is_zipfile(file):
        return _Zip(path, file, patterns)
    refuse_not_data(Path(file.name))
    return _Tar(path, file, patterns)


@contextmanager
def _refusal_is_said(path: Path) -> Iterator[None]:
    """Turn what the system refuses into one message that names the file."""
    try:
        yield
    except OSError as error:
        msg = (
            f"cannot read {error.filename or path}: {error.strerror or error}; make it readable, or "
            "import the covers from where they are now: ninerec import DATASET PATH"
        )
        raise MissingData(msg) from error


def _is_clutter(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or (
        parts[-1].lower() == "thumbs.db"
    )


class _Folder:
    """Files at any depth; a link to a file stands for it, a link to a folder is not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def found(self) -> list[Found]:
        out, folders = [], [""]
        with _refusal_is_said(self.path):
            while folders:
                inside = folders.pop()
                with os.scandir(self.path / inside) as entries:
                    for entry in entries:
                        name = f"{inside}{entry.name}"
                        if _is_clutter(entry.name):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{name}/")
                        elif _is_plain(entry):
                            stat = entry.stat()
                            out.append(Found(_text(name), stat.st_size, stat.st_mtime_ns))
        return sorted(out, key=lambda file: file.name)

    def read(self, name: str) -> bytes:
        with _refusal_is_said(self.path), (self.path / name).open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise BadCover("too_large")
            return file.read(MAX_BYTES)

    def close(self) -> None:
        pass


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """A file, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _text(name: str) -> str:
    """The name, if it is one that a table can hold."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        msg = f"{name!a} is no UTF-8 name; rename the file and run the same command again"
        raise CheckFailed(msg) from error
    return name


class _Packed:
    """Many covers in one file, each at its place: offset, size."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}

    def found(self) -> list[Found]:
        stamp = os.fstat(self._file.fileno()).st_mtime_ns
        return [Found(name, size, stamp) for name, (_, size) in sorted(self._places.items())]

    def _bytes(self, offset: int, size: int, most: int = MAX_BYTES) -> bytes:
        if size > most:
            raise BadCover("too_large")
        with _refusal_is_said(self.path):
            file = self._file.fileno()
            if offset < 0 or offset + size > os.fstat(file).st_size:
                raise BadCover("damaged")
            return os.pread(file, size, offset)

    def close(self) -> None:
        self._file.close()

    __del__ = close


class _Lmdb(_Packed):
    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(path, file)
        self._places = value_places(file, path)
        for listing in ("__keys__", "__len__"):
            self._places.pop(listing, None)

    def read(self, name: str) -> bytes | Pixels:
        return picture_of(self._bytes(*self._places[name], most=MAX_VALUE))


class _Tar(_Packed):
    def __init__(self, path: Path, file: BinaryIO, patterns: tuple[str, ...]) -> None:
        super().__init__(path, file)
        places = {}
        file.seek(0)
        with (
            damage_is_said(path, "zip, plain tar or LMDB"),
            tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar,
        ):
            for info in infos_of(tar):
                plain = info.isfile() and not info.issparse()
                refuse_unsafe(path, info.name, is_link=not (plain or info.isdir()))
                if plain:
                    places[posixpath.normpath(info.name)] = info.offset_data, info.size
            end = os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset)
            if end != bytes(tarfile.BLOCKSIZE):  # at a damaged header tarfile stops in silence
                raise tarfile.ReadError(f"no end, but other bytes at {tar.offset:,}")
        self._places = {name: places[name] for name in _covers_of(places, patterns)}

    def read(self, name: str) -> bytes:
        return self._bytes(*self._places[name])


class _Zip(_Packed):
    """Members are read by their headers: zipfile shares one place in the file between its readers."""

    def __init__(self, path: Path, file: BinaryIO, patterns: tuple[str, ...]) -> None:
        super().__init__(path, file)
        infos = {}
        with damage_is_said(path, "zip"), zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                refuse_unsafe(path, info.filename, is_link=info.external_attr >> 28 == 0xA)
                if not info.filename.endswith("/"):  # a damaged name may be empty
                    infos[posixpath.normpath(info.filename.replace("\\", "/"))] = info
        self._infos = {name: infos[name] for name in _covers_of(infos, patterns)}
        self._places = {
            name: (info.header_offset, min(info.file_size, 1 << 62))
            for name, info in self._infos.items()
        }
        for name, info in self._infos.items():
            method = info.compress_type
            if info.flag_bits & 1 or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                what = "encrypted" if info.flag_bits & 1 else f"packed by method {method}"
                msg = f"{path}: {name} is {what}, which is not read here; unpack it and import the folder"
                raise CheckFailed(msg)

    def read(self, name: str) -> bytes:
        info = self._infos[name]
        if info.file_size > MAX_BYTES:
            raise BadCover("too_large")
        header = self._bytes(info.header_offset, 30)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        data = self._bytes(info.header_offset + 30 + lengths, info.compress_size)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
            except zlib.error as error:
                raise BadCover("damaged") from error
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise BadCover("damaged")
        return data


def _covers_of(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The members that may be covers: those in folders of the covers' own names, if there are any."""
    kept = [name for name in names if not _is_clutter(name)]

    def named(folder: str) -> bool:
        parts = folder.lower().split("/")
        return any(fnmatch.fnmatchcase(part, p.lower()) for part in parts for p in patterns)

    folders = {folder for folder in {name.rpartition("/")[0] for name in kept} if named(folder)}
    return [name for name in kept if name.rpartition("/")[0] in folders] if folders else kept
