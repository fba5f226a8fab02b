"""``hwgen explore``: the best configuration of a board for a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...published import PUBLISHED
from .kv_budget import add_kv_budget, kv_budget_of
from .kv_cache import add_kv
from .options import add_board, add_head, at_least, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen explore --board kv260 --model bitnet-0.73b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ternary = ", ".join(name for name, model in PUBLISHED.items() if model.engine == "ternary")
    parser.add_argument("--model", default="bitnet-0.73b", help=f"{ternary}, a shipped model or a model directory")
    parser.add_argument(
        "--also", action="append", default=[], metavar="M", help="a model that the choice must hold as well (may be repeated)"
    )
    parser.add_argument("--keep-maxima", action="store_true", help="keep the board's maxima that are larger than the models need")
    parser.add_argument("--prompt", type=int, default=128, metavar="P", help="prompt tokens to the first new token")
    parser.add_argument("--new", type=int, default=128, metavar="N", help="tokens of the answer whose whole time decides")
    add_head(parser)
    add_kv(parser, "k8v8")
    add_kv_budget(parser, "builds are made for it; 0: for that of the board")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="configurations to time at most")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="local processes; 0 is one a core")
    parser.add_argument("--dask", metavar="ADDRESS", help="use the workers of this Dask scheduler instead")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the choice (BOARD-MODEL.json if not given)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the Pareto front there (png, svg or pdf)")
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis import explore as search
    from ..analysis.search_space import Workload

    board = configured_board(options)
    kv_budget = kv_budget_of(options) or board.config.kv_budget
    work = Workload(
        shape=search.model_shape(options.model), head=options.head, kv=options.kv, kv_budget=kv_budget,
        prompt=at_least(options, "prompt", 1), new_tokens=at_least(options, "new", 0),
        also=tuple(search.model_shape(name) for name in options.also), keep_maxima=options.keep_maxima,
    )
    limit, workers = at_least(options, "limit", 1), at_least(options, "workers", 0)
    with search.open_executor(workers or None, options.dask) as executor:
        found = search.explore(board, work, executor=executor, limit=limit, progress=output.progress)
    result = search.explore_json(board, options.model, work, found, options.also)
    out = options.out or Path(f"{board.name}-{Path(options.model).name}.json")
    search.write_config(out, found.chosen.config)
    result["out"] = str(out)
    if options.plot is not None:
        search.draw_front(result, options.plot)
        result["plot"] = str(options.plot)
    for line in search.describe_exploration(result):
        output.show(line)
    output.show(f"{out}: hwgen build --board {options.board} --config {out} --out DIR")
    return 0, result
