"""A run's folder: config.toml, log.jsonl, last.pt (to resume), best.safetensors, ranks, result.json."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from baselines.config import Config, make_config, to_toml
from baselines.metrics import Ranks
from ninerec_data import CheckFailed, Home, MissingData, UsageError
from ninerec_data.errors import nearest
from ninerec_data.files import atomic_write, canonical_json

__all__ = ["Run", "find_run", "new_run"]


@dataclass(frozen=True, slots=True)
class Run:
    """Files of one run. Everything is written whole; a kill loses at most `train.save_minutes`, or the epoch."""

    folder: Path
    config: Config

    @property
    def name(self) -> str:
        return self.folder.name

    def create(self, dataset: str, fingerprint: Mapping[str, str]) -> None:
        """Make the folder, where it is not there yet: when data and model are known to be good.

        data.json keeps the sha256 of all that the run learns from: from bytes to number.
        """
        if (self.folder / "config.toml").exists():
            self.check_data(dataset, fingerprint)
            return
        atomic_write(self.folder / "data.json", canonical_json(fingerprint))
        atomic_write(self.folder / "config.toml", to_toml(self.config))

    def check_data(self, dataset: str, fingerprint: Mapping[str, str]) -> None:
        """Raise CheckFailed where the prepared dataset is not the one the run was trained on."""
        kept = self.folder / "data.json"
        then = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        odd = sorted(k for k in {*then, *fingerprint} if then.get(k) != fingerprint.get(k))
        if odd:
            msg = (
                f"{dataset} is not the data that {self.name} was trained on: {', '.join(odd)} changed since; "
                "its numbers would not belong together. Train a new run, or bring the former bytes back"
            )
            raise CheckFailed(msg)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """The log's lines; a last one that a kill cut short is left out."""
        path = self.folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_log_until(self, epoch: int) -> None:
        """Drop what a killed run logged past its last checkpoint."""
        kept = [record for record in self.logged() if record["epoch"] <= epoch]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        atomic_write(self.folder / "log.jsonl", text)

    def save_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        atomic_write(self.folder / "last.pt", buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """The last checkpoint, within an epoch or after one; None before the first."""
        path = self.folder / "last.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            msg = f"{path} cannot be read ({error}); start the run anew without --resume"
            raise CheckFailed(msg) from error
        return state

    def save_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        atomic_write(self.folder / "best.safetensors", save_safetensors(tensors))

    def load_best(self) -> dict[str, torch.Tensor]:
        path = self.folder / "best.safetensors"
        if not path.exists():
            msg = f"{self.name} has no best checkpoint yet; run: ninerec train --resume {self.name}"
            raise MissingData(msg)
        weights: dict[str, torch.Tensor] = load_safetensors(path.read_bytes())
        return weights

    def save_ranks(self, part: str, ranks: Ranks, item_ids: list[str]) -> None:
        """Per-user ranks: what every metric can be recomputed from."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "user": pa.array(ranks.users, pa.int32()),
                "item_id": [item_ids[item - 1] for item in ranks.targets],
                "greater": ranks.greater,
                "equal": ranks.equal,
                "candidates": ranks.candidates,
                "missed": ranks.missed,
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", store_schema=False)
        name = "ranks.parquet" if part == "test" else f"ranks-{part}.parquet"
        atomic_write(self.folder / name, buffer.getvalue())

    def save_result(self, result: Mapping[str, Any]) -> None:
        atomic_write(self.folder / "result.json", canonical_json(result))

    def load_result(self) -> dict[str, Any] | None:
        path = self.folder / "result.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def new_run(home: Home, config: Config) -> Run:
    """A run named after what is trained; an existing name gets the next number. Nothing is written yet."""
    c = config
    parts = (c.data.dataset, c.model.user_encoder, c.model.item_encoder, c.model.objective)
    stem = "-".join((*parts, f"seed{c.train.seed}", c.hash))
    folder, number = home.runs / stem, 1
    while (folder / "config.toml").exists():
        number += 1
        folder = home.runs / f"{stem}-{number}"
    return Run(folder, config)


def find_run(home: Home, name: str) -> Run:
    """A run by name or folder. Raises UsageError for an unknown one, with the nearest."""
    folder = Path(name) if Path(name).joinpath("config.toml").exists() else home.runs / name
    if not (folder / "config.toml").exists():
        known = [path.parent.name for path in home.runs.glob("*/config.toml")]
        msg = f"no run '{name}' under {home.runs}{nearest(name, known)} See: ls {home.runs}"
        raise UsageError(msg)
    return Run(folder, make_config(folder / "config.toml", presets=False))
