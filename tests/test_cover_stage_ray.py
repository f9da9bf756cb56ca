"""Covers on a Ray cluster of two nodes, one of them killed half-way: the bytes that threads give."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from covered import ITEMS, Covered, known, make_covered, write_covers
from releases import digests, leftovers

from ninerec_data import Home, MissingData
from ninerec_data.cover_sources import Found
from ninerec_data.covers import Claim, Job, settle
from ninerec_data.engine import in_order
from ninerec_data.pictures import Recipe

ray = pytest.importorskip("ray")
DENSE = range(
    900, 1600
)  # parts whose results are too large to travel with the reply: nodes hold them
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
SOON = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}  # a node is found dead


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each; the second is `cluster.worker_nodes`."""
    from ray.cluster_utils import Cluster

    # Not in pytest's folder: the path of a socket must be short.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = {**NODE, "include_dashboard": False, "temp_dir": folder, "_system_config": SOON}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(**NODE)
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Covered]:
    """Prepared by threads."""
    folder = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        known(folder / "catalog", patch)
        made = make_covered(folder)
        write_covers(made.covers, DENSE)
        made.prepare()
        yield made


def elsewhere(release: Covered, home: Path) -> Covered:
    """The same raw files in a home of their own."""
    other = Covered(release.folder, Home(home))
    other.import_from(release.folder / "release")
    return other


def test_ray_leaves_the_bytes_that_threads_leave(
    cluster: Any, release: Covered, tmp_path: Path
) -> None:
    assert ray.cluster_resources()["CPU"] == 2
    other = elsewhere(release, tmp_path)
    assert other.prepare(engine="ray").done == ("tables", "covers", "split")
    assert digests(other.prepared) == digests(release.prepared)


def test_an_error_in_a_task_arrives_as_itself(cluster: Any, tmp_path: Path) -> None:
    job = Job(tmp_path / "nowhere", (), 0, Recipe(), {})
    part = (Claim(1, (Found("a.jpg", 1, 1),), (None,)),)
    with pytest.raises(MissingData, match=r"cannot read .*nowhere: No such file") as caught:
        list(in_order(settle, job, [part] * 9, engine="ray"))
    assert type(caught.value) is MissingData


def test_a_node_killed_half_way_changes_no_byte(
    cluster: Any, release: Covered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of this file: afterwards the cluster has one node."""
    from ninerec_data import cover_shards

    (doomed,) = cluster.worker_nodes
    real, finished = cover_shards._finish, []

    def finish(home: Home, plan: Any, shard: int, *rest: Any) -> Any:
        if not finished:  # results of the next shard lie on the node, and tasks are at work there
            cluster.remove_node(doomed, allow_graceful=False)
        finished.append(shard)
        return real(home, plan, shard, *rest)

    monkeypatch.setattr(cover_shards, "_finish", finish)
    other = elsewhere(release, tmp_path)
    made = other.prepare(engine="ray", jobs=2)
    assert finished == [0, 1, 2]
    assert not cluster.worker_nodes
    assert not doomed.any_processes_alive()
    assert made.covers is not None
    assert made.covers["counts"]["ok"] > len(DENSE)
    assert sum(made.covers["counts"][key] for key in ("ok", "missing", "broken")) == ITEMS
    assert digests(other.prepared) == digests(release.prepared)
    assert leftovers(other.home.root) == []
