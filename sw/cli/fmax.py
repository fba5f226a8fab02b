"""``hwgen fmax``: routed clock of the main units."""

from __future__ import annotations

import argparse

from ...packages import needs
from .options import add_board, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen fmax --unit vector_lane"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unit", action="append", default=[], metavar="NAME", help="only this main unit (may be repeated)")
    parser.add_argument("--fresh", action="store_true", help="route again, whatever the cache has")
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.main_units import find_main_units, main_units_of

    board = configured_board(options)
    units = find_main_units(options.unit) if options.unit else main_units_of(board.config)
    with needs("generating Verilog", "hwgen[sim,fmax]"):
        from ..analysis.fmax import describe_fmax, route_units
    result = route_units(board, units, fresh=options.fresh, progress=output.progress)
    for line in describe_fmax(result):
        output.show(line)
    return 0, result
