"""Taken up again at any step, after any kill, an epoch and a run are those that nothing disturbed, bit for bit.

Three kills; NINEREC_TEST_LONG=1 takes twenty with a checkpoint at every step, and twenty with one an epoch.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from covered import Covered, known, write_covers, write_tables
from toy import Toy, make_toy, read_json, varied

from baselines.config import make_config
from baselines.model import Recommender
from baselines.runs import Run, new_run
from baselines.training import train
from loaders import Batch, Sequences, make_loader
from ninerec_data import Dataset, Home
from ninerec_data.pictures import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = bool(os.environ.get("NINEREC_TEST_LONG"))
KILLS = [(0, n) for n in range(20 if LONG else 2)] + [(10, n) for n in range(20 if LONG else 1)]
EPOCHS = 2
STEPS = 5  # of an epoch: 35 train sequences in batches of 8
MOMENTS = {0: 44, 10: 28}  # steps and changes of the disk of a run, by save_minutes
SETTINGS = [
    "data.dataset=toy", "data.sampler=popularity", "data.similar=2", "model.dim=8",
    "train.batch_size=8", "train.device=cpu", f"train.epochs={EPOCHS}", "train.lr=0.01",
    "train.item_lr=0.01",
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """Sixty items, half of them with a cover of 16 pixels."""
    folder = tmp_path_factory.mktemp("drawn")
    release = write_tables(folder / "release", 60)
    write_covers(release / "covers", range(1, 60, 2))
    with pytest.MonkeyPatch.context() as patch:
        known(folder / "catalog", patch)
        covered = Covered(folder, Home(folder / "home"))
        covered.import_from(release)
        covered.prepare(recipe=Recipe(size=16))
        yield covered.open()


def equal(a: Batch, b: Batch) -> bool:
    for field in fields(Batch):
        left, right = getattr(a, field.name), getattr(b, field.name)
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        if not same:
            return False
    return True


@pytest.mark.parametrize("sample", ["s2s", "s2o", "masked", "pairs", "subsequences"])
def test_an_epoch_of_text_and_images_goes_on_at_every_step(drawn: Dataset, sample: str) -> None:
    sequences = Sequences(drawn, content=("text", "image"), sample=sample)
    size = 7 if sample == "pairs" else 2
    whole = list(make_loader(sequences, size, seed=3, similar=2).at(4))
    assert len(whole) >= 6
    assert any(batch.has_image.any() and not batch.has_image.all() for batch in whole)
    for position in range(len(whole) + 1):
        rest = list(make_loader(sequences, size, seed=3, similar=2).at(4, position))
        assert len(rest) == len(whole) - position
        assert all(map(equal, whole[position:], rest))


@pytest.mark.parametrize(("workers", "rank"), [(2, 0), (0, 1)])
def test_it_goes_on_in_workers_and_on_each_rank(drawn: Dataset, workers: int, rank: int) -> None:
    sequences = Sequences(drawn, content=("text", "image"), sample="masked")
    options = {"seed": 1, "rank": rank, "world": rank + 1}
    whole = list(make_loader(sequences, 4, **options).at(2))
    rest = list(make_loader(sequences, 4, workers=workers, **options).at(2, 1))
    assert len(rest) == len(whole) - 1 > 1
    assert all(map(equal, whole[1:], rest))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    file, histories = varied(users=25)
    made = make_toy(tmp_path_factory.mktemp("toy"), file, histories)
    made.prepare()
    return made


def start(toy: Toy, *settings: str) -> Run:
    return new_run(toy.home, make_config(None, [*SETTINGS, *settings]))


def go(toy: Toy, run: Run) -> dict[str, Any]:
    return train(toy.home, run, say=lambda _: None)


@pytest.fixture(scope="module")
def undisturbed(toy: Toy) -> Run:
    run = start(toy)
    go(toy, run)
    return run


def logged(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.logged()]


def same_run(run: Run, whole: Run) -> None:
    """Weights, optimizer, log, best checkpoint, ranks and figures; and nothing half written beside them."""
    assert logged(run) == logged(whole)  # losses are the same floats
    for name in ("best.safetensors", "ranks.parquet"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    left, right = run.load_state(), whole.load_state()
    assert left is not None
    assert right is not None
    assert left["model"].keys() == right["model"].keys()
    assert all(torch.equal(value, right["model"][name]) for name, value in left["model"].items())
    for at, moments in right["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, left["optimizer"]["state"][at][name])
    for state in (left, right):
        del state["progress"]["seconds"]
    assert left["progress"] == right["progress"]
    found, want = (read_json(one.folder / "result.json") for one in (run, whole))
    assert (found["valid"], found["test"]) == (want["valid"], want["test"])
    assert {path.name for path in run.folder.iterdir()} == {
        path.name for path in whole.folder.iterdir()
    }


def before_each(monkeypatch: pytest.MonkeyPatch, call: Callable[[str], None]) -> None:
    """Have `call` called before each step, each file that reaches the disk and each that is put in place."""

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            call(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name in ((Recommender, "forward"), (os, "fsync"), (os, "replace"), (Run, "log")):
        counted(owner, name)


def child(work: Callable[[], Any]) -> int:
    """The exit code of a forked process that does some work."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize(("save_minutes", "kill"), KILLS)
def test_a_killed_run_ends_as_if_nothing_had_been(
    toy: Toy, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, save_minutes: int, kill: int
) -> None:
    """SIGKILL before a random step or change of the disk; the run taken up is killed once more."""
    run = start(toy, f"train.save_minutes={save_minutes}")
    moments = MOMENTS[save_minutes]
    draw = random.Random(f"{save_minutes} {kill}")
    ends: list[int] = []
    for last in (draw.randint(1, moments), draw.randint(1, moments // 3)):
        passed = 0

        def die(_: str, last: int = last) -> None:
            nonlocal passed
            passed += 1
            if passed == last:
                os.kill(os.getpid(), signal.SIGKILL)

        with monkeypatch.context() as patch:
            before_each(patch, die)
            ends.append(child(lambda: go(toy, run)))
    assert ends[0] == -signal.SIGKILL
    assert ends[1] in (-signal.SIGKILL, 0)  # what was left may have been less
    go(toy, run)
    same_run(run, undisturbed)


def test_a_checkpoint_is_written_when_it_is_due(
    toy: Toy, undisturbed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step, or after each epoch; and the kills are drawn from all that a run passes."""
    written = {}
    for save_minutes, moments in MOMENTS.items():
        passed: list[str] = []
        run = start(toy, f"train.save_minutes={save_minutes}")
        with monkeypatch.context() as patch:
            before_each(patch, passed.append)
            go(toy, run)
        assert passed.count("forward") == STEPS * EPOCHS
        assert passed.count("log") == EPOCHS
        assert moments <= len(passed) < moments + 6
        written[save_minutes] = passed.count("replace")
        same_run(run, undisturbed)
    assert written[0] - written[10] == (STEPS - 1) * EPOCHS


@pytest.mark.parametrize(("step", "workers"), [(0, 0), (2, 1), (4, 0)])
def test_within_an_epoch_only_the_steps_that_are_left_are_taken(
    toy: Toy, undisturbed: Run, monkeypatch: pytest.MonkeyPatch, step: int, workers: int
) -> None:
    """Stopped before a step of the second epoch; workers may be others when it goes on."""
    run, passed = start(toy, "train.save_minutes=0"), 0

    def stop(name: str) -> None:
        nonlocal passed
        passed += name == "forward"
        if name == "forward" and passed == STEPS + step + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            go(toy, run)
    state = run.load_state()
    assert state is not None
    progress = state["progress"]
    assert (progress["epoch"], progress["step"]) == (1, step)
    assert (progress["loss"] > 0) == (step > 0)
    taken: list[str] = []
    with monkeypatch.context() as patch:
        before_each(patch, taken.append)
        go(toy, Run(run.folder, make_config(None, [*SETTINGS, f"train.workers={workers}"])))
    assert taken.count("forward") == STEPS * (EPOCHS - 1) - step
    same_run(run, undisturbed)
