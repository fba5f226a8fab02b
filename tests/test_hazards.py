"""The hazard table against what the operators read, write and occupy."""

from __future__ import annotations

import itertools

from hwgen.descriptors import Buffers, Descriptor, Opcode
from hwgen.hazards import HAZARDS, UNIT_OF, Unit, must_wait


def touches(d: Descriptor) -> tuple[set[str], set[str]]:
    """What an operator reads, and what it writes or needs for itself alone (ring, ports of shared memories)."""
    activations = f"activations {int(d.buffers & Buffers.ACTIVATION)}"
    accumulators = f"accumulators {int(d.buffers & Buffers.ACCUMULATOR)}"
    return {
        Opcode.EMBED: (set(), {"ring", "scratch"}),
        Opcode.PARAM: (set(), {"ring", "parameters"}),
        Opcode.ROTARY: (set(), {"ring", "parameters"}),
        Opcode.NORM: ({"scratch", "parameters"}, {activations, "queries", "scales"}),
        Opcode.LINEAR: ({activations}, {"ring", accumulators}),
        Opcode.DRAIN: ({accumulators, "scales"}, {"scratch"}),
        Opcode.ROPE: ({"parameters"}, {"scratch", "queries", "kv store"}),
        Opcode.ATTENTION: ({"queries", "kv store"}, {"ring", "scratch", "kv store port"}),
        Opcode.HEAD: ({"queries"}, {"ring", "writer"}),
        Opcode.KV_WRITE: ({"kv store"}, {"kv store port", "writer"}),
    }[d.opcode]


def pairs() -> list[tuple[Descriptor, Descriptor]]:
    every = [Descriptor(opcode=o, buffers=Buffers(b)) for o in UNIT_OF for b in range(4)]
    return list(itertools.product(every, every))


def test_every_opcode_has_its_place() -> None:
    assert set(UNIT_OF) == set(Opcode) - {Opcode.END}
    assert set(HAZARDS) == set(Opcode)
    assert HAZARDS[Opcode.END].units == set(Unit)
    assert all(unit in HAZARDS[opcode].units for opcode, unit in UNIT_OF.items())


def test_conflicts_wait() -> None:
    for earlier, later in pairs():
        (read, written), (reads, writes) = touches(earlier), touches(later)
        conflict = written & (reads | writes) or writes & read or UNIT_OF[earlier.opcode] is UNIT_OF[later.opcode]
        assert not conflict or must_wait(later, earlier), (later.opcode, earlier.opcode, conflict)


def test_what_runs_side_by_side() -> None:
    """The overlaps that the machine is built for; nothing else may overtake."""
    free = {(e.opcode, e.buffers, d.opcode, d.buffers) for e, d in pairs() if not must_wait(d, e)}
    expected = set()
    for e, d in pairs():
        behind_linear = e.opcode is Opcode.LINEAR and (
            d.opcode in (Opcode.ROPE, Opcode.KV_WRITE)
            or (d.opcode is Opcode.NORM and (e.buffers ^ d.buffers) & Buffers.ACTIVATION)
            or (d.opcode is Opcode.DRAIN and (e.buffers ^ d.buffers) & Buffers.ACCUMULATOR)
        )
        before_linear = d.opcode is Opcode.LINEAR and (
            e.opcode is Opcode.ROPE
            or (e.opcode is Opcode.NORM and (e.buffers ^ d.buffers) & Buffers.ACTIVATION)
            or (e.opcode is Opcode.DRAIN and (e.buffers ^ d.buffers) & Buffers.ACCUMULATOR)
        )
        behind_kv_write = e.opcode is Opcode.KV_WRITE and d.opcode in (
            Opcode.NORM, Opcode.DRAIN, Opcode.LINEAR, Opcode.EMBED, Opcode.PARAM, Opcode.ROTARY,
        )
        kv_write_behind_loader = d.opcode is Opcode.KV_WRITE and UNIT_OF[e.opcode] is Unit.LOADER
        if behind_linear or before_linear or behind_kv_write or kv_write_behind_loader:
            expected.add((e.opcode, e.buffers, d.opcode, d.buffers))
    assert free == expected
