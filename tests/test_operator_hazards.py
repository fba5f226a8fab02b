"""What operators wait for, against what the operators read, write and occupy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

from hwgen.descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode
from hwgen.operators import OPERATORS, State, Unit, must_wait

#: Every way to use an operator that the table knows.
USES = [
    {"flags": flags, "format": format_, "fetch": fetch, "stride": 1, "vectors": 1, "heads": 1, "kv_heads": 1, "head_vectors": 1}
    for flags in (Flag.NONE, Flag.TO_QUERY, Flag.ADD | Flag.SHORTLIST | Flag.CANDIDATES, Flag.QUERIES | Flag.KEYS | Flag.VALUES)
    for format_ in (Format.NONE, Format.FP8)
    for fetch in (Fetch.STREAM, Fetch.SHORTLIST)
]
#: What has one user at a time, besides the ring. (Logits of DRAIN wait for the writer by themselves, and KV_WRITE for DRAIN.)
PORTS = {Opcode.ATTENTION: {"kv store port"}, Opcode.KV_WRITE: {"kv store port"}}
#: In one memory.
MEMORIES = {State.HEAD_INPUT: State.QUERIES, State.VALUES: State.KEYS}


def name(state: State, d: Descriptor) -> str:
    if state is State.ACTIVATIONS:
        return f"activations {int(d.buffers & Buffers.ACTIVATION)}"
    if state is State.ACCUMULATORS:
        return f"accumulators {int(d.buffers & Buffers.ACCUMULATOR)}"
    return str(MEMORIES.get(state, state))


@cache
def touches(d: Descriptor) -> tuple[set[str], set[str]]:
    """What an operator may read, and what it writes or needs for itself alone (ring, ports of shared memories)."""
    row = OPERATORS[d.opcode]
    reads, writes = set(), PORTS.get(d.opcode, set()) | ({"ring"} if row.fetches != (Fetch.NONE,) else set())
    for use in USES:
        of = replace(d, **use)  # type: ignore[arg-type]  # fields by name
        reads |= {name(state, d) for state in row.reads(of).each()}
        writes |= {name(state, d) for state in row.writes(of).each()}
        places = {f"parameters {place}" for place in (0, 4) if d.opcode is Opcode.ROTARY or place == d.buffers & Buffers.PARAMETER}
        reads |= ({"scratch"} if row.scratch_reads(of).count else set()) | (places if row.param_reads(of).count else set())
        writes |= ({"scratch"} if row.scratch_writes(of).count else set()) | (places if row.param_writes(of).count else set())
    return reads, writes


def pairs() -> list[tuple[Descriptor, Descriptor]]:
    every = [Descriptor(opcode=o, buffers=Buffers(b)) for o in OPERATORS for b in range(8)]
    return list(itertools.product(every, every))


def test_every_opcode_has_its_place() -> None:
    assert set(OPERATORS) == set(Opcode) - {Opcode.END}
    assert all(must_wait(Descriptor(), Descriptor(opcode=opcode)) for opcode in OPERATORS)
    assert all(row.unit in row.after for row in OPERATORS.values())


def test_conflicts_wait() -> None:
    for earlier, later in pairs():
        (read, written), (reads, writes) = touches(earlier), touches(later)
        conflict = written & (reads | writes) or writes & read or OPERATORS[earlier.opcode].unit is OPERATORS[later.opcode].unit
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
        behind_vector = d.opcode is Opcode.PARAM and OPERATORS[e.opcode].unit is Unit.VECTOR and (
            (e.buffers ^ d.buffers) & Buffers.PARAMETER
        )
        kv_write_behind_loader = d.opcode is Opcode.KV_WRITE and OPERATORS[e.opcode].unit is Unit.LOADER
        if behind_linear or before_linear or behind_kv_write or behind_vector or kv_write_behind_loader:
            expected.add((e.opcode, e.buffers, d.opcode, d.buffers))
    assert free == expected
