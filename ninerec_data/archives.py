"""Zip and tar archives, listed and extracted safely: no links, no climbing, no bombs, no half files."""

from __future__ import annotations

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

__all__ = ["Member", "is_archive", "open_archive"]

MAX_RATIO = 1000  # deflate cannot pass 1032; text and tables stay under 100
RATIO_FLOOR = 64 << 20  # below this size an extreme ratio does no harm


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file of an archive: its path inside, its size in bytes, and how to open it."""

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
                msg = (
                    f"{self.name} is {part.stat().st_size:,} bytes, its archive says {self.size:,}"
                )
                raise CheckFailed(msg)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def is_archive(path: Path) -> bool:
    """Whether the bytes (not the name) are those of a zip or tar."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


@contextmanager
def open_archive(path: Path) -> Iterator[list[Member]]:
    """Yield the plain files of a zip or tar (gz, bz2, xz too), in archive order.

    Raises CheckFailed for a truncated or damaged archive, a path that climbs out or is absolute,
    a link or device, and a member that claims to unpack past MAX_RATIO.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield [
                    _zip_member(path, archive, info)
                    for info in archive.infolist()
                    if not info.is_dir()
                ]
        else:
            with tarfile.open(path) as tar:
                yield [_tar_member(path, tar, info) for info in tar if not info.isdir()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        msg = (
            f"{path} is truncated or damaged ({error}); fetch it again and compare its size with "
            "the one on the download page"
        )
        raise CheckFailed(msg) from error


def _zip_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    _refuse_unsafe(path, info.filename, is_link=(info.external_attr >> 28) == 0xA)
    if info.file_size > RATIO_FLOOR and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        msg = f"{path} looks like a bomb: {info.filename} claims {info.file_size:,} bytes out of {info.compress_size:,}"
        raise CheckFailed(msg)
    return Member(info.filename, info.file_size, lambda: archive.open(info))


def _tar_member(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    _refuse_unsafe(path, info.name, is_link=not info.isfile())

    def opened() -> IO[bytes]:
        file = tar.extractfile(info)
        if file is None:
            msg = f"{path}: {info.name} cannot be read"
            raise CheckFailed(msg)
        return file

    return Member(info.name, info.size, opened)


def _refuse_unsafe(path: Path, name: str, *, is_link: bool) -> None:
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or (inside.parts and ":" in inside.parts[0]):
        msg = f"{path} climbs out of its folder: it holds '{name}'; nothing was extracted. Do not trust this archive"
        raise CheckFailed(msg)
    if is_link:
        msg = f"{path} holds a link or device: '{name}'; only plain files are expected. Nothing was extracted"
        raise CheckFailed(msg)
