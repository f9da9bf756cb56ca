"""`ninerec embed DATASET`: frozen features of every item, made once, to train on with `--item-encoder frozen`."""

from __future__ import annotations

import argparse
from typing import Any

from ninerec.options import at_least, print_json, say
from ninerec_data.catalog import find
from ninerec_data.dataset import Dataset, open_dataset
from ninerec_data.home import Home, find_home
from ninerec_data.manifest import read_manifest

_EXAMPLES = """examples:
  ninerec embed bili_food --encoder bert-base-uncased
  ninerec embed bili_food --encoder ~/models/opt-125m --layer 6 --pooling mean --dtype float16
  ninerec embed bili_food --field image --encoder resnet50
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `embed`."""
    parser = subparsers.add_parser(
        "embed",
        help="frozen features of every item, made once",
        description="Run a text or image model over every item and keep the vectors under features/ of the home.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", metavar="DATASET")
    add(
        "--encoder",
        required=True,
        metavar="MODEL",
        help="a folder or hub name; an image model's name",
    )
    add("--field", default="text", choices=("text", "image"))
    add("--language", metavar="LANG", help="zh or en")
    add("--layer", type=int, metavar="N", help="0 = embeddings, -1 = the last (default)")
    add("--pooling", choices=("cls", "mean"), help="first token, or mean of all (default by model)")
    add("--max-tokens", type=at_least(3), metavar="N", help="of a text (30)")
    add("--image-size", type=at_least(8), metavar="N", help="pixels a side (as prepared)")
    add("--dtype", default="float32", choices=("float32", "float16"), help="of what is kept")
    add(
        "--weights",
        default="pretrained",
        metavar="WHICH",
        help="none: random ones; or a file of an image model's",
    )
    add("--name", default="", metavar="NAME", help="of the features (the encoder's)")
    add("--device", default="auto", metavar="NAME")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the features and say where they are and what comes next."""
    from baselines.embed import Encoding, embed
    from loaders.features import Features

    home = find_home(args.home)
    ds = _open(home, args.dataset)
    options = {key: getattr(args, key) for key in Encoding.__dataclass_fields__}
    how = Encoding(**options)
    folder = embed(home, ds, how, name=args.name, device=args.device, say=say)
    recipe = Features.open(folder, ds).recipe
    if args.json:
        print_json({"folder": str(folder), "name": folder.name, "recipe": recipe})
        return 0
    counts = recipe["counts"]
    print(folder)
    print(
        f"{counts['items']:,} items x {counts['width']:,} {recipe['dtype']}; "
        f"{counts['items'] - counts['present']:,} items without {args.field} have a zero row"
    )
    print(f"next: ninerec train --dataset {ds.name} --item-encoder frozen --features {folder.name}")
    return 0


def _open(home: Home, name: str) -> Dataset:
    """The dataset under any split that is prepared: features are of the store's items, whatever the split."""
    entry, split = find(name)
    manifests = sorted(home.prepared(entry.name).glob("splits/[!.]*/manifest.json"))
    if manifests:
        split = (read_manifest(manifests[0]) or {})["parameters"]
    return open_dataset(entry.name, home=home, **split)
