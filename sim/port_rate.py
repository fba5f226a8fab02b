"""What the memory ports of boards sustain, measured on the memory model: `python -m hwgen.sim.port_rate [--write] BOARD ...`

Prints the share of one beat a cycle that a linear stream gets, spread over the ports as the memory system does it, for every
idle latency and traffic of the processor of the grid. With `--write` it goes to `boards/BOARD/port_rates.json`, which
`hwgen estimate` reads.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..boards import Board, load_board
from ..config import BuildConfig
from ..errors import HwgenError
from .board_timing import MemoryConditions, board_timing, latency_ns
from .dram import DramTiming
from .toolchain import find_compiler, run
from .verilate import MEMORY_SOURCES, cached, memory_model_identity

_SOURCE = "port_rate.cpp"
_FLAGS = ("-std=gnu++17", "-march=native", "-O2", "-fPIC", "-shared")
_SPAN = 1 << 30
LATENCIES_NS = (160.0, 240.0, 320.0, 400.0, 480.0, 640.0)
CPU_BYTES_PER_S = (0.0, 0.5e9, 1e9, 2e9)
#: Bytes of a segment: a matrix of a small model.
SEGMENT_BYTES = 512 * 1024
#: Segments of one measurement, one after the other at random addresses.
SEGMENTS = 16


@cache
def _library() -> Callable[..., float]:
    here = Path(__file__).parent
    compiler, version = find_compiler()
    identity = json.dumps([version, _FLAGS, memory_model_identity(), (here / _SOURCE).read_text()])
    sources = [str(here / name) for name in (_SOURCE, *MEMORY_SOURCES)]

    def build(directory: Path) -> None:
        run([compiler, *_FLAGS, f"-I{here}", *sources, "-o", "libport_rate.so"], directory)

    path = cached(f"port_rate-{hashlib.sha256(identity.encode()).hexdigest()[:24]}", "libport_rate.so", build)
    function = ctypes.CDLL(str(path)).port_rate
    u32, u64, pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    function.restype = ctypes.c_double
    function.argtypes = [pointer, *(5 * (u32,)), u64, *(3 * (u32,)), u64, pointer, u32, u64]
    return function


def stream_rate(config: BuildConfig, timing: DramTiming, segments: list[int], segment_bytes: int = SEGMENT_BYTES) -> float:
    """Beats that enter the ring of `config` in a cycle, at most 1, while it reads segments at these byte addresses, below 1 GiB
    less a segment. Ports, bursts, their number in flight and the ring are those of the configuration.
    """
    addresses = (ctypes.c_uint64 * len(segments))(*segments)
    return float(_library()(
        ctypes.byref(timing.as_struct()), config.ports, config.port_bytes, config.beat_bytes // config.port_bytes, config.burst,
        config.outstanding, config.ring_beats, config.port_queue, config.read_streams, config.bank_bursts, _SPAN, addresses,
        len(segments), segment_bytes // config.beat_bytes,
    ))


def port_rate(config: BuildConfig, timing: DramTiming) -> float:
    """`stream_rate` over `SEGMENTS` segments at random multiples of 4096."""
    pages = np.random.default_rng(1).integers(0, (_SPAN - SEGMENT_BYTES) // 4096, SEGMENTS)
    return stream_rate(config, timing, [int(page) * 4096 for page in pages])


def rates_path(board: str) -> Path:
    """The table of a shipped board."""
    return Path(str(files("hwgen.board_data"))) / board / "port_rates.json"


def rate_table(board: Board) -> dict[str, Any]:
    """`port_rate` of every idle latency (outer) and traffic of the processor (inner)."""
    rates = [
        [
            round(port_rate(board.config, board_timing(board, MemoryConditions(latency_ns=latency, cpu_bytes_per_s=cpu))), 4)
            for cpu in CPU_BYTES_PER_S
        ]
        for latency in LATENCIES_NS
    ]
    return {"latency_ns": LATENCIES_NS, "cpu_bytes_per_s": CPU_BYTES_PER_S, "rates": rates}


def tabled_port_rate(board: Board, conditions: MemoryConditions) -> float:
    """The board's table, linear between its points and constant beyond them.

    Raises `HwgenError` where the board has none.
    """
    try:
        table = json.loads(rates_path(board.name).read_text(encoding="utf-8"))
    except OSError as error:
        raise HwgenError(
            "configuration", f"the memory ports of board {board.name!r} were not measured",
            f"python -m hwgen.sim.port_rate --write {board.name}",
        ) from error
    rows = [float(np.interp(conditions.cpu_bytes_per_s, table["cpu_bytes_per_s"], row)) for row in table["rates"]]
    return float(np.interp(latency_ns(board, conditions), table["latency_ns"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables beside the boards")
    parser.add_argument("boards", nargs="+", metavar="BOARD")
    options = parser.parse_args()
    for name in options.boards:
        table = rate_table(load_board(name))
        text = ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in table.items())
        print(f"{{\n{text}\n}}")
        if options.write:
            rates_path(name).write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
