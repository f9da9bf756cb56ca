"""Stage covers: shards and their index, and the cover columns of items.parquet, put in place at once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ninerec_data.catalog import Entry, catalog
from ninerec_data.cover_plan import CoverPlan, plan_covers
from ninerec_data.cover_shards import build_covers, with_covers
from ninerec_data.errors import UsageError
from ninerec_data.files import atomic_write, canonical_json, link_files, lock, staged_folder
from ninerec_data.formats import covers_patterns
from ninerec_data.home import Home
from ninerec_data.manifest import covers_of_store, current, file_facts, with_facts, write_manifest
from ninerec_data.pictures import Recipe
from ninerec_data.tables import write_parquet

__all__ = ["CoverOptions", "CoverStage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverOptions:
    """How covers are settled. missing: keep leaves items without a cover, blank gives them a grey one.

    siblings: whether those of the release's other datasets may be copied.
    jobs and engine decide how fast, never what comes out.
    """

    recipe: Recipe = field(default_factory=Recipe)
    missing: Literal["keep", "blank"] = "keep"
    siblings: bool = True
    jobs: int | None = None
    engine: str = "threads"


@dataclass(frozen=True, slots=True)
class CoverStage:
    """The covers stage of one dataset: its shards, and the cover columns of items.parquet."""

    home: Home
    entry: Entry
    folder: Path
    source: Path
    options: CoverOptions

    def settled(
        self, tables: dict[str, Any], done: list[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The manifests of the tables and the covers, made anew where what they follow from changed."""
        items = pl.read_parquet(self.folder / "items.parquet", glob=False)
        plan = plan_covers(
            self.home,
            items,
            self.source,
            covers_patterns(self.entry),
            dataset=self.entry.name,
            recipe=self.options.recipe,
            missing=self.options.missing,
        )
        covers = current(
            self.folder / "covers", {"parameters": plan.parameters, "inputs": plan.inputs}
        )
        if covers is None or tables.get("covers") != covers_of_store(covers):
            tables, covers = self._do(tables, items, plan)
            done.append("covers")
        for folder in self.folder.parent.glob(f"{self._waiting}*"):
            shutil.rmtree(folder)
        terms = {"terms": tables["terms"]}
        return tables, with_facts(self.folder / "covers", covers, terms, done)

    @property
    def _waiting(self) -> str:
        """How the folders begin in which finished shards wait; each goes on with the hash of a recipe."""
        return f".{self.entry.name}.covers-"

    def _do(
        self, tables: dict[str, Any], items: pl.DataFrame, plan: CoverPlan
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        log.info("%s: covers of %s items", self.entry.name, f"{items.height:,}")
        with staged_folder(self.folder) as staging, _siblings(self.home, self.entry) as siblings:
            link_files(self.folder, staging, ("covers", "items.parquet", "manifest.json"))
            (staging / "covers").mkdir()
            made = build_covers(
                self.home,
                plan,
                staging / "covers",
                work=self.folder.parent / f"{self._waiting}{plan.work}",
                standing=self.folder / "covers",
                siblings=siblings if self.options.siblings else (),
                jobs=self.options.jobs,
                engine=self.options.engine,
            )
            made |= {"parameters": plan.parameters, "terms": tables["terms"]}
            covers = write_manifest(staging / "covers", "covers", self.entry.name, made)
            write_parquet(with_covers(items, staging / "covers"), staging / "items.parquet")
            facts = file_facts(staging, ("items.parquet",))
            tables = {**tables, "outputs": {**tables["outputs"], **facts}}
            tables["covers"] = covers_of_store(covers)
            atomic_write(staging / "manifest.json", canonical_json(tables))
        return tables, covers


@contextmanager
def _siblings(home: Home, entry: Entry) -> Iterator[list[Path]]:
    """The covers of other prepared datasets of the release; one that another process is at is left out."""
    with ExitStack() as held:
        found = []
        for name, other in catalog().items():
            covers = home.prepared(name) / "covers"
            if name == entry.name or other.release != entry.release or not covers.exists():
                continue
            with suppress(UsageError):
                held.enter_context(lock(home.lock_of(name), shared=True))
                found.append(covers)
        yield found
