"""Frozen features: a bundle of one vector an item, made once, with the recipe it was made by (DESIGN 3).

features/<dataset>/<name>-<hash8>/
    features.safetensors   features (n_items + 1, F) float32 or float16, row i = item i, row 0 zero;
                           present (n_items + 1,) bool, False where an item had nothing to be encoded
    recipe.json            schema, dataset, items (sha256 of the item ids in order), counts, dtype, sha256 of the
                           tensors, and what the encoder was
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ninerec_data import CheckFailed, Dataset, Home, UsageError
from ninerec_data.errors import nearest
from ninerec_data.files import atomic_write, canonical_json, lock, sha256_file, staged_folder, sweep
from ninerec_data.shards import identity

__all__ = ["Features", "find_features", "fingerprint", "item_order", "write_bundle"]

SCHEMA = 1
TENSORS, RECIPE = "features.safetensors", "recipe.json"


class Features:
    """The rows of a bundle, mapped from its file by each process.

    recipe: what the bundle was made from; present: (n_items + 1,) bool tensor.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.folder, self.recipe = folder, recipe
        with safe_open(folder / TENSORS, framework="pt") as file:
            self._rows: Tensor = file.get_tensor("features")
            self.present: Tensor = file.get_tensor("present")

    @classmethod
    def open(cls, where: str | Path, ds: Dataset) -> Features:
        """A bundle by its folder, or by its name under the features of the dataset's home.

        Raises UsageError where there is no such bundle, or where it was made for other items or another
        order of them; CheckFailed where it is of another schema or damaged.
        """
        folder = find_features(Home(ds.folder.parents[1]), ds.name, where)
        recipe = _recipe(folder)
        fingerprint(folder)
        if recipe.get("items") != item_order(ds):
            count = recipe["counts"]["items"]
            msg = (
                f"the features in {folder} were made for {recipe['dataset']} ({count:,} items); this is {ds.name} "
                f"({ds.n_items:,} items), whose items are others or in another order; make its own: "
                f"ninerec embed {ds.name} --encoder {recipe.get('encoder', 'MODEL')}"
            )
            raise UsageError(msg)
        return cls(folder, recipe)

    @property
    def width(self) -> int:
        """F, the numbers of one item."""
        return self._rows.shape[1]

    def of(self, items: NDArray[np.int64]) -> Tensor:
        """(U, F) float32 rows of these items; zero where the bundle has none.

        Raises CheckFailed for a file that was cut short since it was opened.
        """
        path = self.folder / TENSORS
        if (
            path.is_file() and path.stat().st_size < self._rows.nbytes
        ):  # a map past its end is a SIGBUS
            raise CheckFailed(f"{path} was cut short; run the `ninerec embed` that made it again")
        return self._rows[torch.from_numpy(items)].float()

    def __reduce__(self) -> tuple[Any, ...]:
        return Features, (self.folder, self.recipe)


def find_features(home: Home, dataset: str, where: str | Path) -> Path:
    """The folder of a bundle: `where` itself, or a name under features/<dataset>/, its hash left out or not.

    Raises UsageError where no bundle, or more than one, has that name.
    """
    given, base = Path(where).expanduser(), home.features(dataset)
    if (given / RECIPE).is_file():
        return given
    known = [path.parent.name for path in base.glob(f"[!.]*/{RECIPE}")]
    found = sorted(name for name in known if str(where) in (name, name.rpartition("-")[0]))
    if len(found) == 1:
        return base / found[0]
    if found:
        msg = (
            f"{dataset} has several features '{where}': {', '.join(found)}; give one with its hash"
        )
        raise UsageError(msg)
    names = {end for name in known for end in (name, name.rpartition("-")[0])}
    msg = (
        f"'{where}' is no folder of features, and none of that name is under {base}{nearest(str(where), names)} "
        f"Make some: ninerec embed {dataset} --encoder MODEL, and name them: --set model.features=NAME"
    )
    raise UsageError(msg)


def fingerprint(folder: Path) -> str:
    """The sha256 of a bundle's tensors: what a run keeps of the features it learns from.

    Read once a process. Raises CheckFailed where the file is not the one the recipe names.
    """
    path, said = folder / TENSORS, _recipe(folder).get("sha256")
    if not path.is_file() or (found := _digest(path, identity(path.stat()))) != said:
        msg = f"{path} is missing, damaged or changed; run the `ninerec embed` that made it again"
        raise CheckFailed(msg)
    return found


def item_order(ds: Dataset) -> str:
    """sha256 of the ids of items 1..n_items in their order."""
    text = json.dumps(ds.item_ids, ensure_ascii=False, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write_bundle(
    folder: Path, ds: Dataset, features: Tensor, present: Tensor, recipe: Mapping[str, Any]
) -> None:
    """Write a bundle whole, in place of an older one; the same tensors and recipe give the same bytes.

    features: (n_items + 1, F) float32 or float16, on the CPU; present: (n_items + 1,) bool, row 0 False.
    Rows of items that are not present must be zero.
    Raises UsageError for other shapes or rows, CheckFailed for numbers that are not finite.
    """
    n_rows = ds.n_items + 1
    if features.ndim != 2 or {len(features), len(present)} != {n_rows} or present[0]:
        msg = (
            f"{ds.name} has {ds.n_items:,} items: expected features ({n_rows}, F) and present ({n_rows},), row 0 "
            f"for no item; got {tuple(features.shape)} and {tuple(present.shape)}"
        )
        raise UsageError(msg)
    if features[~present].any():
        raise UsageError("rows of items that are not present must be zero")
    if not torch.isfinite(features).all():
        msg = f"features for {ds.name} are not finite in {features.dtype}; try --dtype float32"
        raise CheckFailed(msg)
    counts = {"items": ds.n_items, "present": int(present.sum()), "width": features.shape[1]}
    with lock(folder.parent / f".{folder.name}.lock"):
        sweep(folder.parent, folder.name)
        with staged_folder(folder) as staging:
            try:
                save_file({"features": features, "present": present}, staging / TENSORS)
            except SafetensorError as error:
                msg = f"{folder} cannot be written ({error}); free some space, or choose another --home"
                raise CheckFailed(msg) from error
            facts = {
                **recipe,
                "schema": SCHEMA,
                "dataset": ds.name,
                "items": item_order(ds),
                "counts": counts,
                "dtype": str(features.dtype).removeprefix("torch."),
                "sha256": sha256_file(staging / TENSORS),
            }
            atomic_write(staging / RECIPE, canonical_json(facts))


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        schema = recipe.get("schema")
    except (ValueError, AttributeError) as error:
        msg = f"{folder / RECIPE} is damaged ({error}); run the `ninerec embed` that made it again"
        raise CheckFailed(msg) from error
    if schema != SCHEMA:
        msg = (
            f"the features in {folder} are of schema {schema}, this ninerec reads {SCHEMA}; make them again: "
            f"ninerec embed {recipe.get('dataset', 'DATASET')} --encoder {recipe.get('encoder', 'MODEL')}"
        )
        raise CheckFailed(msg)
    return recipe


@cache
def _digest(path: Path, _identity: tuple[int, int, int]) -> str:
    return sha256_file(path)
