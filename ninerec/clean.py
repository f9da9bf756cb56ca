"""`ninerec clean DATASET`: say what it takes on the disk, ask, and remove it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ninerec.options import aligned, as_typed, print_json, readable, say
from ninerec_data.catalog import find
from ninerec_data.cleaning import Part, leftovers, removable, remove
from ninerec_data.errors import UsageError
from ninerec_data.home import Home, find_home

__all__ = ["add_parser", "run"]

_EXAMPLES = """examples:
  ninerec clean bili_food --dry-run      # what would go, and what that frees
  ninerec clean bili_food --raw --yes    # with the files that import took in; nothing is asked
  ninerec clean --leftovers              # what killed runs left, of every dataset

Runs and features stay, and so do files outside the home.
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `clean`."""
    parser = subparsers.add_parser(
        "clean",
        help="remove a prepared dataset",
        description="Remove a prepared dataset and what killed runs left beside it, after asking.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", nargs="?")
    parser.add_argument(
        "--raw", action="store_true", help="also the files that the raw store holds for it"
    )
    parser.add_argument(
        "--leftovers",
        action="store_true",
        help="instead of a dataset: what killed runs left, finished shards of covers included",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove what is agreed to; raises UsageError where nobody can be asked."""
    home = find_home(args.home)
    names, what = _asked(args, home)
    parts = removable(home, names, what)
    if parts and not args.json:
        _tell(parts)
    removed = bool(parts) and not args.dry_run and _agreed(args, parts)
    if removed:
        parts = [part for name in names for part in _removed(args, home, name, what)]
        removed = bool(parts)
    frees = sum(part.frees for part in parts)
    if args.json:
        said = [{**asdict(part), "path": str(part.path)} for part in parts]
        print_json({"dataset": args.dataset, "removed": removed, "frees": frees, "parts": said})
    elif removed:
        print(f"removed, {readable(frees)} freed")
    elif parts:
        say(f"nothing was removed; it would free {readable(frees)}")
    else:
        say(f"{home} holds nothing of {args.dataset or 'killed runs'} to remove")
    return 0


def _asked(args: argparse.Namespace, home: Home) -> tuple[Sequence[str], Sequence[str]]:
    """The datasets meant, and what of them."""
    if args.leftovers == bool(args.dataset) or (args.leftovers and args.raw):
        msg = "clean takes a DATASET (and --raw), or --leftovers alone; `ninerec clean --help` lists the options"
        raise UsageError(msg)
    if args.leftovers:
        return sorted(leftovers(home)), ("leftover",)
    what = ("prepared", "leftover", *["raw"][: args.raw])
    here = [path.name for path in home.root.glob("prepared/[!.]*")]
    if args.dataset in here:  # also a name that the catalog lacks
        return [args.dataset], what
    entry, split = find(args.dataset)
    if split:
        msg = (
            f"{args.dataset} is {entry.name}{as_typed(split)}, and a dataset is removed whole; "
            f"if that is meant, run: ninerec clean {entry.name}"
        )
        raise UsageError(msg)
    return [entry.name], what


def _tell(parts: Sequence[Part]) -> None:
    rows = [("what", "frees", "path")]
    for part in parts:
        target = f" -> {part.path.readlink()} (stays)" if part.path.is_symlink() else ""
        rows.append((part.what, readable(part.frees), f"{part.path}{target}"))
    print("\n".join(aligned(rows, right=[1])), flush=True)
    say("runs, features and files outside the home stay")


def _agreed(args: argparse.Namespace, parts: Sequence[Part]) -> bool:
    if args.yes:
        return True
    frees = readable(sum(part.frees for part in parts))
    if not sys.stdin.isatty():
        words = ["ninerec", "clean", args.dataset or "--leftovers", *["--raw"][: args.raw]]
        words += ["--home", args.home] if args.home else []
        msg = (
            f"clean would free {frees}, asks first, and has no terminal to ask on; "
            f"run: {shlex.join(words)} --yes (or --dry-run to see what goes)"
        )
        raise UsageError(msg)
    print(f"remove this and free {frees}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _removed(
    args: argparse.Namespace, home: Home, name: str, what: Sequence[str]
) -> Sequence[Part]:
    """Remove it; what --leftovers finds in use stays, which is said."""
    try:
        return remove(home, name, what)
    except UsageError as error:
        if args.dataset:
            raise
        say(f"{name}: {error}")
        return []
