"""`ninerec import DATASET PATH`: take in a release you hold (folder, zip, tar, single file)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ninerec.options import print_json, say, take_in
from ninerec_data.catalog import find
from ninerec_data.home import find_home

_EXAMPLES = """examples:
  ninerec import bili_food ~/Downloads/Downstream_datasets.zip
  ninerec import qb /data/NineRec/Downstream_datasets/QB

exit codes: 0 everything needed is held; 3 a file is still missing (what was found is kept).
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `import`."""
    parser = subparsers.add_parser(
        "import",
        help="take in a release you hold",
        description="Find a dataset's files at any depth, check and hold them. Nothing large is copied.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("path", metavar="PATH", type=Path, help="folder, zip, tar or single file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import; raises MissingData where required files are still missing."""
    entry, _ = find(args.dataset)
    found = take_in(find_home(args.home), entry, args.path)
    if args.json:
        print_json({"dataset": entry.name, "held": {r: str(p) for r, p in found.items()}})
    else:
        say(f"next: ninerec prepare {entry.name}")
    return 0
