"""A release with covers on disk, known to a catalog of its own: 2,050 items in three shards, few of them drawn."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ninerec_data import Dataset, Home, open_dataset
from ninerec_data.catalog import Entry, find
from ninerec_data.importing import import_release
from ninerec_data.pictures import Recipe, make_picture
from ninerec_data.prepare import CoverOptions, Prepared, prepare

NAME, SIBLING = "drawn", "drawn_more"
ITEMS = 2050
CATALOG = """\
title = "Drawn"
format = "generic"
release = "drawn"
text = { en = ["title_en"] }
"""
# Ids as they may come; the file of each is named by its key, or plainly where a file system can.
ODD = {7: "a.b.c", 8: "with blank", 9: "100%", 1009: "标题，一", 1010: "x/y", 2041: "n" * 210}
WITH_COVER = tuple(n for n in range(1, ITEMS + 1) if n % 26 == 0 or n in ODD)  # 84 items


def item_id(item: int) -> str:
    return ODD.get(item, f"v{item}")


def file_name(item: int) -> str:
    """The cover's name in the release: half are PNGs, so that the same pixels can come from an LMDB."""
    name = item_id(item).replace("%", "%25").replace("/", "%2F")
    return f"{name}.{'jpg' if item % 4 else 'png'}"


def pixels(seed: int, height: int = 9, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(seed: int, kind: str = "") -> bytes:
    """A small picture, PNG or JPEG by the seed as `file_name` says."""
    file = io.BytesIO()
    kind = kind or ("JPEG" if seed % 4 else "PNG")
    Image.fromarray(pixels(seed)).save(file, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return file.getvalue()


def write_covers(folder: Path, items: Iterable[int] = WITH_COVER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        (folder / file_name(item)).write_bytes(picture(item))
    return folder


def write_tables(folder: Path, items: int = ITEMS) -> Path:
    """interactions.csv and items.csv; users choose among items of every shard."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f'u{user},"{item_id(1 + (97 * user + 211 * step) % items)}"'
        for user in range(12)
        for step in range(6 + user % 3)
    ]
    titles = [f'"{item_id(n)}","Title {n}, one two three four five"' for n in range(1, items + 1)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    (folder / "items.csv").write_text("\n".join(["item_id,title_en", *titles]) + "\n")
    return folder


@dataclass(frozen=True)
class Covered:
    """The release in `folder/release`, imported into `home` as `name`."""

    folder: Path
    home: Home
    name: str = NAME

    @property
    def entry(self) -> Entry:
        return find(self.name)[0]

    @property
    def covers(self) -> Path:
        """The folder of the release's covers."""
        return self.folder / "release" / "covers"

    @property
    def prepared(self) -> Path:
        return self.home.prepared(self.name)

    def import_from(self, path: Path) -> None:
        import_release(self.home, self.entry, path)

    def prepare(self, *, max_words: int = 30, **covers: Any) -> Prepared:
        options = CoverOptions(**covers)
        return prepare(self.home, self.entry, max_words=max_words, covers=options)

    def open(self) -> Dataset:
        return open_dataset(self.name, home=self.home)


def known(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let `drawn` and `drawn_more`, two datasets of one release, be found."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (NAME, SIBLING):
        (folder / f"{name}.toml").write_text(CATALOG)
    patch.setenv("NINEREC_CATALOG", str(folder))


def make_covered(
    folder: Path, *, covers: bool = True, name: str = NAME, home: Home | None = None
) -> Covered:
    """Write the release under `folder` and import it; the catalog must be `known`."""
    write_tables(folder / "release")
    if covers:
        write_covers(folder / "release" / "covers")
    made = Covered(folder, home or Home(folder / "home"), name)
    made.import_from(folder / "release")
    return made


def clone(made: Covered, folder: Path) -> Covered:
    """The same home once more; its raw files stay where they are."""
    shutil.copytree(made.home.root, folder / "home")
    return Covered(made.folder, Home(folder / "home"), made.name)


def counted(patch: pytest.MonkeyPatch) -> list[Any]:
    """The published bytes of every picture that this process decodes from here on."""
    seen: list[Any] = []

    def make(data: Any, recipe: Recipe) -> Any:
        seen.append(data)
        return make_picture(data, recipe)

    patch.setattr("ninerec_data.covers.make_picture", make)
    return seen


def facts(ds: Dataset) -> Mapping[str, dict[str, Any]]:
    """item id -> its row of items.parquet."""
    return {row["item_id"]: row for row in ds.items.to_pylist()}
