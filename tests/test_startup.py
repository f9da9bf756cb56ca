"""What starting up must not do, and the names each package promises (docs/api.md)."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("ninerec", "ninerec_data", "downloader", "loaders", "baselines")
HEAVY = {
    *("torch", "torchvision", "transformers", "tokenizers", "polars", "pyarrow", "numpy"),
    *("PIL", "simplejpeg", "matplotlib", "webdataset", "requests", "aiohttp"),
}

# Runs the statement and reports what it brought in and touched. Audit events cannot be taken back, so
# the report comes from a process of its own.
PROBE = """
import json, os, sys
home, touched = os.environ["NINEREC_HOME"], []

def watch(event, args):
    if event.startswith("socket."):
        touched.append(event)
    elif event in ("open", "os.listdir", "os.scandir", "os.mkdir", "sqlite3.connect"):
        if os.fsdecode(args[0] if isinstance(args[0], (str, bytes)) else "").startswith(home):
            touched.append(event + " " + str(args[0]))

sys.addaudithook(watch)
exec(sys.argv[1])
report = {"modules": sorted({name.partition(".")[0] for name in sys.modules}), "touched": touched}
print(json.dumps(report), file=sys.stderr)
"""
STARTS = {
    "import ninerec_data": "import ninerec_data",
    "ninerec --help": "import ninerec.main; assert ninerec.main.main(['--help']) == 0",
    "ninerec list": "import ninerec.main; assert ninerec.main.main(['list']) == 0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    heavy: set[str]
    touched: list[str]
    stdout: str


def start(statement: str) -> Started:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, statement],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stderr.splitlines()[-1])
    return Started(
        heavy=HEAVY & set(report["modules"]), touched=report["touched"], stdout=done.stdout
    )


@pytest.mark.parametrize("statement", STARTS.values(), ids=STARTS)
def test_start_imports_nothing_heavy(home: Path, statement: str) -> None:
    assert start(statement).heavy == set()


@pytest.mark.parametrize("statement", STARTS.values(), ids=STARTS)
def test_start_makes_no_home_and_opens_no_socket(home: Path, statement: str) -> None:
    assert start(statement).touched == []
    assert not home.exists()


def test_import_of_ninerec_data_says_nothing(home: Path) -> None:
    assert start("import ninerec_data").stdout == ""


def test_probe_sees_a_heavy_import_a_file_and_a_socket(home: Path) -> None:
    seen = start("import numpy, socket, os; os.mkdir(home); socket.socket().close()")
    assert seen.heavy == {"numpy"}
    assert seen.touched == [f"os.mkdir {home}", "socket.__new__"]


@pytest.mark.parametrize("verb", ["--help", "list"])
def test_start_takes_little_longer_than_a_bare_interpreter(
    home: Path, record_property: Callable[[str, object], None], verb: str
) -> None:
    """The goal is 0.3 s on a quiet machine; only far more than that fails, as machines differ."""
    extra = fastest("-m", "ninerec", verb) - fastest("-c", "pass")
    record_property("seconds_over_bare_interpreter", round(extra, 3))
    print(f"ninerec {verb}: {extra:.3f} s over a bare interpreter")  # pytest -s shows it
    assert extra < 2.0


def fastest(*words: str) -> float:
    """Seconds of the quickest of three runs."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=REPOSITORY, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return min(times)


def documented() -> dict[str, set[str]]:
    """The names that lines such as "- `package.name`: ..." of docs/api.md list, by package."""
    text = (REPOSITORY / "docs" / "api.md").read_text("utf-8")
    names: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for package, name in re.findall(r"^- `(\w+)\.(\w+)`", text, flags=re.MULTILINE):
        names[package].add(name)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_those_the_docs_list(package: str) -> None:
    module = importlib.import_module(package)
    assert set(getattr(module, "__all__", ())) == documented()[package]


@pytest.mark.parametrize("package", ["ninerec_data", "loaders", "baselines"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_marked_as_typed(package: str) -> None:
    assert (REPOSITORY / package / "py.typed").read_bytes() == b""
