"""`verify --repair`: what fails its checks is made anew from the raw files, as it was made before."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninerec_data.catalog import Entry
from ninerec_data.errors import MissingData
from ninerec_data.files import atomic_write, canonical_json, lock
from ninerec_data.home import Home
from ninerec_data.manifest import manifest_or_none
from ninerec_data.pictures import Recipe
from ninerec_data.prepare import CoverOptions, held_for, prepare, protocol_for
from ninerec_data.protocol import PROTOCOLS

__all__ = ["repair"]


def repair(home: Home, entry: Entry, *, anew: bool = False) -> tuple[str, ...]:
    """Prepare every split of a dataset again with the parameters that the manifests name; the stages redone.

    Files that are as their manifests say stay, unless all is asked for `anew`. A manifest that cannot be read
    gives way to the defaults.
    Raises MissingData and CheckFailed where the raw files are gone or changed; then nothing is touched.
    """
    held = held_for(home, entry)
    folder = home.prepared(entry.name)
    tables = _parameters(folder)
    covers = _parameters(folder / "covers")
    if covers and "covers" not in held:
        msg = f"the covers of {entry.name} are no longer held; run: ninerec import {entry.name} PATH (of its covers)"
        raise MissingData(msg)
    recipe = {
        key: value
        for key, value in covers.get("recipe", {}).items()
        if key in ("size", "fit", "decode", "quality")
    }
    options = CoverOptions(
        recipe=Recipe(**recipe), missing=covers.get("missing", "keep"), siblings=not anew
    )
    named = [protocol_for(entry, name, {}).split for name in PROTOCOLS]
    defaults = {split.hash: split.as_json() for split in named}
    splits = []
    with lock(home.lock_of(entry.name)):
        for path in sorted((folder / "splits").glob("[!.]*")):
            if parameters := _parameters(path) or defaults.get(path.name):
                splits.append(parameters)
            else:
                shutil.rmtree(path)
        for path in folder.rglob("manifest.json") if anew else ():
            _distrust(path)
    done: list[str] = []
    for split in splits or [{}]:
        made = prepare(
            home,
            entry,
            split=split,
            max_words=tables.get("max_words", 30),
            covers=options,
        )
        done += [stage for stage in made.done if stage not in done]
    return tuple(done)


def _distrust(path: Path) -> None:
    """Let a manifest name no bytes of its files, so that none is taken for good."""
    manifest = manifest_or_none(path.parent)
    if manifest is not None:
        manifest["outputs"] = {name: {} for name in manifest["outputs"]}
        atomic_write(path, canonical_json(manifest))


def _parameters(folder: Path) -> Mapping[str, Any]:
    return dict((manifest_or_none(folder) or {}).get("parameters", {}))
