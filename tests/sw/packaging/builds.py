"""Boards with a configuration that generates in seconds, and build directories without Verilog of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from hwgen.boards import Board, board_names, load_board
from hwgen.config import BuildConfig
from hwgen.sw.packaging.steps import steps_of

#: Boards that carry a device.
BOARDS = [name for name in board_names() if load_board(name).platform is not None]


def small_board(name: str) -> Board:
    """A shipped board with its ports and clock, and little behind them."""
    board = load_board(name)
    ports, bits, beat = board.config.ports, board.config.port_bits, board.config.beat_bytes
    width = beat // 4
    config = BuildConfig(
        name=name, ports=ports, port_bits=bits, beat_bytes=beat, clock_mhz=board.config.clock_mhz, groups=1, lanes=1, rows=width,
        builders=1,
        query_lanes=1, kv_block=2 * width, chunk=2, burst=8, ring_beats=64, ring_memory="block",
        scratch_memory="block", scratch_vectors=64, param_vectors=16, max_inputs=64, max_head_dim=32, max_heads=2,
        max_kv_heads=1, max_shared=2, max_context=4 * width, topk=2, outstanding=2,
    )
    return replace(board, config=config)


@cache
def generated(board_name: str) -> dict[str, str]:
    """Every generated file of a shipped board but the Verilog, for which a stub stands."""
    return generate(load_board(board_name))


def generate(board: Board) -> dict[str, str]:
    files: dict[str, str] = {}
    for step in steps_of(board):
        files |= step.make(board, lambda: "module hwgen_accelerator; endmodule\n")
    return files


def write_build(board: Board, directory: Path) -> Path:
    """A build directory with a stub for the Verilog; returns the build script."""
    files = generated(board.name) if board == load_board(board.name) else generate(board)
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory / "build.tcl"
