"""The training loop: data, forward, loss, step, validation, checkpoint; plain PyTorch, one process.

Everything random is a function of (seed, epoch, step), so a resumed run takes the very steps an
undisturbed one takes.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from baselines.config import Config
from baselines.evaluate import evaluate
from baselines.metrics import Ranks
from baselines.model import Recommender, build_model, open_data, open_part, parameter_groups
from baselines.runs import Run
from loaders import Sequences, make_loader
from ninerec_data import CheckFailed, Dataset, Home, UsageError, draws
from ninerec_data.files import lock

__all__ = ["choose_device", "describe", "score", "train"]

DROPOUT = 21  # stream of the counter hash


@dataclass(slots=True)
class Progress:
    """Where a run stands: what a checkpoint holds beside weights and optimizer."""

    epoch: int = 0  # epochs finished
    best_epoch: int = 0
    best: float = -1.0
    seconds: float = 0.0


def train(
    home: Home, run: Run, *, test: bool = True, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train a run from where it stands to its end, keep the best checkpoint, evaluate it; return result.json.

    test: look at the test part once at the end (counted in `test_looks`).
    Raises CheckFailed where the loss is no longer finite; the best checkpoint is kept. UsageError where
    another process is at work on the run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        msg = "training on several processes (torchrun) is not built yet; run `ninerec train` without torchrun"
        raise UsageError(msg)
    config = run.config
    device, why = choose_device(config.train.device)
    ds = open_data(config, home)
    say(f"{run.name}: {ds}; {why}")
    parts = {part: open_part(config, ds, part) for part in ("train", "valid")}
    model = build_model(config, ds).to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
    say(f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} trained parameters")
    with lock(run.folder.parent / f".{run.name}.lock"):
        run.create(ds)
        progress = _resume(run, model, optimizer)
        while progress.epoch < config.train.epochs:
            if progress.epoch - progress.best_epoch >= config.train.patience:
                say(
                    f"no better {ds.protocol.selection} for {config.train.patience} epochs: stopped"
                )
                break
            _train_epoch(run, model, optimizer, parts, progress, say)
        return finish(run, ds, model, progress, test=test)


def _train_epoch(
    run: Run,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
    parts: Mapping[str, Sequences],
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """One epoch: train, validate, keep the best, log, checkpoint."""
    started = time.perf_counter()
    ds = parts["valid"].ds
    loss = _epoch(model, optimizer, parts["train"], run.config, progress.epoch)
    measured = score(evaluate(model, parts["valid"], exact=False), ds)
    progress.epoch += 1
    progress.seconds += time.perf_counter() - started
    better = measured[ds.protocol.selection] > progress.best
    if better:
        progress.best, progress.best_epoch = measured[ds.protocol.selection], progress.epoch
        run.save_best(model.state_dict())
    record = {"epoch": progress.epoch, "loss": loss, **measured}
    run.log({**record, "seconds": round(time.perf_counter() - started, 3)})
    _checkpoint(run, model, optimizer, progress)
    shown = "  ".join(f"{key} {value:.4f}" for key, value in record.items() if key != "epoch")
    say(f"epoch {progress.epoch:3d}  {shown}{'  *' if better else ''}")


def finish(
    run: Run, ds: Dataset, model: Recommender, progress: Progress, *, test: bool
) -> dict[str, Any]:
    """Evaluate the best checkpoint and write result.json and the per-user ranks."""
    if progress.best_epoch:
        model.load_state_dict(run.load_best())
    before = run.load_result() or {}
    result = describe(run, ds, model)
    result["valid"] = score(evaluate(model, open_part(run.config, ds, "valid")), ds)
    result["test_looks"] = before.get("test_looks", 0)
    if before.get("best_epoch") == progress.best_epoch:
        result["test"] = before["test"]
    if test:
        ranks = evaluate(model, open_part(run.config, ds, "test"))
        run.save_ranks("test", ranks, ds.item_ids)
        result.update(test=score(ranks, ds), test_looks=result["test_looks"] + 1)
    run.save_result(result)
    return result


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


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The device to train on and why. "auto" takes CUDA where there is one."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device(
                "cuda"
            ), f"device cuda ({torch.cuda.get_device_name()}): the first one found"
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


def _epoch(
    model: Recommender,
    optimizer: torch.optim.Optimizer,
    sequences: Sequences,
    config: Config,
    epoch: int,
) -> float:
    """One pass over the training sequences; returns the mean loss of its steps."""
    t, device = config.train, next(model.parameters()).device
    loader = make_loader(
        sequences, t.batch_size, t.seed, similar=config.data.similar, workers=t.workers
    )
    model.train()
    total, bad = torch.zeros((), device=device), torch.full((), -1, device=device)
    check_every = 1 if device.type == "cpu" else 50  # reading a loss waits for the device
    autocast = device.type == "cuda" and t.precision == "bf16" and torch.cuda.is_bf16_supported()
    bar = tqdm(loader.at(epoch), f"epoch {epoch + 1}", len(loader), leave=False, disable=None)
    for step, batch in enumerate(bar):
        torch.manual_seed(int(draws.bits(t.seed, DROPOUT, epoch, step) >> 1))
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        bad = torch.where((bad < 0) & ~torch.isfinite(loss.detach()), step, bad)
        if ((step + 1) % check_every == 0 or step + 1 == len(loader)) and int(bad) >= 0:
            raise CheckFailed(_not_finite(epoch, int(bad), config))
    return float(total) / max(len(loader), 1)


def _not_finite(epoch: int, step: int, config: Config) -> str:
    t = config.train
    return (
        f"the loss is not finite (NaN or infinity) at epoch {epoch + 1}, step {step + 1} with learning rates "
        f"{t.lr:g} (user encoder) and {t.item_lr:g} (item encoder); the best checkpoint so far is kept. "
        f"Train again with lower ones, such as: --set train.lr={t.lr / 10:g} --set train.item_lr={t.item_lr / 10:g}"
    )


def _resume(run: Run, model: Recommender, optimizer: torch.optim.Optimizer) -> Progress:
    state = run.load_state()
    if state is None:
        run.keep_log_until(0)
        return Progress()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    progress = Progress(**state["progress"])
    run.keep_log_until(progress.epoch)
    return progress


def _checkpoint(
    run: Run, model: Recommender, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    run.save_state(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": asdict(progress),
        }
    )
