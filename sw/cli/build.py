"""``hwgen build``: everything that Vivado needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_board, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen build --board kv260 --out build/kv260"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    steps = "verilog, registers, core, design, handoff, app, check"
    parser.add_argument("--from", dest="first", default="verilog", metavar="STEP", help=f"resume at this step of: {steps}")
    parser.add_argument("--to", dest="last", default="check", metavar="STEP", help="stop after this step")
    parser.add_argument("--clean", action="store_true",
                        help="remove what Vivado made in the directory, for any build; else it is kept")
    add_board(parser, "kv260")


def describe_results(results: dict[str, Any], contract: str) -> list[str]:
    """What became of the results of Vivado that lay in the directory."""
    lines = []
    if results["set_aside"]:
        names, kept = ", ".join(results["set_aside"]), ", ".join(results["set_aside"].values())
        other = f"contract {results['before']}" if results["before"] != contract else "other generated files"
        lines.append(f"{names} there are of another build ({other}): set aside as {kept}; `make` makes those of this one")
    if results["restored"]:
        lines.append(f"{', '.join(results['restored'].values())} of this build had been set aside and are back in place")
    return lines


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..packaging.build import build_board

    result = build_board(configured_board(options), options.out, output.progress, options.first, options.last, options.clean)
    output.show(f"{result['out']}: {', '.join(result['files'])}")
    output.show(f"verilog sha256 {result['verilog_sha256']}, contract {result['contract_hash']}")
    for name, outcome in result["checks"].items():
        output.show(f"{name}: {outcome}")
    for line in describe_results(result["results"], result["contract_hash"]):
        output.show(line)
    return 0, result
