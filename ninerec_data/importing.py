"""`import`: a release the user already holds (folder, zip, tar, single file) becomes raw files of a dataset."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ninerec_data.archives import is_archive, open_archive
from ninerec_data.catalog import Entry
from ninerec_data.errors import CheckFailed, MissingData
from ninerec_data.files import lock, sha256_file
from ninerec_data.formats import reader
from ninerec_data.formats.lines import refuse_not_data
from ninerec_data.home import Home
from ninerec_data.raw import held_files, hold, place
from ninerec_data.release import Role

__all__ = ["Imported", "import_release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What one import found: role -> path now held, and the roles that are still missing."""

    found: Mapping[str, Path]
    missing: tuple[Role, ...]


def import_release(home: Home, entry: Entry, path: Path) -> Imported:
    """Find a dataset's files under `path` and hold them; returns what was found.

    Raises MissingData where `path` or every file is absent, CheckFailed for what is not the file it
    claims to be (LFS pointer, web page, damaged archive) or stands there twice with different bytes.
    Required roles that neither this nor an earlier import found are in `missing`.
    """
    if not path.exists():
        msg = f"{path} does not exist; give the folder, zip or tar that holds {entry.title}"
        raise MissingData(msg)
    roles = reader(entry.format).roles(entry.options)
    with lock(home.raw / f".{entry.release}.lock"):
        if is_archive(path) and not _matching(path.name, roles):
            found, origins = _from_archive(home, entry, path, roles)
        else:
            found, origins = _from_folder(home, entry, path, roles)
        if not found:
            raise MissingData(_nothing_found(entry, path, roles))
        hold(home, entry.name, entry.release, found, origins)
        held = held_files(home, entry.name)
    missing = tuple(role for role in roles if role.required and role.name not in held)
    return Imported(found=found, missing=missing)


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


def _nothing_found(entry: Entry, path: Path, roles: tuple[Role, ...]) -> str:
    wanted = ", ".join(pattern for role in roles for pattern in role.patterns)
    return (
        f"nothing of {entry.name} under {path}: looked at any depth for {wanted}. "
        f"Give the folder or archive of the release, as `ninerec show {entry.name}` describes it"
    )


def _matching(name: str, roles: tuple[Role, ...]) -> tuple[Role, int] | None:
    """The role a file name serves and how good the pattern is (0 = best)."""
    for role in roles:
        for rank, pattern in enumerate(role.patterns):
            if fnmatch.fnmatchcase(name.lower(), pattern.lower()):
                return role, rank
    return None


def _from_folder(
    home: Home, entry: Entry, path: Path, roles: tuple[Role, ...]
) -> tuple[dict[str, Path], dict[str, str]]:
    candidates: dict[str, dict[int, list[Path]]] = {}
    for file in _walk(path, roles):
        match = _matching(file.name, roles)
        if match:
            candidates.setdefault(match[0].name, {}).setdefault(match[1], []).append(file)
    found, origins = {}, {}
    for role, ranked in candidates.items():
        file = _only_one(entry, role, ranked[min(ranked)])
        if file.is_file():
            refuse_not_data(file)
            found[role] = place(file, home, entry.release, f"{entry.name}/{file.name}")
        else:
            found[role] = file.absolute()
        origins[role] = str(file.absolute())
    return found, origins


def _walk(path: Path, roles: tuple[Role, ...]) -> list[Path]:
    """Every file and matching folder under `path`, sorted; a matching folder is not entered."""
    if path.is_file():
        return [path]
    out: list[Path] = []

    def unreadable(error: OSError) -> None:
        msg = f"cannot read {error.filename}: {error.strerror}; make it readable and run the import again"
        raise MissingData(msg)

    for folder, folders, names in os.walk(path, onerror=unreadable):
        whole = sorted(name for name in folders if _matching(name, roles))
        out += [Path(folder) / name for name in (*sorted(names), *whole)]
        folders[:] = sorted(name for name in folders if name not in whole)
    if _matching(path.name, roles):
        out.append(path)
    return out


def _only_one(entry: Entry, role: str, files: list[Path]) -> Path:
    if len(files) > 1 and len({sha256_file(f) if f.is_file() else str(f) for f in files}) > 1:
        names = ", ".join(map(str, files))
        msg = f"{len(files)} different files could be the {role} of {entry.name}: {names}; import the folder of one"
        raise CheckFailed(msg)
    return files[0]


def _from_archive(
    home: Home, entry: Entry, path: Path, roles: tuple[Role, ...]
) -> tuple[dict[str, Path], dict[str, str]]:
    found, origins = {}, {}
    with open_archive(path) as members:
        best: dict[str, tuple[int, int]] = {}
        for index, member in enumerate(members):
            match = _matching(PurePosixPath(member.name).name, roles)
            if match and (match[0].name not in best or match[1] < best[match[0].name][0]):
                best[match[0].name] = (match[1], index)
        for role, (_, index) in best.items():
            name = PurePosixPath(members[index].name).name
            target = home.raw / "files" / entry.release / entry.name / name
            members[index].extract(target)
            refuse_not_data(target)
            found[role], origins[role] = target, f"{path.absolute()}!{members[index].name}"
    return found, origins
