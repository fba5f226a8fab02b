"""The e4m3 decoder and the query memory's two formats, in Amaranth's own simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.golden.int4 import e4m3_values
from hwgen.hw.attention.query import QueryMemory
from hwgen.hw.float.e4m3 import e4m3_integer


def test_every_code() -> None:
    codes = [code for code in range(256) if code & 0x7F != 0x7F]
    wanted = e4m3_values(torch.tensor(codes)).tolist()
    code, integer = Signal(8), Signal(signed(19))
    m = Module()
    m.d.comb += integer.eq(e4m3_integer(code))

    async def bench(ctx: Any) -> None:
        for number, value in zip(codes, wanted, strict=True):
            ctx.set(code, number)
            assert ctx.get(integer) == value, number
        for number in (0x7F, 0xFF):  # no number, but within the bits of the products
            ctx.set(code, number)
            assert abs(ctx.get(integer)) < 1 << 18

    assert max(wanted) == 448 * 512 and wanted[codes.index(0x80)] == 0
    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()


def test_formats_of_a_memory() -> None:
    config = BuildConfig(
        beat_bytes=16, groups=1, builders=7, kv_block=8, chunk=4, max_heads=4, max_kv_heads=2, max_head_dim=16, max_query=32,
        fp8_query=True,
    )
    dut = QueryMemory(config)
    size, parts = config.key_bytes, config.width // config.key_bytes
    rng = np.random.default_rng(3)
    # Slots 0 and 1 of head 0 lie in the first words of the lanes.
    codes = rng.choice(np.delete(np.arange(256, dtype=np.uint8), (0x7F, 0xFF)), (2, 16))
    codes[0, :4] = (0x7E, 0xFE, 0x80, 0x81)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.write.kv_heads, 1)
        ctx.set(dut.write.head_vectors, 16 // config.width)
        for slot in range(2):
            for vector in range(16 // config.width):
                ctx.set(dut.write.valid, 1)
                ctx.set(dut.write.slot, slot)
                ctx.set(dut.write.vector, vector)
                part = codes[slot, vector * config.width : (vector + 1) * config.width]
                ctx.set(dut.write.data, int.from_bytes(part.tobytes(), "little"))
                await ctx.tick()
        ctx.set(dut.write.valid, 0)
        await ctx.tick().repeat(4)
        for e4m3 in (1, 0, 1):
            ctx.set(dut.e4m3, e4m3)
            values = e4m3_values(torch.from_numpy(codes)).numpy() if e4m3 else codes.view(np.int8)
            for cycle in range(16 // size + dut.sizes.query_latency):
                ctx.set(dut.addr, cycle // parts if cycle < 16 // size else 0)
                ctx.set(dut.part, cycle % parts)
                dim = cycle - dut.sizes.query_latency
                if dim >= 0:
                    for lane in range(2):
                        data = ctx.get(dut.data[lane])
                        found = [(data >> 19 * i & 0x7FFFF) - ((data >> 19 * i + 18 & 1) << 19) for i in range(size)]
                        assert found == values[lane, dim * size : (dim + 1) * size].tolist(), (e4m3, lane, dim)
                await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
