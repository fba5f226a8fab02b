"""Options that choose how the simulated memory answers, for every command that has one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HwgenError

if TYPE_CHECKING:
    from ...sim.board_timing import MemoryConditions

__all__ = ["add_memory", "memory_conditions"]


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--latency-ns", type=float, metavar="L", help="idle latency of the memory, in nanoseconds (the board's if not given)"
    )
    parser.add_argument(
        "--memory", type=Path, metavar="FILE", help="latency and rate of the ports as `hwgen selftest` found them: its report"
    )
    parser.add_argument(
        "--cpu-bytes-per-s", type=float, default=0.0, metavar="B", help="what the processor reads beside the accelerator"
    )


def memory_conditions(options: argparse.Namespace, board: str) -> MemoryConditions:
    """What the options say of the memory of ``board``."""
    from ...sim.board_timing import MemoryConditions

    latency, rate = options.latency_ns, None
    if options.memory is not None:
        measured, rate = read_preset(options.memory, board)
        latency = measured if latency is None else latency
    return MemoryConditions(latency_ns=latency, cpu_bytes_per_s=options.cpu_bytes_per_s, port_rate=rate)


def read_preset(path: Path, board: str) -> tuple[float, float]:
    """Idle latency in nanoseconds and beats a cycle of all ports, in the report of a self-test of ``board``."""
    fix = "give a report that `hwgen selftest` wrote, of a test that came to the speed of the memory"
    try:
        preset = json.loads(path.read_text(encoding="utf-8"))["memory"]
        found, latency, rate = str(preset["board"]), float(preset["latency_ns"]), float(preset["port_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwgenError("usage", f"--memory {path} has no measured memory: {error}", fix) from error
    if found != board:
        raise HwgenError("usage", f"--memory {path} is of board {found!r}, not {board!r}", f"add --board {found}")
    if latency < 0 or not 0 < rate <= 1:
        raise HwgenError("usage", f"--memory {path} has a latency of {latency} ns and {rate} beats a cycle", fix)
    return latency, rate
