"""`ninerec evaluate RUN`: score a run's best checkpoint; every look at the test part is counted."""

from __future__ import annotations

import argparse
from typing import Any

from ninerec.options import print_json, print_table, say
from ninerec_data.errors import UsageError, refuse_unknown
from ninerec_data.home import find_home

_EXAMPLES = """examples:
  ninerec evaluate bili_food-sasrec-id-bce-seed0-1a2b3c4d --scenario regular,cold,new
  ninerec evaluate RUN --split valid --json
"""


def add_parser(subparsers: Any) -> None:
    """Add the parser of `evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a trained run: regular, cold and new items",
        description="Rank every target among the full catalogue with the run's best checkpoint.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="RUN")
    parser.add_argument(
        "--scenario", default="regular", metavar="LIST", help="regular,cold,new ..."
    )
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    parser.add_argument("--device", default="auto", metavar="NAME")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print one row a scenario."""
    from baselines.runs import find_run
    from baselines.scenarios import SCENARIOS, evaluate_run

    scenarios = [name.strip() for name in args.scenario.split(",") if name.strip()]
    if not scenarios:
        msg = f"--scenario '{args.scenario}' names none; expected some of {', '.join(SCENARIOS)}"
        raise UsageError(msg)
    for name in scenarios:
        refuse_unknown("scenario", name, SCENARIOS)
    home = find_home(args.home)
    result = evaluate_run(home, find_run(home, args.name), scenarios, args.split, args.device)
    if args.json:
        print_json(result)
        return 0
    rows = [{"scenario": name, **values} for name, values in result["scenarios"].items()]
    print_table(rows)
    say(
        f"protocol {result['protocol']} {result['protocol_hash']}, test looks {result['test_looks']}"
    )
    return 0
