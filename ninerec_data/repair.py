"""`verify --repair`: what fails its checks is made anew from the raw files, as it was made before."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninerec_data.catalog import Entry
from ninerec_data.errors import CheckFailed
from ninerec_data.home import Home
from ninerec_data.manifest import read_manifest
from ninerec_data.pictures import Recipe
from ninerec_data.prepare import CoverOptions, prepare

__all__ = ["repair"]

log = logging.getLogger(__name__)


def repair(home: Home, entry: Entry) -> tuple[str, ...]:
    """Prepare every split of a dataset again with the parameters that the manifests name; the stages redone.

    Files that are as their manifests say stay. A manifest that cannot be read gives way to the defaults.
    Raises MissingData and CheckFailed where the raw files are gone or changed.
    """
    folder = home.prepared(entry.name)
    tables = _parameters(folder)
    covers = _parameters(folder / "covers")
    recipe = {
        key: value
        for key, value in covers.get("recipe", {}).items()
        if key in ("size", "fit", "decode", "quality")
    }
    options = CoverOptions(recipe=Recipe(**recipe), missing=covers.get("missing", "keep"))
    splits = []
    for path in sorted((folder / "splits").glob("[!.]*")):
        if parameters := _parameters(path):
            splits.append(parameters)
        else:
            shutil.rmtree(path)
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


def _parameters(folder: Path) -> Mapping[str, Any]:
    try:
        manifest = read_manifest(folder / "manifest.json") or {}
    except CheckFailed as error:
        log.warning("%s: made anew with the defaults", error)
        return {}
    return dict(manifest.get("parameters", {}))
