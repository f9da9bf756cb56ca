"""The training loop: data, forward, loss, step, validation, checkpoint; plain PyTorch, one process or torchrun's.

Everything random is a function of (seed, epoch, step), so a resumed run takes the very steps an
undisturbed one takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from baselines.config import Config
from baselines.evaluate import evaluate
from baselines.groups import parameter_groups
from baselines.model import Recommender, build_model, fingerprint_of, open_data, open_part
from baselines.results import Progress, choose_device, describe, score
from baselines.runs import Run
from baselines.world import ALONE, World
from loaders import make_loader
from ninerec_data import CheckFailed, Home, UsageError, draws
from ninerec_data.files import lock, sweep

__all__ = ["train"]

DROPOUT = 21  # stream of the counter hash


def train(
    home: Home,
    run: Run,
    *,
    test: bool = True,
    say: Callable[[str], None] = print,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train a run from where it stands to its end, keep the best checkpoint, evaluate it; return result.json.

    test: look at the test part once at the end (counted in `test_looks`).
    world: the ranks that share each batch (`baselines.world.join`); the first writes and speaks.
    Raises CheckFailed where the loss is no longer finite; the best checkpoint is kept. UsageError where
    another process is at work on the run.
    """
    training = _Training(home, run, world, say if world.first else lambda _: None)
    alone = lock(run.folder.parent / f".{run.name}.lock") if world.first else nullcontext()
    with alone:
        training.begin()
        return training.go(test=test)


class _Training:
    """One run in one process: its data, model, optimizer, and where it stands."""

    def __init__(self, home: Home, run: Run, world: World, say: Callable[[str], None]) -> None:
        self.run, self.config, self.world, self.say = run, run.config, world, say
        self.device, why = choose_device(self.config.train.device, world)
        self.ds = open_data(self.config, home)
        say(f"{run.name}: {self.ds}; {why}" + (f", {world.size} processes" * (world.size > 1)))
        self.parts = {part: open_part(self.config, self.ds, part) for part in ("train", "valid")}
        model = build_model(self.config, self.ds).to(self.device)
        self.model = _synchronised(model, self.device, world)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.config), fused=True)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        say(f"{trained:,} trained parameters")
        self.progress, self.saved = Progress(), time.monotonic()

    def begin(self) -> None:
        """Make the run's folder, or take up its last checkpoint: the same on every rank."""
        run = self.run
        if self.world.first:
            sweep(run.folder, "*")  # what a kill left half written
            run.create(self.ds.name, fingerprint_of(self.config, self.ds))
        self.world.wait()
        if state := run.load_state():
            self.progress = Progress(**state["progress"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        if self.world.first:
            run.keep_log_until(self.progress.epoch)
        self.world.wait()  # nobody writes before all have read

    def go(self, *, test: bool) -> dict[str, Any]:
        """Epoch after epoch, then the best checkpoint's figures."""
        t, progress = self.config.train, self.progress
        while progress.epoch < t.epochs:
            if progress.epoch - progress.best_epoch >= t.patience:
                selection = self.ds.protocol.selection
                self.say(f"no better {selection} for {t.patience} epochs: stopped")
                break
            self._epoch()
        return self._finish(test=test)

    def _epoch(self) -> None:
        """One epoch: train, validate, keep the best, log, checkpoint."""
        started, before, progress = time.perf_counter(), self.progress.seconds, self.progress
        loss = self._steps(started)
        ranks = evaluate(self.model, self.parts["valid"], exact=False, world=self.world)
        measured = score(ranks, self.ds)
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        progress.seconds = before + time.perf_counter() - started
        better = measured[self.ds.protocol.selection] > progress.best
        if better:
            progress.best = measured[self.ds.protocol.selection]
            progress.best_epoch = progress.epoch
        record = {"epoch": progress.epoch, "loss": loss, **measured}
        if self.world.first:
            if better:
                self.run.save_best(self.model.state_dict())
            self.run.log({**record, "seconds": round(time.perf_counter() - started, 3)})
            self._checkpoint()
        shown = "  ".join(f"{key} {value:.4f}" for key, value in record.items() if key != "epoch")
        self.say(f"epoch {progress.epoch:3d}  {shown}{'  *' if better else ''}")

    def _steps(self, started: float) -> float:
        """The steps of this epoch that are still to be done; returns the mean loss of all its steps."""
        t, progress, device = self.config.train, self.progress, self.device
        loader = make_loader(
            self.parts["train"],
            t.batch_size,
            t.seed,
            similar=self.config.data.similar,
            workers=t.workers,
            rank=self.world.rank,
            world=self.world.size,
        )
        self.model.train()
        total = torch.full((), progress.loss, device=device)
        bad = torch.full((), -1, device=device)
        check_every = 1 if device.type == "cpu" else 50  # reading a loss waits for the device
        bar = tqdm(
            loader.at(progress.epoch, progress.step),
            f"epoch {progress.epoch + 1}",
            len(loader),
            initial=progress.step,
            leave=False,
            disable=None if self.world.first else True,
        )
        before = progress.seconds
        for step, batch in enumerate(bar, start=progress.step):
            loss = self._step(batch.to(device), step)
            total += loss
            bad = torch.where((bad < 0) & ~torch.isfinite(loss), step, bad)
            if ((step + 1) % check_every == 0 or step + 1 == len(loader)) and int(bad) >= 0:
                raise CheckFailed(_not_finite(progress.epoch, int(bad), self.config))
            progress.step = step + 1
            due = self.world.first and time.monotonic() - self.saved >= 60 * t.save_minutes
            if due and progress.step < len(loader) and int(bad) < 0:
                progress.loss = float(total)
                progress.seconds = before + time.perf_counter() - started
                self._checkpoint()
        return float(total) / max(len(loader), 1)

    def _step(self, batch: Any, step: int) -> torch.Tensor:
        """One step of the optimizer; returns the global batch's loss, detached."""
        t, world = self.config.train, self.world
        key = (DROPOUT, self.progress.epoch, step, *([world.rank] if world.rank else ()))
        torch.manual_seed(int(draws.bits(t.seed, *key) >> 1))
        autocast = self.device.type == "cuda" and t.precision == "bf16"
        autocast = autocast and torch.cuda.is_bf16_supported(including_emulation=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            loss = self.model(batch, world)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        world.sum_gradients(self.model.parameters())
        self.optimizer.step()
        return world.sum(loss.detach())

    def _finish(self, *, test: bool) -> dict[str, Any]:
        """Evaluate the best checkpoint and write result.json and the per-user ranks."""
        run, ds, world = self.run, self.ds, self.world
        world.wait()  # until the first rank has written the best checkpoint
        if self.progress.best_epoch:
            self.model.load_state_dict(run.load_best())
        before = run.load_result() or {}
        result = describe(run, ds, self.model)
        result["valid"] = score(evaluate(self.model, self.parts["valid"], world=world), ds)
        result["test_looks"] = before.get("test_looks", 0)
        if before.get("best_epoch") == self.progress.best_epoch:
            result["test"] = before["test"]
        if test:
            result["test_looks"] += 1
            if world.first:
                run.save_result(result)  # a look is counted before it is taken
            ranks = evaluate(self.model, open_part(run.config, ds, "test"), world=world)
            result["test"] = score(ranks, ds)
            if world.first:
                run.save_ranks("test", ranks, ds.item_ids)
        if world.first:
            run.save_result(result)
        return result

    def _checkpoint(self) -> None:
        self.run.save_state(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.progress),
            }
        )
        self.saved = time.monotonic()


def _synchronised(model: Recommender, device: torch.device, world: World) -> Recommender:
    """With batch statistics over all ranks, where the model takes any."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if world.size == 1 or not any(p.requires_grad for norm in norms for p in norm.parameters()):
        return model
    if device.type != "cuda":
        msg = (
            "a ResNet's batch statistics cannot be shared by processes without CUDA; train in one process, "
            "with --set model.frozen=true, or with --set model.image_model=swin_t"
        )
        raise UsageError(msg)
    shared: Recommender = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return shared


def _not_finite(epoch: int, step: int, config: Config) -> str:
    t = config.train
    return (
        f"the loss is not finite (NaN or infinity) at epoch {epoch + 1}, step {step + 1} with learning rates "
        f"{t.lr:g} (user encoder) and {t.item_lr:g} (item encoder); the best checkpoint so far is kept. "
        f"Train again with lower ones, such as: --set train.lr={t.lr / 10:g} --set train.item_lr={t.item_lr / 10:g}"
    )
