"""`ninerec doctor`: what is installed, what is on disk and what stands in the way: the facts of a bug report."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ninerec.options import aligned, print_json, readable
from ninerec_data.catalog import catalog
from ninerec_data.cleaning import size_of
from ninerec_data.errors import NineRecError
from ninerec_data.home import Home, find_home
from ninerec_data.shadows import shadows

_EXAMPLES = """examples:
  ninerec doctor           # in the folder, and with the --home, of the command that failed
  ninerec doctor --json

exit codes: 0 no problem; 1 a problem, with its way out.
"""
_EXTRAS = {"ray": "ray", "lmdb": "export"}  # package -> the extra that brings it
_LITTLE = 5 * 10**9  # bytes; the covers of one dataset may take more

Found = Iterator[tuple[str, str, str]]  # ok | note | problem, what was found, the way out


def add_parser(subparsers: Any) -> None:
    """Add the parser of `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="what this installation has and lacks",
        description="Show versions, devices, the home, and what hides ninerec's modules: the facts of a bug report.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every check; returns 1 where one is a problem."""
    checks = _checks(args.home)
    rows = [(name, *found) for name, check, out in checks for found in _judged(check, out)]
    good = all(level != "problem" for _, level, *_ in rows)
    if args.json:
        keys = ("name", "level", "found", "way_out")
        print_json({"ok": good, "checks": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        cells = [
            (level, name, f"{found}; {out}" if out else found) for name, level, found, out in rows
        ]
        print("\n".join(aligned(cells)))
    return 0 if good else 1


def _checks(given: str | None) -> list[tuple[str, Callable[[], Found], str]]:
    """Name, check, and the way out where it raises."""
    home = find_home(given)
    install = "run: pip install --force-reinstall"
    elsewhere = "mend that, or choose another folder with --home DIR"
    return [
        ("ninerec", _ninerec, f"{install} --no-deps ninerec"),
        ("python", _python, ""),
        ("dependencies", _dependencies, f"{install} ninerec"),
        ("torch", _torch, f"{install} torch torchvision"),
        ("torchvision", _torchvision, f"{install} torch torchvision, both from one index"),
        ("extras", _extras, ""),
        ("home", partial(_home, home, given), ""),
        ("disk", partial(_disk, home), elsewhere),
        ("prepared", partial(_prepared, home), elsewhere),
        ("catalog", _catalog, "mend the file, or unset NINEREC_CATALOG"),
        ("modules", _modules, "run it from another folder"),
    ]


def _judged(check: Callable[[], Found], way_out: str) -> list[tuple[str, str, str]]:
    try:
        return list(check())
    except Exception as error:  # whatever a broken installation raises is what is asked for
        kind = "" if isinstance(error, NineRecError) else f"{type(error).__name__}: "
        return [("problem", " ".join(f"{kind}{error}".split()), way_out)]


def _ninerec() -> Found:
    yield "ok", f"{version('ninerec')} in {Path(__file__).parents[1]}", ""


def _python() -> Found:
    ours = f"{platform.python_version()} ({sys.executable})"
    yield "ok", f"{ours}, {platform.platform()}, {os.cpu_count()} cores", ""


def _dependencies() -> Found:
    """What the metadata of ninerec asks for, extras left out; nothing is imported."""
    asked = [
        re.findall(r"[\w.-]+", line) for line in requires("ninerec") or () if "extra ==" not in line
    ]
    held = {name: _version(name) for name, *_ in asked}
    lacking = [
        f"'{name}>={least}'" for name, least in asked if _numbers(held[name]) < _numbers(least)
    ]
    said = ", ".join(f"{name} {there or 'MISSING'}" for name, there in held.items())
    out = f"run: pip install {' '.join(lacking)}" if lacking else ""
    yield "problem" if out else "ok", said, out


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _numbers(said: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", said)[:3]]


def _torch() -> Found:
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        devices = [torch.cuda.get_device_properties(at) for at in range(torch.cuda.device_count())]
    named = ", ".join(f"{device.name} {readable(device.total_memory)}" for device in devices)
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    yield "ok", f"{torch.__version__}, {built}, CUDA devices: {named or 'none'}", ""
    for warning in warned:
        yield "note", " ".join(str(warning.message).split()), "nvidia-smi shows the driver"


def _torchvision() -> Found:
    """Builds of torch and torchvision that do not fit: `operator torchvision::nms does not exist`."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    yield "ok", f"{torchvision.__version__}, fits torch", ""


def _extras() -> Found:
    for name, extra in _EXTRAS.items():
        there = _version(name)
        lack = ("note", f"no {name}", f"where you want it: pip install 'ninerec[{extra}]'")
        yield ("ok", f"{name} {there}", "") if there else lack


def _home(home: Home, given: str | None) -> Found:
    default = "$NINEREC_HOME" if os.environ.get("NINEREC_HOME") else "the default"
    yield "ok", f"{home} (from {'--home' if given else default})", ""


def _disk(home: Home) -> Found:
    """Writes to the home, or to the nearest folder above it that exists."""
    place = next(path for path in (home.root, *home.root.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place):
        free = shutil.disk_usage(place).free
    out = "" if free >= _LITTLE else "covers may need more; choose another --home"
    yield "note" if out else "ok", f"{place} can be written, {readable(free)} free", out


def _prepared(home: Home) -> Found:
    folders = sorted(path.parent for path in home.root.glob("prepared/*/manifest.json"))
    held = [f"{folder.name} {readable(size_of([folder]))}" for folder in folders]
    yield "ok", ", ".join(held) or "no dataset", ""


def _catalog() -> Found:
    own = os.environ.get("NINEREC_CATALOG")
    yield "ok", f"{len(catalog())} datasets, $NINEREC_CATALOG is {own or 'not set'}", ""


def _modules() -> Found:
    """As a script sees them that lies in the working folder, or in this process under -P."""
    found = shadows(first=None if sys.flags.safe_path else Path.cwd())
    for shadow in found:
        yield "problem", str(shadow), ""
    if not found:
        yield "ok", "nothing hides ninerec's, here or for a script in this folder", ""
