"""`ninerec demo`: its table, and that what it prints can be typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ninerec.demo import _environment

REPOSITORY = Path(__file__).resolve().parents[1]
NINEREC = f'ninerec() {{ "{sys.executable}" -m ninerec "$@"; }}\n'
# A home of the demo is one that only --home names.
BARE = {k: v for k, v in os.environ.items() if not k.startswith("NINEREC")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    results: list[dict[str, Any]]
    commands: list[str]


TRAINED = {
    "demo_source": ("id", "text"),
    "demo_food": ("id", "text", "image", "text+image"),
    "demo_dance": ("id", "text"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One short demo in a process of its own, in a home whose name a shell would cut."""
    home = tmp_path_factory.mktemp("demo") / "a home"
    words = [sys.executable, "-m", "ninerec", "demo", "--epochs", "1", "--json", "--home", home]
    done = subprocess.run(
        words, cwd=REPOSITORY, env=BARE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    commands = re.findall(r"^\$ (.+)$", done.stderr, re.MULTILINE)
    return Demo(results=json.loads(done.stdout)["results"], commands=commands)


def test_table_has_a_row_for_each_dataset_and_kind_of_items(demo: Demo) -> None:
    assert [(row["dataset"], row["items"]) for row in demo.results] == [
        (name, items) for name, kinds in TRAINED.items() for items in kinds
    ]
    keys = ["dataset", "items", "regular", "cold", "new", "random", "protocol", "run"]
    assert [list(row) for row in demo.results] == [keys] * 8


def test_floor_is_that_of_ten_among_about_400_items(demo: Demo) -> None:
    assert [row["random"] for row in demo.results] == pytest.approx([2.55] * 8, abs=0.03)


def test_first_command_names_the_catalog_and_every_other_the_home(demo: Demo) -> None:
    first, *others = demo.commands
    assert first.startswith("export NINEREC_CATALOG=")
    assert [command for command in others if " --home " not in command] == []
    verbs = [command.split()[1] for command in others]
    trained = [["train", "evaluate"] * len(kinds) for kinds in TRAINED.values()]
    assert verbs == [
        "download",
        *(verb for each in trained for verb in ["prepare", "verify", *each]),
    ]


def test_command_works_when_typed_in_a_new_process(demo: Demo) -> None:
    verify = next(command for command in demo.commands if " verify demo_food " in command)
    typed = f"{NINEREC}{demo.commands[0]}\n{verify}"
    done = subprocess.run(
        ["sh", "-c", typed], cwd=REPOSITORY, env=BARE, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "FAILED" not in done.stdout


@pytest.mark.parametrize("before", [None, "mine"])
def test_environment_is_as_before_also_after_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None
) -> None:
    for name in ("NINEREC_CATALOG", "OMP_NUM_THREADS"):
        if before is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, before)
    was = dict(os.environ)
    inside: dict[str, str] = {}

    def fault() -> None:
        with _environment(tmp_path):
            inside.update(os.environ)
            raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        fault()
    assert inside == {
        **was,
        "NINEREC_CATALOG": str(tmp_path),
        "OMP_NUM_THREADS": before or "1",
    }
    assert dict(os.environ) == was
