"""Scenarios of a finished run: regular, cold, new, and the sequences of users outside a draw (DESIGN 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from baselines.config import Config
from baselines.evaluate import evaluate
from baselines.metrics import Ranks
from baselines.model import build_model, fingerprint_of, open_data, open_part
from baselines.results import choose_device, describe, score
from baselines.runs import Run
from loaders import Sequences
from ninerec_data import Dataset, Home, UsageError

__all__ = ["SCENARIOS", "evaluate_run"]

SCENARIOS = ("regular", "cold", "new", "cold-outside", "new-outside")


def evaluate_run(
    home: Home, run: Run, scenarios: Sequence[str], split: str, device: str = "auto"
) -> dict[str, Any]:
    """Score the best checkpoint; returns result.json's keys with `scenarios` {name: {hr@10, ndcg@10, n}}.

    cold and new are the regular users whose target is cold or new; a random scorer's HR@10 stands
    beside each figure. A look at test is counted in result.json before it is taken.
    Raises UsageError for an outside scenario where no users were drawn, or with `split` valid.
    """
    config = run.config
    ds = open_data(config, home)
    run.check_data(ds.name, fingerprint_of(config, ds))
    model = build_model(config, ds)
    model.load_state_dict(run.load_best())
    model.to(choose_device(device)[0])
    parts = {name: _part(config, ds, name, split) for name in scenarios}
    result = run.load_result() or describe(run, ds, model)
    if split == "test":
        result["test_looks"] += 1
        run.save_result(result)
    scored: dict[str, Ranks] = {}
    found = {}
    for name, part in parts.items():
        if part.part not in scored:
            scored[part.part] = evaluate(model, part)
        ranks = scored[part.part]
        if name in ("cold", "new"):
            ranks = ranks.only(ds.group[ranks.targets] == name)
        found[name] = _figures(ranks, ds)
        if split == "test":
            run.save_ranks("test" if name == "regular" else name, ranks, ds.item_ids)
    if split == "test" and "regular" in found:
        result["test"] = score(scored["test"], ds)
        run.save_result(result)
    return {**result, "split": split, "scenarios": found}


def _figures(ranks: Ranks, ds: Dataset) -> dict[str, float | int | None]:
    """Metrics, the random floor and the number of sequences; without sequences there is no figure."""
    figures = {**score(ranks, ds), "random_hr@10": ranks.random_hit(10)}
    known = {key: None if math.isnan(value) else value for key, value in figures.items()}
    return {**known, "n": len(ranks)}


def _part(config: Config, ds: Dataset, name: str, split: str) -> Sequences:
    """The sequences a scenario is scored on: the split's own, or those of users outside a draw."""
    if not name.endswith("-outside"):
        return open_part(config, ds, split)
    if split == "valid":
        msg = f"scenario '{name}' has no validation part; leave --split out"
        raise UsageError(msg)
    sequences = open_part(config, ds, name)
    if not len(sequences):
        msg = (
            f"{ds.name} has no {name} sequences: they come from users left outside a draw. "
            f"Prepare and train with one: ninerec prepare {ds.name} --users N"
        )
        raise UsageError(msg)
    return sequences
