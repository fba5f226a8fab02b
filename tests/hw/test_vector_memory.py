"""The vector memory around the end of its block RAM, in Amaranth's own simulator."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.hw.accelerator import BLOCK_RAM_DEPTH, LUT_RAM_DEPTH, VectorMemory
from hwgen.hw.interfaces import SCRATCH_LATENCY


@pytest.mark.parametrize(
    ("depth", "ram_style"),
    [*((depth, "block") for depth in (24, BLOCK_RAM_DEPTH, BLOCK_RAM_DEPTH + 1, 2 * BLOCK_RAM_DEPTH + LUT_RAM_DEPTH, 600, 2048)),
     (BLOCK_RAM_DEPTH + 1, "ultra")],
)
def test_writes_are_read(depth: int, ram_style: str) -> None:
    dut = VectorMemory(depth, 16, ram_style)
    rng = random.Random(depth)
    contents = [rng.getrandbits(16) for _ in range(depth)]
    order = list(range(depth))
    rng.shuffle(order)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.write.valid, 1)
        for address in order:
            ctx.set(dut.write.addr, address)
            ctx.set(dut.write.data, contents[address])
            await ctx.tick()
        ctx.set(dut.write.valid, 0)
        ctx.set(dut.write.data, 0)
        for cycle in range(depth + SCRATCH_LATENCY):
            if cycle >= SCRATCH_LATENCY:
                assert ctx.get(dut.read.data) == contents[order[cycle - SCRATCH_LATENCY]]
            ctx.set(dut.read.en, cycle < depth)
            ctx.set(dut.read.addr, order[cycle] if cycle < depth else 0)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
