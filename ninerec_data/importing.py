"""`import`: a release the user already holds (folder, zip, tar, single file) becomes raw files of a dataset."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from tempfile import TemporaryDirectory

from ninerec_data.archives import is_archive, open_archive, read_in_place
from ninerec_data.catalog import Entry
from ninerec_data.cover_sources import open_source
from ninerec_data.errors import CheckFailed, MissingData, NineRecError
from ninerec_data.files import full_disk_is_said, lock, sha256_file, sweep
from ninerec_data.formats import reader
from ninerec_data.formats.lines import refuse_not_data
from ninerec_data.home import Home
from ninerec_data.raw import held_files, hold, place
from ninerec_data.release import Role

__all__ = ["Imported", "import_release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What one import found: role -> path now held, and the roles that are still missing.

    left_in_archive: folders of covers inside the archive that are not held: they cannot be read where they lie.
    """

    found: Mapping[str, Path]
    missing: tuple[Role, ...]
    left_in_archive: tuple[str, ...] = ()


def import_release(
    home: Home, entry: Entry, path: Path, terms: str = "held by the user"
) -> Imported:
    """Find a dataset's files under `path` and hold them; returns what was found. terms: under which they are held.

    Raises MissingData where `path` or every file is absent, CheckFailed for what is not the file it
    claims to be (LFS pointer, web page, damaged archive) or stands there twice with different bytes.
    Required roles that neither this nor an earlier import found are in `missing`.
    """
    if not path.exists():
        msg = (
            f"{path} does not exist; give the folder, zip or tar that holds {entry.title}: "
            f"ninerec import {entry.name} PATH"
        )
        raise MissingData(msg)
    roles = reader(entry.format).roles(entry.options)
    folder = home.raw / "files" / entry.release
    with lock(home.raw / f".{entry.release}.lock"), full_disk_is_said(folder / entry.name):
        held_files(home, entry.name)  # a damaged journal is told before anything is put in place
        sweep(folder, entry.name)
        with _files_of(path, roles, folder / entry.name) as (files, archive, left):
            chosen = _choose(entry, files, roles)
            if left and archive in files.values():
                left = ()
                chosen.setdefault("covers", str(path.absolute()))
            if not chosen:
                raise MissingData(_nothing_found(entry, path, roles, left))
            for role, origin in chosen.items():
                _refuse_unfit(role, files[origin], origin, archive)
                if role == "covers":
                    patterns = next(r.patterns for r in roles if r.name == role)
                    open_source(
                        files[origin], patterns
                    ).close()  # damage is told now, not by prepare
            found = {  # nothing is put in place before everything has been found good
                role: _put(home, entry, files[origin], roles, archive)
                for role, origin in chosen.items()
            }
            hold(home, entry.name, entry.release, found, chosen, terms)
        held = held_files(home, entry.name)
    missing = tuple(role for role in roles if role.required and role.name not in held)
    return Imported(found=found, missing=missing, left_in_archive=left)


def missing_message(entry: Entry, missing: tuple[Role, ...], path: Path | None = None) -> str:
    """Name each missing file and where it is looked for."""
    wanted = "; ".join(
        f"{' or '.join(role.patterns)} ({role.about or role.name})" for role in missing
    )
    where = f"not found at any depth under {path}" if path else "not imported yet"
    return (
        f"{entry.name} lacks its {' and '.join(role.name for role in missing)} file: {wanted}: {where}. "
        f"Get it as `ninerec show {entry.name}` says, then run: ninerec import {entry.name} PATH"
    )


def _nothing_found(entry: Entry, path: Path, roles: tuple[Role, ...], left: tuple[str, ...]) -> str:
    wanted = ", ".join(pattern for role in roles for pattern in role.patterns)
    if path.is_file():
        looked = f"in {path}: it neither is, nor is a zip or tar that holds, one of {wanted}"
        looked += (
            f", but for covers that cannot be read there ({left[0]}): unpack it" if left else ""
        )
    else:
        looked = f"under {path}: looked at any depth for {wanted}"
    give = f"Give the folder or archive of the release, as `ninerec show {entry.name}` describes it"
    return f"nothing of {entry.name} {looked}. {give}"


def _matching(path: PurePath, roles: tuple[Role, ...]) -> tuple[Role, int, str] | None:
    """The role a path serves, how good the pattern is (0 = best), and the end of the path it matched.

    A pattern with folders in it ("MINDsmall_dev/news.tsv") is held against as many parts of the path.
    A plain name goes before any wildcard: `text.csv` is the items of a format whose interactions are `*.csv`.
    """
    wild = None
    for role in roles:
        for rank, pattern in enumerate(role.patterns):
            end = "/".join(path.parts[-len(PurePosixPath(pattern).parts) :])
            if end.lower() == pattern.lower():
                return role, rank, end
            if wild is None and fnmatch.fnmatchcase(end.lower(), pattern.lower()):
                wild = role, rank, end
    return wild


def _is_covers(path: PurePath, roles: tuple[Role, ...]) -> bool:
    match = _matching(path, roles)
    return match is not None and match[0].name == "covers"


def _is_packed_covers(path: Path, roles: tuple[Role, ...]) -> bool:
    """Whether it is a compressed tar of covers, by its name: it is not read in place."""
    name = re.sub(r"(\.tar)?\.(gz|bz2|xz)$|\.(tgz|tbz2|txz)$", "", path.name, flags=re.IGNORECASE)
    return name != path.name and _is_covers(PurePath(name), roles)


@contextmanager
def _files_of(
    path: Path, roles: tuple[Role, ...], beside: Path
) -> Iterator[tuple[dict[str, Path], Path | None, tuple[str, ...]]]:
    """Every file a role may take, by where it comes from; the archive if it is one; folders of covers inside.

    The archive itself is among the files where covers can be read in it.
    """
    if not is_archive(path) or _matching(path, roles):
        files = {str(file.absolute()): file for file in _walk(path, roles)}
        yield files, None, tuple(name for name in files if _is_packed_covers(Path(name), roles))
        return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=f".tmp-{beside.name}-", dir=beside.parent) as temporary,
        open_archive(path) as members,
    ):
        files = {}
        names = [PurePosixPath(member.name) for member in members]
        folders = {inside for name in names for inside in name.parents}
        left = sorted(str(inside) for inside in folders if _is_covers(inside, roles))
        for number, member in enumerate(members):
            file = Path(temporary) / str(number) / path.stem / member.name
            if _matching(file, roles):
                member.extract(file)
                files[f"{path.absolute()}!{member.name}"] = file
        if left and read_in_place(path) and not any(name.name == "data.mdb" for name in names):
            files[str(path.absolute())] = path
        yield files, path, tuple(left)


def _walk(path: Path, roles: tuple[Role, ...]) -> list[Path]:
    """Every file that a role may take, and folders of covers, which are not entered; sorted."""
    if path.is_file():
        return [path]
    out: list[Path] = []

    def unreadable(error: OSError) -> None:
        msg = (
            f"cannot read {error.filename}: {error.strerror}; make it readable and import it again"
        )
        raise MissingData(msg)

    for folder, folders, names in os.walk(path, onerror=unreadable):
        whole = sorted(name for name in folders if _is_covers(PurePath(name), roles))
        plain = sorted(name for name in names if not name.endswith(".lmdb-lock"))
        out += [Path(folder) / name for name in (*plain, *whole)]
        folders[:] = sorted(name for name in folders if name not in whole)
    if _is_covers(PurePath(path.name), roles):
        out.append(path)
    return out


def _choose(entry: Entry, files: Mapping[str, Path], roles: tuple[Role, ...]) -> dict[str, str]:
    """role -> where its file comes from: the best name wins; equal names must hold equal bytes."""
    candidates: dict[str, dict[int, list[str]]] = {}
    for origin, file in files.items():
        match = _matching(file, roles)
        if match:
            candidates.setdefault(match[0].name, {}).setdefault(match[1], []).append(origin)
    chosen = {}
    for role, ranked in candidates.items():
        best = ranked[min(ranked)]
        if len(best) > 1 and len({_bytes_of(files[o]) for o in best}) > 1:
            names = ", ".join(best)
            msg = (
                f"{len(best)} different files could be the {role} of {entry.name}: {names}; "
                f"import the folder of one: ninerec import {entry.name} PATH"
            )
            raise CheckFailed(msg)
        chosen[role] = best[0]
    return chosen


def _bytes_of(path: Path) -> str:
    return sha256_file(path) if path.is_file() else str(path)


def _refuse_unfit(role: str, file: Path, origin: str, archive: Path | None) -> None:
    """Refuse what is not the file it claims to be, and a name that the journal cannot hold."""
    try:
        origin.encode()
    except UnicodeEncodeError as error:
        msg = f"{origin!a} is no UTF-8 name; rename it and import it again"
        raise CheckFailed(msg) from error
    if file != archive and (role != "covers" or not file.is_dir()):
        try:
            refuse_not_data(file)
        except NineRecError as error:
            # The user knows the member of the archive, not where it is now.
            raise type(error)(str(error).replace(str(file), origin)) from error


def _put(
    home: Home, entry: Entry, file: Path, roles: tuple[Role, ...], archive: Path | None
) -> Path:
    """Where a file is held from now on: under raw/files, or where the user has it."""
    if file.is_dir():
        return file.absolute()
    match = _matching(file, roles)
    inside = f"{entry.name}/{match[2] if match else file.name}"
    if archive is None or file == archive:
        return place(file, home, entry.release, inside)
    target = home.raw / "files" / entry.release / inside
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)
    return target
