"""Zip and tar archives, listed and extracted safely: no links, no climbing, no bombs, no half files."""

from __future__ import annotations

import errno
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ninerec_data.errors import CheckFailed
from ninerec_data.formats.lines import refuse_not_data

__all__ = [
    "Member",
    "damage_is_said",
    "infos_of",
    "is_archive",
    "open_archive",
    "read_in_place",
    "refuse_unsafe",
]

MAX_RATIO = 1000  # deflate cannot pass 1032; text and tables stay under 100
RATIO_FLOOR = 64 << 20  # below this size an extreme ratio does no harm
SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file of an archive: its path inside, its size in bytes, and how to open it."""

    archive: Path
    name: str
    size: int
    open: Callable[[], IO[bytes]]

    def extract(self, target: Path) -> None:
        """Write the member to `target`, whole or not at all; its checksum is verified on the way."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            with self.open() as source, part.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if part.stat().st_size != self.size:
                found = f"{part.stat().st_size:,} bytes of {self.name} where it says {self.size:,}"
                raise CheckFailed(f"{self.archive} is damaged: {found}; fetch it again")
            part.replace(target)
        except RuntimeError as error:  # zipfile's word for a password or a method it does not know
            msg = f"{self.archive}: {self.name} cannot be unpacked here ({error}); unpack it and import the folder"
            raise CheckFailed(msg) from error
        finally:
            part.unlink(missing_ok=True)


def is_archive(path: Path) -> bool:
    """Whether the bytes, or at least the name, are those of a zip or tar."""
    return path.is_file() and (path.suffix.lower() in SUFFIXES or _opens(path))


def _opens(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except _DAMAGE as error:
        _refuse_other_faults(error)
        return False


@contextmanager
def open_archive(path: Path) -> Iterator[list[Member]]:
    """Yield the plain files of a zip or tar (gz, bz2, xz too), in archive order.

    Raises CheckFailed for a truncated or damaged archive, a path that climbs out or is absolute,
    a link or device, and a member that claims to unpack past MAX_RATIO; MissingData for a web page
    or a Git LFS pointer under an archive's name.
    """
    if not _opens(path):
        refuse_not_data(path)
    with damage_is_said(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield [
                    _zip_member(path, archive, info)
                    for info in archive.infolist()
                    if not info.filename.endswith("/")  # a damaged name may be empty
                ]
        else:
            with tarfile.open(path) as tar:
                members = [
                    _tar_member(path, tar, info) for info in infos_of(tar) if not info.isdir()
                ]
                _read_on(tar)
                yield members


def read_in_place(path: Path) -> bool:
    """Whether one member of an archive can be read without the others: not where a tar is compressed."""
    with path.open("rb") as file:
        return not file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


@contextmanager
def damage_is_said(path: Path, kinds: str = "zip or tar") -> Iterator[None]:
    """Turn what zipfile and tarfile raise into one message."""
    try:
        yield
    except _DAMAGE as error:
        _refuse_other_faults(error)
        said = str(error).partition("\n")[0].rstrip(":")
        msg = (
            f"{path} is truncated, damaged or no {kinds} ({said}); compare its size with the one on "
            "the download page and fetch it again, or unpack it and import the folder"
        )
        raise CheckFailed(msg) from error


_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError),
    NotImplementedError,  # a zip of a later version than any
    UnicodeDecodeError,  # a name that says it is UTF-8 and is not
)


def _refuse_other_faults(error: Exception) -> None:
    """Raise an OSError that is the disk's; a damaged stream has no number, a seek before it EINVAL."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


def infos_of(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Every member, with tarfile's own word for a size that no file has: it would read in circles."""
    try:
        for info in tar:
            if info.size < 0:
                raise tarfile.ReadError(f"{info.size} bytes")
            yield info
    except ValueError as error:
        raise tarfile.ReadError(str(error)) from error


def _read_on(tar: tarfile.TarFile) -> None:
    """Read what is behind the last member: only at the end of a gz stream is its checksum compared."""
    while tar.fileobj and tar.fileobj.read(1 << 20):
        pass


def _zip_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    refuse_unsafe(path, info.filename, is_link=(info.external_attr >> 28) == 0xA)
    packed = min(info.compress_size, path.stat().st_size)  # what is claimed may be a lie too
    _refuse_bomb(path, info.filename, info.file_size, packed)
    return Member(path, info.filename, info.file_size, lambda: archive.open(info))


def _tar_member(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    refuse_unsafe(path, info.name, is_link=not info.isfile())
    _refuse_bomb(path, info.name, info.size, path.stat().st_size)  # sparse members claim anything

    def opened() -> IO[bytes]:
        file = tar.extractfile(info)
        if file is None:
            msg = f"{path}: {info.name} cannot be read"
            raise CheckFailed(msg)
        return file

    return Member(path, info.name, info.size, opened)


def _refuse_bomb(path: Path, name: str, size: int, packed: int) -> None:
    if size > RATIO_FLOOR and size > MAX_RATIO * max(packed, 1):
        msg = (
            f"{path} looks like a bomb: {name} claims {size:,} bytes out of {packed:,}; nothing was "
            "extracted. Where it is meant, unpack it yourself and import the folder"
        )
        raise CheckFailed(msg)


def refuse_unsafe(path: Path, name: str, *, is_link: bool) -> None:
    """Refuse an archive for a member that would lie elsewhere, or is no plain file."""
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or (inside.parts and ":" in inside.parts[0]):
        msg = (
            f"{path} climbs out of its folder: it holds '{name}'; nothing was extracted. "
            "Fetch the archive anew and import it again"
        )
        raise CheckFailed(msg)
    if is_link:
        msg = (
            f"{path} holds a link or device: '{name}'; only plain files are expected and nothing was "
            "extracted. Pack the files themselves, or import the folder"
        )
        raise CheckFailed(msg)
