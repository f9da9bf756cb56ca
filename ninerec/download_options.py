"""What `ninerec download` is asked for: its options, read and checked."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninerec.options import at_least
from ninerec_data.catalog import Entry
from ninerec_data.errors import MissingData, UsageError, nearest
from ninerec_data.outcomes import AGAIN, HELD, Outcome

if TYPE_CHECKING:
    from downloader.options import Options

__all__ = ["add_options", "options_of"]

_PARTS = ("interactions", "titles", "covers")
_BASE = re.compile(
    r"https?://([^/@\s]+@)?(\[[\da-fA-F:.]+\]|[^/?#\s:@[\]]+)(:\d{1,5})?(/[^?#\s]*)?"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `download`."""
    add = parser.add_argument
    add("datasets", metavar="DATASET", nargs="*")
    add("--all", action="store_true", help="every dataset of the catalog that can be fetched")
    add("--parts", type=_words(_PARTS), default=_PARTS, metavar="LIST", help=",".join(_PARTS))
    add("--dry-run", action="store_true", help="only show the plan: nobody is asked, nothing kept")
    add("--accept-terms", action="store_true", help="accept the terms of use, which are shown")
    kinds = [o.lower() for o in Outcome if o not in HELD]
    again = tuple(o.lower() for o in AGAIN)
    help_ = f"ask again for these outcomes (default {','.join(again)}; or none)"
    add("--retry", type=_words(kinds, none=True), default=again, metavar="LIST", help=help_)
    add("--jobs", type=at_least(1), metavar="N", help="threads that decode pictures (the cores)")
    group = parser.add_argument_group("where from")
    add = group.add_argument
    add("--mirror", default="", metavar="BASE", help="ask BASE/HOST/PATH instead of HOST/PATH")
    help_ = "folder, zip, tar, LMDB or http base of covers, for what cannot be had (repeatable)"
    add("--backup", action="append", default=[], metavar="PLACE", help=help_)
    add("--backup-first", action="store_true", help="take covers from the backup before any host")
    add("--offline", action="store_true", help="ask nobody: only what is at hand")
    add("--mapping", type=Path, metavar="FILE", help="item addresses of your own (one dataset)")
    group = parser.add_argument_group("covers")
    add = group.add_argument
    add("--keep", choices=("original", "resized", "both"), help="what to keep (original)")
    help_ = "with --keep resized or both: as of `ninerec prepare`"
    add("--fit", choices=("squash", "center_crop"), help=help_)
    add("--decode", choices=("scaled", "exact"), help=help_)
    add("--cover-size", choices=("full", "small"), help="small: ask for less, where a host can")
    help_ = "covers.provenance.parquet of another machine: the sha256 to expect (repeatable)"
    add("--expect", type=Path, action="append", default=[], metavar="FILE", help=help_)
    help_ = "a picture that stands for no cover (repeatable)"
    add("--placeholder", type=_sha256, action="append", default=[], metavar="SHA256", help=help_)
    group = parser.add_argument_group("politeness")
    add = group.add_argument
    add(
        "--contact",
        metavar="TEXT",
        help="how sites reach you ($NINEREC_CONTACT), in the user agent",
    )
    help_ = "requests per second; covers the host's subdomains (repeatable)"
    add("--rate", type=_of_host(float), action="append", default=[], metavar="HOST=N", help=help_)
    help_ = "requests at once, likewise (repeatable)"
    kind = _of_host(int)
    add("--concurrency", type=kind, action="append", default=[], metavar="HOST=N", help=help_)
    help_ = "a host that may be asked though its address is private (repeatable)"
    add("--allow-host", action="append", default=[], metavar="HOST", help=help_)


def options_of(args: argparse.Namespace, entries: Sequence[Entry]) -> Options:
    """The options asked for. Raises UsageError for what cannot be meant, MissingData for a file that is not there."""
    from downloader.addresses import redacted
    from downloader.options import Options
    from ninerec_data.pictures import Recipe

    if args.mirror and not _BASE.fullmatch(args.mirror):
        msg = f"--mirror '{redacted(args.mirror)}' is no base; give one such as http://mirror.example/covers"
        raise UsageError(msg)
    if args.mapping and not args.mapping.expanduser().is_file():
        raise MissingData(f"--mapping {args.mapping} is no file; give a file of item_id,url")
    if args.expect and args.cover_size == "small":
        raise UsageError("--expect knows covers of full size; leave out --cover-size small")
    made = {k: v for k, v in (("fit", args.fit), ("decode", args.decode)) if v}
    return Options(
        parts=args.parts,
        mirror=args.mirror,
        backup=tuple(args.backup),
        backup_first=args.backup_first,
        keep=args.keep,
        recipe=Recipe(**made) if made else None,
        cover_size=args.cover_size,
        retry=tuple(Outcome[word.upper()] for word in args.retry),
        rate=dict(args.rate),
        concurrency=dict(args.concurrency),
        allow_host=tuple(host.lower() for host in args.allow_host),
        offline=args.offline,
        mapping=args.mapping and args.mapping.expanduser(),
        expected=dict(_expected(path.expanduser(), entries) for path in args.expect),
        placeholders=tuple(args.placeholder),
        user_agent=_user_agent(args.contact or os.environ.get("NINEREC_CONTACT", "")),
        jobs=args.jobs,
    )


def _user_agent(contact: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    if not (contact.isascii() and contact.isprintable()):
        raise UsageError(f"--contact {contact!a} cannot be sent; give an address in plain ASCII")
    try:
        ours = version("ninerec")
    except PackageNotFoundError:
        ours = "0"
    return f"ninerec/{ours} (research dataset downloader{contact and f'; {contact}'})"


def _expected(path: Path, entries: Sequence[Entry]) -> tuple[str, dict[str, str]]:
    """Dataset, and item id -> sha256 of the covers that another machine had from where they were published."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ninerec_data.item_rows import FROM_RELEASE

    columns = ["item_id", "sha256", "variant", "outcome", "source"]
    try:
        table = pq.read_table(path, columns=columns)
        name = (table.schema.metadata or {})[b"dataset"].decode()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        msg = f"--expect {path} cannot be read as a covers.provenance.parquet ({error}); name one of another machine"
        raise UsageError(msg) from error
    if name not in {entry.name for entry in entries}:
        raise UsageError(
            f"--expect {path} is of {name}, which is not asked for; leave it out or name {name} too"
        )
    return name, {
        row["item_id"]: row["sha256"]
        for row in table.to_pylist()
        if row["sha256"] and not row["variant"] and row["outcome"] == Outcome.OK
        if not (row["source"] or "").startswith(FROM_RELEASE)
    }


def _words(known: Sequence[str], *, none: bool = False) -> Callable[[str], tuple[str, ...]]:
    """The argparse type of words with commas between them, in the order known. none: `none` is no word at all."""

    def parse(text: str) -> tuple[str, ...]:
        words = {word.strip().lower() for word in text.split(",")}
        if none and words == {"none"}:
            return ()
        if wrong := sorted(words - set(known)):
            close = nearest(wrong[0], known)
            msg = f"'{wrong[0]}' is none of {', '.join(known)}{' (or none alone)' * none}{close}"
            raise argparse.ArgumentTypeError(msg.rstrip("."))
        return tuple(word for word in known if word in words)

    return parse


def _of_host(kind: type[int] | type[float]) -> Callable[[str], tuple[str, Any]]:
    """The argparse type of HOST=N."""

    def parse(text: str) -> tuple[str, Any]:
        host, _, number = text.rpartition("=")
        try:
            value = kind(number)
        except ValueError:
            value = 0
        if not host or not 0 < value < math.inf:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"'{text}' is no HOST=N with a {what} above 0")
        return host.lower(), value

    return parse


def _sha256(text: str) -> str:
    digest = text.lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError(f"'{text}' is no sha256 of 64 hex digits")
    return digest
