"""Backups of covers: where one can still be had when its origin says gone or blocked (`--backup`).

A backup is a folder of pictures or of WebDataset shards, a zip, a tar, an LMDB store, a zip on a server, or an http
base. Which file is of which item is found by joining the names that are there; no item id ever becomes a path.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import quote, urlsplit

from PIL import Image

from downloader.addresses import clean, redacted
from downloader.answers import Fault, Outcome, refused
from downloader.remote_zip import ABSENT, Opener, RemoteFile, RemoteZip, body_of
from ninerec_data.archives import damage_is_said, read_in_place
from ninerec_data.catalog import catalog
from ninerec_data.cover_names import join
from ninerec_data.cover_sources import BadCover, Found, Source, _Tar, open_source
from ninerec_data.errors import CheckFailed, MissingData, UsageError
from ninerec_data.files import full_disk_is_said
from ninerec_data.pictures import MAX_BYTES, Pixels
from ninerec_data.shards import identity

__all__ = ["Backup", "Opener", "open_backup"]

BESIDE = (".json", ".txt")  # what lies beside the pictures in shards


class Backup(Protocol):
    """Covers of one dataset from somewhere else. name: as the user typed it, without secrets."""

    name: str

    def lookup(self, item_id: str) -> str | None:
        """The name inside that is of the item, or None; of an http base, which has no listing, the base."""

    def read(self, item_id: str) -> tuple[bytes, str]:
        """The bytes and where they are from; for any thread.

        Raises LookupError where it has none, Fault for what cannot be had.
        """

    def read_all(self, item_ids: Iterable[str]) -> Iterator[tuple[str, bytes | Fault, str]]:
        """Item, bytes and where from, for each item it has; a fault instead of bytes for what cannot be had."""
        for item_id in item_ids:
            try:
                yield item_id, *self.read(item_id)
            except LookupError:
                continue
            except Fault as fault:
                yield item_id, fault, self.name

    def close(self) -> None:
        """Close what is open; the backup is not read again."""


def open_backup(
    spec: str,
    *,
    dataset: str,
    patterns: tuple[str, ...],
    item_ids: Sequence[str],
    only: bool,
    web: Opener | None,
) -> Backup:
    """Open what `--backup` names, for one dataset.

    patterns: names of the dataset's folder of covers; where the backup holds such a folder, or one of the dataset's
    name, only that one counts. only: whether no other dataset is asked for; else there must be such a folder, for
    the item ids of different datasets are the same. web: None for no network.
    Raises UsageError, MissingData, CheckFailed (no archive, or of another dataset), Fault where a server does not give.
    """
    name, own = redacted(spec), (dataset, *patterns)
    with _said(name):
        if "://" not in spec:
            source = _local(Path(spec).expanduser())
        elif web is None or not spec.lower().startswith(("http://", "https://")):
            why = "there is no network" if web is None else "only http and https are spoken here"
            raise UsageError(f"{why}; give a folder or archive")
        elif "{item}" in spec or not urlsplit(spec).path.lower().endswith(".zip"):
            return _Base(spec, dataset, only, web)
        else:
            url, only = _address(spec, dataset), only or "{dataset}" in spec
            source = RemoteZip(url, RemoteFile(url, web))
        stem = Path(name).name.partition(".")[0]
        try:
            return _Files(name, source, _names_of(source, stem, own, item_ids, only))
        except BaseException:
            source.close()
            raise


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    """Name the option in what is said of a backup that cannot be used."""
    try:
        yield
    except (OSError, CheckFailed, MissingData, UsageError) as error:
        refusal = error.__cause__ if isinstance(error, MissingData) else error
        if isinstance(refusal, OSError):
            said = f"{refusal.strerror or refusal}; name a folder or archive that can be read"
            raise MissingData(f"--backup {name}: {said}") from error
        raise type(error)(f"--backup {name}: {error}") from error
    except Fault as fault:
        if fault.status not in ABSENT:
            raise
        raise MissingData(
            f"--backup {name}: nothing is there ({fault.reason}); correct it"
        ) from fault


def _local(path: Path) -> Source:
    if path.is_dir() and not (path / "data.mdb").is_file():
        return _Tree(path)
    return open_source(path) if path.is_dir() or read_in_place(path) else _unpacked(path)


def _unpacked(path: Path) -> Source:
    """A compressed tar, in which no place can be sought: unpacked once, to a file without a name."""
    room = Path(tempfile.gettempdir(), path.name)
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(tempfile.TemporaryFile())
        with damage_is_said(path, "tar"), full_disk_is_said(room), tarfile.open(path) as tar:
            unpacked = cast("BinaryIO", tar.fileobj)
            unpacked.seek(0)
            shutil.copyfileobj(unpacked, file, 1 << 20)
        source = _Tar(path, file, ())
        opened.pop_all()  # the source closes it
        return source


def _address(base: str, dataset: str, item_id: str = "") -> str:
    """The address of an item, or of a zip."""
    whole = base.replace("{dataset}", quote(dataset, safe=""))
    return clean(whole.replace("{item}", quote(item_id, safe="")))


def _names_of(
    source: Source, stem: str, own: tuple[str, ...], item_ids: Sequence[str], only: bool
) -> dict[str, tuple[str, ...]]:
    """Item -> the files that are of it."""
    found = source.found()
    if isinstance(source, _Tree):
        found = source.opened(_inside(found, own) or found)
    mine = _inside(found, own)
    if not mine:
        _refuse_others(found, stem, own, only)
    files = [file for file in mine or found if not file.name.endswith(BESIDE)]
    try:
        joined = join(files, item_ids, own[0]).by_item
    except CheckFailed as error:
        some = ", ".join(repr(file.name) for file in files[:3]) or "none"
        msg = (
            f"this seems to be of another dataset: next to none of {len(files):,} files ({some}) is named after one "
            f"of the {len(item_ids):,} items of {own[0]} ({', '.join(map(repr, item_ids[:3]))}); expected "
            "<item id>.jpg, in any folder; give the backup of this dataset"
        )
        raise CheckFailed(msg) from error
    pairs = zip(item_ids, joined, strict=True)
    return {item_id: tuple(file.name for file in files) for item_id, files in pairs if files}


def _parts(file: Found) -> tuple[str, ...]:
    """The folders that a file lies in; a tar is a folder itself."""
    folder = file.name if file.name.endswith(".tar") else file.name.rpartition("/")[0]
    return tuple(folder.lower().split("/"))


def _inside(found: list[Found], own: Collection[str]) -> list[Found]:
    """The files that lie in a folder of one of these names, at any depth."""
    all_parts = {part for parts in set(map(_parts, found)) for part in parts}
    named = {part for part in all_parts for name in own if fnmatchcase(part, name.lower())}
    return [file for file in found if not named.isdisjoint(_parts(file))] if named else []


def _refuse_others(found: list[Found], stem: str, own: tuple[str, ...], only: bool) -> None:
    """Refuse what has no folder of the dataset, where it could be read as the dataset's by mistake."""
    expected = f"expected a folder {' or '.join(map(repr, own[:2]))} in it"
    if not only:
        msg = (
            f"nothing in it says which files are of {own[0]}, and different datasets have the same item ids (v1, v2, "
            f"...): {expected}; make one, or download {own[0]} alone"
        )
        raise UsageError(msg)
    covers = {f.name for entry in catalog().values() for f in entry.files if f.asset == "covers"}
    others = {name.rstrip("/").lower() for name in (*catalog(), *covers) if "_" in name}
    others -= {name.lower() for name in own}  # and not the likes of "images" or "tn"
    if wrong := others & {stem.lower(), *(part for file in found for part in _parts(file))}:
        said = f"this seems to be of another dataset, as '{min(wrong)}' says; {expected}"
        raise CheckFailed(said)


class _Files(Backup):
    """Files that were listed, each read when its item is asked for."""

    def __init__(self, name: str, source: Source, names: Mapping[str, tuple[str, ...]]) -> None:
        self.name, self._source, self._names = name, source, names
        self._prefix = f"{name.rstrip('/')}/" if isinstance(source, _Tree) else f"{name}!"

    def lookup(self, item_id: str) -> str | None:
        return self._names.get(item_id, (None,))[0]

    def read(self, item_id: str) -> tuple[bytes, str]:
        names = self._names[item_id]
        where = self._prefix + names[0].replace(".tar/", ".tar!")
        try:
            read = {_encoded(self._source.read(name)) for name in names}
        except BadCover as error:
            raise Fault(Outcome.REJECTED, error.reason, where) from error
        except (MissingData, OSError) as error:
            raise Fault(Outcome.TRANSIENT, "unreadable", where) from error
        if len(read) > 1:
            raise Fault(Outcome.REJECTED, "two_files", f"{where}, {', '.join(names[1:])}")
        return read.pop(), where

    def close(self) -> None:
        self._source.close()


def _encoded(data: bytes | Pixels) -> bytes:
    """The bytes of a file; raw pixels, which are none, as PNG, which keeps them."""
    if isinstance(data, bytes):
        return data
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (data.width, data.height), data.rgb)
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


class _Base(Backup):
    """Addresses made from item ids; what is there shows only when it is asked for."""

    def __init__(self, spec: str, dataset: str, only: bool, web: Opener) -> None:
        self._base = spec if "{item}" in spec else f"{spec.rstrip('/')}/{{item}}.jpg"
        self.name, self._dataset, self._web = redacted(spec), dataset, web
        plain = spec.replace("{item}", "").replace("{dataset}", "")
        no_place = "{" in plain or ("?" in plain and "{item}" not in spec)
        if no_place or not (only or "{dataset}" in spec):
            msg = (
                "expected an address that says where the item id belongs and, with several datasets, which dataset: "
                f"such as https://host/{{dataset}}/{{item}}.jpg; or download {dataset} alone"
            )
            raise UsageError(msg)

    def lookup(self, item_id: str) -> str | None:  # noqa: ARG002 - any item may be there
        return redacted(self._base)

    def read(self, item_id: str) -> tuple[bytes, str]:
        if not item_id.strip("."):  # a path of dots leads elsewhere, however it is encoded
            raise LookupError(item_id)
        url = _address(self._base, self._dataset, item_id)
        with self._web.open(url, {"Accept-Encoding": "identity"}) as answer:
            if answer.status in ABSENT:
                raise LookupError(item_id)
            if answer.status != 200:
                raise refused(answer.status)
            return body_of(answer, MAX_BYTES), redacted(url)

    def close(self) -> None:
        pass


class _Tree:
    """A folder of pictures and of tar shards, at any depth; a shard is opened for each read, there may be thousands."""

    def __init__(self, path: Path) -> None:
        self.path, self._folder = path, open_source(path)
        self._places: dict[str, tuple[Path, tuple[int, int, int], int, int]] = {}

    def found(self) -> list[Found]:
        return self._folder.found()

    def opened(self, found: list[Found]) -> list[Found]:
        """The same with the members of each tar in its place, as TAR/MEMBER."""
        shards = [file for file in found if file.name.endswith(".tar")]
        members = []
        for shard in shards:
            path = self.path / shard.name
            with path.open("rb") as file:
                seen, places = identity(os.fstat(file.fileno())), _Tar(path, file, ())._places
            for name, (offset, size) in places.items():
                if not name.endswith(BESIDE):
                    members.append(Found(f"{shard.name}/{name}", size, shard.stamp))
                    self._places[members[-1].name] = path, seen, offset, size
        return [file for file in found if not file.name.endswith(".tar")] + members

    def read(self, name: str) -> bytes | Pixels:
        if name not in self._places:
            return self._folder.read(name)
        path, seen, offset, size = self._places[name]
        if size > MAX_BYTES:
            raise BadCover("too_large")
        with path.open("rb") as file:
            if identity(os.fstat(file.fileno())) != seen:
                raise Fault(Outcome.TRANSIENT, "changed", f"{path} is not what was listed")
            return os.pread(file.fileno(), size, offset)

    def close(self) -> None:
        self._folder.close()
