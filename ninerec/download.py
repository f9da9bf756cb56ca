"""`ninerec download DATASET ...`: what of a dataset can be fetched, and an account of what cannot."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

from ninerec.download_options import add_options, options_of
from ninerec.options import print_json, say
from ninerec_data.catalog import Entry, catalog, find
from ninerec_data.errors import TermsError, UsageError
from ninerec_data.home import Home, find_home

if TYPE_CHECKING:
    from downloader.options import Options

_EXAMPLES = """examples:
  ninerec download bili_food --dry-run       # what would be asked of whom, and how long it takes at least
  ninerec download bili_food ku --contact you@university.example
  ninerec download --all --parts interactions,titles --accept-terms
  ninerec download qb --backup ~/QB_cover.zip --retry gone

Stop it with Ctrl-C; the same command goes on from there.

exit codes: 0 everything settled; 1 a file cannot be had; 3 a file must be fetched by hand; 4 some were BLOCKED or
TRANSIENT: run it again later; 5 terms not accepted.
"""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_parser(subparsers: Any) -> None:
    """Add the parser of `download`."""
    parser = subparsers.add_parser(
        "download",
        help="fetch a release, its covers and titles",
        description="Fetch the files of a dataset's release and the covers of its items. What is held is not asked "
        "for again; every item ends in one outcome.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Download and print what came of it; returns the exit code. Raises TermsError, and as `download`."""
    from downloader.download import download
    from downloader.options import Report
    from downloader.plan import plan
    from ninerec.download_view import View, end_lines, outcomes, plan_lines, plan_tables

    home, named = find_home(args.home), _named(args)
    options = options_of(args, named)
    entries, left_out = _that_can_be(home, named, options) if args.all else (named, {})
    if not (args.offline or args.dry_run):
        _accept_terms(home, entries, given=args.accept_terms)
    made = plan(home, entries, options)
    if args.dry_run:
        if args.json:
            print_json({**asdict(made), "left_out": left_out})
        else:
            plan_tables(made)
            for line in (*_left_out(left_out), *_contact_note(args)):
                print(line)
        return 0
    for line in (*plan_lines(made), *_contact_note(args)):
        say(line)
    report = Report()
    with _stopping() as stopped, View() as view:
        download(home, entries, options, view, report)
    if args.json:
        print_json(report.counts)
    else:
        outcomes(report)
    if stopped:
        say("stopped; what was fetched is kept, and the same command goes on from there")
        return 128 + stopped[0]
    for line in (*end_lines(home, entries, options, report), *_left_out(left_out)):
        say(line)
    return report.exit_code


def _named(args: argparse.Namespace) -> list[Entry]:
    """The datasets meant, each once."""
    if args.all == bool(args.datasets):
        msg = "name datasets, or --all, not both: ninerec download DATASET; `ninerec list` shows their names"
        raise UsageError(msg)
    names = catalog() if args.all else args.datasets
    found = {entry.name: entry for entry, _ in map(find, names)}
    if args.mapping and (args.all or len(found) > 1):
        raise UsageError(f"--mapping {args.mapping} is of one dataset; name that one alone")
    return list(found.values())


def _that_can_be(
    home: Home, entries: Sequence[Entry], options: Options
) -> tuple[list[Entry], dict[str, list[str]]]:
    """Those that can be fetched; of the others what a person must do."""
    from downloader.plan import can_fetch, hands

    able = [entry for entry in entries if can_fetch(home, entry, options)]
    others = [entry for entry in entries if entry not in able]
    return able, {entry.name: hands(home, entry, options) for entry in others}


def _left_out(left_out: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if left_out:
        yield f"left out, for a person must fetch them: {', '.join(left_out)}"
    for said in left_out.values():
        yield from (f"  {line}" for line in said)


def _contact_note(args: argparse.Namespace) -> Iterator[str]:
    if not (args.contact or os.environ.get("NINEREC_CONTACT") or args.mirror or args.offline):
        yield "no contact in the user agent; sites like to have one: --contact YOU@EXAMPLE.ORG or $NINEREC_CONTACT"


def _accept_terms(home: Home, entries: Sequence[Entry], *, given: bool) -> None:
    """Show the terms not accepted yet and have them accepted. Raises TermsError."""
    from ninerec_data.terms import accept, accepted

    asked = {e.terms.key: e.terms for e in entries if not accepted(home, e.terms)}
    for key, terms in asked.items():
        text = textwrap.wrap(terms.text, 98, initial_indent="  ", subsequent_indent="  ")
        names = ", ".join(entry.name for entry in entries if entry.terms.key == key)
        lines = [f"terms of use of {names}:", *text, *([f"  {terms.url}"] if terms.url else [])]
        say("\n".join(lines))
        if given:
            accept(home, terms, "--accept-terms")
        elif sys.stdin.isatty():
            print("accept? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                break
            accept(home, terms, "asked")
    if left := [key for key, terms in asked.items() if not accepted(home, terms)]:
        msg = f"terms of use are not accepted ({', '.join(left)}) and nothing was fetched; accept with --accept-terms"
        raise TermsError(msg)


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """The first signal to stop ends what is inside in order and is in the list; the second ends the process."""
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if stopped:
            os._exit(128 + stopped[0])
        stopped.append(number)
        clear = b"\r\x1b[J" if os.isatty(2) else b""  # the lines of progress
        os.write(2, clear + b"stopping (again: at once)\n")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise KeyboardInterrupt from None
        # An error raised in the midst of its work would leave the loop in pieces.
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)

    # What is ignored stays so: nohup.
    before = {n: h for n in _SIGNALS if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    except (KeyboardInterrupt, asyncio.CancelledError):
        if not stopped:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
