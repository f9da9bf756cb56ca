"""Several ranks give what one process gives: batches, weights up to float summation, ranks, files; gloo on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import Toy, make_model, make_toy, read_json, varied

from baselines.config import make_config
from baselines.evaluate import evaluate, item_table
from baselines.model import Recommender, _whole
from baselines.objectives import in_batch
from baselines.runs import Run, new_run
from baselines.training import train
from baselines.world import ALONE, World, join
from loaders import Sequences, make_loader
from ninerec_data import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

WORLDS = (2, 3)
# 35 train sequences in batches of 17: the last is of one sequence, so that ranks stand idle.
SETTINGS = [
    "data.dataset=toy", "model.dim=8", "train.batch_size=17", "train.device=cpu", "train.epochs=2",
    "train.lr=0.01", "train.item_lr=0.01", "model.dropout=0",
]  # fmt: skip
FEATURES = 3  # numbers of an item in the gradient test


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    file, histories = varied(users=25)
    made = make_toy(tmp_path_factory.mktemp("toy"), file, histories)
    made.prepare()
    return made


def at_once(world: int, work: Callable[[World], Any]) -> list[Any]:
    """What `work` returns on each rank of a new world, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def rank_of(rank: int) -> None:
        torch.set_num_threads(1)
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in names.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
        try:
            with join() as joined:
                answers.put((rank, work(joined), None))
        except BaseException:
            answers.put((rank, None, traceback.format_exc()))

    processes = [fork.Process(target=rank_of, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    found = sorted((answers.get() for _ in processes), key=lambda answer: answer[0])
    for process in processes:
        process.join()
    assert [error for _, _, error in found if error] == []
    return [answer for _, answer, _ in found]


def weights(run: Run) -> dict[str, torch.Tensor]:
    state = run.load_state()
    assert state is not None
    return state["model"]


@pytest.mark.parametrize(("objective", "world"), [("bce", 2), ("in-batch", 3)])
def test_a_run_of_several_ranks_is_the_run_of_one(toy: Toy, objective: str, world: int) -> None:
    config = make_config(None, [*SETTINGS, f"model.objective={objective}"])
    alone = new_run(toy.home, config)
    result = train(toy.home, alone, say=lambda _: None)
    shared = new_run(toy.home, config)
    said = Path(shared.folder.parent / f"said-{shared.name}")

    def work(joined: World) -> Any:
        say = said.open("a").write if joined.rank else (lambda _: 0)
        return train(toy.home, shared, say=say, world=joined)

    found = at_once(world, work)
    for name, value in weights(alone).items():
        assert torch.allclose(value, weights(shared)[name], atol=1e-6), name
    for one in found:
        assert one["test"] == pytest.approx(result["test"], abs=1e-9)
        assert one["valid"] == pytest.approx(result["valid"], abs=1e-9)
    assert read_json(shared.folder / "result.json")["test_looks"] == 1
    assert [line["epoch"] for line in shared.logged()] == [1, 2]
    assert [line["loss"] for line in shared.logged()] == pytest.approx(
        [line["loss"] for line in alone.logged()], abs=1e-6
    )
    assert said.read_text() == ""  # the first rank alone speaks


@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_on_several_ranks_repeats_no_row_and_changes_no_rank(
    toy: Toy, world: int
) -> None:
    ds = toy.open()
    model = make_model(ds)
    sequences = Sequences(ds, "test")
    want = evaluate(model, sequences, batch_size=4)
    table = item_table(model, sequences, chunk=7)

    def work(joined: World) -> Any:
        ranks = evaluate(model, sequences, batch_size=4, world=joined)
        shared = item_table(model, sequences, chunk=7, world=joined)
        wide = item_table(model, sequences, chunk=10_000, world=joined)  # fewer chunks than ranks
        columns = (ranks.users, ranks.targets, ranks.greater, ranks.equal, ranks.candidates)
        return columns, torch.equal(shared, table), torch.equal(wide, table)

    for columns, same, also in at_once(world, work):
        assert same
        assert also
        for got, wanted in zip(
            columns,
            (want.users, want.targets, want.greater, want.equal, want.candidates),
            strict=True,
        ):
            assert np.array_equal(got, wanted)


@pytest.mark.parametrize("world", WORLDS)
def test_the_loss_and_the_gradient_of_the_ranks_are_those_of_the_global_batch(
    toy: Toy, world: int
) -> None:
    sequences = Sequences(toy.open(), "train", negatives=False)

    def table(requires: bool = True) -> torch.Tensor:
        seeded = torch.Generator().manual_seed(3)
        rows = torch.randn(sequences.ds.n_items + 1, FEATURES, generator=seeded)
        return rows.requires_grad_(requires)

    def loss_of(vectors: torch.Tensor, batch: Any, joined: World) -> torch.Tensor:
        whole, batch = _whole(vectors, batch, joined)
        share = batch.predict.sum() / joined.sum(batch.predict.sum())
        if not batch.predict.any():
            return whole.sum() * 0
        return in_batch(whole[batch.inputs], whole, batch) * share

    def work(joined: World) -> Any:
        found = []
        for position in range(3):  # a full batch, and one with idle ranks
            every = table()
            batch = make_loader(sequences, 17, 0, rank=joined.rank, world=joined.size).make(
                0, position
            )
            loss = loss_of(every[batch.unique_items], batch, joined)
            loss.backward()
            found.append((loss.item(), every.grad.numpy()))
        return found

    want = work(ALONE)
    ranks = at_once(world, work)
    for at, (loss, gradient) in enumerate(want):
        assert sum(rank[at][0] for rank in ranks) == pytest.approx(loss, abs=1e-6)
        assert np.allclose(sum(rank[at][1] for rank in ranks), gradient, atol=1e-6)


@pytest.mark.parametrize("world", [*WORLDS, 5])
def test_ranks_take_equal_steps_and_an_idle_one_predicts_nothing(toy: Toy, world: int) -> None:
    sequences = Sequences(toy.open(), "train")
    ranks = [make_loader(sequences, 17, 0, rank=r, world=world) for r in range(world)]
    assert len({len(loader) for loader in ranks}) == 1
    assert len(sequences) % 17 == 1  # one batch is of one sequence
    short = next(at for at in range(3) if len(make_loader(sequences, 17).make(0, at).users) == 1)
    last = [loader.make(0, short) for loader in ranks]
    assert [bool(batch.predict.any()) for batch in last] == [True] + [False] * (world - 1)
    assert [int(batch.copies.sum()) > 0 for batch in last] == [True] + [False] * (world - 1)
    assert all(len(batch.unique_items) for batch in last)


@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_batches_repeat_no_sequence(toy: Toy, world: int) -> None:
    sequences = Sequences(toy.open(), "test")
    ranks = [make_loader(sequences, 8, rank=r, world=world) for r in range(world)]
    seen = [user for loader in ranks for batch in loader.at(0) for user in batch.users.tolist()]
    assert sorted(seen) == sorted(sequences.user.tolist())


def test_without_torchruns_variables_the_way_to_start_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun --nproc-per-node"), join():
        pass


def test_a_world_of_one_is_alone() -> None:
    with join() as world:
        assert world == ALONE
    tensor = torch.ones(2)
    assert world.rows(tensor)[0] is tensor
    assert world.sum(tensor) is tensor
    assert replace(ALONE, rank=1, size=2).first is False


def test_a_model_is_not_changed_by_a_world_of_one(toy: Toy) -> None:
    ds = toy.open()
    model: Recommender = make_model(ds)
    batch = Sequences(ds, "train").batch(np.arange(5))
    model.eval()
    assert torch.equal(model(batch), model(batch, ALONE))
