"""``hwgen board``: a virtual PYNQ board that hosts reach as they reach a real one across the network."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import HwgenError
from ...packages import needs
from ..devices.virtual_board import virtual_board, write_overlay
from .options import at_least, check_port, configured_board
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen board --simulate demo --port 7967"

#: PYNQ looks for boards there.
DEFAULT_PORT = 7967


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulate", required=True, metavar="BOARD", help="board: a shipped name or the path of a board.json"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no password: keep to trusted networks")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 takes any free one")
    parser.add_argument("--memory", type=int, default=512, metavar="MIB", help="contiguous memory of the board")
    parser.add_argument("--overlay", type=Path, metavar="DIR", help="write the board's simulated .bit and its .hwh there")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a field of the build configuration"
    )


def run(options: argparse.Namespace, output: Output) -> Result:
    memory = at_least(options, "memory", 1) << 20
    check_port(options.port, "give a port")
    with needs("the virtual board", "hwgen[pynq]"):
        from ...sim.board.server import BoardServer
    options.board = options.simulate
    board = configured_board(options)
    simulated = virtual_board(board, memory, output.progress)
    if options.overlay is not None:
        bit = write_overlay(board, options.overlay)
        output.show(f"wrote {bit} and {bit.with_suffix('.hwh')} (simulated)")
    try:
        server = BoardServer(simulated, host=options.host, port=options.port)
    except OSError as error:
        raise HwgenError("usage", str(error), "choose another --port or --host") from error
    with server:
        output.show(f"virtual board {simulated.name} serves PYNQ's remote protocol on {options.host}:{server.port}; Ctrl-C ends it")
        try:
            server.wait()
        except KeyboardInterrupt:
            output.progress("the virtual board has ended")
    return 0, {"board": board.name, "host": options.host, "port": server.port, "simulated": True}
