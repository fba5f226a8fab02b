"""When every operator of a pass ran and how full the ring was: the trace memory of the machine.

It is read through registers, on a board as in simulation. The golden machine has no time, and its trace no entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...descriptors import Opcode
from ...operators import OPERATORS, Unit
from ...registers import TRACE_WORDS, register
from .engine import Engine

__all__ = ["TRACKS", "PassTrace", "TraceEntry", "TracedRun", "read_trace"]

#: Lanes of a picture and threads of a trace, top to bottom, and the operators on each.
TRACKS: dict[str, tuple[Opcode, ...]] = {
    unit.name.lower().replace("_", " "): tuple(o for o, row in OPERATORS.items() if row.unit is unit) for unit in Unit
}


@dataclass(frozen=True)
class TraceEntry:
    """One operator: cycles from the doorbell, and beats in the ring at both ends."""

    start: int
    end: int
    #: Index in the program.
    tag: int
    opcode: Opcode
    #: Active tokens.
    tokens: int
    level_start: int
    level_end: int


class TracedRun(NamedTuple):
    """A run of a pass: number of its sequence, tokens that this had before, tokens of the run."""

    sequence: int
    position: int
    tokens: int


@dataclass(frozen=True)
class PassTrace:
    """The trace of one pass."""

    name: str
    #: Cycles of the whole pass; the trace may end earlier, when its memory was full.
    cycles: int
    entries: tuple[TraceEntry, ...]
    #: What it computed, where that is known. An operator is of all runs: what each has of it the trace does not tell.
    runs: tuple[TracedRun, ...] = ()
    #: Counters of the pass, by name.
    counters: Mapping[str, int] = field(default_factory=dict)


def read_trace(
    engine: Engine, name: str, cycles: int, runs: Sequence[TracedRun] = (), counters: Mapping[str, int] | None = None
) -> PassTrace:
    """The trace of the latest pass of ``engine``, and what else is known of it."""
    config, device = engine.config, engine.device
    window = register(config, "TRACE")
    entries = []
    for number in range(device.read_register(register(config, "TRACE_COUNT").offset)):
        first = window.offset + TRACE_WORDS * number * window.step
        start, end, what, level = (device.read_register(first + i * window.step) for i in range(TRACE_WORDS))
        entries.append(
            TraceEntry(start, end, what & 0xFFFF, Opcode(what >> 16 & 0xFF), what >> 24, level & 0xFFFF, level >> 16)
        )
    return PassTrace(name, cycles, tuple(entries), tuple(runs), counters or {})
