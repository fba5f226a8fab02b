"""Options that choose how the simulated memory answers, for every command that has one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...sim.board_timing import MemoryConditions

__all__ = ["add_memory", "memory_conditions"]


def add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--latency-ns", type=float, metavar="L", help="idle latency of the memory, in nanoseconds (the board's if not given)"
    )
    parser.add_argument(
        "--cpu-bytes-per-s", type=float, default=0.0, metavar="B", help="what the processor reads beside the accelerator"
    )


def memory_conditions(options: argparse.Namespace) -> MemoryConditions:
    from ...sim.board_timing import MemoryConditions

    return MemoryConditions(latency_ns=options.latency_ns, cpu_bytes_per_s=options.cpu_bytes_per_s)
