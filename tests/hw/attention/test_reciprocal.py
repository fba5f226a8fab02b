"""Reciprocal against the golden division, in Amaranth's own simulator."""

from __future__ import annotations

import random
from typing import Any

import torch
from amaranth.sim import Simulator

from hwgen.golden.float32 import fdiv
from hwgen.hw.attention.reciprocal import Reciprocal


def test_equals_division() -> None:
    rng = random.Random(3)
    bits = [0, 0x3F80_0000, 0x3F80_0001, 0x3FFF_FFFF, 0x7F7F_FFFF, 0x7E80_0000, 0x7E80_0001, 0x7E00_0000, 0x7E00_0001, 0x0100_0000]
    bits += [rng.randrange(2, 255) << 23 | rng.getrandbits(23) for _ in range(300)]
    bits += [(127 + rng.randrange(28)) << 23 | rng.choice([0, 1, (1 << 23) - 1, 1 << 22]) for _ in range(40)]
    expected = fdiv(torch.tensor(1.0), torch.tensor(bits, dtype=torch.int32).view(torch.float32)).view(torch.int32).tolist()
    dut = Reciprocal()
    found: list[int] = []

    async def feed(ctx: Any) -> None:
        for number in bits:
            if rng.random() < 0.2:
                await ctx.tick().repeat(rng.randrange(1, 30))
            ctx.set(dut.a.payload, number)
            ctx.set(dut.a.valid, 1)
            await ctx.tick().until(dut.a.ready)
            ctx.set(dut.a.valid, 0)

    async def take(ctx: Any) -> None:
        while len(found) < len(bits):
            ctx.set(dut.o.ready, int(rng.random() < 0.6))
            _, _, valid, ready, payload = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
            if valid and ready:
                found.append(payload)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(take)
    simulator.run()
    assert found == expected
