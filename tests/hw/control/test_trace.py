"""Trace memory: entries against what was driven, the end of the room, and what a doorbell clears."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.config import BuildConfig
from hwgen.hw.control.trace import TraceMemory
from hwgen.operators import Unit
from hwgen.registers import TRACE_WORDS


@pytest.mark.parametrize(("entries", "ring_beats"), [(37, 512), (1, 512), (16, 1 << 18)])
def test_entries(entries: int, ring_beats: int) -> None:
    config = BuildConfig(trace_entries=entries, ring_beats=ring_beats)
    dut = TraceMemory(config)
    rng = random.Random(entries)
    rows = ring_beats // config.groups

    async def read(ctx: Any) -> list[list[int]]:
        words = []
        for index in range(TRACE_WORDS * min(entries, ctx.get(dut.count))):
            ctx.set(dut.index, index)
            await ctx.tick()
            words.append(ctx.get(dut.word))
        return [words[i : i + TRACE_WORDS] for i in range(0, len(words), TRACE_WORDS)]

    async def one_pass(ctx: Any, operators: int) -> list[list[int]]:
        """Cycle 0 is that of the doorbell."""
        started: dict[int, tuple[int, int]] = {}
        expected: list[list[int]] = []
        ctx.set(dut.clear, 1)
        cycle = 0
        while len(expected) < operators:
            level = rng.choice([0, 1, rows, rng.randrange(rows + 1)])
            beats = min(level * config.groups, 0xFFFF)
            ctx.set(dut.level, level)
            ctx.set(dut.starts, 0)
            ctx.set(dut.retire, 0)
            ctx.set(dut.retired.unit, 0)
            if cycle and started and rng.random() < 0.4:
                unit = rng.choice(list(started))
                begin, at_start = started.pop(unit)
                tag, opcode, count = rng.getrandbits(16), rng.randrange(11), rng.randint(1, config.chunk)
                ctx.set(dut.retire, 1)
                ctx.set(dut.retired.unit, 1 << unit)
                ctx.set(dut.retired.tag, tag)
                ctx.set(dut.retired.opcode, opcode)
                ctx.set(dut.retired.count, count)
                expected.append([begin, cycle, tag | opcode << 16 | count << 24, at_start | beats << 16])
            idle = [u for u in Unit if u not in started]
            if cycle and idle and rng.random() < 0.4:
                unit = rng.choice(idle)
                started[unit] = (cycle, beats)
                ctx.set(dut.starts, 1 << unit)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            cycle += 1
        ctx.set(dut.starts, 0)
        ctx.set(dut.retire, 0)
        await ctx.tick()
        return expected

    async def bench(ctx: Any) -> None:
        for operators in (0, 1, entries - 1, entries, entries + 5, 3):
            expected = await one_pass(ctx, operators)
            assert ctx.get(dut.count) == min(operators, entries)
            assert await read(ctx) == expected[:entries]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
