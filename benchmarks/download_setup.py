"""What both benchmarks of the downloader share: a release, nginx, a measured process, both tools' command lines.

A process is measured with all that it starts: CPU seconds, the largest sum of resident sizes (looked at each
0.2 s; pages that two share count twice), bytes that reached the file system.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from download_corpus import SIDE

NAME, STEM = "fetched", "Fetched"
LEFT = 4  # our exit code where items are left for a later run
NGINX = """\
daemon off; worker_processes 1; pid nginx.pid; error_log stderr; {user}
events {{ worker_connections 4096; }}
http {{
  sendfile on; access_log off; keepalive_requests 1000000; tcp_nopush on; types {{ image/jpeg jpg; }}
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
CATALOG = """\
title = "Drawn, to be fetched"
format = "ninerec"
options = { stem = "Fetched" }
text = { zh = ["title_zh"], en = ["title_en"] }
modalities = ["text", "image"]
timestamps = false
terms = { text = "drawn by ninerec; free of any terms" }
"""
Settings = tuple[int, int, int]  # of img2dataset: processes, threads, pictures of a shard


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took. code: its exit code, None where it was killed at its limit."""

    seconds: float
    cpu: float
    peak_mib: float
    written_mb: float
    code: int | None


def write_release(folder: Path, urls: Mapping[str, str]) -> None:
    """A release of ours that maps each item to its address, and the catalog that describes it."""
    shutil.rmtree(folder, ignore_errors=True)
    release, items = folder / "release", list(urls)
    release.mkdir(parents=True)
    rows = [items[at : at + 10] for at in range(0, len(items), 10)]
    users = (f"u{n}\t{' '.join(row)}\n" for n, row in enumerate(rows))
    (release / f"{STEM}_behaviour.tsv").write_text("".join(users))
    titles = (f"{item},封面 {item},{title(item)}\n" for item in items)
    (release / f"{STEM}_item.csv").write_text("".join(titles), encoding="utf-8")
    mapping = "".join(f"{item},{url}\n" for item, url in urls.items())
    (release / f"{STEM}_url.csv").write_text(mapping, encoding="utf-8")
    (folder / "catalog").mkdir()
    (folder / "catalog" / f"{NAME}.toml").write_text(CATALOG)


def catalog_of(folder: Path) -> dict[str, str]:
    """The environment in which our commands know the release that `write_release` left in `folder`."""
    return {"NINEREC_CATALOG": str(folder / "catalog")}


def title(item: str) -> str:
    return f"The cover of {item}"


def tree_of(leader: int) -> tuple[float, float]:
    """Resident MiB and CPU seconds of the living processes of a session."""
    pages = ticks = 0
    for name in (path.name for path in Path("/proc").iterdir()):
        if name.isdigit() and int(name) >= leader:  # children have larger numbers
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            if int(fields[3]) == leader:
                pages += int(fields[21])
                ticks += int(fields[11]) + int(fields[12])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20, ticks / os.sysconf("SC_CLK_TCK")


def _spent() -> tuple[float, float, int]:
    """Now, CPU seconds of the children that ended, bytes that they and we wrote to files."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    times = os.times()
    cpu = times.children_user + times.children_system
    return time.perf_counter(), cpu, int(lines["write_bytes"])


@contextmanager
def started(
    command: list[str], out: IO[bytes], env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; whatever of it still runs at the end is killed."""
    plain = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    plain |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", **env}
    process = subprocess.Popen(
        command, stdout=out, stderr=subprocess.STDOUT, env=plain, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measured(command: list[str], log: Path, env: Mapping[str, str], limit: float = 1200) -> Cost:
    """Run a command to its end, or kill it after `limit` seconds. Raises SystemExit where it fails."""
    before, peak, killed = _spent(), 0.0, False
    with log.open("wb") as out, started(command, out, env) as process:
        while process.returncode is None:
            peak = max(peak, tree_of(process.pid)[0])
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            if process.returncode is None and time.perf_counter() - before[0] > limit:
                killed = True
                os.killpg(process.pid, signal.SIGKILL)
    seconds, cpu, written = (now - then for then, now in zip(before, _spent(), strict=True))
    if not killed and process.returncode not in (0, LEFT):
        said = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said}")
    return Cost(seconds, cpu, peak, written / 1e6, None if killed else process.returncode)


def killed_after(seconds: float, command: list[str], log: Path, env: Mapping[str, str]) -> bool:
    """Start a command and kill it, and all that it started; False where it was done before."""
    with log.open("wb") as out, started(command, out, env) as process:
        try:
            process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            return True  # `started` kills it


@contextmanager
def serving(program: Path, root: Path, work: Path, pin: list[str]) -> Iterator[tuple[str, int]]:
    """nginx on a free port: its address, and the session that it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = work / "nginx"
    folder.mkdir(exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""
    config, log = folder / "nginx.conf", folder / "log"
    config.write_text(NGINX.format(port=port, root=root.resolve(), user=user))
    command = [*pin, str(program), "-p", f"{folder}/", "-c", str(config), "-e", "stderr"]
    with log.open("wb") as out, started(command, out, {}) as process:
        for _ in range(50):
            time.sleep(0.1)
            with socket.socket() as probe:
                if process.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        if process.poll() is not None:
            raise SystemExit(f"nginx did not start: {log.read_text()}")
        yield f"http://127.0.0.1:{port}", process.pid


def write_list(path: Path, urls: Mapping[str, str], base: str) -> None:
    """img2dataset's list: each address under `base`, as `--mirror` makes it, and a caption."""
    asked = [f"{base}/{url.removeprefix('http://')}" for url in urls.values()]
    pq.write_table(pa.table({"url": asked, "title": [title(item) for item in urls]}), path)


def theirs(program: Path, listing: Path, out: Path, settings: Settings) -> list[str]:
    """img2dataset's command line for the output that ours has."""
    processes, threads, shard = settings
    words = {
        "url_list": listing, "input_format": "parquet", "url_col": "url", "caption_col": "title",
        "output_folder": out, "output_format": "webdataset", "image_size": SIDE,
        "resize_mode": "center_crop", "encode_quality": 95, "processes_count": processes,
        "thread_count": threads, "number_sample_per_shard": shard, "compute_hash": "sha256",
        "extract_exif": False, "retries": 2, "timeout": 10, "enable_wandb": False,
    }  # fmt: skip
    return [str(program), *(f"--{name}={value}" for name, value in words.items())]


def ours(verb: str, home: Path, *words: str) -> list[str]:
    """One of our command lines, with the center crop where covers are made."""
    fit = ("--fit", "center_crop") if verb in ("download", "prepare") else ()
    return [sys.executable, "-m", "ninerec", verb, NAME, *words, "--home", str(home), *fit]


def fetch(home: Path, base: str, *words: str) -> list[str]:
    """`ninerec download` of the covers through `base`."""
    asked = ("--parts", "covers", "--mirror", base, "--keep", "resized", "--accept-terms")
    return ours("download", home, *asked, *words)


def pictures_in(folder: Path) -> tuple[list[tuple[str, bytes]], int]:
    """Item and JPEG of all shards of a folder, ours or theirs, and how many shards are damaged."""
    found, damaged = [], 0
    for shard in sorted(folder.glob("*.tar")):
        held: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    key, _, kind = member.name.rpartition(".")
                    held.setdefault(key, {})[kind] = tar.extractfile(member).read()  # type: ignore[union-attr]
        except tarfile.ReadError:
            damaged += 1
        for parts in held.values():
            if parts.keys() >= {"jpg", "json"}:
                facts = json.loads(parts["json"])
                found.append((facts.get("item_id") or Path(facts["url"]).stem, parts["jpg"]))
    return found, damaged
