"""``hwgen bench``: where the cycles of a model of published size go."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import HwgenError
from ...published import published_model
from .memory import add_memory, memory_conditions
from .options import add_board, add_head, add_waves, add_workload, at_least, configured_board, waves_of
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen bench --board kv260 --shape bitnet-0.73b --prompt 128 --decode 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload(parser)
    add_head(parser)
    add_memory(parser)
    parser.add_argument(
        "--timeline", type=Path, metavar="DIR", help="write a Perfetto trace and pictures of the first passes there"
    )
    parser.add_argument("--layers", type=int, default=0, metavar="L", help="a quick look at the first L layers; 0 is all")
    parser.add_argument(
        "--check", default="outputs", choices=("none", "outputs", "full"), help="what is compared with golden, bit for bit"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and prompt")
    add_waves(parser)
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.bench import BenchPlan, describe_bench, run_bench

    board = configured_board(options, published_model(options.shape).engine)
    plan = BenchPlan(
        shape=options.shape,
        prompt=at_least(options, "prompt", 0),
        decode=at_least(options, "decode", 0),
        layers=at_least(options, "layers", 0) or None,
        cached=at_least(options, "cached", 0),
        check=options.check,
        head=options.head,
        timeline=options.timeline,
        waves=waves_of(options),
        seed=options.seed,
        memory=memory_conditions(options, board.name),
    )
    if plan.prompt + plan.decode == 0:
        raise HwgenError("usage", "nothing to run: --prompt and --decode are both 0", "give one of them")
    result = run_bench(board, plan, output.progress)
    for line in describe_bench(result):
        output.show(line)
    return (1 if result["mismatches"] else 0), result
