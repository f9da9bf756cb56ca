"""Several processes as one: torchrun's ranks share each global batch, and the result is that of one process.

Every rank holds the same weights, which are a function of the seed. What they exchange is written out
here, always in the same order: rows of the item table where an objective compares across the batch,
the number of predicted places, and the gradients.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ninerec_data import CheckFailed, UsageError

__all__ = ["ALONE", "World", "join"]


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size`. The methods return at once where it is alone."""

    rank: int = 0
    size: int = 1
    local: int = 0  # rank on this machine: which device

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def told(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wait(self) -> None:
        """Until every rank is here."""
        self.gathered(None)

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's value, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def rows(self, local: Tensor) -> list[Tensor]:
        """Every rank's rows (n_r, ...), floats; a gradient that reaches them goes back to their rank."""
        if self.size == 1:
            return [local]
        sizes = self.gathered(len(local))
        whole: Tensor = _Rows.apply(local, sizes, self.rank)  # type: ignore[no-untyped-call]
        return list(torch.split(whole, sizes))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over ranks; a parameter without one on this rank has zeros."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)


ALONE = World()


@contextlib.contextmanager
def join() -> Iterator[World]:
    """The world that torchrun's environment names (NCCL between devices, else gloo); without it, this process alone.

    Raises CheckFailed where another rank ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        msg = (
            f"WORLD_SIZE is {size}, but {', '.join(missing)} not set; start with: "
            "torchrun --nproc-per-node N -m ninerec train ..."
        )
        raise UsageError(msg)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    # Objects, and tensors of --device cpu, go by gloo also where there is CUDA.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(dist.get_rank(), size, local)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise CheckFailed("another process of this run ended; its message says why") from error
    dist.destroy_process_group()  # not after an error: NCCL would wait for ranks that wait for this one


class _Rows(torch.autograd.Function):
    """All ranks' rows, one after another. Every rank's loss reads all rows, so their gradients add up."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.start, ctx.n = sum(sizes[:rank]), sizes[rank]
        padded = local.new_zeros(max(sizes), *local.shape[1:])
        padded[: len(local)] = local
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([rows[:n] for rows, n in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.n], None, None
