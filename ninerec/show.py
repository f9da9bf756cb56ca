"""`ninerec show`: everything the catalog knows about one dataset, what of it is here, what to do next."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ninerec.options import aligned, as_typed, figure, local_state, print_json, raw_files, say
from ninerec_data.catalog import Entry, find
from ninerec_data.home import Home, find_home

__all__ = ["add_parser", "next_command", "run"]

_EXAMPLES = """examples:
  ninerec show bili_food            # sources, files, terms, published statistics, the next command
  ninerec show bili_food --bibtex   # what to cite, ready to paste
"""
_ACCESS = {
    "public": "public",
    "manual": "public, but a file must be fetched by hand",
    "request": "not public: ask those who hold it, then import",
}


def add_parser(subparsers: Any) -> None:
    """Add the parser of `show`."""
    parser = subparsers.add_parser(
        "show",
        help="one dataset in full",
        description="Show what is known about one dataset of the catalog, and what of it is on disk.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help="a name that `ninerec list` shows")
    parser.add_argument("--bibtex", action="store_true", help="only the BibTeX of its papers")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one dataset; returns the exit code. Raises UsageError for an unknown name."""
    entry, split = find(args.dataset)
    if args.bibtex:
        if args.json:
            print_json({"dataset": entry.name, "bibtex": entry.bibtex})
        else:
            print(entry.bibtex)
        return 0
    home = find_home(args.home)
    if args.json:
        print_json(_document(home, entry, split))
        return 0
    if args.dataset != entry.name:
        say(f"{args.dataset} is {entry.name}{as_typed(split)}")
    print("\n".join(_lines(home, entry, split)))
    return 0


def next_command(entry: Entry, split: Mapping[str, Any], state: str) -> str:
    """The command that takes a dataset one step further from where it stands on this disk."""
    if state == "prepared" and not split:
        return f"ninerec stats {entry.name}"
    if state:
        return f"ninerec prepare {entry.name}{as_typed(split)}"
    if entry.access == "public" and _can_download():
        return f"ninerec download {entry.name}"
    return f"ninerec import {entry.name} PATH"


def _can_download() -> bool:
    from ninerec.main import VERBS

    return "download" in VERBS


def _document(home: Home, entry: Entry, split: Mapping[str, Any]) -> dict[str, Any]:
    state = local_state(home, entry.name)
    asked = {**entry.split, **split}
    return {
        **asdict(entry),
        "split": asked,
        "local": {"state": state, "raw": raw_files(home, entry.name)},
        "next": next_command(entry, split, state),
    }


def _lines(home: Home, entry: Entry, split: Mapping[str, Any]) -> Iterator[str]:
    yield f"{entry.name}: {entry.title}"
    yield ""
    yield from aligned([(key, value) for key, value in _facts(entry, split) if value])
    if entry.note:
        yield from ("", *textwrap.wrap(f"Note: {entry.note}.", 100))
    yield from ("", *_published(entry))
    yield from ("", "files of the release", *_files(entry))
    yield from ("", "sources, first tried first", *_sources(entry))
    yield from ("", f"terms ({entry.terms.key})")
    yield from textwrap.wrap(entry.terms.text, 98, initial_indent="  ", subsequent_indent="  ")
    if entry.terms.url:
        yield f"  {entry.terms.url}"
    state = local_state(home, entry.name)
    yield from ("", f"on disk: {state or 'nothing'}")
    yield from (f"  {role}: {path}" for role, path in raw_files(home, entry.name).items())
    yield f"next: {next_command(entry, split, state)}"


def _facts(entry: Entry, split: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "role", entry.role
    yield "platform", entry.platform
    yield "behaviour", entry.behaviour
    yield "modalities", ", ".join(entry.modalities)
    yield "languages", ", ".join(entry.languages)
    yield "text", "; ".join(f"{lang}: {' + '.join(cols)}" for lang, cols in entry.text.items())
    yield "covers", entry.resolution
    yield "timestamps", "yes" if entry.timestamps else "no"
    yield "kept per user", f"the last {entry.keep_last} interactions"
    yield "split", as_typed({**entry.split, **split}).strip()
    yield "access", _ACCESS[entry.access]
    yield "release", f"{entry.release} ({entry.format} format)"


def _published(entry: Entry) -> Iterator[str]:
    if entry.published is None:
        yield "published statistics: none"
        return
    counted = "the whole release" if entry.published.scope == "store" else "what the split keeps"
    yield f"published statistics ({entry.published.source}; counts {counted})"
    for key in ("users", "items", "interactions"):
        yield f"  {key:<12} {figure(entry.published.as_json()[key]):>12}"


def _files(entry: Entry) -> Iterator[str]:
    if not entry.files:
        yield "  their names are not published"
        return
    rows = [
        (
            file.name,
            file.asset,
            f"{file.size:,} bytes" if file.size else "",
            file.sha256 or "",
        )
        for file in entry.files
    ]
    yield from (f"  {line}" for line in aligned(rows))


def _sources(entry: Entry) -> Iterator[str]:
    """One block for each address, with all that it delivers."""
    blocks: dict[tuple[str, str, str, str], list[str]] = {}
    for source in entry.sources:
        key = (source.kind, source.url, source.file, source.note)
        blocks.setdefault(key, []).append(source.asset)
    if not blocks:
        yield "  none is published"
    for (kind, url, file, note), assets in blocks.items():
        yield f"  {kind}: {url}"
        said = [", ".join(assets), *([f"as {file}"] if file else []), *([note] if note else [])]
        yield f"    {'; '.join(said)}"
