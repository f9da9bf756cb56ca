"""`ninerec train`: train a model on a prepared dataset, keep the best epoch, test it once."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninerec.options import add_split_options, print_json, print_table, say, split_options
from ninerec_data.catalog import find
from ninerec_data.errors import UsageError
from ninerec_data.home import Home, find_home

if TYPE_CHECKING:
    from baselines.runs import Run

_EXAMPLES = """examples:
  ninerec train --dataset bili_food --user-encoder sasrec --item-encoder id
  ninerec train --dataset qb --item-encoder text --text-model ~/models/bert --set train.epochs=20
  ninerec train --resume bili_food-sasrec-id-bce-seed0-1a2b3c4d

Settings come from the published row (baselines/presets.toml), then --config, then --set, then options.
"""
_OPTIONS = {
    "user_encoder": "model.user_encoder",
    "item_encoder": "model.item_encoder",
    "objective": "model.objective",
    "text_model": "model.text_model",
    "image_model": "model.image_model",
    "weights": "model.weights",
    "features": "model.features",
    "image_size": "data.image_size",
    "protocol": "data.protocol",
    "language": "data.language",
    "device": "train.device",
    "seed": "train.seed",
}


def add_parser(subparsers: Any) -> None:
    """Add the parser of `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a model, keep the best epoch, test it once",
        description="Train on a prepared dataset; everything is written under runs/ of the home.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", metavar="DATASET")
    parser.add_argument("--user-encoder", metavar="NAME", help="sasrec")
    parser.add_argument(
        "--item-encoder", metavar="NAME", help="id, text, image, text+image or frozen"
    )
    parser.add_argument("--objective", metavar="NAME", help="bce or in-batch")
    parser.add_argument("--text-model", metavar="PATH", help="a local folder or hub name")
    parser.add_argument("--image-model", metavar="NAME", help="resnet18 ... swin_b of torchvision")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side, scaled on load")
    parser.add_argument("--features", metavar="NAME", help="of `ninerec embed`, for frozen")
    parser.add_argument("--weights", metavar="NAME", help="pretrained, or none for random weights")
    parser.add_argument("--language", metavar="LANG", help="zh or en")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="one setting")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="of weights, order, negatives, dropout"
    )
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda ...")
    parser.add_argument("--resume", metavar="RUN", help="go on where a run stopped")
    parser.add_argument("--no-test", action="store_true", help="leave the test part sealed")
    add_split_options(parser, seed="--split-seed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and print the result."""
    from baselines.training import train
    from baselines.world import join

    home = find_home(args.home)
    with join() as world:
        going = world.told(_run_of(args, home) if world.first else None)
        try:
            result = train(home, going, test=not args.no_test, say=say, world=world)
        except KeyboardInterrupt:
            if world.first and going.folder.exists():
                where = f" --home {shlex.quote(str(args.home))}" if args.home else ""
                say(f"stopped; go on with: ninerec train --resume {going.name}{where}")
            raise
    if not world.first:
        return 0
    if args.json:
        print_json(result)
    else:
        show_result(result)
    return 0


def _run_of(args: argparse.Namespace, home: Home) -> Run:
    """The run to go on with, or a new one of what is asked for."""
    from baselines.config import make_config
    from baselines.runs import find_run, new_run

    asked: dict[str, Any] = {_OPTIONS[key]: getattr(args, key) for key in _OPTIONS}
    asked |= {f"data.split.{key}": value for key, value in split_options(args).items()}
    if args.dataset:
        entry, alias_split = find(args.dataset)
        asked["data.dataset"] = entry.name
        asked = {f"data.split.{key}": value for key, value in alias_split.items()} | asked
    if args.resume:
        return _resumed(find_run(home, args.resume), args, asked)
    config = make_config(args.config, args.set, asked)
    if not config.data.dataset:
        msg = "no dataset is named; expected: ninerec train --dataset DATASET (`ninerec list` shows them)"
        raise UsageError(msg)
    return new_run(home, config)


def show_result(result: dict[str, Any]) -> None:
    """One row a part, and where it came from."""
    parts = [part for part in ("valid", "test") if result[part]]
    print_table([{"part": part, **result[part]} for part in parts])
    print(
        f"{result['run']}: {result['dataset']}, protocol {result['protocol']} {result['protocol_hash']}, "
        f"pool {result['pool']:,}, best epoch {result['best_epoch']} of {result['epochs']}, "
        f"test looks {result['test_looks']}"
    )


def _resumed(run: Run, args: argparse.Namespace, asked: dict[str, Any]) -> Run:
    """The run as it is, but for what changes no number; with another setting it were another run."""
    from dataclasses import replace

    from baselines.config import changed_settings, make_config, settings_of

    given = {key: value for key, value in asked.items() if value is not None}
    given = {**settings_of(args.config, args.set), **given}
    make_config(options=given)  # refuses an unknown setting or value, with the nearest
    if changed := changed_settings(run.config, given):
        msg = (
            f"--resume {args.resume} with changed settings: {', '.join(changed)}; "
            "leave them out to resume, or leave --resume out to start another run"
        )
        raise UsageError(msg)
    return replace(run, config=make_config(run.folder / "config.toml", (), given, presets=False))
