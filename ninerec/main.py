"""The console script: import the chosen verb alone, run it, turn every error into one message.

A verb is one module with `add_parser(subparsers) -> None`, which adds the parser of its own name, and
`run(args) -> int`, which returns the exit code (DESIGN 7). `--help` imports none of them.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from ninerec_data.errors import NineRecError, UsageError, nearest

__all__ = ["NOT_BUILT", "VERBS", "main", "parse"]

# verb -> (module, help line)
VERBS: dict[str, tuple[str, str]] = {
    "list": ("ninerec.list", "the catalog: datasets, sizes, modalities; --local: what is on disk"),
    "show": ("ninerec.show", "one dataset: sources, terms, published statistics, citation"),
    "download": ("ninerec.download", "fetch a release, its covers and titles, politely"),
    "import": ("ninerec.import_", "take in a release you hold (folder, zip, tar) and check it"),
    "prepare": ("ninerec.prepare", "clean, split, tag cold and new, write the store"),
    "verify": ("ninerec.verify", "check bytes, structure and values against what is published"),
    "stats": ("ninerec.stats", "the paper's Table 1 row, recomputed from the store"),
    "embed": ("ninerec.embed", "frozen features of every item, made once, to train on"),
    "train": ("ninerec.train", "train a model, keep the best epoch, test it once"),
    "evaluate": ("ninerec.evaluate", "score a trained run: regular, cold and new items"),
    "export": (
        "ninerec.export",
        "write it for RecBole, Hugging Face, LMDB, Croissant, or as files",
    ),
    "clean": ("ninerec.clean", "remove a prepared dataset, after saying what that frees"),
    "demo": ("ninerec.demo", "the whole way on a small made-up dataset, nothing to fetch"),
    "doctor": (
        "ninerec.doctor",
        "what this installation has and lacks; paste it into a bug report",
    ),
}

# verb -> what to do instead
NOT_BUILT: dict[str, str] = {
    "transfer": "train on the target dataset alone with `ninerec train --dataset DATASET`",
    "recommend": "`ninerec evaluate RUN` scores the test users of a run",
    "report": "`ninerec evaluate RUN --json` prints the numbers of one run",
    "leaderboard": "`ninerec evaluate RUN --json` prints the numbers of one run",
}

# Faults of the machine, not of ninerec: a traceback would help nobody.
_MACHINE = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "your disk quota is full",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports a fault",
    errno.ENOTDIR: "a file stands where a folder is expected",
    errno.EEXIST: "a file stands where a folder is expected",
    errno.EISDIR: "a folder stands where a file is expected",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a symbolic link leads back to itself",
    errno.ENOLCK: "this file system keeps no locks",
}

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_READER_LEFT = 141  # 128 + SIGPIPE, likewise


class _Parser(argparse.ArgumentParser):
    """argparse whose errors go the way of every other error; the verbs' parsers inherit it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` lists the options")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit code, never a traceback.

    0 done, 1 a check failed, 2 wrong use, 3 data missing, 4 network, 5 terms, 130 Ctrl-C (DESIGN 7);
    141 when the reader of stdout left before the end (`ninerec list | head -1`).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _dispatch(words)
        print(end="", flush=True)  # a reader that left shows here, not when the interpreter ends
        return code
    except SystemExit:  # `ninerec VERB --help`, nothing else: argparse's errors are UsageError here
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        return _explain(error, debug="--debug" in words)


def _dispatch(words: list[str]) -> int:
    if not words:
        print(_help(), file=sys.stderr)
        return 2
    verb = words[0]
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"ninerec {_version()}")
        return 0
    if verb in VERBS:
        module, args = parse(words)
        code: int = module.run(args)
        return code
    if verb in NOT_BUILT:
        raise UsageError(f"`ninerec {verb}` is not built yet; {NOT_BUILT[verb]}")
    if verb.startswith("-"):
        raise UsageError(f"'{verb}' stands before the verb; options follow it: ninerec VERB {verb}")
    close = nearest(verb, [*VERBS, *NOT_BUILT])
    raise UsageError(f"unknown verb '{verb}' (`ninerec --help` lists them){close}")


def parse(words: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Import the verb that `words` starts with and parse the rest for it; `--help` exits with 0."""
    verb = words[0]
    module = importlib.import_module(VERBS[verb][0])
    parser = _Parser(prog="ninerec")
    subparsers = parser.add_subparsers(dest="verb", required=True)
    module.add_parser(subparsers)
    own = subparsers.choices[verb]
    _add_common_options(own)
    args, unknown = parser.parse_known_args(words)
    if unknown:  # said by the verb's parser, whose message names the verb
        own.error(f"unrecognized arguments: {' '.join(unknown)}")
    return module, args


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of every verb")
    group.add_argument(
        "--home",
        metavar="DIR",
        help="the folder of all data (default: $NINEREC_HOME, else the platform's data folder)",
    )
    group.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else there"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _help() -> str:
    width = max(map(len, VERBS))
    return "\n".join(
        [
            "usage: ninerec VERB [options]",
            "",
            "Checked, ready-to-train datasets for multimodal recommendation, and their baselines.",
            "",
            "verbs (`ninerec VERB --help` explains one):",
            *(f"  {verb:{width}}  {line}" for verb, (_, line) in VERBS.items()),
            "",
            f"not built yet: {', '.join(NOT_BUILT)}",
            "",
            "every verb takes --home DIR, --json and --debug; ninerec --version prints the version",
        ]
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ninerec")
    except PackageNotFoundError:
        return "(not installed, run from its folder)"


def _explain(error: Exception, *, debug: bool) -> int:
    """Say on stderr what went wrong, in one message, and return the exit code."""
    if isinstance(error, BrokenPipeError) and _reader_left():
        return _READER_LEFT
    if debug:
        traceback.print_exception(error)
    if isinstance(error, NineRecError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f" ({error.filename})" if error.filename else ""
        way_out = "mend that or choose another folder with --home DIR, then run the command again"
        print(f"error: {_MACHINE[error.errno]}{where}; {way_out}", file=sys.stderr)
        return 1
    if isinstance(error, ImportError | AttributeError):
        from ninerec_data.shadows import shadow_behind

        if shadow := shadow_behind(error):
            print(f"error: {shadow}", file=sys.stderr)
            return 2
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"internal error: {text}; run again with --debug and report it", file=sys.stderr)
    return 1


def _reader_left() -> bool:
    """Whether it was stdout that broke: a worker's pipe breaks with the same error."""
    stdout = 1
    poll = select.poll()
    poll.register(stdout, 0)
    if not poll.poll(0):
        return False
    # The unwritten rest must go somewhere, or the interpreter complains about it when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True
