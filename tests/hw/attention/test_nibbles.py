"""Packed beats against the storage of 4-bit codes, in Amaranth's own simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hwgen.formats import to_four_bits
from hwgen.hw.attention.nibbles import expand_beat, push_beat

BYTES = 16


def test_pack_and_expand() -> None:
    beat, pushed, new, expanded = (Signal(8 * BYTES, name=n) for n in ("beat", "pushed", "new", "expanded"))
    packed, upper = Signal(), Signal()
    m = Module()
    m.d.comb += [expanded.eq(expand_beat(beat, packed, upper)), pushed.eq(push_beat(beat, new))]
    rng = np.random.default_rng(2)

    def number(values: np.ndarray) -> int:
        return int.from_bytes(values.astype(np.int8).tobytes(), "little")

    async def bench(ctx: Any) -> None:
        for _ in range(50):
            first, second = to_four_bits(rng.integers(-128, 128, (2, BYTES), dtype=np.int8))
            ctx.set(beat, int.from_bytes(rng.bytes(BYTES), "little"))
            for part in (first, second):
                ctx.set(new, number(part))
                ctx.set(beat, ctx.get(pushed))
            low, high = (level >> 4 & 8 | level & 7 for level in (first, second))
            packed_beat = low | high << 4
            assert ctx.get(beat) == number(packed_beat)
            for flags, wanted in (((1, 0), first), ((1, 1), second), ((0, 0), packed_beat)):
                ctx.set(packed, flags[0])
                ctx.set(upper, flags[1])
                assert ctx.get(expanded) == number(wanted), flags

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
