"""`ninerec verify DATASET`: bytes, structure and values of what was prepared."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninerec.options import print_json, print_table, say
from ninerec_data.catalog import find
from ninerec_data.errors import CheckFailed
from ninerec_data.home import find_home

if TYPE_CHECKING:
    from ninerec_data.catalog import Entry
    from ninerec_data.home import Home
    from ninerec_data.verify import Check


_EXAMPLES = """examples:
  ninerec verify bili_food
  ninerec verify bili_food --json
  ninerec verify bili_2m --all --repair    # decode every cover; make anew what fails

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
    parser.add_argument(
        "--all", action="store_true", help="decode every cover, not a sample of 200"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="make what fails anew from the raw files, then check again",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every verdict; raises CheckFailed (exit 1) where one is bad."""
    entry, _ = find(args.dataset)
    home = find_home(args.home)
    folder = home.prepared(entry.name)
    checks, repaired = _checked(args, home, entry)
    good = all(check.ok is not False for check in checks)
    if args.json:
        checked = [check.as_json() for check in checks]
        print_json({"dataset": entry.name, "ok": good, "repaired": repaired, "checks": checked})
    else:
        words = {True: "ok", False: "FAILED", None: "not judged"}
        print_table(
            [{"": words[c.ok], "level": c.level, "check": c.name, "found": c.found} for c in checks]
        )
    if not good:
        raise CheckFailed(_failed(entry.name, folder, [c for c in checks if c.ok is False]))
    return 0


def _checked(args: argparse.Namespace, home: Home, entry: Entry) -> tuple[list[Check], list[str]]:
    """The checks and, with --repair, the stages made anew; a manifest that cannot be read is repaired too."""
    from ninerec_data.verify import PUBLISHED, SAMPLE, verify

    folder, decode = home.prepared(entry.name), None if args.all else SAMPLE

    def judged() -> tuple[list[Check], bool]:
        checks = verify(folder, decode=decode)
        return checks, all(c.ok is not False or c.name == PUBLISHED for c in checks)

    done: list[str] = []
    try:
        checks, good = judged()
    except CheckFailed:
        if not args.repair:
            raise
        good = False
    if good or not args.repair:
        return checks, done
    from ninerec_data.repair import repair

    for anew in (False, True):  # first what its manifest disowns, then all
        done += repair(home, entry, anew=anew)
        checks, good = judged()
        if good:
            break
    done = list(dict.fromkeys(done))
    say(f"{entry.name}: made anew: {', '.join(done) or 'nothing'}")
    return checks, done


def _failed(name: str, folder: Path, bad: list[Check]) -> str:
    """Name the checks that failed and the way out: another release for figures, else a fresh store."""
    from ninerec_data.verify import PUBLISHED

    said = "; ".join(f"{check.name} ({check.found})" for check in bad)
    if all(check.name == PUBLISHED for check in bad):
        out = f"compare your files with those of `ninerec show {name}` and import the release again"
    else:
        out = f"run: ninerec verify {name} --repair (or remove {folder} and run: ninerec prepare {name})"
    return f"{name} fails {len(bad)} of its checks: {said}; {out}"
