"""What a run says of itself: the device it takes, its memory, its metrics, result.json."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from baselines.metrics import Ranks
from baselines.model import Recommender
from baselines.runs import Run
from baselines.world import ALONE, World
from ninerec_data import Dataset, UsageError

__all__ = ["Progress", "choose_device", "describe", "peak_memory", "score"]


@dataclass(slots=True)
class Progress:
    """Where a run stands: what a checkpoint holds beside weights and optimizer."""

    epoch: int = 0  # epochs finished
    best_epoch: int = 0
    best: float = -1.0
    seconds: float = 0.0
    step: int = 0  # steps done of the epoch under way
    loss: float = 0.0  # their sum


def describe(run: Run, ds: Dataset, model: Recommender) -> dict[str, Any]:
    """result.json of a run that nothing has scored yet (DESIGN 7); times in seconds, memory in bytes."""
    config, state = run.config, run.load_state()
    progress = Progress(**state["progress"]) if state else Progress()
    device = next(model.parameters()).device
    return {
        "run": run.name,
        "dataset": ds.name,
        "protocol": ds.protocol.name,
        "protocol_hash": ds.protocol.hash,
        "user_encoder": config.model.user_encoder,
        "item_encoder": config.model.item_encoder,
        "objective": config.model.objective,
        "seed": config.train.seed,
        "valid": None,
        "test": None,
        "pool": int(ds.in_pool.sum()),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "seconds": round(progress.seconds, 2),
        "seconds_per_epoch": round(progress.seconds / max(progress.epoch, 1), 3),
        "params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": str(device),
        "peak_memory": peak_memory(device),
        "test_looks": 0,
    }


def score(ranks: Ranks, ds: Dataset) -> dict[str, float]:
    """The protocol's metrics of a set of ranks, in percent."""
    p = ds.protocol
    return ranks.metrics(names=p.metrics, cutoffs=p.cutoffs, ties=p.ties)


def choose_device(asked: str, world: World = ALONE) -> tuple[torch.device, str]:
    """The device to train on and why. "auto" takes CUDA where there is one."""
    count = torch.cuda.device_count()
    if asked.startswith("cuda") and world.size > 1 and asked != "cuda":
        msg = f"--device {asked}: {world.size} processes need one each; leave the number out"
        raise UsageError(msg)
    if world.local >= count > 0 and asked != "cpu":
        msg = (
            f"process {world.local + 1} of this machine has no CUDA device: there are {count}; "
            f"start with: torchrun --nproc-per-node {count}, or with --device cpu"
        )
        raise UsageError(msg)
    if asked == "auto" and count:
        found = torch.device("cuda", world.local) if world.size > 1 else torch.device("cuda")
        return found, f"device {found} ({torch.cuda.get_device_name(found)}): found"
    if asked == "auto":
        return torch.device("cpu"), "device cpu: no CUDA device found"
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = (
            f"the device '{asked}' cannot be used ({str(error).splitlines()[0]}); try --device cpu"
        )
        raise UsageError(msg) from error
    return device, f"device {asked}: as asked"


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak on CUDA, else the process's largest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
