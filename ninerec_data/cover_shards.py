"""Stage covers: what a release holds of covers becomes shards and an index (DESIGN 3.2).

A shard with the same inputs (cover_plan.py) is linked, not written: from the covers that stand, or from the
work folder, where each finished shard of a killed run lies with its receipt.
A picture that a sibling (same release, same recipe) settled is copied, not decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from ninerec_data.cover_plan import CoverPlan, cover_parameters, shard_inputs
from ninerec_data.covers import TWO_FILES, Claim, Job, Made, Stocked, settle
from ninerec_data.engine import in_order
from ninerec_data.files import atomic_write, link_or_copy, sha256_file
from ninerec_data.home import Home
from ninerec_data.manifest import INDEX, changed_files, file_facts, manifest_or_none
from ninerec_data.pictures import Recipe, blank
from ninerec_data.raw import remember_digests
from ninerec_data.shards import SHARD_ITEMS, Sample, shard_name, write_shard
from ninerec_data.tables import write_parquet

__all__ = [
    "COVER_COLUMNS",
    "INDEX_SCHEMA",
    "build_covers",
    "cover_counts",
    "with_covers",
]

PART = 100  # items of a task
INDEX_SCHEMA = {
    "item": pl.Int32,
    "cover": pl.String,
    "cover_reason": pl.String,
    "shard": pl.Int32,
    "offset": pl.Int64,
    "size": pl.Int64,
    "width": pl.Int32,
    "height": pl.Int32,
    "file": pl.String,
    "source": pl.String,
}
COVER_COLUMNS = [*INDEX_SCHEMA][1:8]  # those that items.parquet repeats
Row = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that was written, with what it was made from and its rows of the index."""

    tar: Path
    inputs: str
    sha256: str
    rows: list[Row]

    @property
    def facts(self) -> dict[str, Any]:
        return {"size": self.tar.stat().st_size, "sha256": self.sha256}


def build_covers(
    home: Home,
    plan: CoverPlan,
    staging: Path,
    *,
    work: Path,
    standing: Path,
    siblings: Iterable[Path],
    jobs: int | None,
    engine: str,
) -> dict[str, Any]:
    """Write every shard and the index into `staging`; return the inputs of each shard, the outputs and the counts.

    work: where finished shards wait until all are; standing: the covers of before; siblings: covers of
    datasets of the same release.
    """
    work.mkdir(parents=True, exist_ok=True)
    old = _whole([*_waiting(work), *_standing(standing, plan.recipe)])
    shard_by_inputs = {inputs: shard for shard, inputs in enumerate(plan.inputs) if inputs}
    done = {shard_by_inputs[f.inputs]: f for f in old if f.inputs in shard_by_inputs}
    todo = [shard for shard in range(len(plan.inputs)) if shard not in done]
    if todo:
        of_siblings = _whole([f for path in siblings for f in _standing(path, plan.recipe)])
        stock = {**plan.stock, **_stock([*old, *of_siblings])}
        tars = {finished.sha256: finished.tar for finished in old}
        job = Job(plan.path, plan.patterns, plan.stamp, plan.recipe, stock)
        for shard, made in _made(plan, job, todo, jobs, engine):
            new = _finish(home, plan, shard, made, work)
            done[shard] = replace(new, tar=tars.get(new.sha256, new.tar))  # bytes that stand stay
            stock.update(_stock([done[shard]]))  # for items to come that share a picture
    shards = [done[shard] for shard in range(len(plan.inputs))]
    outputs = {}
    for shard, finished in enumerate(shards):
        name = shard_name(shard)
        link_or_copy(finished.tar, staging / name)
        outputs[name] = finished.facts
    rows = [row for finished in shards for row in finished.rows]
    write_parquet(pl.DataFrame(rows, schema=INDEX_SCHEMA), staging / INDEX)
    log.info("covers: %s of %s shards written", len(todo), len(shards))
    return {
        "inputs": [finished.inputs for finished in shards],
        "outputs": {**outputs, **file_facts(staging, (INDEX,))},
        "counts": {**cover_counts(rows), "files_that_join_no_item": len(plan.strangers)},
    }


def _standing(folder: Path, recipe: Recipe) -> Iterator[Finished]:
    """The shards of a covers folder that was made with this recipe; none where it does not stand."""
    manifest = manifest_or_none(folder)
    wanted = cover_parameters(recipe, "")
    if manifest is None or any(
        manifest["parameters"].get(key) != wanted[key] for key in ("recipe", "codecs")
    ):
        return
    if changed_files(folder, {INDEX: manifest["outputs"][INDEX]}):
        log.warning("%s changed since its manifest: its shards are not used", folder / INDEX)
        return
    index = pl.read_parquet(folder / INDEX, glob=False)
    for shard, inputs in enumerate(manifest["inputs"]):
        rows = index.slice(shard * SHARD_ITEMS, SHARD_ITEMS).to_dicts()
        name = shard_name(shard)
        yield Finished(folder / name, inputs, manifest["outputs"][name]["sha256"], rows)


def _waiting(work: Path) -> Iterator[Finished]:
    """The shards that a run finished which did not finish itself."""
    for receipt in sorted(work.glob("*.json")):
        with suppress(ValueError, TypeError):  # one that is damaged: its shard is made again
            facts = json.loads(receipt.read_text(encoding="utf-8"))
            yield Finished(receipt.with_suffix(".tar"), **facts)


def _whole(shards: list[Finished]) -> list[Finished]:
    """Those whose bytes are the ones that were written."""
    checked = zip(shards, in_order(_is_whole, None, shards), strict=True)
    return [finished for finished, whole in checked if whole]


def _is_whole(_: None, finished: Finished) -> bool:
    return finished.tar.is_file() and sha256_file(finished.tar) == finished.sha256


def _stock(shards: list[Finished]) -> dict[str, Stocked]:
    """Digest of published bytes -> what was made of them."""
    stock = {}
    for finished in shards:
        for row in finished.rows:
            reason = row["cover_reason"]
            if row["source"] is None or (reason or "").startswith(TWO_FILES):
                continue
            path = finished.tar if row["cover"] == "ok" else None
            place = (path, row["offset"], row["size"], row["width"], row["height"], reason)
            stock[row["source"]] = Stocked(*place)
    return stock


def _made(
    plan: CoverPlan, job: Job, todo: list[int], jobs: int | None, engine: str
) -> Iterator[tuple[int, list[Made]]]:
    """Settle the items of each shard, in parts; yields whole shards in order."""
    parts = [
        (shard, tuple(plan.claims[at : min(at + PART, (shard + 1) * SHARD_ITEMS)]))
        for shard in todo
        for at in range(shard * SHARD_ITEMS, min((shard + 1) * SHARD_ITEMS, len(plan.claims)), PART)
    ]
    settled = in_order(settle, job, (part for _, part in parts), jobs=jobs, engine=engine)
    total = sum(len(part) for _, part in parts)
    with tqdm(total=total, desc="covers", unit="item", disable=None) as bar:
        made: list[Made] = []
        for number, ((shard, part), some) in enumerate(zip(parts, settled, strict=True)):
            made += some
            bar.update(len(part))
            if number + 1 == len(parts) or parts[number + 1][0] != shard:
                yield shard, made
                made = []


def _finish(home: Home, plan: CoverPlan, shard: int, made: list[Made], work: Path) -> Finished:
    """Write one shard, then its receipt, then what was learned of the files; each whole or not at all."""
    first = shard * SHARD_ITEMS
    instead = blank(plan.recipe) if plan.missing == "blank" else None
    jpegs = [m.jpeg or instead for m in made]
    facts = plan.facts[first : first + len(made)]
    samples = [Sample(f, text, jpeg) for (f, text), jpeg in zip(facts, jpegs, strict=True) if jpeg]
    buffer = io.BytesIO()
    offsets = iter(write_shard(buffer, samples))
    claims = plan.claims[first : first + len(made)]
    rows = [
        _row(m, claim, shard, next(offsets) if jpeg else None, len(jpeg or b""))
        for m, claim, jpeg in zip(made, claims, jpegs, strict=True)
    ]
    inputs = shard_inputs(
        plan.parameters, [_learned(c, m) for c, m in zip(claims, made, strict=True)], facts
    )
    data = buffer.getvalue()
    hexdigest = hashlib.sha256(data).hexdigest()
    tar = work / f"{shard:05d}-{hexdigest}.tar"  # never in place of another, which may be stock
    atomic_write(tar, data)
    digest = f"sha256:{hexdigest}"
    finished = Finished(tar, inputs or "", digest, rows)
    receipt = {"inputs": finished.inputs, "sha256": digest, "rows": rows}
    atomic_write(tar.with_suffix(".json"), json.dumps(receipt))
    digests = {(f.name, f.size, f.stamp): d for m in made for f, d in m.digests.items()}
    if digests:
        remember_digests(home, plan.path, digests)
    return finished


def _learned(claim: Claim, made: Made) -> Claim:
    """The claim with the digests of the files that were read for it."""
    digests = (made.digests.get(f, d) for f, d in zip(claim.files, claim.digests, strict=True))
    return Claim(claim.item, claim.files, tuple(digests))


def _row(made: Made, claim: Claim, shard: int, offset: int | None, size: int) -> Row:
    return {
        "item": made.item,
        "cover": made.cover,
        "cover_reason": made.reason,
        "shard": None if offset is None else shard,
        "offset": offset,
        "size": None if offset is None else size,
        "width": made.width,
        "height": made.height,
        "file": claim.files[0].name if claim.files else None,
        "source": made.source,
    }


def with_covers(items: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """The item table with the cover columns of a finished covers folder."""
    index = pl.read_parquet(folder / INDEX, glob=False)
    return items.with_columns(index[name] for name in COVER_COLUMNS)


def cover_counts(rows: Iterable[Row]) -> dict[str, Any]:
    """Items by cover, and by the code of the reason."""
    rows = list(rows)
    covers = Counter(row["cover"] for row in rows)
    reasons = Counter(row["cover_reason"].partition(":")[0] for row in rows if row["cover_reason"])
    return {
        **{cover: covers[cover] for cover in ("ok", "missing", "broken")},
        "reasons": dict(sorted(reasons.items())),
    }
