"""What must have ended before an operator may start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .descriptors import Buffers, Descriptor, Opcode
from .operators import OPERATORS, Unit, check_complete

__all__ = ["HAZARDS", "Hazard", "must_wait"]


@dataclass(frozen=True)
class Hazard:
    """An operator waits for ``units``, and for an operator of ``halves`` that uses the same half of that memory."""

    units: frozenset[Unit]
    halves: Mapping[Opcode, Buffers]


def _after(*units: Unit, halves: Mapping[Opcode, Buffers] | None = None) -> Hazard:
    return Hazard(frozenset(units), halves or {})


#: What an operator waits for. Every operator also waits for its own unit, and starts after all that precede it in the program.
#: So LOADER, LINEAR and ATTENTION, which read the ring, never run at the same time, nor do LOADER, VECTOR and ATTENTION, which
#: write the scratch; VECTOR runs beside LINEAR and KV_WRITER.
HAZARDS: dict[Opcode, Hazard] = {
    Opcode.EMBED: _after(Unit.LOADER, Unit.VECTOR, Unit.LINEAR, Unit.ATTENTION),
    Opcode.PARAM: _after(Unit.LOADER, Unit.VECTOR, Unit.LINEAR, Unit.ATTENTION),
    Opcode.ROTARY: _after(Unit.LOADER, Unit.VECTOR, Unit.LINEAR, Unit.ATTENTION),
    # Writes one half of the activations.
    Opcode.NORM: _after(Unit.VECTOR, Unit.LOADER, Unit.ATTENTION, halves={Opcode.LINEAR: Buffers.ACTIVATION}),
    # Reads one half of the accumulators.
    Opcode.DRAIN: _after(Unit.VECTOR, Unit.LOADER, Unit.ATTENTION, halves={Opcode.LINEAR: Buffers.ACCUMULATOR}),
    # Writes queries, and the KV store that KV_WRITE reads.
    Opcode.ROPE: _after(Unit.VECTOR, Unit.LOADER, Unit.ATTENTION, Unit.KV_WRITER),
    # Reads one half of the activations, writes one of the accumulators.
    Opcode.LINEAR: _after(
        Unit.LINEAR, Unit.LOADER, Unit.ATTENTION, halves={Opcode.NORM: Buffers.ACTIVATION, Opcode.DRAIN: Buffers.ACCUMULATOR}
    ),
    Opcode.ATTENTION: _after(Unit.ATTENTION, Unit.VECTOR, Unit.LINEAR, Unit.LOADER, Unit.KV_WRITER),
    Opcode.HEAD: _after(Unit.ATTENTION, Unit.VECTOR, Unit.LINEAR, Unit.LOADER, Unit.KV_WRITER),
    Opcode.KV_WRITE: _after(Unit.KV_WRITER, Unit.VECTOR, Unit.ATTENTION),
    Opcode.END: _after(*Unit),
}


def must_wait(later: Descriptor, earlier: Descriptor) -> bool:
    """Whether ``later`` may start only after ``earlier``, which precedes it in the program, has ended."""
    hazard, unit = HAZARDS[later.opcode], OPERATORS[earlier.opcode].unit
    if unit in hazard.units:
        return True
    half = hazard.halves.get(earlier.opcode, Buffers.NONE)
    return bool(half) and (later.buffers & half) == (earlier.buffers & half)


check_complete(HAZARDS, "hwgen/hazards.py, HAZARDS", list(Opcode))
