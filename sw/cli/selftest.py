"""``hwgen selftest``: bring-up of a board in one command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...boards import Board
from ...errors import HwgenError
from ...files import write_whole
from ..devices.device import Device
from ..devices.open import open_device
from ..verification.selftest import SelfTest, Step
from .options import add_board, configured_board, device_options
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen selftest --device pynq --board kv260 --overlay hwgen.bit"

#: What the report is called where nothing else is asked for.
REPORT = Path("hwgen-selftest.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="pynq", help="pynq, verilator or golden")
    parser.add_argument("--address", metavar="HOST[:PORT]", help="a board across the network, or a virtual one")
    parser.add_argument("--overlay", type=Path, metavar="FILE.bit", help="the bitstream, its .hwh beside it")
    parser.add_argument("--attach", action="store_true", help="use the bitstream that is loaded already")
    parser.add_argument("--report", type=Path, default=REPORT, metavar="FILE", help="report, to be attached to a bug")
    add_board(parser)


def run(options: argparse.Namespace, output: Output) -> Result:
    board = configured_board(options)
    places = device_options(options, board)

    def opened(memory_bytes: int) -> Device:
        progress = {} if options.device == "golden" else {"progress": output.progress}
        spare = 0 if options.device == "pynq" else 1 << 20
        return open_device(options.device, board.config, memory_bytes=memory_bytes + spare, **progress, **places)

    test = SelfTest(board, opened, output.progress)
    passed = test.run(lambda step: describe(step, output))
    result = test.to_dict()
    try:
        write_whole(options.report, json.dumps(result, indent=1) + "\n")
    except OSError as error:
        message = f"the report {options.report} cannot be written: {error.strerror}"
        raise HwgenError("usage", message, "give another --report") from error
    output.show(f"{conclusion(test, board)}; report: {options.report}")
    return (0 if passed else 1), result


def describe(step: Step, output: Output) -> None:
    """One step for people."""
    first, *more = step.found.splitlines() or [""]
    output.show(f"{step.verdict:8} {step.name:16} {first}".rstrip())
    for line in [*more, *str(step.data.get("state", "")).splitlines()]:
        output.show(f"  {line}")
    if step.fix:
        output.show(f"         what to do: {step.fix}")


def conclusion(test: SelfTest, board: Board) -> str:
    failed = [step.name for step in test.steps if step.verdict == "failed"]
    return f"{board.name}: {failed[0]} failed" if failed else f"{board.name}: all steps passed"
