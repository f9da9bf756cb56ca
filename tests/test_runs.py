"""Runs: killed and resumed bit for bit, counted looks, result.json; on a toy, on the CPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from toy import Toy, make_model, make_toy, read_json, varied

import baselines.training as training
from baselines.config import make_config
from baselines.evaluate import evaluate
from baselines.model import Recommender
from baselines.runs import Run, find_run, new_run
from baselines.scenarios import evaluate_run
from baselines.training import train
from loaders import Batch, Sequences
from ninerec.main import main
from ninerec_data import CheckFailed, UsageError
from ninerec_data.files import lock

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    file, histories = varied(users=25)
    return make_toy(tmp_path_factory.mktemp("toy"), file, histories)


SETTINGS = [
    "data.dataset=toy", "model.dim=8", "train.batch_size=8", "train.device=cpu", "train.epochs=4",
    "train.lr=0.01", "train.item_lr=0.01",
]  # fmt: skip
RESULT_KEYS = {
    "run", "dataset", "protocol", "protocol_hash", "user_encoder", "item_encoder", "objective",
    "seed", "valid", "test", "pool", "epochs", "best_epoch", "seconds", "seconds_per_epoch",
    "params", "device", "peak_memory", "test_looks",
}  # fmt: skip


def quiet(_: str) -> None:
    return None


def start(toy: Toy, *settings: str) -> Run:
    toy.prepare()
    return new_run(toy.home, make_config(None, [*SETTINGS, *settings]))


def stopping(monkeypatch: pytest.MonkeyPatch, at: int, make: Callable[[Tensor], Tensor]) -> None:
    """Let the model's n-th training step of this process do something else."""
    steps = 0
    real = Recommender.forward

    def forward(self: Recommender, batch: Batch, *world: Any) -> Tensor:
        nonlocal steps
        steps += 1
        loss = real(self, batch)
        return make(loss) if steps == at else loss

    monkeypatch.setattr(Recommender, "forward", forward)


@pytest.fixture(scope="module")
def finished(toy: Toy) -> tuple[Run, dict[str, Any]]:
    run = start(toy)
    return run, train(toy.home, run, say=quiet)


def without_clock(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_result_json_has_the_designs_keys(finished: tuple[Run, dict[str, Any]]) -> None:
    run, result = finished
    assert set(result) == RESULT_KEYS
    assert read_json(run.folder / "result.json") == result
    assert set(result["valid"]) == set(result["test"]) == {"hr@10", "ndcg@10"}
    assert (result["epochs"], result["test_looks"]) == (4, 1)


def test_the_result_says_what_was_trained(toy: Toy, finished: tuple[Run, dict[str, Any]]) -> None:
    _, result = finished
    ds = toy.open()
    assert result["params"] == sum(p.numel() for p in make_model(ds).parameters())
    assert result["pool"] == int(ds.in_pool.sum())
    assert (result["protocol"], result["protocol_hash"]) == ("ninerec-2023", ds.protocol.hash)


def test_the_result_is_that_of_the_best_epoch(
    toy: Toy, finished: tuple[Run, dict[str, Any]]
) -> None:
    run, result = finished
    logged = run.logged()
    assert [r["epoch"] for r in logged] == [1, 2, 3, 4]
    best = max(logged, key=lambda r: (r["hr@10"], -r["epoch"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["valid"] == {k: pytest.approx(best[k]) for k in ("hr@10", "ndcg@10")}
    ds = toy.open()
    model = make_model(ds)
    model.load_state_dict(run.load_best())
    test = evaluate(model, Sequences(ds, "test")).metrics()
    assert result["test"] == test


def test_the_loss_falls(finished: tuple[Run, dict[str, Any]]) -> None:
    losses = [r["loss"] for r in finished[0].logged()]
    assert losses[-1] < losses[0]


def test_the_ranks_file_holds_every_test_user(
    toy: Toy, finished: tuple[Run, dict[str, Any]]
) -> None:
    run, result = finished
    table = pq.read_table(run.folder / "ranks.parquet")
    split = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    assert table["item_id"].to_pylist() == [s[-1] for s in split.test.values()]
    ranks = table["greater"].to_numpy() + 1 + table["equal"].to_numpy() / 2
    missed = table["missed"].to_numpy(zero_copy_only=False)
    hits = [plain.hr(r) if not m else 0.0 for r, m in zip(ranks, missed, strict=True)]
    assert 100 * np.mean(hits) == pytest.approx(result["test"]["hr@10"])


def test_two_equal_runs_give_equal_bytes(toy: Toy, finished: tuple[Run, dict[str, Any]]) -> None:
    again = start(toy)
    assert again.name == f"{finished[0].name}-2"
    train(toy.home, again, say=quiet)
    for name in ("best.safetensors", "ranks.parquet", "config.toml"):
        assert (again.folder / name).read_bytes() == (finished[0].folder / name).read_bytes()


def test_workers_change_no_weight(toy: Toy, finished: tuple[Run, dict[str, Any]]) -> None:
    other = start(toy, "train.workers=1", "train.epochs=2")
    train(toy.home, other, say=quiet)
    assert without_clock(other.logged()) == without_clock(finished[0].logged())[:2]


@pytest.mark.parametrize("step", [3, 11])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    toy: Toy,
    finished: tuple[Run, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Killed in the first epoch (nothing saved yet) or in a later one."""

    def kill(loss: Tensor) -> Tensor:
        raise KeyboardInterrupt

    run = start(toy)
    with monkeypatch.context() as patch:
        stopping(patch, step, kill)
        with pytest.raises(KeyboardInterrupt):
            train(toy.home, run, say=quiet)
    assert len(run.logged()) == (step - 1) // 5
    result = train(toy.home, find_run(toy.home, run.name), say=quiet)
    whole, expected = finished
    assert (result["valid"], result["test"]) == (expected["valid"], expected["test"])
    assert without_clock(run.logged()) == without_clock(whole.logged())
    same_file = "best.safetensors"
    assert (run.folder / same_file).read_bytes() == (whole.folder / same_file).read_bytes()
    left, right = run.load_state(), whole.load_state()
    assert left is not None
    assert right is not None
    assert all(torch.equal(v, right["model"][n]) for n, v in left["model"].items())
    for at, moments in left["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, right["optimizer"]["state"][at][name])


def test_a_loss_of_nan_stops_with_step_and_rates_and_keeps_the_best(
    toy: Toy, finished: tuple[Run, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(toy, "train.item_lr=0.02")
    stopping(monkeypatch, 8, lambda loss: loss * math.nan)
    message = r"loss is not finite .* at epoch 2, step 3 .*0\.01 \(user encoder\) and 0\.02 \(item encoder\)"
    with pytest.raises(CheckFailed, match=message):
        train(toy.home, run, say=quiet)
    assert [r["epoch"] for r in run.logged()] == [1]
    assert all(torch.isfinite(v).all() for v in run.load_best().values())
    state = run.load_state()
    assert state is not None
    assert state["progress"]["epoch"] == 1
    assert run.load_result() is None


def test_patience_ends_a_run_that_no_longer_improves(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([10.0, 20.0, 20.0, 5.0, 19.0, *[0.0] * 9])
    monkeypatch.setattr(
        training, "score", lambda ranks, ds: {"hr@10": next(values), "ndcg@10": 0.0}
    )
    run = start(toy, "train.epochs=30", "train.patience=3")
    result = train(toy.home, run, say=quiet)
    assert (result["epochs"], result["best_epoch"]) == (5, 2)


def test_no_test_leaves_the_test_part_sealed(toy: Toy) -> None:
    run = start(toy, "train.epochs=1")
    result = train(toy.home, run, test=False, say=quiet)
    assert set(result) == RESULT_KEYS
    assert (result["test"], result["test_looks"]) == (None, 0)
    assert not (run.folder / "ranks.parquet").exists()


def test_every_look_at_the_test_part_is_counted(toy: Toy) -> None:
    run = start(toy, "train.epochs=1")
    train(toy.home, run, test=False, say=quiet)
    assert evaluate_run(toy.home, run, ["regular"], "valid")["test_looks"] == 0
    assert evaluate_run(toy.home, run, ["regular", "cold"], "test")["test_looks"] == 1
    assert evaluate_run(toy.home, run, ["new"], "test")["test_looks"] == 2
    assert read_json(run.folder / "result.json")["test_looks"] == 2


def test_scenarios_cut_the_regular_test_users_by_their_target(
    toy: Toy, finished: tuple[Run, dict[str, Any]]
) -> None:
    run, result = finished
    found = evaluate_run(toy.home, run, ["regular", "cold", "new"], "test")["scenarios"]
    split = plain.split(toy.item_file, toy.histories, length=20, keep_last=23)
    groups = [plain.group_of(split.train_count[s[-1]]) for s in split.test.values()]
    assert {name: found[name]["n"] for name in found} == {
        "regular": len(groups), "cold": groups.count("cold"), "new": groups.count("new"),
    }  # fmt: skip
    assert {k: found["regular"][k] for k in ("hr@10", "ndcg@10")} == result["test"]


def test_an_outside_scenario_without_a_draw_is_refused(
    toy: Toy, finished: tuple[Run, dict[str, Any]]
) -> None:
    with pytest.raises(UsageError, match="no cold-outside sequences"):
        evaluate_run(toy.home, finished[0], ["cold-outside"], "test")


def run_cli(toy: Toy, *words: str) -> int:
    return main([*words, "--home", str(toy.home)])


def test_resuming_with_changed_settings_is_refused(
    toy: Toy, finished: tuple[Run, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished[0]
    before = (run.folder / "result.json").read_bytes()
    assert run_cli(toy, "train", "--resume", run.name, "--set", "train.lr=0.5") == 2
    assert "train.lr=0.5 (the run has 0.01)" in capsys.readouterr().err
    assert (run.folder / "result.json").read_bytes() == before


def test_resuming_on_another_device_is_no_change(toy: Toy) -> None:
    run = start(toy, "train.epochs=1")
    train(toy.home, run, test=False, say=quiet)
    words = ("train", "--resume", run.name, "--device", "cpu", "--no-test", "--json")
    assert run_cli(toy, *words) == 0


def test_a_setting_no_model_can_have_is_wrong_use(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.prepare()
    words = [w for setting in [*SETTINGS, "model.dim=7"] for w in ("--set", setting)]
    assert run_cli(toy, "train", *words) == 2
    assert "must be divisible by" in capsys.readouterr().err


def test_json_of_an_empty_scenario_is_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scenario without users has no figure; NaN is no JSON."""
    ring = [f"i{n}" for n in range(20)]
    histories = {f"u{n}": [ring[(n + k) % 20] for k in range(9)] for n in range(40)}
    warm = make_toy(tmp_path, ring, histories)
    run = start(warm, "train.epochs=1")
    train(warm.home, run, test=False, say=quiet)
    capsys.readouterr()
    assert run_cli(warm, "evaluate", run.name, "--scenario", "cold", "--json") == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    shown = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert shown["scenarios"]["cold"]["n"] == 0


def unfinished(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run killed in its third epoch: two checkpoints, no result."""
    run = start(toy)

    def kill(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    steps = len(Sequences(toy.open(), "train", negatives=False)) // 8 + 1
    with monkeypatch.context() as patch:
        stopping(patch, 2 * steps + 1, kill)
        with pytest.raises(KeyboardInterrupt):
            train(toy.home, run, say=quiet)
    return run


def test_an_unfinished_run_can_be_evaluated_and_then_resumed(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, finished: tuple[Run, dict[str, Any]]
) -> None:
    run = unfinished(toy, monkeypatch)
    found = evaluate_run(toy.home, run, ["regular"], "test", "cpu")
    assert set(found) == {*RESULT_KEYS, "split", "scenarios"}
    assert (found["epochs"], found["valid"], found["test_looks"]) == (2, None, 1)
    resumed = train(toy.home, run, say=quiet)
    assert resumed["test"] == finished[1]["test"]
    assert resumed["test_looks"] == 2


def test_a_look_after_no_test_fills_the_sealed_figure(toy: Toy) -> None:
    run = start(toy)
    train(toy.home, run, test=False, say=quiet)
    found = evaluate_run(toy.home, run, ["regular", "cold"], "test", "cpu")
    kept = read_json(run.folder / "result.json")
    assert kept["test"] == found["test"]
    assert kept["test"]["hr@10"] == found["scenarios"]["regular"]["hr@10"]
    again = train(
        toy.home, run, test=False, say=quiet
    )  # resumed at its end: nothing to do, nothing lost
    assert (again["test"], again["test_looks"]) == (kept["test"], 1)


def test_a_refused_scenario_takes_no_look(toy: Toy) -> None:
    run = start(toy)
    train(toy.home, run, test=False, say=quiet)
    with pytest.raises(UsageError, match="no cold-outside sequences"):
        evaluate_run(toy.home, run, ["regular", "cold-outside"], "test", "cpu")
    assert read_json(run.folder / "result.json")["test_looks"] == 0
    assert not (run.folder / "ranks.parquet").exists()


def test_a_log_line_cut_short_by_a_kill_is_left_out(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(toy, monkeypatch)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    train(toy.home, run, say=quiet)
    assert [record["epoch"] for record in run.logged()] == [1, 2, 3, 4]


def test_two_processes_do_not_train_one_run(toy: Toy) -> None:
    run = start(toy)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        lock(run.folder.parent / f".{run.name}.lock"),
        pytest.raises(UsageError, match="another ninerec process"),
    ):
        train(toy.home, run, say=quiet)
    assert not run.folder.exists()


def test_data_prepared_anew_belongs_to_no_former_run(toy: Toy) -> None:
    run = start(toy)
    train(toy.home, run, test=False, say=quiet)
    (run.folder / "data.json").write_text("{}")
    for go in (
        lambda: train(toy.home, run, say=quiet),
        lambda: evaluate_run(toy.home, run, ["regular"], "test"),
    ):
        with pytest.raises(CheckFailed, match="is not the data that"):
            go()


def test_an_interrupt_names_the_command_to_go_on_with(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    toy.prepare()
    stopping(monkeypatch, 3, interrupt)
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    assert run_cli(toy, "train", *words, "--seed", "77") == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "interrupted"
    assert said[-2].startswith(
        "stopped; go on with: ninerec train --resume toy-sasrec-id-bce-seed77"
    )
    assert said[-2].endswith(f" --home {toy.home}")
