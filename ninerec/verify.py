"""`ninerec verify DATASET`: bytes, structure and values of what was prepared."""

from __future__ import annotations

import argparse
from typing import Any

from ninerec.options import print_json, print_table
from ninerec_data.catalog import find
from ninerec_data.home import find_home

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
    """Print every verdict; exit 1 where one is bad."""
    from ninerec_data.verify import verify

    entry, _ = find(args.dataset)
    checks = verify(find_home(args.home).prepared(entry.name))
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
            print(f"some checks failed; mend with: ninerec prepare {entry.name}")
    return 0 if good else 1
