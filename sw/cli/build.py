"""``hwgen build``: everything that Vivado needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import add_board, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen build --board kv260 --out build/kv260"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    steps = "verilog, registers, core, design, handoff, check"
    parser.add_argument("--from", dest="first", default="verilog", metavar="STEP", help=f"resume at this step of: {steps}")
    parser.add_argument("--to", dest="last", default="check", metavar="STEP", help="stop after this step")
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..packaging.build import build_board

    result = build_board(configured_board(options), options.out, output.progress, options.first, options.last)
    output.show(f"{result['out']}: {', '.join(result['files'])}")
    output.show(f"verilog sha256 {result['verilog_sha256']}, contract {result['contract_hash']}")
    for name, outcome in result["checks"].items():
        output.show(f"{name}: {outcome}")
    return 0, result
