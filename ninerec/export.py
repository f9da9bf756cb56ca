"""`ninerec export DATASET --to FORMAT`: a prepared dataset in the format of another tool."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ninerec.options import add_split_options, print_json, say, split_options
from ninerec_data.dataset import open_dataset
from ninerec_data.export import FORMATS, export
from ninerec_data.home import find_home

_EXAMPLES = """examples:
  ninerec export bili_food --to recbole
  ninerec export qb --to hf --out ~/exports/qb
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `export`."""
    parser = subparsers.add_parser(
        "export",
        help="write a prepared dataset in the format of another tool",
        description="Write one split of a prepared dataset to a new folder, its terms with it. Nothing is uploaded.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="a new folder (default: ./DATASET-FORMAT)"
    )
    add_split_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    ds = open_dataset(
        args.dataset,
        home=find_home(args.home),
        protocol_name=args.protocol or "ninerec-2023",
        **split_options(args),
    )
    if not ds.has_covers and args.to != "recbole":
        say(f"{ds.name} has no prepared covers: none are exported")
    folder = export(ds, args.to, args.out or Path(f"{ds.name}-{args.to}"))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    found = {
        "dataset": ds.name,
        "format": args.to,
        "folder": str(folder),
        "files": len(sizes),
        "bytes": sum(sizes),
        "protocol": ds.protocol.name,
        "protocol_hash": ds.protocol.hash,
        "terms": ds.manifest["terms"],
    }
    if args.json:
        print_json(found)
    else:
        print(f"{ds.name} as {args.to}: {folder}")
        print(f"  {len(sizes):,} files, {sum(sizes):,} bytes")
        print(f"  protocol {ds.protocol.name} {ds.protocol.hash}")
        print(f"  terms of use: {found['terms']['text']} {found['terms']['url']}".rstrip())
        print("  these terms travel with the files; nothing was uploaded")
    return 0
