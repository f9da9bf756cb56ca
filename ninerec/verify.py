"""`ninerec verify DATASET`: bytes, structure and values of what was prepared."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninerec.options import print_json, print_table
from ninerec_data.catalog import find
from ninerec_data.errors import CheckFailed
from ninerec_data.home import find_home

if TYPE_CHECKING:
    from ninerec_data.verify import Check


_EXAMPLES = """examples:
  ninerec verify bili_food
  ninerec verify bili_food --json

exit codes: 0 every check that can be judged holds; 1 one does not; 3 not prepared.
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="check what was prepared",
        description="Check sha256, structure and counts, and compare with the published statistics.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every verdict; raises CheckFailed (exit 1) where one is bad."""
    from ninerec_data.verify import verify

    entry, _ = find(args.dataset)
    folder = find_home(args.home).prepared(entry.name)
    checks = verify(folder)
    good = all(check.ok is not False for check in checks)
    if args.json:
        checked = [check.as_json() for check in checks]
        print_json({"dataset": entry.name, "ok": good, "checks": checked})
    else:
        words = {True: "ok", False: "FAILED", None: "not judged"}
        print_table(
            [{"": words[c.ok], "level": c.level, "check": c.name, "found": c.found} for c in checks]
        )
    if not good:
        raise CheckFailed(_failed(entry.name, folder, [c for c in checks if c.ok is False]))
    return 0


def _failed(name: str, folder: Path, bad: list[Check]) -> str:
    """Name the checks that failed and the way out: another release for figures, else a fresh store."""
    from ninerec_data.verify import PUBLISHED

    said = "; ".join(f"{check.name} ({check.found})" for check in bad)
    if all(check.name == PUBLISHED for check in bad):
        out = f"compare your files with those of `ninerec show {name}` and import the release again"
    else:
        out = f"remove {folder} and run: ninerec prepare {name}"
    return f"{name} fails {len(bad)} of its checks: {said}; {out}"
